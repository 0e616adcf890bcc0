"""A transcoder's sites in a model: whether the model has them, and what stands there."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.models import Layer, Model
from edgewise.models.block import normed
from edgewise.transcoders._sites import CAPTURED, Site
from edgewise.transcoders._transcoder import Transcoder


def check_site(model: Model, site: Site, width: int | None = None) -> None:
    """Refuse a site that a model does not have, or of another width.

    Raises:
        InputError: there is no such layer, or a vector there has another width.
    """
    if site.kind not in CAPTURED:
        raise InputError(f"site {site}: cannot be read off a model here; {', '.join(CAPTURED)} can")
    n_layers, d_model = len(model.parts.layers), model.parts.d_model
    if site.layer >= n_layers:
        raise InputError(f"site {site}: the model has {n_layers} layers, 0 to {n_layers - 1}")
    if width is not None and width != d_model:
        raise InputError(f"site {site}: the transcoder has width {width} there, the model {d_model}")


def check_transcoder(model: Model, transcoder: Transcoder) -> None:
    """Refuse a transcoder whose sites or widths are not the model's. Raises `InputError`."""
    check_site(model, transcoder.spec.reads, transcoder.spec.d_in)
    for site in transcoder.spec.writes:
        check_site(model, site, transcoder.spec.d_out)
        check_centring(model, site)


def reads_no_mean(model: Model) -> bool:
    """Whether every norm takes the mean over the components off, so that centred writes change nothing."""
    norms = [norm for layer in model.parts.layers for norm in (layer.attention.norm, layer.mlp.norm)]
    return all(norm.kind == "layer" for norm in (*norms, model.parts.final_norm))


def check_centring(model: Model, site: Site) -> None:
    """Refuse a centred vector in place of what a model writes, if the model reads its mean. Raises `InputError`."""
    if site.centred and not reads_no_mean(model):
        raise InputError(
            f"site {site}: this model has norms that do not take the mean off, so that its MLPs' mean counts; train "
            "with centred=False"
        )


def input_at(layer: Layer, kind: str, residual: Tensor | None, given: Tensor) -> Tensor:
    """An MLP's input as a site names it, from what the norm and the MLP were given.

    Args:
        layer: which one.
        kind: `resid_mid`, `mlp_normalized` or `mlp_in`.
        residual: the norm's input; None where the layer has no norm.
        given: the MLP's own input.
    """
    if kind == "mlp_in" or residual is None:
        return given
    return residual if kind == "resid_mid" else normed(layer.mlp.norm.bare(), residual)


def centre(x: Float[Tensor, "*N D"], site: Site) -> Float[Tensor, "*N D"]:
    """Without the mean over the components, where the site says so."""
    return x - x.mean(-1, keepdim=True) if site.centred else x


def special_tokens(model: Model, ids: Int[Tensor, "*N"]) -> Bool[Tensor, "*N"]:
    """Where the tokenizer's special tokens stand (BOS, padding, …); nowhere without a tokenizer."""
    special = sorted(getattr(model.tokenizer, "all_special_ids", None) or [])
    return torch.isin(ids, torch.tensor(special, dtype=ids.dtype, device=ids.device))
