"""Files of tensors that say what they are: `.safetensors` whose metadata has one entry of JSON, the header."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgewise._errors import InputError
from edgewise.runs._files import atomic_path
from edgewise.runs._foreign import check_nesting


@contextmanager
def reading_tensors(
    path: str | Path, what: str, instead: str, *, entry: str = "edgewise", schema: int | None = None
) -> Iterator[tuple[dict[str, Any], dict[str, Tensor]]]:
    """Yield a file's header and tensors; what does not fit the code within is the file's fault, and said in one line.

        with reading_tensors(path, "a circuit file of edgewise", "give what `find` wrote") as (header, tensors):
            kept = tensors["kept"]  # a KeyError is "PATH: not a circuit file of edgewise (KeyError: 'kept'); give …"

    Args:
        path: the file.
        what: what it should be, for the refusal.
        instead: what would be right, likewise.
        entry: the header's name among the metadata.
        schema: the newest version of the format that is read here, where the header has a `schema`.

    Raises:
        InputError: it is missing, cut short, something else, or written by a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; {instead}")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[entry])
            check_nesting(header)
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        if schema is not None and header["schema"] > schema:
            found = header["schema"]
            raise InputError(f"written by a newer edgewise (schema {found}; this one reads {schema}); upgrade")
        yield header, tensors
    except InputError as error:
        if str(error).startswith(str(path)):
            raise
        raise InputError(f"{path}: {error}") from error
    except (
        SafetensorError,
        OSError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        OverflowError,
    ) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not {what} ({type(error).__name__}: {reason[:120]}); {instead}") from error


def check_suffix(path: str | Path, what: str) -> None:
    """Refuse to save `what` (with its verb: "a circuit is") under a name of another kind. Raises `InputError`."""
    if Path(path).suffix != ".safetensors":
        raise InputError(f"{path}: {what} saved as .safetensors")


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], *, entry: str = "edgewise"
) -> None:
    """Write tensors and a header of plain values, whole or not at all.

    Raises:
        InputError: the file cannot be written.
        TypeError: the header holds something that JSON does not.
        ValueError: the header nests deeper than is read.
    """
    check_nesting(header)
    metadata = {entry: json.dumps(header)}
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(stored, temporary, metadata=metadata)


def names_in(path: str | Path) -> set[str]:
    """The names of a `.safetensors` file's tensors and of its metadata's entries; none if it is no such file."""
    try:
        with safe_open(path, framework="pt") as file:
            return {*file.keys(), *(file.metadata() or {})}
    except (OSError, SafetensorError):
        return set()


def tensor_hash(*tensors: Tensor) -> str:
    """SHA-256 of tensors as they lie in memory, of any type (NumPy has no bfloat16), one after the other."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
