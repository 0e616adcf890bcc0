"""EAP with a relevance-propagating backward in place of the derivative (RelP, arXiv 2508.21258)."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from edgewise.discovery._configs import RelevanceConfig, configured
from edgewise.discovery._cost import Cost
from edgewise.discovery._explain import asked_of, explain
from edgewise.discovery._provenance import method_record, provenance
from edgewise.discovery._scores import Scores
from edgewise.engine import Engine, Objective, Stream
from edgewise.models import Model, Rules
from edgewise.tasks import Task


def relevance(model: Model | Engine, task: Task, config: RelevanceConfig | None = None, **changes: Any) -> Scores:
    """EAP's product, its gradient taken with norms' scales and attention patterns held fixed, activation functions
    replaced by their secant through 0, and gated products shared out half to each factor.

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `metric` is explained; not KL to the model itself.
        config: the settings.
        **changes: fields of `RelevanceConfig` to change.

    Returns:
        Scores `[E]`, the mean over the examples.

    Raises:
        edgewise.InputError: a setting is wrong, or the metric is KL or has no gradient.
    """
    config, engine, cost = configured(RelevanceConfig, config, changes), Engine.of(model), Cost()
    task, rules = asked_of(task, config), Rules(**dict.fromkeys(config.rules, True))

    def scores_of(stream: Stream, objective: Objective) -> Float[Tensor, " E"]:
        cost.spend(stream.n_examples, forwards=1, backwards=1)
        return stream.edge_gradients(objective, rules=rules)

    values = explain(engine, task, config, scores_of, cost, at_full_model=True, positions=True)
    return Scores(engine.graph, values, provenance(engine, task, method_record("relevance", config), cost))
