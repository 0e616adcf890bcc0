"""The hard concrete distribution against its formula, by hand and by counting."""

import math

import pytest
import torch

from edgewise.discovery._hard_concrete import deterministic, probability_zero, sample
from edgewise.runs import uniform

BETA = 2 / 3


def test_probability_of_zero_is_the_published_one():
    found = probability_zero(torch.tensor([10.0, 0.0, -2.0])).tolist()
    assert found == [pytest.approx(9e-6, rel=0.03), pytest.approx(0.168, abs=5e-4), pytest.approx(0.599, abs=5e-4)]


def test_samples_are_what_one_works_out_by_hand():
    # s = σ((logit u + a) / β); at u = 1/2 and a = β logit(p) it is p, and at a = 0 it is u^1.5 / (u^1.5 + (1 - u)^1.5).
    by_hand = [
        (0.5, 0.0, 0.5),
        (0.5, BETA * math.log(3), 0.8),  # s = 3/4
        (0.5, -BETA * math.log(3), 0.2),  # s = 1/4
        (0.75, 0.0, 0.9063314),  # s = 0.8386095
        (0.2, 0.0, 0.0333333),  # s = 1/9
        (0.9, 0.0, 1.0),  # s = 27/28, so 1.0571 is clamped
        (0.1, 0.0, 0.0),  # s = 1/28, so -0.0571 is clamped
        (1e-6, 10.0, 0.0),
        (1e-4, 10.0, 0.8189372),  # logit u = -9.2102404, s = σ(1.1846394) = 0.7657810
    ]
    noise, log_alpha, expected = torch.tensor(by_hand, dtype=torch.float64).T
    torch.testing.assert_close(sample(log_alpha, noise), expected, rtol=0, atol=1e-6)


def test_gradient_is_that_of_the_formula_and_zero_where_clamped():
    noise = uniform(500, 0, 0).double()
    log_alpha = (uniform(500, 1, 0).double() * 8 - 4).requires_grad_()
    mask = sample(log_alpha, noise)
    (gradient,) = torch.autograd.grad(mask.sum(), log_alpha)
    clamped = (mask == 0) | (mask == 1)
    assert 100 < int(clamped.sum()) < 400
    assert not gradient[clamped].any()
    s = torch.sigmoid((torch.logit(noise) + log_alpha.detach()) / BETA)
    expected = 1.2 * s * (1 - s) / BETA
    torch.testing.assert_close(gradient[~clamped], expected[~clamped])
    assert (gradient[~clamped] > 0).all()
    h = 1e-6
    slope = (sample(log_alpha.detach() + h, noise) - sample(log_alpha.detach() - h, noise)) / (2 * h)
    torch.testing.assert_close(gradient, slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("log_alpha", [-4.0, -2.0, 0.0, 1.0, 3.0])
def test_zeros_and_ones_are_as_frequent_as_the_formula_says(log_alpha: float):
    n = 200_000
    mask = sample(torch.full((n,), log_alpha), uniform(n, 3, 0))
    for value, sign in ((0, 1), (1, -1)):  # by symmetry P(1) at log α is P(0) at -log α
        p = float(probability_zero(torch.tensor(sign * log_alpha)))
        assert abs(float((mask == value).float().mean()) - p) < 4.5 * math.sqrt(p * (1 - p) / n)
    assert mask.min() >= 0 and mask.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_of_the_noise_and_of_log_alpha_are_finite(dtype: torch.dtype):
    log_alpha = torch.tensor([-60.0, -10, 0, 10, 60], dtype=dtype, requires_grad=True)
    for u in (1e-6, 1 - 1e-6):
        mask = sample(log_alpha, torch.full((5,), u, dtype=dtype))
        (gradient,) = torch.autograd.grad(mask.sum(), log_alpha)
        assert torch.isfinite(mask).all() and torch.isfinite(gradient).all()


def test_the_mask_for_evaluation_is_the_codes():
    found = deterministic(torch.tensor([10.0, 0.0, -2.0, 1.0], dtype=torch.float64)).tolist()
    assert found == pytest.approx([0.999993856, 0.5, 0.083172696, 0.768524783], abs=1e-8)  # σ(1.2 log α)
