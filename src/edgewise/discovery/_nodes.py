"""Attribution of whole components (attribution patching, Nanda 2023; NAP and NAP-IG in Mueller et al. 2025).

A writer's score is ⟨∂metric/∂z_w, z_w − z̃_w⟩, its output's gradient times its output's difference: the sum of its
edges' scores under EAP. (An implementation in wide use takes an MLP's gradient at its *input* instead.)
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.discovery._configs import NodeEapConfig, NodeIgConfig, configured
from edgewise.discovery._cost import Cost
from edgewise.discovery._explain import asked_of, explain
from edgewise.discovery._provenance import method_record, provenance
from edgewise.discovery._quadrature import quadrature
from edgewise.discovery._scores import Scores, edges_of_nodes
from edgewise.engine import Component, Engine, Objective, Stream
from edgewise.models import Model
from edgewise.tasks import Task


def node_eap(model: Model | Engine, task: Task, config: NodeEapConfig | None = None, **changes: Any) -> Scores:
    """The first-order effect of ablating each writer, for all that read it at once.

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `metric` is explained; not KL to the model itself.
        config: the settings.
        **changes: fields of `NodeEapConfig` to change.

    Returns:
        Scores, the mean over the examples: `writers` `[W]`, and edges' `[E]` made of them.

    Raises:
        edgewise.InputError: a setting is wrong, or the metric is KL or has no gradient.
    """
    config, engine, cost = configured(NodeEapConfig, config, changes), Engine.of(model), Cost()
    task = asked_of(task, config)

    def scores_of(stream: Stream, objective: Objective) -> Float[Tensor, " W"]:
        return _effects(stream, objective, None, 1.0, cost)

    writers = explain(engine, task, config, scores_of, cost, at_full_model=True)
    return _scores(engine, task, writers, method_record("node-eap", config), cost)


def node_ig(model: Model | Engine, task: Task, config: NodeIgConfig | None = None, **changes: Any) -> Scores:
    """The same with the mean gradient along the input path, from ablated to clean embeddings (see `eap_ig`).

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `metric` is explained.
        config: the settings.
        **changes: fields of `NodeIgConfig` to change.

    Returns:
        Scores, the mean over the examples: `writers` `[W]`, and edges' `[E]` made of them.

    Raises:
        edgewise.InputError: a setting is wrong, the metric has no gradient, or the graph's embeddings are no writers.
    """
    config, engine, cost = configured(NodeIgConfig, config, changes), Engine.of(model), Cost()
    task, points = asked_of(task, config), quadrature(config.points, config.quadrature)

    def scores_of(stream: Stream, objective: Objective) -> Tensor:
        path = stream.inputs()
        return torch.stack([w * _effects(stream, objective, path, alpha, cost) for alpha, w in points]).sum(0)

    writers = explain(engine, task, config, scores_of, cost)
    return _scores(engine, task, writers, method_record("node-ig", config), cost)


def _effects(
    stream: Stream, objective: Objective, component: Component | None, alpha: float, cost: Cost
) -> Float[Tensor, " W"]:
    cost.spend(stream.n_examples, forwards=1, backwards=1)
    run = stream.run(component, alpha, inner=True)
    return stream.writer_effects(run, stream.value(run, objective)).writers.sum(0)


def _scores(engine: Engine, task: Task, writers: Tensor, method: dict[str, Any], cost: Cost) -> Scores:
    values = edges_of_nodes(engine.graph, writers)
    return Scores(engine.graph, values, provenance(engine, task, method, cost), writers)
