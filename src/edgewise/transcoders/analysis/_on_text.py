"""Features on a text: how often and where they are on, and virtual weights beside which earlier features are on with
them.

A virtual weight `V_ij` is what feature i writes, read by feature j on the residual stream (`pullback`). There is one
for every pair of features, and most are noise: the two are never on at one token. The text tells them apart (Ameisen et
al. 2025, "Circuit Tracing"), with a_i and a_j the activations at one token and means over tokens:

    ERA_ij    =  mean of a_i where j is on, and of 0 elsewhere  ·  V_ij       (expected residual attribution)
    TWERA_ij  =  mean of a_i a_j  /  mean of a_j                ·  V_ij       (the same weighted by the target)

A feature is on where its activation is above 0. circuit-tracer's topk keeps activations below 0 too: they count as 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.models import Model
from edgewise.runs import check_counts, check_suffix, finest, reading_tensors, write_tensors
from edgewise.transcoders import (
    TokenRows,
    Transcoder,
    capture,
    check_length,
    check_transcoder,
    real_tokens,
    transcoder_record,
)
from edgewise.transcoders.analysis._connections import pullback
from edgewise.transcoders.analysis._reader import Features, by_layer, chosen, reader

SCHEMA = 1
_TOKENS = 1024  # of one forward: all features' activations of a layer are held densely


class Examples(NamedTuple):
    """Where features are most on, the largest first."""

    value: Float[Tensor, "n K"]
    """0 where a feature is on at fewer tokens."""
    row: Int[Tensor, "n K"]
    """Of the text,"""
    position: Int[Tensor, "n K"]
    """and in that row."""


class VirtualWeights(NamedTuple):
    """Of each feature the sources of largest TWERA by size, the largest first."""

    layer: Int[Tensor, "n M"]
    """The source's,"""
    feature: Int[Tensor, "n M"]
    """and which it is."""
    weight: Float[Tensor, "n M"]
    """Of the weights alone."""
    era: Float[Tensor, "n M"]
    twera: Float[Tensor, "n M"]


@dataclass(frozen=True, eq=False)
class FeaturesOnText:
    """Some features of one layer on a text."""

    layer: int
    features: Int[Tensor, " n"]
    frequency: Float[Tensor, " n"]
    """The share of tokens at which each is on."""
    mean: Float[Tensor, " n"]
    """Of its activation, over all tokens."""
    examples: Examples
    virtual: VirtualWeights
    n_tokens: int
    """How many count."""
    conditions: dict[str, Any] = field(default_factory=dict)
    """The model, the text, the transcoders, and which tokens count."""

    def save(self, path: str | Path) -> None:
        """Write one `.safetensors` file with a JSON header, whole or not at all. Raises `InputError`."""
        check_suffix(path, "features on a text are")
        tensors = {"features": self.features, "frequency": self.frequency, "mean": self.mean}
        for name in ("examples", "virtual"):
            tensors |= {f"{name}.{column}": x.contiguous() for column, x in getattr(self, name)._asdict().items()}
        header = {"schema": SCHEMA, "kind": "features on a text", "layer": self.layer, "n_tokens": self.n_tokens}
        write_tensors(path, tensors, {**header, "conditions": self.conditions})

    @staticmethod
    def load(path: str | Path) -> "FeaturesOnText":
        """Read what `save` wrote. Raises `InputError` for another file."""
        what, instead = "features on a text", "give what `FeaturesOnText.save` wrote"
        with reading_tensors(path, what, instead, schema=SCHEMA) as (header, tensors):
            return FeaturesOnText(
                layer=header["layer"],
                features=tensors["features"],
                frequency=tensors["frequency"],
                mean=tensors["mean"],
                examples=Examples(*(tensors[f"examples.{name}"] for name in Examples._fields)),
                virtual=VirtualWeights(*(tensors[f"virtual.{name}"] for name in VirtualWeights._fields)),
                n_tokens=header["n_tokens"],
                conditions=header["conditions"],
            )


