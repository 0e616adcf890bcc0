"""Intervals: what many examples take, and that it changes no number."""

import numpy as np
import pytest

from edgewise.runs import _statistics, bootstrap


def test_resamples_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(0).normal(size=30)
    whole = bootstrap(values, resamples=100)
    monkeypatch.setattr(_statistics, "_HELD", 7 * 30)  # blocks of seven, and a rest
    assert bootstrap(values, resamples=100) == pytest.approx(whole, rel=1e-12)


def test_no_more_is_held_at_a_time_than_said(monkeypatch: pytest.MonkeyPatch):
    drawn, draw = list[int](), _statistics._drawn
    monkeypatch.setattr(_statistics, "_drawn", lambda random, n, size: drawn.append(n * size) or draw(random, n, size))
    monkeypatch.setattr(_statistics, "_HELD", 1000)
    bootstrap(np.arange(400.0), resamples=5)
    assert drawn == [800, 800, 400]
