"""An attribution graph: its nodes, its edges, and the ledger that says how much of each target they account for."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._file_checks import check_columns, check_range, check_records, check_rows, check_texts
from edgewise.attribution._targets import Explained
from edgewise.runs import check_suffix, reading_tensors, write_tensors

SCHEMA = 1
KINDS = ("token", "position", "neuron", "feature", "error", "attention bias", "MLP bias", "reading bias", "root")
"""Kinds of nodes; a node's `kind` counts from 0 along this list."""
Kind = Literal["token", "position", "neuron", "feature", "error", "attention bias", "MLP bias", "reading bias", "root"]
BIASES: tuple[Kind, ...] = ("attention bias", "MLP bias", "reading bias")
_LETTERS = {"neuron": "n", "feature": "f"}

AnyGraph = TypeVar("AnyGraph", bound="GraphData")


class NodeTable(NamedTuple):
    """Nodes, in an order in which sources come before targets."""

    kind: Int[Tensor, " n"]
    """Along `KINDS`."""
    layer: Int[Tensor, " n"]
    """−1 for tokens and positions; the number of layers for roots and the final norm's bias."""
    position: Int[Tensor, " n"]
    """−1 for biases, which are summed over positions; of a root the last, or that of the node that it is."""
    index: Int[Tensor, " n"]  # pyright: ignore[reportIncompatibleMethodOverride] (tuples have a method of that name)
    """The neuron, feature, or token id; of a root its place among the roots; −1 otherwise."""
    value: Float[Tensor, " n"]
    """What a target's edges add up to: a feature's pre-activation, a neuron's activation, a root's value. A feature's
    or neuron's edges as a source are in proportion to it. 0 for the others."""

    def is_kind(self, *kinds: Kind) -> Bool[Tensor, " n"]:
        """Which nodes are of some kinds."""
        return torch.isin(self.kind, torch.tensor([KINDS.index(kind) for kind in kinds]))

    def take(self, chosen: Int[Tensor, " m"] | Bool[Tensor, " n"]) -> "NodeTable":
        """Some of the nodes."""
        return NodeTable(*(column[chosen] for column in self))


class Ledger(NamedTuple):
    """What the edges of each target leave out; 0 for nodes that are no targets."""

    residual: Float[Tensor, " n"]
    """A target's value minus all its edges, those that are not in the graph too: round-off."""
    size: Float[Tensor, " n"]
    """The sum of all its edges' sizes (absolute values)."""
    outside: Float[Tensor, " n"]
    """The sum of its edges that are not in the graph: too small, or from nodes that are not in it."""
    outside_size: Float[Tensor, " n"]
    """The sum of their sizes."""

    @property
    def worst(self) -> float:
        """The largest residual, relative to the sum of the target's edges' sizes."""
        return float((self.residual.abs() / self.size.clamp(min=1e-30)).max()) if len(self.size) else 0.0

    @property
    def share_outside(self) -> float:
        """The part of all edges' sizes that is not in the graph."""
        return float(self.outside_size.sum() / self.size.sum().clamp(min=1e-30))


