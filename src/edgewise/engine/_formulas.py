"""A layer's formulas, differentiable in the stream and never in the weights, and rules for going back through them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.models import Heads, Layer, Norm


class Rules(NamedTuple):
    """What the backward holds fixed or shares out, in place of the derivative (RelP: Jafari et al. 2025, after the LRP
    rules of Ali et al. 2022). None of them changes the forward.
    """

    norm: bool = False
    """A norm's scale is a constant."""
    attention: bool = False
    """The attention pattern is a constant: queries and keys get no gradient."""
    activation: bool = False
    """An activation function's slope is that of its secant through 0, f(z) / z."""
    gate: bool = False
    """The two factors of a gated product get half of the gradient each."""


PLAIN = Rules()
RELEVANCE = Rules(True, True, True, True)


def normed(norm: Norm, x: Float[Tensor, "N D"], frozen: bool = False) -> Float[Tensor, "N D"]:
    """The norm's formula; `frozen` makes its scale a constant of the backward."""
    if norm.kind == "none":
        return x
    x = x - x.mean(-1, keepdim=True) if norm.kind == "layer" else x
    inverse = (x.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    y = x * (inverse.detach() if frozen else inverse)
    y = y if norm.gain is None else y * norm.gain
    return y if norm.bias is None else y + norm.bias


def normed_back(
    norm: Norm, x: Float[Tensor, "T D"], gradient: Float[Tensor, "n T D"], frozen: bool = False
) -> Float[Tensor, "n T D"]:
    """From the gradient of `normed` to that of its input, for several gradients at one input."""
    if norm.kind == "none":
        return gradient
    x = x - x.mean(-1, keepdim=True) if norm.kind == "layer" else x
    inverse = (x.square().mean(-1, keepdim=True) + norm.eps).rsqrt()
    gradient = gradient if norm.gain is None else gradient * norm.gain
    back = gradient * inverse
    if not frozen:
        along = torch.linalg.vecdot(gradient, x)[..., None] * inverse**3 / x.shape[-1]
        back = back - along * x
    return back - back.mean(-1, keepdim=True) if norm.kind == "layer" else back


def mlp_writes(layer: Layer, x: Float[Tensor, "*n D"], rules: Rules = PLAIN) -> Float[Tensor, "*n D"]:
    """What a layer's MLP writes, its norm included."""
    mlp, y = layer.mlp, normed(layer.mlp.norm, x, rules.norm)
    up = _linear(y, mlp.up, mlp.up_bias)
    inner = up if mlp.gate is None else _linear(y, mlp.gate, mlp.gate_bias)
    hidden = _secant(mlp.activation, inner) if rules.activation else mlp.activation(inner)
    if mlp.gate is not None:
        hidden = (hidden * up.detach() + hidden.detach() * up) / 2 if rules.gate else hidden * up
    return _linear(hidden, mlp.down, mlp.down_bias)


def _secant(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """The function, with the slope f(z) / z in place of its derivative."""
    with torch.no_grad():
        y, safe = function(z), torch.where(z.abs() < 1e-6, 1e-6, z)  # at 0, of the line through a point beside it
        slope = function(safe) / safe
    return y + (z - z.detach()) * slope


def project(y: Float[Tensor, "N D"], heads: Heads) -> Float[Tensor, "n N k"]:
    """Every head's projection of one shared, normed input."""
    projected = torch.matmul(y, heads.weight.to(y.dtype))
    return projected if heads.bias is None else projected + heads.bias[:, None]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = x @ weight.to(x.dtype)
    return y if bias is None else y + bias
