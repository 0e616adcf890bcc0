"""Faithfulness against size: several circuits of each method judged on the same examples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from edgewise._errors import InputError
from edgewise.circuit import Circuit, empty_circuit, ranked
from edgewise.engine import Engine
from edgewise.evaluation._judge import conditions, judge, one_kind
from edgewise.models import Model
from edgewise.runs import SavedAsJson, bootstrap, check_record, reading_record, tensor_hash
from edgewise.tasks import Task


class Point(NamedTuple):
    """A circuit's size and its measured value."""

    method: str
    edges: int
    """Edges kept; say in a caption whether nominal or actual."""
    value: float
    low: float | None = None
    """Lower end of the interval; None where there is none."""
    high: float | None = None


@dataclass(frozen=True)
class SizeCurve(SavedAsJson):
    """A metric by method and size."""

    metric: str
    points: tuple[Point, ...]
    """Actual edges, the mean over the examples and its 95 % bootstrap interval."""
    full: float
    """The full model's mean."""
    empty: float
    """That of the empty circuit: every edge ablated."""
    total_edges: int
    n: int
    """Examples judged."""
    conditions: dict[str, Any] = field(default_factory=dict)
    """Split, task, ablation, graph and model; `scores`, the hashes of what the circuits were chosen by."""

    def is_of(self, circuit: Circuit) -> bool:
        """Whether a circuit's scores are among those that the sizes were chosen by; of what earlier versions wrote,
        whether its graph has as many edges.
        """
        known = self.conditions.get("scores")
        same = not isinstance(known, list) or not known or _scores_hash(circuit) in known
        return same and self.total_edges == circuit.graph.n_edges

    @staticmethod
    def load(path: str | Path) -> "SizeCurve":
        """Read what `save` wrote.

        Raises:
            edgewise.InputError: there is no such file, or it is another one.
        """
        with reading_record(path, "a curve that `edgewise curve` wrote", "give one, or move it away") as row:
            row["points"] = tuple(Point(**point) for point in row["points"])
            found = SizeCurve(**row)
            check_record(found)
            return found


def size_curve(
    model: Model | Engine,
    circuits: Mapping[str, Sequence[Circuit]],
    task: Task,
    *,
    metric: str | None = None,
    split: str = "test",
    batch_size: int = 32,
) -> SizeCurve:
    """Judge circuits of several sizes, with hard masks.

    Args:
        model: the model, or an engine of the circuits' graph and ablation.
        circuits: for each method its circuits, such as `[scores.at(s, actual=True) for s in (0.9, 0.98)]`.
        task: the behaviour.
        metric: one of `edgewise.tasks.metric_names()`; the task's distance from the full model if None.
        split: which examples.
        batch_size: how many at a time; it does not change the numbers.

    Raises:
        edgewise.InputError: there are no circuits, no examples or no such metric, the pairs lack what it needs, or a
            circuit is of another graph.
    """
    named = {f"{method} {number}": each for method, found in circuits.items() for number, each in enumerate(found)}
    if not named:
        raise InputError("size_curve: no circuits; give at least one")
    metric = metric or task.distance
    task.check_metric(metric)
    first = one_kind("size_curve", named)
    engine = Engine.of(model, first.graph, first.stated_ablation)
    task.check_examples(split)
    empty = empty_circuit(first)
    values = judge(engine, {**named, "": empty}, task, split, batch_size, names=(metric,))
    points = [
        Point(method, each.n_actual, *bootstrap(values[f"{method} {number}"][metric]))
        for method, found in circuits.items()
        for number, each in enumerate(found)
    ]
    under = conditions(engine, split) | {"task": task.record, "edges": "actual"}
    under["scores"] = sorted({_scores_hash(each) for each in named.values()} - {""})
    full, none = float(values["full"][metric].mean()), float(values[""][metric].mean())
    return SizeCurve(metric, tuple(points), full, none, engine.graph.n_edges, len(task.split(split)), under)


def _scores_hash(circuit: Circuit) -> str:
    """Of what its edges are ranked by, which decides its other sizes; empty where it has no scores."""
    if circuit.scores is None:
        return ""
    return tensor_hash(ranked(circuit.scores, absolute=circuit.selection == "absolute"))
