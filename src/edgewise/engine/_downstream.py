"""Circuits that differ in one reader's input, run from that reader on.

A search from the output towards the input leaves everything before the reader that it is at untouched: there the model
runs as it is, and one clean run serves every candidate. What comes after is run once for the circuit as it stands, and
then, for all candidates at once as copies of the batch, only where a candidate differs from that: at the components
that the reader reaches through kept edges, and at the tokens where these matter.
"""

from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edgewise.engine._positions import QueryPositions
from edgewise.engine._reach import LiveBlock, LiveComponent, SharedInput, made_of, needed_everywhere, reached
from edgewise.engine._rerun import BlockRun, Rerun, WriterChanges
from edgewise.engine._stream import Stream
from edgewise.graph import Block
from edgewise.models.block import normed, write_mlp

COPY_BYTES = 192 << 20
"""How much the copies of one run of candidates may take, about."""


class Downstream:
    """A circuit that is being cut from the output towards the input, one block of readers at a time.

    `enter` a block, then `open` one of its readers, run `candidates`, and `close` the reader with what was decided.
    Every number follows from the edges kept at `enter` and `close`, so a search that was cut short resumes exactly.
    """

    def __init__(self, stream: Stream) -> None:
        """Everything is kept, on a batch's clean run."""
        self.stream, self.parts, self.graph = stream, stream.parts, stream.graph
        self.rerun = Rerun(stream)
        self.n_outputs = self.parts.unembed(stream.clean[-1][:1]).shape[1]

    @torch.no_grad()
    def full(self) -> Float[Tensor, "A V"]:
        """The full model's logits at the targets, by the formulas that the candidates run by."""
        return self._unembed(self.stream.clean[-1][self.stream.targets])

    # ------------------------------------------------------------------------------------------------------- the state

    @torch.no_grad()
    def enter(self, number: int, kept: Bool[Tensor, " E"]) -> None:
        """Go to a block of readers. All blocks before it must be whole in `kept`."""
        graph, self.number, self.kept = self.graph, number, kept.clone()
        self.block, self.known = graph.blocks[number], None
        self.layer, last = self.block.layer, self.block.kind == "logits"
        whole = kept.clone()  # so that later blocks run alike, whichever readers of this one are decided
        whole[: self.block.edges.stop] = True
        self.alive = graph.prune(whole, self.stream.prunes)
        self.live = graph.running(self.alive)
        self.everywhere = needed_everywhere(graph, self.alive, number)
        self.start = graph.n_writers if last else graph.writers_of(self.block).start
        self.own = LiveBlock(self.block, (), self._running(self.block), 0, graph.spec.coupled_heads)
        self.later_blocks = self._make_later_blocks(number + 1)
        self.projected: dict[int, Tensor] = {}
        if self.block.kind == "attention":
            for reader in sorted({place for component in self.own.writers.values() for place in component.readers}):
                self.projected[reader] = self._projected(reader, self._input(reader)[None])

    def matters(self, reader: int) -> bool:
        """Whether anything alive reads what the reader feeds."""
        return self.block.kind == "logits" or bool(self._fed_by(reader))

    @torch.no_grad()
    def open(self, reader: int) -> None:
        """Turn to a reader of the block."""
        self.reader = reader - self.block.reader
        if not self.matters(reader):
            return
        self.input = self._input(self.reader)
        if self.block.kind == "logits":
            return
        if self.known is None:
            self._settle()
        self.component = self._fed_by(reader)
        changed = torch.zeros(self.graph.n_writers - self.start, dtype=torch.bool)
        changed[list(self.component)] = True
        self.plan = reached(self.later_blocks, changed, self.everywhere[self.start :])

    @torch.no_grad()
    def drop(self, writers: list[int]) -> None:
        """Take edges into the open reader away from all candidates to come."""
        self.input = self.input - self._differences(writers).sum(0)

    @torch.no_grad()
    def close(self, kept: Bool[Tensor, " E"]) -> None:
        """Leave the reader, its edges decided: what it feeds is made again."""
        first = self.block.offset + self.reader * self.block.n_writers
        edges = slice(first, first + self.block.n_writers)
        if torch.equal(self.kept[edges], kept[edges]):
            return
        self.kept[edges] = kept[edges]
        if not self.matters(self.block.reader + self.reader):
            return
        self.known = None
        if self.reader in self.projected:
            self.projected[self.reader] = self._projected(self.reader, self._input(self.reader)[None])

    def _running(self, block: Block) -> dict[int, LiveComponent]:
        """What a block feeds and something alive reads."""
        if block.kind == "logits":
            return {}
        writers = self.graph.writers_of(block)
        return {
            w: LiveComponent(bool(self.everywhere[writers.start + w]), made_of(self.graph, block, w))
            for w in self.live[writers].nonzero()[:, 0].tolist()
        }

    def _fed_by(self, reader: int) -> dict[int, LiveComponent]:
        return {w: self.own.writers[w] for w in self.own.moved_by({reader - self.block.reader})}

    def _positions_of(self, reader: int) -> QueryPositions:
        """The tokens at which a reader of the visited block is needed."""
        if self.block.kind == "logits":
            return self.rerun.positions[False]
        key = self.block.kind == "attention" and reader not in self.graph.roles.query
        component = self._fed_by(self.block.reader + reader)
        return self.rerun.positions[key or any(one.everywhere for one in component.values())]

    def _input(self, reader: int) -> Float[Tensor, "T D"]:
        """The input of a reader of the visited block under what is kept now."""
        tokens, first = self._positions_of(reader).tokens, self.block.offset + reader * self.block.n_writers
        clean, removed = self.stream.clean[self.number][tokens], ~self.kept[first : first + self.block.n_writers]
        return clean - self._mixed(removed[None].to(clean), tokens)[0] if bool(removed.any()) else clean

    def _mixed(self, mask: Float[Tensor, "m w"], tokens: Int[Tensor, " T"]) -> Float[Tensor, "m T D"]:
        """`Σ_w m_w Δ_w` of the clean run over a prefix of the writers, one layer's at a time."""
        total = mask.new_zeros(len(mask), len(tokens) * self.parts.d_model)
        starts = [0, *(first for first in self.graph.starts if first < mask.shape[1]), mask.shape[1]]
        for start, stop in pairwise(starts):
            if bool(mask[:, start:stop].any()):
                differences = self.stream.differences(tokens, slice(start, stop)).flatten(1)
                total.addmm_(mask[:, start:stop], differences)
        return total.view(len(mask), len(tokens), -1)

    def _projected(self, reader: int, x: Float[Tensor, "C T D"]) -> Tensor:
        """The projection of a reader of the visited block: `[C, T, k]`, of all tokens for a key or a value."""
        layer, tokens = self.layer, self._positions_of(reader).tokens
        new = self.rerun.project(layer, reader, normed(self.parts.layers[layer].attention.norm, x), tokens)
        return new if reader in self.graph.roles.query else self.rerun.in_full(layer, reader, new, BlockRun())

    def _make_later_blocks(self, first: int) -> list[LiveBlock]:
        """The blocks from one on, as far as they are alive, with what their readers get from before the visited one."""
        found: list[tuple[int, LiveBlock, Tensor]] = []
        for number, block in enumerate(self.graph.blocks[first:], first):
            running = self._running(block)
            groups: dict[tuple[bool, bytes], list[int]] = {}
            rows = block.table(self.alive)
            needed = {0: False} if block.kind == "logits" else _readers(running)
            for reader, everywhere in needed.items():
                groups.setdefault((everywhere, rows[reader].numpy().tobytes()), []).append(reader)
            if groups:
                masks = torch.stack([rows[readers[0]] for readers in groups.values()])
                shared_inputs = [
                    SharedInput(tuple(readers), everywhere, row[self.start :], self.stream.clean[0])  # summed below
                    for ((everywhere, _), readers), row in zip(groups.items(), masks, strict=True)
                ]
                column = self.graph.writers_of(block).start - self.start if running else 0
                later = LiveBlock(block, tuple(shared_inputs), running, column, self.graph.spec.coupled_heads)
                found.append((number, later, masks[:, : self.start]))
        return self._with_fixed(found)

    def _with_fixed(self, found: list[tuple[int, LiveBlock, Bool[Tensor, "_ _"]]]) -> list[LiveBlock]:
        """With the sums over the writers before the visited block's own: one product for all that are as everywhere."""
        sums: dict[bool, list[Tensor]] = {}
        masks = [pair for _, each, rows in found for pair in zip(each.shared_inputs, rows, strict=True)]
        for everywhere in (False, True):
            rows = [row for shared_input, row in masks if shared_input.everywhere == everywhere]
            if rows:
                mask = torch.stack(rows).to(self.stream.clean[0])
                sums[everywhere] = list(self._mixed(mask, self.rerun.positions[everywhere].tokens))
        later_blocks: list[LiveBlock] = []
        for number, later, _ in found:
            bases = {
                everywhere: self._base(number, self.rerun.positions[everywhere].tokens)
                for everywhere in {r.everywhere for r in later.shared_inputs}
            }
            shared_inputs = (
                r._replace(fixed=sums[r.everywhere].pop(0) + bases[r.everywhere]) for r in later.shared_inputs
            )
            later_blocks.append(replace(later, shared_inputs=tuple(shared_inputs)))
        return later_blocks

    def _base(self, number: int, tokens: Int[Tensor, " T"]) -> Float[Tensor, "M D"]:
        base = self.stream.ablated.base(number).detach().to(self.stream.dtype)
        base = base if len(base) == 1 else base[tokens]
        return base if self.graph.n_embeddings else base + self.stream.clean[0][tokens]

    def _settle(self) -> None:
        """Run the circuit as it stands: what the candidates' changes are counted from."""
        rerun, running = self.rerun, self.own.writers
        column = torch.zeros(self.graph.n_writers - self.start, dtype=torch.bool)
        column[list(running)] = True
        plan = reached(self.later_blocks, column, self.everywhere[self.start :], everything=True)
        changes, ablated = WriterChanges(plan, rerun.answers_among_all), rerun.ablated(self.own).written
        self.now = BlockRun(projected=self.projected)
        if self.block.kind == "mlp":
            self.now.written[0] = write_mlp(self.parts.layers[self.layer].mlp, self._input(0)[None])
        else:
            self.now.written = rerun.coefficients(self.layer, running, {}, self.now)
        self._write(changes, {w: x - ablated[w] for w, x in self.now.written.items()}, bias=True)
        self.known = []
        rerun.run(
            plan, self.later_blocks, [rerun.ablated(later) for later in self.later_blocks], changes, 1, self.known
        )

    def _write(self, changes: WriterChanges, change: dict[int, Tensor], *, bias: bool = False) -> None:
        if self.block.kind == "mlp":
            changes.add(0, self.own.writers[0].everywhere, change[0])
        else:
            self.rerun.add_heads(changes, self.own, change, bias=bias)

    # -------------------------------------------------------------------------------------------------- the candidates

    def room(self) -> int:
        """How many candidates one run may have."""
        width, answers, everywhere = self.parts.d_model, *(len(positions) for positions in self.rerun.positions)
        hidden = max((weight.shape[1] for weight, _ in self.parts.stored[0].mlp.inputs), default=4 * width)
        per_copy = self.n_outputs * answers * 3
        if self.block.kind != "logits":
            runs = [
                self.later_blocks[step.number].writers[w].everywhere for step in self.plan.steps for w in step.writers
            ]
            most = everywhere if any(runs) or self.reader not in self.graph.roles.query else answers
            single = sum(len(c) * n for c, n in zip(self.plan.columns, (answers, everywhere), strict=True))
            per_copy += width * single + most * (6 * width + 3 * hidden)
        return max(1, min(64, COPY_BYTES // (self.stream.clean[0].element_size() * per_copy)))

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
        assert self.known is not None
        if self.block.kind == "mlp":
            new = {0: write_mlp(self.parts.layers[self.layer].mlp, inputs)}
        else:
            projected = {self.reader: self._projected(self.reader, inputs)}
            new = self.rerun.coefficients(self.layer, self.component, projected, self.now)
        changes = WriterChanges(self.plan, self.rerun.answers_among_all)
        self._write(changes, {w: x - self.now.written[w] for w, x in new.items()})
        return self._unembed(self.rerun.run(self.plan, self.later_blocks, self.known, changes, len(inputs)))

    def _differences(self, writers: list[int]) -> Float[Tensor, "n T D"]:
        tokens = self._positions_of(self.reader).tokens
        return torch.cat([self.stream.differences(tokens, slice(w, w + 1)) for w in writers])

    def _unembed(self, x: Float[Tensor, "*C A D"]) -> Float[Tensor, "*C A V"]:
        return self.parts.unembed(normed(self.parts.final_norm, x))


def _readers(running: dict[int, LiveComponent]) -> dict[int, bool]:
    """The readers of some components, and whether they are needed everywhere."""
    needed = {reader: True for component in running.values() for reader in component.readers[1:]}  # keys and values
    return needed | {component.readers[0]: component.everywhere for component in running.values()}
