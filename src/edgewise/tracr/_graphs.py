"""Attribution graphs of a compiled program held against its true circuits: heads and MLPs, precision and recall."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise import tasks
from edgewise._errors import InputError
from edgewise.attribution import Components, attribute, components_of
from edgewise.discovery import eap
from edgewise.engine import Engine
from edgewise.graph import Ablation, Graph
from edgewise.models import CompiledTransformer, Model
from edgewise.runs import RunOptions, SavedAsJson
from edgewise.tracr._truth import Truth

SHARES = (0.5, 0.8, 0.95, 0.99)
"""Of the influence, which pruned graphs keep."""
MOST_INPUTS = 40
"""Inputs of which graphs are made, evenly spread over a program's."""


class ComponentRecovery(NamedTuple):
    """The components that a program's graphs use, beside those of one true circuit."""

    ablation: str
    """The truth's."""
    share: float
    """Of the influence, which the pruned graphs keep."""
    reasons: bool
    """Whether components count that only say where heads look."""
    found: tuple[str, ...]
    """Those that any graph uses."""
    true: tuple[str, ...]
    """Those with an edge in the true circuit; of several circuits, in the one that shares most with what is found."""
    precision: float
    """The share of what is found that is true; 1 where nothing is found."""
    recall: float
    """The share of what is true that is found; 1 where nothing is true."""
    eap: tuple[float, float]
    """Precision and recall of the equally many components with the largest EAP score of an edge that leaves them."""
    random: tuple[float, float]
    """What random sets of equal size have on average."""

    @property
    def missing(self) -> tuple[str, ...]:
        """True components that no graph uses."""
        return tuple(sorted(set(self.true) - set(self.found)))

    @property
    def extra(self) -> tuple[str, ...]:
        """Components that are used and not true."""
        return tuple(sorted(set(self.found) - set(self.true)))


@dataclass(frozen=True)
class GraphRecovery(SavedAsJson):
    """The graphs of a program beside its truths."""

    program: str
    components: int
    """Heads and MLPs in all."""
    inputs: int
    """On how many inputs graphs were made."""
    reasons: int
    """How many further graphs said why heads look where they look, at the largest share."""
    residual: float
    """The largest ledger residual of all graphs, relative to its target's edges' sizes."""
    rows: tuple[ComponentRecovery, ...]


def compare_graphs(
    model: Model, truths: Sequence[Truth], shares: Sequence[float] = SHARES, most_inputs: int = MOST_INPUTS
) -> GraphRecovery:
    """Make attribution graphs of a compiled program and hold the components that they use against its true circuits.

    Each graph explains the output at an input's last position: of a program with several outputs the answer's, minus
    the mean of all; else the number.

    Args:
        model: the compiled program.
        truths: its true circuits (see `find_truth`).
        shares: of the influence, which pruned graphs keep.
        most_inputs: of how many inputs graphs are made, evenly spread over the program's.

    Raises:
        InputError: the model is not a compiled program, or a truth is another's.
    """
    if not isinstance(model.module, CompiledTransformer):
        raise InputError("graphs: the model is not a compiled program; load one, such as tracr:reverse")
    program = model.module.program
    if wrong := [truth.program for truth in truths if truth.program != program.name]:
        raise InputError(f"graphs: a truth of {wrong[0]!r} for the program {program.name!r}; give its own")
    chosen = torch.linspace(0, len(program.inputs) - 1, min(most_inputs, len(program.inputs))).long()
    used = [
        _components(model, program.inputs[row, : int(program.lengths[row])].tolist(), shares) for row in chosen.tolist()
    ]
    rows = list[ComponentRecovery]()
    for truth in truths:
        ranked = _ranked(truth.graph, _eap(model, truth))
        for (i, share), reasons in ((each, reasons) for each in enumerate(shares) for reasons in (False, True)):
            found = set().union(*(each[i].all if reasons else each[i].moving for each in used))
            rows.append(_row(truth, share, reasons, found, ranked))
    return GraphRecovery(
        program.name,
        sum(layer.attention.query.weight.shape[0] + 1 for layer in model.parts.layers),
        len(used),
        sum(each[-1].n_graphs for each in used),
        max(part.residual for each in used for part in each),
        tuple(rows),
    )


def _components(model: Model, ids: list[int], shares: Sequence[float]) -> list[Components]:
    """What one input's graph uses, by share."""
    answer = int(model.module(input_ids=torch.tensor([ids], device=model.device)).logits[0, -1].argmax())
    graph = attribute(model, ids, target=answer, options=RunOptions(progress=False))
    return [components_of(graph, share) for share in shares]


def _eap(model: Model, truth: Truth) -> Float[Tensor, " E"]:
    """EAP's scores of all edges, under the truth's ablation."""
    task = tasks.program(model.tokenizer)
    engine = Engine(model, truth.graph, Ablation(truth.ablation))  # pyright: ignore[reportArgumentType] (checked there)
    return eap(engine, replace(task, metric=task.explained)).values


def _ranked(graph: Graph, scores: Float[Tensor, " E"]) -> list[str]:
    """Heads and MLPs by the largest score of an edge that leaves them."""
    best = scores.new_zeros(graph.n_writers).scatter_reduce(0, graph.edge_writer.long(), scores.abs(), "amax")
    inner = (graph.writer_layer >= 0).nonzero()[:, 0]
    order = inner[best[inner].argsort(descending=True, stable=True)]
    return [graph.writer_names[i] for i in order.tolist()]


def _row(truth: Truth, share: float, reasons: bool, found: set[str], ranked: list[str]) -> ComponentRecovery:
    circuits = [_components_in(truth.graph, edges) for edges in truth.minimal]
    true = max(circuits, key=lambda each: len(each & found) - len(each ^ found))
    n = len(found)
    at_random = (len(true) / len(ranked) if n else 1.0, n / len(ranked) if true else 1.0)
    return ComponentRecovery(
        truth.ablation,
        share,
        reasons,
        tuple(sorted(found)),
        tuple(sorted(true)),
        *_precision_and_recall(found, true),
        _precision_and_recall(set(ranked[:n]), true),
        at_random,
    )


def _components_in(graph: Graph, edges: Tensor) -> set[str]:
    """Heads and MLPs that an edge leaves."""
    writers = graph.edge_writer[edges.nonzero()[:, 0]].unique()
    return {graph.writer_names[i] for i in writers[graph.writer_layer[writers] >= 0].tolist()}


def _precision_and_recall(found: set[str], true: set[str]) -> tuple[float, float]:
    both = len(found & true)
    return both / len(found) if found else 1.0, both / len(true) if true else 1.0
