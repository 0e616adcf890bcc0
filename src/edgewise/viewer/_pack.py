"""What a page carries: plain values as JSON, and arrays in one deflated block of bytes.

A page's script finds an array by its name in the JSON's `arrays`, which says its type, where it begins among the
inflated bytes, and how many numbers it has. Every array begins at a multiple of eight bytes, so that the script can
look at it where it lies.
"""

import base64
import json
import zlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from edgewise._errors import InputError

TYPES = ("u1", "u2", "u4", "i2", "i4", "f4", "f8")
"""The types of numbers that a page's script has arrays for, as numpy calls them."""
ALIGNED = 8
LEVEL = 9
"""Of deflation. A page is written once and sent about: 9 takes a second for a million edges and saves a few percent."""


class Packed(NamedTuple):
    """A page's contents as text."""

    header: str
    """JSON in which no `<` stands, so that nothing in it ends the script element that holds it."""
    data: str
    """The arrays, deflated, in base64."""


class Packer:
    """Collects arrays by name."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._length = 0
        self._entries: dict[str, dict[str, Any]] = {}

    def add(self, name: str, values: Shaped[np.ndarray, "..."], kind: str) -> None:
        """Add an array, flat.

        Args:
            name: what the script asks for.
            values: numbers that the type can hold.
            kind: one of `TYPES`.

        Raises:
            InputError: the type is of whole numbers, and a value is beyond them: it would be shown as another.
        """
        assert kind in TYPES and name not in self._entries
        flat = np.ascontiguousarray(values).ravel()
        if len(flat) and np.issubdtype(kind, np.integer):
            held = np.iinfo(kind)
            if not (held.min <= flat.min() and flat.max() <= held.max):
                raise InputError(
                    f"page: its {name} goes from {flat.min():g} to {flat.max():g}, and a page holds {held.min} to "
                    f"{held.max} there; show less on one page"
                )
        self._append(name, flat.astype(f"<{kind}").tobytes(), kind, len(flat))

    def add_bytes(self, name: str, content: bytes) -> None:
        """Add bytes as they are."""
        self._append(name, content, "u1", len(content))

    def add_json(self, name: str, content: Any) -> None:
        """Add plain values. Raises `InputError` for a number that JSON has not, at which the script would stop."""
        self.add_bytes(name, _json(name, content).encode())

    def _append(self, name: str, content: bytes, kind: str, length: int) -> None:
        self._entries[name] = {"type": kind, "start": self._length, "length": length}
        filled = content + bytes(-len(content) % ALIGNED)
        self._blocks.append(filled)
        self._length += len(filled)

    def packed(self, header: dict[str, Any]) -> Packed:
        """The text of a page with this header and the arrays that were added."""
        text = _json("header", header | {"arrays": self._entries})
        deflated = zlib.compress(b"".join(self._blocks), LEVEL)
        return Packed(text.replace("<", "\\u003c"), base64.b64encode(deflated).decode("ascii"))


def _json(name: str, content: Any) -> str:
    try:
        return json.dumps(content, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise InputError(f"page: its {name} has a number that is infinite or none, which no page can hold") from error
