"""Blocks of a model, run again for several candidates as copies of one batch, as far as a change reaches."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.engine._positions import KeyPositions, QueryPositions
from edgewise.engine._reach import InputChange, LiveBlock, LiveComponent, Reach
from edgewise.engine._stream import Stream
from edgewise.models import Heads
from edgewise.models.block import linear, normed, post_scaled, write_mlp


@dataclass
class BlockRun:
    """One run of a block. What candidates change is counted from it."""

    inputs: list[Tensor] = field(default_factory=list)
    """Of its shared inputs, `[1, T, D]`."""
    projected: dict[int, Tensor] = field(default_factory=dict)
    """By reader, as `Rerun.project` has it: a query's, `[1, T, k]`; a key's or a value's of all tokens, `[1, N, k]`."""
    written: dict[int, Tensor] = field(default_factory=dict)
    """By head, its mixed values before W_O; an MLP's output. `[1, T, ·]`."""


class WriterChanges:
    """What writers write in the candidates beyond what they write in the known run."""

    def __init__(self, plan: Reach, answers_among_all: Tensor) -> None:
        """Nothing yet; `plan` says which changes are read, the rest where the answers stand among all tokens needed."""
        self.plan, self.answers = plan, answers_among_all
        self.total: list[Tensor | None] = [None, None]
        self.single: tuple[dict[int, Tensor], dict[int, Tensor]] = {}, {}

    def wanted(self, column: int, everywhere: bool) -> bool:
        """Whether anyone reads this writer's change by itself."""
        return column in self.plan.columns[0] or (everywhere and column in self.plan.columns[1])

    def add(self, column: int | None, everywhere: bool, change: Float[Tensor, "C T D"]) -> None:
        """One writer's change at its own tokens; of several together (None) where none is wanted by itself."""
        for stack in (0, 1) if everywhere else (0,):
            single, total = column in self.plan.columns[stack], self.total[stack]
            if single or self.plan.totals[stack]:
                here = change[:, self.answers] if everywhere and not stack else change
                if self.plan.totals[stack]:
                    self.total[stack] = here if total is None else total + here
                if single and column is not None:
                    self.single[stack][column] = here

    def input(
        self, known: Float[Tensor, "1 T D"], what: InputChange, everywhere: bool, n: int
    ) -> Float[Tensor, "C T D"]:
        """A shared input in each candidate."""
        total = self.total[everywhere] if what.total else None
        x = known.expand(n, -1, -1).clone() if total is None else known + total
        for column, sign in what.columns:
            x.add_(self.single[everywhere][column], alpha=sign)
        return x


