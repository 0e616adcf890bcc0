"""Attribution with nothing but PyTorch's hooks and autograd on the user's own module.

What the writers write is what hooks see in a clean and a corrupted run. For the gradients, each reader is given an
addend of its own, zero, at its input: a head's query, key or value is projected again from the norm of the stream plus
its addend, and the addend's gradient is the reader's. Nothing of the engine or of the adapters is used here.
The methods made of it are in `hook_scores.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layout:
    """Where the pieces are in one family's module."""

    layers: str
    embeddings: tuple[str, ...]
    final_norm: str
    norms: tuple[str, str]
    """The attention's and the MLP's."""
    projections: dict[str, tuple[str, ...]]
    """Which of q, k and v each projection of the attention gives."""
    by_head: bool
    """Whether a projection lists q, k, v for each head, rather than all heads for each of them."""
    output: str
    activation: str
    gate: tuple[str, str] | None = None
    """What is gated, and what reads the product."""
    post_norms: tuple[str, str] | None = None
    """The norms of what attention and MLP write."""

    @property
    def added(self) -> tuple[str, str]:
        """What attention and MLP add to the stream is these modules' output."""
        return self.post_norms or (self.output, "mlp")


LAYOUTS = {
    "gpt2": Layout(
        "transformer.h",
        ("transformer.wte", "transformer.wpe"),
        "transformer.ln_f",
        ("ln_1", "ln_2"),
        {"attn.c_attn": ("q", "k", "v")},
        False,
        "attn.c_proj",
        "mlp.act",
    ),
    "llama": Layout(
        "model.layers",
        ("model.embed_tokens",),
        "model.norm",
        ("input_layernorm", "post_attention_layernorm"),
        {f"self_attn.{kind}_proj": (kind,) for kind in "qkv"},
        False,
        "self_attn.o_proj",
        "mlp.act_fn",
        ("mlp.up_proj", "mlp.down_proj"),
    ),
    "gemma": Layout(
        "model.layers",
        ("model.embed_tokens",),
        "model.norm",
        ("input_layernorm", "pre_feedforward_layernorm"),
        {f"self_attn.{kind}_proj": (kind,) for kind in "qkv"},
        False,
        "self_attn.o_proj",
        "mlp.act_fn",
        ("mlp.up_proj", "mlp.down_proj"),
        ("post_attention_layernorm", "post_feedforward_layernorm"),
    ),
    "twisted": Layout(
        "layers",
        ("tokens",),
        "norm",
        ("before", "mlp_before"),
        {"query": ("q",), "key": ("k",), "value": ("v",)},
        False,
        "output",
        "mlp.1",
        post_norms=("after", "mlp_after"),
    ),
    "neox": Layout(
        "gpt_neox.layers",
        ("gpt_neox.embed_in",),
        "gpt_neox.final_layer_norm",
        ("input_layernorm", "post_attention_layernorm"),
        {"attention.query_key_value": ("q", "k", "v")},
        True,
        "attention.dense",
        "mlp.act",
    ),
    "plain": Layout(
        "blocks",
        ("tokens", "positions"),
        "final_norm",
        ("attention_norm", "mlp_norm"),
        {"query": ("q",), "key": ("k",), "value": ("v",)},
        False,
        "output",
        "mlp.1",
    ),
}


def write_differences(module: Any, layout: Layout, clean: Tensor, corrupted: Tensor | None) -> dict[str, Tensor]:
    """z_w − z̃_w for every writer; of zero ablation without a corrupted prompt."""
    written = writes(module, layout, clean)
    ablated = dict.fromkeys(written, 0.0) if corrupted is None else writes(module, layout, corrupted)
    return {writer: z - ablated[writer] for writer, z in written.items()}


def products(differences: dict[str, Tensor], gradients: dict[str, Tensor]) -> dict[tuple[str, str], float]:
    """⟨g_r, Δ_w⟩ for every writer and reader."""
    return {(w, r): float((g * d).sum()) for w, d in differences.items() for r, g in gradients.items()}


@torch.no_grad()
def writes(module: Any, layout: Layout, ids: Tensor) -> dict[str, Tensor]:
    """What each writer adds to the residual stream, `[S, D]`."""
    found: dict[str, Tensor] = {}
    n_heads = heads_of(module.config)

    def embedding(_module, _inputs, output):
        found["embed"] = found.get("embed", 0) + output.reshape(len(ids), -1)

    def heads(layer: int):
        def see(projection, inputs):
            mixed = inputs[0].reshape(len(ids), n_heads, -1)
            weight = projection.weight.T if isinstance(projection, nn.Linear) else projection.weight  # (H v, D)
            for head, rows in enumerate(weight.chunk(n_heads)):
                found[f"a{layer}.h{head}"] = mixed[:, head] @ rows

        return see

    def share(layer: int):
        """A norm of what all heads write together scales what each of them does."""

        def see(_norm, inputs, output):
            for head in range(n_heads):
                found[f"a{layer}.h{head}"] *= (output / inputs[0])[0]

        return see

    handles = [module.get_submodule(name).register_forward_hook(embedding) for name in layout.embeddings]
    for index, layer in enumerate(module.get_submodule(layout.layers)):
        handles += [layer.get_submodule(layout.output).register_forward_pre_hook(heads(index))]
        if layout.post_norms:
            handles += [layer.get_submodule(layout.post_norms[0]).register_forward_hook(share(index))]
        mlp = layer.get_submodule(layout.added[1])
        handles += [mlp.register_forward_hook(lambda _m, _i, out, i=index: found.update({f"m{i}": out[0]}))]
    with removed(handles):
        module(input_ids=ids[None])
    return found


