"""How much of a true circuit a method found."""

from dataclasses import dataclass

import torch

from edgewise._errors import InputError
from edgewise.circuit import Circuit, ranked
from edgewise.discovery import Scores
from edgewise.evaluation import auroc
from edgewise.tracr._agreement import Agreement
from edgewise.tracr._truth import Truth

_AT_A_TIME = 64


@dataclass(frozen=True)
class Recovery:
    """A circuit beside the true one (of several, the one that it shares most with)."""

    exact: bool
    """Whether its edges are those of a true circuit, no more and no less."""
    precision: float
    """The share of its edges that are true; 1 for a circuit without edges."""
    recall: float
    """The share of the true edges that it has; 1 where there are none."""
    auroc: float | None
    """The chance that a true edge scores above one that is not, ties counting half; None without scores, or without
    edges of both kinds."""
    missing: tuple[str, ...]
    """True edges that it lacks."""
    extra: tuple[str, ...]
    """Edges that it has and that are not true."""


def compare(circuit: Circuit, truth: Truth, *, absolute: bool | None = None) -> Recovery:
    """Hold a circuit's actual edges against the truth.

    Args:
        circuit: the circuit; its scores, if it has any, are those of all edges.
        truth: what is true of the same graph.
        absolute: rank by absolute score; as the circuit was chosen if None.

    Raises:
        InputError: they are of different graphs.
    """
    if circuit.graph != truth.graph:
        other = circuit.graph.spec.differences(truth.graph.spec)
        raise InputError(f"recovery: the circuit's graph is not the truth's ({other}); give a circuit of that graph")
    found = circuit.graph.prune(circuit.kept, truth.ablation)
    true = max(truth.minimal, key=lambda edges: int((edges & found).sum()) - int((edges ^ found).sum()))
    both, names = int((found & true).sum()), circuit.graph.edge_names
    absolute = circuit.selection == "absolute" if absolute is None else absolute
    scores = None if circuit.scores is None else ranked(circuit.scores, absolute=absolute)
    return Recovery(
        exact=bool((found == true).all()),
        precision=both / int(found.sum()) if found.any() else 1.0,
        recall=both / int(true.sum()) if true.any() else 1.0,
        auroc=None if scores is None else auroc(scores, true),
        missing=tuple(names((true & ~found).nonzero()[:, 0])),
        extra=tuple(names((found & ~true).nonzero()[:, 0])),
    )


def smallest_agreeing(scores: Scores, agreement: Agreement, *, absolute: bool = False) -> Circuit:
    """The smallest of a ranking's circuits that gives the model's output on every input, without its idle edges.

    It needs the model and its inputs, not the truth: this is how a ranking names one circuit here.

    Args:
        scores: the ranking.
        agreement: of the same engine.
        absolute: rank by absolute score.
    """
    return scores.top(agreeing_size(scores, agreement, absolute=absolute), absolute=absolute).pruned()


def agreeing_size(scores: Scores, agreement: Agreement, *, absolute: bool = False) -> int:
    """How many edges the circuit of `smallest_agreeing` has with its idle ones."""
    n_edges = scores.graph.n_edges
    for start in range(0, n_edges + 1, _AT_A_TIME):
        sizes = range(start, min(start + _AT_A_TIME, n_edges + 1))
        first = agreement.first(torch.stack([scores.top(k, absolute=absolute).kept for k in sizes]))
        if first is not None:
            return sizes[first]
    raise AssertionError("the whole model agrees with itself")
