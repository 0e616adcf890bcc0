"""What one layer computes, and its vector-Jacobian products: the only place with these formulas.

For a reader's input x, in the order of a layer:

1. norm: `y = gain · x / rms(x) + bias`, x centred first for a layer norm (`normed`, `normed_back`);
2. project: queries, keys and values `y W + b`, then the family's query and key norms and that layer's rotary
   (`project`, `placed`);
3. mix: `softmax(scale · q kᵀ) v` over the keys that a query sees, soft-capped or with a sink if the family has one
   (`mix`; `attend` where only some tokens ask);
4. write: heads through W_O, plus b_O (`write_heads`). A post-norm divides by one number per token, `rms(Σ_h z_h W_O)`,
   which `mix` puts into the heads' coefficients; its gain is in `Attention.output`;
5. MLP: `down(act(x W_gate) · (x W_up))`, and its post-norm (`write_mlp`).

Everything is differentiable in activations and never in weights. `folded.py` has the forms that the masked run uses,
norm and projection in one product each way. Only `edgewise.engine`'s reference path has formulas of its own, on
purpose.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from edgewise.models._parts import Attention, Heads, Mlp, Norm, Parts, Rotary


class Rules(NamedTuple):
    """What the backward holds fixed or shares out, in place of the derivative (RelP: Jafari et al. 2025, after the LRP
    rules of Ali et al. 2022). None of them changes the forward.
    """

    norm: bool = False
    """A norm's scale is a constant, a post-norm's too."""
    attention: bool = False
    """The attention pattern is a constant: queries and keys get no gradient."""
    activation: bool = False
    """An activation function's slope is that of its secant through 0, f(z) / z."""
    gate: bool = False
    """The two factors of a gated product get half of the gradient each."""


PLAIN = Rules()
"""The model's own gradients."""


# ---------------------------------------------------------------------------------------------------------------- norms


def centre(x: Tensor) -> Tensor:
    """Subtract the mean over the last axis."""
    return x - x.mean(-1, keepdim=True)


