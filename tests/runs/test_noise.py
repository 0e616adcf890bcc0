"""The noise is the hash it claims to be, the same whoever asks for it, and as good as random."""

import itertools
import math

import pytest
import torch
from scipy import stats

from edgewise.runs import normal, uniform

_GAMMA = 0x9E3779B97F4A7C15
_ALL = (1 << 64) - 1
RESOLUTION = 2.0**-23

KEYS = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (7, 2999, 4), (2**62, 10**6, 101), (-1, 5, 2)]


def _mix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _ALL
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _ALL
    return x ^ x >> 31


def _hash(seed: int, step: int, stream: int, index: int) -> int:
    key = 0
    for part in (seed, step, stream):
        key = _mix(key + (part + 1) * _GAMMA & _ALL)
    return _mix(key + (index + 1) * _GAMMA & _ALL)


def test_the_hash_of_this_test_is_splitmix64():
    # The generator's published output for seed 0.
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert [_mix(i * _GAMMA & _ALL) for i in (1, 2, 3, 4)] == published


@pytest.mark.parametrize("key", KEYS)
def test_numbers_are_the_hash_in_big_integers(key: tuple[int, int, int]):
    found = uniform(200, *key)
    for index, value in enumerate(found.tolist()):
        assert abs(value - _hash(*key, index) / 2**64) <= RESOLUTION


def test_golden_numbers():
    golden = {
        (0, 0, 0): [0.129645618, 0.049920066, 0.670328370, 0.690541307],
        (3, 1000, 1): [0.632316959, 0.573892080, 0.313951542, 0.803618733],
    }
    for key, expected in golden.items():
        torch.testing.assert_close(uniform(4, *key), torch.tensor(expected), rtol=0, atol=2 * RESOLUTION)


@pytest.mark.parametrize("draw", [uniform, normal])
def test_numbers_depend_on_seed_step_stream_and_index_alone(draw, default_dtype):
    first = [draw(64, *key) for key in KEYS]
    torch.rand(3)
    state = torch.get_rng_state()
    for key, expected in reversed(list(zip(KEYS, first, strict=True))):
        for n in (1, 63, 64, 1000):
            found = draw(n, *key)
            assert found.dtype == torch.float32
            assert torch.equal(found[:64], expected[:n])
    assert torch.equal(torch.get_rng_state(), state)  # and nobody else's numbers change


@pytest.fixture(params=[torch.float32, torch.float64, torch.bfloat16])
def default_dtype(request):
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_numbers_are_the_same_on_every_device():
    assert torch.equal(uniform(1000, 3, 4, 5, "cuda").cpu(), uniform(1000, 3, 4, 5))


def test_numbers_are_strictly_inside_the_unit_interval():
    # Draw 2,043,536 of step 1 is the largest that the hash gives: rounding to float32 must not carry it to 1.
    drawn = uniform(2_043_537, 0, 1)
    assert float(drawn.min()) > 0 and float(drawn.max()) < 1
    assert torch.isfinite(normal(2_043_537, 0, 1)[-1])


@pytest.mark.parametrize("key", KEYS)
def test_numbers_are_uniform(key: tuple[int, int, int]):
    drawn = uniform(50_000, *key)
    assert stats.chisquare(torch.histc(drawn, 100, 0, 1).numpy()).pvalue > 1e-3
    assert stats.kstest(drawn.numpy(), "uniform").pvalue > 1e-3


def test_neighbours_are_independent():
    drawn = uniform(60_001, 11, 0)
    cells = (drawn[:-1] * 16).long() * 16 + (drawn[1:] * 16).long()
    assert stats.chisquare(torch.bincount(cells, minlength=256).numpy()).pvalue > 1e-3


def test_one_edge_is_uniform_over_the_steps():
    drawn = torch.stack([uniform(3, 0, step, 1) for step in range(3000)])  # a run of the paper's length
    for edge in range(3):
        assert stats.chisquare(torch.histc(drawn[:, edge], 30, 0, 1).numpy()).pvalue > 1e-3
    assert abs(float(torch.corrcoef(drawn.T[:2])[0, 1])) < 4 / math.sqrt(3000)


def test_seeds_steps_and_streams_are_independent():
    n = 20_000
    keys = list(itertools.product((0, 1, 2), (0, 1, 2), (0, 1, 2)))  # (1, 0, 0) must not be (0, 1, 0), and so on
    correlation = torch.corrcoef(torch.stack([uniform(n, *key) for key in keys]))
    correlation.fill_diagonal_(0)
    assert float(correlation.abs().max()) < 4.5 / math.sqrt(n)


def test_normal_numbers_have_the_moments_of_a_normal():
    n = 100_000
    drawn = normal(n, 5, 0).double()
    assert abs(float(drawn.mean())) < 4 / math.sqrt(n)
    assert abs(float(drawn.var()) - 1) < 4 * math.sqrt(2 / n)
    assert abs(float(drawn.pow(3).mean())) < 4 * math.sqrt(15 / n)
    assert abs(float(drawn.pow(4).mean()) - 3) < 4 * math.sqrt(96 / n)
    assert stats.kstest(drawn.numpy(), "norm").pvalue > 1e-3


def test_normal_numbers_are_quantiles_of_the_uniform_ones():
    expected = stats.norm.ppf(uniform(1000, 5, 3, 2).double().numpy())
    torch.testing.assert_close(normal(1000, 5, 3, 2), torch.from_numpy(expected).float(), rtol=1e-6, atol=1e-6)
