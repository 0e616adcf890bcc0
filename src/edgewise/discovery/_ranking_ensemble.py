"""Several learned rankings as one: each of pairs drawn anew, fused by their ranks."""

from dataclasses import replace
from typing import Any

from edgewise.discovery._configs import configured
from edgewise.discovery._cost import Cost
from edgewise.discovery._ensemble import ensemble
from edgewise.discovery._learned_configs import RankingConfig, RankingEnsembleConfig
from edgewise.discovery._provenance import method_record, provenance
from edgewise.discovery._ranking import learn_ranking
from edgewise.discovery._scores import Scores
from edgewise.engine import Engine
from edgewise.models import Model
from edgewise.runs import RunOptions, settings_of, uniform
from edgewise.tasks import Task

_DRAWN = 13  # the noise stream that draws pairs


def learn_ranking_ensemble(
    model: Model | Engine,
    task: Task,
    config: RankingEnsembleConfig | None = None,
    *,
    options: RunOptions | None = None,
    **changes: Any,
) -> Scores:
    """Learn several rankings in turn and fuse them (see `ensemble`).

    Each learns from pairs drawn from the training pairs with replacement, as many as there are, and has a seed and a
    start of its own (bagging, Breiman 1996), so that their errors are not the same ones.

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `train` split is learned from.
        config: the settings: `members` and those of each ranking.
        options: checkpoints (a folder for each ranking), progress, logs.
        **changes: fields of the configuration to change.

    Returns:
        The fused scores, to be ranked as they stand. If a ranking was cut short, those after it were not begun, and the
        provenance says where and why.

    Raises:
        edgewise.InputError: a setting is out of range, or a checkpoint belongs to another run.
    """
    config, engine = configured(RankingEnsembleConfig, config, changes), Engine.of(model)
    each = RankingConfig(**{name: getattr(config, name) for name in settings_of(RankingConfig)})
    options = options or RunOptions()
    found, report = list[Scores](), dict[str, Any]()
    for number in range(config.members):
        seed = config.seed * config.members + number
        own = replace(options, out=None if options.out is None else options.out / f"member-{number}")
        found.append(learn_ranking(engine, resampled(task, seed), replace(each, seed=seed), options=own))
        said = found[-1].provenance["method"]
        if "stopped" in said:
            report = {name: said[name] for name in ("stop", "stopped")}
            break
    cost = Cost(examples=len(task.train), seconds=sum(one.provenance["cost"]["seconds"] for one in found))
    for one in found:
        own_cost = one.provenance["cost"]
        cost.spend(own_cost["examples"], own_cost["forwards_per_example"], own_cost["backwards_per_example"])
    method = method_record(config.title, config, learned=len(found), **report)
    return replace(ensemble(found, absolute=False), provenance=provenance(engine, task, method, cost))


def resampled(task: Task, seed: int) -> Task:
    """As many training pairs, drawn from them with replacement by seed alone."""
    n = len(task.train)
    drawn = (uniform(n, seed, 0, _DRAWN) * n).long().tolist()
    return replace(task, train=tuple(task.train[place] for place in drawn))
