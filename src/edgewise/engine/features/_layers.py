"""Features in an MLP's place: which, what they read and write, and what the chosen ones leave to the error term.

A layer's MLP is taken apart into n chosen features of its transcoder and one error term. In a circuit's run a feature
makes its activation anew from its own masked input. The error term, `MLP(x) − Σ_f z_f d_f` of the *full* model's clean
run, carries all the rest (other features, biases, a skip connection, the transcoder's mistake) and follows no circuit.
So all masks 1 give the full model and all masks 0 the ablated run, however good or bad the transcoder is. (Where errors
are kept, the ablated run with clean error terms; where they are corrupted, the full model with ablated ones.)

A cross-layer feature writes to later layers too, one decoder row for each, and there the sum over f runs over the
features of all layers that write to it.

What a pre-activation must exceed to be on is fixed for each token, beforehand: 0 for `relu`, the stored threshold for
`jumprelu` and `batch_topk`; for `topk` the middle between the k-th and the next largest pre-activation of all features
in the full model's clean run (between them, so that rounding turns no feature on or off); infinity at tokens that the
transcoder was not trained on. The same bounds make ablated activations from corrupted pre-activations, so a feature
that nothing clean reaches writes exactly its ablated value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from edgewise._errors import InputError
from edgewise.engine._packing import Packing
from edgewise.engine._writes import Writes
from edgewise.graph import Graph
from edgewise.models import Model, Norm, weights_hash
from edgewise.models.block import normed
from edgewise.transcoders import Transcoder, centre, check_transcoder, norm_before, special_tokens

_CHUNK_BYTES = 64 << 20
"""How much all features' pre-activations of a chunk of tokens may take, where the k-th largest is looked for."""


