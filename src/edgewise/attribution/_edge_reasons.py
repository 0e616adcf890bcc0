"""What a graph's most influential edges are made of: each split over all heads at every layer, and of those that heads
carry most, why these look where they look. It is what a page shows without the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edgewise.attribution._attach import explained_of
from edgewise.attribution._file_checks import check_columns, check_range, check_texts
from edgewise.attribution._graph import GraphData
from edgewise.attribution._head_table import loadings
from edgewise.attribution._influence import edge_influence
from edgewise.attribution._promoted import Promoted, promoted
from edgewise.attribution._reasons import Why
from edgewise.attribution._why import why
from edgewise.runs import check_counts, check_suffix, reading_tensors, write_tensors

SCHEMA = 1
N_EDGES, N_REASONS = 200, 20
SAME = 1e-3
"""How far an edge's weight may be off, relatively, to be the same: as far as other hardware puts it."""
_TENSORS = ("weight", "heads", "past", "later")


@dataclass(frozen=True, eq=False)
class EdgeReasons:
    """Some of a graph's edges, the most influential first. At each layer between an edge's source and its target,
    `heads.sum(-1) + past + later` is its weight; elsewhere all three are 0.
    """

    sources: tuple[str, ...]
    """Of each edge, by name,"""
    targets: tuple[str, ...]
    """and its target."""
    weight: Float[Tensor, " n"]
    heads: Float[Tensor, "n L H"]
    """Through each head."""
    past: Float[Tensor, "n L"]
    """Past the heads, on the residual stream or through a skip connection."""
    later: Float[Tensor, "n L"]
    """Written only after this layer's attention, by a cross-layer feature."""
    whys: Mapping[int, Why]
    """Of those of which heads carry most, by place: by which positions these take them, and why they look there."""
    writes: Mapping[str, Promoted]
    """Of the neurons and features at their ends: the tokens that each speaks for."""
    tokens: tuple[str, ...]
    """The graph's prompt,"""
    roots: tuple[str, ...]
    """and what it explains: by these it is known again."""

    def __len__(self) -> int:
        return len(self.sources)

    def fits(self, graph: GraphData) -> bool:
        """Whether it is of a graph, or of one that this one was pruned from: of the same prompt and roots, and with the
        same weight on most edges that both have.
        """
        same = self._shared(graph)[2]
        return (self.tokens, self.roots) == (graph.tokens, graph.roots) and 2 * int(same.sum()) > len(same)

    def edges_in(self, graph: GraphData) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"]]:
        """Which of its edges a graph has, with the same weight, and where they stand among the graph's."""
        places, edges, same = self._shared(graph)
        return places[same], edges[same]

    def changed_in(self, graph: GraphData) -> int:
        """How many of its edges a graph has with another weight, as with another model, setting or transcoder."""
        return int((~self._shared(graph)[2]).sum())

    def _shared(self, graph: GraphData) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"], Bool[Tensor, " m"]]:
        """Which of its edges a graph has, where they stand there, and whether with the same weight."""
        number = {name: i for i, name in enumerate(graph.names)}
        found = list[tuple[int, int]]()
        for place, (source, target) in enumerate(zip(self.sources, self.targets, strict=True)):
            if source in number and target in number:
                first, end = graph.offsets[number[target] : number[target] + 2].tolist()
                at = (graph.sources[first:end] == number[source]).nonzero()
                found += [(place, first + int(at[0, 0]))] if len(at) else []
        places, edges = torch.tensor(found, dtype=torch.long).view(-1, 2).unbind(1)
        return places, edges, torch.isclose(self.weight[places], graph.weight[edges].float(), rtol=SAME)

    def save(self, path: str | Path) -> None:
        """Write one `.safetensors` file with a JSON header, whole or not at all. Raises `InputError`."""
        check_suffix(path, "the reasons of edges are")
        header: dict[str, Any] = {name: getattr(self, name) for name in ("sources", "targets", "tokens", "roots")}
        header |= {
            "schema": SCHEMA,
            "kind": "reasons of edges",
            "whys": [(place, each.to_dict()) for place, each in self.whys.items()],
        }
        header["writes"] = {name: each._asdict() for name, each in self.writes.items()}
        write_tensors(path, {name: getattr(self, name) for name in _TENSORS}, header)

    @staticmethod
    def load(path: str | Path) -> "EdgeReasons":
        """Read what `save` wrote. Raises `InputError` for another file."""
        what, instead = "the reasons of a graph's edges", "give what `edgewise view --evidence` wrote"
        with reading_tensors(path, what, instead, schema=SCHEMA) as (header, tensors):
            fields: dict[str, Any] = {name: tuple(header[name]) for name in ("sources", "targets", "tokens", "roots")}
            fields |= {name: tensors[name] for name in _TENSORS}
            found = EdgeReasons(
                whys={int(place): Why.from_dict(each) for place, each in header["whys"]},
                writes={name: Promoted.read(each) for name, each in header["writes"].items()},
                **fields,
            )
            found._check()
            return found

    def _check(self) -> None:
        """Refuse what a file made of reasons that are none. Raises `ValueError`."""
        check_columns({"weights": self.weight}, len(self), whole=False)
        for name in ("heads", "past", "later"):
            numbers = getattr(self, name)
            check_columns({name: numbers.flatten()}, numbers.numel(), whole=False)
        of_layers = [list(each.shape) for each in (self.past, self.later)]
        shape = list(self.heads.shape)
        if len(shape) != 3 or shape[0] != len(self) or of_layers != [shape[:2]] * 2 or len(self.targets) != len(self):
            raise ValueError("its numbers are not of its edges, layers and heads")
        check_range("places of reasons", torch.tensor(list(self.whys), dtype=torch.long), 0, len(self))
        check_texts(sources=self.sources, targets=self.targets, tokens=self.tokens, roots=self.roots)


