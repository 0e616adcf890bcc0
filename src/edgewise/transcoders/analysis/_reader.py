"""Covectors of the residual stream: what a feature reads, and what it reads through heads (Dunefsky et al. 2024, §3).

With norm scales and attention patterns frozen, what an input decides is numbers alone:

    pre-activation of a feature at token t      =  scale(t) · ⟨reader, stream(t)⟩ + bias
    what a head brings a reader from token s    =  pattern(t, s) · scale(s) · ⟨reader through the head, stream(s)⟩

A scale is 1 / root mean square of what a norm reads (1 without a norm), times that of a post-norm on the way. Here is
what the weights decide: encoder rows and heads' W_V W_O with the norms' gains (`w`, or `1 + w`), without the mean over
the components where the norm is a layer norm. Biases act on no change of the stream, so they are no part of it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.models import Model, Norm
from edgewise.models.block import centre as without_mean
from edgewise.transcoders import Transcoder, centre, check_transcoder, norm_before

Features = int | Sequence[int] | Int[Tensor, " n"] | None
"""Which features of a transcoder; None: all."""


class Reader(NamedTuple):
    """Covectors of the stream at one place."""

    covector: Float[Tensor, "n D"]
    layer: int
    between: bool = False
    """Whether they read between the layer's attention and its MLP, or before both."""

    @property
    def n_attention(self) -> int:
        """How many layers' heads write to what they read: those below, and their own layer's if they come after it."""
        return self.layer + self.between


def reader(model: Model, transcoder: Transcoder, features: Features = None) -> Reader:
    """What features of a transcoder read of the stream, for a norm scale of 1.

    Args:
        model: the model.
        transcoder: of one of its layers.
        features: which of them.

    Raises:
        InputError: the transcoder is not of this model, is an autoencoder, or has no such feature; or the model is not
            as it was loaded.
    """
    model.check()
    check_transcoder(model, transcoder)
    _check_stands_for_mlp(transcoder)
    site = transcoder.spec.reads
    rows = exact(transcoder.W_enc[chosen(transcoder, features)])
    norm, between = norm_before(model.parts.layers[site.layer], site.kind), not model.parts.parallel
    covector = centre(rows, site)  # what takes the mean off a vector takes it off a covector
    if norm is not None:
        covector = norm_back(norm, covector)
    return Reader(covector, site.layer, between)


def reading_bias(model: Model, transcoder: Transcoder, features: Features = None) -> Float[Tensor, " n"]:
    """What features add to what they read: their bias, less what an input bias takes off, and their norm's bias."""
    site, index = transcoder.spec.reads, chosen(transcoder, features)
    rows, bias = exact(transcoder.W_enc[index]), exact(transcoder.b_enc[index])
    if transcoder.b_in is not None:
        bias = bias - rows @ transcoder.b_in.detach().to(rows)
    norm = norm_before(model.parts.layers[site.layer], site.kind)
    if norm is not None and norm.bias is not None:
        bias = bias + centre(rows, site) @ norm.bias.to(rows)
    return bias


def through_heads(model: Model, read: Reader, layer: int) -> Float[Tensor, "H n D"]:
    """What covectors read through each of a layer's heads of the stream before its attention, pattern and scales of 1.
    Raises `InputError` where the layer's attention does not write to what they read.
    """
    if not 0 <= layer < read.n_attention:
        raise InputError(f"layer {layer}: its heads write only after what is read; give one below {read.n_attention}")
    attention = model.parts.layers[layer].attention
    mixed = torch.einsum("nd,hvd->hnv", read.covector, attention.output.to(read.covector))
    value = attention.value.weight.to(mixed)  # (G, D, v), each of H / G heads
    through = torch.einsum("grnv,gdv->grnd", mixed.unflatten(0, (len(value), -1)), value)
    return norm_back(attention.norm, through.flatten(0, 1))


def through_head(model: Model, read: Reader, layer: int, head: int) -> Reader:
    """A reader through one head; see `through_heads`. Raises `InputError` for a head that is not there."""
    if not 0 <= head < model.parts.n_heads:
        raise InputError(f"head {head}: a layer has {model.parts.n_heads}, 0 to {model.parts.n_heads - 1}")
    return Reader(through_heads(model, read, layer)[head], layer)


