"""Several prompts, one graph: the union of their graphs, with how much, how often and how surely each edge carries."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._attribution_graph import AttributionGraph
from edgewise.attribution._file_checks import check_columns, check_range, check_records, check_texts
from edgewise.attribution._graph import Ledger, NodeTable
from edgewise.attribution._influence import edge_influence, influence
from edgewise.attribution._keys import By, Keys, Spans, joined, same_roots, spans_of
from edgewise.attribution._over_prompts import OverPrompts
from edgewise.runs import check_suffix, reading_tensors, write_tensors

SCHEMA = 1


@dataclass(frozen=True, eq=False)
class MergedGraph:
    """The graphs of several prompts as one."""

    nodes: Keys
    targets: Int[Tensor, " E"]
    """Of each edge."""
    sources: Int[Tensor, " E"]
    """Of each edge."""
    weight: OverPrompts
    """Of the edges. Merged by places: the influence on the roots that passes along them."""
    influence: OverPrompts
    """Of the nodes, on the roots."""
    value: Float[Tensor, " n"]
    """The mean of the nodes' values; like the ledger, 0 where graphs were merged by places."""
    ledger: Ledger
    """Means over the prompts."""
    root_weights: Float[Tensor, " r"]
    """Means over the prompts."""
    prompts: tuple[str, ...]
    by: By
    settings: dict[str, Any] = field(default_factory=dict)
    """What changes its numbers: the graphs' own, and `spans`."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """The first graph's."""

    @property
    def n_nodes(self) -> int:
        """All nodes."""
        return len(self.nodes)

    @property
    def n_edges(self) -> int:
        """Edges that at least one prompt has."""
        return len(self.targets)

    @property
    def n_prompts(self) -> int:
        """How many graphs it was made of."""
        return self.weight.n_prompts

    @cached_property
    def names(self) -> list[str]:
        """Every node's, such as `m12.f410@-1` (see `Keys.names`)."""
        return self.nodes.names()

    def incoming(self, name: str) -> list[tuple[str, float]]:
        """A target's sources and what each gives on average, the largest first. Raises `InputError` for no node."""
        return self._others(name, self.targets, self.sources)

    def outgoing(self, name: str) -> list[tuple[str, float]]:
        """A source's targets and what it gives to each on average, the largest first. Raises `InputError`."""
        return self._others(name, self.sources, self.targets)

    def _others(self, name: str, here: Tensor, there: Tensor) -> list[tuple[str, float]]:
        if name not in self.names:
            raise InputError(f"node {name!r}: not in this graph; it has names such as {', '.join(self.names[:3])}")
        edges = (here == self.names.index(name)).nonzero()[:, 0]
        edges = edges[self.weight.mean[edges].abs().argsort(descending=True, stable=True)]
        return [(self.names[int(there[edge])], float(self.weight.mean[edge])) for edge in edges]

    def table(self, resamples: int | None = None) -> dict[str, list[Any]]:
        """The edges as columns: `source`, `target`, `mean`, `share` of the prompts, `agreement` of the signs.

        Args:
            resamples: of the prompts, for columns `low` and `high`, the mean's 95 % interval; None: without.
        """
        columns = {"mean": self.weight.mean, "share": self.weight.share, "agreement": self.weight.agreement}
        if resamples is not None:
            columns |= dict(zip(("low", "high"), self.weight.intervals(resamples).unbind(1), strict=True))
        ends = {"source": self.sources, "target": self.targets}
        return {
            **{end: [self.names[i] for i in which.tolist()] for end, which in ends.items()},
            **{name: column.tolist() for name, column in columns.items()},
        }

    def consensus(self, share: float = 1.0, agreement: float = 0.0) -> "MergedGraph":
        """The nodes and edges that many prompts have.

        Args:
            share: of the prompts that have a node or an edge, at least.
            agreement: of those, whose edge has the same sign, at least.
        """
        keep = self.influence.share >= share - 1e-12
        edges = (self.weight.share >= share - 1e-12) & (self.weight.agreement >= agreement - 1e-12)
        return self.subgraph(keep, edges)

    def subgraph(self, keep: Bool[Tensor, " n"], edges: Bool[Tensor, " E"] | None = None) -> "MergedGraph":
        """Some of the nodes and the edges between them; what goes is added to the ledger's `outside`, by its mean.

        Args:
            keep: which nodes.
            edges: which edges besides.
        """
        stays = keep[self.targets] & keep[self.sources]
        stays = stays if edges is None else stays & edges
        lost = torch.where(stays | (self.by == "places"), 0.0, self.weight.mean)
        ledger = self.ledger._replace(
            outside=self.ledger.outside.index_add(0, self.targets, lost),
            outside_size=self.ledger.outside_size.index_add(0, self.targets, lost.abs()),
        )
        number, nodes, chosen = torch.cumsum(keep.long(), 0) - 1, keep.nonzero()[:, 0], stays.nonzero()[:, 0]
        return replace(
            self,
            nodes=self.nodes.take(nodes),
            targets=number[self.targets[chosen]],
            sources=number[self.sources[chosen]],
            weight=self.weight.take(chosen),
            influence=self.influence.take(nodes),
            value=self.value[nodes],
            ledger=Ledger(*(column[nodes] for column in ledger)),
        )

    def mean_graph(self) -> AttributionGraph:
        """The graph of the mean weights, with spans for tokens: to prune, to score, to write for other tools. A root
        that is not in the same span on all prompts has one of its own.

        Raises:
            InputError: it was merged by places, so that its edges have no weights.
        """
        if self.by == "places":
            raise InputError("mean_graph: merged by places, edges have influence and no weights; merge by='nodes'")
        keys = self.nodes
        n_edges = torch.bincount(self.targets, minlength=self.n_nodes)
        position, places = keys.placed()
        table = NodeTable(keys.kind, keys.layer, position, keys.index, self.value)
        return AttributionGraph(
            table,
            torch.cat([n_edges.new_zeros(1), n_edges.cumsum(0)]),
            self.sources,
            self.weight.mean,
            self.ledger,
            torch.full((len(places),), -1),
            places,
            keys.roots,
            self.root_weights,
            {**self.settings, "root_tokens": [-1] * len(keys.roots), "prompts": self.n_prompts},
            self.provenance,
        )

    def save(self, path: str | Path) -> None:
        """Write one `.safetensors` file with a JSON header, whole or not at all. Raises `InputError`."""
        check_suffix(path, "a merged graph is")
        tensors = self.nodes.tensors()
        tensors |= {f"ledger.{name}": column for name, column in self.ledger._asdict().items()}
        tensors |= {name: getattr(self, name) for name in _TENSORS}
        tensors |= self.weight.tensors("weight") | self.influence.tensors("influence")
        header = {name: getattr(self, name) for name in ("prompts", "by", "settings", "provenance", "n_prompts")}
        header |= {"schema": SCHEMA, "kind": "merged attribution graph", **self.nodes.header()}
        write_tensors(path, tensors, header)

    @staticmethod
    def load(path: str | Path) -> "MergedGraph":
        """Read a merged graph. Raises `InputError` for what is none."""
        what, instead = "a merged attribution graph of edgewise", "give what `MergedGraph.save` wrote"
        with reading_tensors(path, what, instead, schema=SCHEMA) as (header, tensors):
            found = MergedGraph(
                nodes=Keys.read(header, tensors),
                weight=OverPrompts.read("weight", tensors, header["n_prompts"]),
                influence=OverPrompts.read("influence", tensors, header["n_prompts"]),
                ledger=Ledger(*(tensors[f"ledger.{name}"] for name in Ledger._fields)),
                prompts=tuple(header["prompts"]),
                by=header["by"],
                settings=header["settings"],
                provenance=header["provenance"],
                **{name: tensors[name] for name in _TENSORS},
            )
            found._check()
            return found

    def _check(self) -> None:
        """Refuse what a file made of a graph that is none. Raises `ValueError`."""
        n, edges = len(self.nodes), {"targets": self.targets, "sources": self.sources}
        check_columns(edges, len(self.targets), whole=True)
        for name, column in edges.items():
            check_range(name, column, 0, n)
        check_columns({"values": self.value, **self.ledger._asdict()}, n, whole=False)
        check_columns({"roots' weights": self.root_weights}, len(self.nodes.roots), whole=False)
        check_records(settings=self.settings, provenance=self.provenance)
        check_texts(prompts=self.prompts)
        if (len(self.weight), len(self.influence)) != (len(self.targets), n) or self.by not in ("nodes", "places"):
            raise ValueError("its numbers are not of its nodes and edges")

    def __repr__(self) -> str:
        """Sizes."""
        many = int((self.weight.share >= 0.5).sum())
        return (
            f"MergedGraph({self.n_prompts:,} prompts, {self.n_nodes:,} nodes, {self.n_edges:,} edges, {many:,} of them "
            f"in half of the prompts or more)"
        )


