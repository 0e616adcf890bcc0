"""How much a component that a ranking puts low may still matter: AtP*'s subset sampling (Kramár et al. 2024)."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.discovery._configs import ExamplesConfig, configured
from edgewise.discovery._explain import asked_of
from edgewise.discovery._objective import example_scores
from edgewise.discovery._scores import Scores
from edgewise.engine import Engine
from edgewise.models import Model
from edgewise.runs import Bound, Count, NotNegative, uniform
from edgewise.tasks import Task, metric_function

_SUBSETS = 31  # the noise stream that draws subsets


@dataclass(frozen=True)
class FalseNegatives:
    """What subset sampling says about the components that were not looked at one by one."""

    candidates: Bool[Tensor, " W"]
    """Which writers were sampled."""
    effect: Float[Tensor, " W"]
    """Each one's mean effect on the metric, over subsets with it against those without; NaN for the others."""
    bound: Float[Tensor, " W"]
    """An upper bound on its absolute value, at the confidence asked for, each on its own."""

    @property
    def largest(self) -> float:
        """The largest bound: no sampled component does more, at that confidence for each."""
        return float(self.bound[self.candidates].max())


@dataclass(frozen=True, kw_only=True)
class FalseNegativesConfig(ExamplesConfig):
    """Settings of the diagnostic."""

    title: ClassVar[str] = "false negatives"
    batch_size: Count = 16
    verified: NotNegative = 10
    """How many components of highest absolute score are left out, as looked at already."""
    samples: Annotated[int, Bound(lambda n: n >= 8, "at least 8")] = 200
    """How many subsets."""
    share: Annotated[float, Bound(lambda x: 0 < x < 1, "a number between 0 and 1")] = 0.1
    """How likely each component is in a subset."""
    confidence: Annotated[float, Bound(lambda x: 0.5 < x < 1, "a number between 0.5 and 1")] = 0.99
    """Of each bound."""
    seed: int = 0
    """Of the subsets."""


@torch.no_grad()
def false_negatives(
    model: Model | Engine, task: Task, scores: Scores, config: FalseNegativesConfig | None = None, **changes: Any
) -> FalseNegatives:
    """The subset-sampling diagnostic: how much a component outside the top ones may still matter.

    Random subsets of the other components are ablated at once. Where effects add up, the difference in means between
    subsets with and without a component is its own effect; its normal confidence interval, with each group's own
    variance, bounds what was missed.

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `metric` is explained.
        scores: a node method's, such as `atp_star`'s.
        config: the settings.
        **changes: fields of `FalseNegativesConfig` to change.

    Returns:
        Each sampled component's effect on the metric and a bound on it.

    Raises:
        edgewise.InputError: the scores are no node method's, or a number is out of range.
    """
    config, engine = configured(FalseNegativesConfig, config, changes), Engine.of(model)
    task, graph = asked_of(task, config), engine.graph
    if scores.writers is None or scores.graph != graph:
        raise InputError(
            f"{config.title}: the scores are not of this graph's components; give those of atp_star or node_eap"
        )
    if config.verified >= graph.n_writers:
        raise InputError(f"{config.title}: verified={config.verified}; the graph has {graph.n_writers} components")
    n, step = config.samples, 8
    candidates = torch.ones(graph.n_writers, dtype=torch.bool)
    candidates[scores.writers.abs().argsort(descending=True)[: config.verified]] = False
    drawn = [uniform(graph.n_writers, config.seed, i, _SUBSETS) < config.share for i in range(n)]
    inside = torch.stack(drawn) & candidates
    metric, drop = metric_function(task.metric), torch.zeros(n, dtype=torch.float64)
    for batch in task.batches(config.split, config.batch_size):
        whole = torch.ones(graph.n_edges, dtype=torch.float32, device=engine.model.device)
        full = example_scores(engine, batch, whole, metric).cpu().double().sum()
        for start in range(0, n, step):
            mask = (~inside[start : start + step, graph.edge_writer.long()]).float().to(engine.model.device)
            found = example_scores(engine, batch, mask[:, None], metric).cpu().double().sum(-1)
            drop[start : start + step] += (full - found).cpu()
    drop /= len(task.split(config.split))
    return _compare(candidates, inside.double(), drop, config.confidence)


def _compare(
    candidates: Tensor, inside: Float[Tensor, "n W"], drop: Float[Tensor, " n"], confidence: float
) -> FalseNegatives:
    """Means with and without each component, and the interval of their difference."""
    means, errors = [], []
    for group in (inside, 1 - inside):
        n = group.sum(0)
        mean = (group * drop[:, None]).sum(0) / n
        variance = (group * (drop[:, None] - mean).square()).sum(0) / (n - 1)
        means.append(mean)
        errors.append(variance / n)
    effect = torch.where(candidates, means[0] - means[1], torch.nan)
    reach = torch.special.ndtri(torch.tensor((1 + confidence) / 2, dtype=torch.float64))
    bound = effect.abs() + reach * (errors[0] + errors[1]).sqrt()
    # A component in fewer than two subsets, or in all but one, was not measured.
    few = (inside.sum(0) < 2) | (inside.sum(0) > len(inside) - 2)
    return FalseNegatives(candidates, effect, torch.where(few & candidates, torch.inf, bound))
