"""Which features are active: the one dense product of a transcoder, made in chunks that stay in the processor's cache.

In bfloat16 the product only *proposes*: the proposed features' pre-activations are then computed again in the weights'
own precision, and of more proposals than needed the largest are taken. Lower precision so changes next to nothing.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from edgewise.runs import ONE_PROCESS, Ranks
from edgewise.transcoders._activation import Activation
from edgewise.transcoders._sparse import Codes, Products, products

_CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 1 << 30}
_ROWS = 64  # a chunk has a multiple of so many tokens, which suits kernels: 455 took an eighth longer than 448
_COLUMNS = 8  # an input's width, the bias's column included, is a multiple of this, as tensor cores want it
_SPARE = 4  # proposals in bfloat16 are more than k by k / 4, and by 4 at least
_GROUP = 16  # features that share one maximum when the largest are looked for


class Encoder(NamedTuple):
    """The half of a transcoder that decides which features are active; without gradients."""

    weight: Float[Tensor, "F D"]
    bias: Float[Tensor, " F"]
    activation: Activation
    threshold: Float[Tensor, " m"]
    """As a `Transcoder` has it."""


def select(
    encoder: Encoder,
    x: Float[Tensor, "N D"],
    *,
    training: bool = False,
    bf16: bool = False,
    margin: float = 0.0,
    ranks: Ranks = ONE_PROCESS,
) -> Products:
    """The active features of centred inputs (see `Transcoder.centre`): entries with pre-activations as values, ready
    for products; what the activation makes of them is `Transcoder.activate`'s matter.

    In `training`, over the batch (of all `ranks`) where the activation chooses so; with `bf16`, proposed by a product
    in bfloat16; of thresholded kinds, also those up to `margin` below their threshold.
    """
    weight, bias, activation, threshold = encoder
    if activation.kind == "topk" or (activation.kind == "batch_topk" and training):
        assert activation.k is not None
        if activation.kind == "topk":
            found = _top(x, weight, bias, activation.k, bf16)
        else:
            found = _top_of_batch(x, weight, bias, activation.k, bf16, ranks)
        return Products(found, len(weight))
    bound = (threshold - margin) if activation.thresholded else 0.0
    found = _of_mask([pre > bound for pre in _chunks(x, weight, bias, bf16)])
    entries = Products(found, len(weight))
    entries.codes = found.with_values(entries.inner(x, weight) + bias[found.feature])
    return entries


def top(pre: Float[Tensor, "N F"], k: int) -> tuple[Float[Tensor, "N k"], Int[Tensor, "N k"]]:
    """The k largest of each row, as `torch.topk` without order, but sooner.

    The k largest entries lie in the k groups with the largest maxima, so two small searches replace the large one.
    """
    n, n_features = pre.shape
    k = min(k, n_features)
    if n_features % _GROUP or n_features // _GROUP < 4 * k:
        return pre.topk(k, sorted=False)
    stride = n_features // _GROUP  # a group's members lie this far apart, so that maxima are taken along the memory
    groups = pre.view(n, _GROUP, stride).amax(1).topk(k, sorted=False).indices  # (N, k)
    steps = torch.arange(_GROUP, device=pre.device) * stride
    candidates = (groups[:, None, :] + steps[None, :, None]).view(n, -1)  # (N, 16 k)
    values, chosen = pre.gather(1, candidates).topk(k, sorted=False)
    return values, candidates.gather(1, chosen)


def _chunks(x: Tensor, weight: Tensor, bias: Tensor, bf16: bool) -> Iterator[Tensor]:
    """Pre-activations, chunk of tokens after chunk of tokens.

    In bfloat16, where the weights are copied anyway, the bias is one more column of them: added to a product on a CPU,
    it would first be written once for every token.
    """
    if bf16:
        x, weight = _with_column(x, 1), _with_column(weight, bias)
    size = _CHUNK_BYTES.get(x.device.type, _CHUNK_BYTES["cuda"]) // (len(weight) * weight.element_size())
    for rows in x.split(max(1, size // _ROWS * _ROWS or size)):
        yield functional.linear(rows, weight, None if bf16 else bias)  # (n, F)


def _with_column(rows: Float[Tensor, "N D"], column: Tensor | int) -> Float[Tensor, "N E"]:
    """In bfloat16, with one more column, and columns of 0 after it."""
    n, width = rows.shape
    wider = rows.new_zeros(n, -(-(width + 1) // _COLUMNS) * _COLUMNS, dtype=torch.bfloat16)
    wider[:, :width], wider[:, width] = rows, column
    return wider


def fixed(index: Int[Tensor, "N k"]) -> Codes:
    """Codes with the same number of entries for every token (ascending, as sparse kernels like it), without values."""
    n, k = index.shape
    offsets = torch.arange(0, n * k + 1, k, device=index.device)
    return Codes(offsets, index.flatten(), index.new_zeros(0, dtype=torch.float32))


def _of_mask(masks: list[Bool[Tensor, "n F"]]) -> Codes:
    counts = torch.cat([mask.sum(1) for mask in masks])
    index = torch.cat([mask.nonzero(as_tuple=True)[1] for mask in masks])
    return Codes(functional.pad(counts.cumsum(0), (1, 0)), index, index.new_zeros(0, dtype=torch.float32))


def _propose(x: Tensor, weight: Tensor, bias: Tensor, k: int, bf16: bool) -> tuple[Tensor, Tensor]:
    """Each token's k features with the largest pre-activations, features ascending; pre-activations and indices."""
    index = torch.cat([top(pre, k)[1] for pre in _chunks(x, weight, bias, bf16)]).sort(dim=1).values  # (N, k)
    exact = products(fixed(index), x, weight) + bias[index.flatten()]
    return exact.view_as(index), index


def _top(x: Tensor, weight: Tensor, bias: Tensor, k: int, bf16: bool) -> Codes:
    """The k largest entries of each token."""
    spare = max(_SPARE, k // 4) if bf16 else 0
    values, index = _propose(x, weight, bias, min(k + spare, len(weight)), bf16)
    if index.shape[1] > k:
        places = values.topk(k, sorted=False).indices.sort(dim=1).values
        values, index = values.gather(1, places), index.gather(1, places)
    return fixed(index).with_values(values.flatten())


def _top_of_batch(x: Tensor, weight: Tensor, bias: Tensor, k: int, bf16: bool, ranks: Ranks) -> Codes:
    """The k·N largest entries of a batch of N tokens.

    Taken among each token's m largest; if some token has all of its m above the cut, it may have more, and m is
    doubled.
    """
    n_features, m = len(weight), min(len(weight), 4 * k)
    while True:
        values, index = _propose(x, weight, bias, m, bf16)
        everywhere = ranks.gather(values).flatten()
        n_kept = min(k * len(x) * ranks.size, everywhere.numel())
        kept = values >= everywhere.topk(n_kept, sorted=False).values.min()
        more = ranks.sum(kept.all(1).any().to(torch.float32))
        if m == n_features or not bool(more):
            break
        m = min(n_features, 2 * m)
    return Codes(functional.pad(kept.sum(1).cumsum(0), (1, 0)), index[kept], values[kept])
