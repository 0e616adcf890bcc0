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

Everything is differentiable in activations and never in weights. `FoldedHeads` and `FoldedMlp` are the forms that the
masked run uses, norm and projection in one product each way; tests hold them equal to the plain forms, and all to
autograd. Only `edgewise.engine`'s reference path has formulas of its own, on purpose.
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
RELEVANCE = Rules(True, True, True, True)
"""All rules: gradients as layer-wise relevance propagation has them."""


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


# ------------------------------------------------------------------------------------------ fused with the norm before


class FoldedHeads(NamedTuple):
    """A block of readers, such as a layer's queries, keys and values, as one projection each: `(x W) / rms(x) + b`."""

    norm: Norm
    weight: Float[Tensor, "n D k"]
    """With the norm's gain folded in."""
    bias: Float[Tensor, "n k"] | None
    """Of the projection, with the norm's bias carried through it."""

    @staticmethod
    def of(attention: Attention, repeats: int, dtype: torch.dtype) -> "FoldedHeads":
        """Queries, keys and values, keys and values given `repeats` times each."""
        projections = attention.projections(repeats)
        weight = torch.cat([p.weight for p in projections]).to(dtype)
        biases = [p.bias for p in projections if p.bias is not None]  # all three have one, or none has
        bias = _folded_bias(attention.norm, weight, torch.cat(biases) if biases else None)
        if attention.norm.gain is not None:
            weight *= attention.norm.gain.to(dtype)[:, None]
        return FoldedHeads(attention.norm, weight, bias)

    def take(self, readers: Int[Tensor, " m"] | slice) -> "FoldedHeads":
        """Some of the readers."""
        return FoldedHeads(self.norm, self.weight[readers], None if self.bias is None else self.bias[readers])

    def project(self, x: Float[Tensor, "m T D"]) -> tuple[Float[Tensor, "n T k"], Float[Tensor, "m T"]]:
        """The projections of the readers' inputs, or of one shared input, and `1 / rms` of the inputs."""
        inverse = inverse_rms(self.norm, x)
        y = torch.matmul(x.to(self.weight.dtype), self.weight).to(x.dtype).mul_(inverse[..., None])
        return y if self.bias is None else y.add_(self.bias[:, None]), inverse

    def back(
        self,
        gradient: Float[Tensor, "n T k"],
        y: Float[Tensor, "n T k"],
        inverse: Float[Tensor, "n T"],
        x: Float[Tensor, "m T D"],
        out: Float[Tensor, "o T D"],
    ) -> None:
        """Write the gradients of the inputs: one each, or their sum where `out` has one row; it may be `x` itself.

        `g_x = (g_y Wᵀ) / rms − x ⟨g_y, y⟩ / (D rms²)`, where y is without its bias. A layer norm would take the mean
        off that; what is written must be centred instead, and then nothing along the mean is ever used.
        """
        weight = self.weight.transpose(1, 2)  # (n, k, D)
        scaled = (gradient * inverse[..., None]).to(weight.dtype)
        if len(out) < len(scaled):
            scaled, weight = scaled.transpose(0, 1).flatten(1)[None], weight.flatten(0, 1)[None]
        if self.norm.kind == "none":
            out.zero_()
        else:
            unbiased = y if self.bias is None else y - self.bias[:, None]
            along = input_coefficient(gradient, unbiased, inverse, x.shape[-1])
            along = along if len(out) == len(along) else along.sum(0, keepdim=True)
            torch.mul(x[: len(out)], along[..., None], out=out)
        if out.dtype == weight.dtype:
            out.baddbmm_(scaled, weight)
        else:
            out += torch.bmm(scaled, weight)


class MlpRun(NamedTuple):
    """What the backward of `FoldedMlp` needs of its forward."""

    x: Float[Tensor, "N D"]
    """The input, before the norm."""
    inverse: Float[Tensor, " N"] | None
    """The norm's `1 / rms`."""
    projected: list[Float[Tensor, "N F"]] | None
    """The pre-activations, the gate's first; None where they are made again."""
    raw: Float[Tensor, "N D"] | None
    """What a post-norm reads."""


