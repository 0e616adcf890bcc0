"""Intervals: how much a mean would change with other examples."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

INTERVAL = "95 % percentile bootstrap over examples, 10,000 resamples, seed 0"
"""What `bootstrap` gives if nothing else is asked of it, for a result's conditions."""


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
    return _counts(len(values), resamples, seed) @ values / len(values)


@lru_cache(maxsize=2)  # a table has thousands of means over the same number of examples
def _counts(n: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """How often each example is in each resample: exact, and far less memory than gathering n values each time."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
