"""Rows that are collected piece by piece keep what sorting the whole row would keep."""

import pytest
import torch

from edgewise.attribution import _sparse_rows
from edgewise.attribution._sparse_rows import Collector, Cut, SparseRows


def pieces(n_rows: int, widths: tuple[int, ...], joining: int) -> list[torch.Tensor]:
    """Edges whose sizes differ by orders of magnitude; rows join from piece to piece."""
    generator = torch.Generator().manual_seed(len(widths))
    counts = [min(n_rows, joining * (i + 1)) for i in range(len(widths))]
    return [
        torch.randn(k, n, generator=generator, dtype=torch.float64).exp()
        * torch.randn(k, n, generator=generator, dtype=torch.float64).sign()
        for k, n in zip(counts, widths, strict=True)
    ]


def collected(found: list[torch.Tensor], n_rows: int, cut: Cut) -> SparseRows:
    total = sum(piece.shape[1] for piece in found)
    collector, start = Collector(n_rows, total, cut, found[0]), 0
    for piece in found:
        collector.add(start, piece)
        start += piece.shape[1]
    return collector.rows()


def dense(rows: SparseRows, n_columns: int) -> torch.Tensor:
    out = rows.weight.new_zeros(len(rows.total), n_columns)
    row = torch.repeat_interleave(rows.offsets.diff())
    return out.index_put_((row, rows.columns.long()), rows.weight)


@pytest.mark.parametrize("keep", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("most", [1, 7, 60, 10**9])
@pytest.mark.parametrize("sample", [16, 8192])
def test_each_rows_largest_edges_are_kept(keep: float, most: int, sample: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sparse_rows, "SAMPLE", sample)
    n_rows, widths = 5, (40, 300, 3, 90, 1000, 20, 500)
    found = pieces(n_rows, widths, joining=2)
    whole = torch.zeros(n_rows, sum(widths), dtype=torch.float64)
    for piece, part in zip(found, whole.split(widths, dim=1), strict=True):
        part[: len(piece)] = piece
    rows = collected(found, n_rows, Cut(keep, most))
    size = whole.abs()
    torch.testing.assert_close(rows.total, whole.sum(1))
    torch.testing.assert_close(rows.size, size.sum(1))
    ordered, order = size.sort(dim=1, descending=True)
    before = ordered.cumsum(1) - ordered
    stays = (ordered > 0) & (before < keep * size.sum(1, keepdim=True)) & (torch.arange(size.shape[1]) < most)
    expected = torch.zeros_like(whole).scatter_(1, order, torch.where(stays, whole.gather(1, order), 0.0))
    torch.testing.assert_close(dense(rows, whole.shape[1]), expected)
    assert rows.offsets.diff().tolist() == stays.sum(1).tolist()


def test_edges_of_equal_size_are_no_more_than_asked_for() -> None:
    found = [torch.ones(2, 50) * sign for sign in (1, -1, 1)]
    rows = collected(found, 2, Cut(most=3))
    assert rows.offsets.tolist() == [0, 3, 6]
    assert rows.weight.abs().tolist() == [1.0] * 6
    assert rows.size.tolist() == [150.0, 150.0]


@pytest.mark.parametrize("most", [1, 2])
def test_of_few_columns_too(most: int) -> None:
    for width in range(1, 20):
        found = pieces(2, (width, width), joining=1)
        rows, whole = collected(found, 2, Cut(most=most)), torch.cat([found[0], found[1][:1]], 1)
        expected = whole.abs().topk(min(most, 2 * width)).values[0]
        torch.testing.assert_close(rows.weight[: int(rows.offsets[1])].abs(), expected)


def test_a_row_without_edges_stays_empty() -> None:
    rows = collected([torch.tensor([[0.0, 0.0], [2.0, 0.0]])], 3, Cut(most=1))
    assert rows.offsets.tolist() == [0, 0, 1, 1]
    assert rows.take(torch.tensor([1, 0, 2])).weight.tolist() == [2.0]
