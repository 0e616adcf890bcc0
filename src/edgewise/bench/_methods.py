"""What a bench alone needs of the methods: parts on disk, the circuit of a size, and their cost.

What a method finds is kept in *parts*, one file each: the scores of all edges, or one circuit per size or value. A
part that is there is not found again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from edgewise._errors import InputError
from edgewise.bench._settings import EMPTY, MethodSpec, config_of, size_name
from edgewise.circuit import Circuit
from edgewise.discovery import MethodConfig, Scores, edges_at, imported, method, run_method
from edgewise.engine import Engine
from edgewise.runs import RunOptions, change_settings, record_of
from edgewise.tasks import Task

SCORES, START = "scores", "start"
"""The names of parts that hold one score per edge rather than a circuit; a method may start from the second."""
_LATER_SEEDS = 1000
"""Added to the seed of a run that starts from another of the same seed, so that it sees another order of examples."""


class Interrupted(Exception):  # noqa: N818 (no error: the run goes on when it is asked for again)
    """A learned method was told to stop; its checkpoint is written."""


@dataclass(frozen=True)
class Job:
    """What a method is given."""

    engine: Engine
    task: Task
    seed: int
    spec: MethodSpec
    folder: Path
    checkpoint_seconds: float = 30.0

    def config(self, **changes: Any) -> MethodConfig:
        """The method's settings with this job's seed."""
        config = config_of(self.spec, **changes)
        if not config.seeded:
            return config
        return change_settings(config.title, config, {"seed": self.seed + (_LATER_SEEDS if self.spec.start else 0)})

    def options(self, part: str) -> RunOptions:
        """Checkpoints of a part in a folder of its own."""
        return RunOptions(self.folder / part, self.checkpoint_seconds, progress=False)

    def circuit(self, name: str, find: Callable[[], Scores | Circuit]) -> Circuit:
        """A circuit from its file, or found and written there."""
        if not self.path(name).is_file():
            _whole(find()).save(self.path(name))
        return Circuit.load(self.path(name))

    def scores(self, name: str, find: Callable[[], Scores | Circuit]) -> Scores:
        """Scores from their file, or found (if need be, as those of a circuit) and written there."""
        if not self.path(name).is_file():
            found = _whole(find())
            (found if isinstance(found, Scores) else Scores.of(found)).save(self.path(name))
        return Scores.load(self.path(name))

    def path(self, name: str) -> Path:
        """A part's file."""
        return self.folder / f"{name}.safetensors"


def _whole(found: Scores | Circuit) -> Scores | Circuit:
    """What a run found, if it came to its end. Raises `Interrupted` or `InputError`."""
    method = record_of(found.provenance, "method")
    if method.get("stop") is not None:
        raise (Interrupted if method["stop"] == "interrupted" else InputError)(method["stopped"])
    return found


def find_parts(job: Job) -> dict[str, Scores | Circuit]:
    """Everything that a method gives, by name."""
    if job.spec.method == EMPTY:
        return {EMPTY: _empty(job.engine)}
    record, parts, start = method(job.spec.method), dict[str, Scores | Circuit](), None
    if job.spec.start is not None:
        other = replace(job, spec=job.spec.start)
        parts[START] = start = other.scores(START, partial(_run, other, other.config(), START, None))
    if record.sized:
        for sparsity in job.spec.sparsities:
            name = size_name(sparsity)
            parts[name] = job.circuit(name, partial(_run, job, job.config(sparsity=sparsity), name, start))
    elif record.ladder is not None:
        parts |= _ladder(job, record.ladder.setting, record.ladder.run)
    else:
        parts[SCORES] = job.scores(SCORES, partial(_run, job, job.config(), job.spec.method, start))
    return parts


def candidates(spec: MethodSpec, parts: Mapping[str, Scores | Circuit], sparsity: float) -> dict[str, Circuit]:
    """The circuits of one size that validation chooses among, by how their edges were chosen."""
    circuits = {name: part for name, part in parts.items() if isinstance(part, Circuit)}
    if spec.method == EMPTY:
        return {"": circuits[EMPTY]}
    record = method(spec.method)
    if record.sized:
        return {"": circuits[size_name(sparsity)]}
    if record.ladder is not None:
        return {"": _from_ladder(list(circuits.values()), sparsity)}
    scores = parts[SCORES]
    assert isinstance(scores, Scores)
    return {sign: scores.at(sparsity, actual=True, absolute=sign == "absolute") for sign in record.signs}


def cost(parts: Mapping[str, Scores | Circuit]) -> dict[str, float]:
    """Different examples seen, passes of one example forwards and backwards, and seconds, over all parts."""
    total = {"examples": 0.0, "forwards": 0.0, "backwards": 0.0, "seconds": 0.0}
    counted: list[dict[str, Any]] = []
    for part in parts.values():
        row = _cost(part.provenance)
        if row in counted:  # the thresholds of one search share its cost
            continue
        counted.append(row)
        total["examples"] = max(total["examples"], row["examples"])
        for name in ("forwards", "backwards", "seconds"):
            total[name] += row[name]
    return {name: round(value, 3) for name, value in total.items()}


def _cost(provenance: dict[str, Any]) -> dict[str, Any]:
    record = provenance.get("cost")
    if record is None:  # the empty circuit
        return {"examples": 0, "forwards": 0.0, "backwards": 0.0, "seconds": 0.0}
    n = record["examples"]
    passes = {name: record[f"{name}_per_example"] * n for name in ("forwards", "backwards")}
    return {"examples": n, **passes, "seconds": record["seconds"]}


def _run(job: Job, config: MethodConfig, part: str, start: Scores | None) -> Scores | Circuit:
    record = method(job.spec.method)
    return run_method(record, job.engine, job.task, config, options=job.options(part), start=start)


def _ladder(job: Job, setting: str, run: str) -> dict[str, Circuit]:
    """One run for all values of a setting."""
    values = sorted(job.spec.values, reverse=True)
    names = [f"{setting} {size_name(value)}" for value in values]
    if not all(job.path(name).is_file() for name in names):
        found = imported(run)(job.engine, job.task, values, job.config(), options=job.options("search"))
        for name, circuit in zip(names, found, strict=True):
            job.circuit(name, lambda circuit=circuit: circuit)
    return {name: Circuit.load(job.path(name)) for name in names}


def _empty(engine: Engine) -> Circuit:
    kept = torch.zeros(engine.graph.n_edges, dtype=torch.bool)
    provenance = {"method": {"name": EMPTY}, "ablation": engine.ablation.to_dict(), "model": engine.model.identity}
    return Circuit(engine.graph, kept, None, provenance)


def _from_ladder(circuits: Sequence[Circuit], sparsity: float) -> Circuit:
    """A size from the circuits of several thresholds: of those that are large enough the smallest, without its edges of
    least change (least in size where the search compared sizes); or the largest as it is, where none is large enough.
    """
    size = edges_at(circuits[0].graph, sparsity)
    enough = [circuit for circuit in circuits if circuit.n_actual >= size]
    if not enough:
        return max(circuits, key=lambda circuit: circuit.n_actual)
    chosen = min(enough, key=lambda circuit: circuit.n_actual).pruned()
    assert chosen.scores is not None
    config = record_of(chosen.provenance, "method").get("config", {})
    change = chosen.scores.abs() if config.get("absolute") else chosen.scores
    change = change.nan_to_num(nan=torch.inf).where(chosen.kept, torch.tensor(-torch.inf))
    return Scores(chosen.graph, change, chosen.provenance).top_actual(size)
