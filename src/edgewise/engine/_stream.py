"""The full model on one residual stream, and each reader's own gradient anywhere along a path towards it.

With every edge kept all readers see the same stream, so no stack of differences is needed to run: one plain forward and
one backward by autograd, which stops at the readers' projections. What is particular to edges comes after: a head's
gradient is taken back through its own projection and norm to ∂objective/∂x_r, and contracted with the differences
Δ_w = z_w − z̃_w of the clean run, which stay the same wherever along the path the gradient was taken.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.engine._constants import Prompts, check_batch, what_prunes
from edgewise.engine._engine import Engine
from edgewise.engine._live import changed
from edgewise.engine._matmul import matmul_precision
from edgewise.engine._packing import check_groups, pack
from edgewise.engine._writes import attention_contexts, trace
from edgewise.models import PLAIN, Layer, Rules
from edgewise.models.block import mix, normed, normed_back, post_scaled, project, write_heads, write_mlp

Objective = Callable[[Float[Tensor, "A V"]], Tensor]
"""From the logits at the targets to one number."""

CHUNK_BYTES = 32 << 20
"""How much the differences of one chunk of tokens may take at full width."""
POINT_BYTES = 512 << 20
"""How much the gradients of several points may take, which are summed before the one product with the differences."""


class Component(NamedTuple):
    """Writers whose outputs move together, and where the model reads them first."""

    writers: slice
    block: int
    """The first block of readers that sees them (`graph.blocks`; in a parallel block, the next layer's)."""
    difference: Float[Tensor, "N D"]
    """What they write minus what they write when ablated."""


@dataclass
class StreamRun:
    """One differentiable run. The tensors of each block of readers are those that gradients can be asked of."""

    start: Float[Tensor, "N D"]
    """The stream that the first block reads."""
    final: Float[Tensor, "A D"]
    """The input of the final norm at the targets."""
    reads: dict[int, Tensor] = field(default_factory=dict)
    """By block: the readers' projections `[n, N, k]`; an MLP's input `[N, D]`; the final norm's `[A, D]`."""
    inputs: dict[int, Tensor] = field(default_factory=dict)
    """By attention block: the stream that it reads, `[N, D]`, without gradient."""
    mixed: dict[int, Float[Tensor, "N H v"]] = field(default_factory=dict)
    """By attention block: what its heads give before W_O and any post-norm."""
    written: dict[int, Float[Tensor, "N D"]] = field(default_factory=dict)
    """By block: what it adds to the stream, b_O left out."""
    dropped: int | None = None
    """The layer through whose writers no gradient goes back."""


class Point(NamedTuple):
    """What a gradient at one point of a path leaves."""

    inputs: dict[int, Float[Tensor, "N D"]]
    gradients: dict[int, Tensor]
    """By block, of the readers' projections, an MLP's input, the final norm's input."""

    @property
    def n_bytes(self) -> int:
        """What it holds."""
        return sum(x.numel() * x.element_size() for x in (*self.inputs.values(), *self.gradients.values()))


class Effects(NamedTuple):
    """What a backward says about writers."""

    writers: Float[Tensor, "B W"]
    """To first order, what each writer's ablation takes from the value."""
    mixed: dict[int, Float[Tensor, "N H v"]]
    """By attention block, the gradient of what its heads give before W_O and any post-norm."""


class Stream:
    """A batch's clean run of the full model, and what its writers write beyond their ablated values."""

    @torch.no_grad()
    def __init__(self, engine: Engine, batch: Prompts, *, groups: bool = False, by_example: bool = False) -> None:
        """Run the clean prompts once.

        Args:
            engine: model, graph and ablation.
            batch: paired prompts and targets.
            groups: whether what is asked of it tells position groups apart, as `edge_gradients` does.
            by_example: whether each example's effects are told apart, in place of their sum: `edge_gradients` then
                gives a row for each.

        Raises:
            InputError: the graph's edges carry positions, and nothing here would tell them apart, or a token is in a
                group that it has not; or it has features or neurons.
        """
        self.engine, self.parts, self.graph = engine, engine.model.parts, engine.graph
        if apart := self.graph.spec.apart:
            raise InputError(f"graph: it has {apart} in MLPs' places, which a stream does not run; use one without")
        if self.graph.spec.spans and (not groups or batch.span_id is None):
            raise InputError(
                "graph: its edges carry positions, which this method does not tell apart; use a graph without spans"
            )
        self.packing = pack(batch.clean)
        self.group: Int[Tensor, " N"] | None = None  # the position group of each token, where edges carry them
        if self.graph.spec.spans and batch.span_id is not None:
            self.group = batch.span_id[batch.clean.mask]
            check_groups(self.group, self.graph.n_groups)
        check_batch(batch, engine.ablation.kind, engine.model)
        self.prunes: str = what_prunes(engine.ablation.kind, batch)
        self.targets = self.packing.where(batch.row, batch.position)
        self.contexts = attention_contexts(self.parts, self.packing)
        self.example: Int[Tensor, " N"] = self.packing.cell // self.packing.grid[1]
        self.n_examples = self.packing.grid[0]
        self.by_example, self.sum = by_example, self.group  # which sum each token's edges count in
        if by_example:
            self.sum = self.example * self.graph.n_groups + (0 if self.group is None else self.group)
        self.dtype = torch.promote_types(engine.model.dtype, torch.float32)
        ablated, layers = engine.constants_of(batch, self.packing), range(len(self.parts.layers))
        with matmul_precision(engine.execution.matmul):  # as the ablated values: of equal prompts the difference is 0
            clean = trace(self.parts, self.graph, self.packing)
        writers = range(self.graph.n_embeddings)
        self.embeds = [(clean.embeds[w] - ablated.embedding(w).detach()).to(self.dtype) for w in writers]
        self.heads = [(clean.heads[i] - ablated.heads(i).detach()).to(self.dtype) for i in layers]  # (N, H, v)
        self.mlps = [(clean.mlps[i] - ablated.mlp(i).detach()).to(self.dtype) for i in layers]
        self.ablated = ablated
        self.changed: Int[Tensor, " n"] = changed(self.parts, engine.ablation.kind, batch, self.packing).nonzero()[:, 0]
        """The tokens at which a writer can write something else than its ablated value."""
        self.clean = [torch.stack(clean.embeds).sum(0).to(self.dtype)]  # what each block reads, (N, D)
        for layer, mixed, mlp in zip(self.parts.layers, clean.heads, clean.mlps, strict=True):
            x = self.clean[-1]
            after = x + write_heads(layer.attention, mixed)
            self.clean += [x if self.parts.parallel else after, after + mlp]

    # ----------------------------------------------------------------------------------------------------------- paths

    def components(self, heads: Literal["together", "apart"] = "together") -> Iterator[Component]:
        """The components whose outputs may be moved one at a time, in order of writing.

        Args:
            heads: whether a layer's heads move together, as one attention layer, or each on its own.
        """
        for w, difference in enumerate(self.embeds):
            yield Component(slice(w, w + 1), 0, difference)
        for index in range(len(self.parts.layers)):
            n, mlp = self.parts.n_heads, self.graph.writer(index)
            step = n if heads == "together" else 1
            for head in range(0, n, step):
                first = self.graph.writer(index, head)
                difference = self._expanded(index, slice(head, head + step)).sum(1)
                after = self.graph.first_block_reading(first).number
                yield Component(slice(first, first + step), after, difference)
            yield Component(slice(mlp, mlp + 1), self.graph.first_block_reading(mlp).number, self.mlps[index])

    def inputs(self) -> Component:
        """All embeddings together.

        Raises:
            InputError: the graph has no embedding writers.
        """
        if not self.embeds:
            raise InputError(
                "graph: its embeddings are not writers, so no path leads from ablated to clean ones; use "
                "embeddings='joint' or 'split'"
            )
        return Component(slice(0, self.graph.n_writers), 0, torch.stack(self.embeds).sum(0))

    # --------------------------------------------------------------------------------------------------------- running

    def run(
        self, component: Component | None = None, alpha: float = 1.0, rules: Rules = PLAIN, *, inner: bool = False
    ) -> StreamRun:
        """Run the full model with one component's output moved towards its ablated value.

        Args:
            component: what moves; None for nothing, from the embeddings on.
            alpha: where along the path: 0 is ablated, 1 is clean.
            rules: how to go backwards.
            inner: also note what components write, so that gradients can be asked of that.

        Returns:
            The run, from the first block that reads the component on.
        """
        first = 0 if component is None else component.block
        x = self.clean[first]
        x = x if component is None else x - (1 - alpha) * component.difference
        x = x.detach().requires_grad_()
        run = StreamRun(x, x)
        with torch.enable_grad():
            for index, layer in enumerate(self.parts.layers):
                attention, mlp, before = self.graph.attention(index).number, self.graph.mlp(index).number, x
                if attention >= first:
                    run.inputs[attention] = before.detach()
                    x = self._attend(run, index, layer, before, rules, inner)
                if mlp >= first:
                    read = before if self.parts.parallel else x
                    read = run.reads[mlp] = read.view_as(read)  # not the stream's own: its gradient is the MLP's
                    written = write_mlp(layer.mlp, read, rules)
                    if inner:
                        self._note(run, mlp, written)
                    x = x + written
            run.final = run.reads[self.graph.final.number] = x[self.targets]
        return run

    def value(self, run: StreamRun, objective: Objective, rules: Rules = PLAIN) -> Tensor:
        """The objective of a run."""
        with torch.enable_grad():
            return objective(self.parts.unembed(normed(self.parts.final_norm, run.final, rules.norm)))

    def project(self, index: int, x: Float[Tensor, "N D"], frozen: bool = False) -> Float[Tensor, "n N k"]:
        """A layer's queries, keys and values, one for each reader, of one shared stream."""
        attention = self.parts.layers[index].attention
        y = normed(attention.norm, x, frozen)
        return torch.cat([project(y, heads) for heads in attention.projections(self.graph.copies_per_key)])

    def mix(self, index: int, projected: Float[Tensor, "n N k"], rules: Rules = PLAIN) -> Float[Tensor, "N H v"]:
        """A layer's heads before W_O and any post-norm, from its readers' projections as `project` gives them."""
        attention, context = self.parts.layers[index].attention, self.contexts[index]
        return self.packing.pack(mix(attention, *self.unpacked(projected), context, rules=rules, scaled=False))

    def unpacked(self, projected: Float[Tensor, "n N k"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values on the padded grid, `[B, n, S, k]` each."""
        query, key, value = (self.packing.unpack(x.transpose(0, 1)) for x in projected.split(self.graph.roles.sizes))
        return query, key, value

    def _attend(self, run: StreamRun, index: int, layer: Layer, x: Tensor, rules: Rules, inner: bool) -> Tensor:
        block = self.graph.attention(index).number
        projected = run.reads[block] = self.project(index, x, rules.norm)
        mixed = self.mix(index, projected, rules)
        scaled = post_scaled(layer.attention, mixed.transpose(0, 1), rules.norm).transpose(0, 1)
        written = write_heads(layer.attention, scaled, bias=False)
        if inner:
            run.mixed[block] = mixed
            self._note(run, block, written)
        bias = layer.attention.output_bias
        return x + written if bias is None else x + written + bias

    def _note(self, run: StreamRun, block: int, written: Float[Tensor, "N D"]) -> None:
        run.written[block] = written
        written.register_hook(lambda g: torch.zeros_like(g) if run.dropped == self.graph.blocks[block].layer else None)

    # ------------------------------------------------------------------------------------------------------- gradients

    def edge_gradients(
        self,
        objective: Objective,
        component: Component | None = None,
        points: Sequence[tuple[float, float]] = ((1.0, 1.0),),
        rules: Rules = PLAIN,
    ) -> Float[Tensor, " E"] | Float[Tensor, "B E"]:
        """⟨∂objective/∂x_r, Δ_w⟩ for every edge w → r, the gradients summed over points of a component's path: the
        batch's, or `by_example` each example's.

        Args:
            objective: what is explained.
            component: what moves; its own edges alone get a number. None for the clean run and all edges.
            points: where along the path (0 is ablated, 1 is clean), and what each gradient weighs.
            rules: how to go backwards.
        """
        writers = slice(0, self.graph.n_writers) if component is None else component.writers
        scores, waiting = self.clean[0].new_zeros(self.n_examples if self.by_example else 1, self.graph.n_edges), []
        for alpha, weight in points:
            waiting.append(self._gradients(objective, component, alpha, weight, rules))
            if len(waiting) * waiting[0].n_bytes > POINT_BYTES:
                self._contract(waiting, writers, rules, scores)
                waiting = []
        if waiting:
            self._contract(waiting, writers, rules, scores)
        return scores if self.by_example else scores[0]

    def _gradients(
        self, objective: Objective, component: Component | None, alpha: float, weight: float, rules: Rules
    ) -> Point:
        run = self.run(component, alpha, rules)
        gradients = torch.autograd.grad(self.value(run, objective, rules), list(run.reads.values()), allow_unused=True)
        found = {block: g.mul_(weight) for block, g in zip(run.reads, gradients, strict=True) if g is not None}
        return Point(run.inputs, found)

    @torch.no_grad()
    def _contract(self, points: list[Point], writers: slice, rules: Rules, scores: Float[Tensor, "rows E"]) -> None:
        """Add the products of the points' summed gradients with the differences."""
        n_tokens, d_model, last = self.packing.n_tokens, self.parts.d_model, self.graph.final.number
        step = max(1, CHUNK_BYTES // ((writers.stop - writers.start) * d_model * scores.element_size()))
        for start in range(0, n_tokens, step):
            tokens = slice(start, min(start + step, n_tokens))
            differences = self.differences(tokens, writers)  # (w, T, D)
            sums = None if self.sum is None else self.sum[tokens]
            for number in points[0].gradients:
                if number != last:
                    each = (self._to_input(point, number, tokens, rules) for point in points)
                    g_x = reduce(torch.add, each)  # (n, T, D)
                    self._add(scores, number, writers, g_x, differences, sums)
        at_end = [point.gradients[last] for point in points if last in point.gradients]
        if at_end:
            differences = self.differences(self.targets, writers)
            sums = None if self.sum is None else self.sum[self.targets]
            self._add(scores, last, writers, torch.stack(at_end).sum(0)[None], differences, sums)

    def _add(
        self,
        scores: Float[Tensor, "rows E"],
        number: int,
        writers: slice,
        g_x: Float[Tensor, "n T D"],
        differences: Float[Tensor, "w T D"],
        sums: Int[Tensor, " T"] | None,
    ) -> None:
        block = self.graph.blocks[number]
        n = min(writers.stop, block.n_writers) - writers.start
        if n <= 0:
            return
        columns = slice(writers.start, writers.start + n)
        for s, own in enumerate(scores.view(-1, self.graph.n_plain)):
            table = block.table(own)
            at = slice(None) if sums is None else sums == s  # an edge acts where its reader reads
            table[:, columns] += g_x[:, at].flatten(1) @ differences[:n, at].flatten(1).T

    def _to_input(self, point: Point, number: int, tokens: slice, rules: Rules) -> Float[Tensor, "n T D"]:
        """From the gradient of a block's projections to that of each reader's own input."""
        g = point.gradients[number]
        if self.graph.blocks[number].kind == "mlp":
            return g[None, tokens]
        attention = self.parts.layers[self.graph.blocks[number].layer].attention
        projections = attention.projections(self.graph.copies_per_key)
        pairs = zip(g[:, tokens].split([len(p.weight) for p in projections]), projections, strict=True)
        back = torch.cat([each @ heads.weight.to(g.dtype).transpose(1, 2) for each, heads in pairs])
        return normed_back(attention.norm, point.inputs[number][tokens], back, rules.norm)

    def differences(self, tokens: Int[Tensor, " T"] | slice, writers: slice | None = None) -> Float[Tensor, "w T D"]:
        """What writers write beyond their ablated values, at some tokens; of all writers if not told."""
        low, high, _ = (writers or slice(0, self.graph.n_writers)).indices(self.graph.n_writers)
        found, layers = [x[tokens] for x in self.embeds[low:high]], self.graph.writer_layer[low:high]
        for index in range(max(int(layers[0]), 0), int(layers[-1]) + 1):
            first, mlp = self.graph.writer(index, 0), self.graph.writer(index)
            heads = slice(max(low - first, 0), min(high, mlp) - first)
            if heads.start < heads.stop:
                found += self._expanded(index, heads, tokens).unbind(1)
            if low <= mlp < high:
                found.append(self.mlps[index][tokens])
        return torch.stack(found)

    def _expanded(self, index: int, heads: slice, tokens: Tensor | slice | None = None) -> Float[Tensor, "T h D"]:
        difference = self.heads[index] if tokens is None else self.heads[index][tokens]
        return self.expand(index, heads, difference[:, heads])

    def expand(self, index: int, heads: slice | Tensor, difference: Float[Tensor, "T h v"]) -> Float[Tensor, "T h D"]:
        """Differences of some of a layer's heads through W_O, with their shares of b_O."""
        attention = self.parts.layers[index].attention
        wide = torch.einsum("nhv,hvd->nhd", difference, attention.output[heads].to(self.dtype))
        bias = attention.output_bias
        return wide + bias / self.parts.n_heads if self.engine.ablation.splits_bias and bias is not None else wide

    def writer_effects(self, run: StreamRun, value: Tensor, *, again: bool = False) -> "Effects":
        """⟨∂value/∂z_w, Δ_w⟩ for every writer, example by example, and the gradients of heads before W_O.

        Args:
            run: a run from the embeddings on, with `inner`.
            value: what is explained, of that run.
            again: keep what another backward of the same run needs.
        """
        inputs = [run.start, *run.written.values(), *run.mixed.values()]
        gradients = torch.autograd.grad(value, inputs, retain_graph=again, allow_unused=True)
        start, *rest = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, gradients, strict=True)]
        # A gradient is captured before the hooks of its tensor run, so a dropped layer's own are made zero here.
        pairs = zip(run.written, rest, strict=False)
        written = {
            block: torch.zeros_like(g) if self.graph.blocks[block].layer == run.dropped else g for block, g in pairs
        }
        mixed = dict(zip(run.mixed, rest[len(written) :], strict=True))
        with torch.no_grad():
            per_token = [(x * start).sum(-1, keepdim=True) for x in self.embeds]
            for index, mlp in enumerate(self.mlps):
                heads = self._expanded(index, slice(0, self.parts.n_heads))
                per_token.append(torch.einsum("nhd,nd->nh", heads, written[self.graph.attention(index).number]))
                per_token.append((mlp * written[self.graph.mlp(index).number]).sum(-1, keepdim=True))
            return Effects(self.per_example(torch.cat(per_token, 1)), mixed)

    def per_example(self, per_token: Float[Tensor, "N n"]) -> Float[Tensor, "B n"]:
        """Sums over each example's tokens."""
        return per_token.new_zeros(self.n_examples, per_token.shape[1]).index_add_(0, self.example, per_token)
