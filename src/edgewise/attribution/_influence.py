"""Influence: how much of the roots a node reaches through all paths of normalised edges; and what is built on it.

After Ameisen et al. 2025 ("Circuit Tracing", Transformer Circuits) as circuit-tracer computes it: each target's edges
are divided by the sum of their sizes, `A[t, s] = |w_ts| / Σ_s |w_ts|`, and the influence of the sources is
`w A + w A² + …` for root weights w. The graph has no cycle, so the series ends; sources stand before targets, so one
pass from the last target to the first sums it. Biases, which those tools do not have, are left out of the sums.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import csr_array
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._graph import BIASES, AnyGraph, GraphData


class GraphScores(NamedTuple):
    """How well a graph explains its roots, each between 0 and 1."""

    replacement: float
    """Influence of tokens / influence of tokens and errors: the share of the paths that begin at a token."""
    completeness: float
    """The share of the nodes' inputs that are no errors, nodes weighted by their influence. Tokens and errors, which
    read nothing, count as whole, as in circuit-tracer."""


def normalised(graph: GraphData, keep: np.ndarray | None = None) -> csr_array:
    """Each target's sizes divided by their sum, biases and nodes that are not kept apart; an entry for every edge."""
    counts = ~graph.nodes.is_kind(*BIASES).numpy()
    counts = counts if keep is None else counts & keep
    matrix, targets = graph.matrix, graph.edge_targets.numpy()
    sizes = np.abs(matrix.data) * counts[matrix.indices] * (1 if keep is None else keep[targets])
    sums = np.bincount(targets, sizes, minlength=graph.n_nodes)
    return csr_array((sizes / np.where(sums > 0, sums, 1)[targets], matrix.indices, matrix.indptr), matrix.shape)


def _parts(graph: GraphData) -> tuple[csr_array, np.ndarray, np.ndarray]:
    """The normalised matrix, the roots' weights, and the influence of every node."""
    matrix, weights = normalised(graph), np.zeros(graph.n_nodes)
    weights[graph.nodes.is_kind("root").numpy()] = graph.root_weights.double().numpy()
    return matrix, weights, influence_of(matrix, weights, graph.nodes.layer.numpy())


def influence_of(matrix: csr_array, weights: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """`w A + w A² + …`, by one pass over the targets, the last layer's first.

    Args:
        matrix: A, `[n, n]`.
        weights: w, `[n]`.
        layer: of each node; a target's sources are of lower layers.
    """
    total = np.zeros(len(weights))
    for each in np.unique(layer)[::-1]:
        rows = np.flatnonzero(layer == each)
        mass = weights[rows] + total[rows]
        total += matrix[rows].T @ mass
    return total


def influence(graph: GraphData) -> Float[Tensor, " n"]:
    """Every node's influence on the roots."""
    return torch.from_numpy(_parts(graph)[2])


def edge_influence(graph: GraphData) -> Float[Tensor, " E"]:
    """Every edge's part in its target's influence: its normalised size times that. Edges of biases have none."""
    matrix, weights, found = _parts(graph)
    return torch.from_numpy(matrix.data * (found + weights)[graph.edge_targets.numpy()])


def scores(graph: GraphData) -> GraphScores:
    """Replacement and completeness of a graph."""
    matrix, weights, found = _parts(graph)
    tokens = float(found[graph.nodes.is_kind("token", "position").numpy()].sum())
    is_error = graph.nodes.is_kind("error").numpy()
    errors = float(found[is_error].sum())
    share = 1 - np.asarray(matrix[:, np.flatnonzero(is_error)].sum(axis=1)).ravel()
    mass = found + weights
    complete = float(mass @ share / mass.sum()) if mass.sum() else 0.0
    return GraphScores(tokens / (tokens + errors) if tokens + errors else 0.0, complete)


def prune(graph: AnyGraph, nodes: float = 0.8, edges: float = 0.98) -> AnyGraph:
    """The nodes, and then the edges, that carry most of the influence.

    As published: a node stays if it is among the most influential that together have the share `nodes` of all
    influence, an edge if it is among those with the share `edges` (an edge's influence is its normalised size times
    its target's influence). Tokens, positions, biases and roots always stay. Then neurons, features and errors that
    nothing reads go, and neurons and features that read nothing.

    Args:
        graph: the graph.
        nodes: a share, 0 to 1.
        edges: a share, 0 to 1.

    Raises:
        InputError: a share is not between 0 and 1.
    """
    return graph.subgraph(*kept(graph, nodes, edges))


def kept(graph: GraphData, nodes: float = 0.8, edges: float = 0.98) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " E"]]:
    """Which nodes and edges `prune` keeps. Raises `InputError` as it does."""
    for name, share in (("nodes", nodes), ("edges", edges)):
        if not 0 <= share <= 1:
            raise InputError(f"{name} {share}: a share of the influence; give 0 to 1")
    _, weights, found = _parts(graph)
    always = ~graph.nodes.is_kind("neuron", "feature", "error").numpy()
    keep = always | (found >= _threshold(found, nodes))
    bias = graph.nodes.is_kind(*BIASES).numpy()
    rows, columns = graph.edge_targets.numpy(), graph.sources.numpy()
    inner = normalised(graph, keep)
    carried = influence_of(inner, weights, graph.nodes.layer.numpy()) + weights
    scored = inner.data * carried[rows]
    staying = keep[rows] & keep[columns] & (bias[columns] | (scored >= _threshold(scored, edges)))
    live = staying & ~bias[columns]
    keep = _alive(graph, keep, rows[live], columns[live])
    return torch.from_numpy(keep), torch.from_numpy(staying & keep[rows] & keep[columns])


def _threshold(found: np.ndarray, share: float) -> float:
    """The smallest of the largest values that together have a share of the sum."""
    ordered = np.sort(found)[::-1]
    total = ordered.sum()
    if share >= 1 or not len(ordered) or total <= 0:
        return -np.inf
    place = int(np.searchsorted(np.cumsum(ordered) / total, share))
    return float(ordered[min(place, len(ordered) - 1)])


def _alive(graph: GraphData, keep: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Without neurons, features and errors that no kept node reads, and neurons and features that read none."""
    inner = graph.nodes.is_kind("neuron", "feature").numpy()
    written = inner | graph.nodes.is_kind("error").numpy()
    while True:
        live = keep[rows] & keep[columns]
        read = np.bincount(columns[live], minlength=len(keep)) > 0
        reads = np.bincount(rows[live], minlength=len(keep)) > 0
        after = keep & (read | ~written) & (reads | ~inner)
        if (after == keep).all():
            return keep
        keep = after
