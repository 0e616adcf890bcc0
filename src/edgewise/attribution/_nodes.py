"""What stands between the tokens and the logits: the active neurons or features of each layer's MLP.

Both have one form. A node reads the stream with a covector, its slopes times rows of the layer's encoders, and writes
its value times a row of its decoder. A feature has one encoder and slope 1: its edges add up to its pre-activation.
A neuron has one encoder for each factor of its MLP's product, and slopes for which its edges add up to its activation.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise.attribution._frozen import FrozenNorm, FrozenRun
from edgewise.models import Mlp

Gate = Literal["half", "up", "gate"]
"""To which factor of a gated product `act(g) · u` a neuron's edges go: half of the value to each, or all to one, the
other held fixed."""

KEPT_BYTES = 1 << 30
"""How much what nodes write may take."""
CHUNK = 1 << 14  # active features whose encoder rows are gathered at once


class Active(NamedTuple):
    """A layer's active nodes, position after position."""

    offsets: Int[Tensor, " offsets"]
    """Where each position's begin, and at last how many there are in all."""
    index: Int[Tensor, " n"]  # pyright: ignore[reportIncompatibleMethodOverride] (tuples have a method of that name)
    """Which neuron or feature."""
    value: Float[Tensor, " n"]
    """Its activation, by which its decoder row is multiplied; what its edges add up to."""
    slopes: Float[Tensor, "n M"]
    """By which the rows of the layer's M encoders are multiplied."""

    @property
    def position(self) -> Int[Tensor, " n"]:
        """Of each node."""
        return torch.repeat_interleave(self.offsets.diff(), output_size=len(self.index))


class Reading(NamedTuple):
    """How nodes read the stream: `value = ⟨covector, stream at the node's position⟩ + bias`, with frozen norms."""

    covector: Float[Tensor, "n D"]
    bias: Float[Tensor, " n"]


