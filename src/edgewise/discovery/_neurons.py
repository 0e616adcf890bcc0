"""Which neurons of a model's MLPs matter to a task: the first-order effect of ablating each."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.discovery._candidates import Candidates, check_choice, choice_record, largest_candidates
from edgewise.discovery._configs import Average, AveragedConfig
from edgewise.discovery._cost import Cost
from edgewise.discovery._features import TokenSums, effects_engine, effects_per_batch
from edgewise.engine import Ablation, Stream
from edgewise.engine.features import activations, check_neurons
from edgewise.models import Model
from edgewise.tasks import Task


def neuron_effects(
    model: Model,
    task: Task,
    layers: Sequence[int] | None = None,
    *,
    ablation: Ablation | None = None,
    average: Average = "signed",
    split: str = "train",
    batch_size: int = 32,
) -> dict[int, Float[Tensor, " F"]]:
    """What ablating each neuron takes from the task's metric, to first order: `Σ_tokens (h_i − h̃_i) ⟨w_i,
    ∂metric/∂y⟩` for activations h_i (ablated: h̃_i), rows w_i of the MLP's output matrix and its output y, all at the
    full model, the mean over the examples. See `feature_effects`.

    Args:
        model: the model.
        task: its `metric` is explained, or where that has no gradient at the full model the field's own.
        layers: of which MLPs; all if None.
        ablation: interchange (the default) or zero.
        average: `signed`: the mean effect; `absolute`: the mean size of the examples' effects, which do not cancel.
        split: which examples.
        batch_size: how many at a time; it does not change the effects.

    Returns:
        For each layer, one number per neuron.

    Raises:
        edgewise.InputError: an MLP is no sum of neurons, there is no such layer, or the ablation is another.
    """
    config = AveragedConfig(average=average, split=split, batch_size=batch_size)
    return _effects(model, task, layers, ablation, config, Cost())


def choose_neurons(
    model: Model,
    task: Task,
    n: int,
    layers: Sequence[int] | None = None,
    *,
    per: Literal["layer", "all"] = "layer",
    ablation: Ablation | None = None,
    split: str = "train",
    batch_size: int = 32,
) -> Candidates:
    """The neurons whose effects are the largest, by the mean of their sizes (`average="absolute"` of `neuron_effects`),
    for `model.graph(neurons=…)`.

    Args:
        model: the model.
        task: the behaviour.
        n: how many neurons.
        layers: of which MLPs; all if None.
        per: `layer`: so many of each MLP; `all`: so many of all together.
        ablation: see `neuron_effects`.
        split: likewise.
        batch_size: likewise.

    Returns:
        For each layer its chosen neurons, ascending, and in `record` how they were chosen and what that cost.

    Raises:
        edgewise.InputError: there are not so many neurons, or as `neuron_effects`.
    """
    check_choice(per, "neurons")
    cost = Cost()
    config = AveragedConfig(average="absolute", split=split, batch_size=batch_size)
    effects = _effects(model, task, layers, ablation, config, cost)
    return largest_candidates(effects, n, per, "neurons", choice_record("absolute first-order effect", split, cost))


def _effects(
    model: Model,
    task: Task,
    layers: Sequence[int] | None,
    ablation: Ablation | None,
    config: AveragedConfig,
    cost: Cost,
) -> dict[int, Float[Tensor, " F"]]:
    n_layers = len(model.parts.layers)
    chosen = sorted(set(range(n_layers) if layers is None else layers))
    if not chosen or not 0 <= chosen[0] <= chosen[-1] < n_layers:
        raise InputError(f"neurons: layers {chosen}; the model has 0 to {n_layers - 1}")
    for layer in chosen:
        check_neurons(model.parts.layers[layer].mlp, layer)
    engine = effects_engine(model, ablation, "neurons")

    def of_layers(stream: Stream, gradients: dict[int, Tensor]) -> Float[Tensor, " n"]:
        return torch.cat([_of_layer(stream, layer, gradients[layer]) for layer in chosen])

    found = effects_per_batch(engine, task, chosen, of_layers, config, cost)
    widths = [len(model.parts.layers[layer].mlp.inputs[0][0].T) for layer in chosen]
    return dict(zip(chosen, found.split(widths), strict=True))


@torch.no_grad()
def _of_layer(stream: Stream, layer: int, gradient: Float[Tensor, "N D"]) -> Float[Tensor, " F"]:
    """One layer's effects, summed over a batch (see `TokenSums`)."""
    mlp, block, dtype = stream.parts.layers[layer].mlp, stream.graph.mlp(layer).number, stream.engine.model.dtype
    assert mlp.down is not None
    clean, corrupted = stream.clean[block].to(dtype), None
    if stream.engine.ablation.kind == "interchange":
        corrupted = stream.ablated.base(block).to(dtype)
    sums = TokenSums(stream, len(mlp.down))
    for start in range(0, len(clean), sums.chunk):
        tokens = slice(start, start + sums.chunk)
        change = activations(mlp, clean[tokens])
        if corrupted is not None:
            change = change - activations(mlp, corrupted[tokens])
        sums.add(tokens, change * (gradient[tokens].to(dtype) @ mlp.down.T))
    return sums.total
