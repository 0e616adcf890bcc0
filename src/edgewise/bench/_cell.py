"""One cell of a bench: one model, task, method and seed. What is done is in files, each written whole or not at all."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise._errors import InputError
from edgewise.bench._config import REMOVED, BenchConfig, TaskSpec, folder_name
from edgewise.bench._methods import Job, candidates, cost, find_parts
from edgewise.bench._settings import EMPTY, MethodSpec, size_name
from edgewise.circuit import Circuit
from edgewise.engine import Engine
from edgewise.evaluation import judge
from edgewise.runs import read_record, write_atomically
from edgewise.tasks import SPLITS, Task, pairs_hash

BATCH = 32
"""How many pairs are judged at a time; it decides no number but for the last bits."""
SETTINGS, FOUND, FAILED = "settings.json", "found.json", "failed.json"
_FILE = "task file"
"""The setting that earlier versions did not write down."""


@dataclass(frozen=True)
class Cell:
    """Where a cell's files are, and which it must have.

    `settings.json` is there before anything else is, and says what all of it was found with; `found.json` says at what
    cost; `validation.json` and `test.json` hold every judged circuit's metrics, example by example; `chosen
    SPARSITY.safetensors` are the circuits that were chosen.
    """

    root: Path
    model: str
    task: TaskSpec
    method: MethodSpec
    seed: int

    @property
    def folder(self) -> Path:
        """Of all its files."""
        parts = (self.model, self.task.name, self.method.name, f"seed {self.seed}")
        return self.root.joinpath(*map(folder_name, parts))

    @property
    def name(self) -> str:
        """In messages."""
        return f"{self.model} · {self.task.name} · {self.method.name} · seed {self.seed}"

    @property
    def lock(self) -> Path:
        """Held by the process that works on it."""
        return self.folder / "lock"

    def sizes(self) -> list[str]:
        """The names of its sizes."""
        return [size_name(sparsity) for sparsity in self.method.sparsities]

    def done(self, config: BenchConfig) -> bool:
        """Whether everything that the bench asks for is found and judged."""
        test = self.read("test.json")
        metrics = set(config.metrics) - set(test.get("forbidden", []))
        if config.necessity and self.method.method != EMPTY:
            metrics |= {REMOVED + metric for metric in metrics}
        whole = {row["size"] for row in test.get("circuits", {}).values() if metrics <= row["values"].keys()}
        return set(self.sizes()) <= whole

    def read(self, name: str) -> dict[str, Any]:
        """One of its files; nothing if there is none. Raises `InputError` if it cannot be read."""
        path = self.folder / name
        try:
            return read_record(path) if path.is_file() else {}
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: cannot be read ({error}); remove it to have it made again") from error

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """One of its files."""
        write_atomically(self.folder / name, json.dumps(content, allow_nan=False) + "\n")

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuse what is there if it was found with other settings than these. Raises `InputError`."""
        recorded, wanted = self.read(SETTINGS), json.loads(json.dumps(settings))
        compared = [key for key in wanted if recorded and (key != _FILE or key in recorded)]
        if different := sorted(key for key in compared if recorded.get(key) != wanted[key]):
            raise InputError(
                f"{self.folder}: found with other settings ({', '.join(different)}); choose another --out, give the "
                "method or the task another `name`, or remove that folder"
            )


def cells(config: BenchConfig, root: Path) -> list[Cell]:
    """All of a bench, in its order."""
    return [
        Cell(root, model, task, method, seed)
        for model in config.models
        for task in config.tasks
        for method in config.methods
        for seed in method.seeds
    ]


def file_settings(cell: Cell, config: BenchConfig) -> dict[str, Any]:
    """What decides a cell's numbers, as far as the bench's file says it; sizes and metrics may be added later."""
    start, file = cell.method.start, cell.task.sha256
    return {
        "method": cell.method.method,
        "settings": cell.method.settings,
        "start": None if start is None else [start.method, start.settings],
        "matmul": cell.method.matmul,
        "seed": cell.seed,
        "task": [cell.task.task, cell.task.options],
        "conventions": [config.ablation, config.embeddings, config.kv],
        **({} if file is None else {_FILE: file}),
    }


def cell_settings(cell: Cell, config: BenchConfig, engine: Engine, task: Task) -> dict[str, Any]:
    """All that decides a cell's numbers."""
    return file_settings(cell, config) | {
        "model": engine.model.identity,
        "graph": engine.graph.spec.to_dict(),
        "pairs": pairs_hash(task.train, task.validation, task.test),
    }


def complete(cell: Cell, config: BenchConfig, engine: Engine, task: Task, checkpoint_seconds: float = 30.0) -> None:
    """Find and judge what is missing of a cell.

    Of several ways to choose edges by score the one nearest to the model on validation is taken, size by size; the
    test split is only judged. Raises `InputError`.
    """
    settings = cell_settings(cell, config, engine, task)
    cell.check(settings)
    cell.write(SETTINGS, settings)
    method = cell.method
    finder = engine
    if method.matmul != engine.execution.matmul:
        engine.prepare(())  # the memory is for one of them at a time
        execution = replace(engine.execution, matmul=method.matmul)
        finder = Engine(engine.model, engine.graph, engine.ablation, constants=engine.constants, execution=execution)
    parts = find_parts(Job(finder, task, cell.seed, method, cell.folder, checkpoint_seconds))
    if finder is not engine:
        finder.prepare(())  # what it kept of the pairs is not judged with
    row = {"task": {"name": task.name} | dict(task.provenance), "cost": cost(parts)}
    pairs = {split: len(task.split(split)) for split in SPLITS}
    cell.write(FOUND, row | {"edges": engine.graph.n_edges, "pairs": pairs})
    found: dict[str, dict[str, Circuit]] = {}
    for sparsity, size in zip(method.sparsities, cell.sizes(), strict=True):
        found[size] = candidates(method, parts, sparsity)
    metrics = tuple(filter(task.allows, config.metrics))
    metrics = tuple(dict.fromkeys((task.distance, *metrics)))
    chosen = {size: next(iter(each)) for size, each in found.items()}
    if any(len(each) > 1 for each in found.values()):
        chosen = _choose(cell, found, engine, task, metrics)
    best = {size: {chosen[size]: each[chosen[size]]} for size, each in found.items()}
    for size, each in best.items():
        next(iter(each.values())).save(cell.folder / f"chosen {size}.safetensors")
    _judge(cell, "test", best, engine, task, metrics, config.metrics)
    if config.necessity and method.method != EMPTY:
        _judge_removed(cell, best, engine, task, metrics)


def _choose(
    cell: Cell, found: dict[str, dict[str, Circuit]], engine: Engine, task: Task, metrics: tuple[str, ...]
) -> dict[str, str]:
    """For each size, how to choose edges: what is nearest to the model on validation."""
    split = "validation" if len(task.validation) else "train"
    judged = _judge(cell, split, found, engine, task, metrics, metrics)
    best = {}
    for size in found:
        rows = [row for row in judged.values() if row["size"] == size]
        best[size] = min(rows, key=lambda row: float(np.mean(row["values"][task.distance])))["selection"]
    return best


def _judge(
    cell: Cell,
    split: str,
    found: dict[str, dict[str, Circuit]],
    engine: Engine,
    task: Task,
    metrics: tuple[str, ...],
    asked: tuple[str, ...],
) -> dict[str, dict[str, Any]]:
    """Judge what is not yet judged on a split, and give all of it; `asked` may name metrics that the pairs forbid.

    Nothing that was judged before is lost, whether it is asked for now or not.
    """
    name = f"{split}.json"
    content = cell.read(name)
    judged: dict[str, dict[str, Any]] = content.get("circuits", {})
    wanted = {f"{size} {selection}".strip(): (size, selection) for size, each in found.items() for selection in each}
    known = {key for key, row in judged.items() if set(metrics) <= row["values"].keys()}
    missing = {key: found[size][selection] for key, (size, selection) in wanted.items() if key not in known}
    forbidden = sorted({*content.get("forbidden", []), *asked} - set(metrics))
    if missing or forbidden != content.get("forbidden"):
        start = time.perf_counter()
        values = _judged(engine, missing, task, split, metrics) if missing else {"full": {}}
        seconds = content.get("seconds", None if judged else 0.0)  # earlier versions did not time it
        timed = {} if seconds is None else {"seconds": seconds + time.perf_counter() - start}
        for key, circuit in missing.items():
            size, selection = wanted[key]
            before = judged.get(key, {}).get("values", {})
            judged[key] = {
                "size": size,
                "selection": selection,
                "edges": circuit.n_edges,
                "actual": circuit.n_actual,
                "values": before | {metric: x.tolist() for metric, x in values[key].items()},
            }
        full = content.get("full", {}) | {metric: float(x.mean()) for metric, x in values["full"].items()}
        row = {"split": split, "distance": task.distance, "forbidden": forbidden, "full": full} | timed
        cell.write(name, row | {"circuits": judged})
    return {key: judged[key] for key in wanted}


def _judged(
    engine: Engine, circuits: Mapping[str, Circuit], task: Task, split: str, metrics: tuple[str, ...]
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """The metrics of circuits and of the full model; what depends on the pairs alone is kept for the next cells."""
    engine.prepare(task.batches(split, BATCH), beside=True)
    return judge(engine, circuits, task, split, BATCH, metrics)


def _judge_removed(
    cell: Cell, best: dict[str, dict[str, Circuit]], engine: Engine, task: Task, metrics: tuple[str, ...]
) -> None:
    """Judge the model without the circuits, where that is not yet done, and add it to what is known of them."""
    content = cell.read("test.json")
    judged, names = content["circuits"], [REMOVED + metric for metric in metrics]
    missing = {
        key: replace(circuit, kept=~circuit.pruned(unequal=task.unequal).kept)
        for size, each in best.items()
        for selection, circuit in each.items()
        if not set(names) <= judged[key := f"{size} {selection}".strip()]["values"].keys()
    }
    if missing:
        start = time.perf_counter()
        values = _judged(engine, missing, task, "test", metrics)
        if "seconds" in content:
            content["seconds"] += time.perf_counter() - start
        for key in missing:
            judged[key]["values"] |= {REMOVED + metric: x.tolist() for metric, x in values[key].items()}
        cell.write("test.json", content)
