"""Features on one prompt: where a question of one's own begins, and where a guess at a feature's meaning is tried."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.models import Model
from edgewise.transcoders import Transcoder, capture, check_device, check_transcoder, real_tokens
from edgewise.transcoders.analysis._reader import by_layer


@torch.no_grad()
def on_prompt(
    model: Model, transcoders: Sequence[Transcoder], ids: Int[Tensor, " S"], *, exclude_special: bool = True
) -> dict[int, Float[Tensor, "S F"]]:
    """Every feature's activation at every token of a prompt.

    Args:
        model: the model.
        transcoders: one a layer.
        ids: the prompt's tokens (`edgewise.attribution.token_ids` makes them from a text).
        exclude_special: give 0 at special tokens and the first.

    Returns:
        Activations by the layer that the features read, from below; 0 where a feature is off (of circuit-tracer's topk
        also below 0).

    Raises:
        InputError: there is no transcoder, two are of one layer, one is not the model's, or no token counts.
    """
    if not transcoders:
        raise InputError("transcoders: there are none; give one at least")
    used = by_layer(transcoders, autoencoders=True)
    for each in used.values():
        check_transcoder(model, each)
        check_device(model, each)
    rows = ids[None].to(model.device)
    keep = real_tokens(model, rows, exclude_special=exclude_special)[0].to(model.device)
    if not keep.any():
        raise InputError("prompt: none of its tokens counts, as special tokens and the first do not; give a longer one")
    found = capture(model, [each.spec.reads for each in used.values()], rows)
    active = dict[int, Tensor]()
    for layer, each in used.items():
        values = each.codes(found[each.spec.reads][0].to(each.W_enc)).dense(each.n_features)  # (S, F)
        active[layer] = values * keep[:, None]
    return active
