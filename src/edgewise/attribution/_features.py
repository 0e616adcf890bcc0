"""Features of transcoders as nodes."""

from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._frozen import FrozenNorm, FrozenRun
from edgewise.attribution._nodes import CHUNK, Active, Nodes, Reading, through_norm
from edgewise.models import Model
from edgewise.models.block import normed
from edgewise.transcoders import (
    Transcoder,
    analysis,
    centre,
    check_device,
    check_transcoder,
    input_at,
    norm_before,
    special_tokens,
)


class Features(Nodes):
    """The features of transcoders, one for each layer or a cross-layer set; what an MLP without one writes, and what a
    transcoder gets wrong, is an error.
    """

    letter = "f"

    def __init__(self, run: FrozenRun, transcoders: dict[int, Transcoder]) -> None:
        """Set up.

        Args:
            run: the run.
            transcoders: by the layer they read (see `by_layer`).
        """
        super().__init__(run)
        self.transcoders = transcoders

    @cached_property
    def special(self) -> Bool[Tensor, " S"]:
        """Special tokens and the first, at which the features of some transcoders are off."""
        special = special_tokens(self.run.model, self.run.ids)
        special[0] = True
        return special

    def on(self, layer: int) -> Bool[Tensor, " S"]:
        """Where a layer's transcoder stands for its MLP."""
        if layer not in self.transcoders:
            return torch.zeros_like(self.special)
        excludes = self.transcoders[layer].spec.exclude_special
        return ~self.special if excludes else torch.ones_like(self.special)

    def _active(self, layer: int) -> Active:
        if layer not in self.transcoders:
            empty = self.run.final.new_zeros(0)
            offsets = torch.zeros(len(self.run) + 1, dtype=torch.long, device=empty.device)
            return Active(offsets, empty.long(), empty, empty[:, None])
        transcoder, ran = self.transcoders[layer], self.run.layers[layer]
        site = transcoder.spec.reads
        x = centre(input_at(ran.layer, site.kind, ran.between, normed(ran.layer.mlp.norm, ran.between)), site)
        codes = transcoder.codes(x.to(transcoder.W_enc))
        keep = self.on(layer)[codes.tokens] & (codes.value != 0)  # a rectified one of the k largest may be off
        tokens, index = codes.tokens[keep], codes.feature[keep]
        # An active feature's value is its pre-activation, made again in the run's type.
        x = x if transcoder.b_in is None else x - transcoder.b_in.detach().to(x)
        pairs = zip(tokens.split(CHUNK), index.split(CHUNK), strict=True)
        value = torch.cat([torch.linalg.vecdot(x[t], transcoder.W_enc.detach()[f].to(x)) for t, f in pairs])
        value = value + transcoder.b_enc.detach()[index].to(x)
        offsets = _offsets(torch.bincount(tokens, minlength=len(self.run)))
        return Active(offsets, index, value, torch.ones_like(value)[:, None])

    def sources(self, layer: int) -> Sequence[int]:
        """Those with a transcoder that writes to it."""
        return [i for i, each in self.transcoders.items() if any(site.layer == layer for site in each.spec.writes)]

    def decoder(self, layer: int, written: int, index: Int[Tensor, " n"]) -> Float[Tensor, "n D"]:
        """Rows of the transcoder's decoder for one of the layers it writes to."""
        spec = self.transcoders[layer].spec
        place = [site.layer for site in spec.writes].index(written)
        table = self.transcoders[layer].W_dec.detach().view(spec.n_features, -1, spec.d_out)
        return table[index, place].to(self.run.final)

    def reading(self, layer: int, chosen: Int[Tensor, " n"]) -> Reading:
        """Rows of the transcoder's encoder, carried back to the stream."""
        transcoder, active = self.transcoders[layer], self.active[layer]
        index, position = active.index[chosen], active.position[chosen]
        covector = transcoder.W_enc.detach()[index].to(self.run.final)
        bias = transcoder.b_enc.detach()[index].to(covector)
        if transcoder.b_in is not None:
            bias = bias - covector @ transcoder.b_in.detach().to(covector)
        covector, norm = centre(covector, transcoder.spec.reads), self._site_norm(layer)
        return Reading(covector, bias) if norm is None else through_norm(norm, position, covector, bias)

    def constant(self, layer: int) -> Float[Tensor, "S D"]:
        """The transcoder's output bias, and the norm's through a skip connection."""
        total = torch.zeros_like(self.run.layers[layer].between)
        if layer not in self.transcoders:
            return total
        transcoder = self.transcoders[layer]
        bias = transcoder.b_dec.detach().to(total)
        norm = self._site_norm(layer)
        if transcoder.W_skip is not None and norm is not None and norm.norm.bias is not None:
            read = centre(norm.norm.bias.to(total), transcoder.spec.reads)
            bias = bias + read @ transcoder.W_skip.detach().to(total).T
        return total + bias * self.on(layer)[:, None]

    def skip_back(self, layer: int, covector: Float[Tensor, "T K D"]) -> Float[Tensor, "T K D"] | None:
        """Through W_skip and the site read."""
        skip = None if layer not in self.transcoders else self.transcoders[layer].W_skip
        if skip is None:
            return None
        site = self.transcoders[layer].spec.reads
        read = centre(covector @ skip.detach().to(covector), site) * self.on(layer)[: len(covector), None, None]
        norm = self._site_norm(layer)
        return read if norm is None else norm.back(read)

    def skip_forward(self, layer: int, change: Float[Tensor, "S K D"]) -> Float[Tensor, "S K D"] | None:
        """Through the site read and W_skip."""
        skip = None if layer not in self.transcoders else self.transcoders[layer].W_skip
        if skip is None:
            return None
        norm = self._site_norm(layer)
        read = centre(change if norm is None else norm.forward(change), self.transcoders[layer].spec.reads)
        return read @ skip.detach().to(change).T * self.on(layer)[: len(change), None, None]

    def scale(self, layer: int) -> Float[Tensor, " S"]:
        """By which the norm before the site that a layer's transcoder reads multiplies; 1 where there is none."""
        norm = self._site_norm(layer)
        return torch.ones_like(self.run.final[:, 0]) if norm is None else norm.inverse

    def _site_norm(self, layer: int) -> FrozenNorm | None:
        """What stands between the stream and the site that a layer's transcoder reads."""
        ran = self.run.layers[layer]
        norm = norm_before(ran.layer, self.transcoders[layer].spec.reads.kind)
        return None if norm is None else ran.mlp_norm._replace(norm=norm)


def _offsets(counts: Int[Tensor, " S"]) -> Int[Tensor, " offsets"]:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def by_layer(model: Model, transcoders: Transcoder | Sequence[Transcoder]) -> dict[int, Transcoder]:
    """Transcoders by the layer that they read.

    Raises:
        InputError: there are none, one is not of this model or not on its device, is an autoencoder, or two are of one
            layer.
    """
    given = [transcoders] if isinstance(transcoders, Transcoder) else list(transcoders)
    if not given:
        raise InputError("transcoders: none given; give some, or nodes='neurons'")
    for each in given:
        check_transcoder(model, each)
        check_device(model, each)
    return analysis.by_layer(given)
