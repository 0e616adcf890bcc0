"""Circuits that differ in one reader's input, run from that reader on.

A search from the output towards the input leaves everything before the reader that it is at untouched: there the model
runs as it is, and one clean run serves every candidate. What comes after is run for all candidates at once, as copies
of the batch, and only as far as it is alive. A later reader's input is the sum of what no candidate changes, made once
for each block of readers that is visited, and of what the candidates' own copies write.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edgewise.engine._formulas import mlp_writes, normed
from edgewise.engine._packing import Packing, pack
from edgewise.engine._stream import Stream
from edgewise.engine._writes import make_rotary
from edgewise.graph import Graph
from edgewise.models import Rotary, Tokens

COPY_BYTES = 192 << 20
"""How much the copies of one run of candidates may take, about."""


class Later(NamedTuple):
    """A block of readers after the one that is visited, as far as it is alive."""

    number: int
    fixed: Float[Tensor, "c N D"]
    """What no candidate changes, for each class of readers with equal masks (at the targets alone for `logits`)."""
    mask: Float[Tensor, "c w"]
    """Each class's masks over the writers from the visited block's own on."""
    reads: Bool[Tensor, "c w"]
    """The same on the host."""
    plain: Bool[Tensor, " c"]
    """Which classes keep the edges from all of those that run."""
    readers: Int[Tensor, " n"]
    """The readers that run, counted within their block: queries, keys, values."""
    class_of: Int[Tensor, " n"]
    heads: Int[Tensor, " h"]
    """The query heads that run; none but for attention."""
    key_of_head: Int[Tensor, " h"]
    """For each of them, which of the running keys it uses."""


class Copies(NamedTuple):
    """The batch, several times."""

    packing: Packing
    rotary: Rotary | None
    real: Bool[Tensor, "CB S"] | None
    targets: Int[Tensor, " CA"]


@dataclass
class Written:
    """What the copies have written so far, beyond what no candidate changes."""

    total: Float[Tensor, "CN D"]
    written: list[tuple[slice | Tensor, Float[Tensor, "o CN D"]]] | None
    """With its columns among the later writers'; None where the total is all that anyone reads."""
    held: tuple[int, Tensor, Tensor] | None = None
    """A layer and what its heads wrote, until its MLP has read."""

    def add(self, columns: slice | Tensor, new: Float[Tensor, "o CN D"]) -> None:
        """Write."""
        self.total = self.total + new.sum(0)
        if self.written is not None:
            self.written.append((columns, new))

    def release(self, before: int) -> None:
        """Write what was held, if it is of an earlier layer."""
        if self.held is not None and self.held[0] < before:
            (_, columns, new), self.held = self.held, None
            self.add(columns, new)


