"""The reference: a masked run that is obviously right, in plain PyTorch with autograd and no tricks.

Every reader gets its own residual stream, summed edge by edge; every gradient is autograd's. It is slow and keeps
everything; the fast executor is held equal to it by the tests.
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from edgewise.engine._ablation import Ablation
from edgewise.engine._packing import Packing
from edgewise.engine._writes import Writes, embeddings, make_rotary
from edgewise.graph import Graph
from edgewise.models import Heads, Norm, Parts


def reference_logits(
    parts: Parts,
    graph: Graph,
    ablation: Ablation,
    packing: Packing,
    masks: Float[Tensor, "CP E"],
    ablated: Writes,
    targets: Int[Tensor, " A"],
) -> Float[Tensor, "A V"]:
    """Logits of the circuits' runs at some tokens; differentiable in `masks` and `ablated`.

    Args:
        parts: the model.
        graph: its graph.
        ablation: what removed edges carry (only who owns b_O is decided here; the values come in `ablated`).
        packing: the clean prompts.
        masks: one row per circuit and position group, `[C * P, E]`.
        ablated: what removed edges carry, per packed token or the same for all.
        targets: packed tokens whose next-token logits are wanted, `[A]`.
    """
    row = torch.empty(packing.n_tokens, dtype=torch.long, device=masks.device)
    for segment in packing.segments:
        row[segment.start : segment.stop] = segment.row
    clean = tuple(term[packing.example_token].detach() for term in embeddings(parts, graph, packing))
    always = torch.zeros_like(clean[0]) if graph.n_embeddings else clean[0]  # c: what is never masked
    written = list(clean) if graph.n_embeddings else []  # z_w, each (N, D)
    replaced = [term.expand_as(clean[0]) for term in ablated.embeds] if graph.n_embeddings else []  # z̃_w
    rotary = make_rotary(parts, packing)

    def stream(reader: int, written: list[Tensor], replaced: list[Tensor], always: Tensor) -> Float[Tensor, "N D"]:
        x = always
        for writer in range(int(graph.visible[reader])):
            mask = masks[row, int(graph.offset[reader]) + writer][:, None]  # (N, 1)
            x = x + mask * written[writer] + (1 - mask) * replaced[writer]
        return x

    def project(first: int, heads: Heads, norm: Norm, n: int) -> Float[Tensor, "CB n S k"]:
        repeats = n // len(heads.weight)
        outputs = []
        for i in range(n):
            y = _frozen(norm.module)(stream(first + i, written, replaced, always)) @ heads.weight[i // repeats]
            outputs.append(y if heads.bias is None else y + heads.bias[i // repeats])
        return packing.unpack(torch.stack(outputs, 1))

    keys = graph.n_kv_readers
    for index, layer in enumerate(parts.layers):
        attention = replace(
            layer.attention,
            query_norm=_frozen(layer.attention.query_norm),
            key_norm=_frozen(layer.attention.key_norm),
        )
        first = graph.blocks[2 * index].reader
        query = project(first, attention.query, attention.norm, parts.n_heads)
        key = project(first + parts.n_heads, attention.key, attention.norm, keys)
        value = project(first + parts.n_heads + keys, attention.value, attention.norm, keys)
        real = None if packing.full else packing.real.repeat(packing.n_copies, 1)
        mixed = packing.pack(attention.mix(query, key, value, rotary, real))  # (N, H, v)
        share = torch.zeros_like(always[0])
        if attention.output_bias is not None and ablation.splits_bias:
            share = attention.output_bias / parts.n_heads
        heads_written = [mixed[:, head] @ attention.output[head] + share for head in range(parts.n_heads)]
        heads_replaced = [
            (ablated.heads[index][:, head] @ attention.output[head]).expand_as(always) for head in range(parts.n_heads)
        ]
        mlp = first + parts.n_heads + 2 * keys
        before = (written, replaced, always)  # what the MLP of a parallel block reads
        if attention.output_bias is not None and not ablation.splits_bias:
            always = always + attention.output_bias
        written, replaced = written + heads_written, replaced + heads_replaced
        mlp_input = stream(mlp, *before) if parts.parallel else stream(mlp, written, replaced, always)
        mlp_written = _frozen(layer.mlp.module)(_frozen(layer.mlp.norm.module)(mlp_input))
        written.append(mlp_written)
        replaced.append(ablated.mlps[index].expand_as(always))
    return parts.unembed(
        _frozen(parts.final_norm.module)(stream(graph.n_readers - 1, written, replaced, always)[targets])
    )


def _frozen(module: Any) -> Any:
    """A user's module as a function that gives its own parameters no gradient."""
    if not isinstance(module, nn.Module):
        return module
    weights = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return lambda x: functional_call(module, weights, (x,))