@dataclass(frozen=True, eq=False)
class FeatureLayer:
    """The chosen features of one layer: detached weights in the model's type, and how they are turned on."""

    index: int
    """The layer's number."""
    norm: Norm
    """What stands between the stream and what the transcoder reads. (The layer itself would stay on the device, where
    the model is offloaded.)"""
    transcoder: Transcoder
    """As it was given."""
    encoder: Float[Tensor, "n D"]
    encoder_bias: Float[Tensor, " n"]
    """For inputs without `b_in`."""
    decoders: Mapping[int, Float[Tensor, "n D"]]
    """By layer that they write to: their own first and, of a cross-layer transcoder, later ones."""
    threshold: Float[Tensor, " m"] | None
    """Stored thresholds, one for each feature or one for all; None for `relu` and `topk`."""
    everything: tuple[Float[Tensor, "F D"], Float[Tensor, " F"]] | None
    """The encoder and its bias of all features, which `topk` chooses among; None for other kinds."""
    excludes_special: bool
    """Whether the features are off at special tokens and at each prompt's first, as in the transcoder's training."""

    @staticmethod
    def of(model: Model, transcoder: Transcoder, features: Sequence[int] | None = None) -> "FeatureLayer":
        """Some of a transcoder's features; all if None."""

        def moved(x: Tensor) -> Tensor:
            return x.detach().to(model.device, model.dtype)

        def chosen(x: Tensor) -> Tensor:
            if features is None or len(x) != transcoder.n_features:
                return moved(x)
            return moved(x[torch.tensor(features, dtype=torch.long, device=x.device)])

        threshold = chosen(transcoder.threshold) if transcoder.activation.thresholded else None
        counts = transcoder.activation.kind == "topk"
        spec, layer = transcoder.spec, transcoder.spec.reads.layer
        decoders = chosen(transcoder.W_dec).split(spec.d_out, 1)
        return FeatureLayer(
            layer,
            norm_before(model.parts.layers[layer], spec.reads.kind) or Norm.none(),
            transcoder,
            chosen(transcoder.W_enc),
            chosen(transcoder.b_enc),
            {site.layer: decoder for site, decoder in zip(spec.writes, decoders, strict=True)},
            threshold,
            (moved(transcoder.W_enc), moved(transcoder.b_enc)) if counts else None,
            spec.exclude_special,
        )

    @property
    def input_bias(self) -> Float[Tensor, " D"] | None:
        """What is taken off the input first."""
        b_in = self.transcoder.b_in
        return None if b_in is None else b_in.detach().to(self.encoder)

    def identity(self) -> dict[str, Any]:
        """What tells its transcoder from another, as plain values."""
        spec = self.transcoder.spec
        return {
            "weights_hash": weights_hash(self.transcoder),
            "activation": str(spec.activation),
            "reads": str(spec.reads),
            "exclude_special": self.excludes_special,
        }

    def read(self, stream: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """What the transcoder reads, `b_in` taken off, where the MLP's norm reads this stream."""
        x = centre(normed(self.norm, stream), self.transcoder.spec.reads)
        return x if self.input_bias is None else x - self.input_bias

    def pre_activations(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N n"]:
        """The chosen features', of what `read` gives."""
        return functional.linear(x, self.encoder, self.encoder_bias)

    def off(self, model: Model, packing: Packing) -> Bool[Tensor, " N"] | None:
        """The tokens at which all features are off, in plain order; None if there are none."""
        if not self.excludes_special:
            return None
        return special_tokens(model, packing.ids[packing.real]) | (packing.positions[packing.real] == 0)

    def bound(self, x: Float[Tensor, "N D"], off: Bool[Tensor, " N"] | None) -> Float[Tensor, "N m"]:
        """What a pre-activation must exceed for its feature to be on, with one column for all features or one for each.

        It follows from what the transcoder reads in the clean run, and from the tokens at which all features are off.
        """
        activation = self.transcoder.activation
        if activation.kind == "topk":
            assert activation.k is not None and self.everything is not None
            bound = _between(x, *self.everything, activation.k)
        else:
            bound = (x.new_zeros(1) if self.threshold is None else self.threshold).expand(len(x), -1)
        bound = bound.clamp(min=0) if activation.rectified else bound
        return bound if off is None else bound.masked_fill(off[:, None], torch.inf)


def _between(
    x: Float[Tensor, "N D"], weight: Float[Tensor, "F D"], bias: Float[Tensor, " F"], k: int
) -> Float[Tensor, "N 1"]:
    """The middle between the k-th and the next largest pre-activation of all features."""
    if k == len(weight):
        return x.new_full((len(x), 1), -torch.inf)
    step, found = max(1, _CHUNK_BYTES // (len(weight) * x.element_size())), []
    for rows in x.split(step):
        largest = functional.linear(rows, weight, bias).topk(k + 1).values
        found.append(largest[:, -2:].mean(1, keepdim=True))
    return torch.cat(found)


def activate(pre: Float[Tensor, "*#N n"], bound: Float[Tensor, "*#N #n"]) -> Float[Tensor, "*#N n"]:
    """Activations: the pre-activations above their bound, and 0."""
    return torch.where(pre > bound, pre, 0.0)


class FeatureRun(NamedTuple):
    """What is fixed of a layer's features in a masked run, per packed token or the same for all."""

    bound: Float[Tensor, "N m"]
    ablated: Float[Tensor, "M n 1"]
    """Activations that removed edges carry."""
    error: Float[Tensor, "N D"]
    """What the error term writes."""
    ablated_error: Float[Tensor, "M D"]
    """What its removed edges carry."""


def feature_layers(
    model: Model, graph: Graph, ablation: str, transcoders: Transcoder | Sequence[Transcoder]
) -> dict[int, FeatureLayer]:
    """The features that a graph names, by layer; transcoders of other layers may be among those given.

    Raises `InputError` if a layer's transcoder is missing or cannot be taken apart, or if the ablation or the model's
    type does not go with features.
    """
    given = [transcoders] if isinstance(transcoders, Transcoder) else list(transcoders)
    by_layer = {each.spec.reads.layer: each for each in given}
    if len(by_layer) < len(given):
        raise InputError("transcoders: two are of one layer; give at most one for each")
    wanted = dict(graph.spec.features)
    if not wanted:
        if given:
            raise InputError("transcoders: the graph has no features of theirs; use model.graph(features=…)")
        return {}
    if ablation not in ("interchange", "zero"):
        raise InputError(f"ablation {ablation!r}: a graph with features takes interchange or zero")
    if missing := sorted({layer for layer, features in wanted.items() if features} - by_layer.keys()):
        raise InputError(f"graph: layer {missing[0]} has features; give its transcoder (Engine(…, transcoders=…))")
    found = {}
    for layer, features in wanted.items():
        if layer not in by_layer:  # it has an error term, and at most places of earlier layers' features
            continue
        check_features(model, by_layer[layer])
        check_reach(graph, by_layer[layer])
        if features and features[-1] >= by_layer[layer].n_features:
            raise InputError(
                f"graph: feature {features[-1]} of layer {layer}; its transcoder has {by_layer[layer].n_features}, "
                "counted from 0"
            )
        found[layer] = FeatureLayer.of(model, by_layer[layer], features)
    return found


def check_features(model: Model, transcoder: Transcoder) -> None:
    """Refuse a transcoder whose features cannot be readers and writers of a model's graph. Raises `InputError`."""
    check_transcoder(model, transcoder)
    if model.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"model: it is in {model.dtype}, whose rounding turns features on and off; with features load it in float32"
        )
    spec, site = transcoder.spec, transcoder.spec.reads
    if spec.is_autoencoder:
        raise InputError(
            f"autoencoder of {site}: its features read what the MLP wrote; take an MLP apart by a transcoder"
        )
    if site.kind == "resid_mid" and not site.centred and model.parts.final_norm.kind == "layer":
        raise InputError(
            f"transcoder of {site}: the engine keeps no mean of a stream that layer norms read; use a transcoder that "
            "reads it centred, or after the norm"
        )


def check_reach(graph: Graph, transcoder: Transcoder) -> None:
    """Refuse a graph in which a transcoder's features do not write to all of its layers. Raises `InputError`."""
    layer, reach = transcoder.spec.reads.layer, tuple(site.layer for site in transcoder.spec.writes[1:])
    if dict(graph.spec.cross_layer).get(layer, ()) != reach and graph.spec.features_of(layer):
        raise InputError(
            f"graph: the transcoder of layer {layer} writes to later layers {list(reach)}, the graph's features of it "
            f"to {list(dict(graph.spec.cross_layer).get(layer, ()))}; use model.graph(…, "
            "cross_layer=edgewise.transcoders.cross_layer(transcoders))"
        )


class CleanFeatures(NamedTuple):
    """What the full model's clean run says of a layer's features."""

    error: Float[Tensor, "N D"]
    """What the error term writes."""
    bound: Float[Tensor, "N m"]
    """See `FeatureLayer.bound`; of a layer without features of its own, infinity."""


def _written(
    layers: Mapping[int, FeatureLayer], active: Mapping[int, Float[Tensor, "M n"]], target: int
) -> Tensor | float:
    """What all features write to a layer."""
    into = [(active[source], each.decoders[target]) for source, each in layers.items() if target in each.decoders]
    return sum((z @ decoder for z, decoder in into), start=0.0)


@torch.no_grad()
def clean_features(
    model: Model,
    graph: Graph,
    layers: Mapping[int, FeatureLayer],
    writes: Writes,
    streams: Mapping[int, Tensor],
    packing: Packing,
) -> dict[int, CleanFeatures]:
    """The same for each layer that features write to; `streams` is what their MLPs' norms read, `[N, D]` each."""
    bounds, active = {}, {}
    for index, features in layers.items():
        x = features.read(streams[index].to(model.dtype))
        bounds[index] = features.bound(x, features.off(model, packing))
        active[index] = activate(features.pre_activations(x), bounds[index])
    found = {}
    for target, _ in graph.spec.features:
        error = writes.mlps[target] - _written(layers, active, target)
        found[target] = CleanFeatures(error, bounds.get(target, error.new_full((len(error), 1), torch.inf)))
    return found


@torch.no_grad()
def pre_activations(
    model: Model, layers: Mapping[int, FeatureLayer], streams: Mapping[int, Tensor]
) -> dict[int, Float[Tensor, "N n"]]:
    """The chosen features' pre-activations in a run of the full model, whose MLPs' norms read these streams."""
    return {
        index: features.pre_activations(features.read(streams[index].to(model.dtype)))
        for index, features in layers.items()
    }


@torch.no_grad()
def feature_runs(
    layers: Mapping[int, FeatureLayer],
    clean: Mapping[int, CleanFeatures],
    corrupted: Mapping[int, Float[Tensor, "N n"]] | None,
    ablated_mlps: Mapping[int, Float[Tensor, "M D"]],
) -> dict[int, FeatureRun]:
    """What is fixed of each layer's features in a masked run, at each packed token.

    Pre-activations of the corrupted run are None where removed edges carry nothing. Of what the whole MLP's removed
    edges carry, the error term's carry what the features' do not.
    """
    ablated = {}
    for index, features in layers.items():
        bound = clean[index].bound
        nothing = bound.new_zeros(1, len(features.encoder))
        ablated[index] = nothing if corrupted is None else activate(corrupted[index], bound)
    return {
        index: FeatureRun(
            bound,
            ablated[index][..., None] if index in ablated else bound.new_zeros(1, 0, 1),
            error,
            ablated_mlps[index] - _written(layers, ablated, index),
        )
        for index, (error, bound) in clean.items()
    }


def mlp_streams(graph: Graph, writes: Writes, base: Sequence[Tensor]) -> dict[int, Float[Tensor, "N D"]]:
    """What the MLPs' norms read in a run of the full model, for layers taken apart; `base` is its `base_sums`, under
    an ablation whose b_O stays with the layers.
    """
    clean = 0.0 if graph.n_embeddings else writes.embeds[0]  # left out of the sums where they are no writers
    layers = [layer for layer, _ in (*graph.spec.features, *graph.spec.neurons)]
    return {layer: base[graph.mlp(layer).number] + clean for layer in layers}


def kept_errors(graph: Graph, nodes: Mapping[int, Any]) -> dict[int, Float[Tensor, "N D"]]:
    """By block of readers, what kept error terms write beyond their ablated values; `nodes` is what is fixed of the
    layers taken apart.
    """
    if graph.spec.error != "kept":
        return {}
    kept, total = dict[int, Tensor](), None
    for block in graph.blocks:
        if total is not None:
            kept[block.number] = total
        fixed = nodes.get(block.layer)
        if block.kind == "features" and isinstance(fixed, FeatureRun):
            more = fixed.error - fixed.ablated_error
            total = more if total is None else total + more
    return kept
