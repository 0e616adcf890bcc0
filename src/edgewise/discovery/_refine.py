"""Refining at one size: a few more steps of the learned ranking with the budget held at that size, on hard circuits."""

from dataclasses import replace
from typing import Any

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.discovery._configs import configured
from edgewise.discovery._learned_configs import RefineConfig
from edgewise.discovery._ranking import learn_ranking
from edgewise.discovery._scores import Scores
from edgewise.engine import Engine
from edgewise.models import Model
from edgewise.runs import RunOptions
from edgewise.tasks import Task


def refine_at_size(
    model: Model | Engine,
    task: Task,
    config: RefineConfig | None = None,
    *,
    start: Scores | None = None,
    options: RunOptions | None = None,
    **changes: Any,
) -> Circuit:
    """Fit a ranking to one size.

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `train` split is learned from.
        config: the settings; by default 60 straight-through steps at half the learning rate of a ranking.
        start: the ranking, as `learn_ranking` gave it.
        options: checkpoints, progress, logs; not in the folder of the ranking itself.
        **changes: fields of `RefineConfig` to change, `sparsity` (1 − edges / all edges) above all.

    Returns:
        The circuit, with as many actual edges as the sparsity allows.

    Raises:
        edgewise.InputError: a setting is wrong, no scores are given, or they are of another graph.
    """
    config = configured(RefineConfig, config, changes)
    if start is None:
        raise InputError("refine: it fits a ranking to one size; give the ranking as start")
    size = 1 - config.sparsity
    config = replace(config, largest=min(config.largest, size), smallest=min(config.smallest, size))
    return learn_ranking(model, task, config, start=start, options=options).at(config.sparsity, actual=True)
