"""Attention where only some tokens ask: where those stand, and what each of them sees."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from edgewise.engine._stream import Stream
from edgewise.models import Attention


class Places:
    """Some tokens of a batch, as the queries of attention."""

    def __init__(self, stream: Stream, tokens: Int[Tensor, " T"]) -> None:
        """Set up.

        Args:
            stream: the batch.
            tokens: which of its packed tokens, in any order.
        """
        packing = stream.packing
        (rows, columns), cell = packing.grid, packing.cell[tokens]
        row = cell // columns
        counts = torch.bincount(row, minlength=rows)
        order, starts = row.argsort(stable=True), counts.cumsum(0) - counts
        rank = torch.empty_like(row)  # within its example
        rank[order] = torch.arange(len(row), device=row.device) - starts[row[order]]
        self.tokens, self.packing, width = tokens, packing, int(counts.max())
        self.cell = row * width + rank
        """Where each stands in the examples' grid of queries, `[B, Q]`."""
        self.source = cell.new_zeros(rows * width)
        """Which of them stands in each cell of that grid; any in an empty one."""
        self.source[self.cell] = torch.arange(len(tokens), device=cell.device)
        self.column = cell.new_zeros(rows * width)
        self.column[self.cell] = cell % columns
        self._seen: dict[tuple[bool, int | None], Tensor] = {}

    def __len__(self) -> int:
        """T."""
        return len(self.tokens)

    def sees(self, attention: Attention) -> Bool[Tensor, "B Q S"]:
        """Which positions each query sees; at least one, in an empty cell too."""
        kind = attention.causal, attention.window
        if kind not in self._seen:
            rows, columns = self.packing.grid
            if attention.causal:
                distance = self.column.view(rows, -1, 1) - torch.arange(columns, device=self.column.device)
                near = columns if attention.window is None else attention.window
                self._seen[kind] = (distance >= 0) & (distance < near)
            else:
                self._seen[kind] = self.packing.real[:, None].expand(-1, len(self.column) // rows, -1)
        return self._seen[kind]


class Grid:
    """All of a batch's tokens, as the keys of attention."""

    def __init__(self, stream: Stream) -> None:
        """Set up.

        Args:
            stream: the batch.
        """
        packing, self.shape = stream.packing, stream.packing.grid
        self.source = packing.cell.new_zeros(self.shape[0] * self.shape[1])
        """Which token stands in each cell of `[B, S]`; any in an empty one."""
        self.source[packing.cell] = torch.arange(packing.n_tokens, device=packing.cell.device)
        self.rotary = None if stream.rotary is None else tuple(x.flatten(0, 1)[packing.cell] for x in stream.rotary)

    def placed(
        self,
        attention: Attention,
        x: Float[Tensor, "C T k"],
        tokens: Int[Tensor, " T"] | slice,
        role: Literal["query", "key"],
    ) -> Float[Tensor, "C T k"]:
        """One head's queries or keys of some tokens as their products are taken: normed and rotated."""
        x, rotary = x[:, None], None
        if self.rotary is not None:
            cosine, sine = (each[tokens].expand(len(x), -1, -1) for each in self.rotary)
            rotary = cosine, sine
        if role == "query":
            return attention.placed(x, x[:, :0], rotary)[0][:, 0]
        return attention.placed(x[:, :0], x, rotary)[1][:, 0]

    def attend(
        self,
        attention: Attention,
        query: Float[Tensor, "C h T k"],
        key: Float[Tensor, "c h N k"],
        value: Float[Tensor, "c h N v"],
        places: Places,
    ) -> Float[Tensor, "C h T v"]:
        """Each head's mixed values before W_O.

        Args:
            attention: the layer's.
            query: placed, of the tokens that ask, for C copies of the batch.
            key: placed, of all tokens; for each copy, or one for all.
            value: the same.
            places: the tokens that ask.
        """
        n, h = query.shape[:2]
        rows, columns = self.shape
        asking = query[:, :, places.source].view(n, h * rows, -1, query.shape[-1])
        keys, values = (
            x[:, :, self.source].view(len(x), h * rows, columns, -1).expand(n, -1, -1, -1) for x in (key, value)
        )
        sees = places.sees(attention).repeat(h, 1, 1)[None]
        mixed = functional.scaled_dot_product_attention(asking, keys, values, sees, scale=attention.scale)
        return mixed.reshape(n, h, -1, mixed.shape[-1])[:, :, places.cell]
