"""The methods that a bench can run: from an engine, a task and a seed to files, and from these to circuits of any size.

What a method finds is kept in *parts*, one file each: the scores of all edges, or one circuit per size or threshold. A
part that is there is not found again.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.discovery import (
    EdgePruningConfig,
    NodePruningConfig,
    RankingConfig,
    Scores,
    acdc,
    atp_star,
    eap,
    eap_ig,
    edge_pruning,
    exact,
    flow,
    learn_ranking,
    mask_ig,
    node_eap,
    node_ig,
    node_pruning,
    polish,
    random_scores,
    relevance,
)
from edgewise.engine import Engine
from edgewise.runs import RunOptions
from edgewise.tasks import Task, metric_function

EMPTY = "empty"
"""The circuit without edges, which every bench judges beside the others."""
SCORES = "scores"
"""The name of a part that holds one score per edge rather than a circuit."""
_ACDC: dict[str, Any] = {"thresholds": (0.1, 0.03, 0.01, 0.003, 0.001), "pairs": 16}
_PRESETS = {"default": EdgePruningConfig, "paper": EdgePruningConfig.paper}


class Interrupted(Exception):  # noqa: N818 (no error: the run goes on when it is asked for again)
    """A learned method was told to stop; its checkpoint is written."""


@dataclass(frozen=True)
class Job:
    """What a method is given."""

    engine: Engine
    task: Task
    seed: int
    settings: dict[str, Any]
    sparsities: Sequence[float]
    folder: Path
    checkpoint_seconds: float = 30.0

    def options(self, part: str) -> RunOptions:
        """Checkpoints of a part in a folder of its own."""
        return RunOptions(self.folder / part, self.checkpoint_seconds, progress=False)

    def part(self, name: str, find: Callable[[], Circuit]) -> Circuit:
        """A part from its file, or found and written there."""
        path = self.folder / f"{name}.safetensors"
        if path.is_file():
            return Circuit.load(path)
        circuit = find()
        if stopped := circuit.provenance.get("method", {}).get("stopped"):
            if str(stopped).startswith("interrupted"):
                raise Interrupted(stopped)
            raise InputError(str(stopped))
        circuit.save(path)
        return circuit


@dataclass(frozen=True)
class BenchMethod:
    """How to find, and how to choose a circuit of a size from what was found."""

    find: Callable[[Job], dict[str, Circuit]]
    """The parts by name."""
    settings: Callable[[str, dict[str, Any], Sequence[float]], Any]
    """Checks the settings. Raises `InputError`."""
    seeded: bool = False
    """Whether another seed gives another result."""
    signs: tuple[str, ...] = ("signed",)
    """How edges may be chosen by score; where there are two, validation decides."""


def check_settings(method: str, settings: dict[str, Any], sparsities: Sequence[float]) -> None:
    """Refuse settings that a method does not have, before anything is loaded. Raises `InputError`."""
    METHODS[method].settings(method, settings, sparsities)


def candidates(method: str, parts: dict[str, Circuit], sparsity: float) -> dict[str, Circuit]:
    """The circuits of one size that validation chooses among, by how their edges were chosen."""
    if method == EMPTY:
        return {"": parts[EMPTY]}
    if f"{sparsity:g}" in parts:
        return {"": parts[f"{sparsity:g}"].pruned()}
    if SCORES in parts:
        kept = parts[SCORES]
        assert kept.scores is not None
        scores = Scores(kept.graph, kept.scores, kept.provenance)
        signs = METHODS[method].signs
        return {sign: scores.at(sparsity, actual=True, absolute=sign == "absolute") for sign in signs}
    return {"": _from_ladder(list(parts.values()), sparsity)}


def cost(parts: dict[str, Circuit]) -> dict[str, float]:
    """Different examples seen, passes of one example forwards and backwards, and seconds, over all parts."""
    total = {"examples": 0.0, "forwards": 0.0, "backwards": 0.0, "seconds": 0.0}
    counted: list[dict[str, Any]] = []
    for circuit in parts.values():
        row = _cost(circuit.provenance)
        if row in counted:  # the thresholds of one search share its cost
            continue
        counted.append(row)
        total["examples"] = max(total["examples"], row["examples"])
        for name in ("forwards", "backwards", "seconds"):
            total[name] += row[name]
    return {name: round(value, 3) for name, value in total.items()}


def _cost(provenance: dict[str, Any]) -> dict[str, Any]:
    record = provenance.get("cost")
    if record is None:  # the empty circuit
        return {"examples": 0, "forwards": 0.0, "backwards": 0.0, "seconds": 0.0}
    n = record["examples"]
    passes = {name: record[f"{name}_per_example"] * n for name in ("forwards", "backwards")}
    return {"examples": n, **passes, "seconds": record["seconds"]}


# ------------------------------------------------------------------------------------------------------------ finding


def _of_scores(find: Callable[[Job], Scores]) -> Callable[[Job], dict[str, Circuit]]:
    """A method that gives scores, as one part."""

    def parts(job: Job) -> dict[str, Circuit]:
        def whole() -> Circuit:
            scores = find(job)
            kept = torch.ones(scores.graph.n_edges, dtype=torch.bool)
            return Circuit(scores.graph, kept, scores.values, scores.provenance)

        return {SCORES: job.part(SCORES, whole)}

    return parts


def _attribution(function: Callable[..., Scores], resumes: bool = False) -> BenchMethod:
    """A function of (engine, task, settings)."""

    def find(job: Job) -> Scores:
        task, settings = job.task, dict(job.settings)
        if "explains" in settings:
            task = replace(task, metric=settings.pop("explains"))
        elif metric_function(task.metric).distance:  # which has no gradient at the full model
            task = replace(task, metric=task.explained)
        if "pairs" in settings and "pairs" not in _keywords(function):
            task = replace(task, train=task.train[: settings.pop("pairs")])
        options = {"options": job.options(SCORES)} if resumes else {}
        return function(job.engine, task, **settings, **options)

    check = partial(_check_arguments, function)
    return BenchMethod(_of_scores(find), check, signs=("absolute", "signed"))


def _random(job: Job) -> Scores:
    return random_scores(job.engine.graph, job.seed, job.engine.ablation.kind)


def _empty(job: Job) -> dict[str, Circuit]:
    engine = job.engine
    kept = torch.zeros(engine.graph.n_edges, dtype=torch.bool)
    provenance = {"method": {"name": EMPTY}, "ablation": engine.ablation.to_dict(), "model": engine.model.identity}
    return {EMPTY: Circuit(engine.graph, kept, None, provenance)}


def _ranking(job: Job) -> Scores:
    config = _fields(RankingConfig, job.settings, job.seed)
    return learn_ranking(job.engine, job.task, config, options=job.options("ranking"))


def _polished(job: Job) -> dict[str, Circuit]:
    """The ranking, then one run per size."""
    whole = _of_scores(_ranking)(job)[SCORES]
    assert whole.scores is not None
    scores = Scores(whole.graph, whole.scores, whole.provenance)
    found = {SCORES: whole}
    for sparsity in job.sparsities:
        name = f"{sparsity:g}"
        run = partial(polish, job.engine, job.task, scores, sparsity, seed=job.seed + 1000)
        found[name] = job.part(name, partial(run, options=job.options(name)))
    return found


def _node_pruning(job: Job) -> Scores:
    config = _fields(NodePruningConfig, job.settings, job.seed)
    return node_pruning(job.engine, job.task, config, options=job.options("nodes"))


def _edge_pruning(job: Job) -> dict[str, Circuit]:
    """One run per size."""
    found = {}
    for sparsity in job.sparsities:
        name, config = f"{sparsity:g}", edge_pruning_config(job.settings, sparsity, job.seed)
        run = partial(edge_pruning, job.engine, job.task, config, options=job.options(name))
        found[name] = job.part(name, run)
    return found


def edge_pruning_config(settings: dict[str, Any], sparsity: float, seed: int) -> EdgePruningConfig:
    """A preset with settings changed. Where `steps` is among them, the warm-ups keep their shares of the run unless
    they are given too.
    """
    rest = dict(settings)
    preset = str(rest.pop("preset", "default"))
    if preset not in _PRESETS:
        raise InputError(f"edge-pruning: preset {preset!r}; choose {', '.join(_PRESETS)}")
    published = _PRESETS[preset](sparsity=sparsity, seed=seed)
    if unknown := rest.keys() - _field_names(EdgePruningConfig):
        raise InputError(f"edge-pruning: there is no setting {min(unknown)!r}")
    for name in ("lr_warmup", "sparsity_warmup"):
        if "steps" in rest and name not in rest:
            rest[name] = round(getattr(published, name) * rest["steps"] / published.steps)
    return replace(published, **rest)


def _acdc(job: Job) -> dict[str, Circuit]:
    """One search for all thresholds."""
    settings = _ACDC | job.settings
    thresholds = sorted(settings.pop("thresholds"), reverse=True)
    names = [f"threshold {threshold:g}" for threshold in thresholds]
    if all((job.folder / f"{name}.safetensors").is_file() for name in names):
        return {name: Circuit.load(job.folder / f"{name}.safetensors") for name in names}
    found = acdc(job.engine, job.task, thresholds, seed=job.seed, **settings, options=job.options("search"))
    return {name: job.part(name, partial(_same, circuit)) for name, circuit in zip(names, found, strict=True)}


def _same(circuit: Circuit) -> Circuit:
    return circuit


def _from_ladder(circuits: list[Circuit], sparsity: float) -> Circuit:
    """A size from the circuits of several thresholds: of those that are large enough the smallest, without its edges of
    least change; or the largest as it is, where none is large enough.
    """
    size = int((1 - sparsity) * circuits[0].graph.n_edges + 1e-6)
    enough = [circuit for circuit in circuits if circuit.n_actual >= size]
    if not enough:
        return max(circuits, key=lambda circuit: circuit.n_actual).pruned()
    chosen = min(enough, key=lambda circuit: circuit.n_actual).pruned()
    assert chosen.scores is not None
    change = chosen.scores.nan_to_num(nan=torch.inf).where(chosen.kept, torch.tensor(-torch.inf))
    return Scores(chosen.graph, change, chosen.provenance).top_actual(size)


# ----------------------------------------------------------------------------------------------------------- settings


def _check_arguments(function: Callable[..., Any], method: str, settings: dict[str, Any], _: Sequence[float]) -> None:
    """Only keywords that the function has, and `pairs`, how many training pairs it is given, and `explains`, which
    metric in place of the task's.
    """
    known = list(dict.fromkeys([*_keywords(function), "pairs", "explains"]))
    metric_function(settings.get("explains", "logit_diff"))
    pairs = settings.get("pairs", 1)
    if isinstance(pairs, bool) or not isinstance(pairs, int) or pairs < 1:
        raise InputError(f"{method}: pairs {pairs!r}; give a number of training pairs")
    if unknown := [name for name in settings if name not in known]:
        raise InputError(f"{method}: there is no setting {unknown[0]!r}; use {', '.join(known)}")


def _keywords(function: Callable[..., Any]) -> list[str]:
    taken = inspect.signature(function).parameters.values()
    return [each.name for each in taken if each.kind is each.KEYWORD_ONLY and each.name not in ("options", "edges")]


def _check_fields(config: type[Any], method: str, settings: dict[str, Any], _: Sequence[float]) -> None:
    if unknown := settings.keys() - _field_names(config):
        raise InputError(f"{method}: there is no setting {min(unknown)!r}")
    _fields(config, settings, 0)


def _check_none(method: str, settings: dict[str, Any], _: Sequence[float]) -> None:
    if settings:
        raise InputError(f"{method}: it has no settings, and {min(settings)!r} is given")


def _check_acdc(method: str, settings: dict[str, Any], _: Sequence[float]) -> None:
    rest = {name: value for name, value in settings.items() if name != "thresholds"}
    _check_arguments(acdc, method, rest, _)
    thresholds = settings.get("thresholds", _ACDC["thresholds"])
    numbers = thresholds if isinstance(thresholds, (list, tuple)) else [None]
    if not numbers or not all(isinstance(x, (int, float)) for x in numbers):
        raise InputError(f"acdc: thresholds {thresholds!r}; give a list of numbers")


def _check_edge_pruning(method: str, settings: dict[str, Any], sparsities: Sequence[float]) -> None:
    for sparsity in sparsities:
        edge_pruning_config(settings, sparsity, 0)


def _field_names(config: type[Any]) -> set[str]:
    return {field.name for field in fields(config)} - {"seed"}


def _fields(config: type[Any], settings: dict[str, Any], seed: int) -> Any:
    return config(**settings, seed=seed)


METHODS: dict[str, BenchMethod] = {
    EMPTY: BenchMethod(_empty, _check_none),
    "random": BenchMethod(_of_scores(_random), _check_none, seeded=True),
    "eap": _attribution(eap),
    "eap-ig": _attribution(eap_ig),
    "mask-ig": _attribution(mask_ig),
    "relevance": _attribution(relevance),
    "node-eap": _attribution(node_eap),
    "node-ig": _attribution(node_ig),
    "atp-star": _attribution(atp_star),
    "flow": _attribution(flow),
    "exact": _attribution(exact, resumes=True),
    "ranking": BenchMethod(_of_scores(_ranking), partial(_check_fields, RankingConfig), seeded=True),
    "polish": BenchMethod(_polished, partial(_check_fields, RankingConfig), seeded=True),
    "node-pruning": BenchMethod(_of_scores(_node_pruning), partial(_check_fields, NodePruningConfig), seeded=True),
    "edge-pruning": BenchMethod(_edge_pruning, _check_edge_pruning, seeded=True),
    "acdc": BenchMethod(_acdc, _check_acdc),
}
"""By the names that a bench's file uses."""
