"""Which heads and MLPs a graph uses: those that what flows goes through, and those that say where its heads look.

Attention is frozen, so a graph shows what heads move and not why they look where they look: what only queries and keys
read is in none of its paths. Here that is followed too, graph by graph:

1. Prune the graph. An MLP is used if one of its nodes is left, or its error; a head if enough of the edges left goes
   through it (`heads_of`).
2. For each head that is used, take the pairs of query and key position that most of it goes through. Why the query
   looks at that key, and not at any other, are two roots, what the query reads and what the keys read
   (`_query_key.py`; against all keys evenly, for a saturated softmax has no other reasons). Make their graph; go to 1.

Readers of queries and keys stand below their head, so this ends.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._attach import explained_of
from edgewise.attribution._attribute import assembled
from edgewise.attribution._attribution_graph import AttributionGraph
from edgewise.attribution._grow import Growth
from edgewise.attribution._head_table import MAP_BYTES, heads_of, loadings
from edgewise.attribution._influence import edge_influence, prune
from edgewise.attribution._kinds import AttributionConfig
from edgewise.attribution._query_key import Contrast
from edgewise.attribution._sparse_rows import Cut
from edgewise.attribution._targets import Explained, Root
from edgewise.runs import RunOptions, SavedAsJson, check_counts, run_steps

MOST_PAIRS = 8
"""Of query and key position, for each head in each graph."""
ROUND_OFF = 1e-5
"""Keys whose scores differ by less, relative to their sizes, are looked at for no reason."""


@dataclass(frozen=True)
class Components(SavedAsJson):
    """Heads and MLPs, by name: `a3.h1`, `m2`."""

    moving: tuple[str, ...]
    """Those that the graph uses: what flows goes through them."""
    looking: tuple[str, ...]
    """Those of no moving, that the reasons why heads look where they look use."""
    n_graphs: int
    """How many graphs were made of reasons; none where a head looks at all keys alike."""
    residual: float
    """The largest ledger residual of all graphs, relative to its target's edges' sizes."""

    @property
    def all(self) -> frozenset[str]:
        """Both."""
        return frozenset(self.moving + self.looking)


class Look(NamedTuple):
    """A head that looks from a query's position at a key's."""

    layer: int
    head: int
    query: int
    key: int


def components_of(graph: AttributionGraph, share: float = 0.95, *, reasons: bool = True, top: int = 1000) -> Components:
    """Which heads and MLPs a graph uses.

    Args:
        graph: made by `attribute`, or attached; not pruned.
        share: of the influence, which nodes and edges keep (see `prune`); a head is used if the rest, `1 − share` of
            the influence of the edges left, goes through it or more.
        reasons: whether to follow why heads look where they look, by graphs made as this one was.
        top: how many edges of a graph are split over heads, the most influential.

    Raises:
        InputError: the run is not at hand, or `share` is not above 0 and below 1.
        KeyboardInterrupt: it was interrupted; components of some reasons would be taken for all.
    """
    if not 0 < share < 1:
        raise InputError(f"share {share}: of the influence; give a number above 0 and below 1, such as 0.95")
    check_counts("components", top=top)
    moving, waiting = _used(graph, share, top, reasons)
    looking, asked, n_graphs, residual = set[str](), set[Look](), 0, graph.ledger.worst
    while waiting:
        look = waiting.pop()
        if look in asked:
            continue
        asked.add(look)
        contrast = Contrast(explained_of(graph).nodes.run, *look, evenly=True)
        if abs(contrast.value) <= ROUND_OFF * contrast.size:
            continue
        reason, n_graphs = _reason(graph, contrast), n_graphs + 1
        residual = max(residual, reason.ledger.worst)
        found, further = _used(reason, share, top, reasons)
        looking |= found
        waiting += further
    return Components(tuple(sorted(moving)), tuple(sorted(looking - moving)), n_graphs, residual)


def _used(graph: AttributionGraph, share: float, top: int, reasons: bool) -> tuple[set[str], list[Look]]:
    """The components of one graph, and where its heads look if that is asked for."""
    small = prune(graph, share, share)
    inner = small.nodes.take(small.nodes.is_kind("neuron", "feature", "error"))
    found = {f"m{layer}" for layer in inner.layer.unique().tolist()}
    heads = [row for row in heads_of(small, top).rows if row.size >= 1 - share]
    found |= {row.name for row in heads}
    looks = list[Look]()
    asking = {(row.layer, row.head) for row in heads if reasons}
    for (layer, head), carried in _maps(small, asking, top).items():
        size, place = carried.flatten().topk(min(MOST_PAIRS, carried.numel()))
        enough = size.cumsum(0) - size < share * carried.sum()
        for pair in place[enough & (size > 0)].tolist():
            looks.append(Look(layer, head, *divmod(pair, len(carried))))
    return found, looks


def _maps(
    graph: AttributionGraph, heads: set[tuple[int, int]], top: int
) -> dict[tuple[int, int], Float[Tensor, "S S"]]:
    """How much of a graph's edges goes through each pair of query and key position of some heads."""
    influence, n = edge_influence(graph), len(graph.ids)
    chosen = influence.topk(min(top, len(influence))).indices
    found = {head: torch.zeros(n, n, dtype=torch.float64) for head in sorted(heads)}
    if not found:
        return found
    for _, passing, target, source, factor in loadings(graph, chosen[influence[chosen] > 0]):
        edges = torch.arange(len(target)).split(max(1, MAP_BYTES // (8 * n**2)))
        for (layer, head), total in found.items():
            for these in edges if layer == passing.layer else ():
                maps = passing.positions(torch.full_like(target[these], head), target[these], source[these])
                carried = torch.einsum("nij,n->ij", maps.abs().to(factor.dtype), factor[these].abs())
                total[: len(carried), : len(carried)] += carried.cpu()
    return found


def _reason(graph: AttributionGraph, contrast: Contrast) -> AttributionGraph:
    """The graph of a contrast, made as another."""
    nodes = explained_of(graph).nodes
    roots = [
        Root(
            f"a{contrast.layer}.h{contrast.head}.{name}",
            1.0,
            contrast.value,
            side._replace(row=torch.zeros_like(side.row)),
        )
        for name, side in zip(("query", "key"), contrast.targets(), strict=True)
    ]
    config = AttributionConfig.of(graph.settings)
    settings = graph.settings | {"target": None, "contrast": False}
    growth = Growth(nodes, roots, config.max_nodes, config.batch, Cut(config.keep, config.most_edges))
    if (report := run_steps(growth, growth.n_steps, {}, RunOptions(progress=False), "reasons")).interrupted:
        raise KeyboardInterrupt(f"interrupted after step {report.steps}")
    return replace(assembled(growth, settings, graph.provenance), explained=Explained(nodes, roots))
