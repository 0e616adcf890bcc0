"""Other tools' JSON, and what a reader makes of each of its keys, as data: the readers check files by it, and
docs/foreign-files.md shows it.
"""

import json
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from edgewise._errors import InputError

_NAMED = 4
"""So many unknown keys are named in one warning."""
_MOST_PARTS = 10_000_000
"""How many parts a file's content may have, those that it repeats by reference counted each time."""
_DEEPEST = 200
"""How deep it may nest."""


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises `InputError` if it cannot be read or is none, or nests too deep for Python."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        check_nesting(found)
        return found
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); give an existing file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON ({' '.join(str(error).split())[:100]})") from error


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, of plain values alone. Raises `InputError` if it cannot be read or is none, nests too
    deep, or repeats itself without end.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        check_extent(found)
        return found
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); give an existing file") from error
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, LookupError, AttributeError) as error:
        raise InputError(f"{path}: no YAML ({' '.join(str(error).split())[:200]})") from error


def check_nesting(content: Any) -> None:
    """Refuse content of JSON that nests so deep that what walks it, to copy or to write it, would run out of calls.
    `check_extent` does it too, by a call for each value, and JSON repeats nothing by reference. Raises `ValueError`.
    """
    level = [content]
    for _ in range(_DEEPEST):
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list))]
        level = [each for values in inner for each in values]
        if not level:
            return
    raise ValueError(f"it nests deeper than {_DEEPEST}")


def check_extent(content: Any, inner: Callable[[Any], Any] = lambda _: None) -> None:
    """Refuse content that is small in a file and huge when it is walked, since parts of it refer to each other.

    Args:
        content: plain values and containers of them.
        inner: of anything else, the containers in it.

    Raises:
        ValueError: it has more than ten million parts, contains itself, or nests deeper than 200.
    """
    known: dict[int, int] = {}
    open_: set[int] = set()

    def extent(value: Any, depth: int) -> int:
        value = inner(value) or value
        if not isinstance(value, (Mapping, list, tuple, set)):
            return 1
        if id(value) in known:
            return known[id(value)]
        if id(value) in open_ or depth > _DEEPEST:
            raise ValueError("it contains itself" if id(value) in open_ else f"it nests deeper than {_DEEPEST}")
        open_.add(id(value))
        parts = [each for pair in value.items() for each in pair] if isinstance(value, Mapping) else value
        total = 1 + sum(extent(each, depth + 1) for each in parts)
        open_.discard(id(value))
        if total > _MOST_PARTS:
            raise ValueError(f"it repeats itself to more than {_MOST_PARTS:,} parts")
        known[id(value)] = total
        return total

    extent(content, 0)


class Only(NamedTuple):
    """The values with which a key is read; with any other the file is refused."""

    values: tuple[Any, ...]
    advice: str
    """Why, or what would be right."""


@dataclass(frozen=True)
class Keys:
    """The keys of one object of a file. One that is not here may change a number, so that it is warned of."""

    title: str
    honoured: Mapping[str, str] = field(default_factory=dict)
    """By key, what it decides."""
    refused: Mapping[str, Only] = field(default_factory=dict)
    irrelevant: Mapping[str, Collection[str]] = field(default_factory=dict)
    """By the reason, the keys."""

    def check(self, where: object, given: Mapping[str, Any]) -> None:
        """Refuse a value with which the file would mean something else, and warn of keys that nobody knows.

        Args:
            where: the file, for messages.
            given: the object.

        Raises:
            InputError: a key has a value that is not read.
        """
        for key, only in self.refused.items():
            if (value := given.get(key)) is not None and not any(_same(value, each) for each in only.values):
                raise InputError(f"{where}: {key} is {repr(value)[:60]}; {only.advice}")
        known = {*self.honoured, *self.refused, *(key for keys in self.irrelevant.values() for key in keys)}
        if unknown := [str(key) for key in given if key not in known]:
            named = ", ".join(f"{key[:40]!r}" for key in unknown[:_NAMED]) + (", …" if len(unknown) > _NAMED else "")
            warnings.warn(
                f"{where}: {named} {'are' if len(unknown) > 1 else 'is'} not known here and left out of account "
                "(docs/foreign-files.md has the keys that are)",
                stacklevel=3,
            )

    def table(self) -> str:
        """All of them as a table in Markdown."""
        rows = [(key, "honoured", what) for key, what in self.honoured.items()]
        for key, only in self.refused.items():
            values = " or ".join(f"`{value!r}`" for value in only.values)
            rows.append((key, "refused", f"unless {values}: {only.advice}" if values else only.advice))
        lines = ["| key | here | what |", "|---|---|---|"]
        lines += [f"| `{key}` | {here} | {what} |" for key, here, what in rows]
        lines += [
            f"| {', '.join(f'`{key}`' for key in keys)} | irrelevant | {why} |" for why, keys in self.irrelevant.items()
        ]
        return "\n".join(lines)


def whole_number(where: object, key: str, value: Any) -> int:
    """A count that a file says. Raises `InputError` for what is none, which `int` would cut short or guess."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not int:
        raise InputError(f"{where}: {key} is {repr(value)[:60]}; it must be a whole number")
    return value


def yes_or_no(where: object, key: str, value: Any) -> bool:
    """What a file says of one of two. Raises `InputError` for anything else: the text "false" would be a yes."""
    if type(value) is not bool:
        raise InputError(f"{where}: {key} is {repr(value)[:60]}; it must be true or false")
    return value


def _same(value: Any, other: Any) -> bool:
    """Equal, and of one type: 0 is not False."""
    return type(value) is type(other) and value == other
