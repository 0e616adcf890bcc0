"""A transcoder's sites in a model: whether the model has them, what stands there, and which modules make it.

This is the one place that says so: capture, replacement, judging and the engine's features all ask here. An MLP's
output, `mlp_out`, is what is added to the residual stream: where the family has a post-norm, after it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from edgewise._errors import InputError
from edgewise.models import Layer, Model, Norm
from edgewise.models.block import normed
from edgewise.transcoders._sites import CAPTURED, Site
from edgewise.transcoders._transcoder import Transcoder


def check_site(model: Model, site: Site, width: int | None = None) -> None:
    """Refuse a site that a model does not have, or of another width.

    Raises:
        InputError: there is no such layer, a vector there has another width, or the layer's MLP or norm is no module
            whose input and output could be seen (Granite's stream is not the model's own).
    """
    if site.kind not in CAPTURED:
        raise InputError(f"site {site}: cannot be read off a model here; {', '.join(CAPTURED)} can")
    n_layers, d_model = len(model.parts.layers), model.parts.d_model
    if site.layer >= n_layers:
        raise InputError(f"site {site}: the model has {n_layers} layers, 0 to {n_layers - 1}")
    layer = model.parts.stored[site.layer]
    modules_of(layer)
    if site.before_post_norm and layer.mlp.post_norm is not None:
        raise InputError(
            f"site {site}: the file names what the MLP module itself gives, and this model has a post-norm after it; "
            "give a transcoder of what is added to the residual stream"
        )
    if width is not None and width != d_model:
        raise InputError(f"site {site}: the transcoder has width {width} there, the model {d_model}")


def check_transcoder(model: Model, transcoder: Transcoder) -> None:
    """Refuse a transcoder whose sites or widths are not the model's, that writes to later layers alone, or whose
    centred outputs a model reads the mean of. Raises `InputError`.
    """
    first = transcoder.spec.writes[0]
    check_site(model, transcoder.spec.reads, transcoder.spec.d_in)
    if first.layer != transcoder.spec.reads.layer:  # everything here takes the layer it reads for its own
        raise InputError(
            f"transcoder of {transcoder.spec.reads}: it writes to {first} first; a feature stands in its own layer's "
            "MLP, so use transcoders that write there"
        )
    for site in transcoder.spec.writes:
        check_site(model, site, transcoder.spec.d_out)
        if site.centred and not reads_no_mean(model):
            raise InputError(
                f"site {site}: this model has norms that do not take the mean off, so that its MLPs' mean counts; "
                "train with centred=False"
            )


def check_device(model: Model, transcoder: Transcoder) -> None:
    """Refuse a transcoder that lies elsewhere than the model. Raises `InputError`."""
    if (place := transcoder.W_enc.device) != model.device:
        raise InputError(
            f"transcoder of {transcoder.spec.reads}: it lies on {place}, the model on {model.device}; move it there "
            "(transcoder.to(model.device))"
        )


def reads_no_mean(model: Model) -> bool:
    """Whether every norm takes the mean over the components off, so that centred writes change nothing."""
    norms = [norm for layer in model.parts.stored for norm in (layer.attention.norm, layer.mlp.norm)]
    return all(norm.kind == "layer" for norm in (*norms, model.parts.final_norm))


class MlpModules(NamedTuple):
    """The user's own modules between the residual stream that a layer's MLP reads and what it adds to it."""

    norm: nn.Module
    """Never called where the layer has no norm."""
    mlp: nn.Module
    post_norm: nn.Module | None = None

    @property
    def last(self) -> nn.Module:
        """The one whose output is `mlp_out`."""
        return self.mlp if self.post_norm is None else self.post_norm


def modules_of(layer: Layer) -> MlpModules:
    """A layer's. Raises `InputError` where a family gives a plain function."""
    post_norm = layer.mlp.post_norm
    found = layer.mlp.norm.module, layer.mlp.module, None if post_norm is None else post_norm.module
    if wrong := next((each for each in found if not isinstance(each, nn.Module | None)), None):
        raise InputError(
            f"model: its MLP or a norm of it is a {type(wrong).__name__}; transcoders need a torch.nn.Module there, so "
            "they have no sites in this model (in a family of your own, give one in its parts)"
        )
    return MlpModules(*found)  # pyright: ignore[reportArgumentType] (they are modules)


@contextmanager
def changed_forwards(forwards: Iterable[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Within it, modules run other forwards in place of their own; afterwards they are as before."""
    before: list[tuple[nn.Module, Any]] = []
    try:
        for module, forward in forwards:
            before.append((module, module.__dict__.get("forward")))  # somebody may have put an own one there
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, own in reversed(before):
            del module.__dict__["forward"]
            if own is not None:
                module.__dict__["forward"] = own


def input_at(layer: Layer, kind: str, residual: Tensor | None, given: Tensor) -> Tensor:
    """An MLP's input as a site names it, from what the norm and the MLP were given.

    Args:
        layer: which one.
        kind: of a site that an MLP's input has.
        residual: the norm's input; None where the layer has no norm.
        given: the MLP's own input.
    """
    norm = norm_before(layer, kind)
    if residual is None or norm is layer.mlp.norm:
        return given
    return residual if norm is None else normed(norm, residual)


def norm_before(layer: Layer, kind: str) -> Norm | None:
    """What stands between the residual stream and an MLP's input as a site names it: nothing, the MLP's norm without
    its gain and bias, or the whole of it.
    """
    norm = layer.mlp.norm
    if kind == "resid_mid":
        return None
    return norm if kind == "mlp_in" or (kind == "hook_normalized" and norm.kind == "layer") else norm.bare()


def centre(x: Float[Tensor, "*N D"], site: Site) -> Float[Tensor, "*N D"]:
    """Without the mean over the components, where the site says so."""
    return x - x.mean(-1, keepdim=True) if site.centred else x


def special_tokens(model: Model, ids: Int[Tensor, "*N"]) -> Bool[Tensor, "*N"]:
    """Where the tokenizer's special tokens stand (BOS, padding, …); nowhere without a tokenizer."""
    special = sorted(getattr(model.tokenizer, "all_special_ids", None) or [])
    return torch.isin(ids, torch.tensor(special, dtype=ids.dtype, device=ids.device))
