"""Neurons in an MLP's place: which, what they read and write, and what is left of the MLP.

A layer's MLP is the sum of its neurons and a bias, so nothing has to be learned to take it apart and there is no error
term. Each chosen neuron (or group of them, which then share a mask) reads the stream by itself, through the MLP's own
norm and its columns of the input matrices (of gate and up in a gated MLP), and writes its activation times its row of
the output matrix. All others stay together as the rest, an MLP of the same shape without them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.graph import Graph
from edgewise.models import Mlp, Model, Parts
from edgewise.models.block import hidden, linear, normed


@dataclass(frozen=True, eq=False)
class NeuronLayer:
    """The chosen neurons of one layer, in groups. Smaller groups are filled up with neurons of zero weights."""

    index: int
    """The layer's number."""
    parts: Parts
    """The model's. (The layer itself would stay on the device, where the model is offloaded.)"""
    members: Int[Tensor, "n g"]
    """Each group's neurons, filled up with any."""
    real: Float[Tensor, "n g"]
    """1 for a neuron of the group, 0 for what fills it up."""

    @staticmethod
    def of(model: Model, index: int, groups: Sequence[Sequence[int]]) -> "NeuronLayer":
        """Groups of a layer's neurons. Raises `InputError` where the MLP cannot be taken apart into them."""
        mlp = model.parts.stored[index].mlp
        check_neurons(mlp, index)
        assert mlp.down is not None
        n = len(mlp.down)
        if above := [neuron for group in groups for neuron in group if neuron >= n]:
            raise InputError(f"graph: neuron {above[0]} of layer {index}; its MLP has {n}, counted from 0")
        size = max(map(len, groups), default=1)
        members = [[*group, *[0] * (size - len(group))] for group in groups]
        real = [[1.0] * len(group) + [0.0] * (size - len(group)) for group in groups]
        shape, device = (len(groups), size), model.device
        return NeuronLayer(
            index,
            model.parts,
            torch.tensor(members, dtype=torch.long, device=device).view(shape),
            torch.tensor(real, dtype=model.dtype, device=device).view(shape),
        )

    @property
    def mlp(self) -> Mlp:
        """The layer's MLP, brought to the device where it is not there."""
        return self.parts.layers[self.index].mlp

    @property
    def chosen(self) -> Int[Tensor, " m"]:
        """All chosen neurons, which the rest is without."""
        return self.members[self.real > 0]

    @property
    def inputs(self) -> list[tuple[Float[Tensor, "n D g"], Float[Tensor, "n g"] | None]]:
        """Each group's columns of the matrices that the MLP reads with, and of their biases; the gate's first."""
        return [
            (
                weight.T[self.members].transpose(1, 2) * self.real[:, None],
                None if bias is None else bias[self.members] * self.real,
            )
            for weight, bias in self.mlp.inputs
        ]

    @property
    def output(self) -> Float[Tensor, "n g D"]:
        """Each group's rows of the output matrix."""
        down = self.mlp.down
        assert down is not None
        return down[self.members] * self.real[..., None]


def check_neurons(mlp: Mlp, layer: int) -> None:
    """Refuse an MLP that is no sum of neurons in the stream. Raises `InputError`."""
    if mlp.down is None:
        raise InputError(
            f"graph: layer {layer} cannot be taken apart into neurons: its MLP is known as a whole alone, as a mixture "
            "of experts is; leave it out"
        )
    if mlp.post_norm is not None:
        raise InputError(
            f"graph: layer {layer} cannot be taken apart into neurons: what its MLP writes is normed as one sum, so no "
            "neuron can change without changing all; leave it out"
        )


class NeuronRun(NamedTuple):
    """What is fixed of a layer's neurons in a masked run, per packed token or the same for all."""

    ablated: Float[Tensor, "M n g"]
    """Activations that removed edges carry."""
    rest: Float[Tensor, "M D"]
    """What the rest's removed edges carry."""


def neuron_layers(model: Model, graph: Graph, ablation: str) -> dict[int, NeuronLayer]:
    """The neurons that a graph names, by layer. Raises `InputError`."""
    if graph.spec.neurons and ablation not in ("interchange", "zero"):
        raise InputError(f"ablation {ablation!r}: a graph with neurons takes interchange or zero")
    return {layer: NeuronLayer.of(model, layer, groups) for layer, groups in graph.spec.neurons}


def activations(mlp: Mlp, stream: Float[Tensor, "N D"]) -> Float[Tensor, "N F"]:
    """Every neuron's activation, what it writes its output row times, where the MLP's norm reads this stream."""
    y = normed(mlp.norm, stream)
    return hidden(mlp, [linear(y, *each) for each in mlp.inputs])


@torch.no_grad()
def neuron_activations(
    model: Model, layers: Mapping[int, NeuronLayer], streams: Mapping[int, Tensor]
) -> dict[int, Float[Tensor, "N n g"]]:
    """The chosen neurons' activations in a run of the full model, whose MLPs' norms read these streams."""
    return {
        index: activations(each.mlp, streams[index].to(model.dtype))[:, each.members] for index, each in layers.items()
    }


@torch.no_grad()
def neuron_run(
    neurons: NeuronLayer, corrupted: Float[Tensor, "N n g"] | None, ablated_mlp: Float[Tensor, "M D"]
) -> NeuronRun:
    """What is fixed of a layer's neurons in a masked run: without activations of a corrupted run, removed edges carry
    nothing. Of what the whole MLP's removed edges carry, the rest's carry what the neurons' do not.
    """
    if corrupted is None:
        return NeuronRun(ablated_mlp.new_zeros(1, *neurons.members.shape), ablated_mlp)
    written = corrupted.flatten(1) @ neurons.output.flatten(0, 1).to(corrupted.dtype)
    return NeuronRun(corrupted, ablated_mlp - written)
