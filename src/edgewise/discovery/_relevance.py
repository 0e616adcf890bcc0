"""EAP with a relevance-propagating backward in place of the derivative (RelP, arXiv 2508.21258)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.discovery._cost import Cost
from edgewise.discovery._explain import explain
from edgewise.discovery._provenance import provenance
from edgewise.discovery._scores import Scores
from edgewise.engine import Engine, Objective, Stream
from edgewise.models import RELEVANCE, Model, Rules
from edgewise.tasks import Task


def relevance(
    model: Model | Engine,
    task: Task,
    *,
    rules: Sequence[str] = RELEVANCE._fields,
    split: str = "train",
    batch_size: int = 32,
) -> Scores:
    """EAP's product, its gradient taken with norms' scales and attention patterns held fixed, activation functions
    replaced by their secant through 0, and gated products shared out half to each factor.

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `metric` is explained; not KL to the model itself.
        rules: which of `norm`, `attention`, `activation` and `gate` to apply; with none it is EAP. With `attention`,
            edges into queries and keys score 0.
        split: which examples.
        batch_size: how many at a time; it does not change the scores.

    Returns:
        Scores, the mean over the examples.

    Raises:
        edgewise.InputError: there is no such rule, or the metric is KL or has no gradient.
    """
    if unknown := sorted(set(rules) - set(Rules._fields)):
        raise InputError(f"relevance: there is no rule {unknown[0]!r}; choose among {', '.join(Rules._fields)}")
    engine, cost = Engine.of(model), Cost()
    chosen = Rules(**dict.fromkeys(rules, True))

    def scores_of(stream: Stream, objective: Objective) -> Float[Tensor, " E"]:
        cost.spend(stream.n_examples, forwards=1, backwards=1)
        return stream.edge_gradients(objective, rules=chosen)

    values = explain(engine, task, split, batch_size, scores_of, cost, clean_only="relevance", groups=True)
    method = {"name": "relevance", "rules": [name for name in Rules._fields if name in rules], "split": split}
    return Scores(engine.graph, values, provenance(engine, task, method, cost))
