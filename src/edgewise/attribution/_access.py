"""How nodes are read and written in whatever run is under way."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._edits import Edit
from edgewise.attribution._features import Features
from edgewise.attribution._nodes import Nodes
from edgewise.models import Layer
from edgewise.models.block import hidden, linear
from edgewise.transcoders import Transcoder, centre

Read = Callable[[str], Float[Tensor, "R D"]]
"""From the name of an MLP's input site (`mlp_in`, `resid_mid`, …) to what stands there."""


class Access(ABC):
    """How a model's nodes of one kind are read and written, in any run."""

    kind: Literal["neuron", "feature"]

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers

    def check(self, edit: Edit) -> None:
        """Refuse an edit of what is not there. Raises `InputError`."""
        if edit.layer >= len(self.layers):
            raise InputError(f"edit {edit.node}: the model has {len(self.layers)} layers, 0 to {len(self.layers) - 1}")
        if edit.kind == "error":
            return
        if edit.kind != self.kind:
            raise InputError(f"edit {edit.node}: names a {edit.kind}, but the nodes given are {self.kind}s")
        count = self.count(edit.layer)
        if edit.index >= count:
            held = f"{count} {self.kind}s, 0 to {count - 1}" if count else f"no {self.kind}s here"
            raise InputError(f"edit {edit.node}: layer {edit.layer} has {held}")

    @abstractmethod
    def count(self, layer: int) -> int:
        """How many nodes a layer has."""

    def written_layers(self, layer: int) -> list[int]:
        """Whose MLP outputs a layer's nodes are added to."""
        return [layer]

    @abstractmethod
    def value(self, layer: int, index: Int[Tensor, " C"], read: Read, off: Bool[Tensor, " R"]) -> Float[Tensor, "R C"]:
        """Values of some of a layer's nodes.

        Args:
            layer: which one.
            index: which nodes.
            read: gives the MLP's inputs at R tokens.
            off: at which of them transcoders that leave out special tokens are off.
        """

    @abstractmethod
    def written(
        self, layer: int, index: Int[Tensor, " C"], change: Float[Tensor, "R C"]
    ) -> dict[int, Float[Tensor, "R D"]]:
        """What changes of their values write, by the layer whose MLP's output it is added to."""


class NeuronAccess(Access):
    """Neurons; what they write is added before a post-norm."""

    kind = "neuron"

    def count(self, layer: int) -> int:
        """0 where the MLP is a module as it is."""
        down = self.layers[layer].mlp.down
        return 0 if down is None else len(down)

    def value(self, layer: int, index: Tensor, read: Read, off: Tensor) -> Float[Tensor, "R C"]:
        """The hidden activations."""
        mlp, given = self.layers[layer].mlp, read("mlp_in")
        chosen = [(weight[:, index], None if bias is None else bias[index]) for weight, bias in mlp.inputs]
        return hidden(mlp, [linear(given, *each) for each in chosen])

    def written(self, layer: int, index: Tensor, change: Tensor) -> dict[int, Float[Tensor, "R D"]]:
        """Rows of the MLP's last matrix."""
        down = self.layers[layer].mlp.down
        assert down is not None
        return {layer: change @ down[index].to(change)}


class FeatureAccess(Access):
    """Features; what they write is added after a post-norm."""

    kind = "feature"

    def __init__(self, layers: Sequence[Layer], transcoders: Mapping[int, Transcoder]) -> None:
        super().__init__(layers)
        self.transcoders = transcoders

    def count(self, layer: int) -> int:
        """0 without a transcoder."""
        return self.transcoders[layer].n_features if layer in self.transcoders else 0

    def written_layers(self, layer: int) -> list[int]:
        """Later ones too for a cross-layer transcoder."""
        return [site.layer for site in self.transcoders[layer].spec.writes]

    def value(self, layer: int, index: Tensor, read: Read, off: Tensor) -> Float[Tensor, "R C"]:
        """Its transcoder's activations, chosen in the weights' type as it encodes, summed in the run's."""
        own = self.transcoders[layer]
        x = centre(read(own.spec.reads.kind), own.spec.reads)
        shifted = x if own.b_in is None else x - own.b_in.detach().to(x)
        value = linear(shifted, own.W_enc.detach()[index].T, own.b_enc.detach()[index].to(x))
        if own.activation.kind == "topk":  # which of them are on depends on all
            on = own.encode(x.to(own.W_enc)).detach()[:, index] != 0
            value = torch.where(on, value, 0.0)
        else:
            each_its_own = len(own.threshold) > 1
            threshold = own.threshold.detach()[index] if each_its_own else own.threshold.detach()
            value = own.activate(value, threshold.to(x) if own.activation.thresholded else None)
        return torch.where(off[:, None], 0.0, value) if own.spec.exclude_special else value

    def written(self, layer: int, index: Tensor, change: Tensor) -> dict[int, Float[Tensor, "R D"]]:
        """Rows of the transcoder's decoder, for each layer that it writes to."""
        rows = change @ self.transcoders[layer].W_dec.detach()[index].to(change)  # (R, M D)
        sites = self.transcoders[layer].spec.writes
        return dict(zip(self.written_layers(layer), rows.view(len(rows), len(sites), -1).unbind(1), strict=True))


def access_to(nodes: Nodes) -> Access:
    """For the kind of nodes of a run."""
    layers = nodes.run.model.parts.layers
    return FeatureAccess(layers, nodes.transcoders) if isinstance(nodes, Features) else NeuronAccess(layers)
