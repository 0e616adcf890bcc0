"""The straightforward way: every layer stacks all that was written so far and mixes it for every reader, in autograd.

This is what existing code does (a stack rebuilt for each read, kept for the backward), on the same parts as the engine.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise.engine._packing import Packing
from edgewise.engine._writes import Writes, attention_contexts, embeddings
from edgewise.graph import Block, Graph
from edgewise.models import Heads, Norm, Parts
from edgewise.models.block import mix


def dense_logits(
    parts: Parts, graph: Graph, packing: Packing, mask: Float[Tensor, " E"], ablated: Writes, targets: Int[Tensor, " A"]
) -> Float[Tensor, "A V"]:
    """Logits of the circuit's run at some tokens; one circuit, interchange, joint embeddings, sequential blocks."""
    clean = list(embeddings(parts, graph, packing))
    corrupted = list(ablated.embeds)
    bias = torch.zeros_like(clean[0][0])
    contexts = attention_contexts(parts, packing)

    def inputs(block: Block) -> Float[Tensor, "n N D"]:
        m = block.table(mask)
        z, z_ablated = torch.stack(clean), torch.stack(corrupted)
        return torch.einsum("rw,wnd->rnd", m, z) + torch.einsum("rw,wnd->rnd", 1 - m, z_ablated) + bias

    def project(x: Float[Tensor, "n N D"], heads: Heads, norm: Norm) -> Float[Tensor, "B n S k"]:
        y = norm.module(x) @ heads.weight
        y = y if heads.bias is None else y + heads.bias[:, None]
        return packing.unpack(y.transpose(0, 1))

    for index, layer in enumerate(parts.layers):
        attention = layer.attention
        query, key, value = inputs(graph.attention(index)).split(graph.roles.sizes)
        mixed = mix(
            attention,
            project(query, attention.query, attention.norm),
            project(key, attention.key, attention.norm),
            project(value, attention.value, attention.norm),
            contexts[index],
        )
        clean += list(packing.pack(mixed).transpose(0, 1) @ attention.output)
        corrupted += list(ablated.heads[index].transpose(0, 1) @ attention.output)
        if attention.output_bias is not None:
            bias = bias + attention.output_bias
        clean.append(layer.mlp.module(layer.mlp.norm.module(inputs(graph.mlp(index))[0])))
        corrupted.append(ablated.mlps[index])
    return parts.unembed(parts.final_norm.module(inputs(graph.final)[0][targets]))
