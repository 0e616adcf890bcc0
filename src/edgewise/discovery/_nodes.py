"""Attribution of whole components (attribution patching, Nanda 2023; NAP and NAP-IG in Mueller et al. 2025).

A writer's score is ⟨∂metric/∂z_w, z_w − z̃_w⟩, its output's gradient times its output's difference: the sum of its
edges' scores under EAP, where effects are signed. (An implementation in wide use takes an MLP's gradient at its *input*
instead.)
"""

import torch
from torch import Tensor

from edgewise.discovery._attributing import attribution
from edgewise.discovery._configs import NodeEapConfig, NodeIgConfig
from edgewise.discovery._cost import Cost
from edgewise.discovery._explain import explain
from edgewise.discovery._quadrature import quadrature
from edgewise.discovery._scores import edges_of_nodes
from edgewise.engine import Component, Engine, Objective, Stream
from edgewise.tasks import Task


@attribution(NodeEapConfig)
def node_eap(engine: Engine, task: Task, config: NodeEapConfig, cost: Cost) -> tuple[Tensor, Tensor]:
    """The first-order effect of ablating each writer, for all that read it at once.

    Returns:
        Scores, the mean over the examples: `writers` `[W]`, and edges' `[E]` made of them.

    Raises:
        edgewise.InputError: a setting is wrong, or the metric is KL or has no gradient.
    """

    def scores_of(stream: Stream, objective: Objective) -> Tensor:
        return _effects(stream, objective, None, 1.0, cost)

    writers = explain(engine, task, config, scores_of, cost, at_full_model=True, by_example=True)
    return edges_of_nodes(engine.graph, writers), writers


@attribution(NodeIgConfig)
def node_ig(engine: Engine, task: Task, config: NodeIgConfig, cost: Cost) -> tuple[Tensor, Tensor]:
    """The same with the mean gradient along the input path, from ablated to clean embeddings (see `eap_ig`).

    Returns:
        Scores, the mean over the examples: `writers` `[W]`, and edges' `[E]` made of them.

    Raises:
        edgewise.InputError: a setting is wrong, the metric has no gradient, or the graph's embeddings are no writers.
    """
    points = quadrature(config.points, config.quadrature)

    def scores_of(stream: Stream, objective: Objective) -> Tensor:
        path = stream.inputs()
        return torch.stack([w * _effects(stream, objective, path, alpha, cost) for alpha, w in points]).sum(0)

    writers = explain(engine, task, config, scores_of, cost, by_example=True)
    return edges_of_nodes(engine.graph, writers), writers


def _effects(stream: Stream, objective: Objective, component: Component | None, alpha: float, cost: Cost) -> Tensor:
    """Of each example, where the stream keeps them apart, `[B, W]`; otherwise their sum, `[W]`."""
    cost.spend(stream.n_examples, forwards=1, backwards=1)
    run = stream.run(component, alpha, inner=True)
    found = stream.writer_effects(run, stream.value(run, objective)).writers
    return found if stream.by_example else found.sum(0)
