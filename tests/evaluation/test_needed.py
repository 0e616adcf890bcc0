"""Edges needed for a value: against numbers worked out by hand."""

import numpy as np
import pytest

from edgewise.evaluation import edges_needed
from tests.tiny import ends, refused


def flat(means: list[float], n: int = 20) -> np.ndarray:
    """Values that are the same for every example, so that the interval has no width."""
    return np.repeat(np.array(means)[:, None], n, axis=1)


def test_between_two_sizes_it_lies_on_a_line_over_the_logarithm():
    # From 3 at 10 edges to 1 at 1,000: 2 is half-way, so at 100 edges.
    found = edges_needed([10, 1000], flat([3.0, 1.0]), np.full(20, 2.0))
    assert found == pytest.approx((100, 100, 100))
    found = edges_needed([10, 1000, 4000], flat([3.0, 1.0, 0.5]), np.full(20, 0.75))
    assert found.edges == pytest.approx(2000)


def test_the_first_time_that_it_is_reached_counts():
    assert edges_needed([1, 10, 100, 1000], flat([4.0, 2.0, 3.0, 1.0]), np.full(20, 2.5)).edges == pytest.approx(
        10**0.75
    )


def test_what_lies_outside_the_measured_sizes_is_said_to():
    assert edges_needed([10, 100], flat([1.0, 0.5]), np.full(20, 1.0)) == (0, 0, 0)
    assert edges_needed([10, 100], flat([1.0, 0.5]), np.full(20, 0.4)) == (np.inf,) * 3


def test_one_example_has_no_interval():
    assert edges_needed([10, 1000], flat([3.0, 1.0], 1), np.full(1, 2.0)) == (pytest.approx(100), None, None)


def test_the_interval_resamples_the_same_examples_for_both():
    generator = np.random.default_rng(0)
    hard = generator.uniform(0, 5, 50)  # some examples are hard for every circuit alike
    values = np.stack([hard + 2.0, hard + 1.0])
    found = edges_needed([10, 1000], values, hard + 1.5)
    assert found == pytest.approx((100, 100, 100))
    unpaired = edges_needed([10, 1000], values, generator.permutation(hard) + 1.5)
    low, high = ends(unpaired)
    assert low < 90 and high > 110


@pytest.mark.unchecked
def test_what_is_no_curve_is_refused():
    refused(lambda: edges_needed([100, 10], flat([1.0, 2.0]), np.ones(20)))
    refused(lambda: edges_needed([10, 100], flat([1.0, 2.0]), np.ones(19)))
    refused(lambda: edges_needed([], np.ones((0, 20)), np.ones(20)))
    refused(lambda: edges_needed([10, 100], flat([1.0, 2.0]), np.ones(20), resamples=0))
    for place in (0, 1):  # which would be no size, or infinity
        values, target = flat([2.0, 1.0]), np.ones(20)
        (values if place else target)[..., 3] = np.nan
        assert "NaN" in refused(lambda values=values, target=target: edges_needed([10, 100], values, target))
