"""What the weights say of all features of a transcoder: `describe`, for thousands at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise.models import Model
from edgewise.transcoders import Transcoder
from edgewise.transcoders.analysis import (
    Reader,
    de_embedding,
    head_norms,
    pullback,
    read_by,
    reader,
    reading_bias,
    through_heads,
    unembedding,
)

N_LOGIT_BINS = 40
"""Of the histogram of what a feature adds to all logits."""
_FEATURES = 256  # at once: each has a number for every token of the vocabulary
_N_HEADS, _BY_HEAD = 2, 5


class Ranked(NamedTuple):
    """Tokens by a weight, the strongest first."""

    token: Int[Tensor, "F M"]
    weight: Float[Tensor, "F M"]


class Others(NamedTuple):
    """Features of other layers by a weight, the strongest first; −1 where there are fewer."""

    layer: Int[Tensor, "F M"]
    feature: Int[Tensor, "F M"]
    weight: Float[Tensor, "F M"]


class ThroughHeads(NamedTuple):
    """The heads through which each feature reads most, the longest first."""

    layer: Int[Tensor, "F K"]
    head: Int[Tensor, "F K"]
    tokens: tuple[Ranked, ...]
    """For the first head, the second, …: tokens whose embeddings raise the feature through it."""
    features: tuple[Others, ...]
    """Likewise: features of lower layers."""


@dataclass(frozen=True, eq=False)
class FromWeights:
    """Both sides of every feature, from the weights alone; see `describe`."""

    bias: Float[Tensor, " F"]
    raising: Ranked
    lowering: Ranked
    upstream: Others
    """Features of lower layers that it reads on the residual stream; both signs."""
    lengths: Float[Tensor, "F A H"]
    """Of what it reads through each head."""
    heads: ThroughHeads
    promoted: Ranked
    suppressed: Ranked
    logits: Int[Tensor, "F L"]
    """How many tokens' logits it changes by how much: bins of equal width over `logit_range`."""
    logit_range: Float[Tensor, "F 2"]
    downstream: Others
    """Features of later layers that read it."""


