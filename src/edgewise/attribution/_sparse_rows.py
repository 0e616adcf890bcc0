"""Rows kept sparse: of each target its largest edges, and what all its edges add up to."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edgewise.runs import finest

ROOM = 4
"""How many times the edges that a row keeps in the end are held before the smallest are let go."""
SAMPLE = 8192
"""How many edges of a row's first piece tell below which size none will stay."""


class SparseRows(NamedTuple):
    """Rows of some targets, each its largest edges."""

    offsets: Int[Tensor, " offsets"]
    columns: Int[Tensor, " e"]
    weight: Float[Tensor, " e"]
    total: Float[Tensor, " K"]
    """Of each row, the sum of all edges, those that are cut too."""
    size: Float[Tensor, " K"]
    """The sum of their sizes (absolute values)."""

    def take(self, order: Int[Tensor, " K"]) -> "SparseRows":
        """The rows in another order."""
        counts, back = self.offsets.diff(), torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        entries = back.repeat_interleave(counts).argsort(stable=True)
        offsets = torch.cat([counts.new_zeros(1), counts[order].cumsum(0)])
        return SparseRows(offsets, self.columns[entries], self.weight[entries], self.total[order], self.size[order])

    def cpu(self) -> "SparseRows":
        """In the main memory."""
        return SparseRows(*(each.cpu() for each in self))

    @staticmethod
    def joined(pieces: Sequence["SparseRows"]) -> "SparseRows":
        """One after the other."""
        counts = torch.cat([piece.offsets.diff() for piece in pieces])
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return SparseRows(offsets, *(torch.cat(each) for each in zip(*(piece[1:] for piece in pieces), strict=True)))


class Cut(NamedTuple):
    """Which edges of a row are kept: the largest that have the share `keep` of its size together, at most `most`."""

    keep: float = 1.0
    most: int = 1 << 62


ALL = Cut()
"""Every edge."""


class Collector:
    """Collects the edges of a block of rows and lets go of small ones on the way."""

    def __init__(self, n_rows: int, n_columns: int, cut: Cut, like: Tensor) -> None:
        self.cut, self.most = cut, min(cut.most, n_columns)
        self.total, self.size = (like.new_zeros(n_rows, dtype=finest(like.device)) for _ in range(2))
        self.floor = like.new_zeros(n_rows)
        """What a row's edges must exceed: none below it is among its largest `most`."""
        self.count = like.new_zeros(n_rows, dtype=torch.long)
        """How many of each row are held, at the front of `weight` and `column`."""
        room = min(n_columns, ROOM * self.most)
        self.weight = like.new_zeros(n_rows, room)
        self.column = like.new_zeros(n_rows, room, dtype=torch.int32)

    def add(self, start: int, edges: Float[Tensor, "k n"]) -> None:
        """The edges of the first rows from columns that begin at `start`."""
        size, k = edges.abs(), len(edges)
        self.total[:k] += edges.sum(1)  # in single precision it is summed in a tree, and rounds little
        self.size[:k] += size.sum(1)
        if size.shape[1] > ROOM * self.most:
            self._raise_floor(size)
        large = size > self.floor[:k, None]
        row, column = large.nonzero(as_tuple=True)
        new = torch.bincount(row, minlength=k)
        full = (self.count[:k] + new > self.weight.shape[1]).nonzero()[:, 0]
        if len(full):
            self._let_go(full)
            large[full] = self._fitting(full, size[full])
            row, column = large.nonzero(as_tuple=True)
            new = torch.bincount(row, minlength=k)
        slot = torch.arange(len(row), device=row.device) + (self.count[:k] - new.cumsum(0) + new)[row]
        self.weight[row, slot], self.column[row, slot] = edges[row, column], (column + start).to(torch.int32)
        self.count[:k] += new

    def _raise_floor(self, size: Float[Tensor, "k n"]) -> None:
        """For rows without one: from a sample of columns, so low that half as many again stay as may in the end."""
        fresh = (self.floor[: len(size)] == 0).nonzero()[:, 0]
        step = max(1, size.shape[1] // SAMPLE)
        if len(fresh):
            sample = size[fresh, ::step]
            n = min(int(1.5 * self.most / step) + 8, sample.shape[1])
            lowest = sample.topk(n, dim=1).values[:, -1]
            self.floor[fresh] = lowest.nextafter(torch.zeros_like(lowest))  # those of this very size may stay

    def _let_go(self, rows: Int[Tensor, " r"]) -> None:
        """Of some rows, keep the largest, in order."""
        weight, column = self.weight[rows], self.column[rows]
        size, order = weight.abs().topk(self.most, dim=1)
        for held, found in ((self.weight, weight), (self.column, column)):
            held[rows] = torch.nn.functional.pad(found.gather(1, order), (0, held.shape[1] - self.most))
        self.floor[rows] = torch.maximum(self.floor[rows], size[:, -1])
        self.count[rows] = self.count[rows].clamp(max=self.most)

    def _fitting(self, rows: Int[Tensor, " r"], size: Float[Tensor, "r n"]) -> Bool[Tensor, "r n"]:
        """Which of some rows' new edges are large; of those that are more than there is room for, the largest."""
        large = size > self.floor[rows, None]
        wide = (self.count[rows] + large.sum(1) > self.weight.shape[1]).nonzero()[:, 0]
        if len(wide):
            largest = size[wide].topk(self.most, dim=1).indices
            large[wide] &= torch.zeros_like(large[wide]).scatter_(1, largest, True)
        return large

    def rows(self) -> SparseRows:
        """What is kept in the end."""
        self._let_go(torch.arange(len(self.total), device=self.total.device))
        size = self.weight[:, : self.most].abs().to(self.size.dtype)
        before = size.cumsum(1) - size
        row, place = ((size > 0) & (before < self.cut.keep * self.size[:, None])).nonzero(as_tuple=True)
        offsets = torch.nn.functional.pad(torch.bincount(row, minlength=len(size)).cumsum(0), (1, 0))
        return SparseRows(offsets, self.column[row, place], self.weight[row, place], self.total, self.size)
