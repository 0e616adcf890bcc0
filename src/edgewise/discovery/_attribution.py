"""Attribution: scores from gradients of a metric with respect to the masks, without any learning.

The sign is the one of the definition `score(w → r) = ∂ metric / ∂ m_rw`: positive means that keeping the edge raises
the metric.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.discovery._cost import Cost, constant_forwards
from edgewise.discovery._explain import explain
from edgewise.discovery._objective import differentiable, example_scores
from edgewise.discovery._provenance import provenance
from edgewise.discovery._quadrature import Quadrature, quadrature
from edgewise.discovery._scores import Scores
from edgewise.engine import Engine, Objective, Stream, query_and_key_effects
from edgewise.models import Model
from edgewise.tasks import Task, metric_function


def eap(
    model: Model | Engine, task: Task, *, qk_fix: bool = False, split: str = "train", batch_size: int = 32
) -> Scores:
    """Edge attribution patching: the mask gradient at the full model (Syed, Rager & Conmy 2023, equation 3, sign
    reversed).

    To first order, removing edge w → r changes the metric by minus its score: `⟨∂metric/∂x_r, z_w − z̃_w⟩`.

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `metric` is explained; a logit difference or a log-probability, never KL to the model itself, whose
            gradient is 0 here.
        qk_fix: for edges into queries and keys, run the head's norm, projection and softmax without the edge as they
            are, and take its output's effect alone as linear (AtP*'s fix, see `atp_star`, for single edges). It takes
            each writer through the queries' and keys' projections of every later layer.
        split: which examples.
        batch_size: how many at a time; it does not change the scores.

    Returns:
        Scores, the mean over the examples.

    Raises:
        edgewise.InputError: the metric is KL, or with `qk_fix` the graph's edges carry positions.
    """
    engine, cost = Engine.of(model), Cost()
    if qk_fix:
        scores = explain(engine, task, split, batch_size, _with_qk_fix(cost), cost, clean_only="eap")
        method = {"name": "eap", "qk_fix": True, "split": split}
        return Scores(engine.graph, scores, provenance(engine, task, method, cost))
    scores = _mask_gradient(engine, task, [(1.0, 1.0)], split, batch_size, cost)
    return Scores(engine.graph, scores, provenance(engine, task, {"name": "eap", "split": split}, cost))


def _with_qk_fix(cost: Cost) -> Callable[[Stream, Objective], Float[Tensor, " E"]]:
    def scores_of(stream: Stream, objective: Objective) -> Float[Tensor, " E"]:
        cost.spend(stream.n_examples, forwards=2, backwards=2)
        run = stream.run(inner=True)
        effects = stream.writer_effects(run, stream.value(run, objective))
        fixed = query_and_key_effects(stream, effects.mixed)
        return torch.where(fixed.isnan(), stream.edge_gradients(objective), fixed)

    return scores_of


def mask_ig(
    model: Model | Engine,
    task: Task,
    *,
    points: int = 5,
    rule: Quadrature = "gauss-legendre",
    split: str = "train",
    batch_size: int = 32,
) -> Scores:
    """Integrated gradients along the masks: the mean of the mask gradient over m = α, all edges at once.

    The scores sum to metric(full model) − metric(empty circuit) up to the quadrature's error (Sundararajan, Taly & Yan
    2017, on masks as in Miller, Chughtai & Saunders 2024).

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `metric` is explained.
        points: quadrature points.
        rule: see `quadrature`.
        split: which examples.
        batch_size: how many at a time; it does not change the scores.

    Returns:
        Scores, the mean over the examples.

    Raises:
        edgewise.InputError: there is no such rule, too few points for it, or the metric has no gradient.
    """
    engine, cost = Engine.of(model), Cost()
    scores = _mask_gradient(engine, task, quadrature(points, rule), split, batch_size, cost)
    method = {"name": "mask-ig", "points": points, "quadrature": rule, "split": split}
    return Scores(engine.graph, scores, provenance(engine, task, method, cost))


def _mask_gradient(
    engine: Engine, task: Task, points: list[tuple[float, float]], split: str, batch_size: int, cost: Cost
) -> Float[Tensor, " E"]:
    metric = metric_function(task.metric)
    if points == [(1.0, 1.0)] and metric.distance:
        raise InputError(
            "eap: the metric is a distance to the model itself (KL, l2), whose gradient at the full model is 0; use "
            "logit_diff or log_prob, or value where the output is a number"
        )
    task.check_spans(engine.graph)
    total = torch.zeros(engine.graph.n_edges, dtype=torch.float64)
    for batch in task.batches(split, batch_size):
        cost.spend(len(batch.index), forwards=constant_forwards(engine) + metric.needs_full_model)
        for value, weight in points:
            cost.spend(len(batch.index), forwards=1, backwards=1)
            mask = torch.full((engine.graph.n_edges,), value, device=engine.model.device, requires_grad=True)
            scores = example_scores(engine, batch, mask, metric, gradients="all").sum()
            differentiable(scores, task.metric, "metric").backward()
            assert mask.grad is not None
            total += weight * mask.grad.cpu().double()
    cost.examples = len(task.split(split))
    return (metric.sign * total / cost.examples).float()