@torch.no_grad()
def from_weights(
    model: Model,
    transcoder: Transcoder,
    others: Sequence[Transcoder],
    most: int = 7,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FromWeights:
    """What all features of a transcoder read and write, from the weights alone.

    Args:
        model: the model.
        transcoder: whose features.
        others: those of other layers with whose features they are compared; one a layer. Its own may be among them.
        most: how many tokens and features are kept on each side.
        progress: called with the features done and all of them.

    Raises:
        InputError: it is not the model's, or an autoencoder.
    """
    found = list[FromWeights]()
    for index in torch.arange(transcoder.n_features).split(_FEATURES):
        found.append(_some(model, transcoder, others, index.to(transcoder.W_enc.device), most))
        progress(int(index[-1]) + 1, transcoder.n_features)
    return _joined(found)


def _some(
    model: Model, transcoder: Transcoder, others: Sequence[Transcoder], index: Int[Tensor, " n"], most: int
) -> FromWeights:
    read = reader(model, transcoder, index)
    below = [each for each in others if each.spec.reads.layer < read.layer]
    later = [each for each in others if each.spec.reads.layer > read.layer]
    upstream = [(each.spec.reads.layer, pullback(read, each)) for each in below]
    downstream = [(each.spec.reads.layer, read_by(model, transcoder, index, each)) for each in later]
    embedded, logits = de_embedding(model, read), unembedding(model, transcoder, index)
    lengths = head_norms(model, read)
    low, high = logits.min(1).values, logits.max(1).values
    width = ((high - low) / N_LOGIT_BINS).clamp(min=1e-30)
    bins = ((logits - low[:, None]) / width[:, None]).long().clamp(0, N_LOGIT_BINS - 1)
    counts = torch.zeros(len(index), N_LOGIT_BINS, dtype=torch.int64, device=logits.device)
    counts.scatter_add_(1, bins, torch.ones_like(bins))
    found = FromWeights(
        reading_bias(model, transcoder, index),
        _first(embedded, most),
        _last(embedded, most),
        _strongest(upstream, most, len(index)),
        lengths,
        _through(model, read, lengths, below),
        _first(logits, most),
        _last(logits, most),
        counts,
        torch.stack([low, high], 1),
        _strongest(downstream, most, len(index)),
    )
    return _joined([found])


def _through(model: Model, read: Reader, lengths: Float[Tensor, "n A H"], below: Sequence[Transcoder]) -> ThroughHeads:
    """What features read through the heads of largest length; features of one head together."""
    n_heads = lengths.shape[2]
    chosen = lengths.flatten(1).topk(min(_N_HEADS, lengths[0].numel()), dim=1).indices  # (n, k)
    layers, heads = chosen // n_heads, chosen % n_heads
    tokens, features = list[Ranked](), list[Others]()
    for place in range(chosen.shape[1]):
        parts = list[tuple[Tensor, Ranked, Others]]()
        for layer in layers[:, place].unique().tolist():
            own = (layers[:, place] == layer).nonzero().flatten()
            through = through_heads(model, Reader(read.covector[own], read.layer, read.between), layer)
            carried = Reader(through[heads[own, place], torch.arange(len(own), device=own.device)], layer)
            lower = [each for each in below if each.spec.reads.layer < layer]
            pulled = [(each.spec.reads.layer, pullback(carried, each)) for each in lower]
            found = _first(de_embedding(model, carried), _BY_HEAD), _strongest(pulled, _BY_HEAD, len(own))
            parts.append((own, *found))
        back = torch.cat([own for own, _, _ in parts]).argsort()
        tokens.append(Ranked(*(torch.cat(x)[back] for x in zip(*(part[1] for part in parts), strict=True))))
        features.append(Others(*(torch.cat(x)[back.cpu()] for x in zip(*(part[2] for part in parts), strict=True))))
    return ThroughHeads(layers, heads, tuple(tokens), tuple(features))


def _first(weights: Float[Tensor, "n V"], most: int) -> Ranked:
    best = weights.topk(min(most, weights.shape[1]), dim=1)
    return Ranked(best.indices, best.values)


def _last(weights: Float[Tensor, "n V"], most: int) -> Ranked:
    best = weights.topk(min(most, weights.shape[1]), dim=1, largest=False)
    return Ranked(best.indices, best.values)


def _strongest(by_layer: Sequence[tuple[int, Float[Tensor, "n F"]]], most: int, n: int) -> Others:
    """Of all layers' features the largest weights by size; zeros are none."""
    columns = [(torch.full((n, most), -1), torch.full((n, most), -1), torch.zeros(n, most, dtype=torch.float32))]
    for layer, weights in by_layer:
        index = weights.abs().topk(min(most, weights.shape[1]), dim=1).indices
        columns.append((torch.full_like(index, layer).cpu(), index.cpu(), weights.gather(1, index).float().cpu()))
    layers, features, values = (torch.cat(each, 1) for each in zip(*columns, strict=True))
    best = values.abs().topk(most, dim=1).indices
    values = values.gather(1, best)
    none = values == 0
    return Others(layers.gather(1, best).masked_fill(none, -1), features.gather(1, best).masked_fill(none, -1), values)


def _joined(parts: Sequence[FromWeights]) -> FromWeights:
    """Several features' after one another, on the CPU."""

    def joined(values: Sequence[Any]) -> Any:
        first = values[0]
        if isinstance(first, Tensor):
            return torch.cat([each.cpu() for each in values])
        columns = [joined(column) for column in zip(*values, strict=True)]
        return type(first)(*columns) if hasattr(first, "_fields") else tuple(columns)

    names = FromWeights.__dataclass_fields__
    return FromWeights(**{name: joined([getattr(each, name) for each in parts]) for name in names})