class FoldedMlp(NamedTuple):
    """An MLP with the user's own matrices, which are not copied: its input is scaled instead."""

    mlp: Mlp
    dtype: torch.dtype
    """That of products with the weights."""
    weights: tuple[Float[Tensor, "D F"], ...]
    """Of the gate, if there is one, and of what it gates."""
    biases: tuple[Float[Tensor, " F"] | None, ...]
    """Theirs, with the norm's bias carried through."""
    gain: Float[Tensor, " D"] | None
    """The norm's."""
    without: Int[Tensor, " m"] | None
    """Neurons that are left out, since they stand in the graph by themselves."""

    @staticmethod
    def of(mlp: Mlp, dtype: torch.dtype, without: Int[Tensor, " m"] | None = None) -> "FoldedMlp":
        """The folded form of an MLP, or of the rest of it, without some neurons."""
        weights = tuple(weight.to(dtype) for weight, _ in mlp.inputs)
        pairs = zip(weights, mlp.inputs, strict=True)
        biases = tuple(_folded_bias(mlp.norm, weight, bias) for weight, (_, bias) in pairs)
        gain = None if mlp.norm.gain is None else mlp.norm.gain.to(dtype)
        return FoldedMlp(mlp, dtype, weights, biases, gain, without)

    def write(self, x: Float[Tensor, "N D"], *, keep: bool = True) -> tuple[Float[Tensor, "N D"], MlpRun]:
        """What the MLP writes, and what its backward needs; without `keep`, pre-activations are made again there."""
        mlp, inverse, projected = self.mlp, None, None
        if mlp.down is None:
            raw = mlp.run_module(normed(mlp.norm, x).to(self.dtype))
        else:
            inverse = inverse_rms(mlp.norm, x)
            projected = self._project(x, inverse)
            raw = _product(self._hidden(projected), mlp.down.to(self.dtype), mlp.down_bias)
        if mlp.post_norm is None:
            return raw, MlpRun(x, inverse, projected if keep else None, None)
        raw = raw.to(x.dtype)
        return normed(mlp.post_norm, raw), MlpRun(x, inverse, projected if keep else None, raw)

    def back(self, gradient: Float[Tensor, "N D"], run: MlpRun) -> Float[Tensor, "N D"]:
        """From the gradient of what the MLP wrote to that of its input; the mean is left as by `FoldedHeads.back`."""
        mlp, x = self.mlp, run.x
        if mlp.post_norm is not None and run.raw is not None:
            gradient = normed_back(mlp.post_norm, run.raw, gradient)
        gradient = gradient.to(self.dtype)
        if mlp.down is None or run.inverse is None:
            with torch.enable_grad():
                leaf = x.detach().requires_grad_()
                written = mlp.run_module(normed(mlp.norm, leaf).to(self.dtype))
            return torch.autograd.grad(written, leaf, gradient)[0]
        projected = run.projected or self._project(x, run.inverse)
        with torch.enable_grad():  # only the activation function is differentiated by autograd
            inputs = [y.requires_grad_() for y in projected]
            inner = self._hidden(inputs)
        g_y = torch.autograd.grad(inner, inputs, gradient @ mlp.down.to(self.dtype).T)
        return self._back_to_input(g_y, [y.detach() for y in projected], x, run.inverse)

    def _hidden(self, projected: list[Float[Tensor, "N F"]]) -> Float[Tensor, "N F"]:
        active = hidden(self.mlp, projected)
        return active if self.without is None else active.index_fill(1, self.without, 0)

    def _project(self, x: Float[Tensor, "N D"], inverse: Float[Tensor, " N"]) -> list[Float[Tensor, "N F"]]:
        x = self._gained(x * inverse[:, None]).to(self.dtype)
        return [_product(x, weight, bias) for weight, bias in zip(self.weights, self.biases, strict=True)]

    def _back_to_input(
        self, gradient: tuple[Tensor, ...], projected: list[Tensor], x: Float[Tensor, "N D"], inverse: Tensor
    ) -> Float[Tensor, "N D"]:
        total = gradient[0] @ self.weights[0].T
        for g_y, weight in zip(gradient[1:], self.weights[1:], strict=True):
            total = total.addmm_(g_y, weight.T)
        g_x = self._gained(total.to(x.dtype).mul_(inverse[:, None]))
        if self.mlp.norm.kind == "none":
            return g_x
        along = [
            input_coefficient(g_y, y if bias is None else y - bias, inverse, x.shape[-1])
            for g_y, y, bias in zip(gradient, projected, self.biases, strict=True)
        ]
        return g_x.addcmul_(x, torch.stack(along).sum(0)[:, None])

    def _gained(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        return x if self.gain is None else x.mul_(self.gain)


def _folded_bias(norm: Norm, weight: Float[Tensor, "*n D k"], bias: Float[Tensor, "*n k"] | None) -> Tensor | None:
    """A projection's bias and what the norm's bias gives through it."""
    bias = None if bias is None else bias.to(weight.dtype)
    if norm.bias is None:
        return bias
    carried = norm.bias.to(weight.dtype) @ weight
    return carried if bias is None else carried + bias


def _product(x: Float[Tensor, "N D"], weight: Float[Tensor, "D k"], bias: Tensor | None) -> Float[Tensor, "N k"]:
    return x @ weight if bias is None else torch.addmm(bias.to(x.dtype), x, weight)