def reader_gradients(
    module: Any,
    layout: Layout,
    ids: Tensor,
    metric: Callable[[Tensor], Tensor],
    moved: list[Any] | None = None,
    rules: bool = False,
) -> dict[str, Tensor]:
    """The gradient of the metric at each reader's own input, `[S, D]`.

    Args:
        module: the user's model.
        layout: where its pieces are.
        ids: the prompt's tokens, `[S]`.
        metric: of the logits `[S, V]`.
        moved: hooks that are set and change what components write; they are removed.
        rules: go backwards by the rules of relevance propagation.
    """
    addends: dict[str, Tensor] = {}

    def addend(reader: str, stream: Tensor) -> Tensor:
        return addends.setdefault(reader, torch.zeros_like(stream, requires_grad=True))

    def add(reader: str):
        return lambda _norm, inputs: (inputs[0] + addend(reader, inputs[0]),)

    def split(norm: nn.Module, readers: list[str]):
        streams: list[Tensor] = []  # what the norm has just been given

        def project_apart(projection, _inputs, _output):
            (stream,) = streams
            streams.clear()
            normed = _frozen_norm if rules else lambda norm, x: norm.forward(x)
            apart = [projection.forward(normed(norm, stream + addend(reader, stream))) for reader in readers]
            pieces = [y.chunk(len(readers), -1)[i] for i, y in enumerate(apart)]
            kept = [y.detach() if rules and r[-1] in "qk" else y for r, y in zip(readers, pieces, strict=True)]
            return torch.cat(kept, -1)

        return streams, project_apart

    handles = [module.get_submodule(layout.final_norm).register_forward_pre_hook(add("logits"))]
    for index, layer in enumerate(module.get_submodule(layout.layers)):
        attention_norm, mlp_norm = (layer.get_submodule(name) for name in layout.norms)
        handles += [mlp_norm.register_forward_pre_hook(add(f"m{index}"))]
        for name, kinds in layout.projections.items():
            readers = [f"a{index}.{head}" for head in columns(module.config, kinds, layout.by_head)]
            streams, project_apart = split(attention_norm, readers)
            see = attention_norm.register_forward_pre_hook(lambda _norm, inputs, s=streams: s.append(inputs[0]))
            handles += [see, layer.get_submodule(name).register_forward_hook(project_apart)]
    if rules:
        handles += _relevance_hooks(module, layout)
    with removed(handles + (moved or [])):
        value = metric(module(input_ids=ids[None]).logits[0])
    gradients = torch.autograd.grad(value, list(addends.values()), allow_unused=True)
    filled = [torch.zeros_like(a) if g is None else g for a, g in zip(addends.values(), gradients, strict=True)]
    return {reader: gradient[0] for reader, gradient in zip(addends, filled, strict=True)}


def _frozen_norm(norm: Any, x: Tensor) -> Tensor:
    if isinstance(norm, nn.LayerNorm):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt().detach() * norm.weight + norm.bias
    own = hasattr(norm, "variance_epsilon")  # the others' gain is 1 + w
    eps, gain = (norm.variance_epsilon, norm.weight) if own else (norm.eps, 1 + norm.weight)
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt().detach() * gain


def _relevance_hooks(module: Any, layout: Layout) -> list[Any]:
    """Frozen norms before MLPs and logits and after attention and MLPs, secant activations, halved gates."""

    def frozen(norm, inputs, _output):
        return _frozen_norm(norm, inputs[0])

    handles = [module.get_submodule(layout.final_norm).register_forward_hook(frozen)]
    for layer in module.get_submodule(layout.layers):
        for name in (layout.norms[1], *(layout.post_norms or ())):
            handles.append(layer.get_submodule(name).register_forward_hook(frozen))
        seen: list[Tensor] = []

        def secant(_module, inputs, output, seen=seen):
            output = inputs[0] * (output / inputs[0]).detach()
            seen.append(output)
            return output

        handles.append(layer.get_submodule(layout.activation).register_forward_hook(secant))
        if layout.gate:
            up, down = (layer.get_submodule(name) for name in layout.gate)
            handles.append(up.register_forward_hook(lambda _m, _i, output, seen=seen: seen.append(output)))

            def halved(_module, _inputs, seen=seen):
                one, other = seen
                return ((one * other.detach() + one.detach() * other) / 2,)

            handles.append(down.register_forward_pre_hook(halved))
    return handles


def columns(config: Any, kinds: tuple[str, ...], by_head: bool) -> list[str]:
    """Whose a projection's outputs are, in their order."""
    n_heads = heads_of(config)
    n_keys = getattr(config, "num_key_value_heads", None) or n_heads
    names = {kind: [f"h{head}.{kind}" for head in range(n_heads)] for kind in kinds}
    if n_keys != n_heads:
        names |= {kind: [f"kv{head}.{kind}" for head in range(n_keys)] for kind in kinds if kind in "kv"}
    if by_head:
        return [name for head in zip(*names.values(), strict=True) for name in head]
    return [name for kind in kinds for name in names[kind]]


def heads_of(config: Any) -> int:
    """How many query heads a layer has."""
    return config.n_heads if hasattr(config, "n_heads") else config.num_attention_heads


@contextmanager
def removed(handles: list[Any]) -> Iterator[None]:
    """Hooks that are gone afterwards."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
