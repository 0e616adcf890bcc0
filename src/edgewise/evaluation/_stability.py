"""How far several runs agree on a circuit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.runs import Interval, record_of
from edgewise.tasks import Task


@dataclass(frozen=True, eq=False)
class Stability:
    """What several circuits have in common."""

    frequency: Float[Tensor, " E"]
    """For each edge, the share of the circuits that keep it."""
    pairs: tuple[float, ...]
    """Intersection over union of each two circuits."""
    iou: Interval
    """Their mean, and its 95 % interval over runs: the jackknife, leaving out one circuit at a time, with Student's t.
    Of two circuits, whose one pair says nothing of the spread, 0 to 1."""
    consensus: Circuit
    """The edges that more than half of the circuits keep."""


def stability(circuits: Sequence[Circuit]) -> Stability:
    """Compare circuits of one graph, such as those of several seeds at one size.

    Args:
        circuits: two or more; three or more for an interval.

    Raises:
        InputError: there are fewer than two, or their graphs or transcoders differ.
    """
    if len(circuits) < 2:
        raise InputError(f"stability: {len(circuits)} circuits; give at least two")
    pairs = tuple(one.iou(other) for one, other in combinations(circuits, 2))  # it compares graphs and transcoders
    kept = torch.stack([circuit.kept for circuit in circuits])  # (n, E)
    frequency = kept.float().mean(0)
    common = reduce(Circuit.__and__, circuits)  # it knows which records they share, and what mixed ablations are
    method = {"name": "consensus", "of": [circuit.provenance.get("method") for circuit in circuits]}
    task, *others = (record_of(circuit.provenance, "task") for circuit in circuits)
    told = {"task": task} if all(other.get("task") == task.get("task") for other in others) else {}  # pairs may differ
    provenance = common.provenance | told | {"method": method}
    consensus = Circuit(common.graph, frequency > 0.5, frequency, provenance, common.ablation)
    return Stability(frequency, pairs, _interval(np.array(pairs), len(circuits)), consensus)


def _interval(pairs: Float[np.ndarray, " pairs"], n: int) -> Interval:
    """The jackknife of a mean over pairs (Efron & Stein 1981): the runs are what was drawn, and pairs share them."""
    mean = float(pairs.mean())
    if n < 3:
        return Interval(mean, 0.0, 1.0)
    ends = np.array(list(combinations(range(n), 2)))  # (pairs, 2)
    without = np.array([pairs[(ends != run).all(1)].mean() for run in range(n)])
    half = stats.t.ppf(0.975, n - 1) * np.sqrt((n - 1) / n * np.square(without - without.mean()).sum())
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))


def resample_stability(
    find: Callable[[Task], Circuit], task: Task, *, n: int = 10, seed: int = 0
) -> tuple[Stability, tuple[Circuit, ...]]:
    """How far circuits of one method agree when its training pairs are drawn anew (Méloux et al. 2025, arXiv
    2510.00845): a bootstrap of the whole discovery.

    Args:
        find: the method, such as `lambda task: ew.eap(engine, task).at(0.98, actual=True, absolute=True)`.
        task: the behaviour; each run's training split is as many of its pairs, drawn with replacement.
        n: runs; the paper asks for 100 to say much.
        seed: of the drawing.

    Returns:
        What the circuits have in common, and the circuits.

    Raises:
        InputError: `n` is less than 2, or there are no training pairs.
    """
    if n < 2 or not len(task.train):
        raise InputError(f"stability: {n} runs on {len(task.train)} training pairs; give two or more, and pairs")
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        drawn = generator.integers(len(task.train), size=len(task.train))
        found.append(find(replace(task, train=[task.train[i] for i in drawn])))
    return stability(found), tuple(found)
