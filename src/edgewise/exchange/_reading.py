"""Reading files of others: what is wrong with one is a single line."""

import pickle
from pathlib import Path
from typing import Any

import torch

from edgewise._errors import InputError


def truth(value: Any) -> bool:
    """True or False, or 1 or 0, also of numpy. Raises `ValueError` for anything else: "false" would count as true."""
    if value not in (True, False):
        raise ValueError(f"{str(value)[:40]!r}; give True or False")
    return bool(value)


def read_pickle(path: Path) -> Any:
    """The content of a `.pt` file of tensors, plain values and containers of them; nothing else is unpickled. Raises
    `InputError`.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); give an existing file") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is no .pt file of tensors and plain values alone; nothing else is read") from error
