"""Sufficiency and necessity of a ranking over sizes: what its top edges keep, and what goes where they are removed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.discovery import Scores
from edgewise.engine import Engine
from edgewise.evaluation._areas import areas, check_shares, faithfulness, largest
from edgewise.evaluation._judge import check_transcoders, conditions, one_kind, score_masks, task_metrics
from edgewise.models import Model
from edgewise.runs import Interval, SavedAsJson, bootstrap
from edgewise.tasks import Task

SHARES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
"""Sizes as shares of all edges, evenly on a logarithmic scale as near as makes no difference."""


@dataclass(frozen=True)
class BothPoint:
    """The circuit of one size, kept alone and taken out of the model. All are means over the examples."""

    share: float
    """Edges asked for, as a share of all."""
    actual: int
    """Edges that can carry signal."""
    kept: Interval
    """The behaviour's metric where these edges alone are kept, and its 95 % bootstrap interval."""
    removed: Interval
    """The same of the model without these edges."""
    kept_distance: Interval
    """The distance to the full model (KL) where these edges alone are kept."""
    removed_distance: Interval
    """The same of the model without these edges: a circuit that is needed takes the model far from itself."""


@dataclass(frozen=True)
class BothCurves(SavedAsJson):
    """A ranking's curves."""

    metric: str
    """Of the behaviour."""
    distance: str
    full: float
    """The full model's metric."""
    empty: float
    """The empty circuit's."""
    points: tuple[BothPoint, ...]
    sufficiency: float
    """Mean over sizes on a logarithmic scale of the share of the behaviour that the circuits keep."""
    necessity: float
    """The same of the share that goes with them."""
    total_edges: int
    n: int
    """Examples judged."""
    conditions: dict[str, Any]


def both_curves(
    model: Model | Engine,
    scores: Scores | Sequence[Circuit],
    task: Task,
    *,
    metric: str | None = None,
    shares: Sequence[float] = SHARES,
    absolute: bool = False,
    split: str = "test",
    batch_size: int = 32,
) -> BothCurves:
    """Judge circuits of several sizes kept alone, and the model without them.

    A run without a circuit has nearly all edges, so it costs as much as the full model's under masks.

    Args:
        model: the model, or an engine of the scores' graph and ablation.
        scores: the scores, whose top edges are taken; or circuits, one for each share.
        task: the behaviour.
        metric: of the behaviour, more of it is better; the one that attribution explains if None.
        shares: sizes as shares of all edges, rising, in actual edges.
        absolute: whether edges are taken by the size of their score.
        split: which examples.
        batch_size: how many at a time; it does not change the numbers.

    Raises:
        edgewise.InputError: fewer than two sizes, no examples, another graph, circuits of several graphs or ablations
            or of other sizes than `shares` say, or a metric that the pairs do not allow or that says nothing here.
    """
    check_shares("shares", shares)
    if isinstance(scores, Scores):
        circuits = [scores.at(1 - share, actual=True, absolute=absolute) for share in shares]
    else:
        circuits = list(scores)
    if len(circuits) != len(shares):
        raise InputError(f"both_curves: {len(circuits)} circuits for {len(shares)} shares; give one for each")
    first = one_kind("both_curves", {f"circuit {number}": each for number, each in enumerate(circuits)})
    if not isinstance(scores, Scores):
        _check_sizes(circuits, shares)
    engine = Engine.of(model, first.graph, first.stated_ablation)
    task.check_examples(split)
    name = metric or task.explained
    task.check_metric(name)
    masks = {"empty": first.kept & False}
    circuits = [circuit.pruned(unequal=task.unequal) for circuit in circuits]
    for number, circuit in enumerate(circuits):
        check_transcoders(engine, circuit, f"circuit {number}")
        masks |= {f"kept {number}": circuit.kept, f"removed {number}": ~circuit.kept}
    values = score_masks(engine, masks, task.batches(split, batch_size), task_metrics(task, (name, task.distance)))
    full, empty = (float(values[who][name].mean()) for who in ("full", "empty"))
    scale = largest(values["full"][name], values["empty"][name])
    points = tuple(
        BothPoint(
            share,
            circuit.n_edges,
            *(bootstrap(values[f"{how} {number}"][which]) for which in (name, task.distance) for how in _HOW),
        )
        for number, (share, circuit) in enumerate(zip(shares, circuits, strict=True))
    )
    keeps = [float(faithfulness(point.kept.value, full, empty, scale)) for point in points]
    takes = [1 - float(faithfulness(point.removed.value, full, empty, scale)) for point in points]
    said = conditions(engine, split) | {"task": task.record, "edges": "actual"}
    n = len(np.atleast_1d(values["full"][name]))
    kept_area, taken_area = (areas(shares, each, log=True)[0] for each in (keeps, takes))
    ends = full, empty
    return BothCurves(name, task.distance, *ends, points, kept_area, taken_area, engine.graph.n_edges, n, said)


def _check_sizes(circuits: Sequence[Circuit], shares: Sequence[float]) -> None:
    """Refuse circuits that are larger than the shares that they stand for. Raises `InputError`."""
    for number, (circuit, share) in enumerate(zip(circuits, shares, strict=True)):
        allowed = math.ceil(share * circuit.graph.n_edges)
        if circuit.n_actual > allowed:
            raise InputError(
                f"both_curves: circuit {number} has {circuit.n_actual} actual edges, and a share of {share:g} is "
                f"{allowed}; give circuits of the shares' sizes, or their own shares"
            )


_HOW = ("kept", "removed")
