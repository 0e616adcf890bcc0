"""What a graph predicts of taking nodes away, and how well predictions and measurements agree."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from scipy.stats import rankdata
from torch import Tensor

from edgewise.attribution._graph import GraphData
from edgewise.attribution._influence import influence_of
from edgewise.runs import Interval

RESAMPLES = 2_000


class Effects(NamedTuple):
    """What each node gives to a root."""

    direct: Float[Tensor, " n"]
    """Its edge to the root."""
    total: Float[Tensor, " n"]
    """Along all paths."""


def effects(graph: GraphData, root: int = 0) -> Effects:
    """What each node of a graph gives to one of its roots.

    Take a share of a node's input away, and the same share of all that it writes goes, since its slopes are held. So
    with `P[t, s] = w_ts / value_t` for targets that are no roots, the total effect is `w_root + (w_root P) + …`: what
    the root would lose if the node's value were 0, to first order in everything that is not frozen.

    Args:
        graph: a graph.
        root: which of its roots.
    """
    is_root, value = graph.nodes.is_kind("root").numpy(), graph.nodes.value.numpy()
    here = np.flatnonzero(is_root & (graph.nodes.index.numpy() == root))
    divisor = np.where(is_root | (value == 0), 1.0, value)
    shares = csr_array(diags_array(np.where(~is_root & (value == 0), 0.0, 1 / divisor)) @ graph.matrix)
    weights = np.zeros(graph.n_nodes)
    weights[here] = 1
    total = influence_of(shares, weights, graph.nodes.layer.numpy())
    return Effects(torch.from_numpy(graph.matrix[here].toarray()[0]), torch.from_numpy(total))


class Agreement(NamedTuple):
    """Of predicted and real changes; None where one of the two does not vary."""

    spearman: float | None
    slope: float | None
    """Of the line through the origin: real = slope · predicted, by least squares."""


def agreement(predicted: NDArray[np.float64], real: NDArray[np.float64]) -> Agreement:
    """How well predictions agree with what is real."""
    rank, slope = _spearman(predicted[None], real[None])[0], _slope(predicted[None], real[None])[0]
    return Agreement(*(float(each) if np.isfinite(each) else None for each in (rank, slope)))


def over_nodes(
    predicted: NDArray[np.float64], real: NDArray[np.float64], seed: int = 0
) -> tuple[Interval | None, Interval | None]:
    """Spearman's correlation and the slope, each with a 95 % percentile bootstrap interval over nodes; a slope of one
    node has none.

    Args:
        predicted: of each node.
        real: of each node.
        seed: of the resampling.
    """
    if not len(real):
        return None, None
    found = agreement(predicted, real)
    if len(real) == 1:
        return None, None if found.slope is None else Interval(found.slope, None, None)
    drawn = np.random.default_rng(seed).integers(len(real), size=(RESAMPLES, len(real)))
    samples = predicted[drawn], real[drawn]
    return tuple(  # pyright: ignore[reportReturnType] (two of them)
        None if value is None else Interval(value, *map(float, np.nanquantile(each(*samples), [0.025, 0.975])))
        for value, each in zip(found, (_spearman, _slope), strict=True)
    )


def _spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row: Pearson's correlation of the ranks."""
    x, y = (rankdata(each, axis=1) - (each.shape[1] + 1) / 2 for each in (x, y))
    size = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.divide((x * y).sum(1), size, out=np.full(len(x), np.nan), where=size > 0)


def _slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    size = (x**2).sum(1)
    return np.divide((x * y).sum(1), size, out=np.full(len(x), np.nan), where=size > 0)
