"""Attention where only some tokens ask: where those stand, and what each of them sees."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edgewise.engine._stream import Stream
from edgewise.models import Attention, block


class QueryPositions:
    """Some tokens of a batch, as the queries of attention."""

    def __init__(self, stream: Stream, tokens: Int[Tensor, " T"]) -> None:
        """Of some of a batch's packed tokens, in any order."""
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
            asking = self.column.view(rows, -1)  # (B, Q)
            seen = block.seen_keys(attention, asking, columns, self.packing.real)
            self._seen[kind] = seen.expand(-1, asking.shape[1], -1)
        return self._seen[kind]


class KeyPositions:
    """All of a batch's tokens, as the keys of attention."""

    def __init__(self, stream: Stream) -> None:
        packing, self.shape = stream.packing, stream.packing.grid
        self.layers = stream.parts.layers
        self.source = packing.cell.new_zeros(self.shape[0] * self.shape[1])
        """Which token stands in each cell of `[B, S]`; any in an empty one."""
        self.source[packing.cell] = torch.arange(packing.n_tokens, device=packing.cell.device)
        rotaries = {id(own.rotary): own.rotary for own in stream.contexts if own.rotary is not None}
        packed = {key: tuple(x.flatten(0, 1)[packing.cell] for x in rotary) for key, rotary in rotaries.items()}
        self.rotary = [packed.get(id(own.rotary)) for own in stream.contexts]
        """Each layer's cosines and sines at the packed tokens, `[N, rotary]`."""

    def placed(
        self, layer: int, x: Float[Tensor, "C n T k"], tokens: Int[Tensor, " T"] | slice, role: Literal["query", "key"]
    ) -> Float[Tensor, "C n T k"]:
        """Heads' queries or keys of some tokens as their products are taken: normed and rotated."""
        rotary, packed = None, self.rotary[layer]
        if packed is not None:
            cosine, sine = (table[tokens].expand(len(x), -1, -1) for table in packed)
            rotary = cosine, sine
        if role == "query":
            return block.placed(self.layers[layer].attention, x, x[:, :0], rotary)[0]
        return block.placed(self.layers[layer].attention, x[:, :0], x, rotary)[1]

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "C h T k"],
        key: Float[Tensor, "#C h N k"],
        value: Float[Tensor, "#C h N v"],
        positions: QueryPositions,
        heads: Sequence[int],
    ) -> Float[Tensor, "C h T v"]:
        """Some heads' mixed values before any post-norm, in C copies of the batch.

        Queries (of the tokens that ask, at `positions`) and keys are placed; keys and values may be one for all copies.
        """
        n, h = query.shape[:2]
        rows, columns = self.shape
        asking = query[:, :, positions.source].view(n, h * rows, -1, query.shape[-1])
        keys, values = (
            x[:, :, self.source].view(len(x), h * rows, columns, -1).expand(n, -1, -1, -1) for x in (key, value)
        )
        attention = self.layers[layer].attention
        sees = positions.sees(attention).repeat(h, 1, 1)[None]
        which = None  # of the heads, for sinks
        if attention.sinks is not None:
            which = torch.tensor(heads, device=sees.device).repeat_interleave(rows)
        mixed = block.attend(attention, asking, keys, values, sees, which)
        return mixed.reshape(n, h, -1, mixed.shape[-1])[:, :, positions.cell]
