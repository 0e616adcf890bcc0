"""A bench's table: one row per circuit, split and metric, in a Parquet file that any tool reads."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from edgewise._errors import InputError
from edgewise.bench._cell import FOUND, SETTINGS, Cell
from edgewise.bench._config import REMOVED, BenchConfig
from edgewise.bench._settings import EMPTY
from edgewise.discovery import methods
from edgewise.runs import atomic_path, bootstrap, software
from edgewise.tasks import metric_function

COLUMNS = {
    "model": "string",
    "task": "string",
    "method": "string",
    "algorithm": "string",
    "seed": "int64",
    "split": "string",
    "size": "double",
    "selection": "string",
    "edges": "int64",
    "actual_edges": "int64",
    "total_edges": "int64",
    "metric": "string",
    "lower_is_better": "bool",
    "distance": "bool",
    "value": "double",
    "low": "double",
    "high": "double",
    "full": "double",
    "n": "int64",
    "values": "list",
    "examples": "double",
    "forwards": "double",
    "backwards": "double",
    "seconds": "double",
    "ablation": "string",
    "settings": "string",
}
"""`size` is the sparsity asked for; `value`, `low` and `high` the mean over the examples and its 95 % bootstrap
interval, of a metric whose name begins with `removed` those of the model without the circuit; `values` the examples'
own; `full` the full model's mean; `distance` marks the metric that says how far the
circuit is from the model; `examples`, `forwards` and `backwards` (passes of one example) and `seconds` are the cost of
finding all of a cell's circuits."""


def write_table(all_cells: list[Cell], config: BenchConfig, path: Path) -> None:
    """Write what is done so far, whole or not at all. Raises `InputError`."""
    pyarrow, parquet = require_pyarrow()
    rows = [row for cell in all_cells for row in _rows(cell, config)]
    kinds = {name: pyarrow.list_(pyarrow.float64()) if kind == "list" else kind for name, kind in COLUMNS.items()}
    schema = pyarrow.schema(list(kinds.items()))
    about = {
        "software": software(),
        "cells": {"asked": len(all_cells), "done": sum(cell.done(config) for cell in all_cells)},
        "note": config.note,
        "matmul": {method.name: method.matmul for method in config.methods},
        "pairs": {cell.task.name: pairs for cell in all_cells if (pairs := _pairs(cell))},
        "judging": _judging(all_cells),
    }
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    table = pyarrow.table(columns, schema=schema.with_metadata({"edgewise": json.dumps(about)}))
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary)


def _judging(cells: list[Cell]) -> float | None:
    """Seconds of judging, validation included; None where a version that did not time it judged some of it."""
    judged = [row for cell in cells for split in ("validation", "train", "test") if (row := cell.read(f"{split}.json"))]
    return sum(row["seconds"] for row in judged) if all("seconds" in row for row in judged) else None


def _pairs(cell: Cell) -> dict[str, int]:
    """How many pairs each split of a cell's task has, once something is found."""
    found = cell.read(FOUND)
    task = found.get("task", {})  # of earlier versions, which say what was asked for
    sizes = found.get("pairs", task.get("sizes", task.get("arguments", {})))
    return {split: sizes[split] for split in ("train", "validation", "test") if split in sizes}


def _rows(cell: Cell, config: BenchConfig) -> Iterator[dict[str, Any]]:
    found, settings = cell.read(FOUND), cell.read(SETTINGS)
    start, own = settings.get("start") or (None, {})
    given = settings.get("settings", {}) | ({"start": {"method": start, **own}} if start else {})
    for split in ("validation", "train", "test") if found else ():
        content = cell.read(f"{split}.json")
        for judged in content.get("circuits", {}).values():
            if judged["size"] not in cell.sizes():  # asked for earlier
                continue
            for metric, values in judged["values"].items():
                name = metric.removeprefix(REMOVED)
                if name not in (*config.metrics, content["distance"]) or (metric != name and not config.necessity):
                    continue  # asked for earlier
                value, low, high = bootstrap(np.array(values))
                yield {
                    "model": cell.model,
                    "task": cell.task.name,
                    "method": cell.method.name,
                    "algorithm": cell.method.method,
                    "seed": cell.seed,
                    "split": split,
                    "size": float(judged["size"]),
                    "selection": judged["selection"],
                    "edges": judged["edges"],
                    "actual_edges": judged["actual"],
                    "total_edges": found["edges"],
                    "metric": metric,
                    "lower_is_better": metric_function(name).lower_is_better == (metric == name),
                    "distance": metric == content["distance"],
                    "value": value,
                    "low": low,
                    "high": high,
                    "full": content["full"][name],
                    "n": len(values),
                    "values": values,
                    **found["cost"],
                    "ablation": settings["conventions"][0],
                    "settings": json.dumps(given),
                }


