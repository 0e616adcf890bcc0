"""EAP-IG: integrated gradients along the model's own activations (Hanna, Pezzelle & Belinkov 2024).

Every edge's score is ⟨ḡ_r, Δ_w⟩ with the *fixed* difference of the path's ends, Δ_w = z_w − z̃_w, and the mean ḡ_r of
the reader's gradient along a path on which something is moved from ablated to clean and everything after it follows.
The sign is that of EAP: positive means that keeping the edge raises the metric.
"""

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.discovery._cost import Cost
from edgewise.discovery._explain import explain
from edgewise.discovery._provenance import provenance
from edgewise.discovery._quadrature import Quadrature, quadrature
from edgewise.discovery._scores import Scores
from edgewise.engine import Engine, Objective, Stream
from edgewise.models import Model
from edgewise.tasks import Task


def eap_ig(
    model: Model | Engine,
    task: Task,
    *,
    path: Literal["inputs", "activations"] = "inputs",
    points: int = 5,
    rule: Quadrature = "gauss-legendre",
    heads: Literal["together", "apart"] = "together",
    split: str = "train",
    batch_size: int = 32,
) -> Scores:
    """EAP with integrated gradients, along the input or along each component's output.

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `metric` is explained.
        path: `inputs`: the embeddings move from ablated to clean and all else follows. `activations`: one component's
            output at a time (the embeddings, a layer's attention, an MLP), and the path explains that component's
            outgoing edges alone. (The reference implementation lets every component's path count for every edge.)
        points: quadrature points, m.
        rule: see `quadrature`; `left` is the reference implementation's grid.
        heads: for `activations`, whether a layer's heads move together, in 2L + 1 paths, or each on its own.
        split: which examples.
        batch_size: how many at a time; it does not change the scores.

    Returns:
        Scores, the mean over the examples.

    Raises:
        edgewise.InputError: a setting is out of range, the metric has no gradient, or the graph's embeddings are no
            writers.
    """
    engine, points_of = Engine.of(model), quadrature(points, rule)
    if path not in ("inputs", "activations"):
        raise InputError(f"eap-ig: path={path!r}; choose inputs or activations")
    if heads not in ("together", "apart"):
        raise InputError(f"eap-ig: heads={heads!r}; choose together or apart")
    cost = Cost()

    def scores_of(stream: Stream, objective: Objective) -> Float[Tensor, " E"]:
        paths = [stream.inputs()] if path == "inputs" else stream.components(heads)
        total = torch.zeros(engine.graph.n_edges, dtype=torch.float64)
        for component in paths:
            share = 1 - component.block / len(engine.graph.blocks)
            total += stream.edge_gradients(objective, component, points_of).cpu().double()
            cost.spend(stream.n_examples, share * points, share * points)
        return total

    method: dict[str, Any] = {"name": f"eap-ig-{path}", "points": points, "quadrature": rule, "split": split}
    if path == "activations":
        method["heads"] = heads
    scores = explain(engine, task, split, batch_size, scores_of, cost, groups=True)
    return Scores(engine.graph, scores, provenance(engine, task, method, cost))