def inverse_rms(norm: Norm, x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n"]:
    """1 / root mean square, as the norm has it, of an input that is centred where the norm is a layer norm."""
    if norm.kind == "none":
        return x.new_ones(x.shape[:-1])
    mean_square = torch.linalg.vector_norm(x, dim=-1).square() / x.shape[-1]
    return (mean_square + norm.eps).rsqrt()


def normed(norm: Norm, x: Float[Tensor, "*n D"], frozen: bool = False) -> Float[Tensor, "*n D"]:
    """A norm; `frozen` makes its scale a constant of the backward."""
    if norm.kind == "none":
        return x
    x = centre(x) if norm.kind == "layer" else x
    inverse = inverse_rms(norm, x)[..., None]
    y = x * (inverse.detach() if frozen else inverse)
    y = y if norm.gain is None else y * norm.gain
    return y if norm.bias is None else y + norm.bias


def normed_back(
    norm: Norm, x: Float[Tensor, "*T D"], gradient: Float[Tensor, "*n D"], frozen: bool = False
) -> Float[Tensor, "*n D"]:
    """From the gradient of `normed` to that of its input; several gradients may share one input."""
    if norm.kind == "none":
        return gradient
    x = centre(x) if norm.kind == "layer" else x
    inverse = inverse_rms(norm, x)
    gradient = gradient if norm.gain is None else gradient * norm.gain
    back = gradient * inverse[..., None]
    if not frozen:
        y = x * inverse[..., None]
        back = back + input_coefficient(gradient, y, inverse, x.shape[-1])[..., None] * x
    return centre(back) if norm.kind == "layer" else back


def input_coefficient(
    gradient: Float[Tensor, "*#n k"], y: Float[Tensor, "*#n k"], inverse: Float[Tensor, "*#n"], d_model: int
) -> Float[Tensor, "*#n"]:
    """The coefficient of x in ∂loss/∂x: `−⟨∂loss/∂y, y⟩ / (D rms²)` for `y = x / rms`, or `(x W) / rms` with any W, a
    bias left out; `inverse` is `1 / rms(x)`.
    """
    return torch.linalg.vecdot(gradient, y).to(inverse.dtype).mul(inverse.square()).div(-d_model)


# ------------------------------------------------------------------------------------------------------------ attention


class AttentionContext(NamedTuple):
    """What a layer's attention needs to know of a batch."""

    rotary: Rotary | None
    """Cosines and sines of the positions, or None for a layer without them."""
    allowed: Bool[Tensor, "..."] | None
    """Which keys each query sees, broadcast over `[B, H, S, S]`; None where that is all, or causality alone."""


def attention_contexts(
    parts: Parts, positions: Int[Tensor, "B S"], real: Bool[Tensor, "B S"] | None
) -> tuple[AttentionContext, ...]:
    """One for each layer; cosines and sines, and masks, are made once for all layers that share them.

    `real` says which positions hold a token, None that all do; padding must stand on the right.
    """
    like, rotaries, masks = parts.like, dict[object, Rotary](), {}
    contexts = list[AttentionContext]()
    for attention in (layer.attention for layer in parts.stored):
        if attention.rotary is not None and attention.rotary not in rotaries:
            rotaries[attention.rotary] = attention.rotary(like, positions)
        kind = attention.causal, attention.window
        if kind not in masks:
            masks[kind] = _grid_mask(attention, positions.shape[1], real, positions.device)
        contexts.append(AttentionContext(rotaries.get(attention.rotary), masks[kind]))
    return tuple(contexts)


def _grid_mask(
    attention: Attention, length: int, real: Bool[Tensor, "B S"] | None, device: torch.device
) -> Bool[Tensor, "..."] | None:
    # With padding on the right, causality alone keeps real tokens from seeing padding, so the common case needs no
    # mask tensor.
    if attention.causal and (attention.window is None or attention.window >= length):
        return None
    if not attention.causal and real is None:
        return None
    seen = seen_keys(attention, torch.arange(length, device=device), length, real)
    return seen if attention.causal else seen[:, None]


def seen_keys(
    attention: Attention, asking: Int[Tensor, "*B Q"], n_keys: int, real: Bool[Tensor, "B S"] | None
) -> Bool[Tensor, "... S"]:
    """Which of `n_keys` positions queries at `asking` see: `[*B, Q, S]`, or `[B, 1, S]` without causality, where `real`
    says which positions hold a token (always one of a prompt at least), None that all do.
    """
    if attention.causal:
        distance = asking[..., None] - torch.arange(n_keys, device=asking.device)
        return (distance >= 0) & (distance < (n_keys if attention.window is None else attention.window))
    seen = asking.new_ones(1, n_keys, dtype=torch.bool) if real is None else real
    return seen[:, None]


def project(y: Float[Tensor, "N D"], heads: Heads) -> Float[Tensor, "n N k"]:
    """Every head's projection of one shared, normed input."""
    return linear(y, heads.weight, None if heads.bias is None else heads.bias[:, None])


def placed(
    attention: Attention, query: Float[Tensor, "B H S k"], key: Float[Tensor, "B K S k"], rotary: Rotary | None
) -> tuple[Float[Tensor, "B H S k"], Float[Tensor, "B K S k"]]:
    """Queries and keys as their products are taken: after their norms and rotations."""
    query, key = _head_normed(attention.query_norm, query), _head_normed(attention.key_norm, key)
    if attention.rotate is not None and rotary is not None:
        query, key = attention.rotate(query, key, *rotary)
    return query, key


def _head_normed(
    norm: Callable[[Tensor], Tensor] | Norm | None, x: Float[Tensor, "B n S k"]
) -> Float[Tensor, "B n S k"]:
    """Each head's vectors by themselves; of a `Norm`, those of all heads by one scale. Heads may stand there several
    times in a row, all equally often.
    """
    if not isinstance(norm, Norm):
        return x if norm is None else norm(x)
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    y = exact * inverse_rms(norm, exact.transpose(1, 2).flatten(2))[:, None, :, None]
    if norm.gain is not None:
        gain = norm.gain.view(-1, 1, x.shape[-1])  # (heads, 1, k)
        y = y * gain.repeat_interleave(x.shape[1] // len(gain), 0)
    return y.to(x.dtype)


def mix(
    attention: Attention,
    query: Float[Tensor, "B H S k"],
    key: Float[Tensor, "B K S k"],
    value: Float[Tensor, "B K S v"],
    context: AttentionContext,
    heads: Int[Tensor, " H"] | None = None,
    rules: Rules = PLAIN,
    *,
    scaled: bool = True,
) -> Float[Tensor, "B H S v"]:
    """From projected queries, keys and values to the heads' coefficients, which `Attention.output` takes to the stream.

    Args:
        attention: the layer's.
        query: `[B, H, S, k]`.
        key: `[B, K, S, k]`, where K divides H.
        value: `[B, K, S, v]`.
        context: the batch's.
        heads: which of the layer's heads the queries are; None for all in order. With a post-norm it must be all.
        rules: `attention` holds the pattern fixed, `norm` a post-norm's scale.
        scaled: False leaves a post-norm's scale out: each head's own.
    """
    if rules.attention:
        query, key = query.detach(), key.detach()
    query, key = placed(attention, query, key, context.rotary)
    group = query.shape[1] // key.shape[1]
    if group > 1:
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    mixed = attend(attention, query, key, value, context.allowed, heads)
    return post_scaled(attention, mixed, rules.norm) if scaled else mixed


def attend(
    attention: Attention,
    query: Float[Tensor, "B H Q k"],
    key: Float[Tensor, "B H S k"],
    value: Float[Tensor, "B H S v"],
    allowed: Bool[Tensor, "..."] | None,
    heads: Int[Tensor, " H"] | None = None,
) -> Float[Tensor, "B H Q v"]:
    """Each head's mixed values, before any post-norm: the one core of attention.

    Queries and keys are placed, and only some tokens may ask. `allowed` says which keys each query sees; None is all
    or, where attention is causal and all tokens ask, the earlier ones. `heads` says which head stands where, None that
    all of the layer's do in order; only sinks differ by it.
    """
    if attention.softcap is None and attention.sinks is None:
        causal = attention.causal and allowed is None
        return functional.scaled_dot_product_attention(
            query, key, value, allowed, is_causal=causal, scale=attention.scale
        )
    return _logits(attention, query, key, allowed, heads).softmax(-1) @ sink_padded(attention, value)


def pattern_logits(
    attention: Attention, query: Float[Tensor, "B H S k"], key: Float[Tensor, "B H S k"], context: AttentionContext
) -> Float[Tensor, "B H S K"]:
    """What the softmax of `mix` is taken of; −∞ where a query does not see a key. A sink is one key more, the last (see
    `sink_padded`).
    """
    query, key = placed(attention, query, key, context.rotary)
    return _logits(attention, query, key, context.allowed)


def _logits(
    attention: Attention, query: Tensor, key: Tensor, allowed: Tensor | None, heads: Tensor | None = None
) -> Float[Tensor, "B H Q K"]:
    logits = query @ key.transpose(2, 3) * attention.scale
    if attention.softcap is not None:
        logits = (logits / attention.softcap).tanh() * attention.softcap
    if allowed is None and attention.causal:
        allowed = seen_keys(attention, torch.arange(query.shape[2], device=query.device), key.shape[2], None)
    logits = logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)
    if attention.sinks is None:
        return logits
    sinks = attention.sinks if heads is None else attention.sinks[heads]
    return torch.cat([logits, sinks.to(logits.dtype)[:, None, None].expand(*logits.shape[:-1], 1)], -1)


def sink_padded(attention: Attention, value: Float[Tensor, "B H S v"]) -> Float[Tensor, "B H K v"]:
    """Values with those of the sinks, which are 0, where there are sinks."""
    return value if attention.sinks is None else functional.pad(value, (0, 0, 0, 1))


def post_scaled(
    attention: Attention, mixed: Float[Tensor, "*B H S v"], frozen: bool = False
) -> Float[Tensor, "*B H S v"]:
    """All heads' mixed values, divided by the root mean square of what they write together if a post-norm does so;
    `frozen` makes that a constant of the backward.
    """
    if attention.post_norm is None:
        return mixed
    written = torch.einsum("...hsv,hvd->...sd", mixed, attention.output_weight.to(mixed.dtype))
    inverse = inverse_rms(attention.post_norm, written.to(torch.promote_types(written.dtype, torch.float32)))
    inverse = inverse.detach() if frozen else inverse
    return mixed * inverse.to(mixed.dtype)[..., None, :, None]


def write_heads(attention: Attention, mixed: Float[Tensor, "N H v"], bias: bool = True) -> Float[Tensor, "N D"]:
    """What an attention layer adds to the residual: all heads' coefficients through W_O, plus b_O."""
    return linear(mixed.flatten(1), attention.output.flatten(0, 1), attention.output_bias if bias else None)


# ------------------------------------------------------------------------------------------------------------------ MLP


def write_mlp(mlp: Mlp, x: Float[Tensor, "*n D"], rules: Rules = PLAIN) -> Float[Tensor, "*n D"]:
    """What an MLP writes, its norms included.

    The rules `activation` and `gate` do nothing for an MLP that is a module as it is.
    """
    y = normed(mlp.norm, x, rules.norm)
    if mlp.down is None:
        written = mlp.run_module(y)
    else:
        written = linear(hidden(mlp, [linear(y, *each) for each in mlp.inputs], rules), mlp.down, mlp.down_bias)
    return written if mlp.post_norm is None else normed(mlp.post_norm, written, rules.norm)


def hidden(mlp: Mlp, projected: list[Float[Tensor, "*n F"]], rules: Rules = PLAIN) -> Float[Tensor, "*n F"]:
    """The hidden activations from the pre-activations, the gate's first if there is one."""
    assert mlp.activation is not None
    gate, up = projected[0], projected[-1]
    active = _secant(mlp.activation, gate) if rules.activation else mlp.activation(gate)
    if mlp.gate is None:
        return active
    return (active * up.detach() + active.detach() * up) / 2 if rules.gate else active * up


def _secant(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """The function, with the slope f(z) / z in place of its derivative."""
    with torch.no_grad():
        y, safe = function(z), torch.where(z.abs() < 1e-6, 1e-6, z)  # at 0, of the line through a point beside it
        slope = function(safe) / safe
    return y + (z - z.detach()) * slope


def linear(x: Float[Tensor, "... D"], weight: Float[Tensor, "... D k"], bias: Tensor | None) -> Float[Tensor, "... k"]:
    """`x W + b`, in the type of x."""
    y = x @ weight.to(x.dtype)
    return y if bias is None else y + bias
