"""Noise without a state: the same numbers on every device, in every order, before and after a resume.

A number depends on (seed, step, index) alone, through a 64-bit mixing function (SplitMix64's finaliser; Steele, Lea &
Flood 2014), so no generator has to be saved, moved or kept in step between processes.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# SplitMix64's constants, as signed 64-bit integers: PyTorch has no unsigned multiplication, and two's complement gives
# the same bits.
_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def uniform(n: int, seed: int, step: int, stream: int = 0, device: torch.device | str = "cpu") -> Float[Tensor, " n"]:
    """Uniform numbers strictly inside (0, 1), as float32 with 23 random bits.

    Args:
        n: how many; number `i` does not depend on `n`.
        seed: the run's seed.
        step: the step within the run.
        stream: what the numbers are for, where one step needs several kinds.
        device: where to make them; the numbers are the same everywhere.
    """
    start = torch.tensor([seed, step, stream], dtype=torch.int64)
    key = torch.zeros(1, dtype=torch.int64)
    for part in start:
        key = _mix(key + part * _GAMMA + _GAMMA)
    counter = torch.arange(1, n + 1, dtype=torch.int64, device=device)
    bits = _mix(key.to(device) + counter * _GAMMA)
    top = (bits >> 41) & 0x7FFFFF  # 23 bits: a half more is still exact in float32
    return (top.float() + 0.5) / (1 << 23)


def random_keys(index: Int[Tensor, " n"], seed: int) -> Int[Tensor, " n"]:
    """Random whole numbers from 0 to 2⁶³ − 1, each of (seed, its index) alone. The entries with the smallest
    are a sample of all, in whatever order and however many at a time they come.

    Args:
        index: what tells entries apart.
        seed: the run's seed.
    """
    key = torch.zeros(1, dtype=torch.int64)
    for part in torch.tensor([seed, 0], dtype=torch.int64):  # 0 where `uniform` has what the numbers are for
        key = _mix(key + part * _GAMMA + _GAMMA)
    return _shift(_mix(key.to(index.device) + (index + 1) * _GAMMA), 1)


def normal(n: int, seed: int, step: int, stream: int = 0) -> Float[Tensor, " n"]:
    """Standard normal numbers, by inverting the distribution function of `uniform`'s."""
    return torch.special.ndtri(uniform(n, seed, step, stream).double()).float()


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    # A logical shift: PyTorch's is arithmetic, so the copied sign bits are cleared.
    return (x >> bits) & ((1 << (64 - bits)) - 1)
