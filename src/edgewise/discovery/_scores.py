"""What every attribution method returns: one number per edge, from which circuits of any size are chosen."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.circuit import (
    SCHEMA,
    Circuit,
    Mixed,
    Selection,
    ablation_header,
    ablation_of_header,
    ranked,
    recorded_ablation,
)
from edgewise.engine import Engine
from edgewise.graph import Ablation, Graph, GraphSpec
from edgewise.runs import check_suffix, reading_tensors, record_of, write_tensors


@dataclass(frozen=True, eq=False)
class Scores:
    """One score per edge, higher for edges that should be kept, and where the scores came from."""

    graph: Graph
    values: Float[Tensor, " E"]
    provenance: dict[str, Any] = field(default_factory=dict)
    writers: Float[Tensor, " W"] | None = None
    """A node method's own scores, of which the edges' are made (see `edges_of_nodes`); None for other methods."""
    readers: Float[Tensor, " R"] | None = None
    """The same for readers, where the method scores those."""
    ablation: Ablation | Mixed | None = None
    """What removed edges carry in the circuits chosen by them; see `Circuit.ablation`."""

    def __post_init__(self) -> None:
        if self.values.shape != (self.graph.n_edges,):
            raise InputError(
                f"scores: values has shape {tuple(self.values.shape)}; expected [{self.graph.n_edges}], one per edge"
            )
        if self.ablation is None:
            object.__setattr__(self, "ablation", recorded_ablation(self.provenance))

    def __repr__(self) -> str:
        """The edges, the method and the range."""
        method, known = record_of(self.provenance, "method").get("name", "?"), self.values[~self.values.isnan()]
        ends = f"{known.min():.3g} to {known.max():.3g}" if len(known) else "none known"
        return f"Scores({self.graph.n_edges:,} edges, by {method}: {ends})"

    @staticmethod
    def of(circuit: Circuit) -> "Scores":
        """The scores that a circuit was chosen by.

        Raises:
            InputError: it has none.
        """
        if circuit.scores is None:
            raise InputError("scores: the circuit has none; it was not chosen by them, or another tool left them out")
        return Scores(circuit.graph, circuit.scores, circuit.provenance, ablation=circuit.ablation)

    def save(self, path: str | Path) -> None:
        """Write one `.safetensors` file with a JSON header, whole or not at all.

        Raises:
            InputError: the path has another suffix or cannot be written.
        """
        check_suffix(path, "scores are")
        tensors = {"values": self.values, "writers": self.writers, "readers": self.readers}
        header = {
            "schema": SCHEMA,
            "graph": self.graph.spec.to_dict(),
            "ablation": ablation_header(self.ablation),
            "provenance": self.provenance,
        }
        write_tensors(path, {name: each for name, each in tensors.items() if each is not None}, header)

    @staticmethod
    def load(path: str | Path) -> "Scores":
        """Read scores that `save` wrote, or those that a circuit's file has.

        Raises:
            InputError: there is no such file, it holds no scores, or it was written by a newer version.
        """
        what, instead = "a file of edgewise with scores", "give what `Scores.save` wrote, or a circuit with scores"
        with reading_tensors(path, what, instead, schema=SCHEMA) as (header, tensors):
            graph, ablation = Graph(GraphSpec.from_dict(header["graph"])), ablation_of_header(header)
            values = tensors["scores"] if "kept" in tensors else tensors["values"]
            ends = tensors.get("writers"), tensors.get("readers")
            return Scores(graph, values, dict(header["provenance"]), *ends, ablation)

    def top(self, k: int, *, absolute: bool = False) -> Circuit:
        """The circuit of the `k` highest scores (ties go to the lower edge number, so that the size is exact).

        Args:
            k: nominal size.
            absolute: rank by absolute score.

        Raises:
            InputError: `k` is not between 0 and the number of edges.
        """
        if not 0 <= k <= self.graph.n_edges:
            raise InputError(f"size {k}: the graph has {self.graph.n_edges} edges")
        return self._circuit(self._order(absolute)[:k], absolute)

    def at(self, sparsity: float, *, actual: bool = False, absolute: bool = False) -> Circuit:
        """The circuit at a sparsity; see `top` and `top_actual`.

        Args:
            sparsity: 1 − edges / all edges, in [0, 1].
            actual: count only edges that can carry signal.
            absolute: rank by absolute score.

        Raises:
            InputError: the sparsity is outside [0, 1].
        """
        k = edges_at(self.graph, sparsity)
        return self.top_actual(k, absolute=absolute) if actual else self.top(k, absolute=absolute)

    def top_actual(self, k: int, *, absolute: bool = False) -> Circuit:
        """The largest circuit of highest scores whose *actual* size is at most `k`, with its idle edges dropped.

        The actual size grows with the nominal one, since keeping more edges never cuts a path, so it is found by
        bisection.
        """
        if not 0 <= k <= self.graph.n_edges:
            raise InputError(f"size {k}: the graph has {self.graph.n_edges} edges")
        order = self._order(absolute)
        low, high = k, self.graph.n_edges
        while low < high:
            middle = (low + high + 1) // 2
            if self._circuit(order[:middle], absolute).n_actual <= k:
                low = middle
            else:
                high = middle - 1
        return self._circuit(order[:low], absolute).pruned()

    def _order(self, absolute: bool) -> Tensor:
        return ranked(self.values, absolute=absolute).argsort(descending=True, stable=True)

    def _circuit(self, edges: Tensor, absolute: bool) -> Circuit:
        kept: Bool[Tensor, " E"] = torch.zeros(self.graph.n_edges, dtype=torch.bool)
        kept[edges] = True
        selection: Selection = "absolute" if absolute else "signed"
        method = dict(record_of(self.provenance, "method")) | {"selection": selection}
        return Circuit(self.graph, kept, self.values, self.provenance | {"method": method}, self.ablation, selection)


def edges_of_nodes(
    graph: Graph, writers: Float[Tensor, " W"], readers: Float[Tensor, " R"] | None = None
) -> Float[Tensor, " E"]:
    """Edges' scores from those of nodes: of an edge's two ends, the one nearer to 0.

    So the edges of highest absolute score are all the edges among the nodes of highest absolute score. `logits` is an
    end that every circuit has. Without scores of its own, a reader has that of the component that it feeds (a shared
    key or value that of the head of highest absolute score, a cross-layer feature that of its place of highest).
    """
    if readers is None:
        readers = writers.new_full((graph.n_readers,), torch.inf)
        for block in graph.blocks[:-1]:
            fed = writers[graph.writers_of(block)]
            if block.kind == "attention":
                shared = fed.view(graph.n_kv_readers, -1)
                shared = shared.gather(1, shared.abs().argmax(1, keepdim=True))[:, 0]
                fed = torch.cat([fed, shared, shared])
            if block.number in graph.places:
                rows, places = graph.places[block.number]
                for row, place in zip(rows.tolist(), places.tolist(), strict=True):
                    fed = fed.clone()
                    fed[row] = max(fed[row], writers[place], key=abs)
            readers[block.readers] = fed
    ends = torch.stack([writers[graph.edge_writer.long()], readers[graph.edge_reader.long()]])
    return ends.gather(0, ends.abs().argmin(0, keepdim=True))[0]


def edges_at(graph: Graph, sparsity: float) -> int:
    """How many edges a circuit may have at a sparsity: `(1 − sparsity) E`, rounded down.

    Raises:
        InputError: the sparsity is not a number in [0, 1].
    """
    if not 0 <= sparsity <= 1:
        raise InputError(
            f"sparsity {sparsity}: it is 1 − kept edges / all edges, so it lies between 0 and 1; "
            "0.98 keeps 2 % of the edges"
        )
    # A hair above, so that 0.98 of 1,000 edges is 20 and not 19 for want of a bit.
    return int((1 - sparsity) * graph.n_edges + 1e-6)


def check_values(method: str, values: Float[Tensor, " n"]) -> None:
    """Refuse scores that are not finite, and warn of scores that tell no edge from another. Raises `InputError`."""
    if bad := int((~values.isfinite()).sum()):
        raise InputError(
            f"{method}: {bad:,} of {len(values):,} scores are not finite; look for an example whose metric is not, or "
            "load the model in float32"
        )
    if len(values) > 1 and bool((values == values[0]).all()):
        warnings.warn(f"{method}: all scores are {values[0]:g}, so they tell no edge from another", stacklevel=3)


def check_start(engine: Engine, start: Scores) -> None:
    """Refuse scores to start from that are of another graph than the engine's or not finite. Raises `InputError`."""
    if start.graph != engine.graph:
        other = start.graph.spec.differences(engine.graph.spec)
        raise InputError(f"start: its scores are of another graph than the engine's ({other}); give some of the same")
    if bad := int((~start.values.isfinite()).sum()):
        raise InputError(f"start: {bad:,} of {len(start.values):,} edges have no finite score; give one to every edge")


def normal_scores(values: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
    """Standard normal quantiles of the ranks: the same order, a known spread."""
    ranks = values.argsort(stable=True).argsort().double()
    return torch.special.ndtri((ranks + 0.5) / len(ranks)).float()
