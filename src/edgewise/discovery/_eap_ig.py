"""EAP-IG: integrated gradients along the model's own activations (Hanna, Pezzelle & Belinkov 2024).

Every edge's score is ⟨ḡ_r, Δ_w⟩ with the *fixed* difference of the path's ends, Δ_w = z_w − z̃_w, and the mean ḡ_r of
the reader's gradient along a path on which something is moved from ablated to clean and everything after it follows.
The sign is that of EAP: positive means that keeping the edge raises the metric.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.discovery._configs import EapIgConfig, configured
from edgewise.discovery._cost import Cost
from edgewise.discovery._explain import asked_of, explain
from edgewise.discovery._provenance import method_record, provenance
from edgewise.discovery._quadrature import quadrature
from edgewise.discovery._scores import Scores
from edgewise.engine import Engine, Objective, Stream
from edgewise.models import Model
from edgewise.tasks import Task


def eap_ig(model: Model | Engine, task: Task, config: EapIgConfig | None = None, **changes: Any) -> Scores:
    """EAP with integrated gradients, along the input or along each component's output.

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `metric` is explained.
        config: the settings; `path="activations"` is the method `eap-ig-activations`.
        **changes: fields of `EapIgConfig` to change.

    Returns:
        Scores `[E]`, the mean over the examples.

    Raises:
        edgewise.InputError: a setting is wrong, the metric has no gradient, or the graph's embeddings are no writers.
    """
    config, engine, cost = configured(EapIgConfig, config, changes), Engine.of(model), Cost()
    task, points = asked_of(task, config), quadrature(config.points, config.quadrature)

    def scores_of(stream: Stream, objective: Objective) -> Float[Tensor, " E"]:
        paths = [stream.inputs()] if config.path == "inputs" else stream.components(config.heads)
        total = torch.zeros(engine.graph.n_edges, dtype=torch.float64)
        for component in paths:
            share = 1 - component.block / len(engine.graph.blocks)
            total += stream.edge_gradients(objective, component, points).cpu().double()
            cost.spend(stream.n_examples, share * config.points, share * config.points)
        return total

    name = "eap-ig" if config.path == "inputs" else "eap-ig-activations"
    scores = explain(engine, task, config, scores_of, cost, positions=True)
    return Scores(engine.graph, scores, provenance(engine, task, method_record(name, config), cost))
