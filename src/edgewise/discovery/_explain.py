"""What every gradient method on the full model's stream shares: examples, the metric and its sign, the tally."""

from collections.abc import Callable

import torch
from torch import Tensor

from edgewise._errors import InputError
from edgewise.discovery._cost import Cost
from edgewise.engine import Engine, Objective, Stream
from edgewise.tasks import Batch, Task, metric_function, reduce


def explain(
    engine: Engine,
    task: Task,
    split: str,
    batch_size: int,
    explained: Callable[[Stream, Objective], Tensor],
    cost: Cost,
    *,
    clean_only: str = "",
    groups: bool = False,
) -> Tensor:
    """The mean over the examples of what a method says about each batch, on the CPU (float64 where the model is).

    Args:
        engine: model, graph and ablation.
        task: its `metric` is explained; where less of it is better, the sign is turned.
        split: which examples.
        batch_size: how many at a time.
        explained: from a batch's stream and the metric's sum over its examples to numbers that sum over examples.
        cost: where passes are counted; the two forwards of each batch are counted here.
        clean_only: the name of a method that takes gradients at the full model alone, where KL to it has none.
        groups: whether the method tells position groups apart.

    Raises:
        InputError: the metric has no gradient, or the graph's edges carry positions that the task or the method has
            not.
    """
    task.check_spans(engine.graph)
    metric = metric_function(task.metric)
    if clean_only and metric.distance:
        raise InputError(
            f"{clean_only}: the metric is a distance to the model itself (KL, l2), whose gradient at the full model is "
            "0; use logit_diff or log_prob, or value where the output is a number"
        )
    total: Tensor | None = None
    for batch in task.batches(split, batch_size):
        batch = batch.to(engine.model.device)
        found = metric.sign * explained(Stream(engine, batch, groups=groups), metric_sum(engine, task, batch))
        found = found.detach().cpu().double()
        total = found if total is None else total + found
        cost.spend(len(batch.index), forwards=1 + metric.needs_full_model + (engine.ablation.kind == "interchange"))
    assert total is not None  # an empty split is refused by `batches`
    cost.examples = len(task.split(split))
    mean = total / cost.examples
    return mean if engine.model.dtype == torch.float64 else mean.float()


def metric_sum(engine: Engine, task: Task, batch: Batch) -> Objective:
    """The task's metric, summed over a batch's examples, as a function of the logits."""
    metric = metric_function(task.metric)
    if metric.needs_full_model:
        batch = batch.with_full_logits(engine.full(batch))

    def objective(logits: Tensor) -> Tensor:
        value = reduce(metric(logits, batch), batch).sum()
        if not value.requires_grad:
            raise InputError(f"metric {metric.name!r}: it has no gradient; use logit_diff or log_prob")
        return value

    return objective
