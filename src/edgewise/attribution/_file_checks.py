"""Whether what a file says is a graph: columns of one length, numbers in their ranges, sources before their targets."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def check_columns(columns: Mapping[str, Tensor], n: int, whole: bool) -> None:
    """Columns of `n` whole, or finite, numbers. Raises `ValueError`."""
    for name, column in columns.items():
        if column.shape != (n,) or (column.dtype == torch.int64) != whole or not (whole or _is_finite(column)):
            raise ValueError(f"{name} is no column of {n:,} {'whole' if whole else 'finite'} numbers")


def check_range(name: str, numbers: Tensor, low: int, high: int) -> None:
    """Numbers of at least `low` and below `high`. Raises `ValueError`."""
    if len(numbers) and not bool(((numbers >= low) & (numbers < high)).all()):
        raise ValueError(f"{name} has a number outside {low} to {high - 1}")


def check_texts(**texts: Sequence[Any]) -> None:
    """Texts. Raises `ValueError`."""
    for name, each in texts.items():
        if not all(isinstance(text, str) for text in each):
            raise ValueError(f"{name} are not all texts")


def check_records(**records: Any) -> None:
    """Objects with names. Raises `ValueError`."""
    for name, each in records.items():
        if not isinstance(each, dict):
            raise ValueError(f"its {name} is no object with names")


def check_rows(offsets: Tensor, sources: Tensor, n: int, n_sources: int | None = None) -> None:
    """Where each of `n` targets' edges begin, and each edge's source, one of as many if not told. Raises
    `ValueError`.
    """
    check_columns({"offsets": offsets}, n + 1, whole=True)
    check_columns({"sources": sources}, len(sources), whole=True)
    if int(offsets[0]) or int(offsets[-1]) != len(sources) or bool((offsets.diff() < 0).any()):
        raise ValueError("its offsets are not where its edges are")
    check_range("sources", sources, 0, n if n_sources is None else n_sources)


def _is_finite(column: Tensor) -> bool:
    return column.is_floating_point() and bool(column.isfinite().all())
