"""What every writer puts into the residual stream in one run, and the sums of it that readers see."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.engine._ablation import Ablation
from edgewise.engine._matmul import matmul_precision
from edgewise.engine._packing import Packing
from edgewise.graph import Graph
from edgewise.models import Attention, Heads, Parts, Rotary


@dataclass(frozen=True)
class Writes:
    """The writers' outputs, as coefficients: heads before W_O, embeddings and MLPs in the residual's own basis.

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
    def from_tensors(tensors: tuple[Tensor, ...], n_layers: int) -> "Writes":
        """The inverse of `tensors`."""
        first = len(tensors) - 2 * n_layers
        return Writes(tensors[:first], tensors[first : first + n_layers], tensors[first + n_layers :])

    def check(self, parts: Parts, graph: Graph) -> None:
        """Raise `InputError` unless there is one tensor per writer, of the model's sizes and of one length."""
        wanted = [(parts.d_model,)] * graph.n_embeddings
        wanted += [tuple(layer.attention.output.shape[:2]) for layer in parts.layers]
        wanted += [(parts.d_model,)] * len(parts.layers)
        found = [tuple(x.shape[1:]) for x in self.tensors()]
        if len(self.embeds) != graph.n_embeddings or found != wanted or len({len(x) for x in self.tensors()}) > 1:
            raise InputError(
                f"constants: {len(self.embeds)} embeddings, {len(self.heads)} layers of heads, {len(self.mlps)} MLPs; "
                f"expected {graph.n_embeddings}, {len(parts.layers)}, {len(parts.layers)}, of the model's widths and "
                "one length"
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
    """Run the model plainly, with one residual stream, and keep what every writer wrote.

    It uses the user's own norms and MLPs, and nothing of the masked executor.

    Args:
        parts: the model.
        graph: its graph; decides how many embedding writers there are.
        packing: a batch, packed with one copy and one group.

    Returns:
        The writes, per token in plain order. Where embeddings are not writers, `embeds` still holds their sum.
    """
    rotary = make_rotary(parts, packing)
    embeds = embeddings(parts, graph, packing)
    x = torch.stack(embeds).sum(0)  # (N, D)
    heads, mlps = [], []
    for layer in parts.layers:
        attention = layer.attention
        mixed = attend(layer.attention, attention.norm.module(x), rotary, packing)  # (N, H, v)
        after = x + head_sum(mixed, attention.output, attention.output_bias)
        written = layer.mlp.module(layer.mlp.norm.module(x if parts.parallel else after))
        x = after + written
        heads.append(mixed)
        mlps.append(written)
    return Writes(embeds, tuple(heads), tuple(mlps))


def attend(
    attention: Attention, normed: Float[Tensor, "N D"], rotary: Rotary | None, packing: Packing
) -> Float[Tensor, "N H v"]:
    """A layer's attention with one shared input: every head's mixed values before W_O."""

    def project(heads: Heads) -> Float[Tensor, "B n S k"]:
        y = torch.matmul(normed, heads.weight)  # (n, N, k)
        return packing.unpack((y if heads.bias is None else y + heads.bias[:, None]).transpose(0, 1))

    query, key, value = project(attention.query), project(attention.key), project(attention.value)
    with matmul_precision("highest"):  # PyTorch's fused attention on a CPU is five times slower under "medium"
        return packing.pack(attention.mix(query, key, value, rotary, None if packing.full else packing.real))


def head_sum(
    mixed: Float[Tensor, "N H v"], output: Float[Tensor, "H v D"], bias: Float[Tensor, " D"] | None
) -> Float[Tensor, "N D"]:
    """What an attention layer adds to the residual: all heads through W_O, plus b_O."""
    total = mixed.flatten(1) @ output.flatten(0, 1)
    return total if bias is None else total + bias


def base_sums(parts: Parts, graph: Graph, ablation: Ablation, ablated: Writes) -> list[Float[Tensor, "M D"]]:
    """What each block of readers gets when all its edges are ablated: `c_r + Σ_{w before r} z̃_w`, but for clean
    embeddings.

    Args:
        parts: the model.
        graph: its graph. Where embeddings are not writers they are left out: they are clean, and the caller adds them.
        ablation: decides whether b_O belongs to the layer (always on) or is shared out among its heads.
        ablated: what ablated edges carry.

    Returns:
        One tensor per block of `graph.blocks`, as long as `ablated`'s.
    """
    x = torch.stack(ablated.embeds).sum(0) if graph.n_embeddings else torch.zeros_like(ablated.mlps[0])
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # a residual stream of thousands has steps of 16 in bfloat16
    sums = []
    for layer, heads, mlp in zip(parts.layers, ablated.heads, ablated.mlps, strict=True):
        attention = layer.attention
        after = x + head_sum(heads, attention.output, None if ablation.splits_bias else attention.output_bias)
        sums += [x, x if parts.parallel else after]
        x = after + mlp
    return [*sums, x]


def constant_writes(parts: Parts, graph: Graph, value: float = 0.0) -> Writes:
    """Writes that are the same for every token: all zero, or a start for learned constants. Shapes `[1, …]`."""
    output = parts.layers[0].attention.output
    n_heads, width, d_model = output.shape
    return Writes(
        tuple(output.new_full((1, d_model), value) for _ in range(graph.n_embeddings)),
        tuple(output.new_full((1, n_heads, width), value) for _ in parts.layers),
        tuple(output.new_full((1, d_model), value) for _ in parts.layers),
    )


def make_rotary(parts: Parts, packing: Packing) -> Rotary | None:
    """Cosines and sines of the padded grid's positions, or None for a model without them."""
    if parts.rotary is None:
        return None
    return parts.rotary(parts.layers[0].attention.output, packing.positions.repeat(packing.n_copies, 1))
