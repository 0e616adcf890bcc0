"""Files that `torch.save` wrote, of others: nothing in them is run, and no tensor is larger than what they hold."""

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgewise._errors import InputError
from edgewise.runs._foreign import check_extent


def read_pickle(path: Path, allowed: Sequence[tuple[type, str]] = ()) -> Any:
    """What `torch.save` wrote: tensors and plain containers, and objects of the allowed classes.

    Args:
        path: the file.
        allowed: classes that stand for pickled ones, each with the name under which it was pickled.

    Raises:
        InputError: it is missing, cut short, or holds anything else, which is not run; or it is packed or made so that
            it would take far more memory than its own size.
    """
    try:
        _check_archive(path)
        known = {kind for kind, _ in allowed}
        with torch.serialization.safe_globals(list(allowed)):
            found = torch.load(path, map_location="cpu", weights_only=True)
        check_extent(found, inner=lambda each: getattr(each, "__dict__", None) if type(each) in known else None)
        _check_tensors(found, set())
        return found
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: cannot be read as a .pt of tensors and plain values alone; nothing else is read"
        ) from error
    except Exception as error:  # a damaged file leads PyTorch's reader to any kind
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(
            f"{path}: cannot be read ({reason}); give a .pt of tensors and plain values, as torch.save writes it"
        ) from error


def _check_archive(path: Path) -> None:
    """Refuse what `torch.save` does not write: another file, packed entries, more content than the file has bytes."""
    if not path.is_file():
        raise ValueError("no such file")
    if not zipfile.is_zipfile(path):
        raise ValueError("cut short, or not what torch.save writes")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("its entries are packed, as torch.save never does")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("its entries claim more bytes than it has")


def _check_tensors(value: Any, seen: set[int]) -> None:
    """Refuse a tensor of more numbers than are stored for it: a copy of it would take any amount of memory. None is one
    that gradients are wanted of, as parameters are saved.
    """
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise ValueError("a tensor of it is sparse, quantised or without numbers")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"a tensor of shape {list(value.shape)[:8]} has more numbers than are stored for it")
        value.requires_grad_(False)
        return
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple, set)) else ()
    for each in inner:
        _check_tensors(each, seen)
