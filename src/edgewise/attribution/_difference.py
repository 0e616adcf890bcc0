"""The difference of two graphs: what flows in one and not in the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._attribution_graph import AttributionGraph
from edgewise.attribution._file_checks import check_columns, check_range
from edgewise.attribution._keys import By, Keys, Spans, joined, same_roots
from edgewise.attribution._merge import MergedGraph, distinct, kind_of_nodes, merge
from edgewise.attribution._over_prompts import OverPrompts, unpaired_intervals
from edgewise.runs import check_counts, check_suffix, reading_tensors, write_tensors

SCHEMA = 1
Graphs = AttributionGraph | MergedGraph | Sequence[AttributionGraph]


@dataclass(frozen=True, eq=False)
class Difference:
    """Two graphs beside each other, on the union of their nodes and edges."""

    nodes: Keys
    targets: Int[Tensor, " E"]
    sources: Int[Tensor, " E"]
    first: Float[Tensor, " E"]
    """Each edge's weight in the first graph, 0 where it has it not; the influence along it, if joined by places."""
    second: Float[Tensor, " E"]
    """In the second."""
    intervals: Float[Tensor, "E 2"]
    """Of `first − second`, 95 % bootstrap over prompts; NaN where one of them is of a single prompt."""
    first_influence: Float[Tensor, " n"]
    """Of each node on the roots."""
    second_influence: Float[Tensor, " n"]
    by: By
    n_prompts: tuple[int, int]
    root_weights: Float[Tensor, " R"]
    """How much of each root is explained, such as a token's probability: the larger of the two graphs'."""

    @property
    def value(self) -> Float[Tensor, " E"]:
        """`first − second`."""
        return self.first - self.second

    @cached_property
    def names(self) -> list[str]:
        """The nodes'."""
        return self.nodes.names()

    @property
    def sure(self) -> Tensor:
        """Edges whose difference has an interval without 0."""
        return (self.intervals[:, 0] > 0) | (self.intervals[:, 1] < 0)

    def table(self, most: int | None = None) -> dict[str, list[Any]]:
        """The edges as columns, those that differ most first: `source`, `target`, `first`, `second`, `difference`,
        `low`, `high`.

        Args:
            most: how many; None: all.
        """
        check_counts("table", least=0, most=most)
        order = self.value.abs().argsort(descending=True, stable=True)[:most]
        columns = {"first": self.first, "second": self.second, "difference": self.value}
        columns |= {"low": self.intervals[:, 0], "high": self.intervals[:, 1]}
        ends = {"source": self.sources, "target": self.targets}
        return {
            **{end: [self.names[i] for i in which[order].tolist()] for end, which in ends.items()},
            **{name: column[order].tolist() for name, column in columns.items()},
        }

    def node_table(self, most: int | None = None) -> dict[str, list[Any]]:
        """The nodes as columns, those whose influence differs most first: `node`, `first`, `second`, `difference`.

        Args:
            most: how many; None: all.
        """
        check_counts("node_table", least=0, most=most)
        value = self.first_influence - self.second_influence
        order = value.abs().argsort(descending=True, stable=True)[:most]
        columns = {"first": self.first_influence, "second": self.second_influence, "difference": value}
        return {
            "node": [self.names[i] for i in order.tolist()],
            **{name: column[order].tolist() for name, column in columns.items()},
        }

    def save(self, path: str | Path) -> None:
        """Write one `.safetensors` file with a JSON header, whole or not at all. Raises `InputError`."""
        check_suffix(path, "a difference is")
        tensors = self.nodes.tensors()
        tensors |= {name: getattr(self, name) for name in (*_TENSORS, "root_weights")}
        header = {"by": self.by, "n_prompts": self.n_prompts, **self.nodes.header()}
        write_tensors(path, tensors, {"schema": SCHEMA, "kind": "difference of attribution graphs", **header})

    @staticmethod
    def load(path: str | Path) -> "Difference":
        """Read a difference. Raises `InputError` for what is none."""
        what, instead = "a difference of attribution graphs of edgewise", "give what `Difference.save` wrote"
        with reading_tensors(path, what, instead, schema=SCHEMA) as (header, tensors):
            first, second = header["n_prompts"]
            found = Difference(
                nodes=Keys.read(header, tensors),
                by=header["by"],
                n_prompts=(first, second),
                root_weights=tensors.get("root_weights", torch.ones(len(header["roots"]))),  # older files have none
                **{name: tensors[name] for name in _TENSORS},
            )
            found._check()
            return found

    def _check(self) -> None:
        """Refuse what a file made of a difference that is none. Raises `ValueError`."""
        n, edges = len(self.nodes), {"targets": self.targets, "sources": self.sources}
        check_columns(edges, len(self.targets), whole=True)
        for name, column in edges.items():
            check_range(name, column, 0, n)
        check_columns({"first": self.first, "second": self.second}, len(self.targets), whole=False)
        check_columns({"influence": self.first_influence, "influences": self.second_influence}, n, whole=False)
        check_columns({"roots' weights": self.root_weights}, len(self.nodes.roots), whole=False)
        if self.intervals.shape != (len(self.targets), 2) or self.by not in ("nodes", "places"):
            raise ValueError("its intervals are not of its edges")


