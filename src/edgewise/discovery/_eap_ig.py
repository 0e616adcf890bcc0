"""EAP-IG: integrated gradients along the model's own activations (Hanna, Pezzelle & Belinkov 2024).

Every edge's score is ⟨ḡ_r, Δ_w⟩ with the *fixed* difference of the path's ends, Δ_w = z_w − z̃_w, and the mean ḡ_r of
the reader's gradient along a path on which something is moved from ablated to clean and everything after it follows.
The sign is that of EAP: positive means that keeping the edge raises the metric.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.discovery._attributing import attribution
from edgewise.discovery._configs import EapIgConfig
from edgewise.discovery._cost import Cost
from edgewise.discovery._explain import explain
from edgewise.discovery._quadrature import quadrature
from edgewise.engine import Engine, Objective, Stream
from edgewise.tasks import Task


@attribution(EapIgConfig)
def eap_ig(engine: Engine, task: Task, config: EapIgConfig, cost: Cost) -> Float[Tensor, " E"]:
    """EAP with integrated gradients, along the input or along each component's output (`path="activations"`, the
    method `eap-ig-activations`).

    The reference implementation's grid is `quadrature="left"` along the input and `"right"` along activations. It has
    two more habits: along activations every component's path counts for every edge, and along the input of a model with
    rotary positions its edges into layer 0 score 0.

    Returns:
        Scores `[E]`, the mean over the examples.

    Raises:
        edgewise.InputError: a setting is wrong, the metric has no gradient, or the graph's embeddings are no writers.
    """
    points = quadrature(config.points, config.quadrature)

    def scores_of(stream: Stream, objective: Objective) -> Tensor:
        paths = [stream.inputs()] if config.path == "inputs" else stream.components(config.heads)
        total = torch.zeros((), dtype=torch.float64)
        for component in paths:
            share = 1 - component.block / len(engine.graph.blocks)
            total = total + stream.edge_gradients(objective, component, points).cpu().double()
            cost.spend(stream.n_examples, share * config.points, share * config.points)
        return total

    return explain(engine, task, config, scores_of, cost, positions=True, by_example=True)