def through_skip(model: Model, read: Reader, transcoder: Transcoder) -> Reader | None:
    """A reader through a transcoder's skip connection, for a norm scale of 1; None where it has none. Raises
    `InputError` where the transcoder does not write to what is read.
    """
    site = transcoder.spec.reads
    if site.layer >= read.layer:
        raise InputError(f"transcoder of {site}: it writes only after what is read, which stands at layer {read.layer}")
    if transcoder.W_skip is None:
        return None
    norm = norm_before(model.parts.layers[site.layer], site.kind)
    covector = centre(read.covector @ transcoder.W_skip.detach().to(read.covector), site)
    if norm is not None:
        covector = norm_back(norm, covector)
    return Reader(covector, site.layer, not model.parts.parallel)


def head_norms(model: Model, read: Reader) -> Float[Tensor, "n A H"]:
    """The length of what covectors read through each head of the layers that write to them.

    After its norm's scale what a head reads has root mean square 1 at every layer, so √D times this length, at full
    attention, is the most that the head can bring (a post-norm aside).
    """
    layers = [through_heads(model, read, layer).norm(dim=-1).T for layer in range(read.n_attention)]
    if not layers:
        return read.covector.new_zeros(len(read.covector), 0, model.parts.n_heads)
    return torch.stack(layers, 1)


def norm_back(norm: Norm, covector: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
    """From a covector of a norm's output to that of its input, for a scale of 1."""
    if norm.kind == "none":
        return covector
    covector = covector if norm.gain is None else covector * norm.gain.to(covector)
    return without_mean(covector) if norm.kind == "layer" else covector


def norm_forward(norm: Norm, change: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
    """The transpose of `norm_back`: from a change of a norm's input to that of its output."""
    if norm.kind == "none":
        return change
    change = without_mean(change) if norm.kind == "layer" else change
    return change if norm.gain is None else change * norm.gain.to(change)


def by_layer(
    transcoders: Sequence[Transcoder], layer: int | None = None, *, autoencoders: bool = False
) -> dict[int, Transcoder]:
    """Transcoders by the layer that they read, from below.

    Args:
        transcoders: at most one a layer.
        layer: one that must be among theirs.
        autoencoders: whether these are welcome too: what their features read and write is no MLP's input and output.

    Raises:
        InputError: two are of one layer, none is of the layer asked for, or one is an unwelcome autoencoder.
    """
    found = dict[int, Transcoder]()
    for each in sorted(transcoders, key=lambda each: each.spec.reads.layer):
        if not autoencoders:
            _check_stands_for_mlp(each)
        if each.spec.reads.layer in found:
            raise InputError(
                f"transcoders: two read layer {each.spec.reads.layer}; give one for each layer, such as single files"
            )
        found[each.spec.reads.layer] = each
    if layer is not None and layer not in found:
        raise InputError(
            f"layer {layer}: there is no transcoder of it; those given are of {', '.join(map(str, found))}"
        )
    return found


def _check_stands_for_mlp(transcoder: Transcoder) -> None:
    """Refuse an autoencoder. Raises `InputError`."""
    if transcoder.spec.is_autoencoder:
        site = transcoder.spec.reads
        raise InputError(f"autoencoder of {site}: its features do not stand for an MLP; give transcoders")


def check_features(transcoders: Sequence[Transcoder], features: Sequence[tuple[int, int]]) -> None:
    """Refuse features, by layer and number, that transcoders do not have. Raises `InputError`."""
    for layer, number in features:
        chosen(by_layer(transcoders, layer, autoencoders=True)[layer], number)


def chosen(transcoder: Transcoder, features: Features) -> Int[Tensor, " n"]:
    """Features as numbers. Raises `InputError` for one that is not there."""
    n, device = transcoder.n_features, transcoder.W_enc.device
    if features is None:
        return torch.arange(n, device=device)
    index = torch.as_tensor(features, dtype=torch.long, device=device).reshape(-1)
    if wrong := [each for each in index.tolist() if not 0 <= each < n]:
        raise InputError(f"feature {wrong[0]}: the transcoder of {transcoder.spec.reads} has {n:,}, 0 to {n - 1}")
    return index


def exact(weights: Tensor) -> Tensor:
    """Without gradients, in at least float32."""
    return weights.detach().to(torch.promote_types(weights.dtype, torch.float32))