@dataclass(frozen=True, eq=False)
class GraphData:
    """What flows between tokens, neurons or features, errors, biases and roots on one prompt.

    `weight` of an edge is the part of its target's value that its source gives. Attention patterns and norm scales are
    those of the prompt.
    """

    nodes: NodeTable
    offsets: Int[Tensor, " offsets"]
    """Where each node's incoming edges begin, and at last how many there are; the targets are the neurons or features
    and the roots."""
    sources: Int[Tensor, " E"]
    """The source of each edge."""
    weight: Float[Tensor, " E"]
    """What flows along each edge."""
    ledger: Ledger
    ids: Int[Tensor, " S"]
    """The prompt's tokens."""
    tokens: tuple[str, ...]
    """Their texts."""
    roots: tuple[str, ...]
    """Names of what is explained."""
    root_weights: Float[Tensor, " r"]
    """How much each counts: the probability of a token, 1 of anything else."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What changes its numbers: `nodes`, `gate`, `neurons_per_token`, `keep`, …"""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where it comes from, for people: the model, the transcoders, the software."""
    explained: Explained | None = field(default=None, repr=False)
    """The run that it was made from, which is not saved (see `attach`)."""

    @property
    def n_nodes(self) -> int:
        """All nodes."""
        return len(self.nodes.kind)

    @property
    def n_edges(self) -> int:
        """Edges with a weight."""
        return len(self.weight)

    @cached_property
    def matrix(self) -> csr_array:
        """The weights, targets by sources: `[n, n]`, empty rows for nodes that are sources alone."""
        content = self.weight.double().numpy(), self.sources.numpy(), self.offsets.numpy()
        return csr_array(content, shape=(self.n_nodes, self.n_nodes))

    @cached_property
    def edge_targets(self) -> Int[Tensor, " E"]:
        """The target of each edge."""
        return torch.repeat_interleave(self.offsets.diff(), output_size=self.n_edges)

    @property
    def n_layers(self) -> int:
        """How many layers the model has."""
        return int(self.nodes.layer.max())  # the roots'

    @cached_property
    def names(self) -> list[str]:
        """Every node's name, such as `m12.f410@7`, `m3.error@2`, `token@0`, `a5.bias`, or a root's."""
        return node_names(self.nodes, self.n_layers, self.roots)

    def node(self, name: str) -> int:
        """A node's number. Raises `InputError` for a name that is not in the graph."""
        found = self._numbers.get(name)
        if found is None:
            raise InputError(f"node {name!r}: not in this graph; it has names such as {', '.join(self.names[:3])}")
        return found

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def incoming(self, node: str | int) -> list[tuple[str, float]]:
        """A target's sources and what each gives, the largest first."""
        row = self.matrix[[self.node(node) if isinstance(node, str) else node]]
        return self._sorted(row.indices, row.data)

    def outgoing(self, node: str | int) -> list[tuple[str, float]]:
        """A source's targets and what it gives to each, the largest first."""
        column = self.matrix[:, [self.node(node) if isinstance(node, str) else node]].tocoo()
        return self._sorted(column.coords[0], column.data)

    def _sorted(self, others: np.ndarray, weights: np.ndarray) -> list[tuple[str, float]]:
        order = np.argsort(-np.abs(weights), kind="stable")
        return [(self.names[int(others[i])], float(weights[i])) for i in order]

    def subgraph(self: AnyGraph, keep: Bool[Tensor, " n"], edges: Bool[Tensor, " E"] | None = None) -> AnyGraph:
        """Some of the nodes and the edges between them; what goes is added to the ledger's `outside`.

        Args:
            keep: which nodes; roots always stay.
            edges: which edges besides.
        """
        keep = keep | self.nodes.is_kind("root")
        targets, number = self.edge_targets, torch.cumsum(keep.long(), 0) - 1
        stays = keep[self.sources] & keep[targets]
        stays = stays if edges is None else stays & edges
        counts = torch.bincount(targets[stays], minlength=self.n_nodes)[keep]
        lost = torch.where(stays, 0.0, self.weight.double())
        outside = self.ledger.outside.index_add(0, targets, lost)
        outside_size = self.ledger.outside_size.index_add(0, targets, lost.abs())
        ledger = self.ledger._replace(outside=outside, outside_size=outside_size)
        return replace(
            self,
            nodes=self.nodes.take(keep),
            offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            sources=number[self.sources[stays]],
            weight=self.weight[stays],
            ledger=Ledger(*(column[keep] for column in ledger)),
        )

    def with_errors(self: AnyGraph, keep: Bool[Tensor, " n"]) -> AnyGraph:
        """The sub-graph of some nodes in which what the other neurons and features gave is their layer's and position's
        error's. So nothing is left out, and a pruned graph is scored (Lindsey et al. 2025, "The Circuits Research
        Landscape", appendix C).

        Args:
            keep: which neurons and features; all other nodes stay.

        Raises:
            InputError: an error is missing, as in a pruned graph.
        """
        nodes = self.nodes
        keep = keep | ~nodes.is_kind("neuron", "feature")
        is_error = nodes.is_kind("error")
        place = nodes.layer * len(self.tokens) + nodes.position
        errors = dict(zip(place[is_error].tolist(), is_error.nonzero()[:, 0].tolist(), strict=True))
        if missing := set(place[~keep].tolist()) - errors.keys():
            layer, position = divmod(min(missing), len(self.tokens))
            raise InputError(f"graph: it has no error of layer {layer}, position {position}; give the whole graph")
        instead = torch.arange(self.n_nodes)
        instead[~keep] = torch.tensor([errors[each] for each in place[~keep].tolist()], dtype=torch.long)
        moved = csr_array(
            (self.weight.double().numpy(), (self.edge_targets.numpy(), instead[self.sources].numpy())),
            shape=(self.n_nodes, self.n_nodes),
        )
        moved.sum_duplicates()
        offsets, sources = (torch.from_numpy(x.astype(np.int64)) for x in (moved.indptr, moved.indices))
        merged = replace(self, offsets=offsets, sources=sources, weight=torch.from_numpy(moved.data).to(self.weight))
        return merged.subgraph(keep)

    def save(self, path: str | Path) -> None:
        """Write one `.safetensors` file with a JSON header, whole or not at all. Raises `InputError`."""
        check_suffix(path, "an attribution graph is")
        tensors = {f"nodes.{name}": column for name, column in self.nodes._asdict().items()}
        tensors |= {f"ledger.{name}": column for name, column in self.ledger._asdict().items()}
        tensors |= {name: getattr(self, name) for name in _TENSORS}
        header = {name: getattr(self, name) for name in ("tokens", "roots", "settings", "provenance")}
        write_tensors(path, tensors, {"schema": SCHEMA, "kind": "attribution graph", **header})

    @classmethod
    def load(cls: type[AnyGraph], path: str | Path) -> AnyGraph:
        """Read a graph. Raises `InputError` for what is none."""
        what, instead = "an attribution graph of edgewise", "give the graph.safetensors that `edgewise attribute` wrote"
        with reading_tensors(path, what, instead, schema=SCHEMA) as (header, tensors):
            plain: dict[str, Any] = {name: tensors[name] for name in _TENSORS}
            found = cls(
                NodeTable(*(tensors[f"nodes.{name}"] for name in NodeTable._fields)),
                ledger=Ledger(*(tensors[f"ledger.{name}"] for name in Ledger._fields)),
                tokens=tuple(header["tokens"]),
                roots=tuple(header["roots"]),
                settings=header["settings"],
                provenance=header["provenance"],
                **plain,
            )
            found._check()
            return found

    def _check(self) -> None:
        """Refuse what a file made of a graph that is none. Raises `ValueError`."""
        nodes, n = self.nodes, self.n_nodes
        check_columns({name: column for name, column in nodes._asdict().items() if name != "value"}, n, whole=True)
        check_columns({"values": nodes.value, **self.ledger._asdict()}, n, whole=False)
        check_rows(self.offsets, self.sources, n)
        check_columns({"weights": self.weight}, self.n_edges, whole=False)
        check_columns({"tokens' numbers": self.ids}, len(self.tokens), whole=True)
        check_columns({"roots' weights": self.root_weights}, len(self.roots), whole=False)
        check_texts(tokens=self.tokens, roots=self.roots)
        check_records(settings=self.settings, provenance=self.provenance)
        check_range("kinds", nodes.kind, 0, len(KINDS))
        check_range("layers", nodes.layer, -1, 1 << 20)
        check_range("positions", nodes.position, -1, len(self.tokens))
        if nodes.index[nodes.is_kind("root")].tolist() != list(range(len(self.roots))):
            raise ValueError(f"its nodes are not its {len(self.roots)} roots")
        counted = ~nodes.is_kind(*BIASES)[self.sources]
        if bool((nodes.layer[self.sources] >= nodes.layer[self.edge_targets])[counted].any()):
            raise ValueError("a source is not below its target")

    def __repr__(self) -> str:
        """Sizes and the ledger's residual."""
        return (
            f"AttributionGraph({self.n_nodes:,} nodes, {self.n_edges:,} edges, {len(self.tokens)} tokens, roots "
            f"{', '.join(self.roots)}: residual {self.ledger.worst:.1e}, outside {self.ledger.share_outside:.1%})"
        )


