"""What every writer puts into the residual stream in one run, and the sums of it that readers see."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.engine._ablation import Ablation
from edgewise.engine._matmul import matmul_precision
from edgewise.engine._packing import Packing
from edgewise.graph import Graph
from edgewise.models import Attention, Layer, Parts, block
from edgewise.models.block import AttentionContext


class Writes(NamedTuple):
    """The writers' outputs, as coefficients: heads before W_O (a post-norm's scale included), embeddings and MLPs in
    the residual's own basis.

    `N` is the number of tokens, or 1 where every token has the same values (zero, mean and learned ablations).
    """

    embeds: tuple[Float[Tensor, "N D"], ...]
    """One per embedding writer; empty where embeddings are not writers."""
    heads: tuple[Float[Tensor, "N H v"], ...]
    """One per layer."""
    mlps: tuple[Float[Tensor, "N D"], ...]
    """One per layer."""

    def tensors(self) -> tuple[Tensor, ...]:
        """All of them in one tuple; `from_tensors` is the inverse."""
        return (*self.embeds, *self.heads, *self.mlps)

    @staticmethod
    def from_tensors(tensors: Iterable[Tensor], graph: Graph) -> "Writes":
        """The inverse of `tensors`, for a graph's writers."""
        rest, n_layers = iter(tensors), graph.spec.n_layers
        embeds, heads = tuple(islice(rest, graph.n_embeddings)), tuple(islice(rest, n_layers))
        return Writes(embeds, heads, tuple(rest))

    def check(self, parts: Parts, graph: Graph, ablation: Ablation) -> None:
        """Raise `InputError` unless there is one tensor per writer, of the model's sizes and of one length: 1, unless
        the ablation goes by position.
        """
        wanted = [(parts.d_model,)] * graph.n_embeddings
        wanted += [tuple(layer.attention.output_weight.shape[:2]) for layer in parts.stored]
        wanted += [(parts.d_model,)] * len(parts.stored)
        found = [tuple(x.shape[1:]) for x in self.tensors()]
        if len(self.embeds) != graph.n_embeddings or found != wanted or len({len(x) for x in self.tensors()}) > 1:
            raise InputError(
                f"constants: {len(self.embeds)} embeddings, {len(self.heads)} layers of heads, {len(self.mlps)} MLPs; "
                f"expected {graph.n_embeddings}, {len(parts.layers)}, {len(parts.layers)}, of the model's widths and "
                "one length"
            )
        if ablation.kind != "mean-positional" and len(self.mlps[0]) != 1:
            raise InputError(
                f"ablation {ablation.kind!r}: its constants are of {len(self.mlps[0])} positions; give one for all"
            )


def embeddings(parts: Parts, graph: Graph, packing: Packing) -> tuple[Float[Tensor, "N D"], ...]:
    """The embedding terms of the packed tokens of one copy: as many as the graph has embedding writers, or one sum if
    it has none.
    """
    terms = parts.embed(packing.ids[packing.real], packing.positions[packing.real])
    if graph.n_embeddings == len(terms):
        return terms
    return (torch.stack(terms).sum(0),)


@torch.no_grad()
def trace(parts: Parts, graph: Graph, packing: Packing) -> Writes:
    """What every writer writes in a plain run of the model, with one residual stream, per token in plain order.

    It uses the user's own norms and MLPs, and nothing of the masked executor. The batch is packed with one copy and one
    group. Where embeddings are not writers, `embeds` still holds their sum.
    """
    embeds = embeddings(parts, graph, packing)
    written = [(mixed, mlp) for _, mixed, mlp in _plain_run(parts, embeds, packing)]
    return Writes(embeds, tuple(mixed for mixed, _ in written), tuple(mlp for _, mlp in written))


def _plain_run(parts: Parts, embeds: tuple[Tensor, ...], packing: Packing) -> Iterator[tuple[Layer, Tensor, Tensor]]:
    """Each layer with its heads' coefficients and what its MLP writes."""
    contexts = attention_contexts(parts, packing)
    x = torch.stack(embeds).sum(0)  # (N, D)
    for layer, context in zip(parts.layers, contexts, strict=True):
        attention, mlp = layer.attention, layer.mlp
        mixed = attend(attention, attention.norm.module(x), context, packing)  # (N, H, v)
        after = x + block.write_heads(attention, mixed)
        written = mlp.run_module(mlp.norm.module(x if parts.parallel else after))
        written = written if mlp.post_norm is None else mlp.post_norm.module(written)
        x = after + written
        yield layer, mixed, written


