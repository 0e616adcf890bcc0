"""What all readers of foreign graphs share: nodes and edges become an `AttributionGraph`, if they can be one."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._attribution_graph import AttributionGraph
from edgewise.attribution._graph import BIASES, Ledger, NodeTable

VIRTUAL = 1 << 30
"""Numbers of roots that are no tokens begin here in the files written; no vocabulary is so large."""


class Found(NamedTuple):
    """The content of a file."""

    nodes: NodeTable
    """In any order. A value is NaN where the file does not say it."""
    targets: Int[Tensor, " E"]
    sources: Int[Tensor, " E"]
    weight: Float[Tensor, " E"]
    ids: Int[Tensor, " S"]
    """−1 where the file does not say it."""
    tokens: tuple[str, ...]
    roots: tuple[str, ...]
    root_weights: Float[Tensor, " r"]


def assembled(path: Path, found: Found, settings: dict[str, Any], provenance: dict[str, Any]) -> AttributionGraph:
    """The graph of a file's content, sources before targets, edges of the same two nodes added up.

    A file does not say what its edges leave out. So a target's value minus its edges is all counted as `outside`, and
    no residual is claimed; where the value is not known, it is what the edges add up to.

    Raises:
        InputError: an edge goes to what is no target or from a later layer to an earlier one, a number is not finite,
            or two nodes are the same.
    """
    order = sources_first(found.nodes)
    nodes, n = found.nodes.take(order), len(order)
    number = torch.empty_like(order)
    number[order] = torch.arange(n)
    pairs = number[found.targets], number[found.sources]
    _check(path, nodes, *pairs, found.weight)
    matrix = csr_array((found.weight.double().numpy(), tuple(each.numpy() for each in pairs)), shape=(n, n))
    matrix.sum_duplicates()
    inside = torch.from_numpy(np.asarray(matrix.sum(axis=1)).ravel())
    is_target = nodes.is_kind("neuron", "feature", "root")
    value = torch.where(nodes.value.isnan() & is_target, inside, nodes.value.nan_to_num(nan=0.0))
    outside = torch.where(is_target, value - inside, 0.0)
    size = torch.from_numpy(np.asarray(abs(matrix).sum(axis=1)).ravel()) + outside.abs()
    graph = AttributionGraph(
        nodes._replace(value=value),
        torch.from_numpy(matrix.indptr.astype(np.int64)),
        torch.from_numpy(matrix.indices.astype(np.int64)),
        _narrow(torch.from_numpy(matrix.data)),
        Ledger(torch.zeros_like(size), size, outside, outside.abs()),
        found.ids,
        found.tokens,
        found.roots,
        found.root_weights,
        settings,
        provenance,
    )
    if len(graph.names) > len(set(graph.names)):
        twice = next(name for name, count in Counter(graph.names).items() if count > 1)
        raise InputError(f"{path}: two nodes are {twice!r:.60}; every node stands once")
    return graph


def sources_first(nodes: NodeTable) -> Int[Tensor, " n"]:
    """An order in which every node stands after what can be its source."""
    return (nodes.layer * 2 + nodes.is_kind("neuron", "feature", "root")).argsort(stable=True)


def _check(path: Path, nodes: NodeTable, targets: Tensor, sources: Tensor, weight: Tensor) -> None:
    """Refuse edges that no attribution graph has, and numbers that are none."""
    is_target = nodes.is_kind("neuron", "feature", "root")
    if not bool(weight.isfinite().all()) or bool(nodes.value.isinf().any()):
        raise InputError(f"{path}: a weight or an activation is not finite; write the file again")
    if not bool(is_target[targets].all()):
        raise InputError(
            f"{path}: an edge goes into a token, an error or a bias, and these read nothing; write the file again"
        )
    layers = nodes.layer[targets] - nodes.layer[sources]
    if bool((torch.where(nodes.is_kind(*BIASES)[sources], layers + 1, layers) <= 0).any()):
        raise InputError(f"{path}: an edge goes to the same layer or an earlier one, so its graph may have a cycle")


def _narrow(weight: Tensor) -> Tensor:
    """In float32, if that changes no number."""
    narrow = weight.float()
    return narrow if bool((narrow.double() == weight).all()) else weight


def cumulative(influence: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Of each node the share of all influence that it and the more influential ones have together, as circuit-tracer
    ranks nodes: the lower, the more important.
    """
    ordered = influence.sort(descending=True, stable=True)
    shares = ordered.values.cumsum(0) / ordered.values.sum().clamp(min=1e-30)
    return torch.empty_like(shares).scatter_(0, ordered.indices, shares)


def root_tokens(graph: AttributionGraph) -> list[int]:
    """The roots' tokens; numbers from `VIRTUAL` on for roots that are none."""
    known = graph.settings.get("root_tokens") or [-1] * len(graph.roots)
    return [token if token >= 0 else VIRTUAL + place for place, token in enumerate(known)]
