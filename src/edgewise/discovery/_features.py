"""Which features of a transcoder matter to a task: the first-order effect of ablating each."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.discovery._configs import AttributionConfig
from edgewise.discovery._cost import Cost
from edgewise.discovery._explain import explain
from edgewise.engine import Ablation, Engine, Objective, Stream
from edgewise.engine.features import FeatureLayer, activate, check_features
from edgewise.models import Model
from edgewise.tasks import Task, metric_function
from edgewise.transcoders import Transcoder

_CHUNK_BYTES = 64 << 20
"""How much all features' activations of a chunk of tokens may take, a few times."""


def feature_effects(
    model: Model,
    task: Task,
    transcoders: Transcoder | Sequence[Transcoder],
    *,
    ablation: Ablation | None = None,
    split: str = "train",
    batch_size: int = 32,
) -> dict[int, Float[Tensor, " F"]]:
    """What ablating each feature takes from the task's metric, to first order: `Σ_tokens (z_f − z̃_f) ⟨d_f,
    ∂metric/∂y⟩` for activations z_f (ablated: z̃_f), decoder rows d_f and an MLP's output y, all at the full model
    (Marks et al. 2024, Sparse Feature Circuits, equation 3, sign reversed), the mean over the examples.

    Args:
        model: the model.
        task: its `metric` is explained, or where that has no gradient at the full model the field's own.
        transcoders: at most one per layer.
        ablation: interchange (the default) or zero.
        split: which examples.
        batch_size: how many at a time; it does not change the effects.

    Returns:
        For each layer, one number per feature.

    Raises:
        edgewise.InputError: a transcoder does not fit the model or cannot be taken apart, two are of one layer, or the
            ablation is another.
    """
    given = [transcoders] if isinstance(transcoders, Transcoder) else list(transcoders)
    for each in given:
        check_features(model, each)
    layers = sorted(each.spec.reads.layer for each in given)
    if not given or len(set(layers)) < len(layers):
        raise InputError(f"transcoders: of layers {layers}; give one for each of some layers")
    ablation = ablation or Ablation()
    if ablation.kind not in ("interchange", "zero"):
        raise InputError(f"ablation {ablation.kind!r}: features take interchange or zero")
    metric = metric_function(task.metric)
    if metric.distance or not metric.differentiable:  # it has no gradient at the full model
        task = replace(task, metric=task.explained)
    features = [FeatureLayer.of(model, each) for each in sorted(given, key=lambda each: each.spec.reads.layer)]
    engine, cost = Engine(model, model.graph(), ablation), Cost()

    def effects_of(stream: Stream, objective: Objective) -> Float[Tensor, " n"]:
        run = stream.run(inner=True)
        outputs = [run.written[stream.graph.mlp(layer).number] for layer in layers]
        gradients = torch.autograd.grad(stream.value(run, objective), outputs)
        return torch.cat([_effects(stream, each, g) for each, g in zip(features, gradients, strict=True)])

    config = AttributionConfig(split=split, batch_size=batch_size)
    found = explain(engine, task, config, effects_of, cost)
    sizes = [len(each.encoder) for each in features]
    return dict(zip(layers, found.split(sizes), strict=True))


@torch.no_grad()
def _effects(stream: Stream, features: FeatureLayer, gradient: Float[Tensor, "N D"]) -> Float[Tensor, " F"]:
    """One layer's, summed over a batch's tokens."""
    block, model = stream.graph.mlp(features.index).number, stream.engine.model
    clean, off = stream.clean[block].to(model.dtype), features.off(model, stream.packing)
    corrupted = None
    if stream.engine.ablation.kind == "interchange":
        corrupted = stream.ablated.base(block).to(model.dtype)
    total = torch.zeros(len(features.encoder), dtype=model.dtype, device=model.device)
    step = max(1, _CHUNK_BYTES // (len(features.encoder) * total.element_size()))
    for start in range(0, len(clean), step):
        tokens = slice(start, start + step)
        x = features.read(clean[tokens])
        bound = features.bound(x, None if off is None else off[tokens])
        change = activate(features.pre_activations(x), bound)
        if corrupted is not None:
            change -= activate(features.pre_activations(features.read(corrupted[tokens])), bound)
        total += (change * (gradient[tokens].to(model.dtype) @ features.decoder.T)).sum(0)
    return total


def choose_features(
    model: Model,
    task: Task,
    transcoders: Transcoder | Sequence[Transcoder],
    n: int,
    *,
    per: Literal["layer", "all"] = "layer",
    ablation: Ablation | None = None,
    split: str = "train",
    batch_size: int = 32,
) -> dict[int, tuple[int, ...]]:
    """The features with the largest absolute effects (see `feature_effects`), for `model.graph(features=…)`.

    Args:
        model: the model.
        task: the behaviour.
        transcoders: at most one per layer.
        n: how many features.
        per: `layer`: so many of each transcoder; `all`: so many of all together. A layer may then have none, and all of
            its MLP's output is the error term's.
        ablation: see `feature_effects`.
        split: likewise.
        batch_size: likewise.

    Returns:
        For each layer of a transcoder, its chosen features, ascending.

    Raises:
        edgewise.InputError: there are not so many features, or as `feature_effects`.
    """
    if per not in ("layer", "all"):
        raise InputError(f"features: per={per!r}; choose layer or all")
    effects = feature_effects(model, task, transcoders, ablation=ablation, split=split, batch_size=batch_size)
    sizes = [len(each) for each in effects.values()]
    most = min(sizes) if per == "layer" else sum(sizes)
    if not 0 <= n <= most:
        raise InputError(
            f"features: n={n}; the transcoders have {most}" + (" at least, each" if per == "layer" else "")
        )
    if per == "layer":
        chosen = [each.abs().argsort(descending=True, stable=True)[:n] for each in effects.values()]
    else:
        order = torch.cat(list(effects.values())).abs().argsort(descending=True, stable=True)[:n]
        kept = torch.zeros(sum(sizes), dtype=torch.bool)
        kept[order] = True
        chosen = [each.nonzero()[:, 0] for each in kept.split(sizes)]
    return {layer: tuple(sorted(each.tolist())) for layer, each in zip(effects, chosen, strict=True)}