_TENSORS = ("offsets", "sources", "weight", "ids", "root_weights")


def node_names(nodes: NodeTable, n_layers: int, roots: Sequence[str] = ()) -> list[str]:
    """Names of nodes; see `AttributionGraph.names`."""
    return [_name(n_layers, roots, KINDS[row[0]], *row[1:4]) for row in zip(*(x.tolist() for x in nodes), strict=True)]


def _name(n_layers: int, roots: Sequence[str], kind: str, layer: int, position: int, index: int) -> str:
    if kind == "root":
        name = roots[index]  # tokens that are parts of letters all decode to "�"
        return f"{name}#{index}" if roots.count(name) > 1 else name
    if kind in BIASES:
        final = layer == n_layers
        return {"attention bias": f"a{layer}.bias", "MLP bias": f"m{layer}.bias"}.get(
            kind, "final.bias" if final else f"m{layer}.reading.bias"
        )
    if kind in _LETTERS:
        return f"m{layer}.{_LETTERS[kind]}{index}@{position}"
    return f"m{layer}.error@{position}" if kind == "error" else f"{kind}@{position}"


def concatenated(tables: Sequence[NodeTable]) -> NodeTable:
    """Several tables, one after the other."""
    return NodeTable(*(torch.cat(columns) for columns in zip(*tables, strict=True)))
