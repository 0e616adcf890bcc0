"""Circuits side by side: what they share, and how each, their intersection and their union do on each task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce as fold
from typing import Any

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.engine import Engine
from edgewise.evaluation._judge import conditions, judge, one_kind
from edgewise.evaluation._shared import Pair, in_all, nodes, pairs
from edgewise.models import Model
from edgewise.runs import Interval, SavedAsJson, bootstrap, record_of
from edgewise.tasks import Task
from edgewise.transcoders import Transcoder

_APART = ("features", "neurons", "cross_layer", "error")
"""In which fields of their specs the graphs of compared circuits may differ."""


@dataclass(frozen=True)
class Comparison(SavedAsJson):
    """Circuits side by side."""

    edges: dict[str, int]
    """Nominal sizes; where all are of one graph, `intersection` and `union` of all are among them."""
    actual: dict[str, int]
    """Of them, the edges that can carry signal."""
    total_edges: dict[str, int]
    """All edges of each one's graph."""
    nodes: dict[str, int]
    """Heads, MLPs, features and neurons that write an actual edge."""
    pairs: tuple[Pair, ...]
    """Every two circuits, counted by nominal edges."""
    in_all: tuple[str, ...]
    """Features and neurons that write an actual edge in every circuit."""
    judged: dict[str, dict[str, dict[str, Interval]]]
    """For each task, each circuit (and `full`), each metric: the mean over the examples and its 95 % bootstrap
    interval."""
    n: dict[str, int]
    """Examples of each task."""
    conditions: dict[str, Any] = field(default_factory=dict)
    """Where the graphs differ, `graphs` has each circuit's, and `differ` says in what."""


def compare(
    model: Model | Engine,
    circuits: Mapping[str, Circuit],
    tasks: Sequence[Task],
    *,
    transcoders: Transcoder | Sequence[Transcoder] = (),
    split: str = "test",
    batch_size: int = 32,
) -> Comparison:
    """Compare circuits of one model. Their graphs may differ in what MLPs are taken apart into: edges are then counted
    by what they join, each circuit is judged in its own graph, and there is no intersection and no union.

    Args:
        model: the model, or an engine of the circuits' one graph and ablation.
        circuits: two or more, by name.
        tasks: what to judge them on, each of another name; with hard masks.
        transcoders: of the layers with features, where a model is given.
        split: which examples.
        batch_size: how many at a time; it does not change the numbers.

    Raises:
        edgewise.InputError: there are fewer than two, their graphs differ in more than that, their ablations or the
            transcoders of a layer differ, or a task has no examples.
    """
    first = _checked(circuits)
    _check_tasks(tasks, split)
    graphs, everyone = list(dict.fromkeys(each.graph for each in circuits.values())), dict(circuits)
    if len(graphs) == 1:
        others = list(circuits.values())[1:]
        everyone["intersection"] = fold(Circuit.__and__, others, first)
        everyone["union"] = fold(Circuit.__or__, others, first)
    under: dict[str, Any] = {"tasks": [task.record for task in tasks]}
    identity = dict[str, dict[str, Any]]()
    found: dict[str, dict[str, dict[str, Interval]]] = {task.name: {} for task in tasks}
    for graph in graphs:
        engine = Engine.of(model, graph, first.stated_ablation, transcoders if graph.spec.features else ())
        those = {who: each for who, each in everyone.items() if each.graph == graph}
        for task in tasks:
            found[task.name] |= _judged(engine, those, task, split, batch_size)
        under, identity = conditions(engine, split) | under, identity | engine.transcoder_identity
    if identity:
        under["transcoders"] = identity
    if len(graphs) > 1:
        del under["graph"]
        under["graphs"] = {who: each.graph.spec.to_dict() for who, each in circuits.items()}
        under["differ"] = [name for name in _APART if len({getattr(graph.spec, name) for graph in graphs}) > 1]
    return Comparison(
        {who: each.n_edges for who, each in everyone.items()},
        {who: each.n_actual for who, each in everyone.items()},
        {who: each.graph.n_edges for who, each in everyone.items()},
        {who: len(nodes(each)) for who, each in everyone.items()},
        pairs(circuits),
        in_all(circuits),
        {name: {who: each[who] for who in ("full", *everyone)} for name, each in found.items()},
        {task.name: len(task.split(split)) for task in tasks},
        under,
    )


def _judged(
    engine: Engine, circuits: Mapping[str, Circuit], task: Task, split: str, batch_size: int
) -> dict[str, dict[str, Interval]]:
    values = judge(engine, circuits, task, split, batch_size, names=task.headline)
    return {who: {name: bootstrap(x) for name, x in each.items()} for who, each in values.items()}


def _checked(circuits: Mapping[str, Circuit]) -> Circuit:
    """The first of circuits that can be compared. Raises `InputError` for others."""
    if len(circuits) < 2:
        raise InputError(f"compare: {len(circuits)} circuits; give at least two")
    if reserved := circuits.keys() & {"full", "intersection", "union"}:
        raise InputError(
            f"compare: a circuit is called {min(reserved)!r}, which is a reserved name; give the circuit another"
        )
    first = one_kind("compare", circuits, whole=True)
    of_layers: dict[int, tuple[str, Any]] = {}
    for name, circuit in circuits.items():
        recorded = record_of(circuit.provenance, "transcoders")
        for layer, features in circuit.graph.spec.features:
            own = recorded.get(str(layer))
            other, identity = of_layers.setdefault(layer, (name, own)) if features and own else (name, own)
            if identity != own:
                raise InputError(
                    f"compare: features of layer {layer} are of one transcoder in {other} and of another in {name}, so "
                    "one number is two features; compare circuits of the same transcoders"
                )
    return first


def _check_tasks(tasks: Sequence[Task], split: str) -> None:
    """Refuse two tasks of one name, and an empty split. Raises `InputError`."""
    names = [task.name for task in tasks]
    for task in tasks:
        if names.count(task.name) > 1:
            raise InputError(f"compare: two tasks are called {task.name!r}; give them different names")
        task.check_examples(split)
