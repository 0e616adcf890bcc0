"""One feature, from the weights alone: what it reads, directly and through heads, and what it writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.models import Model
from edgewise.runs import SavedAsJson, check_counts
from edgewise.transcoders import TokenTexts, Transcoder, check_transcoder
from edgewise.transcoders.analysis._connections import de_embedding, pullback, read_by, unembedding
from edgewise.transcoders.analysis._reader import Reader, by_layer, head_norms, reader, reading_bias, through_head


class Named(NamedTuple):
    """A feature's name or a token's text, and how strong the connection with it is."""

    name: str
    weight: float


@dataclass(frozen=True)
class HeadDescription:
    """A head, and what it reads for a feature."""

    name: str
    """Such as `a9.h1`."""
    length: float
    """Of what the feature reads through it; see `head_norms`."""
    features: tuple[Named, ...]
    """Of lower layers, the strongest first; both signs."""
    raising: tuple[Named, ...]
    """Tokens whose embeddings raise the feature through it, the strongest first;"""
    lowering: tuple[Named, ...]
    """and those that lower it."""


@dataclass(frozen=True)
class FeatureDescription(SavedAsJson):
    """A feature by its connections. None depends on an input: norm scales and attention, by which an input multiplies
    them, are taken as 1.
    """

    name: str
    """Such as `m12.f410`."""
    reads: str
    writes: tuple[str, ...]
    bias: float
    """What is added to what it reads."""
    features: tuple[Named, ...]
    """Of lower layers, that it reads on the residual stream, the strongest first; both signs."""
    raising: tuple[Named, ...]
    """Tokens whose embeddings raise it, the strongest first (de-embedding);"""
    lowering: tuple[Named, ...]
    """and those that lower it."""
    heads: tuple[HeadDescription, ...]
    """Through which it reads most."""
    n_heads: int
    """How many heads write to what it reads."""
    promoted: tuple[Named, ...]
    """Tokens whose logits it raises most, each minus the mean of all (unembedding);"""
    suppressed: tuple[Named, ...]
    """and those it lowers."""
    readers: tuple[Named, ...]
    """Features of later layers that read it on the residual stream, the strongest first; both signs."""


@torch.no_grad()
def describe(
    model: Model, transcoders: Sequence[Transcoder], layer: int, feature: int, most: int = 7, n_heads: int = 3
) -> FeatureDescription:
    """What a feature reads and writes.

    Args:
        model: the model.
        transcoders: the feature's own, and those of other layers with whose features it is compared; one a layer.
        layer: the feature's.
        feature: which of the layer's.
        most: how many features and tokens are listed.
        n_heads: how many heads are.

    Raises:
        InputError: two transcoders are of one layer, none is of this one, one is not the model's or an autoencoder, or
            it has no such feature.
    """
    check_counts("describe", least=0, most=most, n_heads=n_heads)
    sets = by_layer(transcoders, layer)
    for each in sets.values():
        check_transcoder(model, each)
    own = sets[layer]
    read = reader(model, own, feature)
    raising, lowering = _tokens(model, de_embedding(model, read)[0], most)
    promoted, suppressed = _tokens(model, unembedding(model, own, feature)[0], most)
    later = {at: read_by(model, own, feature, each)[0] for at, each in sets.items() if at > layer}
    lengths = head_norms(model, read)[0]  # (A, H)
    largest = lengths.flatten().topk(min(n_heads, lengths.numel())).indices.tolist()
    heads = [divmod(each, lengths.shape[1]) for each in largest]
    return FeatureDescription(
        f"m{layer}.f{feature}",
        str(own.spec.reads),
        tuple(map(str, own.spec.writes)),
        float(reading_bias(model, own, feature)),
        _strongest(_below(read, sets), most),
        raising,
        lowering,
        tuple(_head(model, through_head(model, read, *at), sets, at, most) for at in heads),
        lengths.numel(),
        promoted,
        suppressed,
        _strongest(later, most),
    )


def _head(
    model: Model, carried: Reader, sets: Mapping[int, Transcoder], at: tuple[int, int], most: int
) -> HeadDescription:
    """What a feature reads through one head."""
    features, length = _strongest(_below(carried, sets), most), float(carried.covector.norm())
    raising, lowering = _tokens(model, de_embedding(model, carried)[0], most)
    return HeadDescription(f"a{at[0]}.h{at[1]}", length, features, raising, lowering)


def _below(read: Reader, sets: Mapping[int, Transcoder]) -> dict[int, Float[Tensor, " F"]]:
    """A reader's connections to the features of each lower layer."""
    return {at: pullback(read, each)[0] for at, each in sets.items() if at < read.layer}


def _strongest(by_layer: Mapping[int, Float[Tensor, " F"]], most: int) -> tuple[Named, ...]:
    """Of all layers' features, by size."""
    found = list[Named]()
    for layer, weights in by_layer.items():
        index = weights.abs().topk(min(most, len(weights))).indices
        found += [Named(f"m{layer}.f{i}", x) for i, x in zip(index.tolist(), weights[index].tolist(), strict=True)]
    return tuple(sorted(found, key=lambda each: -abs(each.weight))[:most])


def _tokens(model: Model, weights: Float[Tensor, " V"], most: int) -> tuple[tuple[Named, ...], tuple[Named, ...]]:
    """The tokens with the highest weights, and those with the lowest."""
    texts = TokenTexts(model.tokenizer)

    def first(order: Tensor) -> tuple[Named, ...]:
        index = order.topk(min(most, len(order))).indices.tolist()
        return tuple(Named(texts.shown(i), float(weights[i])) for i in index)

    return first(weights), first(-weights)