@dataclass(frozen=True, eq=False)
class BenchPoint:
    """One method at one size on the test split, all seeds together."""

    model: str
    task: str
    method: str
    algorithm: str
    size: float
    """The sparsity that was asked for."""
    selection: str
    """How edges were chosen by score, in the first seed."""
    actual: tuple[int, ...]
    """Edges that can carry signal, seed by seed."""
    total: int
    metric: str
    values: Float[np.ndarray, "seeds n"]
    """The distance to the model, seed by seed and example by example."""
    cost: dict[str, tuple[float, ...]]
    """What finding all of a cell's circuits took, seed by seed."""
    settings: dict[str, Any]
    """Of the method, as the bench's file gives them, and under `start` the method that it started from."""

    @property
    def edges(self) -> float:
        """Mean actual edges."""
        return float(np.mean(self.actual))

    @property
    def by_example(self) -> Float[np.ndarray, " n"]:
        """The mean over the seeds."""
        return self.values.mean(0)


@dataclass(frozen=True, eq=False)
class BenchTable:
    """A table that was read."""

    rows: list[dict[str, Any]]
    about: dict[str, Any]
    """Software, how many cells were asked for and done, the file's note, each method's products and each task's pairs.
    """

    @staticmethod
    def load(path: str | Path) -> "BenchTable":
        """Read a table of `edgewise bench`.

        Raises:
            InputError: there is none, it is another file, or pyarrow is not installed.
        """
        pyarrow, parquet = require_pyarrow()
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no such file; give the bench.parquet that `edgewise bench` wrote")
        try:
            table = parquet.read_table(path)
            about = json.loads((table.schema.metadata or {})[b"edgewise"])
            rows = table.select(list(COLUMNS)).to_pylist()
            if not isinstance(about, dict):
                raise ValueError(f"its settings are a {type(about).__name__}, not an object with names")
        except (pyarrow.ArrowException, OSError, KeyError, ValueError) as error:
            raise InputError(
                f"{path}: not a table of `edgewise bench` ({' '.join(str(error).split())[:100]})"
            ) from error
        return BenchTable(rows, about)

    def panels(self) -> list[tuple[str, str]]:
        """Models and tasks, in the bench's order."""
        return list(dict.fromkeys((row["model"], row["task"]) for row in self.rows))

    def points(self, model: str, task: str, metric: str | None = None) -> list[BenchPoint]:
        """What was measured on the test split of one model and task: the distance to the model, or another metric."""
        groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
        for row in self.rows:
            wanted = row["distance"] if metric is None else row["metric"] == metric
            if wanted and row["split"] == "test" and (row["model"], row["task"]) == (model, task):
                groups.setdefault((row["method"], row["size"]), []).append(row)
        return [_point(rows) for rows in groups.values()]

    def best_attribution(self, model: str, task: str) -> list[BenchPoint]:
        """At each size the attribution method that is nearest to the model on validation, as a method of its own."""
        means: dict[tuple[str, float], list[float]] = {}
        for row in self.rows:
            here = (row["model"], row["task"]) == (model, task) and row["split"] != "test" and row["distance"]
            if here and is_attribution(row["algorithm"]):
                means.setdefault((row["method"], row["size"]), []).append(row["value"])
        points = {(point.method, point.size): point for point in self.points(model, task)}
        best: dict[float, tuple[float, BenchPoint]] = {}
        for key, values in means.items():
            if key in points and (key[1] not in best or min(values) < best[key[1]][0]):
                best[key[1]] = (min(values), points[key])
        return [point for _, (_, point) in sorted(best.items())]


RENAMED = {"exact": "exact-patching", "flow": "information-flow"}
"""What methods are called in tables of version 0.1."""


def is_attribution(algorithm: str) -> bool:
    """Whether a method gives scores without learning, by sign or size."""
    name = RENAMED.get(algorithm, algorithm)
    return name in methods() and methods()[name].attributes


def is_empty(algorithm: str) -> bool:
    """Whether it is the circuit without edges."""
    return algorithm == EMPTY


def _point(rows: list[dict[str, Any]]) -> BenchPoint:
    first = rows[0]
    shared = ("model", "task", "method", "algorithm", "size", "selection", "metric")
    return BenchPoint(
        **{name: first[name] for name in shared},
        actual=tuple(row["actual_edges"] for row in rows),
        total=first["total_edges"],
        values=np.array([row["values"] for row in rows]),
        cost={name: tuple(row[name] for row in rows) for name in ("examples", "forwards", "backwards", "seconds")},
        settings=json.loads(first["settings"]),
    )


def require_pyarrow() -> tuple[Any, Any]:
    """PyArrow and its Parquet; before what could not be written at its end, too. Raises `InputError`."""
    try:
        import pyarrow  # pyright: ignore[reportMissingImports] (optional)
        from pyarrow import parquet  # pyright: ignore[reportMissingImports] (optional)
    except ImportError as error:
        raise InputError("a bench's table needs pyarrow, which is not installed: pip install edgewise[data]") from error
    return pyarrow, parquet
