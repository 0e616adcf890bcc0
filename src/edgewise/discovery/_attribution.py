"""Attribution: scores from gradients of a metric with respect to the masks, without any learning.

The sign is the one of the definition `score(w → r) = ∂ metric / ∂ m_rw`: positive means that keeping the edge raises
the metric.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.discovery._attributing import attribution
from edgewise.discovery._configs import AveragedConfig, EapConfig, MaskIgConfig
from edgewise.discovery._cost import Cost, constant_forwards
from edgewise.discovery._explain import check_gradient, explain
from edgewise.discovery._objective import differentiable, example_scores
from edgewise.discovery._quadrature import quadrature
from edgewise.engine import Engine, Objective, Stream, query_and_key_effects
from edgewise.runs import gradients, in_turn
from edgewise.tasks import Batch, Task, metric_function


@attribution(EapConfig)
def eap(engine: Engine, task: Task, config: EapConfig, cost: Cost) -> Float[Tensor, " E"]:
    """Edge attribution patching: the mask gradient at the full model (Syed, Rager & Conmy 2023, equation 3, sign
    reversed).

    To first order, removing edge w → r changes the metric by minus its score: `⟨∂metric/∂x_r, z_w − z̃_w⟩`.
    The metric is a logit difference or a log-probability, never KL to the model itself, whose gradient is 0 here.

    Returns:
        Scores `[E]`, the mean over the examples.

    Raises:
        edgewise.InputError: a setting is wrong, the metric is KL, or with `qk_fix` the graph's edges carry positions.
    """
    if config.qk_fix:
        return explain(engine, task, config, _with_qk_fix(cost), cost, at_full_model=True)
    check_gradient(config.title, task)
    return _mask_gradient(engine, task, [(1.0, 1.0)], config, cost)


def _with_qk_fix(cost: Cost) -> Callable[[Stream, Objective], Float[Tensor, " E"]]:
    def scores_of(stream: Stream, objective: Objective) -> Float[Tensor, " E"]:
        cost.spend(stream.n_examples, forwards=2, backwards=2)
        run = stream.run(inner=True)
        effects = stream.writer_effects(run, stream.value(run, objective))
        fixed = query_and_key_effects(stream, effects.mixed)
        return torch.where(fixed.isnan(), stream.edge_gradients(objective), fixed)

    return scores_of


@attribution(MaskIgConfig)
def mask_ig(engine: Engine, task: Task, config: MaskIgConfig, cost: Cost) -> Float[Tensor, " E"]:
    """Integrated gradients along the masks: the mean of the mask gradient over m = α, all edges at once.

    Signed scores sum to metric(full model) − metric(empty circuit) up to the quadrature's error (Sundararajan, Taly &
    Yan 2017, on masks as in Miller, Chughtai & Saunders 2024).

    Returns:
        Scores `[E]`, the mean over the examples.

    Raises:
        edgewise.InputError: a setting is wrong, or the metric has no gradient.
    """
    return _mask_gradient(engine, task, quadrature(config.points, config.quadrature), config, cost)


@gradients()
def _mask_gradient(
    engine: Engine, task: Task, points: list[tuple[float, float]], config: AveragedConfig, cost: Cost
) -> Float[Tensor, " E"]:
    task.check_spans(engine.graph)
    metric, what = metric_function(task.metric), "loss" if task.metric == task.loss else "metric"
    graph, apart = engine.graph, config.average == "absolute"  # whether each example has a mask of its own
    total = torch.zeros(graph.n_edges, dtype=torch.float64)
    cost.examples = len(task.split(config.split))
    cost.spend(cost.examples, forwards=constant_forwards(engine) + metric.needs_full_model)
    cost.spend(cost.examples, forwards=len(points), backwards=len(points))

    def effects(batch: Batch) -> Float[Tensor, " E"]:
        n_masks = len(batch.index) if apart else 1
        if apart:
            batch = batch.with_circuits(torch.arange(n_masks), graph.n_groups)
        found = torch.zeros(n_masks, graph.n_edges, dtype=torch.float64)
        for value, weight in points:
            shape = 1, n_masks * graph.n_groups, graph.n_plain
            mask = torch.full(shape, value, dtype=torch.float32, device=engine.model.device)
            scores = example_scores(engine, batch, mask.requires_grad_(), metric, gradients="all").sum()
            differentiable(scores, task.metric, what).backward()
            assert mask.grad is not None
            found.add_(mask.grad.cpu().view_as(found), alpha=weight)
        found *= metric.sign
        return found.abs_().sum(0) if apart else found[0]

    for found in in_turn(task.batches(config.split, config.batch_size), effects, engine.execution.example_ranks):
        total += found
    return (total / cost.examples).float()
