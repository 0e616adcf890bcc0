"""EAP with a relevance-propagating backward in place of the derivative (RelP, arXiv 2508.21258)."""

from jaxtyping import Float
from torch import Tensor

from edgewise.discovery._attributing import attribution
from edgewise.discovery._configs import RelevanceConfig
from edgewise.discovery._cost import Cost
from edgewise.discovery._explain import explain
from edgewise.engine import Engine, Objective, Stream
from edgewise.models import Rules
from edgewise.tasks import Task


@attribution(RelevanceConfig)
def relevance(engine: Engine, task: Task, config: RelevanceConfig, cost: Cost) -> Float[Tensor, " E"]:
    """EAP's product, its gradient taken with norms' scales and attention patterns held fixed, activation functions
    replaced by their secant through 0, and gated products shared out half to each factor.

    Returns:
        Scores `[E]`, the mean over the examples.

    Raises:
        edgewise.InputError: a setting is wrong, or the metric is KL or has no gradient.
    """
    rules = Rules(**dict.fromkeys(config.rules, True))

    def scores_of(stream: Stream, objective: Objective) -> Tensor:
        cost.spend(stream.n_examples, forwards=1, backwards=1)
        return stream.edge_gradients(objective, rules=rules)

    return explain(engine, task, config, scores_of, cost, at_full_model=True, positions=True, by_example=True)
