"""AtP*: attribution patching of components with its two failures mended (Kramár, Lieberum, Shah & Nanda 2024).

* The softmax saturates, and its gradient with it. So what patching a head's queries or keys does to the attention is
  computed exactly, and only what the head's output does to the metric is linearised (the *QK fix*).
* A component's direct and indirect effects may cancel. So the gradient is taken L times, each time blocked at one
  layer's outputs, and the absolute effects are averaged (*GradDrop*).
"""

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.discovery._attributing import attribution
from edgewise.discovery._configs import AtpStarConfig
from edgewise.discovery._cost import Cost
from edgewise.discovery._explain import explain
from edgewise.discovery._scores import edges_of_nodes
from edgewise.engine import Engine, Objective, Stream
from edgewise.models.block import pattern_logits, sink_padded
from edgewise.tasks import Task

Keys = Literal["together", "apart"]


@attribution(AtpStarConfig)
def atp_star(engine: Engine, task: Task, config: AtpStarConfig, cost: Cost) -> tuple[Tensor, Tensor, Tensor]:
    """AtP* for every writer, and for every head's query, key and value.

    Returns:
        Scores, the mean over the examples: `writers` `[W]`, `readers` `[R]`, and edges' `[E]` made of them.

    Raises:
        edgewise.InputError: a setting is wrong, or the metric is KL or has no gradient.
    """
    graph = engine.graph

    def scores_of(stream: Stream, objective: Objective) -> Float[Tensor, " n"]:
        per_example = list(_effects(stream, objective, config.graddrop, config.keys))
        cost.spend(stream.n_examples, forwards=1, backwards=len(per_example))
        if not config.graddrop:
            return per_example[0].sum(0)
        # A component's own layer gives it 0, so its L − 1 other layers are averaged; embeddings are in no layer.
        layers = torch.full((len(per_example[0][0]),), max(1, len(per_example) - 1))
        layers[: graph.n_embeddings] = len(per_example)
        total = torch.stack(per_example).abs().sum((0, 1))
        return total / layers.to(total)

    found = explain(engine, task, config, scores_of, cost, at_full_model=True)
    found = found.abs() if config.graddrop else found  # sums of sizes, whatever the metric's sign
    writers, readers = found.split([graph.n_writers, graph.n_readers])
    readers = torch.where(torch.arange(graph.n_readers) == graph.n_readers - 1, torch.inf, readers)
    return edges_of_nodes(graph, writers, readers), writers, readers


def _effects(stream: Stream, objective: Objective, graddrop: bool, keys: Keys) -> Iterator[Float[Tensor, "B n"]]:
    """The effects of all writers and readers under each blocked gradient, or under the whole one."""
    run = stream.run(inner=True)
    value = stream.value(run, objective)
    graph, n_layers = stream.graph, len(stream.mlps)
    blocks = [graph.attention(index).number for index in range(n_layers)]
    changes = [_Patches(stream, run.reads[block].detach(), index, keys) for index, block in enumerate(blocks)]
    layers = range(n_layers) if graddrop and n_layers > 1 else [None]
    for layer in layers:
        run.dropped = layer
        found = stream.writer_effects(run, value, again=layer != layers[-1])
        readers = []
        for index, patches in enumerate(changes):
            mlp = found.writers[:, graph.writers_of(graph.mlp(index))]
            readers += [patches.effects(found.mixed[blocks[index]]), mlp]
        logits = found.writers.new_zeros(len(found.writers), 1)
        yield torch.cat([found.writers, *readers, logits], 1)


