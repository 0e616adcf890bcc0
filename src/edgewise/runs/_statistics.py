"""Intervals: how much a mean would change with other examples."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

INTERVAL = "95 % percentile bootstrap over examples, 10,000 resamples, seed 0"
"""What `bootstrap` gives if nothing else is asked of it, for a result's conditions."""

_HELD = 1 << 24
"""How many numbers of resamples are held at a time: 134 MB."""


class Interval(NamedTuple):
    """A mean and a bootstrap interval around it."""

    value: float
    low: float
    high: float


def bootstrap(values: NDArray[np.floating], *, resamples: int = 10_000, level: float = 0.95, seed: int = 0) -> Interval:
    """The mean over examples and its percentile bootstrap interval (Efron 1979).

    Args:
        values: one per example, `[n]`.
        resamples: how many resampled means.
        level: the interval's share of them.
        seed: of the resampling.
    """
    drawn = resampled_means(values, resamples=resamples, seed=seed)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def resampled_means(values: NDArray[np.floating], *, resamples: int = 10_000, seed: int = 0) -> NDArray[np.floating]:
    """The means over the same resampled examples of one number for each example, `[n]`, or of several, `[n, k]`.

    Returns:
        `[resamples]` or `[resamples, k]`; the order of the resamples depends on n and the seed alone.
    """
    n = len(values)
    if n * resamples <= _HELD:
        return _counts(n, resamples, seed) @ values / n
    random, rows = np.random.default_rng(seed), max(1, _HELD // n)  # in blocks, which draw on where the last one ended
    sizes = (min(rows, resamples - done) for done in range(0, resamples, rows))
    return np.concatenate([_drawn(random, n, size) @ values for size in sizes]) / n


@lru_cache(maxsize=2)  # a table has thousands of means over the same number of examples
def _counts(n: int, resamples: int, seed: int) -> NDArray[np.int64]:
    return _drawn(np.random.default_rng(seed), n, resamples)


def _drawn(random: np.random.Generator, n: int, resamples: int) -> NDArray[np.int64]:
    """How often each example is in each resample: exact, and far less memory than gathering n values each time."""
    return random.multinomial(n, np.full(n, 1 / n), size=resamples)
