"""Connections between features, tokens and logits: products of what one writes and another reads (Dunefsky et al. 2024,
§3.3). All are what the weights decide; what an input decides multiplies them (see `_reader.py`).
"""

from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.models import Model
from edgewise.runs import gradients
from edgewise.transcoders import Transcoder
from edgewise.transcoders.analysis._reader import Features, Reader, chosen, exact, norm_forward, reader


def decoder_rows(transcoder: Transcoder, features: Features = None, below: int | None = None) -> Float[Tensor, "n D"]:
    """What features write to the stream for an activation of 1; of a cross-layer transcoder, added up.

    Args:
        transcoder: the features'.
        features: which of them.
        below: only at layers below this one; None: at all.

    Raises:
        InputError: there is no such feature, or it writes at none of these layers.
    """
    sites = transcoder.spec.writes
    n = sum(below is None or site.layer < below for site in sites)
    if not n:
        raise InputError(f"transcoder of {transcoder.spec.reads}: it writes at no layer below {below}")
    table = transcoder.W_dec.detach().view(transcoder.n_features, len(sites), -1)
    return exact(table[chosen(transcoder, features), :n]).sum(1)


def pullback(read: Reader, transcoder: Transcoder) -> Float[Tensor, "n F"]:
    """How strongly covectors read each feature of a transcoder of an earlier layer, on the residual stream: what an
    activation of 1 adds to them. Raises `InputError` where the transcoder comes later.
    """
    return read.covector @ decoder_rows(transcoder, below=read.layer).to(read.covector).T


def read_by(model: Model, transcoder: Transcoder, features: Features, later: Transcoder) -> Float[Tensor, "n F"]:
    """How strongly each feature of a later transcoder reads some of an earlier one; see `pullback`."""
    read = reader(model, later)
    return decoder_rows(transcoder, features, read.layer).to(read.covector) @ read.covector.T


def de_embedding(
    model: Model, read: Reader, of: Literal["tokens", "positions"] = "tokens"
) -> Float[Tensor, "n V"] | Float[Tensor, "n S"]:
    """How strongly covectors read each token's embedding, or each learned position's.

    Raises:
        InputError: the model has no learned positions.
    """
    parts, config = model.parts, cast(Any, model.module.config)
    n = int(config.vocab_size) if of == "tokens" else parts.n_positions
    if n is None or (of == "positions" and parts.n_embeddings < 2):
        raise InputError("positions: the model learns none; give tokens")
    counted = torch.arange(n, device=read.covector.device)
    terms = parts.embed(*((counted * 0, counted) if of == "positions" else (counted, counted * 0)))
    return read.covector @ terms[of == "positions"].detach().to(read.covector).T


def unembedding(model: Model, transcoder: Transcoder, features: Features = None) -> Float[Tensor, "n V"]:
    """What features add to the logits, straight through the final norm with a scale of 1, for an activation of 1. Each
    minus the mean over all tokens, since that changes no probability. A soft-cap of the logits is passed with its
    slope at 0.
    """
    written = norm_forward(model.parts.final_norm, decoder_rows(transcoder, features))
    with gradients():  # the slope along what is written, by the transpose of the transpose
        nothing = torch.zeros_like(written, requires_grad=True)
        logits = model.parts.unembed(nothing).to(written)
        covector = torch.zeros_like(logits, requires_grad=True)
        (back,) = torch.autograd.grad(logits, nothing, covector, create_graph=True)
        (added,) = torch.autograd.grad(back, covector, written)
    return added - added.mean(1, keepdim=True)
