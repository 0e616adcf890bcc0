"""Records that were written as JSON, read back: values that are not what their class says are refused."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from edgewise._errors import InputError
from edgewise.runs._foreign import check_nesting


def read_record(path: str | Path) -> dict[str, Any]:
    """An object of JSON without NaN and infinity. Raises `OSError`, `ValueError` or `RecursionError` if it is none."""
    found = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse)
    check_nesting(found)
    if not isinstance(found, dict):
        raise ValueError(f"a {type(found).__name__}, not an object with names")
    return found


@contextmanager
def reading_record(path: str | Path, what: str, instead: str) -> Iterator[dict[str, Any]]:
    """Yield what `read_record` reads; what does not fit the code within is the file's fault, and said in one line.

        with reading_record(path, "what `edgewise find` wrote", "move it away") as row:
            size = row["size"]  # a KeyError is "PATH: not what `edgewise find` wrote ('size'); move it away"

    Args:
        path: the file.
        what: what it should be, for the refusal.
        instead: what would be right, likewise.

    Raises:
        InputError: it is missing, or something else.
    """
    try:
        yield read_record(path)
    except (OSError, ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not {what} ({reason}); {instead}") from error


def check_record(record: Any) -> None:
    """Check a dataclass or a named tuple by its annotations, and what it holds likewise.

    Raises:
        InputError: a value is not what its annotation says; of one that is `Any`, it is no JSON.
    """
    for name, kind in _kinds(type(record)).items():
        if not _fits(getattr(record, name), kind):
            raise InputError(f"its {name} is {repr(getattr(record, name))[:60]}, which no {type(record).__name__} has")


def record_of(provenance: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One record of a provenance, such as its `method`; empty where it has none, or a text of somebody's own."""
    found = provenance.get(name)
    return found if isinstance(found, dict) else {}


def of_other_weights(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records of models (`Model.identity`) are of other weights; False where they do not tell. Of one model
    in two types of numbers the hashes differ too: there the models' names decide.
    """
    hashes = [each.get("weights_hash") for each in (one, other)]
    if None in hashes or hashes[0] == hashes[1]:
        return False
    return one.get("dtype") == other.get("dtype") or one.get("id") != other.get("id")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


@lru_cache
def _kinds(record: type) -> dict[str, Any]:
    return get_type_hints(record)


def _fits(value: Any, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return _is_plain(value)
    if kind is NoneType:
        return value is None
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if kind in (bool, str):
        return type(value) is kind
    if kind in (int, float):
        return type(value) in ((int,) if kind is int else (int, float)) and is_finite(value)
    if origin is tuple:
        kinds = inner[:1] * len(value) if inner[1:] == (...,) and isinstance(value, tuple) else inner
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if isinstance(kind, type) and (is_dataclass(kind) or hasattr(kind, "_fields")):
        return isinstance(value, kind) and all(_fits(getattr(value, name), k) for name, k in _kinds(kind).items())
    return True  # a tensor, whose reader checks it


def is_finite(number: float) -> bool:
    """Whether a number is one, and fits a float."""
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _is_plain(value: Any) -> bool:
    """Whether it can be written as JSON."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, str)) or (isinstance(value, (int, float)) and is_finite(value))