def attend(
    attention: Attention, normed: Float[Tensor, "N D"], context: AttentionContext, packing: Packing
) -> Float[Tensor, "N H v"]:
    """A layer's attention with one shared input: every head's coefficients."""
    projections = (block.project(normed, heads) for heads in attention.projections())
    query, key, value = (packing.unpack(x.transpose(0, 1)) for x in projections)
    with matmul_precision("highest"):  # PyTorch's fused attention on a CPU is five times slower under "medium"
        return packing.pack(block.mix(attention, query, key, value, context))


class AblatedRun(NamedTuple):
    """What removed edges carry, and what follows from it alone; for all tokens, or an example's."""

    writes: Writes
    base: tuple[Float[Tensor, "N D"], ...]
    """By block of readers, what they get with all edges ablated (see `base_sums`)."""
    nodes: dict[int, Float[Tensor, "N n ..."]]
    """By layer that has them, the chosen features' pre-activations, or the chosen neurons' activations."""


def base_sums(parts: Parts, graph: Graph, ablation: Ablation, ablated: Writes) -> tuple[Float[Tensor, "M D"], ...]:
    """What each block of readers gets when all its edges are ablated: `c_r + Σ_{w before r} z̃_w`, but for clean
    embeddings.

    Where embeddings are not writers they are left out: they are clean, and the caller adds them. `ablation` decides
    whether b_O belongs to the layer (always on) or is shared out among its heads.
    """
    sums = _BaseSums(parts, graph, ablation, ablated.embeds, ablated.mlps[0])
    for layer, heads, mlp in zip(parts.layers, ablated.heads, ablated.mlps, strict=True):
        sums.add(layer, heads, mlp)
    return sums.all()


@torch.no_grad()
def trace_and_sums(
    parts: Parts, graph: Graph, ablation: Ablation, packing: Packing
) -> tuple[Writes, tuple[Float[Tensor, "M D"], ...]]:
    """`trace` and its `base_sums` in one walk through the layers."""
    embeds, heads, mlps = embeddings(parts, graph, packing), list[Tensor](), list[Tensor]()
    sums = _BaseSums(parts, graph, ablation, embeds, embeds[0])
    for layer, mixed, mlp in _plain_run(parts, embeds, packing):
        sums.add(layer, mixed, mlp)
        heads.append(mixed)
        mlps.append(mlp)
    return Writes(embeds, tuple(heads), tuple(mlps)), sums.all()


class _BaseSums:
    """What readers get with all edges ablated, layer by layer."""

    def __init__(
        self, parts: Parts, graph: Graph, ablation: Ablation, embeds: tuple[Tensor, ...], like: Float[Tensor, "M D"]
    ) -> None:
        self.parts, self.ablation, self.sums = parts, ablation, list[Tensor]()
        x = torch.stack(embeds).sum(0) if graph.n_embeddings else torch.zeros_like(like)
        self.x = x.to(torch.promote_types(x.dtype, torch.float32))  # a stream of thousands has steps of 16 in bfloat16

    def add(self, layer: Layer, heads: Float[Tensor, "M H v"], mlp: Float[Tensor, "M D"]) -> None:
        after = self.x + block.write_heads(layer.attention, heads, bias=not self.ablation.splits_bias)
        self.sums += [self.x, self.x if self.parts.parallel else after]
        self.x = after + mlp

    def all(self) -> tuple[Float[Tensor, "M D"], ...]:
        return (*self.sums, self.x)


def constant_writes(parts: Parts, graph: Graph) -> Writes:
    """Writes that are zero for every token: a start for learned constants. Shapes `[1, …]`."""
    n_heads, width, d_model = parts.stored[0].attention.output_weight.shape
    output = parts.like
    return Writes(
        tuple(output.new_zeros((1, d_model)) for _ in range(graph.n_embeddings)),
        tuple(output.new_zeros((1, n_heads, width)) for _ in parts.stored),
        tuple(output.new_zeros((1, d_model)) for _ in parts.stored),
    )


def attention_contexts(parts: Parts, packing: Packing) -> tuple[AttentionContext, ...]:
    """What each layer's attention needs to know of the padded grid."""
    real = None if packing.full else packing.real.repeat(packing.n_copies, 1)
    return block.attention_contexts(parts, packing.positions.repeat(packing.n_copies, 1), real)