class Nodes(ABC):
    """The nodes of one run."""

    letter: str
    """In their names: `m3.n7@2` is neuron 7 of layer 3 at position 2."""
    before_post_norm = False
    """Whether decoders write before a post-norm of the MLP, or to the stream itself."""

    def __init__(self, run: FrozenRun) -> None:
        self.run = run
        self._kept, self._room = dict[tuple[int, int], Tensor](), KEPT_BYTES

    @cached_property
    def active(self) -> tuple[Active, ...]:
        """By layer."""
        return tuple(self._active(layer) for layer in range(len(self.run.layers)))

    @cached_property
    def errors(self) -> tuple[Float[Tensor, "S D"], ...]:
        """By layer: what its MLP adds to the stream and no node accounts for."""
        return tuple(
            ran.mlp_written - self._reconstructed(layer) - self.constant(layer)
            for layer, ran in enumerate(self.run.layers)
        )

    @abstractmethod
    def _active(self, layer: int) -> Active: ...

    def edges(self, source: int, written: int, covector: Float[Tensor, "T K D"]) -> Float[Tensor, "K n"]:
        """A layer's nodes' values times ⟨decoder row, covector at the node's position⟩, up to the covector's last
        position.

        Args:
            source: the layer whose nodes they are.
            written: the layer at which they write.
            covector: of what the MLP gives there.
        """
        active, (length, rows) = self.active[source], covector.shape[:2]
        counts, offsets = active.offsets.diff(), active.offsets.tolist()
        n = offsets[length]
        vectors = self._vectors(source, written, n)
        if n and bool((counts == counts[0]).all()):  # one product for all positions
            found = torch.bmm(covector, vectors.view(length, n // length, -1).transpose(1, 2))
            return found.transpose(0, 1).flatten(1)
        found = covector.new_zeros(rows, n)
        for position in range(length):
            these = slice(offsets[position], offsets[position + 1])
            if these.start < these.stop:
                found[:, these] = covector[position] @ vectors[these].T
        return found

    def _vectors(self, source: int, written: int, n: int) -> Float[Tensor, "n D"]:
        """What a layer's first nodes write at another; kept as long as there is room, since every walk needs it."""
        if (source, written) in self._kept:
            return self._kept[source, written][:n]
        active = self.active[source]
        size = len(active.index) * self.run.final.shape[1] * self.run.final.element_size()
        fits = size <= self._room
        index, value = (each if fits else each[:n] for each in (active.index, active.value))
        vectors = self.decoder(source, written, index) * value[:, None]
        if fits:
            self._kept[source, written], self._room = vectors, self._room - size
        return vectors[:n]

    def forget(self) -> None:
        """Give back the memory that walks took."""
        self._kept, self._room = {}, KEPT_BYTES

    def sources(self, layer: int) -> Sequence[int]:
        """The layers whose nodes write what this layer's MLP adds to the stream."""
        return range(layer, layer + 1)

    @abstractmethod
    def decoder(self, layer: int, written: int, index: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
        """What nodes of a layer write at another (`written`), for an activation of 1."""

    @abstractmethod
    def reading(self, layer: int, chosen: Int[Tensor, " n"]) -> Reading:
        """How some of a layer's active nodes read the stream between attention and MLP."""

    @abstractmethod
    def constant(self, layer: int) -> Float[Tensor, "S D"]:
        """What a layer's MLP adds to the stream whatever it reads: biases."""

    def skip_back(self, layer: int, covector: Float[Tensor, "T K D"]) -> Float[Tensor, "T K D"] | None:
        """From a covector of what is written to that of the stream read, through a skip connection if there is one."""
        return None

    def skip_forward(self, layer: int, change: Float[Tensor, "S K D"]) -> Float[Tensor, "S K D"] | None:
        """The transpose of `skip_back`."""
        return None

    def _skipped(self, layer: int) -> Float[Tensor, "S D"]:
        """What the skip connection writes, its share of the constant aside."""
        stream = self.run.layers[layer].between
        skipped = self.skip_forward(layer, stream[:, None])
        return torch.zeros_like(stream) if skipped is None else skipped[:, 0]

    def _reconstructed(self, layer: int) -> Float[Tensor, "S D"]:
        ran, total = self.run.layers[layer], self._skipped(layer)
        for source in self.sources(layer):
            written = self._written(source, layer)
            if self.before_post_norm and ran.mlp_post_norm is not None:
                written = ran.mlp_post_norm.forward(written[:, None])[:, 0]
            total = total + written
        return total

    def _written(self, source: int, layer: int) -> Float[Tensor, "S D"]:
        """What a layer's nodes write at another together."""
        active, total = self.active[source], torch.zeros_like(self.run.final)
        position = active.position
        for part in torch.arange(len(active.index), device=total.device).split(CHUNK):
            rows = self.decoder(source, layer, active.index[part]) * active.value[part, None]
            total.index_add_(0, position[part], rows)
        return total


class Neurons(Nodes):
    """The neurons of the model's own MLPs; what an MLP that is a module as it is writes is an error."""

    letter, before_post_norm = "n", True

    def __init__(self, run: FrozenRun, per_token: int | None = None, gate: Gate = "half") -> None:
        """Set up.

        Args:
            run: the run.
            per_token: how many neurons of a layer are nodes at each position, those that write most; what the others
                write is the error. None: all.
            gate: how a gated neuron's value is shared between its factors.
        """
        super().__init__(run)
        self.per_token = per_token
        self.gate: Gate = gate

    def _active(self, layer: int) -> Active:
        ran = self.run.layers[layer]
        if ran.layer.mlp.down is None:
            empty = ran.between.new_zeros(0)
            offsets = torch.zeros(len(self.run) + 1, dtype=torch.long, device=empty.device)
            return Active(offsets, empty.long(), empty, empty[:, None])
        projected, hidden = ran.neurons()
        count = hidden.shape[1] if self.per_token is None else min(self.per_token, hidden.shape[1])
        written = hidden.abs() * ran.layer.mlp.down.to(hidden).norm(dim=1)
        index = written.topk(count).indices.sort(1).values  # (S, c)
        slopes = _slopes(ran.layer.mlp, [x.gather(1, index) for x in projected], self.gate)
        offsets = torch.arange(len(self.run) + 1, device=index.device) * count
        return Active(offsets, index.flatten(), hidden.gather(1, index).flatten(), slopes.flatten(0, 1))

    def edges(self, source: int, written: int, covector: Float[Tensor, "T K D"]) -> Float[Tensor, "K n"]:
        """As for any nodes; of all neurons at once by one product with the MLP's last matrix."""
        down, value = self.run.layers[source].layer.mlp.down, self.active[source].value
        if self.per_token is not None or down is None:
            return super().edges(source, written, covector)
        length, rows = covector.shape[:2]
        found = (covector.transpose(0, 1).reshape(rows * length, -1) @ down.to(covector).T).view(rows, -1)
        return found.mul_(value[: found.shape[1]])  # later positions, which the targets do not see, are left out

    def _written(self, source: int, layer: int) -> Float[Tensor, "S D"]:
        down, value = self.run.layers[source].layer.mlp.down, self.active[source].value
        if self.per_token is not None or down is None:
            return super()._written(source, layer)
        return value.view(len(self.run), -1) @ down.to(value)

    def decoder(self, layer: int, written: int, index: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
        """Rows of the MLP's last matrix."""
        down = self.run.layers[layer].layer.mlp.down
        if down is None:  # it has no nodes
            return self.run.final.new_zeros(len(index), self.run.final.shape[1])
        return down[index].to(self.run.final)

    def reading(self, layer: int, chosen: Int[Tensor, " n"]) -> Reading:
        """Columns of the MLP's first matrices, each times its slope."""
        ran, active = self.run.layers[layer], self.active[layer]
        index, slopes = active.index[chosen], active.slopes[chosen]
        inputs = [(weight.T[index].to(slopes), bias) for weight, bias in ran.layer.mlp.inputs]
        covector = torch.stack([slope[:, None] * rows for slope, (rows, _) in zip(slopes.T, inputs, strict=True)]).sum(
            0
        )
        own = [slope * bias[index] for slope, (_, bias) in zip(slopes.T, inputs, strict=True) if bias is not None]
        bias = torch.stack(own).sum(0) if own else slopes.new_zeros(len(index))
        return through_norm(ran.mlp_norm, active.position[chosen], covector, bias)

    def constant(self, layer: int) -> Float[Tensor, "S D"]:
        """The last matrix's bias, through a post-norm."""
        ran = self.run.layers[layer]
        total, bias = torch.zeros_like(ran.between), ran.layer.mlp.down_bias
        if bias is None:
            return total
        total = total + bias
        return total if ran.mlp_post_norm is None else ran.mlp_post_norm.forward(total[:, None])[:, 0]


def _slopes(mlp: Mlp, projected: list[Float[Tensor, "S c"]], gate: Gate) -> Float[Tensor, "S c M"]:
    """By which each factor's pre-activation is multiplied so that the sum is the neuron's activation."""
    assert mlp.activation is not None
    z = projected[0]
    safe = torch.where(z.abs() < 1e-6, 1e-6, z)  # at 0 the slope of the line to a point beside it
    secant = mlp.activation(safe) / safe
    if mlp.gate is None:
        return secant[..., None]
    to_gate, to_up = {"half": (0.5, 0.5), "gate": (1.0, 0.0), "up": (0.0, 1.0)}[gate]
    return torch.stack([to_gate * secant * projected[1], to_up * mlp.activation(z)], -1)


def through_norm(
    norm: FrozenNorm, position: Int[Tensor, " n"], covector: Float[Tensor, "n D"], bias: Float[Tensor, " n"]
) -> Reading:
    """From what reads a norm's output to what reads its input."""
    if norm.norm.bias is not None:
        bias = bias + covector @ norm.norm.bias.to(covector)
    return Reading(norm.at(position).back(covector[:, None])[:, 0], bias)
