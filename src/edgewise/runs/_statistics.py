"""Intervals: how much a mean would change with other examples."""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgewise._errors import InputError
from edgewise.runs._settings import check_counts

INTERVAL = "95 % percentile bootstrap over examples, 10,000 resamples, seed 0"
"""What `bootstrap` gives if nothing else is asked of it, for a result's conditions."""

_HELD, _BLOCK = 1 << 27, 1 << 22
"""How many counts are kept, of a byte each, and how many are drawn and multiplied at a time."""


class Interval(NamedTuple):
    """A mean and a bootstrap interval around it; one example has none, since it does not show what another would
    change.
    """

    value: float
    low: float | None
    high: float | None

    def __format__(self, spec: str) -> str:
        """The value and the interval, as `0.123 [0.101, 0.146]`; `spec` is that of each number, `.3f` if none."""
        value, *ends = (format(each, spec or ".3f") for each in self if each is not None)
        return f"{value} [{', '.join(ends)}]" if ends else value

    def __str__(self) -> str:
        """The same, with three decimals."""
        return format(self)


def bootstrap(values: NDArray[np.floating], *, resamples: int = 10_000, level: float = 0.95, seed: int = 0) -> Interval:
    """The mean over examples and its percentile bootstrap interval (Efron 1979).

    Args:
        values: one per example, `[n]`.
        resamples: how many resampled means.
        level: the interval's share of them.
        seed: of the resampling.

    Raises:
        InputError: there are no values.
    """
    if not len(values):
        raise InputError("intervals: there are no values to take the mean of; give at least one")
    if len(values) == 1:
        return Interval(float(values[0]), None, None)
    drawn = resampled_means(values, resamples=resamples, seed=seed)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def resampled_means(values: NDArray[np.floating], *, resamples: int = 10_000, seed: int = 0) -> NDArray[np.floating]:
    """The means over the same resampled examples of one number for each example, `[n]`, or of several, `[n, k]`.

    Returns:
        `[resamples]` or `[resamples, k]`; the order of the resamples depends on n and the seed alone.
    """
    check_counts("intervals", resamples=resamples)
    n = len(values)
    blocks = _held(n, resamples, seed) if n * resamples <= _HELD else _drawn(n, resamples, seed)
    return np.concatenate([block @ values for block in blocks]) / n


@lru_cache(maxsize=2)  # a table has thousands of means over the same number of examples
def _held(n: int, resamples: int, seed: int) -> list[NDArray[np.uint8]]:
    return list(_drawn(n, resamples, seed))


def _drawn(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.uint8]]:
    """How often each example is in each resample: exact, and far less memory than gathering n values each time. In
    blocks, each of which draws on where the last one ended; no count comes near 255.
    """
    random, rows = np.random.default_rng(seed), max(1, _BLOCK // n)
    for done in range(0, resamples, rows):
        yield random.multinomial(n, np.full(n, 1 / n), size=min(rows, resamples - done)).astype(np.uint8)
