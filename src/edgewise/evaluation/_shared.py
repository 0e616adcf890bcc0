"""What circuits share whose graphs may differ in what their MLPs are taken apart into: edges and nodes, by what they
are rather than by number.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from edgewise.circuit import Circuit
from edgewise.graph import FEATURE, HEAD, MLP, NEURON, stands_for

NODES = (HEAD, MLP, FEATURE, NEURON)
MOST_NAMES = 1 << 24
"""More than graphs have."""

Node = tuple[str, Hashable]
"""A name, and what it stands for where that does not say it."""


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
    name_only: int
    """Edges whose names are in both circuits, but whose error term, rest or group of neurons is another one in each;
    not among the shared."""
    shared_nodes: int
    """Nodes of both: heads, MLPs, features and neurons that write an actual edge."""
    nodes_iou: float
    """Shared nodes / nodes of either."""


def pairs(circuits: Mapping[str, Circuit]) -> tuple[Pair, ...]:
    """Every two circuits side by side."""
    numbers: dict[Node, int] = {}
    edges = {who: _edges(circuit, numbers) for who, circuit in circuits.items()}
    by_name = {who: _edges(circuit, numbers, by_name=True) for who, circuit in circuits.items()}
    found = {who: nodes(circuit) for who, circuit in circuits.items()}

    def pair(one: str, other: str) -> Pair:
        shared, first, second = len(np.intersect1d(edges[one], edges[other])), len(edges[one]), len(edges[other])
        return Pair(
            one,
            other,
            shared,
            iou=_share(shared, first + second - shared),
            of_one=_share(shared, first),
            of_other=_share(shared, second),
            name_only=len(np.intersect1d(by_name[one], by_name[other])) - shared,
            shared_nodes=len(found[one] & found[other]),
            nodes_iou=_share(len(found[one] & found[other]), len(found[one] | found[other])),
        )

    return tuple(pair(one, other) for one, other in combinations(circuits, 2))


def nodes(circuit: Circuit, kinds: tuple[int, ...] = NODES) -> set[Node]:
    """The nodes of some kinds that write an actual edge; a feature also does so from its places in later layers. An
    error term and the rest of an MLP are none.
    """
    graph = circuit.graph
    rest = {found[2] for layer, _ in graph.spec.neurons if (found := graph.whole(layer)) is not None}
    writers = graph.edge_writer[circuit.actual].unique().tolist()
    chosen = [writer for writer in writers if int(graph.writer_kind[writer]) in kinds and writer not in rest]
    names, meant = (graph.writer_names[writer].partition(">")[0] for writer in chosen), stands_for(graph.spec)
    return {(name, meant.get(name)) for name in names}


def in_all(circuits: Mapping[str, Circuit]) -> tuple[str, ...]:
    """The names of the features and neurons that are nodes of every circuit, in the order of the graph."""
    first = next(iter(circuits.values())).graph
    common = set[Node].intersection(*(nodes(circuit, (FEATURE, NEURON)) for circuit in circuits.values()))
    names = {name for name, _ in common}
    return tuple(name for name in first.writer_names if name in names)


def _edges(circuit: Circuit, numbers: dict[Node, int], *, by_name: bool = False) -> NDArray[np.int64]:
    """A number for each kept edge, the same for the same edge of all circuits that are counted with these `numbers` of
    nodes, which it adds to.
    """
    graph, edges = circuit.graph, circuit.kept.nonzero()[:, 0]
    meant = {} if by_name else stands_for(graph.spec)

    def ends(names: list[str], which: Int[np.ndarray, " n"]) -> NDArray[np.int64]:
        each = [numbers.setdefault((name, meant.get(name)), len(numbers)) for name in names]
        return np.array(each, dtype=np.int64)[which]

    writer = ends(graph.writer_names, graph.edge_writer[edges].numpy())
    reader = ends(graph.reader_names, graph.edge_reader[edges].numpy())
    return ((edges // graph.n_plain).numpy() * MOST_NAMES + reader) * MOST_NAMES + writer


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