_TENSORS = ("targets", "sources", "value", "root_weights")


def merge(graphs: Sequence[AttributionGraph], spans: Spans = "end", by: By = "nodes") -> MergedGraph:
    """The union of several prompts' graphs.

    Nodes are the same if they are the same neuron or feature (or error, bias, token, root) of a layer in the same span.
    Roots are the same by their names if all graphs have the same, else by their order. A graph's nodes and edges that
    fall together, because their positions are of one span, are added up.

    Args:
        graphs: one for each prompt, of one model.
        spans: what stands for a position, such as a task's span names.
        by: `places` puts all neurons or features of a layer and span together, and in place of weights, which differ
            in unit, counts the influence on the roots that passes along an edge; so graphs of different neurons or
            features can be compared (see `difference`).

    Raises:
        InputError: no graph, graphs of different models, nodes or numbers of roots, or spans that do not fit.
    """
    _check(graphs, by)
    roots, places = same_roots([graph.roots for graph in graphs])
    described = zip(graphs, spans_of(graphs, spans), places, strict=True)
    keys, where = joined([Keys.of(graph, named, by, place) for graph, named, place in described], roots)
    found = [influence(graph) for graph in graphs]
    flows = [graph.weight if by == "nodes" else edge_influence(graph) for graph in graphs]
    n, n_prompts = len(keys), len(graphs)
    pairs = [
        at[graph.edge_targets.numpy()] * n + at[graph.sources.numpy()] for graph, at in zip(graphs, where, strict=True)
    ]
    codes, edges = distinct(pairs)
    scale = float(by == "nodes")

    def mean(columns: list[Tensor], rows: list[np.ndarray] = where, n: int = n) -> Float[Tensor, " n"]:
        return OverPrompts.of(_by_prompt(columns, rows, n), n_prompts).mean

    return MergedGraph(
        keys,
        torch.from_numpy(codes // n),
        torch.from_numpy(codes % n),
        OverPrompts.of(_by_prompt(flows, edges, len(codes)), n_prompts),
        OverPrompts.of(_by_prompt(found, where, n), n_prompts),
        mean([graph.nodes.value for graph in graphs]) * scale,
        Ledger(*(mean([getattr(graph.ledger, name) for graph in graphs]) * scale for name in Ledger._fields)),
        mean([graph.root_weights for graph in graphs], [np.array(place) for place in places], len(roots)),
        tuple("".join(graph.tokens) for graph in graphs),
        by,
        {**graphs[0].settings, "spans": spans if isinstance(spans, str) else "named"},
        graphs[0].provenance,
    )


def distinct(pairs: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The different numbers of several lists, in order, and of each list where its numbers stand among them."""
    codes, where = np.unique(np.concatenate(pairs), return_inverse=True)
    return codes, np.split(where, np.cumsum([len(each) for each in pairs])[:-1])


def _by_prompt(columns: Sequence[Tensor], rows: Sequence[np.ndarray], n: int) -> csr_array:
    """One column of numbers for each prompt, at some rows of n; several at one row are added up."""
    prompt = np.repeat(np.arange(len(columns)), [len(column) for column in columns])
    content = torch.cat([column.double() for column in columns]).numpy()
    return csr_array((content, (np.concatenate(rows), prompt)), shape=(n, len(columns)))


def kind_of_nodes(graph: AttributionGraph | MergedGraph) -> tuple[Any, Any]:
    """What tells a graph's nodes from those of the same number: neurons, or of which transcoders."""
    return graph.settings.get("nodes"), graph.provenance.get("transcoders")


def _check(graphs: Sequence[AttributionGraph], by: By) -> None:
    if not graphs:
        raise InputError("graphs: none given; give one at least")
    if by not in get_args(By):
        raise InputError(f"by {by!r}: give 'nodes' or 'places'")
    first = graphs[0]
    for i, graph in enumerate(graphs):
        if graph.n_layers != first.n_layers:
            sizes = f"{graph.n_layers} layers, the first of {first.n_layers}"
            raise InputError(f"graphs[{i}]: of {sizes}; give graphs of one model")
        if by == "nodes" and kind_of_nodes(graph) != kind_of_nodes(first):
            raise InputError(f"graphs[{i}]: its nodes are not those of the first; merge them by='places'")
