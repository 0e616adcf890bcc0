"""Packed tokens: the real tokens of a batch in one row, padding left out.

Everything but attention works token by token, so the engine carries `[N, …]` with no padding at all; only attention
unpacks to `[B, S]`, always with padding on the right. A prompt's result therefore cannot depend on which side it was
padded or what it was batched with.

Tokens are ordered by the row of masks that they use (circuit, then position group), so that a run of tokens with one
mask is contiguous.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.models import Tokens


class Segment(NamedTuple):
    """A run of packed tokens that share one row of masks."""

    start: int
    stop: int
    row: int
    """Which row of the `[C * P, E]` masks they use."""


@dataclass(frozen=True)
class Packing:
    """Where the packed tokens of `C` copies of a batch stand."""

    ids: Int[Tensor, "B S"]
    """Token ids with padding moved to the right."""
    real: Bool[Tensor, "B S"]
    positions: Int[Tensor, "B S"]
    """Position of each token within its prompt."""
    cell: Int[Tensor, " N"]
    """Cell `(c * B + b) * S + s` of each packed token in the `[C * B, S]` grid."""
    example_token: Int[Tensor, " N"]
    """Which token of the single batch, packed in plain order, each packed token is a copy of."""
    segments: tuple[Segment, ...]
    n_copies: int
    shift: Int[Tensor, " B"]
    """How many columns each prompt moved to the left."""

    @property
    def n_tokens(self) -> int:
        """N, the number of packed tokens (C copies counted)."""
        return len(self.cell)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows (C copies counted) and columns of the padded grid."""
        return self.n_copies * self.ids.shape[0], self.ids.shape[1]

    @property
    def full(self) -> bool:
        """Whether no prompt is padded."""
        return bool(self.real.all())

    @property
    def is_plain(self) -> bool:
        """Whether this is one copy of the whole batch in plain order."""
        return self.n_copies == 1 and len(self.segments) == 1 and self.n_tokens == int(self.real.sum())

    def token_positions(self) -> Int[Tensor, " N"]:
        """Position of each packed token within its prompt."""
        return self.cell % self.ids.shape[1]

    def rows(self) -> Int[Tensor, " N"]:
        """The row of masks that each packed token uses."""
        lengths = torch.tensor([segment.stop - segment.start for segment in self.segments], dtype=torch.long)
        rows = torch.tensor([segment.row for segment in self.segments], dtype=torch.long)
        return rows.repeat_interleave(lengths).to(self.cell.device)

    def only(self, chosen: Bool[Tensor, " n"]) -> "Packing":
        """Some tokens of the batch, given in plain order, in every copy."""
        if bool(chosen.all()):
            return self
        kept, segments, start = chosen[self.example_token], [], 0
        for segment in self.segments:
            if count := int(kept[segment.start : segment.stop].sum()):
                segments.append(Segment(start, start + count, segment.row))
                start += count
        return replace(self, cell=self.cell[kept], example_token=self.example_token[kept], segments=tuple(segments))

    def part(self, start: int, stop: int) -> "Packing":
        """Packed tokens `start` to before `stop`, of the same grid."""
        ends = [(max(own.start, start), min(own.stop, stop), own.row) for own in self.segments]
        segments = tuple(Segment(low - start, high - start, row) for low, high, row in ends if low < high)
        cell, example_token = self.cell[start:stop], self.example_token[start:stop]
        return replace(self, cell=cell, example_token=example_token, segments=segments)

    def unpack(
        self, x: Float[Tensor, "N n k"], more: tuple[Int[Tensor, " M"], Float[Tensor, "M n k"]] | None = None
    ) -> Float[Tensor, "CB n S k"]:
        """From packed tokens, and `more` given with their cells, to the padded grid, heads first; the rest is zero."""
        rows, columns = self.grid
        grid = x.new_zeros(rows * columns, *x.shape[1:])
        grid[self.cell] = x
        if more is not None:
            grid[more[0]] = more[1]
        return grid.view(rows, columns, *x.shape[1:]).transpose(1, 2)

    def pack(self, grid: Float[Tensor, "CB n S k"]) -> Float[Tensor, "N n k"]:
        """The inverse of `unpack`."""
        return grid.transpose(1, 2).flatten(0, 1)[self.cell]

    def where(self, row: Int[Tensor, " A"], column: Int[Tensor, " A"]) -> Int[Tensor, " CA"]:
        """Packed indices of tokens given as (prompt, column of the original ids), circuit by circuit; −1 for those that
        are not packed.
        """
        batch, columns = self.ids.shape
        index = torch.full((self.n_copies * batch * columns,), -1, device=self.cell.device)
        index[self.cell] = torch.arange(self.n_tokens, device=self.cell.device)
        cells = row * columns + column - self.shift[row]
        copies = torch.arange(self.n_copies, device=cells.device)[:, None] * (batch * columns)
        return index[(copies + cells).flatten()]


def pack(tokens: Tokens, n_copies: int = 1, groups: Int[Tensor, "B S"] | None = None, n_groups: int = 1) -> Packing:
    """Pack `C` copies of a batch, whose tokens are in `P` position groups (see `Batch.span_id`), or in one if None.

    Raises `InputError` if a prompt has padding in its middle, or no token, or a group outside `[0, P)`.
    """
    mask = tokens.mask
    length = mask.sum(1)
    shift = mask.int().argmax(1)
    columns = torch.arange(mask.shape[1], device=mask.device)
    inside = (columns >= shift[:, None]) & (columns < (shift + length)[:, None])
    if not torch.equal(inside, mask) or not bool((length > 0).all()):
        bad = int(((inside != mask).any(1) | (length == 0)).nonzero()[0, 0])
        raise InputError(
            f"batch: example {bad} is empty or has padding in its middle; pad on the left or on the right only"
        )
    span = int(length.max())
    source = (columns[:span] + shift[:, None]).clamp(max=mask.shape[1] - 1)
    real = columns[:span] < length[:, None]
    ids = tokens.ids.gather(1, source).where(real, 0)

    cell = real.flatten().nonzero()[:, 0]  # (n,) the single batch in plain order
    row = torch.zeros_like(cell) if groups is None or n_groups == 1 else groups.gather(1, source).flatten()[cell]
    check_groups(row, n_groups)
    order = row.argsort(stable=True)
    counts = torch.bincount(row, minlength=n_groups).tolist()
    segments, start = [], 0
    for copy in range(n_copies):
        for group, count in enumerate(counts):
            if count:
                segments.append(Segment(start, start + count, copy * n_groups + group))
            start += count
    copies = torch.arange(n_copies, device=cell.device)[:, None]
    return Packing(
        ids,
        real,
        columns[:span].expand_as(ids),
        (copies * ids.numel() + cell[order]).flatten(),
        order.repeat(n_copies),
        tuple(segments),
        n_copies,
        shift,
    )


def check_groups(groups: Int[Tensor, " n"], n_groups: int) -> None:
    """Raise `InputError` unless the position groups of real tokens lie in `[0, P)`."""
    if len(groups) and not 0 <= int(groups.min()) <= int(groups.max()) < n_groups:
        raise InputError(
            f"span_id: groups must lie in 0 to {n_groups - 1}, as many as the mask has; got {int(groups.min())} to "
            f"{int(groups.max())}"
        )