@torch.no_grad()
def on_text(
    model: Model,
    transcoders: Sequence[Transcoder],
    layer: int,
    features: Features,
    tokens: TokenRows,
    *,
    most: tuple[int, int] = (100, 20),
    exclude_special: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FeaturesOnText:
    """Run a text and see where features are on, and with which earlier ones. What is held in memory grows with the
    features asked for times all features of lower layers, and not with the text.

    Args:
        model: the model.
        transcoders: the features' own, and those of lower layers with which they are compared; one a layer.
        layer: the features'.
        features: which of them; None: all.
        tokens: the text.
        most: how many virtual weights are kept of each feature, and how many examples.
        exclude_special: leave special tokens and each row's first out.
        progress: called with the rows done and all rows.

    Raises:
        InputError: two transcoders are of one layer, none is of this one, one is not the model's or an autoencoder,
            there is no such feature, or there is no text.
    """
    check_counts("on_text", least=0, weights=most[0], examples=most[1])
    if not len(tokens):
        raise InputError("text: no row of tokens; give one at least")
    used = {at: each for at, each in by_layer(transcoders, layer).items() if at <= layer}
    for each in used.values():
        check_transcoder(model, each)
    check_length(model, tokens.ids)
    counts = _Counts(model, used, layer, chosen(used[layer], features), most[1])
    for ids in tokens.ids.split(max(1, _TOKENS // tokens.ids.shape[1])):
        counts.add(ids, real_tokens(model, ids, exclude_special=exclude_special))
        progress(counts.rows, len(tokens))
    if not counts.n:
        raise InputError("text: none of its tokens count; give longer rows, or exclude_special=False")
    conditions = {
        "model": model.identity,
        "text": tokens.source,
        "transcoders": [transcoder_record(each) for each in used.values()],
        "exclude_special": exclude_special,
    }
    return FeaturesOnText(
        layer,
        counts.features.cpu(),
        (counts.on / counts.n).cpu(),
        (counts.sum / counts.n).cpu(),
        counts.examples,
        counts.virtual(most[0]),
        counts.n,
        conditions,
    )


class _Counts:
    """Running sums over tokens."""

    def __init__(
        self, model: Model, transcoders: Mapping[int, Transcoder], layer: int, features: Tensor, n_examples: int
    ) -> None:
        self.model, self.layer, self.features = model, layer, features
        self.transcoders = dict(transcoders)
        self.rows = self.n = 0
        n = len(features)
        self.on, self.sum = (torch.zeros(n, dtype=finest(features.device), device=features.device) for _ in range(2))
        none = torch.zeros(n, n_examples, dtype=torch.long)
        self.examples = Examples(none.double(), none, none)
        shapes = {at: (n, each.n_features) for at, each in self.transcoders.items() if at < layer}
        self.with_target = {at: torch.zeros(shape, dtype=torch.float64) for at, shape in shapes.items()}
        self.by_target = {at: torch.zeros(shape, dtype=torch.float64) for at, shape in shapes.items()}

    def add(self, ids: Int[Tensor, "B S"], keep: Tensor) -> None:
        """Count these rows."""
        sites = [each.spec.reads for each in self.transcoders.values()]
        found = capture(self.model, sites, ids)
        row, position = keep.nonzero().unbind(1)

        def activations(at: int) -> Float[Tensor, "N F"]:
            own = self.transcoders[at]
            x = found[own.spec.reads][keep.to(self.model.device)].to(own.W_enc)
            return own.codes(x).dense(own.n_features).to(self.sum.dtype).clamp(min=0)

        target = activations(self.layer)[:, self.features]  # (N, n)
        on = (target > 0).to(target.dtype)
        self.on, self.sum, self.n = self.on + on.sum(0), self.sum + target.sum(0), self.n + len(target)
        for at in self.with_target:
            source = activations(at)
            self.with_target[at] += (on.T @ source).cpu()
            self.by_target[at] += (target.T @ source).cpu()
        self._keep_largest(target.T.cpu().double(), row.cpu() + self.rows, position.cpu())
        self.rows += len(ids)

    def _keep_largest(self, value: Float[Tensor, "n N"], row: Tensor, position: Tensor) -> None:
        before = self.examples
        values = torch.cat([before.value, value], 1)
        rows, positions = (
            torch.cat([old, new.expand(len(value), -1)], 1)
            for old, new in ((before.row, row), (before.position, position))
        )
        best = values.topk(before.value.shape[1], dim=1)
        self.examples = Examples(best.values, rows.gather(1, best.indices), positions.gather(1, best.indices))

    def virtual(self, most: int) -> VirtualWeights:
        """The largest of all lower layers."""
        read = reader(self.model, self.transcoders[self.layer], self.features)
        total = torch.where(self.sum == 0, torch.inf, self.sum).cpu()  # of one that is never on TWERA is 0
        found = list[tuple[Tensor, ...]]()
        for at in self.with_target:
            weight = pullback(read, self.transcoders[at]).cpu().double()
            era = self.with_target[at] / self.n * weight
            twera = self.by_target[at] / total[:, None] * weight
            best = twera.abs().topk(min(most, weight.shape[1]), dim=1).indices
            columns = (x.gather(1, best) for x in (weight, era, twera))
            found.append((torch.full_like(best, at), best, *columns))
        if not found:
            types = (torch.long, torch.long, *[torch.float64] * 3)
            return VirtualWeights(*(torch.zeros(len(self.features), 0, dtype=each) for each in types))
        every = [torch.cat(columns, 1) for columns in zip(*found, strict=True)]
        best = every[4].abs().topk(min(most, every[4].shape[1]), dim=1).indices
        return VirtualWeights(*(column.gather(1, best) for column in every))
