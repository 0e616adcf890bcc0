"""A method of one's own, as docs/extending.md shows it: edges by the Fisher information of their masks."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from edgewise.discovery import (
    AttributionConfig,
    Cost,
    Method,
    Scores,
    asked_of,
    configured,
    example_scores,
    method_record,
    provenance,
    register,
)
from edgewise.engine import Engine
from edgewise.models import Model
from edgewise.tasks import Task, metric_function


@dataclass(frozen=True, kw_only=True)
class FisherConfig(AttributionConfig):
    """Edges whose masks the metric is most sensitive to, whatever the sign."""

    title: ClassVar[str] = "fisher"
    root: bool = False
    """Give the square root, which is in the metric's unit."""


def fisher(model: Model | Engine, task: Task, config: FisherConfig | None = None, **changes: Any) -> Scores:
    """The mean squared mask gradient at the full model (Theis et al. 2018, equation 6, for masks on edges)."""
    config, engine, cost = configured(FisherConfig, config, changes), Engine.of(model), Cost()
    task = asked_of(task, config)
    total, metric = torch.zeros(engine.graph.n_edges), metric_function(task.metric)
    for batch in task.batches(config.split, 1):  # one example at a time: squares do not add up over a batch
        mask = torch.ones(engine.graph.n_edges, requires_grad=True)
        value = example_scores(engine, batch, mask, metric, gradients="all").sum()
        (gradient,) = torch.autograd.grad(value, mask)
        total += gradient.square()
        cost.spend(1, forwards=2, backwards=1)
        cost.examples += 1
    values = total / cost.examples
    values = values.sqrt() if config.root else values
    return Scores(engine.graph, values, provenance(engine, task, method_record("fisher", config), cost))


register(
    Method(
        name="fisher",
        run=fisher,
        config=FisherConfig,
        gradient_at="full",
        cost="2 F + B",
        source="Theis et al. 2018",
    )
)
