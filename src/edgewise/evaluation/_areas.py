"""Faithfulness as the share of the behaviour that a circuit keeps, over sizes, and the areas that MIB makes of it.

`f(C) = (m(C) − m(∅)) / (m(M) − m(∅))`, m the mean of a metric over the examples, M the full model, ∅ the circuit
without edges: a ratio of means, not a mean of ratios. CPR and CMD are those of Mueller et al. 2025 (MIB, arXiv
2504.13151): the trapezoid areas under f and under |1 − f| over the nominal share of edges, from 0.1 % to all. Larger
circuits weigh most in both (half of the axis lies between 50 % and all), and CPR grows without bound for circuits that
exaggerate a behaviour; so the areas over the logarithm of the size, where every size weighs alike, stand beside them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import trapezoid

from edgewise._errors import InputError
from edgewise.discovery import Scores
from edgewise.engine import Engine
from edgewise.evaluation._judge import judge
from edgewise.models import Model
from edgewise.tasks import Task

MIB_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The sizes that MIB's circuit track judges, as shares of all edges."""
ROUNDING = 1e-5
"""Values are equal that differ by no more than this share of the larger: float32 through a model."""


@dataclass(frozen=True)
class Areas:
    """Faithfulness over sizes, for one way of choosing edges."""

    selection: str
    """`signed`: the highest scores; `absolute`: the largest, whatever their sign."""
    shares: tuple[float, ...]
    """Nominal sizes as shares of all edges."""
    edges: tuple[int, ...]
    """Nominal sizes, `int(share · E)`."""
    actual: tuple[int, ...]
    """Edges of them that can carry signal."""
    values: tuple[float, ...]
    """The metric's mean at each size."""
    faithfulness: tuple[float, ...]
    cpr: float
    """The area under the faithfulness (circuit performance ratio)."""
    cmd: float
    """The area between the faithfulness and 1 (circuit–model distance)."""
    log_cpr: float
    """As `cpr` over log size, divided by the axis's length: the mean over sizes on a logarithmic scale."""
    log_cmd: float
    actual_cpr: float
    """As `cpr` over the share of edges that can carry signal, from the smallest circuit's to all."""
    actual_cmd: float


@dataclass(frozen=True)
class MibScores:
    """What MIB's circuit track would say of scores, with the raw values."""

    metric: str
    full: float
    """The full model's mean, m(M)."""
    empty: float
    """The empty circuit's, m(∅)."""
    n: int
    signed: Areas
    """Its `cpr` is the one that MIB reports."""
    absolute: Areas
    """Its `cmd` is the one that MIB reports."""


def faithfulness(circuit: Any, full: float, empty: float, scale: float = 0.0) -> Any:
    """The share of the behaviour that a circuit keeps, from means: `(m(C) − m(∅)) / (m(M) − m(∅))`.

    Args:
        circuit: the circuit's mean, or several.
        full: the full model's.
        empty: the empty circuit's.
        scale: the largest size of the examples' values, by which their rounding goes; 0 to go by the means.

    Raises:
        InputError: the full model's value is that of the empty circuit, to rounding.
    """
    if not something_to_keep(full, empty, scale):
        raise InputError(f"faithfulness: full model and empty circuit both have {full:g}; there is nothing to keep")
    return (circuit - empty) / (full - empty)


def something_to_keep(full: float, empty: float, scale: float = 0.0) -> bool:
    """Whether the full model's mean differs from the empty circuit's by more than rounding: a share of less is noise.
    One comes from the module and the other from a masked run, so that equal ones are seldom the same number.
    """
    return abs(full - empty) > ROUNDING * max(abs(full), abs(empty), scale)


def largest(*values: NDArray[np.floating]) -> float:
    """The largest size of examples' values: rounding goes by it, while means of both signs may be near 0."""
    return max(float(np.abs(each).max()) for each in values)


