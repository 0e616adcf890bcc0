"""Single edges against plain forward hooks on the user's own module, sharing no code with the engine or its adapters.

Edge writer → reader is ablated by giving that reader alone `x + (z̃ − z)`, where z and z̃ are what hooks saw the writer
write in the clean and in the corrupted run.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgewise.engine._packing import pack
from edgewise.engine._writes import trace
from edgewise.graph import Embeddings, Graph
from tests.discovery.hooks import removed
from tests.engines import assert_close, engine
from tests.models.own_family import WIDTH
from tests.tiny import Prompt, collate, draw_prompts, random_model


@dataclass(frozen=True)
class _Family:
    """Where hooks go in a layer, and which of a projection's outputs belong to a head's query, key or value."""

    layers: Callable[[Any], Any]
    embedding: Callable[[Any], list[nn.Module]]
    final_norm: Callable[[Any], nn.Module]
    norms: tuple[str, str]
    projection: dict[str, str]
    columns: Callable[[Any, str, int], slice]
    output: str
    mlp: str
    post_norm: str | None = None
    """Of what all heads write together; `mlp` is then the norm after it."""


def _fused_by_kind(config: Any, kind: str, head: int) -> slice:  # q q q q k k k k v v v v
    width = config.n_embd // config.n_head
    first = "qkv".index(kind) * config.n_embd + head * width
    return slice(first, first + width)


def _fused_by_head(config: Any, kind: str, head: int) -> slice:  # q k v q k v q k v q k v
    width = config.hidden_size // config.num_attention_heads
    first = (3 * head + "qkv".index(kind)) * width
    return slice(first, first + width)


def _apart(config: Any, kind: str, head: int) -> slice:
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return slice(head * width, (head + 1) * width)


_GPT2 = _Family(
    lambda m: m.transformer.h,
    lambda m: [m.transformer.wte, m.transformer.wpe],
    lambda m: m.transformer.ln_f,
    ("ln_1", "ln_2"),
    dict.fromkeys("qkv", "attn.c_attn"),
    _fused_by_kind,
    "attn.c_proj",
    "mlp",
)
_LLAMA = _Family(
    lambda m: m.model.layers,
    lambda m: [m.model.embed_tokens],
    lambda m: m.model.norm,
    ("input_layernorm", "post_attention_layernorm"),
    {kind: f"self_attn.{kind}_proj" for kind in "qkv"},
    _apart,
    "self_attn.o_proj",
    "mlp",
)
_NEOX = _Family(
    lambda m: m.gpt_neox.layers,
    lambda m: [m.gpt_neox.embed_in],
    lambda m: m.gpt_neox.final_layer_norm,
    ("input_layernorm", "post_attention_layernorm"),
    dict.fromkeys("qkv", "attention.query_key_value"),
    _fused_by_head,
    "attention.dense",
    "mlp",
)
_GEMMA = replace(
    _LLAMA,
    norms=("input_layernorm", "pre_feedforward_layernorm"),
    mlp="post_feedforward_layernorm",
    post_norm="post_attention_layernorm",
)
_TWISTED = _Family(
    lambda m: m.layers,
    lambda m: [m.tokens],
    lambda m: m.norm,
    ("before", "mlp_before"),
    {"q": "query", "k": "key", "v": "value"},
    lambda _config, _kind, head: slice(head * WIDTH, (head + 1) * WIDTH),
    "output",
    "mlp_after",
    "after",
)
FAMILIES = {
    "gpt2": _GPT2,
    "llama-gqa": _LLAMA,
    "llama-mqa": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "mistral-window": _LLAMA,
    "neox-parallel": _NEOX,
    "neox-sequential": _NEOX,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "twisted": _TWISTED,
}


@torch.no_grad()
def _writes(module: Any, family: _Family, ids: Tensor) -> dict[str, Tensor]:
    """What every writer writes on this prompt, `[S, D]` each, by the writer's name in the graph."""
    found: dict[str, Tensor] = {"embed": torch.tensor(0.0)}
    handles = []

    def on_embedding(name: str):
        def hook(_module, _inputs, output):
            found[name] = output.reshape(len(ids), -1)
            found["embed"] = found["embed"] + found[name]

        return hook

    def on_mlp(layer: int):
        return lambda _module, _inputs, output: found.update({f"m{layer}": output[0]})

    def on_heads(layer: int, n_heads: int):
        def hook(projection, inputs):
            mixed = inputs[0].reshape(len(ids), n_heads, -1)
            weight = projection.weight if isinstance(projection, nn.Linear) else projection.weight.T  # (D, H v)
            for head, columns in enumerate(weight.chunk(n_heads, 1)):
                found[f"a{layer}.h{head}"] = mixed[:, head] @ columns.T

        return hook

    def on_post_norm(layer: int, n_heads: int):
        def hook(_norm, inputs, output):
            for head in range(n_heads):
                found[f"a{layer}.h{head}"] *= (output / inputs[0])[0]

        return hook

    for name, embedding in zip(("tok_embed", "pos_embed"), family.embedding(module), strict=False):
        handles += [embedding.register_forward_hook(on_embedding(name))]
    for index, layer in enumerate(family.layers(module)):
        n_heads = module.config.num_attention_heads
        handles += [layer.get_submodule(family.output).register_forward_pre_hook(on_heads(index, n_heads))]
        if family.post_norm:
            handles += [layer.get_submodule(family.post_norm).register_forward_hook(on_post_norm(index, n_heads))]
        handles += [layer.get_submodule(family.mlp).register_forward_hook(on_mlp(index))]
    with removed(handles):
        module(input_ids=ids[None])
    return found


