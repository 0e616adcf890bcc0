"""One step of a path: everything that writes to what a covector reads, and the covector behind each of them.

A path goes from a root down: through features, through heads, through skip connections, to a token, an error or a bias.
What it gives to the root is a product of two factors. One is the input's: the norm scales and attention patterns on its
way, and the activation at its end. The other is the weights' alone, and known without any input (see
`edgewise.transcoders.analysis`): what its end writes, read through all that lies between.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edgewise.attribution._features import Features
from edgewise.attribution._targets import Root
from edgewise.transcoders import Reader, decoder_rows, reader, reading_bias, through_heads, through_skip

STEP_KINDS = (
    "feature", "head", "skip", "token", "position", "error", "attention bias", "MLP bias", "reading bias"
)  # fmt: skip
"""What can stand on a path below its root; the first three lead on."""


class Front(NamedTuple):
    """What a path has come to: `scale · ⟨covector, stream at a position⟩ + bias` is what it gives to the root."""

    read: Reader
    """Of the weights alone, one covector; with a root of logits, which reads the stream after all layers."""
    position: int
    scale: float
    """Norm scales and attention on the way."""
    bias: float = 0.0
    """What the path's last feature adds to what it reads."""


class Steps(NamedTuple):
    """What writes to what a front reads. `activation · scale · connection` is what each gives to the root; the sum of
    all is what the front does.
    """

    kind: Int[Tensor, " n"]
    """Along `STEP_KINDS`."""
    layer: Int[Tensor, " n"]
    """−1 for tokens and positions."""
    index: Int[Tensor, " n"]  # pyright: ignore[reportIncompatibleMethodOverride] (tuples have a method of that name)
    """Which feature, head or token."""
    position: Int[Tensor, " n"]
    activation: Float[Tensor, " n"]
    """A feature's; 1 of anything else."""
    scale: Float[Tensor, " n"]
    """Norm scales and attention on the way."""
    connection: Float[Tensor, " n"]
    """Of the weights alone for features, tokens and positions; otherwise of what stands there on this input: the stream
    that a head or a skip connection reads, an error, a bias."""

    @property
    def weight(self) -> Float[Tensor, " n"]:
        """What each gives to the root."""
        return self.activation * self.scale * self.connection

    def take(self, which: Bool[Tensor, " n"] | Int[Tensor, " m"]) -> "Steps":
        """Some of them."""
        return Steps(*(column[which] for column in self))


