"""A circuit: which edges of a graph are kept, with where it came from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from edgewise._errors import InputError
from edgewise.graph import Graph, GraphSpec
from edgewise.runs import reading_tensors, write_tensors

SCHEMA = 1
"""Version of the file format; raised when an older reader would misread a newer file."""


@dataclass(frozen=True, eq=False)
class Circuit:
    """A subset of a graph's edges, the scores it was chosen by, and its provenance.

    Sizes are always two: *nominal*, the edges asked for, and *actual*, those left once the edges that cannot carry
        signal are dropped
    (see `Graph.prune`). The circuit computes the same with or without the difference.
    """

    graph: Graph
    kept: Shaped[Tensor, " E"]
    """Whether each edge is; any numbers are taken as booleans."""
    scores: Float[Tensor, " E"] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    """Plain values: `model`, `ablation`, `task`, `method`, `software`, … as they were when it was found."""

    def __post_init__(self) -> None:
        """Check the shapes. Raises `InputError`."""
        for name, tensor in (("kept", self.kept), ("scores", self.scores)):
            if tensor is not None and tensor.shape != (self.graph.n_edges,):
                raise InputError(
                    f"circuit: {name} has shape {tuple(tensor.shape)}; expected [{self.graph.n_edges}], one per edge"
                )
        object.__setattr__(self, "kept", self.kept.detach().cpu().bool().contiguous())
        if self.scores is not None:
            scores = self.scores.detach() if self.scores.requires_grad else self.scores
            object.__setattr__(self, "scores", scores.cpu().contiguous())

    @property
    def ablation(self) -> str:
        """The kind of ablation under which it was found; interchange if it does not say."""
        ablation = self.provenance.get("ablation")
        return ablation.get("kind", "interchange") if isinstance(ablation, dict) else "interchange"

    @cached_property
    def actual(self) -> Bool[Tensor, " E"]:
        """The kept edges that can carry signal."""
        return self.graph.prune(self.kept, self.ablation)

    @property
    def n_edges(self) -> int:
        """Nominal size."""
        return int(self.kept.sum())

    @property
    def n_actual(self) -> int:
        """Actual size."""
        return int(self.actual.sum())

    @property
    def sparsity(self) -> float:
        """1 − nominal edges / all edges."""
        return 1 - self.n_edges / self.graph.n_edges

    @property
    def actual_sparsity(self) -> float:
        """1 − actual edges / all edges."""
        return 1 - self.n_actual / self.graph.n_edges

    def pruned(self) -> "Circuit":
        """The same circuit with only its actual edges."""
        return Circuit(self.graph, self.actual, self.scores, self.provenance)

    def edge_names(self) -> list[str]:
        """The names of the kept edges."""
        return self.graph.edge_names(self.kept.nonzero()[:, 0])

    def __and__(self, other: "Circuit") -> "Circuit":
        """Edges in both. Raises `InputError` for circuits of different graphs."""
        return self._combined(other, torch.logical_and, "intersection")

    def __or__(self, other: "Circuit") -> "Circuit":
        """Edges in either. Raises `InputError` for circuits of different graphs."""
        return self._combined(other, torch.logical_or, "union")

    def __sub__(self, other: "Circuit") -> "Circuit":
        """Edges in this one alone. Raises `InputError` for circuits of different graphs."""
        return self._combined(other, lambda a, b: a & ~b, "difference")

    def iou(self, other: "Circuit") -> float:
        """Shared kept edges / kept edges of either; 1 for two empty circuits."""
        either = (self | other).n_edges
        return (self & other).n_edges / either if either else 1.0

    def _combined(self, other: "Circuit", combine: Callable[[Tensor, Tensor], Tensor], name: str) -> "Circuit":
        if self.graph != other.graph:
            raise InputError(f"{name}: the circuits are of different graphs, {self.graph.spec} and {other.graph.spec}")
        transcoders = [each.provenance["transcoders"] for each in (self, other) if "transcoders" in each.provenance]
        if transcoders[1:] not in ([], transcoders[:1]):
            raise InputError(f"{name}: the circuits' features are of different transcoders")
        parents = {"method": {"name": name, "of": [self.provenance, other.provenance]}}
        shared = {key: value for key, value in self.provenance.items() if other.provenance.get(key) == value}
        if transcoders:
            shared["transcoders"] = transcoders[0]
        if "ablation" not in shared:  # of two kinds, only edges that are idle under any ablation count as idle
            shared["ablation"] = {"kind": self.ablation if self.ablation == other.ablation else "mixed"}
        return Circuit(self.graph, combine(self.kept, other.kept), None, shared | parents)

    def __repr__(self) -> str:
        """Both sizes and the total."""
        return (
            f"Circuit({self.n_edges:,} edges, {self.n_actual:,} actual, of {self.graph.n_edges:,}: sparsity "
            f"{self.sparsity:.2%}, "
            f"actual {self.actual_sparsity:.2%})"
        )

    def save(self, path: str | Path) -> None:
        """Write one `.safetensors` file with a JSON header, whole or not at all.

        Raises:
            InputError: the path has another suffix or cannot be written.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise InputError(f"{path}: a circuit is saved as .safetensors")
        tensors = {"kept": self.kept} if self.scores is None else {"kept": self.kept, "scores": self.scores}
        header = {"schema": SCHEMA, "graph": self.graph.spec.to_dict(), "provenance": self.provenance}
        write_tensors(path, tensors, header)

    @staticmethod
    def load(path: str | Path) -> "Circuit":
        """Read a circuit.

        Raises:
            InputError: there is no such file, or it is not a circuit, or it was written by a newer version.
        """
        path = Path(path)
        what, instead = "a circuit file of edgewise", "give the circuit.safetensors that `edgewise find` wrote"
        with reading_tensors(path, what, instead, schema=SCHEMA) as (header, tensors):
            if not isinstance(header["provenance"], dict):
                raise TypeError("its provenance is no dictionary")
            graph = Graph(GraphSpec.from_dict(header["graph"]))
            return Circuit(graph, tensors["kept"], tensors.get("scores"), header["provenance"])
