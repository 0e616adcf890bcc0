"""Several learned rankings as one: each of pairs drawn anew, fused by their ranks."""

from dataclasses import replace
from typing import Any

from edgewise._errors import InputError
from edgewise.discovery._configs import configured
from edgewise.discovery._cost import Cost
from edgewise.discovery._ensemble import ensemble
from edgewise.discovery._learned_configs import RankingConfig, RankingEnsembleConfig
from edgewise.discovery._objective import seen_examples
from edgewise.discovery._provenance import method_record, provenance
from edgewise.discovery._ranking import learn_ranking
from edgewise.discovery._scores import Scores
from edgewise.engine import Engine
from edgewise.models import Model
from edgewise.runs import CHECKPOINT, RunOptions, settings_of, uniform
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
    start of its own (bagging, Breiman 1996), so that their errors are not all the same.

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
        edgewise.InputError: a setting is out of range, a checkpoint belongs to another run, or the engine's constants
            are learned, which each ranking would change for all.
    """
    config, engine = configured(RankingEnsembleConfig, config, changes), Engine.of(model)
    if engine.ablation.kind == "learned":
        raise InputError(
            f"{config.title}: takes no optimal ablation, whose constants all rankings would learn; use ranking"
        )
    each = RankingConfig(**{name: getattr(config, name) for name in settings_of(RankingConfig)})
    options = options or RunOptions()
    if engine.execution.ranks.rank == 0:
        _make_way(options)
    found, seen, report = list[Scores](), set[int](), dict[str, Any]()
    for number in range(config.members):
        seed, place = config.seed * config.members + number, f"ranking {number + 1} of {config.members}"
        folder = None if options.out is None else options.out / f"member-{number}"
        own = replace(options, out=folder, title=f"{config.title}, {place}")
        try:
            found.append(learn_ranking(engine, resampled(task, seed), replace(each, seed=seed), options=own))
        except KeyboardInterrupt:  # in what a ranking begins with
            if not found:
                raise
            report = {"stop": "interrupted", "stopped": f"interrupted before {place}"}
            break
        said, places = found[-1].provenance["method"], drawn(len(task.train), seed)
        of_it = seen_examples(len(places), each.batch_size, seed, said["steps"], each.warm_examples)
        seen.update(places[place] for place in of_it)
        if "stopped" in said:
            report = {"stop": said["stop"], "stopped": f"{place}: {said['stopped']}"}
            break
    sums = {name: sum(one.provenance["method"][name] for one in found) for name in ("steps", "examples_seen")}
    method = method_record(config.title, config, learned=len(found), **sums, **report)
    costs = [one.provenance["cost"] for one in found]
    cost = Cost.together(costs, len(seen) + each.validated(len(task.validation)))
    return replace(ensemble(found, absolute=False), provenance=provenance(engine, task, method, cost))


def _make_way(options: RunOptions) -> None:
    """Remove the checkpoints of another run where this one begins anew, since each would be refused after the ranking
    before it.
    """
    if options.out is not None and not (options.resume and (options.out / "member-0" / CHECKPOINT).exists()):
        for old in options.out.glob(f"member-*/{CHECKPOINT}"):
            old.unlink()


def resampled(task: Task, seed: int) -> Task:
    """As many training pairs, drawn from them with replacement by seed alone."""
    return replace(task, train=tuple(task.train[place] for place in drawn(len(task.train), seed)))


def drawn(n: int, seed: int) -> list[int]:
    """As many places of `n`, drawn with replacement."""
    return (uniform(n, seed, 0, _DRAWN) * n).long().tolist()
