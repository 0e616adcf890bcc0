"""What PyTorch may do to products of float32 matrices, for the length of a run.

PyTorch has one setting for the whole process (`torch.set_float32_matmul_precision`); it is put back after each run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias, get_args

Matmul: TypeAlias = Literal["highest", "high", "medium"]
"""How exactly float32 matrices are multiplied, in PyTorch's words."""

MATMULS: tuple[Matmul, ...] = get_args(Matmul)
"""All kinds of `Matmul`."""


@contextmanager
def matmul_precision(level: Matmul) -> Iterator[None]:
    """Set PyTorch's precision of float32 products, and put it back."""
    import torch  # not above: the command line names the levels without it

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(level)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
