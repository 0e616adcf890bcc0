"""The parts of a transformer that the engine runs: weights as detached views, and the user's own modules.

A family's adapter (one short file each) says where these live in a `transformers` module. Nothing here copies a weight
or sets a flag: a detached view shares the parameter's storage, so the user's module stays untouched and stays the one
    source of truth.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

Rotary = tuple[Float[Tensor, "B S rotary"], Float[Tensor, "B S rotary"]]
"""Cosines and sines of a batch's positions."""


@dataclass(frozen=True)
class Norm:
    """A reader's norm: `gain * scale(x) + bias`, where `scale` divides by the root mean square of `x` (centred first
    for a layer norm).
    """

    kind: Literal["layer", "rms", "none"]
    module: Callable[[Tensor], Tensor]
    """The user's own norm, which the reference path calls; the formula is checked against it when a model is loaded."""
    gain: Float[Tensor, " D"] | None = None
    bias: Float[Tensor, " D"] | None = None
    eps: float = 0.0

    def __call__(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """The formula, differentiable in `x` and never in the gain and bias."""
        if self.kind == "none":
            return x
        if self.kind == "layer":
            x = x - x.mean(-1, keepdim=True)
        x = x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        x = x if self.gain is None else x * self.gain
        return x if self.bias is None else x + self.bias

    @staticmethod
    def layer(module: nn.LayerNorm) -> "Norm":
        """A `torch.nn.LayerNorm`."""
        return Norm("layer", module, detach(module.weight), detach(module.bias), module.eps)

    @staticmethod
    def rms(module: Any) -> "Norm":
        """An RMS norm as `transformers` writes it for Llama-like models: a `weight` and a `variance_epsilon`."""
        return Norm("rms", module, detach(module.weight), None, float(module.variance_epsilon))

    @staticmethod
    def none() -> "Norm":
        """No norm at all, as in compiled programs."""
        return Norm("none", nn.Identity())


@dataclass(frozen=True)
class Heads:
    """A layer's query, key or value projection, one matrix per head."""

    weight: Float[Tensor, "n D k"]
    bias: Float[Tensor, "n k"] | None = None

    @staticmethod
    def linear(module: nn.Linear, n: int) -> "Heads":
        """The `n` heads of a `torch.nn.Linear` whose output lists them one after the other."""
        d_model = module.in_features
        weight = module.weight.detach().view(n, -1, d_model).transpose(1, 2)  # (n, D, k)
        return Heads(weight, None if module.bias is None else module.bias.detach().view(n, -1))

    def repeated(self, n: int) -> "Heads":
        """The same heads, each given `n` times in a row (key and value heads expanded to their query heads)."""
        if n == 1:
            return self
        bias = None if self.bias is None else self.bias.repeat_interleave(n, 0)
        return Heads(self.weight.repeat_interleave(n, 0), bias)


@dataclass(frozen=True)
class Attention:
    """One layer's attention."""

    norm: Norm
    query: Heads
    key: Heads
    value: Heads
    output: Float[Tensor, "H v D"]
    """W_O, one matrix per query head."""
    output_bias: Float[Tensor, " D"] | None
    """b_O: always on, never masked, since no single head owns it."""
    scale: float
    causal: bool = True
    window: int | None = None
    """How many positions back (the own one included) a query sees; None for all."""
    query_norm: Callable[[Tensor], Tensor] | None = None
    key_norm: Callable[[Tensor], Tensor] | None = None
    rotate: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    """The family's own rotary function of (query, key, cosines, sines)."""

    def mix(
        self,
        query: Float[Tensor, "B H S k"],
        key: Float[Tensor, "B K S k"],
        value: Float[Tensor, "B K S v"],
        rotary: Rotary | None,
        real: Bool[Tensor, "B S"] | None,
    ) -> Float[Tensor, "B H S v"]:
        """Attend: from projected queries, keys and values to each head's mixed values, before W_O.

        Args:
            query: `[B, H, S, k]`.
            key: `[B, K, S, k]`, where K divides H.
            value: `[B, K, S, v]`.
            rotary: cosines and sines of the positions, or None for a model without them.
            real: which positions hold a token; padding must stand on the right. None if all do.
        """
        query, key = self.placed(query, key, rotary)
        group = query.shape[1] // key.shape[1]
        if group > 1:
            key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        allowed = self._allowed(query.shape[2], real, query.device)
        causal = self.causal and allowed is None
        return functional.scaled_dot_product_attention(query, key, value, allowed, is_causal=causal, scale=self.scale)

    def placed(
        self, query: Float[Tensor, "B H S k"], key: Float[Tensor, "B K S k"], rotary: Rotary | None
    ) -> tuple[Float[Tensor, "B H S k"], Float[Tensor, "B K S k"]]:
        """Queries and keys as their products are taken: after their norms and rotations."""
        if self.query_norm is not None:
            query = self.query_norm(query)
        if self.key_norm is not None:
            key = self.key_norm(key)
        if self.rotate is not None and rotary is not None:
            query, key = self.rotate(query, key, *rotary)
        return query, key

    def logits(
        self,
        query: Float[Tensor, "B H S k"],
        key: Float[Tensor, "B H S k"],
        rotary: Rotary | None,
        real: Bool[Tensor, "B S"] | None,
    ) -> Float[Tensor, "B H S S"]:
        """What the softmax of `mix` is taken of; −∞ where a query does not see a key."""
        query, key = self.placed(query, key, rotary)
        length = query.shape[2]
        allowed = self._allowed(length, real, query.device)
        if allowed is None:
            allowed = torch.ones(length, length, dtype=torch.bool, device=query.device)
            allowed = allowed.tril() if self.causal else allowed
        return (query @ key.transpose(2, 3) * self.scale).masked_fill(~allowed, -torch.inf)

    def _allowed(
        self, length: int, real: Bool[Tensor, "B S"] | None, device: torch.device
    ) -> Bool[Tensor, "..."] | None:
        # With padding on the right, causality alone keeps real tokens from seeing padding, so the common case needs no
        # mask tensor.
        window = length if self.window is None else min(self.window, length)
        if self.causal and window == length:
            return None
        if not self.causal:
            if real is None:
                return None
            # A padded query still needs something to see, or its softmax has no terms.
            return real[:, None, None, :] | torch.eye(length, dtype=torch.bool, device=device)
        distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
        return (distance >= 0) & (distance < window)


@dataclass(frozen=True)
class Mlp:
    """One layer's MLP: `down(act(x W_gate) * (x W_up))`, or `down(act(x W_up))` without a gate."""

    norm: Norm
    module: Callable[[Tensor], Tensor]
    """The user's own MLP, which the reference path calls."""
    up: Float[Tensor, "D F"]
    up_bias: Float[Tensor, " F"] | None
    down: Float[Tensor, "F D"]
    down_bias: Float[Tensor, " D"] | None
    activation: Callable[[Tensor], Tensor]
    gate: Float[Tensor, "D F"] | None = None
    gate_bias: Float[Tensor, " F"] | None = None

    def hidden(self, gate: Float[Tensor, "N F"] | None, up: Float[Tensor, "N F"]) -> Float[Tensor, "N F"]:
        """The hidden activations from the pre-activations (`gate` is None without one)."""
        return self.activation(up) if gate is None else self.activation(gate) * up


@dataclass(frozen=True)
class Layer:
    """One layer: attention, then (or, in a parallel block, beside it) an MLP."""

    attention: Attention
    mlp: Mlp


@dataclass(frozen=True)
class Parts:
    """A whole model as the engine sees it."""

    layers: tuple[Layer, ...]
    embed: Callable[[Int[Tensor, " N"], Int[Tensor, " N"]], tuple[Float[Tensor, "N D"], ...]]
    """From token ids and positions to the embedding terms: (tokens,) or (tokens, positions)."""
    final_norm: Norm
    unembed: Callable[[Float[Tensor, "A D"]], Float[Tensor, "A V"]]
    """The user's own unembedding, applied after the final norm."""
    hidden: Callable[[Int[Tensor, "B S"], Bool[Tensor, "B S"], Int[Tensor, "B S"]], Float[Tensor, "B S D"]]
    """The user's own model up to and including the final norm, from ids, attention mask and positions."""
    rotary: Callable[[Tensor, Int[Tensor, "B S"]], Rotary] | None = None
    n_embeddings: int = 1
    """How many terms `embed` gives."""
    n_positions: int | None = None
    """How many positions have learned embeddings; None where positions are not learned."""
    parallel: bool = False
    modules: tuple[nn.Module, ...] = field(default=(), repr=False)
    """What the adapter read from, outermost first."""

    @property
    def n_heads(self) -> int:
        """Query heads per layer."""
        return self.layers[0].attention.query.weight.shape[0]

    @property
    def n_kv_heads(self) -> int:
        """Key and value heads per layer."""
        return self.layers[0].attention.key.weight.shape[0]

    @property
    def d_model(self) -> int:
        """D, the width of the residual stream."""
        return self.layers[0].attention.query.weight.shape[1]


def detach(tensor: Tensor | None) -> Tensor | None:
    """A view of a parameter that shares its storage and carries no gradient."""
    return None if tensor is None else tensor.detach()


def frozen_linear(module: nn.Linear) -> Callable[[Tensor], Tensor]:
    """The user's linear layer as a function that never gives its weights a gradient."""

    def apply(x: Tensor) -> Tensor:
        weight, bias = module.weight, module.bias

        return functional.linear(x.to(weight.dtype), weight.detach(), detach(bias))

    return apply


def fast_activation(module: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The fused equivalent of an activation that `transformers` spells out in several steps, or the module itself.

    `NewGELUActivation` keeps six intermediate tensors for its backward; PyTorch's fused tanh-GELU is the same function
    in one.
    """
    if type(module).__name__ in ("NewGELUActivation", "GELUTanh"):
        return lambda x: functional.gelu(x, approximate="tanh")
    return module
