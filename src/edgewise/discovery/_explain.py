"""What every gradient method on the full model's stream shares: examples, the metric and its sign, the tally."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from edgewise._errors import InputError
from edgewise.discovery._catalogue import methods
from edgewise.discovery._configs import AttributionConfig, AveragedConfig, ExamplesConfig
from edgewise.discovery._cost import Cost
from edgewise.discovery._objective import differentiable
from edgewise.engine import Engine, Objective, Stream
from edgewise.graph import Graph
from edgewise.runs import gradients, in_turn
from edgewise.tasks import SPLITS, Batch, Task, metric_function, reduce


@gradients()
def explain(
    engine: Engine,
    task: Task,
    config: ExamplesConfig,
    explained: Callable[[Stream, Objective], Tensor],
    cost: Cost,
    *,
    at_full_model: bool = False,
    positions: bool = False,
    by_example: bool = False,
) -> Tensor:
    """The mean over the examples of what a method says about each batch, on the CPU (float64 where the model is).

    Args:
        engine: model, graph and ablation.
        task: its `metric` is explained; where less of it is better, the sign is turned.
        config: which examples, and how many at a time; `pairs` and `explains` are `asked_of`'s.
        explained: from a batch's stream and the metric's sum over its examples to numbers that sum over examples.
        cost: where passes are counted; the two forwards of each batch are counted here.
        at_full_model: whether the method takes gradients at the full model alone, where KL to it has none.
        positions: whether the method tells position groups apart.
        by_example: whether, of a stream that keeps its examples apart, the method gives a row for each; absolute
            effects are otherwise averaged with one example at a time.

    Raises:
        InputError: the metric has no gradient, or PyTorch is in inference mode; or the graph's edges carry positions
            that the task or the method has not.
    """
    task.check_spans(engine.graph)
    check_graph(engine.graph, positions)
    if at_full_model:
        check_gradient(config.title, task)
    metric = metric_function(task.metric)
    total, ranks = torch.zeros((), dtype=torch.float64), engine.execution.example_ranks
    absolute = isinstance(config, AveragedConfig) and config.average == "absolute"

    def of_batch(batch: Batch) -> Tensor:
        batch = batch.to(engine.model.device)
        stream = Stream(engine, batch, groups=positions, by_example=absolute and by_example)
        found = metric.sign * explained(stream, metric_sum(engine, task, batch))
        cost.spend(len(batch.index), forwards=1 + metric.needs_full_model + (engine.ablation.kind == "interchange"))
        found = found.detach().cpu().double()
        found = found.abs() if absolute else found
        return found.sum(0) if stream.by_example else found

    size = 1 if absolute and not by_example else config.batch_size
    for found in in_turn(task.batches(config.split, size), of_batch, ranks):
        total = total + found
    cost.examples = len(task.split(config.split))
    cost.shared(ranks)
    mean = total / cost.examples
    return mean if engine.model.dtype == torch.float64 else mean.float()


def asked_of(task: Task, config: ExamplesConfig) -> Task:
    """The task with the pairs and the metric that the settings ask for. Raises `InputError` for a metric that the
    pairs do not allow.
    """
    if config.pairs is not None:
        task = replace(task, **{config.split: task.split(config.split)[: config.pairs]})
    if isinstance(config, AttributionConfig) and config.explains is not None:
        task = replace(task, metric=config.explains)
    if isinstance(config, AttributionConfig) and isinstance(task.metric, str):
        # Of these pairs, and not only at the first batch that lacks something.
        replace(task, **{split: [] for split in SPLITS if split != config.split}).check_metric(task.metric)
    return task


def check_gradient(title: str, task: Task) -> None:
    """Refuse a metric whose gradient at the full model is 0. Raises `InputError`."""
    if metric_function(task.metric).distance:
        raise InputError(
            f"{title}: the metric is a distance to the model itself (KL, l2), whose gradient at the full model is 0; "
            "use logit_diff or log_prob, or value where the output is a number"
        )


def check_graph(graph: Graph, positions: bool = False) -> None:
    """Refuse a graph that no stream can be made of, and say which methods run it. Raises `InputError`."""
    if apart := graph.spec.apart:
        able = ", ".join(method.name for method in methods().values() if method.features)
        raise InputError(f"graph: it has {apart} in MLPs' places, which this method does not run; choose {able}")
    if graph.spec.spans and not positions:
        able = ", ".join(method.name for method in methods().values() if method.positions)
        raise InputError(
            "graph: its edges carry positions, which this method does not tell apart; use a graph without spans, "
            f"or {able}"
        )


def metric_sum(engine: Engine, task: Task, batch: Batch) -> Objective:
    """The task's metric, summed over a batch's examples, as a function of the logits."""
    metric = metric_function(task.metric)
    if metric.needs_full_model:
        batch = batch.with_full_logits(engine.full(batch))

    def objective(logits: Tensor) -> Tensor:
        return differentiable(reduce(metric(logits, batch), batch).sum(), task.metric, "metric")

    return objective