class Stepper:
    """Steps on one prompt."""

    def __init__(self, nodes: Features) -> None:
        self.nodes, self.run, self.model = nodes, nodes.run, nodes.run.model
        self.constants = [nodes.constant(layer) for layer in range(len(nodes.run.layers))]

    def root(self, root: Root) -> Front:
        """A root, with its norm's scale apart."""
        targets = root.targets
        position, layer = int(targets.position[0]), targets.layer
        at_end = layer == len(self.run.layers)
        scale = self.run.final_norm.inverse if at_end else self.nodes.scale(layer)
        between = targets.between and not self.model.parts.parallel
        covector = targets.covector / scale[position]
        return Front(Reader(covector, layer, between), position, float(scale[position]), float(targets.bias[0]))

    def steps(self, front: Front) -> Steps:
        """All that writes to what a front reads."""
        found = [self._bias(front), *self._embeddings(front)]
        for layer in range(front.read.layer):
            found += self._mlp(front, layer)
        for layer in range(front.read.n_attention):
            found += self._attention(front, layer)
        return Steps(*(torch.cat(columns) for columns in zip(*found, strict=True)))

    def follow(self, front: Front, steps: Steps, at: int) -> Front | None:
        """The front behind a step; None behind what reads nothing."""
        kind, layer, index, position = (int(column[at]) for column in steps[:4])
        scale = float(steps.scale[at])
        name = STEP_KINDS[kind]
        if name == "head":
            covector = through_heads(self.model, front.read, layer)[index]
            return Front(Reader(covector, layer), position, scale)
        if name == "skip":
            read = through_skip(self.model, front.read, self.nodes.transcoders[layer])
            assert read is not None
            return Front(read, position, scale)
        if name != "feature":
            return None
        transcoder, connection = self.nodes.transcoders[layer], float(steps.connection[at])
        read = reader(self.model, transcoder, index)
        read = read._replace(covector=read.covector.to(self.run.final) * connection)
        bias = float(reading_bias(self.model, transcoder, index)) * scale * connection
        return Front(read, position, scale * float(self.nodes.scale(layer)[position]), bias)

    def _bias(self, front: Front) -> Steps:
        """Of the feature, or root, that reads."""
        return self._made("reading bias", front.read.layer, front, self.run.final.new_tensor([front.bias]), scale=1.0)

    def _embeddings(self, front: Front) -> list[Steps]:
        at, covector = front.position, front.read.covector[0]
        token = int(self.run.ids[at])
        return [
            self._made(kind, -1, front, (term[at] @ covector)[None], index=token if kind == "token" else -1)
            for kind, term in zip(("token", "position"), self.run.embeddings, strict=False)
        ]

    def _mlp(self, front: Front, layer: int) -> list[Steps]:
        """A layer's features, its error, its bias, and its skip connection."""
        nodes, at, covector = self.nodes, front.position, front.read.covector[0]
        found = [
            self._made("error", layer, front, (nodes.errors[layer][at] @ covector)[None]),
            self._made("MLP bias", layer, front, (self.constants[layer][at] @ covector)[None]),
        ]
        if layer not in nodes.transcoders:
            return found
        transcoder, active = nodes.transcoders[layer], nodes.active[layer]
        here = slice(*active.offsets[at : at + 2].tolist())
        connection = decoder_rows(transcoder, active.index[here], front.read.layer).to(covector) @ covector
        made = self._made("feature", layer, front, connection)
        found.append(made._replace(index=active.index[here], activation=active.value[here]))
        if transcoder.W_skip is not None and bool(nodes.on(layer)[at]):
            read = through_skip(self.model, front.read, transcoder)
            assert read is not None
            met = (self.run.layers[layer].between[at] @ read.covector[0])[None]
            found.append(self._made("skip", layer, front, met, scale=front.scale * float(nodes.scale(layer)[at])))
        return found

    def _attention(self, front: Front, layer: int) -> list[Steps]:
        """A layer's heads at each token that they look at, and the bias of all."""
        ran, at, covector = self.run.layers[layer], front.position, front.read.covector[0]
        through = through_heads(self.model, front.read, layer)[:, 0]  # (H, D)
        pattern = ran.pattern.first(len(self.run))[:, at]  # (H, S)
        scale = front.scale * pattern * ran.attention_norm.inverse
        if ran.attention_scale is not None:
            scale = scale * ran.attention_scale[at]
        head, source = pattern.nonzero().unbind(1)
        made = self._made("head", layer, front, (through @ ran.before.T)[head, source])
        bias = (self.run.attention_biases[layer][at] @ covector)[None]
        return [
            made._replace(index=head, position=source, scale=scale[head, source]),
            self._made("attention bias", layer, front, bias),
        ]

    def _made(
        self, kind: str, layer: int, front: Front, connection: Tensor, index: int = -1, scale: float | None = None
    ) -> Steps:
        like = torch.ones_like(connection)

        def whole(value: int) -> Tensor:
            return torch.full_like(connection, value, dtype=torch.long)

        scales = like * (front.scale if scale is None else scale)
        place = whole(STEP_KINDS.index(kind)), whole(layer), whole(index), whole(front.position)
        return Steps(*place, like, scales, connection)


def step_names(steps: Steps, n_layers: int) -> list[str]:
    """Names such as `m3.f7@2`, `a3.h1@2` (a head's read of position 2), `token@2`, `m3.error@2`, `a3.bias`."""
    rows = zip(*(column.tolist() for column in steps[:4]), strict=True)
    return [_name(STEP_KINDS[kind], layer, index, position, n_layers) for kind, layer, index, position in rows]


def _name(kind: str, layer: int, index: int, position: int, n_layers: int) -> str:
    names = {
        "feature": f"m{layer}.f{index}@{position}",
        "head": f"a{layer}.h{index}@{position}",
        "skip": f"m{layer}.skip@{position}",
        "error": f"m{layer}.error@{position}",
        "attention bias": f"a{layer}.bias",
        "MLP bias": f"m{layer}.bias",
        "reading bias": "final.bias" if layer == n_layers else f"m{layer}.reading.bias",
    }
    return names.get(kind, f"{kind}@{position}")
