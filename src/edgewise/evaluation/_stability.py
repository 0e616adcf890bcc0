"""How far several runs agree on a circuit."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.evaluation._statistics import Interval

RESAMPLES = 2_000


@dataclass(frozen=True, eq=False)
class Stability:
    """What several circuits have in common."""

    frequency: Float[Tensor, " E"]
    """For each edge, the share of the circuits that keep it."""
    pairs: tuple[float, ...]
    """Intersection over union of each two circuits."""
    iou: Interval
    """Their mean, and its 95 % percentile bootstrap interval over the edges that any of them keeps."""
    consensus: Circuit
    """The edges that more than half of the circuits keep."""


def stability(circuits: Sequence[Circuit], *, seed: int = 0) -> Stability:
    """Compare circuits of one graph, such as those of several seeds at one size.

    Args:
        circuits: two or more.
        seed: of the resampling.

    Raises:
        InputError: there are fewer than two, or their graphs differ.
    """
    if len(circuits) < 2:
        raise InputError(f"stability: {len(circuits)} circuits; give at least two")
    pairs = tuple(one.iou(other) for one, other in combinations(circuits, 2))  # graphs are compared there
    kept = torch.stack([circuit.kept for circuit in circuits])  # (n, E)
    frequency = kept.float().mean(0)
    first = circuits[0].provenance
    shared = {key: first[key] for key in ("model", "graph", "ablation", "task") if key in first}
    method = {"name": "consensus", "of": [circuit.provenance.get("method") for circuit in circuits]}
    consensus = Circuit(circuits[0].graph, frequency > 0.5, frequency, shared | {"method": method})
    return Stability(frequency, pairs, _interval(kept[:, kept.any(0)].numpy(), pairs, seed), consensus)


def _interval(kept: np.ndarray, pairs: tuple[float, ...], seed: int) -> Interval:
    """Resample the edges of the union; an edge counts in a pair's intersection, union, both or neither."""
    mean = float(np.mean(pairs))
    if not kept.shape[1]:
        return Interval(mean, mean, mean)
    both = np.stack([one & other for one, other in combinations(kept, 2)]).astype(float)  # (pairs, edges)
    either = np.stack([one | other for one, other in combinations(kept, 2)]).astype(float)
    n = kept.shape[1]
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)  # (resamples, edges)
    ratios = (counts @ both.T) / np.maximum(counts @ either.T, 1)
    low, high = np.quantile(ratios.mean(1), [0.025, 0.975])
    return Interval(mean, float(low), float(high))