@torch.no_grad()
def edge_reasons(
    graph: GraphData, n_edges: int = N_EDGES, n_reasons: int = N_REASONS, n_heads: int = 2, most: int = 8
) -> EdgeReasons:
    """Split a graph's most influential edges over heads, edge by edge, and explain further those that heads carry most.

    Args:
        graph: made by `attribute`, or attached.
        n_edges: how many edges are split.
        n_reasons: how many of them get what `why` says, which takes a walk through the model for each: those of which
            the heads of a layer carry most influence, what the first token's nodes write aside, to which many heads
            attend on every prompt.
        n_heads: how many heads' reasons `why` gives.
        most: how many pairs of nodes of each.

    Raises:
        InputError: the run is not at hand, or a count is negative.
    """
    counts = {"n_edges": n_edges, "n_reasons": n_reasons, "n_heads": n_heads, "most": most}
    check_counts("edge_reasons", least=0, **counts)
    made, influence = explained_of(graph), edge_influence(graph)
    chosen = influence.topk(min(n_edges, len(influence))).indices
    chosen = chosen[influence[chosen] > 0]
    names, layers = graph.names, made.nodes.run.layers
    heads = torch.zeros(len(chosen), len(layers), len(layers[0].pattern.query), dtype=torch.float32)
    past, later = torch.zeros(2, len(chosen), len(layers), dtype=torch.float32)
    place = torch.full((graph.n_edges,), -1)
    place[chosen] = torch.arange(len(chosen))
    for split in loadings(graph, chosen):
        # Of a block of edges some begin above others' first layer: there is nothing of them yet.
        begun = (graph.nodes.layer[graph.sources[split.edges]] < split.passing.layer).float()
        rows, at = place[split.edges], (split.target, split.source)
        through = split.passing.heads[:, split.target, split.source].T.float().cpu()
        heads[rows, split.passing.layer] = through * begun[:, None]
        past[rows, split.passing.layer] = split.passing.past[at].float().cpu() * begun
        later[rows, split.passing.layer] = split.passing.later[at].float().cpu() * begun
    sources = tuple(names[i] for i in graph.sources[chosen].tolist())
    targets = tuple(names[i] for i in graph.edge_targets[chosen].tolist())
    weight = graph.weight[chosen].float()
    carried = influence[chosen] * heads.abs().sum(2).max(1).values / weight.abs()
    carried[graph.nodes.position[graph.sources[chosen]] == 0] = 0.0
    best = carried.topk(min(n_reasons, len(chosen)))
    first = sorted(best.indices[best.values > 0].tolist())
    whys = {place: why(graph, sources[place], targets[place], n_heads, most) for place in first}
    ends = torch.cat([graph.sources[chosen], graph.edge_targets[chosen]]).unique()
    inner = ends[graph.nodes.is_kind("neuron", "feature")[ends]]
    writes = promoted(graph, [names[i] for i in inner.tolist()])
    return EdgeReasons(sources, targets, weight, heads, past, later, whys, writes, graph.tokens, graph.roots)
