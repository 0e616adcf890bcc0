"""Which heads carry a graph: the loadings of its most influential edges, added up head by head."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._attach import explained_of
from edgewise.attribution._graph import GraphData
from edgewise.attribution._heads import Passing, passes
from edgewise.attribution._influence import edge_influence
from edgewise.attribution._reasons import aligned
from edgewise.attribution._targets import Explained
from edgewise.attribution._why import source_at, targets_of
from edgewise.runs import SavedAsJson, check_counts, finest

BLOCK_BYTES = 1 << 29
"""How much one walk's covectors may take."""
MAP_BYTES = 1 << 23
"""How much a layer's maps of query and key positions may take; beyond it, those of the largest loadings are made."""
FEWEST_MAPS = 16


class HeadRow(NamedTuple):
    """One head."""

    layer: int
    head: int
    share: float
    """The share of the edges' influence that goes through the head; below 0 if it mostly takes away. Of an edge, all
    heads' shares at each layer between its source and its target, with what goes past them or is written later, add up
    to its own; below the one and above the other there is nothing of it."""
    size: float
    """The same by absolute loadings."""
    offsets: tuple[tuple[int, float], ...]
    """How many positions back the head looks, and how much of its loadings that is, the most first."""
    relations: dict[str, float]
    """How much of its loadings goes through pairs of positions of a kind (see `RELATIONS`)."""

    @property
    def name(self) -> str:
        """Such as `a9.h3`."""
        return f"a{self.layer}.h{self.head}"


RELATIONS = {
    "own": "a token looks at itself",
    "previous": "at the token before it",
    "first": "at the prompt's first token",
    "same": "at an earlier token that is the same: a duplicate-token head",
    "after same": "at the token after an earlier one that is the same: an induction-like head",
    "answer": "from the last position at a token that is explained: a name-moving head",
}
"""Kinds of pairs of query and key; a pair may be of several."""


@dataclass(frozen=True)
class HeadTable(SavedAsJson):
    """The heads of a graph."""

    rows: tuple[HeadRow, ...]
    """All heads, the largest first."""
    n_edges: int
    """How many edges were split."""
    covered: float
    """Their share of the influence of all edges, of those that may be chosen."""

    def top(self, n: int = 20, relation: str | None = None) -> "HeadTable":
        """The first heads, or those that carry most through pairs of one of `RELATIONS`. Raises `InputError`."""
        if relation is not None and relation not in RELATIONS:
            raise InputError(f"relation {relation!r}: unknown; give one of {', '.join(RELATIONS)}")
        check_counts("top", least=0, n=n)
        rows = self.rows
        if relation is not None:
            rows = tuple(sorted(rows, key=lambda row: -row.size * row.relations[relation]))
        return HeadTable(rows[:n], self.n_edges, self.covered)

    def __str__(self) -> str:
        """As a table."""
        lines = [("head", "share", "size", "positions back", *RELATIONS)]
        for row in self.rows:
            back = "  ".join(f"{offset} ({share:.0%})" for offset, share in row.offsets[:3])
            shares = (f"{row.relations[name]:.0%}" for name in RELATIONS)
            lines.append((row.name, f"{row.share:+.1%}", f"{row.size:.1%}", back, *shares))
        title = f"{self.n_edges:,} edges, {self.covered:.1%} of all edges' influence, split over heads at every layer"
        return "\n".join([title, *aligned(lines)])


@torch.no_grad()
def heads_of(graph: GraphData, top: int = 200, without_first: bool = False) -> HeadTable:
    """Split a graph's most influential edges over heads, and add their loadings up, weighted by influence.

    Args:
        graph: made by `attribute`, or attached.
        top: how many edges.
        without_first: leave out what nodes at the prompt's first position write, which many heads attend to on every
            prompt.

    Raises:
        InputError: the run is not at hand.
    """
    check_counts("heads", least=0, top=top)
    influence = edge_influence(graph)
    if without_first:
        influence = torch.where(graph.nodes.position[graph.sources] == 0, 0.0, influence)
    chosen = influence.topk(min(top, len(influence))).indices
    chosen = chosen[influence[chosen] > 0]
    totals = _Totals(explained_of(graph), graph)
    for split in loadings(graph, chosen):
        totals.add(split)
    total = float(influence[chosen].sum())
    return HeadTable(totals.rows(total), len(chosen), total / max(float(influence.sum()), 1e-30))


class Split(NamedTuple):
    """What some edges carry through one layer's attention."""

    edges: Int[Tensor, " n"]
    """Which of the graph's,"""
    passing: Passing
    target: Int[Tensor, " n"]
    """of each its row and column there,"""
    source: Int[Tensor, " n"]
    factor: Float[Tensor, " n"]
    """and its influence by its weight."""


@torch.no_grad()
def loadings(graph: GraphData, chosen: Int[Tensor, " n"]) -> Iterator[Split]:
    """Some of a graph's edges, block after block, at each layer."""
    made, influence = explained_of(graph), edge_influence(graph)
    run = made.nodes.run
    for edges in _blocks(graph, made, chosen):
        targets, target = graph.edge_targets[edges].unique(return_inverse=True)
        sources, source = graph.sources[edges].unique(return_inverse=True)
        readers = targets_of(graph, made, targets)
        writers = [source_at(graph, made, each) for each in sources.tolist()]
        factor = influence[edges] / graph.weight[edges].double()
        for passing in passes(made.nodes, readers, len(targets), writers):
            device = run.ids.device
            yield Split(edges, passing, target.to(device), source.to(device), factor.to(device, finest(device)))


