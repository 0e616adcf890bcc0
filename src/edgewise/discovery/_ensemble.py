"""Several methods' scores as one, by reciprocal ranks."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.circuit import ablation_header, common_ablation, ranked
from edgewise.discovery._catalogue import members
from edgewise.discovery._configs import EnsembleConfig, configured
from edgewise.discovery._cost import Cost
from edgewise.discovery._run import run_method
from edgewise.discovery._scores import Scores
from edgewise.engine import Engine
from edgewise.models import Model
from edgewise.runs import settings_of
from edgewise.tasks import Task

_DAMPING = 60  # ranks below this differ little; the paper's value, and as good here as any


def ensemble(
    scores: Sequence[Scores], *, weights: Sequence[float] | None = None, absolute: Sequence[bool] | bool = True
) -> Scores:
    """Fuse scores by reciprocal ranks, Σ 1 / (60 + rank), so that methods of different units count alike and an edge
    needs not all of them to be among the first (Cormack, Clarke & Büttcher 2009).

    The result is also a start for a learned ranking, `learn_ranking(..., start=ensemble([...]))`, or for Edge Pruning:
    its values are standard normal quantiles of the fused order.

    Args:
        scores: of one graph, from any methods.
        weights: one for each; all equal if None.
        absolute: whether each is ranked by absolute score, as attribution is, or as it stands, as learned scores are.

    Returns:
        Scores, to be ranked as they stand. Their ablation is the one that all have in common, or `mixed`.

    Raises:
        edgewise.InputError: there are none, of different graphs, or weights do not fit.
    """
    if not scores:
        raise InputError("ensemble: no scores; give at least one")
    graph = scores[0].graph
    if any(each.graph != graph for each in scores):
        raise InputError("ensemble: the scores are of different graphs; find them all with one convention")
    shares = [1.0] * len(scores) if weights is None else [float(w) for w in weights]
    kinds = [absolute] * len(scores) if isinstance(absolute, bool) else list(absolute)
    if len(shares) != len(scores) or len(kinds) != len(scores) or not all(w >= 0 for w in shares) or not sum(shares):
        raise InputError(
            f"ensemble: {len(shares)} weights and {len(kinds)} choices of absolute for {len(scores)} scores"
        )
    fused = torch.zeros(graph.n_edges, dtype=torch.float64)
    for each, kind, weight in zip(scores, kinds, shares, strict=True):
        from_the_top = graph.n_edges + 1 - mean_ranks(ranked(each.values, absolute=kind))
        fused += weight / (_DAMPING + from_the_top)
    values = torch.special.ndtri((mean_ranks(fused) - 0.5) / graph.n_edges).float()
    shared = {k: v for k, v in scores[0].provenance.items() if all(s.provenance.get(k) == v for s in scores)}
    method = {
        "name": "ensemble",
        "of": [each.provenance.get("method", {}) for each in scores],
        "weights": shares,
        "absolute": kinds,
    }
    costs = [each.provenance.get("cost") for each in scores]
    ablation = reduce(common_ablation, (each.ablation for each in scores))
    if "ablation" not in shared and ablation is not None:
        shared["ablation"] = ablation_header(ablation)
    return Scores(graph, values, shared | {"method": method, "cost": {"of": costs}}, ablation=ablation)


def find_ensemble(model: Model | Engine, task: Task, config: EnsembleConfig | None = None, **changes: Any) -> Scores:
    """Run several methods and fuse their ranks (see `ensemble`).

    Each is ranked by absolute or by signed score, as its circuits are chosen unless told otherwise (`Method.absolute`).

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `metric` is explained.
        config: the settings; those that are changed go to every method that has them.
        **changes: fields of `EnsembleConfig` to change.

    Returns:
        Scores `[E]`, to be ranked as they stand.

    Raises:
        edgewise.InputError: a method is unknown or gives no scores without learning, or as that method does.
    """
    config, engine = configured(EnsembleConfig, config, changes), Engine.of(model)
    plain, found = EnsembleConfig(), []
    changed = {name: value for name, value in vars(config).items() if value != getattr(plain, name)}
    for member in members(config):
        own = {name: value for name, value in changed.items() if name in settings_of(member.config)}
        found.append(run_method(member, engine, task, member.configure(own)))
    fused = ensemble(found, weights=config.weights, absolute=[member.absolute for member in members(config)])
    costs = [each.provenance["cost"] for each in found]
    cost = Cost.together(costs, max(each["examples"] for each in costs))  # all look at the same pairs
    return replace(fused, provenance=fused.provenance | {"cost": cost.record()})


def mean_ranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Ranks from 1 up, the mean of theirs for equal values; NaN ranks lowest."""
    _, place, counts = values.nan_to_num(nan=-torch.inf).unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[place]