class Downstream:
    """A circuit that is being cut from the output towards the input, one block of readers at a time.

    `enter` a block, then `open` one of its readers, run `candidates`, and `close` the reader with what was decided.
    Every number follows from the edges kept at `enter` and `close`, so a search that was cut short resumes exactly.
    """

    def __init__(self, stream: Stream, clean: Tokens) -> None:
        """Set up with everything kept.

        Args:
            stream: the batch's clean run.
            clean: the clean prompts.
        """
        self.stream, self.tokens = stream, clean
        self.parts, self.graph, self.n_tokens = stream.parts, stream.graph, stream.packing.n_tokens
        self.all = torch.arange(self.n_tokens, device=stream.clean[0].device)
        self.copies: dict[int, Copies] = {}

    @torch.no_grad()
    def full(self) -> Float[Tensor, "A V"]:
        """The full model's logits at the targets, by the formulas that the candidates run by."""
        return self._unembed(self.stream.clean[-1][self.stream.targets])

    # ------------------------------------------------------------------------------------------------------- the state

    @torch.no_grad()
    def enter(self, number: int, kept: Bool[Tensor, " E"]) -> None:
        """Go to a block of readers. All blocks before it must be whole in `kept`."""
        graph, self.number, self.kept = self.graph, number, kept.clone()
        self.block, self.layer = graph.blocks[number], number // 2
        self.alive = graph.prune(kept, self.stream.engine.ablation.kind)
        self.live = torch.zeros(graph.n_writers, dtype=torch.bool)
        self.live[graph.edge_writer[self.alive].long()] = True
        if self.block.kind == "logits":
            self.own, self.later = slice(graph.n_writers, graph.n_writers), []
            return
        self.own = graph.writers_of(self.block)
        self.aside: Float[Tensor, "N D"] | None = None  # a parallel block's MLP, beside its attention
        first = number + 1
        if self.block.kind == "attention":
            if self.parts.parallel:
                first, mlp = number + 2, graph.blocks[number + 1]
                self.aside = self._mlp_difference(self.layer, self._input(mlp.reader, number + 1))
            inputs = range(self.block.n_readers)
            self.projected = torch.cat([self._projected(r, self._input(self.block.reader + r, number)) for r in inputs])
        self.later = [later for n in range(first, len(graph.blocks)) if (later := self._later(n)) is not None]
        self._add_fixed()
        self._settle()

    def feeds(self, reader: int) -> slice:
        """The writers of the visited block that a reader feeds, counted within their layer's."""
        place, heads, keys = reader - self.block.reader, self.parts.n_heads, self.graph.n_kv_readers
        if self.block.kind == "mlp":
            return slice(0, 1)
        if place < heads:
            return slice(place, place + 1)
        key, group = (place - heads) % keys, heads // keys
        return slice(key * group, (key + 1) * group)

    def matters(self, reader: int) -> bool:
        """Whether anything alive reads what the reader feeds."""
        return self.block.kind == "logits" or bool(self.live[self.own][self.feeds(reader)].any())

    @torch.no_grad()
    def open(self, reader: int) -> None:
        """Turn to a reader of the block."""
        self.reader, self.input = reader, self._input(reader, self.number)

    @torch.no_grad()
    def drop(self, writers: list[int]) -> None:
        """Take edges into the open reader away from all candidates to come."""
        self.input = self.input - self._differences(writers).sum(0)

    @torch.no_grad()
    def close(self, kept: Bool[Tensor, " E"]) -> None:
        """Leave the reader, its edges decided: what it feeds is made again."""
        edges = slice(int(self.graph.offset[self.reader]), int(self.graph.offset[self.reader] + self.block.n_writers))
        if torch.equal(self.kept[edges], kept[edges]):
            return
        self.kept[edges] = kept[edges]
        if self.block.kind == "attention":
            place = self.reader - self.block.reader
            self.projected[place] = self._projected(place, self._input(self.reader, self.number))[0]
            self._settle()

    def _input(self, reader: int, number: int) -> Float[Tensor, "N D"]:
        """The input of a reader of the visited block (or of a parallel block's MLP) under what is kept now."""
        clean, first = self.stream.clean[number], int(self.graph.offset[reader])
        tokens = self.stream.targets if number == len(self.graph.blocks) - 1 else self.all
        removed = ~self.kept[first : first + int(self.graph.visible[reader])]
        return clean[tokens] - self._mixed(removed[None].to(clean), tokens)[0]

    def _mixed(self, mask: Float[Tensor, "m w"], tokens: Int[Tensor, " T"]) -> Float[Tensor, "m T D"]:
        """`Σ_w m_w Δ_w` of the clean run over a prefix of the writers, one layer's at a time."""
        total = mask.new_zeros(len(mask), len(tokens) * self.parts.d_model)
        starts = [0, *range(self.graph.n_embeddings, mask.shape[1], self.parts.n_heads + 1), mask.shape[1]]
        for start, stop in pairwise(starts):
            if bool(mask[:, start:stop].any()):
                differences = self.stream.differences(tokens, slice(start, stop)).flatten(1)
                total.addmm_(mask[:, start:stop], differences)
        return total.view(len(mask), len(tokens), -1)

    def _projected(self, place: int, x: Float[Tensor, "C N D"] | Float[Tensor, "N D"]) -> Tensor:
        """One reader's projection, `[1, N, k]` (`[C, N, k]` of several inputs)."""
        attention = self.parts.layers[self.layer].attention
        projections, heads, keys = self.stream.projections(attention), self.parts.n_heads, self.graph.n_kv_readers
        kind, index = (0, place) if place < heads else divmod(place - heads + keys, keys)
        y = normed(attention.norm, x) @ projections[kind].weight[index].to(x.dtype)
        bias = projections[kind].bias
        return (y if bias is None else y + bias[index]).view(-1, *y.shape[-2:])

    def _mlp_difference(self, layer: int, x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
        return mlp_writes(self.parts.layers[layer], x) - self.stream.ablated.mlp(layer).detach()

    def _later(self, number: int) -> Later | None:
        block, graph = self.graph.blocks[number], self.graph
        heads = keys = torch.zeros(0, dtype=torch.long)
        readers, key_of_head = torch.zeros(1, dtype=torch.long), heads
        if block.kind == "attention":
            heads, n = self.live[graph.writers_of(block)].nonzero()[:, 0], graph.n_kv_readers
            keys, key_of_head = torch.unique(heads // (self.parts.n_heads // n), return_inverse=True)
            readers = torch.cat([heads, self.parts.n_heads + keys, self.parts.n_heads + n + keys])
        elif block.kind == "mlp" and not bool(self.live[graph.writers_of(block)]):
            return None
        if not len(readers):
            return None
        rows = self.alive[block.edges].view(block.n_readers, block.n_writers)[readers]
        classes, class_of = torch.unique(rows, dim=0, return_inverse=True)
        own = classes[:, self.own.start :]
        running = self.live[self.own.start : block.n_writers]
        device, dtype = self.all.device, self.stream.dtype
        fixed = classes[:, : self.own.start].to(device, dtype)  # summed by `_add_fixed`
        places = (readers, class_of, heads, key_of_head)  # on the host, which may index on any device
        return Later(number, fixed, own.to(device, dtype), own, (own | ~running).all(1), *places)

    def _add_fixed(self) -> None:
        """Sum what all later readers get from the writers before the visited block's own."""
        last = len(self.graph.blocks) - 1
        inner = [later for later in self.later if later.number != last]
        sums: list[Tensor] = []
        if inner:
            masks = torch.cat([later.fixed for later in inner])
            sums = list(self._mixed(masks, self.all).split([len(later.fixed) for later in inner]))
        sums += [self._mixed(later.fixed, self.stream.targets) for later in self.later[len(inner) :]]
        for i, (later, total) in enumerate(zip(self.later, sums, strict=True)):
            tokens = self.stream.targets if later.number == last else self.all
            total = total + self._base(later.number, tokens)
            if self.aside is not None:  # the column right after the heads' own
                mlp = later.mask[:, self.own.stop - self.own.start]
                total = total + mlp[:, None, None] * self.aside[tokens]
                later.mask[:, self.own.stop - self.own.start] = 0  # it is fixed
                later.reads[:, self.own.stop - self.own.start] = False
            self.later[i] = later._replace(fixed=total)

    def _base(self, number: int, tokens: Int[Tensor, " T"]) -> Float[Tensor, "M D"]:
        base = self.stream.ablated.base(number).detach().to(self.stream.dtype)
        base = base if len(base) == 1 else base[tokens]
        return base if self.graph.n_embeddings else base + self.stream.clean[0][tokens]

    def _settle(self) -> None:
        """What the visited block's own writers give under what is kept, as it stands in later readers' inputs."""
        if self.block.kind == "mlp":
            now = self._mlp_difference(self.layer, self._input(self.block.reader, self.number))[None]
        else:
            mixed = self.stream.mix(self.layer, self.projected) - self.stream.ablated.heads(self.layer).detach()
            now = self.stream.expand(self.layer, slice(None), mixed).transpose(0, 1)
        self.now: Float[Tensor, "o N D"] = now

    # -------------------------------------------------------------------------------------------------- the candidates

    def room(self) -> int:
        """How many candidates one run may have."""
        width, n = self.parts.d_model, self.n_tokens
        hidden = self.parts.layers[0].mlp.up.shape[1]
        stacked = int(self.live[self.own.start :].sum()) if any(not x.plain.all() for x in self.later) else 0
        readers = max([len(x.readers) for x in self.later], default=0)
        per_copy = n * (width * (stacked + readers + 6) + 3 * hidden) if self.later else 0
        out = self.parts.unembed(self.stream.clean[0][:1]).shape[1] * len(self.stream.targets) * 3
        return max(1, min(64, COPY_BYTES // (self.stream.clean[0].element_size() * (per_copy + out))))

    @torch.no_grad()
    def candidates(self, writers: list[int], removed: Float[Tensor, "C n"]) -> Float[Tensor, "C A V"]:
        """The logits of circuits that lack some more edges into the open reader.

        Args:
            writers: n writers that it reads.
            removed: which of them each candidate lacks, 1 or 0.
        """
        differences = self._differences(writers)
        inputs = self.input - torch.einsum("cn,ntd->ctd", removed.to(differences), differences)
        if self.block.kind == "logits":
            return self._unembed(inputs)
        copies = self._copies(len(inputs))
        fed = self.feeds(self.reader)
        if self.block.kind == "mlp":
            changed = self._mlp_difference(self.layer, inputs)[None]
        else:
            changed = self._heads_from(inputs, fed, copies)
        changed = (changed - self.now[fed][:, None]).flatten(1, 2)  # (o, C N, D)
        return self._run_later(fed, changed, copies)

    def _differences(self, writers: list[int]) -> Float[Tensor, "n T D"]:
        tokens = self.stream.targets if self.block.kind == "logits" else self.all
        return torch.cat([self.stream.differences(tokens, slice(w, w + 1)) for w in writers])

    def _heads_from(self, inputs: Float[Tensor, "C N D"], fed: slice, copies: Copies) -> Float[Tensor, "o C N D"]:
        """What the open reader's heads write beyond their ablated values, from its input in each candidate."""
        place, heads, keys = self.reader - self.block.reader, self.parts.n_heads, self.graph.n_kv_readers
        key = fed.start * keys // heads
        current = {"q": fed, "k": slice(heads + key, heads + key + 1)}
        current["v"] = slice(heads + keys + key, heads + keys + key + 1)
        n = len(inputs)
        grids = {}
        for kind, places in current.items():
            if places.start <= place < places.stop:
                y = self._projected(place, inputs).flatten(0, 1)[:, None]  # (C N, 1, k)
            else:
                y = self.projected[places].transpose(0, 1).repeat(n, 1, 1)
            grids[kind] = copies.packing.unpack(y)
        attention = self.parts.layers[self.layer].attention
        mixed = attention.mix(grids["q"], grids["k"], grids["v"], copies.rotary, copies.real)
        mixed = copies.packing.pack(mixed).unflatten(0, (n, self.n_tokens))
        mixed = (mixed - self.stream.ablated.heads(self.layer)[:, fed].detach()).flatten(0, 1)
        wide = self.stream.expand(self.layer, fed, mixed)  # (C N, o, D)
        return wide.transpose(0, 1).view(-1, n, self.n_tokens, self.parts.d_model)

    def _run_later(self, fed: slice, changed: Float[Tensor, "o CN D"], copies: Copies) -> Float[Tensor, "C A V"]:
        """Run what is alive after the visited block."""
        read = self.live[self.own][fed].to(changed.device)  # a key may feed heads that nothing reads any more
        stacked = any(not later.plain.all() for later in self.later)
        state = Written(changed[read].sum(0), [(fed, changed)] if stacked else None)
        for later in self.later:
            block = self.graph.blocks[later.number]
            state.release(before=later.number // 2)
            if block.kind == "logits":
                x = self._later_input(later, state, copies, copies.targets)
                return self._unembed(x[0].view(copies.packing.n_copies, -1, self.parts.d_model))
            x = self._later_input(later, state, copies)
            first = self.graph.writers_of(block).start - self.own.start
            if block.kind == "mlp":
                grid = x[0].view(copies.packing.n_copies, self.n_tokens, -1)
                new = self._mlp_difference(later.number // 2, grid).flatten(0, 1)[None]
                state.add(slice(first, first + 1), new)
            elif self.parts.parallel:  # its MLP does not read it
                state.held = later.number // 2, first + later.heads, self._attend(later, x, copies)
            else:
                state.add(first + later.heads, self._attend(later, x, copies))
        raise AssertionError("the logits are always alive")

    def _later_input(
        self, later: Later, state: "Written", copies: Copies, at: Tensor | None = None
    ) -> Float[Tensor, "c CN D"]:
        n = copies.packing.n_copies
        own = self.own.stop - self.own.start
        now = self.now if at is None else self.now[:, self.stream.targets]
        fixed = later.fixed + torch.einsum("co,ond->cnd", later.mask[:, :own], now)
        x = fixed.repeat(1, n, 1)  # (c, C N, D)
        if bool(later.plain.all()):
            return x + (state.total if at is None else state.total[at])
        for columns, each in state.written or ():
            readers = later.reads[:, columns].any(1).nonzero()[:, 0].to(x.device)  # few, in a sparse circuit
            if len(readers):
                each = (each if at is None else each[:, at]).flatten(1)
                x.view(len(x), -1).index_add_(0, readers, later.mask[readers][:, columns] @ each)
        return x

    def _attend(self, later: Later, x: Float[Tensor, "c CN D"], copies: Copies) -> Float[Tensor, "h CN D"]:
        index = later.number // 2
        attention, n_heads, n_keys = (
            self.parts.layers[index].attention,
            len(later.heads),
            (len(later.readers) - len(later.heads)) // 2,
        )
        y, places, grids = normed(attention.norm, x), later.readers, []
        offsets = (0, self.parts.n_heads, self.parts.n_heads + self.graph.n_kv_readers)
        sizes = (n_heads, n_keys, n_keys)
        pieces = zip(places.split(sizes), later.class_of.split(sizes), strict=True)
        for heads, offset, (readers, classes) in zip(self.stream.projections(attention), offsets, pieces, strict=True):
            weight = heads.weight[readers - offset].to(x.dtype)
            projected = torch.matmul(y if len(y) == 1 else y[classes], weight)  # (n, C N, k)
            projected = projected if heads.bias is None else projected + heads.bias[readers - offset][:, None]
            grids.append(copies.packing.unpack(projected.transpose(0, 1)))
        query, key, value = grids
        if n_keys != n_heads:
            key, value = key[:, later.key_of_head], value[:, later.key_of_head]
        mixed = copies.packing.pack(attention.mix(query, key, value, copies.rotary, copies.real))  # (C N, h, v)
        ablated = self.stream.ablated.heads(index).detach()[:, later.heads]
        difference = mixed.unflatten(0, (-1, self.n_tokens)) - ablated
        return self.stream.expand(index, later.heads, difference.flatten(0, 1)).transpose(0, 1)

    def _unembed(self, x: Float[Tensor, "*C A D"]) -> Float[Tensor, "*C A V"]:
        return self.parts.unembed(normed(self.parts.final_norm, x))

    def _copies(self, n: int) -> Copies:
        if n not in self.copies:
            self.copies = {n: self._make_copies(n)}
        return self.copies[n]

    def _make_copies(self, n: int) -> Copies:
        packing, targets = pack(self.tokens, n), self.stream.targets
        starts = torch.arange(n, device=targets.device)[:, None] * self.n_tokens
        real = None if packing.full else packing.real.repeat(n, 1)
        return Copies(packing, make_rotary(self.parts, packing), real, (starts + targets).flatten())


def reader_blocks(graph: Graph) -> list[int]:
    """The block of each reader."""
    return [number for number, block in enumerate(graph.blocks) for _ in range(block.n_readers)]