def _blocks(graph: GraphData, made: Explained, chosen: Int[Tensor, " n"]) -> Iterator[Int[Tensor, " m"]]:
    """Edges in blocks with few sources and targets each: of a target, one stream is kept for each layer, of a source
    four, its change and those of values, mixed values and what is written.
    """
    run = made.nodes.run
    stream = run.final.numel() * run.final.element_size()
    most_targets, most_sources = (max(1, BLOCK_BYTES // (stream * n)) for n in (len(run.layers), 4))
    ordered = chosen[graph.edge_targets[chosen].argsort(stable=True)]
    for part in ordered.split(most_sources):
        place = graph.edge_targets[part].unique(return_inverse=True)[1] // most_targets
        for block in place.unique().tolist():
            yield part[place == block]


class _Totals:
    """Loadings so far."""

    def __init__(self, made: Explained, graph: GraphData) -> None:
        run = made.nodes.run
        n_tokens, shape = len(run), (len(run.layers), len(run.layers[0].pattern.query))
        self.relations = relations(run.ids.cpu(), _explained(graph))
        self.share, self.size = (torch.zeros(shape, dtype=torch.float64) for _ in range(2))
        self.kinds = torch.zeros(*shape, len(self.relations), dtype=torch.float64)
        self.offsets = torch.zeros(*shape, 2 * n_tokens - 1, dtype=torch.float64)
        """From n − 1 positions ahead to n − 1 back."""

    def add(self, split: Split) -> None:
        """One layer's loadings of a block of edges."""
        _, passing, target, source, factor = split
        loadings = passing.heads[:, target, source].to(factor.dtype) * factor  # (H, n)
        self.share[passing.layer] += loadings.sum(1).cpu()
        self.size[passing.layer] += loadings.abs().sum(1).cpu()
        n_tokens = passing.taken.shape[1]
        most = max(FEWEST_MAPS, MAP_BYTES // (n_tokens**2 * passing.taken.element_size()))
        largest = loadings.flatten().abs().topk(min(most, loadings.numel())).indices
        head, edge = largest // loadings.shape[1], largest % loadings.shape[1]
        maps = passing.positions(head, target[edge], source[edge]).abs()
        maps = (maps * factor[edge, None, None].abs().to(maps)).cpu()
        summed = maps.new_zeros(len(loadings), n_tokens, n_tokens).index_add_(0, head.cpu(), maps)
        back = torch.arange(n_tokens)[:, None] - torch.arange(n_tokens) + self.offsets.shape[2] // 2
        self.offsets[passing.layer].index_add_(1, back.flatten(), summed.flatten(1).double())
        for i, kind in enumerate(self.relations.values()):
            self.kinds[passing.layer, :, i] += summed[:, kind[:n_tokens, :n_tokens]].sum(1)

    def rows(self, total: float) -> tuple[HeadRow, ...]:
        """The table, when all are added."""
        shape, middle = self.share.shape, self.offsets.shape[2] // 2
        mapped = self.offsets.sum(2).clamp(min=1e-30)
        found = list[HeadRow]()
        for place in self.size.flatten().argsort(descending=True, stable=True).tolist():
            layer, head = divmod(place, shape[1])
            offsets = (self.offsets[layer, head] / mapped[layer, head]).topk(min(5, self.offsets.shape[2]))
            kinds = (self.kinds[layer, head] / mapped[layer, head]).tolist()
            found.append(
                HeadRow(
                    layer,
                    head,
                    float(self.share[layer, head]) / max(total, 1e-30),
                    float(self.size[layer, head]) / max(total, 1e-30),
                    tuple((i - middle, x) for i, x in zip(*(x.tolist() for x in offsets[::-1]), strict=True) if x > 0),
                    dict(zip(self.relations, kinds, strict=True)),
                )
            )
        return tuple(found)


def _explained(graph: GraphData) -> list[int]:
    """The tokens that a graph explains, those of a contrast too."""
    target = graph.settings.get("target")
    return [*graph.settings.get("root_tokens", []), *(target if isinstance(target, list) else [])]


def relations(ids: Int[Tensor, " S"], explained: Sequence[int]) -> dict[str, Bool[Tensor, "S S"]]:
    """Which pairs of query and key position are of each kind of `RELATIONS`.

    Args:
        ids: the prompt's tokens.
        explained: the tokens that are explained.
    """
    n = len(ids)
    query, key = torch.arange(n)[:, None], torch.arange(n)
    earlier = key < query
    same = earlier & (ids[:, None] == ids)
    return {
        "own": key == query,
        "previous": key == query - 1,
        "first": (key == 0).expand(n, n),
        "same": same,
        "after same": torch.nn.functional.pad(same, (1, 0))[:, :n] & (key <= query),
        "answer": (query == n - 1) & torch.isin(ids, ids.new_tensor(explained)),
    }
