"""Attribution of whole components (attribution patching, Nanda 2023; NAP and NAP-IG in Mueller et al. 2025).

A writer's score is ⟨∂metric/∂z_w, z_w − z̃_w⟩, its output's gradient times its output's difference: the sum of its
edges' scores under EAP. (An implementation in wide use takes an MLP's gradient at its *input* instead.)
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.discovery._cost import Cost
from edgewise.discovery._explain import explain
from edgewise.discovery._provenance import provenance
from edgewise.discovery._quadrature import Quadrature, quadrature
from edgewise.discovery._scores import Scores, edges_of_nodes
from edgewise.engine import Component, Engine, Objective, Stream
from edgewise.models import Model
from edgewise.tasks import Task


def node_eap(model: Model | Engine, task: Task, *, split: str = "train", batch_size: int = 32) -> Scores:
    """The first-order effect of ablating each writer, for all that read it at once.

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `metric` is explained; not KL to the model itself.
        split: which examples.
        batch_size: how many at a time; it does not change the scores.

    Returns:
        Scores, the mean over the examples: `writers`, and edges' made of them.

    Raises:
        edgewise.InputError: the metric is KL or has no gradient.
    """
    engine, cost = Engine.of(model), Cost()

    def scores_of(stream: Stream, objective: Objective) -> Float[Tensor, " W"]:
        return _effects(stream, objective, None, 1.0, cost)

    writers = explain(engine, task, split, batch_size, scores_of, cost, clean_only="node-eap")
    return _scores(engine, task, writers, {"name": "node-eap", "split": split}, cost)


def node_ig(
    model: Model | Engine,
    task: Task,
    *,
    points: int = 5,
    rule: Quadrature = "gauss-legendre",
    split: str = "train",
    batch_size: int = 32,
) -> Scores:
    """The same with the mean gradient along the input path, from ablated to clean embeddings (see `eap_ig`).

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `metric` is explained.
        points: quadrature points; node scores are said to need more than edges', some 10 to 30.
        rule: see `quadrature`; `right` is the reference implementation's grid.
        split: which examples.
        batch_size: how many at a time; it does not change the scores.

    Returns:
        Scores, the mean over the examples: `writers`, and edges' made of them.

    Raises:
        edgewise.InputError: a setting is out of range, the metric has no gradient, or the graph's embeddings are no
            writers.
    """
    engine, cost, points_of = Engine.of(model), Cost(), quadrature(points, rule)

    def scores_of(stream: Stream, objective: Objective) -> Tensor:
        path = stream.inputs()
        return torch.stack([w * _effects(stream, objective, path, alpha, cost) for alpha, w in points_of]).sum(0)

    writers = explain(engine, task, split, batch_size, scores_of, cost)
    method = {"name": "node-ig", "points": points, "quadrature": rule, "split": split}
    return _scores(engine, task, writers, method, cost)


def _effects(
    stream: Stream, objective: Objective, component: Component | None, alpha: float, cost: Cost
) -> Float[Tensor, " W"]:
    cost.spend(stream.n_examples, forwards=1, backwards=1)
    run = stream.run(component, alpha, inner=True)
    return stream.writer_effects(run, stream.value(run, objective)).writers.sum(0)


def _scores(engine: Engine, task: Task, writers: Tensor, method: dict[str, Any], cost: Cost) -> Scores:
    values = edges_of_nodes(engine.graph, writers)
    return Scores(engine.graph, values, provenance(engine, task, method, cost), writers)
