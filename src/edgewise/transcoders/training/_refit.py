"""Skip connections fitted to the replaced model's own inputs, in closed form, in one run from the first layer to the
last.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edgewise.models import Model
from edgewise.transcoders import (
    Site,
    Substitute,
    Transcoder,
    capture,
    centre,
    excluding,
    input_at,
    real_tokens,
    substituted,
)
from edgewise.transcoders.training._start import common_factor, ridge, token_weights


class _Fitted(Exception):  # noqa: N818 (no error: the rest of the forward is not needed)
    """The last transcoder has been fitted."""


_FORWARD_TOKENS = 4096  # of one forward of the untouched model
_RIDGE = 1e-2  # of the inputs' mean variance: how hard it is to move away from the weights as they are


@torch.no_grad()
def refit(model: Model, transcoders: Sequence[Transcoder], ids: Int[Tensor, "B S"], *, bf16: bool) -> None:
    """Change the skip connections, the biases and one factor of each decoder so that with all MLPs replaced the stream
    after each layer comes nearest to the model's own, whatever the layers below got wrong. Tokens that a transcoder was
    made without keep the MLP's own output, and are left out of its fit.

    Args:
        model: the model; left as it was.
        transcoders: of one layer each; those without a skip connection get a factor and a bias alone.
        ids: tokens, in one run of the replaced model: some ten thousand.
        bf16: let products with the model's weights run in bfloat16.
    """
    layers = [each.spec.reads.layer for each in transcoders]
    after = _streams(model, layers, ids, bf16)
    changes = dict[int, Substitute]()
    for layer, each in zip(layers, transcoders, strict=True):
        keep = real_tokens(model, ids, exclude_special=each.spec.exclude_special).to(model.device)
        changes[layer] = _fitting(model, each, after[layer], keep, last=layer == max(layers))
    ids = ids.to(model.device)
    in_bf16 = torch.autocast(model.device.type, torch.bfloat16, enabled=bf16)
    with substituted(model, changes, exclude_special=excluding(transcoders)), in_bf16, suppress(_Fitted):
        model.module(input_ids=ids, attention_mask=torch.ones_like(ids, dtype=torch.bool))  # which tells the tokens


def _streams(
    model: Model, layers: Sequence[int], ids: Int[Tensor, "B S"], bf16: bool
) -> Mapping[int, Float[Tensor, "B S D"]]:
    """The residual stream after each layer's MLP, in the model's own run."""
    sites = [Site(kind, layer) for layer in layers for kind in ("resid_mid", "mlp_out")]
    parts: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for rows in ids.split(max(1, _FORWARD_TOKENS // ids.shape[1])):
        found = capture(model, sites, rows, bf16=bf16)
        for layer in layers:
            parts[layer].append(found[Site("resid_mid", layer)] + found[Site("mlp_out", layer)])
    return {layer: torch.cat(each) for layer, each in parts.items()}


def _fitting(
    model: Model, transcoder: Transcoder, after: Float[Tensor, "B S D"], keep: Bool[Tensor, "B S"], *, last: bool
) -> Substitute:
    """A transcoder that is fitted as soon as its inputs are there, and then writes; the last ends the run."""
    reads = transcoder.spec.reads
    layer = model.parts.layers[reads.layer]

    def substitute(residual: Tensor | None, given: Tensor, mlp: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.autocast(given.device.type, enabled=False):
            x = centre(input_at(layer, reads.kind, residual, given), reads).to(transcoder.W_enc.dtype)  # (B, S, D)
            y = transcoder(x)
            if residual is not None:  # without a norm there is no saying what the stream is
                # First how long the features are, then what is linear.
                plain = transcoder.b_dec if transcoder.W_skip is None else x @ transcoder.W_skip.T + transcoder.b_dec
                wanted = (after - residual - plain)[keep]
                weights = token_weights(wanted)
                # About their means, since a bias is fitted below.
                features, wanted = (each - weights @ each / weights.sum() for each in ((y - plain)[keep], wanted))
                factor = common_factor(features, wanted, weights)
                transcoder.W_dec.mul_(factor)
                y = plain + factor * (y - plain)
                wrong = (after - residual - y)[keep]
                weight, bias = ridge(x[keep], wrong, weights, _RIDGE)
                if transcoder.W_skip is None:
                    weight, bias = torch.zeros_like(weight), weights @ wrong / weights.sum()
                else:
                    transcoder.W_skip.add_(weight.T)
                transcoder.b_dec.add_(bias)
                y = y + x @ weight + bias
            if last:
                raise _Fitted
            return y.to(given.dtype)

    return substitute