@torch.no_grad()
def _patched(module: Any, family: _Family, prompt: Prompt, reader: str, change: Tensor) -> Tensor:
    """The logits at the prompt's targets when this reader alone sees its residual stream plus `change`."""
    if reader == "logits":
        handle = family.final_norm(module).register_forward_pre_hook(lambda _module, inputs: (inputs[0] + change,))
    elif mlp := re.fullmatch(r"m(\d+)", reader):
        norm = family.layers(module)[int(mlp[1])].get_submodule(family.norms[1])
        handle = norm.register_forward_pre_hook(lambda _module, inputs: (inputs[0] + change,))
    else:
        match = re.fullmatch(r"a(\d+)\.(?:h|kv)(\d+)\.([qkv])", reader)
        assert match
        layer, columns = family.layers(module)[int(match[1])], family.columns(module.config, match[3], int(match[2]))
        norm, seen = layer.get_submodule(family.norms[0]), []

        def changed_at(projection, inputs, output):
            if len(seen) != 1:  # the call below, which comes back here
                return output
            changed = projection(norm.forward(seen.pop() + change))
            output = output.clone()
            output[..., columns] = changed[..., columns]
            return output

        see = norm.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        with removed([see, layer.get_submodule(family.projection[match[3]]).register_forward_hook(changed_at)]):
            return module(input_ids=prompt.clean[None]).logits[0, list(prompt.targets)]
    with removed([handle]):
        return module(input_ids=prompt.clean[None]).logits[0, list(prompt.targets)]


def _some_edges(graph: Graph, n: int = 40) -> list[int]:
    """Edges into every reader, the rest by chance."""
    order = torch.randperm(graph.n_edges)
    first = {int(graph.edge_reader[edge]): edge for edge in order.tolist()}
    return sorted({*first.values(), *order[:n].tolist()})


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@pytest.mark.parametrize(("name", "embeddings"), [*((name, "joint") for name in FAMILIES), ("gpt2", "split")])
def test_single_edges_are_what_hooks_say(name: str, embeddings: Embeddings, ablation: str):
    model = random_model(name)
    graph, family = model.graph(embeddings), FAMILIES[name]
    (prompt,) = draw_prompts((5,))
    clean, corrupted = _writes(model.module, family, prompt.clean), _writes(model.module, family, prompt.corrupted)
    assert set(clean) >= set(graph.writer_names)
    edges = _some_edges(graph)
    masks = torch.ones(len(edges), 1, graph.n_edges)
    masks[torch.arange(len(edges)), 0, edges] = 0
    run = engine(model, graph, ablation).run
    for edge, logits in zip(edges, run(collate([prompt]), masks), strict=True):
        writer, reader = graph.edge_name(edge).split(" -> ")
        carried = corrupted[writer] if ablation == "interchange" else torch.zeros_like(clean[writer])
        assert_close(logits, _patched(model.module, family, prompt, reader, carried - clean[writer]))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_trace_is_what_hooks_see(name: str):
    model = random_model(name)
    graph, parts = model.graph(), model.parts
    prompts = draw_prompts((5, 3, 4))
    batch = collate(prompts, "left")
    found = trace(parts, graph, pack(batch.clean))
    heads = [
        torch.einsum("nhv,hvd->hnd", x, layer.attention.output)
        for x, layer in zip(found.heads, parts.layers, strict=True)
    ]
    by_layer = [torch.cat([h, mlp[None]]) for h, mlp in zip(heads, found.mlps, strict=True)]
    written = torch.cat([torch.stack(found.embeds), *by_layer])  # (W, N, D)
    expected = [_writes(model.module, FAMILIES[name], prompt.clean) for prompt in prompts]
    for writer, values in zip(graph.writer_names, written, strict=True):
        assert_close(values, torch.cat([seen[writer] for seen in expected]))
