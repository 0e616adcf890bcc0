"""Circuits side by side: what they share, and how each, their intersection and their union do on each task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce as fold
from itertools import combinations
from typing import Any

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.engine import Engine
from edgewise.evaluation._judge import check_examples, conditions, judge, one_kind
from edgewise.models import Model
from edgewise.runs import Interval, SavedAsJson, bootstrap
from edgewise.tasks import HEADLINE, Task


@dataclass(frozen=True)
class Pair:
    """What two circuits share."""

    one: str
    other: str
    shared: int
    """Edges in both."""
    iou: float
    """Shared edges / edges of either."""
    of_one: float
    """Shared edges / edges of the first."""
    of_other: float


@dataclass(frozen=True)
class Comparison(SavedAsJson):
    """Circuits side by side."""

    edges: dict[str, int]
    """Nominal sizes, `intersection` and `union` of all among them."""
    actual: dict[str, int]
    """Of them, the edges that can carry signal."""
    total_edges: int
    pairs: tuple[Pair, ...]
    """Every two circuits, counted by nominal edges."""
    judged: dict[str, dict[str, dict[str, Interval]]]
    """For each task, each circuit (and `full`), each metric: the mean over the examples and its 95 % bootstrap
    interval."""
    n: dict[str, int]
    """Examples of each task."""
    conditions: dict[str, Any] = field(default_factory=dict)


def compare(
    model: Model | Engine,
    circuits: Mapping[str, Circuit],
    tasks: Sequence[Task],
    *,
    split: str = "test",
    batch_size: int = 32,
) -> Comparison:
    """Compare circuits of one model.

    Args:
        model: the model, or an engine of the circuits' graph and ablation.
        circuits: two or more, by name.
        tasks: what to judge them on, each of another name; with hard masks.
        split: which examples.
        batch_size: how many at a time; it does not change the numbers.

    Raises:
        edgewise.InputError: there are fewer than two, their graphs or ablations differ, or a task has no examples.
    """
    if len(circuits) < 2:
        raise InputError(f"compare: {len(circuits)} circuits; give at least two")
    if reserved := circuits.keys() & {"full", "intersection", "union"}:
        raise InputError(
            f"compare: a circuit is called {min(reserved)!r}, which is a reserved name; give the circuit another"
        )
    first, others = one_kind("compare", circuits), list(circuits.values())[1:]
    engine = Engine.of(model, first.graph, first.stated_ablation)
    everyone = {
        **circuits,
        "intersection": fold(Circuit.__and__, others, first),
        "union": fold(Circuit.__or__, others, first),
    }
    judged: dict[str, dict[str, dict[str, Interval]]] = {}
    for task in tasks:
        if task.name in judged:
            raise InputError(f"compare: two tasks are called {task.name!r}; give them different names")
        check_examples(task, split)
        names = tuple(name for name in HEADLINE if name != "logit_diff" or task.contrastive)
        values = judge(engine, everyone, task, split, batch_size, names=names)
        judged[task.name] = {who: {name: bootstrap(x) for name, x in each.items()} for who, each in values.items()}
    return Comparison(
        {name: circuit.n_edges for name, circuit in everyone.items()},
        {name: circuit.n_actual for name, circuit in everyone.items()},
        first.graph.n_edges,
        tuple(_pair(one, other, circuits) for one, other in combinations(circuits, 2)),
        judged,
        {task.name: len(task.split(split)) for task in tasks},
        conditions(engine, split) | {"tasks": [dict(task.provenance) | {"name": task.name} for task in tasks]},
    )


def _pair(one: str, other: str, circuits: Mapping[str, Circuit]) -> Pair:
    a, b = circuits[one], circuits[other]
    shared = (a & b).n_edges
    return Pair(one, other, shared, a.iou(b), *(shared / x.n_edges if x.n_edges else 1.0 for x in (a, b)))