class Rerun:
    """Runs blocks again."""

    def __init__(self, stream: Stream) -> None:
        """On a batch's clean run."""
        self.stream, self.parts, self.graph = stream, stream.parts, stream.graph
        tokens = torch.cat([stream.changed, stream.targets]).unique()
        self.keys = KeyPositions(stream)
        self.positions = QueryPositions(stream, stream.targets), QueryPositions(stream, tokens)
        """The answers, and all tokens at which candidates can differ."""
        self.answers_among_all = torch.searchsorted(tokens, stream.targets)
        self.whole = len(tokens) == stream.packing.n_tokens
        self._clean: dict[tuple[int, int], Tensor] = {}

    def project(
        self, layer: int, reader: int, y: Float[Tensor, "C T D"], tokens: Tensor | slice
    ) -> Float[Tensor, "C T k"]:
        """One reader's projection of a normed input at some tokens; placed, if it is a query or a key and heads are so
        one by one.
        """
        attention, (role, index) = self.parts.layers[layer].attention, self.graph.roles.of(reader)
        index = index if role == "query" else index // self.graph.copies_per_key
        projection: Heads = getattr(attention, role)
        x = linear(y, projection.weight[index], None if projection.bias is None else projection.bias[index])
        return x if role == "value" or attention.joint else self.keys.placed(layer, x[:, None], tokens, role)[:, 0]

    def in_full(self, layer: int, reader: int, new: Float[Tensor, "C W k"], known: BlockRun) -> Float[Tensor, "C N k"]:
        """A key's or value's projection at all tokens, from that where it can differ."""
        if self.whole:
            return new
        old = known.projected[reader] if reader in known.projected else self._clean_projection(layer, reader)
        full = old.expand(len(new), -1, -1).clone()
        full[:, self.positions[1].tokens] = new
        return full

    def _clean_projection(self, layer: int, reader: int) -> Float[Tensor, "1 N k"]:
        if (layer, reader) not in self._clean:
            clean = self.stream.clean[self.graph.attention(layer).number]
            y = normed(self.parts.layers[layer].attention.norm, clean)[None]
            self._clean[layer, reader] = self.project(layer, reader, y, slice(None))
        return self._clean[layer, reader]

    def mixed(
        self, layer: int, heads: Mapping[int, LiveComponent], new: Mapping[int, Tensor], known: BlockRun
    ) -> dict[int, Float[Tensor, "C T v"]]:
        """What some heads give before W_O and any post-norm, from `new` projections by reader, and else the known."""
        found: dict[int, Tensor] = {}
        for everywhere in (False, True):
            some = {head: component for head, component in heads.items() if component.everywhere == everywhere}
            if some:
                query, key, value = (
                    _joined([new[reader] if reader in new else known.projected[reader] for reader in role])
                    for role in zip(*(component.readers for component in some.values()), strict=True)
                )
                if self.parts.layers[layer].attention.joint:
                    query = self.keys.placed(layer, query, self.positions[everywhere].tokens, "query")
                    key = self.keys.placed(layer, key, slice(None), "key")
                query = query.expand(max(len(query), len(key), len(value)), -1, -1, -1)
                mixed = self.keys.attend(layer, query, key, value, self.positions[everywhere], list(some))
                found |= dict(zip(some, mixed.unbind(1), strict=True))
        return found

    def coefficients(
        self, layer: int, heads: Mapping[int, LiveComponent], new: Mapping[int, Tensor], known: BlockRun
    ) -> dict[int, Float[Tensor, "C T v"]]:
        """The same as heads write it: divided by a post-norm's root mean square, where all of a layer's heads run."""
        found, attention = self.mixed(layer, heads, new, known), self.parts.layers[layer].attention
        if attention.post_norm is None:
            return found
        scaled = post_scaled(attention, torch.stack([found[head] for head in range(self.parts.n_heads)], 1))
        return dict(enumerate(scaled.unbind(1)))

    def add_heads(
        self,
        changes: WriterChanges,
        later: LiveBlock,
        change: Mapping[int, Float[Tensor, "C T v"]],
        *,
        bias: bool = False,
    ) -> None:
        """Write some heads' changes, through W_O; with their shares of b_O if told."""
        attention, heads = self.parts.layers[later.block.layer].attention, self.parts.n_heads
        b_o = attention.output_bias if bias and self.stream.engine.ablation.splits_bias else None
        together: dict[bool, list[int]] = {False: [], True: []}
        for head, z in change.items():
            everywhere, column = later.writers[head].everywhere, later.column + head
            if changes.wanted(column, everywhere):
                wide_z = z @ attention.output[head].to(z.dtype)
                changes.add(column, everywhere, wide_z if b_o is None else wide_z + b_o / heads)
            else:
                together[everywhere].append(head)
        for everywhere, some in together.items():
            if some and (changes.plan.totals[0] or (everywhere and changes.plan.totals[1])):
                z = torch.cat([change[head] for head in some], -1)
                output = attention.output if len(some) == heads else attention.output[some]
                total = z @ output.flatten(0, 1).to(z.dtype)
                changes.add(None, everywhere, total if b_o is None else total + b_o * (len(some) / heads))

    def run(
        self,
        plan: Reach,
        later_blocks: Sequence[LiveBlock],
        known: Sequence[BlockRun],
        changes: WriterChanges,
        n: int,
        record: list[BlockRun] | None = None,
    ) -> Float[Tensor, "C A D"]:
        """The final norm's inputs at the answers, from running what a change reaches in `n` candidates.

        Changes are counted from the `known` runs of the later blocks, and added to `changes`, which has the visited
        block's; `record` is given what every block did.
        """
        final = known[-1].inputs[0].expand(n, -1, -1)  # the known ones, if no change reaches the final norm
        for step in plan.steps:
            later, before = later_blocks[step.number], known[step.number]
            kind, layer = later.block.kind, later.block.layer
            run, x = BlockRun(), final
            for reads in step.input_changes:
                shared_input = later.shared_inputs[reads.number]
                x = changes.input(before.inputs[reads.number], reads, shared_input.everywhere, n)
                run.inputs.append(x)
                if kind == "attention":
                    y = normed(self.parts.layers[layer].attention.norm, x)
                    run.projected |= self.projections(layer, shared_input.readers, y, shared_input.everywhere, before)
            if kind == "mlp":
                everywhere = later.writers[0].everywhere
                run.written[0] = write_mlp(self.parts.layers[layer].mlp, x)
                changes.add(later.column, everywhere, run.written[0] - before.written[0])
            elif kind == "logits":
                final = x
            else:
                heads = {head: later.writers[head] for head in step.writers}
                run.written = self.coefficients(layer, heads, run.projected, before)
                change = {head: z - before.written[head] for head, z in run.written.items()}
                self.add_heads(changes, later, change, bias=record is not None)
            if record is not None:
                record.append(run)
        return final

    def projections(
        self, layer: int, readers: Iterable[int], y: Float[Tensor, "C T D"], everywhere: bool, known: BlockRun
    ) -> dict[int, Tensor]:
        """Some readers' projections of one normed input, a key's and a value's of all tokens."""
        projected = {reader: self.project(layer, reader, y, self.positions[everywhere].tokens) for reader in readers}
        queries = self.graph.roles.query
        return {r: x if r in queries else self.in_full(layer, r, x, known) for r, x in projected.items()}

    def ablated(self, later: LiveBlock) -> BlockRun:
        """What a block's differences are counted from."""
        known = BlockRun([shared_input.fixed[None] for shared_input in later.shared_inputs])
        layer, stream = later.block.layer, self.stream
        for writer, component in later.writers.items():
            if later.block.kind == "mlp":
                value = stream.ablated.mlp(layer).detach()
            else:
                value = stream.ablated.heads(layer)[:, writer].detach()
            tokens = self.positions[component.everywhere].tokens
            known.written[writer] = (value if len(value) == 1 else value[tokens]).to(stream.dtype)[None]
        return known


def _joined(projected: Sequence[Float[Tensor, "c T k"]]) -> Float[Tensor, "C n T k"]:
    """Projections side by side, for as many copies as the one that has most."""
    n = max(len(x) for x in projected)
    return torch.stack([x.expand(n, -1, -1) for x in projected], 1)
