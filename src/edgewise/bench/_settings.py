"""One line of a bench's tables: a method of the catalogue with its settings, checked before anything is loaded."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgewise._errors import InputError
from edgewise.discovery import Method, MethodConfig, members, method, methods
from edgewise.engine import MATMULS, Matmul
from edgewise.runs import settings_of

EMPTY = "empty"
"""The circuit without edges, which every bench judges beside the others."""


@dataclass(frozen=True)
class MethodSpec:
    """One line of the tables."""

    name: str
    method: str
    """A name in the catalogue, or `empty`."""
    settings: dict[str, Any]
    """As the file has them; see `config_of`."""
    sparsities: tuple[float, ...]
    """Sizes, as actual sparsities; for Edge Pruning with a threshold, its targets."""
    seeds: tuple[int, ...]
    matmul: Matmul = "highest"
    """Of the engine that it finds circuits with (see `Engine`); all are judged with `highest`."""
    values: tuple[float, ...] = ()
    """Of the setting that decides the size, where the method has one: a circuit for each, in one run."""
    start: "MethodSpec | None" = None
    """The method whose scores it starts from, found first."""


def method_spec(entry: Any, sparsities: tuple[float, ...], seeds: tuple[int, ...]) -> MethodSpec:
    """A line of the tables from its entry in the file. Raises `InputError`."""
    row = {"method": entry} if isinstance(entry, str) else dict(mapping("methods", entry))
    known = str(row.pop("method", ""))
    name = str(row.pop("name", known))
    if known == EMPTY:
        if row:
            raise InputError(f"{name}: the empty circuit has no setting {next(iter(row))!r}; leave it out")
        return MethodSpec(name, EMPTY, {}, (1.0,), seeds[:1])
    if known not in methods():
        raise InputError(f"methods: {known!r} is unknown; choose {', '.join(sorted(methods()))}")
    record = method(known)
    own = numbers(f"{name}: sparsities", row.pop("sparsities", sparsities), target=record.sized)
    given = whole_numbers(f"{name}: seeds", row.pop("seeds", seeds))
    matmul = row.pop("matmul", "highest")
    if matmul not in MATMULS:
        raise InputError(f"{name}: matmul {matmul!r}; choose {', '.join(MATMULS)}")
    start = _start(record, row, own, given)
    values: tuple[float, ...] = ()
    if record.ladder is not None:
        several = f"{record.ladder.setting}s"
        given_values = row.get(several, record.ladder.values)
        if not isinstance(given_values, (list, tuple)) or not _are_numbers(given_values):
            raise InputError(f"{name}: {several} {given_values!r}; give a list of different numbers")
        values = tuple(float(value) for value in given_values)
    spec = MethodSpec(name, known, row, own, given, matmul, values, start)
    for sparsity in own if record.sized else ():
        config_of(spec, sparsity=sparsity)
    members(config_of(spec))
    return spec if _drawn(spec) else replace(spec, seeds=given[:1])


def config_of(spec: MethodSpec, **changes: Any) -> MethodConfig:
    """The settings of a line: those of its preset, changed as the file says. Raises `InputError`."""
    record, row = method(spec.method), dict(spec.settings)
    if record.ladder is not None:
        row.pop(f"{record.ladder.setting}s", None)
    preset = str(row.pop("preset", "default"))
    several = {} if record.ladder is None else {record.ladder.setting: f"{record.ladder.setting}s"}
    for own, plural in (_PLURAL | several).items():
        if own in row:
            raise InputError(f"{spec.name}: there is no setting {own!r}; give a bench's own {plural}")
    kinds = settings_of(record.config)
    lists = {name: tuple(value) for name, value in row.items() if isinstance(value, list) and name in kinds}
    return record.configure({**row, **lists, **changes}, preset=preset)


_PLURAL = {"seed": "seeds", "sparsity": "sparsities"}


def size_name(size: float) -> str:
    """What a size, or the value that decides it, is called in files: as short as it can be, and no other's name."""
    return repr(float(size)).removesuffix(".0")


def _start(record: Method, row: dict[str, Any], sparsities: tuple[float, ...], seeds: tuple[int, ...]) -> Any:
    """The line of the method that this one starts from: the one that is named, or a ranking if it must have one."""
    entry = row.pop("start", "ranking" if record.start == "must" else None)
    if entry is None:
        return None
    if record.start == "no":
        raise InputError(f"{record.name}: it takes no scores to start from; leave start out")
    for own in ("seeds", "sparsities", "matmul"):
        if isinstance(entry, Mapping) and own in entry:
            raise InputError(f"{record.name}: a start has no {own} but those of its line; give them there")
    start = method_spec(entry, sparsities, seeds)
    if start.method == EMPTY or method(start.method).gives != "scores":
        raise InputError(f"{record.name}: start {start.method!r} gives no scores; name a method that does")
    if start.start is not None:
        raise InputError(f"{record.name}: start {start.method!r} has a start of its own; leave that out")
    return start


def _drawn(spec: MethodSpec) -> bool:
    """Whether another seed gives another result."""
    return config_of(spec).seeded or (spec.start is not None and _drawn(spec.start))


def mapping(what: str, value: Any) -> Mapping[str, Any]:
    """A mapping. Raises `InputError`."""
    if not isinstance(value, Mapping):
        raise InputError(f"{what}: {str(value)[:60]!r}; give a name, or a mapping of settings")
    return value


def listed(value: Any) -> list[Any]:
    """A list of what may be one thing or several."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def numbers(what: str, value: Any, *, target: bool = False) -> tuple[float, ...]:
    """Shares between 0 and 1, or a target that may be larger. Raises `InputError`."""
    found = listed(value)
    if not _are_numbers(found) or not all(x > 0 and (target or x < 1) for x in found):
        raise InputError(f"{what}: {value!r}; give different numbers between 0 and 1, such as [0.9, 0.98]")
    return tuple(float(x) for x in found)


def whole_numbers(what: str, value: Any) -> tuple[int, ...]:
    """Different whole numbers. Raises `InputError`."""
    found = listed(value)
    if not _are_numbers(found) or not all(isinstance(x, int) for x in found):
        raise InputError(f"{what}: {value!r}; give different whole numbers, such as [0, 1, 2]")
    return tuple(found)


def _are_numbers(values: Sequence[Any]) -> bool:
    """Whether there are some, all finite numbers (truth values are none), and none of them twice."""
    numbers = [x for x in values if isinstance(x, (int, float)) and not isinstance(x, bool)]
    finite = {x for x in numbers if abs(x) <= sys.float_info.max}
    return bool(values) and len(finite) == len(values)
