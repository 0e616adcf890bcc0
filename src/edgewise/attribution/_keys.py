"""The same node in several graphs: what it is, its layer, its number, and the span it stands in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._file_checks import check_columns, check_range, check_texts
from edgewise.attribution._graph import KINDS, GraphData

NODES = "nodes"
"""The kind of all neurons or features of a layer at a place, where graphs are joined by places."""
MERGED_KINDS = (*KINDS, NODES)
"""The kinds of node of a merged graph."""

Spans = Literal["end", "start", "text"] | Sequence[Sequence[str]]
"""What stands for a position: its distance from the end (`-1` for the last) or the start (`0` for the first), its
token's text, or names, a list for each prompt with one for each of its positions. Nodes of one span are one node."""
By = Literal["nodes", "places"]
"""What is the same in two graphs: a neuron or feature of a layer and span; or, where their neurons or features are not
the same ones, all of a layer and span together."""


@dataclass(frozen=True, eq=False)
class Keys:
    """Nodes of several graphs, those of lower layers first."""

    kind: Int[Tensor, " n"]
    """Along `MERGED_KINDS`."""
    layer: Int[Tensor, " n"]
    index: Int[Tensor, " n"]
    """The neuron, feature, or place among the roots; −1 otherwise."""
    span: Int[Tensor, " n"]
    """Along `span_names`; −1 for biases and roots, which are one node wherever they stand."""
    span_names: tuple[str, ...]
    roots: tuple[str, ...]
    root_spans: tuple[int, ...]
    """Of each root where it stands, along `span_names`; −1 where the graphs do not agree."""

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def n_layers(self) -> int:
        """How many layers the model has."""
        return int(self.layer.max()) if len(self) else 0  # the roots', and the final norm's bias's

    def take(self, chosen: Tensor) -> "Keys":
        """Some of them."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in _COLUMNS})

    def tensors(self) -> dict[str, Tensor]:
        """For a file, with `header`."""
        return {f"nodes.{name}": getattr(self, name) for name in _COLUMNS}

    def header(self) -> dict[str, Any]:
        """For a file, with `tensors`."""
        return {"span_names": self.span_names, "roots": self.roots, "root_spans": self.root_spans}

    @staticmethod
    def read(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Keys":
        """The inverse of `header` and `tensors`. Raises `ValueError` for what is none."""
        columns = {name: tensors[f"nodes.{name}"] for name in _COLUMNS}
        spans, roots = tuple(header["span_names"]), tuple(header["roots"])
        at = tuple(header.get("root_spans", [len(spans) - 1] * len(roots)))  # older files do not say it
        found = Keys(span_names=spans, roots=roots, root_spans=at, **columns)
        check_columns(columns, len(found), whole=True)
        check_texts(spans=found.span_names, roots=found.roots)
        check_range("kinds", found.kind, 0, len(MERGED_KINDS))
        check_range("layers", found.layer, -1, 1 << 20)
        check_range("spans", found.span, -1, len(found.span_names))
        if len(at) != len(roots) or not all(type(each) is int and -1 <= each < len(spans) for each in at):
            raise ValueError("its roots' spans are not among its spans")
        check_range("roots", found.index[found.kind == MERGED_KINDS.index("root")], 0, len(found.roots))
        return found

    def with_roots(self, places: Sequence[int]) -> "Keys":
        """With other numbers for the roots.

        Args:
            places: of each root.
        """
        is_root = self.kind == MERGED_KINDS.index("root")
        numbers = torch.tensor(places)[self.index.clamp(0, len(places) - 1)]
        spans = dict(zip(places, self.root_spans, strict=True))
        return replace(
            self, index=torch.where(is_root, numbers, self.index), root_spans=tuple(spans[i] for i in sorted(spans))
        )

    def placed(self) -> tuple[Int[Tensor, " n"], tuple[str, ...]]:
        """Where each node stands, −1 for biases, and the names of the places: the spans and, for roots of which the
        graphs do not agree, one of their own behind them.
        """
        is_root = self.kind == MERGED_KINDS.index("root")
        apart = bool(is_root.any()) and -1 in self.root_spans
        own = "roots"
        while own in self.span_names:
            own += "'"
        at = torch.tensor([len(self.span_names) if span < 0 else span for span in self.root_spans], dtype=torch.long)
        position = self.span.clone()
        position[is_root] = at[self.index[is_root]]
        return position, (*self.span_names, own) if apart else self.span_names

    def names(self) -> list[str]:
        """As a graph's nodes are called, with spans for positions: `m12.f410@-1`, `m3.nodes@subject`, `a5.bias`."""
        columns = zip(self.kind.tolist(), self.layer.tolist(), self.index.tolist(), self.span.tolist(), strict=True)
        last = self.n_layers
        return [
            "final.bias" if MERGED_KINDS[kind] == "reading bias" and layer == last else self._name(kind, layer, *rest)
            for kind, layer, *rest in columns
        ]

    def _name(self, number: int, layer: int, index: int, span: int) -> str:
        kind = MERGED_KINDS[number]
        at = f"@{self.span_names[span]}" if span >= 0 else ""
        if kind == "root":
            return self.roots[index]
        if kind in ("token", "position"):
            return kind + at
        if kind == "attention bias":
            return f"a{layer}.bias"
        if kind == "reading bias":
            return f"m{layer}.reading.bias"
        what = {"neuron": f"n{index}", "feature": f"f{index}", "MLP bias": "bias"}.get(kind, kind)
        return f"m{layer}.{what}{at}"

    @staticmethod
    def of(graph: GraphData, spans: Sequence[str], by: By, root_places: Sequence[int]) -> "Keys":
        """A graph's, in its own order; several may be the same.

        Args:
            graph: the graph.
            spans: of each position.
            by: what is the same node.
            root_places: of each of its roots, which one it is in all graphs.
        """
        nodes = graph.nodes
        names = tuple(dict.fromkeys(spans))
        number = {name: i for i, name in enumerate(names)}
        of_position = torch.tensor([*(number[name] for name in spans), -1])  # the last is for biases, at −1
        is_root, is_inner = nodes.is_kind("root"), nodes.is_kind("neuron", "feature")
        joined = is_inner & (by == "places")
        index = torch.where(is_root | (is_inner & ~joined), nodes.index, -1)
        kind = torch.where(joined, MERGED_KINDS.index(NODES), nodes.kind)
        span = torch.where(is_root, -1, of_position[nodes.position])
        at = torch.full((len(graph.roots),), -1)
        at[nodes.index[is_root]] = of_position[nodes.position[is_root]]
        keys = Keys(kind, nodes.layer, index, span, names, graph.roots, tuple(at.tolist()))
        return keys.with_roots(root_places)