def check_shares(what: str, shares: Sequence[float], *, zero: bool = False) -> None:
    """Refuse sizes that are no rising shares of all edges, two or more. Raises `InputError`."""
    if bad := [share for share in shares if not (share >= 0 if zero else share > 0) or not share <= 1]:
        raise InputError(f"{what}: {bad[0]} is no share of all edges; give numbers above 0 and up to 1")
    if len(shares) < 2 or any(one >= other for one, other in pairwise(shares)):
        raise InputError(f"{what}: sizes {', '.join(map(str, shares)) or 'none'}; give rising sizes, two or more")


def areas(shares: Sequence[float], values: Sequence[float], *, log: bool = False) -> tuple[float, float]:
    """The areas under f and under |1 − f| by the trapezoid rule.

    Args:
        shares: sizes as shares of all edges, rising.
        values: f at each.
        log: over the logarithm of the size, divided by the axis's length.

    Returns:
        The two areas, CPR and CMD.
    """
    x, f = np.asarray(shares, dtype=np.float64), np.asarray(values, dtype=np.float64)
    check_shares("areas", shares, zero=not log)
    if len(x) != len(f):
        raise InputError(f"areas: {len(x)} sizes with {len(f)} values; give one for each")
    axis = np.log(x) if log else x
    length = float(axis[-1] - axis[0]) if log else 1.0
    cpr, cmd = _trapezoids(axis, f)
    return cpr / length, cmd / length


def _trapezoids(axis: NDArray[np.float64], f: NDArray[np.float64]) -> tuple[float, float]:
    return float(trapezoid(f, axis)), float(trapezoid(np.abs(1 - f), axis))


def mib_scores(
    model: Model | Engine,
    scores: Scores,
    task: Task,
    *,
    metric: str = "logit_diff",
    shares: Sequence[float] = MIB_SHARES,
    split: str = "test",
    batch_size: int = 32,
) -> MibScores:
    """CPR and CMD of scores, as MIB's circuit track has them.

    At each size the `int(share · E)` highest scores are kept and what cannot carry signal is dropped; the axis is the
    nominal size. (MIB counts edges on the graph with keys and values for every query head: give it
    `model.graph(kv="expanded")` for its own numbers under grouped-query attention.)

    Args:
        model: the model, or an engine of the scores' graph.
        scores: the scores.
        task: the behaviour; MIB's metric is the difference of two logits.
        metric: one of `edgewise.tasks.metric_names()`, higher for a stronger behaviour.
        shares: the sizes.
        split: which examples.
        batch_size: how many at a time; it does not change the numbers.

    Raises:
        edgewise.InputError: the metric is unknown, the pairs do not allow it or it says nothing here, or there are no
            examples.
    """
    task.check_metric(metric)
    task.check_examples(split)
    check_shares("shares", shares)
    none = scores.top(0)
    engine = Engine.of(model, scores.graph, none.stated_ablation)
    n_edges, sizes = scores.graph.n_edges, [int(share * scores.graph.n_edges) for share in shares]
    kinds = ("signed", "absolute")
    circuits = {
        f"{kind} {place}": scores.top(size, absolute=kind == "absolute").pruned(unequal=task.unequal)
        for kind in kinds
        for place, size in enumerate(sizes)
    }
    judged = judge(engine, {**circuits, "empty": none}, task, split, batch_size, names=(metric,))
    means = {name: float(each[metric].mean()) for name, each in judged.items()}
    scale = largest(judged["full"][metric], judged["empty"][metric])
    found = {}
    for kind in kinds:
        values = [means[f"{kind} {place}"] for place in range(len(sizes))]
        kept = [float(faithfulness(value, means["full"], means["empty"], scale)) for value in values]
        actual = tuple(circuits[f"{kind} {place}"].n_actual for place in range(len(sizes)))
        linear, logarithmic = areas(shares, kept), areas(shares, kept, log=True)
        real = _trapezoids(np.array(actual) / n_edges, np.array(kept))
        found[kind] = Areas(
            kind, tuple(shares), tuple(sizes), actual, tuple(values), tuple(kept), *linear, *logarithmic, *real
        )
    return MibScores(metric, means["full"], means["empty"], len(task.split(split)), **found)
