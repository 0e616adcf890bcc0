"""How many edges a method needs to be as near to the model as another circuit is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from edgewise._errors import InputError
from edgewise.runs import check_counts


class Needed(NamedTuple):
    """Edges needed for a value, and the 95 % bootstrap interval over the examples.

    0 stands for "no more than the smallest circuit that was measured has" (its size is an upper bound), infinity for
    "more than the largest has". Of one example there is no interval: None.
    """

    edges: float
    low: float | None
    high: float | None


def edges_needed(
    edges: Sequence[float],
    values: Float[np.ndarray, "k n"],
    target: Float[np.ndarray, " n"],
    *,
    resamples: int = 2_000,
    seed: int = 0,
) -> Needed:
    """The smallest size at which a method's mean is at most the target's, between two measured sizes on a line over the
    logarithm of the size.

    The interval resamples the examples, the same ones for the method and for the target.

    Args:
        edges: the method's sizes, rising.
        values: what it has at each size on each example, `[sizes, n]`; lower is better.
        target: what another circuit has on the same examples, `[n]`.
        resamples: how many.
        seed: of the resampling.

    Raises:
        InputError: the sizes do not rise, the shapes do not belong together, or a value is not finite.
    """
    sizes, n = np.asarray(edges, dtype=np.float64), len(target)
    if values.shape != (len(sizes), n) or not len(sizes) or sizes[0] <= 0 or (np.diff(sizes) <= 0).any():
        raise InputError(
            f"edges needed: sizes {list(edges)} with values of shape {values.shape}, a target of {n}; give rising "
            "sizes, and a value for each size and example"
        )
    if not (np.isfinite(values).all() and np.isfinite(target).all()):
        raise InputError("edges needed: a value is NaN or infinite; give finite ones")
    check_counts("edges needed", resamples=resamples)
    edges_of_all = _crossing(np.log(sizes), values.mean(1), float(target.mean()))
    if n == 1:
        return Needed(edges_of_all, None, None)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples) / n  # (resamples, n)
    drawn = [_crossing(np.log(sizes), row, goal) for row, goal in zip(counts @ values.T, counts @ target, strict=True)]
    low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")  # no mean of a number and infinity
    return Needed(edges_of_all, float(low), float(high))


def _crossing(logs: NDArray[np.float64], means: NDArray[np.float64], goal: float) -> float:
    """Where the line through the means first comes down to the goal."""
    reached = np.flatnonzero(means <= goal + 1e-9 * abs(goal))  # equal means differ in their last bits
    if not len(reached):
        return float("inf")
    first = int(reached[0])
    if not first:
        return 0.0
    share = min(1.0, (means[first - 1] - goal) / (means[first - 1] - means[first]))
    return float(np.exp(logs[first - 1] + share * (logs[first] - logs[first - 1])))