_TENSORS = ("targets", "sources", "first", "second", "intervals", "first_influence", "second_influence")


def difference(first: Graphs, second: Graphs, spans: Spans = "end", by: By | None = None) -> Difference:
    """Two graphs beside each other: of a clean and a corrupted prompt, two checkpoints, transcoders for each layer and
    across layers, transcoders and neurons; or of several prompts each.

    Args:
        first: a graph, several, or what `merge` made of them.
        second: another; its weights are taken off. Over equally many prompts the two are taken to be pairs.
        spans: what stands for a position, where graphs are not merged yet; by names only for graphs of one prompt
            each, or equally many.
        by: what is the same in both; None: `nodes` if both have neurons or features of the same transcoders, else
            `places`. Say `nodes` for the same features of changed transcoders, as before and after tuning.

    Raises:
        InputError: they are of unlike models, or were merged by something else or over other spans.
    """
    by = by or _by(first, second)
    both = _merged(first, spans, by), _merged(second, spans, by)
    if both[0].by != by or both[1].by != by:
        raise InputError(
            f"difference by {by}: of graphs merged by {both[0].by} and {both[1].by}; give the graphs themselves"
        )
    if both[0].nodes.n_layers != both[1].nodes.n_layers:
        sizes = f"{both[0].nodes.n_layers} and of {both[1].nodes.n_layers} layers"
        raise InputError(f"difference: of graphs of {sizes}; give graphs of one model, or of two checkpoints")
    if both[0].settings["spans"] != both[1].settings["spans"]:
        spanned = " and ".join(each.settings["spans"] for each in both)
        raise InputError(f"difference: of graphs merged over the spans {spanned}; merge both over the same")
    roots, places = same_roots([each.nodes.roots for each in both])
    keys, where = joined([each.nodes.with_roots(place) for each, place in zip(both, places, strict=True)], roots)
    n = len(keys)
    codes, edges = distinct(
        [at[each.targets.numpy()] * n + at[each.sources.numpy()] for each, at in zip(both, where, strict=True)]
    )
    a, b = (each.weight.spread(at, len(codes)) for each, at in zip(both, edges, strict=True))
    of_nodes = [each.influence.spread(at, n).mean for each, at in zip(both, where, strict=True)]
    of_roots = torch.zeros(2, len(roots), dtype=torch.float64)
    for row, each, place in zip(of_roots, both, places, strict=True):
        row[place] = each.root_weights.double()
    return Difference(
        keys,
        torch.from_numpy(codes // n),
        torch.from_numpy(codes % n),
        a.mean,
        b.mean,
        _intervals(a, b),
        of_nodes[0],
        of_nodes[1],
        by,
        (both[0].n_prompts, both[1].n_prompts),
        of_roots.amax(0),
    )


def _by(first: Graphs, second: Graphs) -> By:
    """As they were merged, else `nodes` if both have the same. Raises `InputError` where merged ones have not."""
    kinds, merged = [], list[By]()
    for each in (first, second):
        if isinstance(each, MergedGraph):
            merged.append(each.by)
        graph = each if isinstance(each, (AttributionGraph, MergedGraph)) else next(iter(each), None)
        kinds.append(None if graph is None else kind_of_nodes(graph))
    same = kinds[0] == kinds[1]
    if merged and merged[0] == "nodes" and not same:
        raise InputError("difference: merged by nodes, but of different ones; merge by='places', or say by='nodes'")
    return merged[0] if merged else "nodes" if same else "places"


def _merged(graphs: Graphs, spans: Spans, by: By) -> MergedGraph:
    if isinstance(graphs, MergedGraph):
        return graphs
    return merge([graphs] if isinstance(graphs, AttributionGraph) else graphs, spans, by)


def _intervals(first: OverPrompts, second: OverPrompts) -> Float[Tensor, "E 2"]:
    """Of the difference: paired if there are equally many prompts."""
    if first.n_prompts == second.n_prompts:
        return OverPrompts.of(first.matrix - second.matrix, first.n_prompts).intervals()
    return unpaired_intervals(first, second)
