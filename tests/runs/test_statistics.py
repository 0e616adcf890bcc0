"""Intervals: what many examples take, and that it changes no number."""

import numpy as np
import pytest

from edgewise.runs import _statistics, bootstrap


@pytest.mark.parametrize("held", [0, 1 << 27])
def test_resamples_in_blocks_are_those_drawn_at_once(monkeypatch: pytest.MonkeyPatch, held: int):
    values, _ = np.random.default_rng(0).normal(size=30), _statistics._held.cache_clear()
    at_once = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=100) @ values / 30
    monkeypatch.setattr(_statistics, "_HELD", held)
    monkeypatch.setattr(_statistics, "_BLOCK", 7 * 30)  # blocks of seven, and a rest
    assert [len(block) for block in _statistics._drawn(30, 100, 0)] == [7] * 14 + [2]
    assert _statistics.resampled_means(values, resamples=100) == pytest.approx(at_once, rel=1e-12)
    found = bootstrap(values, resamples=100)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(at_once, [0.025, 0.975])), rel=1e-12)


def test_what_is_kept_is_drawn_once(monkeypatch: pytest.MonkeyPatch):
    drawn, draw = list[int](), _statistics._drawn
    monkeypatch.setattr(_statistics, "_drawn", lambda n, *more: drawn.append(n) or draw(n, *more))
    for n in (41, 41, 43, 43):
        bootstrap(np.arange(float(n)), resamples=10)
    assert drawn == [41, 43]
    monkeypatch.setattr(_statistics, "_HELD", 0)
    bootstrap(np.arange(41.0), resamples=10)
    assert drawn == [41, 43, 41]