class _Patches:
    """What patching the queries, keys or values of one layer does to its heads' output."""

    @torch.no_grad()
    def __init__(self, stream: Stream, projected: Float[Tensor, "n N k"], index: int, keys: Keys) -> None:
        self.stream, self.index, graph = stream, index, stream.graph
        base = stream.ablated.base(graph.attention(index).number).detach().to(stream.dtype)
        base = base.expand(stream.packing.n_tokens, -1)
        base = base if graph.n_embeddings else base + stream.clean[0]
        ablated = stream.project(index, base)
        self.sizes, joint = graph.roles.sizes, stream.parts.layers[index].attention.joint
        clean = stream.mix(index, projected)  # (N, H, v)
        self.changes: list[list[Tensor]] = []
        for kind, n in enumerate(self.sizes):
            # One query or key at a time where it moves all heads, and otherwise all, each of which moves its own.
            some = [slice(i, i + 1) for i in range(n)] if joint and kind < 2 else [slice(None)]
            self.changes.append([])
            for own in some:
                pieces = list(projected.split(self.sizes))
                pieces[kind] = pieces[kind].clone()
                pieces[kind][own] = ablated.split(self.sizes)[kind][own]
                self.changes[kind].append(clean - stream.mix(index, torch.cat(pieces)))
        if joint and keys == "apart":
            raise InputError("keys='apart': this model norms all heads' keys at once; use keys='together'")
        self.apart = _KeysApart(stream, index, projected, ablated, clean) if keys == "apart" else None

    @torch.no_grad()
    def effects(self, gradient: Float[Tensor, "N H v"]) -> Float[Tensor, "B n"]:
        """Of every query, key and value reader of the layer."""
        found = []
        for kind, changes in enumerate(self.changes):
            by_head = [self.stream.per_example((gradient * change).sum(-1)) for change in changes]  # (B, H) each
            if kind == 1 and self.apart is not None:
                by_head = [self.apart.effects(gradient)]
            if len(by_head) == self.sizes[kind] > 1:
                found += [each.sum(1, keepdim=True) for each in by_head]
            else:
                found.append(by_head[0].view(len(by_head[0]), self.sizes[kind], -1).sum(-1))
        return torch.cat(found, 1)


class _KeysApart:
    """One key patched at a time: with `p` its probability and `d` the change of its logit, the head's output moves by
    `p (eᵈ − 1) / (1 + p (eᵈ − 1))` times the way from the output to that position's value.
    """

    def __init__(self, stream: Stream, index: int, projected: Tensor, ablated: Tensor, clean: Tensor) -> None:
        self.stream, attention = stream, stream.parts.layers[index].attention
        query, key, value = stream.unpacked(projected)
        patched = stream.unpacked(ablated)[1]
        key, patched, value = (x.repeat_interleave(stream.graph.heads_per_key, 1) for x in (key, patched, value))
        self.value = sink_padded(attention, value)
        logits, others = (pattern_logits(attention, query, k, stream.contexts[index]) for k in (key, patched))
        seen = torch.isfinite(logits)
        change = torch.where(seen, others - logits, 0).clamp(max=80)  # e⁸⁰ is all there is to say in float32
        grown = logits.softmax(-1) * change.expm1()  # (B, H, S, S)
        # Of a key that has nearly everything, 1 − p and the way from the output are lost to rounding, in just the
        # saturated heads that this is for. With q = 1 − p and the others' mean in place of the output the same is
        # p (eᵈ − 1) · q / (q + p eᵈ) times the way from that mean.
        self.top = torch.zeros_like(seen).scatter(-1, logits.argmax(-1, keepdim=True), True)
        others = logits.masked_fill(self.top, -torch.inf)
        odds = others.logsumexp(-1, keepdim=True) - logits - change  # log(q / (p eᵈ)); −inf for the only key
        self.weight = torch.where(self.top, grown * odds.sigmoid(), grown / (1 + grown))
        self.others = others.softmax(-1).nan_to_num()
        self.clean = stream.packing.unpack(clean)  # (B, H, S, v)

    def effects(self, gradient: Float[Tensor, "N H v"]) -> Float[Tensor, "B H"]:
        g = self.stream.packing.unpack(gradient)
        values = g @ self.value.transpose(2, 3)  # (B, H, S, S)
        towards = values - (g * self.clean).sum(-1, keepdim=True)
        of_top = values - (self.others * values).sum(-1, keepdim=True)
        towards = torch.where(self.top, of_top, towards)
        return -(self.weight * towards).sum((2, 3))
