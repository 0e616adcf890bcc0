"""A circuit: which edges of a graph are kept, with where it came from."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from edgewise._errors import InputError
from edgewise.graph import Ablation, Graph, GraphSpec
from edgewise.runs import check_suffix, reading_tensors, record_of, write_tensors

Selection = Literal["absolute", "signed"]
Mixed = Literal["mixed"]

SCHEMA = 1
"""Version of the file format; raised when an older reader would misread a newer file."""


@dataclass(frozen=True, eq=False)
class Circuit:
    """A subset of a graph's edges, the scores it was chosen by, and its provenance.

    Sizes are always two: *nominal*, the edges asked for, and *actual*, those left once the edges that cannot carry
    signal are dropped (see `Graph.prune`). On prompts that correspond token by token the circuit computes the same with
    or without the difference; on pairs of unequal length it need not, so run what is `kept` there.
    """

    graph: Graph
    kept: Shaped[Tensor, " E"]
    """Whether each edge is; any numbers are taken as booleans."""
    scores: Float[Tensor, " E"] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    """Plain values, for people: `model`, `task`, `method`, `software`, … as they were when it was found."""
    ablation: Ablation | Mixed | None = None
    """What its removed edges carried when it was found; `mixed` if it is made of circuits of several kinds. If not
    given, that of the provenance's record; None if that says nothing either."""
    selection: Selection | None = None
    """How its edges were ranked, if they were the highest of a score; if not given, as the provenance's record says."""

    def __post_init__(self) -> None:
        """Check shapes, types and names. Raises `InputError`."""
        if self.ablation is None:
            object.__setattr__(self, "ablation", recorded_ablation(self.provenance))
        if self.selection is None:
            method = self.provenance.get("method")
            found = method.get("selection") if isinstance(method, dict) else None
            object.__setattr__(self, "selection", found if found in get_args(Selection) else None)
        if self.selection not in (None, *get_args(Selection)):
            raise InputError(f"circuit: selection={self.selection!r:.60}; choose absolute or signed, or None")
        if self.scores is not None and not self.scores.is_floating_point():
            raise InputError(f"circuit: scores are of {self.scores.dtype}; give floating-point numbers")
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
    def ablation_kind(self) -> str:
        """The kind of ablation under which it was found, or `mixed`; interchange if it does not say."""
        return _kind(self.ablation)

    @property
    def stated_ablation(self) -> Ablation | None:
        """The one ablation under which it was found; None if it does not say, or was found under several kinds."""
        return self.ablation if isinstance(self.ablation, Ablation) else None

    @cached_property
    def actual(self) -> Bool[Tensor, " E"]:
        """The kept edges that can carry signal between prompts that correspond token by token."""
        return self.graph.prune(self.kept, self.ablation_kind)

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

    def pruned(self, *, unequal: bool = False) -> "Circuit":
        """The same circuit with only its actual edges; if `unequal`, with those too that carry signal only between
        prompts of unequal length.
        """
        return replace(self, kept=self.graph.prune(self.kept, "aligned") if unequal else self.actual)

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
            differ = self.graph.spec.differences(other.graph.spec)
            raise InputError(f"{name}: the circuits are of different graphs ({differ}); give two of one graph")
        transcoders = [each.provenance["transcoders"] for each in (self, other) if "transcoders" in each.provenance]
        if transcoders[1:] not in ([], transcoders[:1]):
            raise InputError(f"{name}: the circuits' features are of different transcoders")
        parents = {"method": {"name": name, "of": [*self._parents(name), *other._parents(name)]}}
        shared = {key: value for key, value in self.provenance.items() if other.provenance.get(key) == value}
        if transcoders:
            shared["transcoders"] = transcoders[0]
        ablation = common_ablation(self.ablation, other.ablation)
        if "ablation" not in shared and ablation is not None:
            shared["ablation"] = ablation_header(ablation)
        return Circuit(self.graph, combine(self.kept, other.kept), None, shared | parents, ablation)

    def _parents(self, name: str) -> list[Any]:
        """What it was combined of, if in the same way and the order says nothing, or else itself: a file nests only so
        deep.
        """
        method = record_of(self.provenance, "method")
        own = name == "difference" or "converted" in self.provenance or method.get("name") != name
        if not own and isinstance(method.get("of"), list):
            return method["of"]
        return [self.provenance]

    def __repr__(self) -> str:
        """Both sizes and the total."""
        return (
            f"Circuit({self.n_edges:,} edges, {self.n_actual:,} actual, of {self.graph.n_edges:,}: "
            f"sparsity {self.sparsity:.2%}, actual {self.actual_sparsity:.2%})"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: a small picture, and the whole viewer on a click."""
        # Asked for by name: what draws circuits is built on them, so this module cannot import it.
        return import_module("edgewise.viewer").notebook_html(self)

    def save(self, path: str | Path) -> None:
        """Write one `.safetensors` file with a JSON header, whole or not at all.

        Raises:
            InputError: the path has another suffix or cannot be written.
        """
        check_suffix(path, "a circuit is")
        tensors = {"kept": self.kept} if self.scores is None else {"kept": self.kept, "scores": self.scores}
        header = {
            "schema": SCHEMA,
            "graph": self.graph.spec.to_dict(),
            "ablation": ablation_header(self.ablation),
            "selection": self.selection,
            "provenance": self.provenance,
        }
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
            graph, ablation = Graph(GraphSpec.from_dict(header["graph"])), ablation_of_header(header)
            kept, scores, selection = tensors["kept"], tensors.get("scores"), header.get("selection")
            if kept.dtype != torch.bool:
                raise TypeError(f"its kept edges are of {kept.dtype}, not yes or no")
            return Circuit(graph, kept, scores, header["provenance"], ablation, selection)


def ranked(scores: Float[Tensor, " E"], *, absolute: bool) -> Float[Tensor, " E"]:
    """What edges are ranked by. Those without a score come last, signed or absolute: NaN, and −∞, by which other tools
    mark edges that they left out.
    """
    missing = scores.isnan() | (scores == -torch.inf)
    return (scores.abs() if absolute else scores).masked_fill(missing, -torch.inf)


def empty_circuit(circuit: Circuit) -> Circuit:
    """The circuit of the same graph, ablation and provenance without any edge."""
    return replace(circuit, kept=torch.zeros_like(circuit.kept), scores=None)


def recorded_ablation(provenance: dict[str, Any]) -> Ablation | Mixed | None:
    """What a provenance says of the ablation, where nothing else does, as in files of version 0.1."""
    record = provenance.get("ablation")
    if not isinstance(record, dict):
        return None
    try:
        known = {field.name for field in fields(Ablation)}
        return ablation_of_header({"ablation": {name: value for name, value in record.items() if name in known}})
    except (InputError, TypeError):  # a record of another's, for people to read
        return None


def common_ablation(one: Ablation | Mixed | None, other: Ablation | Mixed | None) -> Ablation | Mixed | None:
    """The ablation of what two results make together: `mixed` of two kinds, or of two owners of b_O where that matters.
    Then only edges that are idle under any ablation count as idle.
    """
    if one == other:
        return one
    stated = [each for each in (one, other) if isinstance(each, Ablation)]
    if _kind(one) != _kind(other) or len({each.splits_bias for each in stated}) > 1:
        return "mixed"
    return Ablation(stated[0].kind, bias="shared" if stated[0].splits_bias else "layer")


def _kind(ablation: Ablation | Mixed | None) -> str:
    return ablation.kind if isinstance(ablation, Ablation) else ablation or "interchange"


def ablation_header(ablation: Ablation | Mixed | None) -> dict[str, Any] | None:
    """An ablation as plain values, for a file's header."""
    return {"kind": "mixed"} if ablation == "mixed" else None if ablation is None else ablation.to_dict()


def ablation_of_header(header: dict[str, Any]) -> Ablation | Mixed | None:
    """The inverse of `ablation_header`. Raises `TypeError` or `InputError` for what is none."""
    record = header.get("ablation")
    if record is None:
        return None
    return "mixed" if record.get("kind") == "mixed" else Ablation(**record)
