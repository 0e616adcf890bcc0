"""Candidates for a circuit's graph by their influence in attribution graphs of training prompts."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.attribution._as_circuit import graph_of_pair
from edgewise.attribution._graph import KINDS
from edgewise.attribution._influence import influence
from edgewise.discovery import AttributionGraphConfig, Candidates, Cost, asked_of, configured, largest_candidates
from edgewise.models import Model
from edgewise.tasks import Task
from edgewise.transcoders import Transcoder


def choose_by_influence(
    model: Model,
    task: Task,
    n: int,
    nodes: Literal["neurons"] | Sequence[Transcoder] = "neurons",
    *,
    per: Literal["layer", "all"] = "layer",
    config: AttributionGraphConfig | None = None,
    **changes: Any,
) -> Candidates:
    """The neurons or features with the largest mean influence on a task's answers, for `model.graph(neurons=…)` or
    `(features=…)`. Of each prompt, what a node has at all positions is added up (see `influence`).

    Args:
        model: the model.
        task: the behaviour.
        n: how many.
        nodes: `neurons`, or transcoders.
        per: `layer`: so many of each layer; `all`: so many of all together.
        config: the settings: which prompts, and how many rows each graph has.
        **changes: fields of `AttributionGraphConfig` to change.

    Returns:
        By layer the chosen ones, ascending, and in `record` how they were chosen and what that cost.

    Raises:
        edgewise.InputError: there are not so many, a setting is wrong, or a transcoder does not fit the model.
        KeyboardInterrupt: it was interrupted; there is no choice by some of the prompts.
    """
    config, cost = configured(AttributionGraphConfig, config, changes), Cost()
    found, kind = _nothing(model, nodes), KINDS.index("neuron" if nodes == "neurons" else "feature")
    few = asked_of(task, config)
    few.check_examples(config.split)
    pairs = few.split(config.split)
    what = "neurons" if nodes == "neurons" else "features"
    largest_candidates(found, n, per, what, {})  # refuses n and per before any graph is made
    for pair in pairs:
        graph = graph_of_pair(model, pair, nodes, config)
        cost.spend(1, forwards=1, backwards=float((graph.offsets.diff() > 0).sum()))
        table, reached = graph.nodes, influence(graph)
        for layer, total in found.items():
            own = (table.kind == kind) & (table.layer == layer)
            total.index_add_(0, table.index[own], reached[own] / len(pairs))
    cost.examples = len(pairs)
    record = {"by": "attribution graph's influence", "split": config.split, "cost": cost.record()}
    chosen = largest_candidates(found, n, per, what, record)
    written = () if isinstance(nodes, str) else {site.layer for each in nodes for site in each.spec.writes}
    return Candidates({layer: chosen.get(layer, ()) for layer in sorted({*chosen, *written})}, chosen.record)


def _nothing(model: Model, nodes: Literal["neurons"] | Sequence[Transcoder]) -> dict[int, Float[Tensor, " F"]]:
    """No influence yet, for every neuron or feature."""
    if isinstance(nodes, str):
        widths = {i: layer.mlp.inputs[0][0].shape[1] for i, layer in enumerate(model.parts.layers) if layer.mlp.inputs}
    else:
        widths = {each.spec.reads.layer: each.n_features for each in nodes}
    return {layer: torch.zeros(width, dtype=torch.float64) for layer, width in sorted(widths.items())}
