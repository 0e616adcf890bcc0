"""A layer's readers and MLP as the masked run uses them: fused with the norm before, one product each way.

The formulas are those of `block.py`, rearranged; tests hold the two equal, and both to autograd.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise.models._parts import Attention, Mlp, Norm
from edgewise.models.block import hidden, input_coefficient, inverse_rms, normed, normed_back


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
        biases = zeros_for_none([(p.weight, p.bias) for p in projections])
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


def zeros_for_none(
    pairs: Sequence[tuple[Float[Tensor, "_ D k"], Float[Tensor, "_ k"] | None]],
) -> list[Float[Tensor, "_ k"]]:
    """Biases of matrices that are used as one: zeros for those without where others have one; none if none has."""
    if all(bias is None for _, bias in pairs):
        return []
    return [weight.new_zeros(len(weight), weight.shape[-1]) if bias is None else bias for weight, bias in pairs]


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
            if not len(x):  # experts of no token give a number without a gradient
                return torch.zeros_like(x)
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
