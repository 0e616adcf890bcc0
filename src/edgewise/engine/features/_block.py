"""What stands in an MLP's place in the fast path: readers of a few numbers each, and writers of a few directions each.

Features and neurons are to the stack what a layer of heads is, with a function of their own projection in attention's
place; so everything that reads, writes and differentiates heads serves them too. A feature has width 1 and is on above
its bound. A neuron, or a group of g, has width g (2 g to read with, where the MLP is gated) and the MLP's own function.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise.engine.features._layers import FeatureLayer, FeatureRun, activate
from edgewise.engine.features._neurons import NeuronLayer, NeuronRun
from edgewise.models import Parts
from edgewise.models.block import centre, hidden
from edgewise.models.folded import FoldedHeads, zeros_for_none


@runtime_checkable
class NodeBlock(Protocol):
    """A layer's features or neurons."""

    @property
    def readers(self) -> FoldedHeads: ...
    @property
    def outputs(self) -> Mapping[int, Float[Tensor, "n g D"]]: ...
    def activate(
        self, projected: Float[Tensor, "n N k"], fixed: FeatureRun | NeuronRun, readers: Int[Tensor, " n"]
    ) -> Float[Tensor, "n N g"]:
        """What some of them write their directions times, from their projections."""
        ...

    def back(
        self,
        gradient: Float[Tensor, "n N g"],
        projected: Float[Tensor, "n N k"],
        fixed: FeatureRun | NeuronRun,
        readers: Int[Tensor, " n"],
    ) -> Float[Tensor, "n N k"]:
        """From the gradient of `activate` to that of the projections."""
        ...


@dataclass(frozen=True, eq=False)
class FeatureBlock:
    """The weights of a layer's features, arranged as a block of heads of width 1."""

    readers: FoldedHeads
    outputs: Mapping[int, Float[Tensor, "n 1 D"]]
    """Decoder rows by the layer that they write to; centred where norms are layer norms, as is all that is written."""

    @staticmethod
    def of(parts: Parts, features: FeatureLayer) -> "FeatureBlock":
        """With everything between the stream and the encoder that is linear folded into the encoder."""
        site, norm = features.transcoder.spec.reads, features.norm
        weight, bias = features.encoder, features.encoder_bias
        if features.input_bias is not None:
            bias = bias - weight @ features.input_bias
        weight = centre(weight) if site.centred else weight  # ⟨w, x − mean(x)⟩ = ⟨w − mean(w), x⟩
        bias = bias if norm.bias is None else bias + weight @ norm.bias
        weight = weight if norm.gain is None else weight * norm.gain
        centred = parts.final_norm.kind == "layer"
        outputs = {layer: (centre(x) if centred else x)[:, None] for layer, x in features.decoders.items()}
        return FeatureBlock(FoldedHeads(norm, weight[:, :, None], bias[:, None]), outputs)

    def activate(
        self, projected: Float[Tensor, "n N 1"], fixed: FeatureRun | NeuronRun, readers: Int[Tensor, " n"]
    ) -> Float[Tensor, "n N 1"]:
        """Activations."""
        return activate(projected[..., 0], _bounds(fixed, readers))[..., None]

    def back(
        self,
        gradient: Float[Tensor, "n N 1"],
        projected: Float[Tensor, "n N 1"],
        fixed: FeatureRun | NeuronRun,
        readers: Int[Tensor, " n"],
    ) -> Float[Tensor, "n N 1"]:
        """The gradient where a feature is on."""
        return gradient * (projected[..., 0] > _bounds(fixed, readers))[..., None]


def _bounds(fixed: FeatureRun | NeuronRun, readers: Int[Tensor, " n"]) -> Float[Tensor, "_ N"]:
    """The running features' bounds; one row if all have the same."""
    assert isinstance(fixed, FeatureRun)
    return (fixed.bound if fixed.bound.shape[1] == 1 else fixed.bound[:, readers]).T


@dataclass(frozen=True, eq=False)
class NeuronBlock:
    """The weights of a layer's neurons, arranged as a block of heads."""

    neurons: NeuronLayer
    readers: FoldedHeads
    """A group's projections: onto its gates first, where there are any."""
    outputs: Mapping[int, Float[Tensor, "n g D"]]
    """Output rows, of their own layer alone."""

    @staticmethod
    def of(parts: Parts, neurons: NeuronLayer, dtype: torch.dtype) -> "NeuronBlock":
        """With the norm's gain and bias folded into the input matrices."""
        norm, pairs = neurons.mlp.norm, neurons.inputs
        weight = torch.cat([weight for weight, _ in pairs], 2).to(dtype)  # (n, D, k)
        given = zeros_for_none(pairs)
        bias = torch.cat(given, 1).to(dtype) if given else None
        if norm.bias is not None:
            carried = torch.einsum("d,ndk->nk", norm.bias.to(dtype), weight)
            bias = carried if bias is None else bias + carried
        weight = weight if norm.gain is None else weight * norm.gain.to(dtype)[:, None]
        output = neurons.output.to(dtype)
        output = centre(output) if parts.final_norm.kind == "layer" else output
        return NeuronBlock(neurons, FoldedHeads(norm, weight, bias), {neurons.index: output})

    def activate(
        self, projected: Float[Tensor, "n N k"], fixed: FeatureRun | NeuronRun, readers: Int[Tensor, " n"]
    ) -> Float[Tensor, "n N g"]:
        """Activations, by the MLP's own function."""
        mlp = self.neurons.mlp
        return hidden(mlp, list(projected.chunk(len(mlp.inputs), -1)))

    def back(
        self,
        gradient: Float[Tensor, "n N g"],
        projected: Float[Tensor, "n N k"],
        fixed: FeatureRun | NeuronRun,
        readers: Int[Tensor, " n"],
    ) -> Float[Tensor, "n N k"]:
        """By autograd, as of any MLP."""
        with torch.enable_grad():
            leaf = projected.detach().requires_grad_()
            active = self.activate(leaf, fixed, readers)
        return torch.autograd.grad(active, leaf, gradient)[0]