_COLUMNS = ("kind", "layer", "index", "span")


def spans_of(graphs: Sequence[GraphData], spans: Spans) -> list[list[str]]:
    """Of each graph the span of each position.

    Raises:
        InputError: another number of lists than of graphs, or of names than of positions.
    """
    if isinstance(spans, str):
        if spans not in ("end", "start", "text"):
            raise InputError(f"spans {spans!r}: give 'end', 'start', 'text', or a list of names for each prompt")
        return [_positions(graph, spans) for graph in graphs]
    if len(spans) != len(graphs):
        raise InputError(f"spans: {len(spans)} lists of names for {len(graphs)} graphs; give one for each")
    for i, (names, graph) in enumerate(zip(spans, graphs, strict=True)):
        if len(names) != len(graph.tokens) or isinstance(names, str):
            raise InputError(f"spans[{i}]: {len(names)} names for {len(graph.tokens)} positions; give one for each")
    return [[str(name) for name in names] for names in spans]


def _positions(graph: GraphData, spans: str) -> list[str]:
    length = len(graph.tokens)
    if spans == "text":
        return list(graph.tokens)
    return [str(i if spans == "start" else i - length) for i in range(length)]


def same_roots(named: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], list[list[int]]]:
    """Which roots of several graphs are the same: those of one name if all have the same names, else by their order.

    Returns:
        Their names, and of each graph each root's place among them.

    Raises:
        InputError: there are not equally many.
    """
    first = named[0]
    if all(sorted(names) == sorted(first) for names in named) and len(set(first)) == len(first):
        return first, [[first.index(name) for name in names] for names in named]
    if len({len(names) for names in named}) > 1:
        counts = ", ".join(sorted({str(len(names)) for names in named}))
        raise InputError(f"graphs: they explain {counts} roots; explain one target in each, or a contrast")
    same = [len({names[i] for names in named}) == 1 and first.count(first[i]) == 1 for i in range(len(first))]
    joint = tuple(name if same[i] else f"root {i}" for i, name in enumerate(first))
    return joint, [list(range(len(first)))] * len(named)


def joined(parts: Sequence[Keys], roots: tuple[str, ...]) -> tuple[Keys, list[Int[np.ndarray, "..."]]]:
    """The nodes of several tables, each once, and of each table where its rows stand among them.

    Args:
        parts: the tables.
        roots: all roots' names.
    """
    names = list(dict.fromkeys(name for part in parts for name in part.span_names))
    if all(name.lstrip("-").isdecimal() for name in names):  # positions, of prompts of several lengths
        names.sort(key=int)
    number = {name: i for i, name in enumerate(names)}
    columns, at = [], list[set[int]](set() for _ in roots)
    for part in parts:
        of_span = [*(number[name] for name in part.span_names), -1]
        for seen, each in zip(at, part.root_spans, strict=True):
            seen.add(of_span[each])
        span = torch.tensor(of_span)[part.span]
        is_inner = torch.isin(part.kind, torch.tensor([MERGED_KINDS.index(k) for k in ("neuron", "feature", NODES)]))
        columns.append(torch.stack([part.layer, is_inner.long(), part.kind, span, part.index]))
    table = torch.cat(columns, 1).numpy()
    order = np.lexsort(table[::-1])
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (np.diff(table[:, order], axis=1) != 0).any(0)
    where = np.empty(len(order), dtype=np.int64)
    where[order] = np.cumsum(fresh) - 1
    layer, _, kind, span, index = torch.from_numpy(table[:, order[fresh]])
    root_spans = tuple(each.pop() if len(each) == 1 else -1 for each in at)
    keys = Keys(kind, layer, index, span, tuple(names), roots, root_spans)
    return keys, np.split(where, np.cumsum([len(part) for part in parts])[:-1])
