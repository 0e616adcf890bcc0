"""Which features of a transcoder matter to a task: the first-order effect of ablating each."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.discovery._candidates import Candidates, check_choice, choice_record, largest_candidates
from edgewise.discovery._configs import Average, AveragedConfig
from edgewise.discovery._cost import Cost
from edgewise.discovery._explain import explain
from edgewise.engine import Ablation, Engine, Objective, Stream
from edgewise.engine.features import FeatureLayer, activate, check_features
from edgewise.models import Model
from edgewise.tasks import Task
from edgewise.transcoders import Transcoder

_CHUNK_BYTES = 64 << 20
"""How much all features' or neurons' activations of a chunk of tokens may take, a few times."""


def feature_effects(
    model: Model,
    task: Task,
    transcoders: Transcoder | Sequence[Transcoder],
    *,
    ablation: Ablation | None = None,
    average: Average = "signed",
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
        average: `signed`: the mean effect; `absolute`: the mean size of the examples' effects, which do not cancel.
        split: which examples.
        batch_size: how many at a time; it does not change the effects.

    Returns:
        For each layer, one number per feature.

    Raises:
        edgewise.InputError: a transcoder does not fit the model or cannot be taken apart, two are of one layer, or the
            ablation is another.
    """
    config = AveragedConfig(average=average, split=split, batch_size=batch_size)
    return _all_effects(model, task, transcoders, ablation, config, Cost())


def _all_effects(
    model: Model,
    task: Task,
    transcoders: Transcoder | Sequence[Transcoder],
    ablation: Ablation | None,
    config: AveragedConfig,
    cost: Cost,
) -> dict[int, Float[Tensor, " F"]]:
    given = [transcoders] if isinstance(transcoders, Transcoder) else list(transcoders)
    for each in given:
        check_features(model, each)
    layers = sorted(each.spec.reads.layer for each in given)
    if not given or len(set(layers)) < len(layers):
        raise InputError(f"transcoders: of layers {layers}; give one for each of some layers")
    engine = effects_engine(model, ablation, "features")
    features = [FeatureLayer.of(model, each) for each in sorted(given, key=lambda each: each.spec.reads.layer)]
    written = sorted({layer for each in features for layer in each.decoders})

    def of_layers(stream: Stream, gradients: dict[int, Tensor]) -> Float[Tensor, " n"]:
        return torch.cat([_effects(stream, each, gradients) for each in features])

    found = effects_per_batch(engine, task, written, of_layers, config, cost)
    sizes = [len(each.encoder) for each in features]
    return dict(zip(layers, found.split(sizes), strict=True))


def effects_engine(model: Model, ablation: Ablation | None, what: str) -> Engine:
    """An engine of the plain graph for first-order effects. Raises `InputError` for other ablations."""
    ablation = ablation or Ablation()
    if ablation.kind not in ("interchange", "zero"):
        raise InputError(f"ablation {ablation.kind!r}: {what} take interchange or zero")
    return Engine(model, model.graph(), ablation)


def effects_per_batch(
    engine: Engine,
    task: Task,
    layers: Sequence[int],
    of_layers: Callable[[Stream, dict[int, Tensor]], Float[Tensor, " n"]],
    config: AveragedConfig,
    cost: Cost,
) -> Float[Tensor, " n"]:
    """The mean over the examples of what is made of ∂metric/∂(what the MLPs of these layers write), `[N, D]` each, at
    the full model.
    """
    task = task.explainable(at_full_model=True)

    def effects_of(stream: Stream, objective: Objective) -> Tensor:
        run = stream.run(inner=True)
        outputs = [run.written[stream.graph.mlp(layer).number] for layer in layers]
        gradients = torch.autograd.grad(stream.value(run, objective), outputs)
        cost.spend(stream.n_examples, forwards=1, backwards=1)
        found = of_layers(stream, dict(zip(layers, gradients, strict=True)))
        return found[None] if stream.by_example else found  # the sum of sizes, as one row

    return explain(engine, task, config, effects_of, cost, by_example=True)


class TokenSums:
    """Sums of effects over a batch's tokens; where the stream keeps examples apart, of the sizes of each one's."""

    def __init__(self, stream: Stream, width: int) -> None:
        self.example = stream.example if stream.by_example else None
        rows = stream.n_examples if stream.by_example else 1
        self.rows = torch.zeros(rows, width, dtype=stream.dtype, device=stream.engine.model.device)

    def add(self, tokens: slice, values: Float[Tensor, "n F"]) -> None:
        """The effects of these tokens."""
        if self.example is None:
            self.rows[0] += values.sum(0, dtype=self.rows.dtype)
        else:
            self.rows.index_add_(0, self.example[tokens], values.to(self.rows.dtype))

    @property
    def total(self) -> Float[Tensor, " F"]:
        """Of the whole batch."""
        return self.rows[0] if self.example is None else self.rows.abs().sum(0)

    @property
    def chunk(self) -> int:
        """How many tokens to take at a time."""
        return max(1, _CHUNK_BYTES // (self.rows.shape[1] * self.rows.element_size()))


@torch.no_grad()
def _effects(stream: Stream, features: FeatureLayer, gradients: dict[int, Tensor]) -> Float[Tensor, " F"]:
    """One transcoder's, over all layers that it writes to, summed over a batch (see `TokenSums`)."""
    block, model = stream.graph.mlp(features.index).number, stream.engine.model
    clean, off = stream.clean[block].to(model.dtype), features.off(model, stream.packing)
    corrupted = None
    if stream.engine.ablation.kind == "interchange":
        corrupted = stream.ablated.base(block).to(model.dtype)
    sums = TokenSums(stream, len(features.encoder))
    for start in range(0, len(clean), sums.chunk):
        tokens = slice(start, start + sums.chunk)
        x = features.read(clean[tokens])
        bound = features.bound(x, None if off is None else off[tokens])
        change = activate(features.pre_activations(x), bound)
        if corrupted is not None:
            change -= activate(features.pre_activations(features.read(corrupted[tokens])), bound)
        for layer, decoder in features.decoders.items():
            sums.add(tokens, change * (gradients[layer][tokens].to(model.dtype) @ decoder.T))
    return sums.total


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
) -> Candidates:
    """The features whose effects are the largest by the mean of their sizes (`average="absolute"` of
    `feature_effects`), for `model.graph(features=…)`.

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
        For each layer of a transcoder, its chosen features, ascending, and in `record` how they were chosen and what
        that cost. Layers that only others' features write to have none.

    Raises:
        edgewise.InputError: there are not so many features, or as `feature_effects`.
    """
    check_choice(per, "features")
    cost = Cost()
    config = AveragedConfig(average="absolute", split=split, batch_size=batch_size)
    effects = _all_effects(model, task, transcoders, ablation, config, cost)
    found = largest_candidates(effects, n, per, "features", choice_record("absolute first-order effect", split, cost))
    given = [transcoders] if isinstance(transcoders, Transcoder) else list(transcoders)
    written = {site.layer for each in given for site in each.spec.writes}
    return Candidates({layer: found.get(layer, ()) for layer in sorted(written | found.keys())}, found.record)
