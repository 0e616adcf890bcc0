"""A finish at one size: a few more steps of the learned ranking with the budget held at that size, on hard circuits."""

from typing import Any

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.discovery._ranking import RankingConfig, learn_ranking
from edgewise.discovery._scores import Scores
from edgewise.engine import Engine
from edgewise.models import Model
from edgewise.runs import RunOptions
from edgewise.tasks import Task

STEPS = 60


def polish(
    model: Model | Engine,
    task: Task,
    scores: Scores,
    sparsity: float,
    *,
    options: RunOptions | None = None,
    **changes: Any,
) -> Circuit:
    """Fit a ranking to one size.

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `train` split is learned from.
        scores: the ranking, as `learn_ranking` gave it.
        sparsity: the size to fit it to, 1 − edges / all edges.
        options: checkpoints, progress, logs; not in the folder of the ranking itself.
        **changes: fields of `RankingConfig` to change; by default 60 straight-through steps at half the learning
            rate, from the temperature at which the ranking ended to half of it.

    Returns:
        The circuit, with as many actual edges as the sparsity allows.

    Raises:
        edgewise.InputError: a setting is out of range, or the scores are of another graph.
    """
    if not 0 <= sparsity < 1:
        raise InputError(f"polish: sparsity {sparsity} must be in [0, 1): the share of all edges that is cut")
    size = 1 - sparsity
    settings: dict[str, Any] = {
        "steps": STEPS,
        "learning_rate": 0.025,
        "hot": 0.05,
        "cold": 0.025,
        "straight_through": True,
    }
    config = RankingConfig(**(settings | {"largest": size, "smallest": size, "warm_examples": 0} | changes))
    return learn_ranking(model, task, config, start=scores, options=options).at(sparsity, actual=True)
