"""What stays of a graph under many thresholds (after CIRCUS, arXiv 2603.00523): no further pass of the model is needed.

The strict consensus, what every setting keeps, is far smaller than what any of them keeps.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._graph import AnyGraph, GraphData
from edgewise.attribution._influence import kept

THRESHOLDS = tuple(product((0.5, 0.6, 0.7, 0.8, 0.9), (0.9, 0.95, 0.98)))
"""Shares of the influence that nodes and edges have together; circuit-tracer prunes at (0.8, 0.98)."""


class Consensus(NamedTuple):
    """The share of the settings that keep each node and each edge."""

    nodes: Float[Tensor, " n"]
    edges: Float[Tensor, " E"]
    thresholds: tuple[tuple[float, float], ...]
    """The settings: shares for nodes and for edges."""

    def graph(self, graph: AnyGraph, share: float = 1.0) -> AnyGraph:
        """The graph's nodes and edges that at least a share of the settings keep.

        Args:
            graph: the one that this is the consensus on.
            share: 1 for what all of them keep.

        Raises:
            InputError: the graph is another.
        """
        if (graph.n_nodes, graph.n_edges) != (len(self.nodes), len(self.edges)):
            sizes = f"{len(self.nodes):,} nodes and {len(self.edges):,} edges"
            raise InputError(f"consensus: on a graph of {sizes}, not of {graph.n_nodes:,} and {graph.n_edges:,}")
        return graph.subgraph(self.nodes >= share - 1e-12, self.edges >= share - 1e-12)


def consensus(graph: GraphData, thresholds: Sequence[tuple[float, float]] = THRESHOLDS) -> Consensus:
    """Prune a graph at many thresholds, and count.

    Args:
        graph: the graph.
        thresholds: shares of the influence for nodes and for edges, a pair for each setting (see `prune`).

    Raises:
        InputError: none is given, or a share is not between 0 and 1.
    """
    if not thresholds:
        raise InputError("thresholds: none given; give pairs of shares such as (0.8, 0.98)")
    nodes, edges = (torch.zeros(size, dtype=torch.float64) for size in (graph.n_nodes, graph.n_edges))
    for pair in thresholds:
        of_nodes, of_edges = kept(graph, *pair)
        nodes, edges = nodes + of_nodes, edges + of_edges
    n = len(thresholds)
    return Consensus(nodes / n, edges / n, tuple((float(a), float(b)) for a, b in thresholds))
