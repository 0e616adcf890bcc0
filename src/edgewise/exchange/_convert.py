"""The same circuit under another convention of its model's graph, and what that did to it."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.circuit import Circuit, ranked
from edgewise.graph import EMBED, KEY, VALUE, Graph

# What a change of convention does; kept in the result's provenance.
_NOTES = {
    "kv expanded to physical": "an edge into a shared key or value is in if any of its copies was, with the highest "
    "score",
    "kv physical to expanded": "an edge into a shared key or value became one for each of its query heads",
    "embeddings split to joint": "an edge from the embedding is in if the token's or the position's was, with the "
    "higher score",
    "embeddings joint to split": "an edge from the embedding became two, from the token's and the position's",
    "embeddings off to joint": "all edges from the embedding are in: it had reached every reader unmasked",
    "embeddings off to split": "all edges from the embeddings are in: they had reached every reader unmasked",
    "embeddings joint to off": "edges from the embedding are gone: it now reaches every reader unmasked",
    "embeddings split to off": "edges from the embeddings are gone: they now reach every reader unmasked",
}


def convert(circuit: Circuit, graph: Graph) -> Circuit:
    """A circuit on another graph of the same model: other embedding writers, other counting of keys and values.

    Where several edges become one, it takes the highest of their scores, signs counted. Where embeddings were no
    writers, their new edges take the highest score of all. Edges without a score stay without one.

    Args:
        circuit: the circuit.
        graph: the graph to have it on.

    Returns:
        The circuit; `provenance["converted"]` says what changed, one line for each convention.

    Raises:
        edgewise.InputError: the graphs are of different models, or have different features or neurons.
    """
    source, target = circuit.graph.spec, graph.spec
    if source == target:
        return circuit
    for name in ("features", "neurons", "cross_layer", "error"):
        if getattr(source, name) != getattr(target, name):
            raise InputError(f"convert: the graphs have other {name}; a circuit of one is none of the other")
    for name in ("n_layers", "n_heads", "n_kv_heads", "parallel", "spans"):
        if getattr(source, name) != getattr(target, name):
            raise InputError(
                f"convert: the circuit's graph has {name}={getattr(source, name)} and the other {name}="
                f"{getattr(target, name)}; these are different models or carry other positions"
            )
    names = ("embeddings",) if source.n_kv_heads == source.n_heads else ("kv", "embeddings")  # nothing is shared
    differ = [name for name in names if getattr(source, name) != getattr(target, name)]
    changes = [f"{name} {getattr(source, name)} to {getattr(target, name)}" for name in differ]
    notes = [f"{change}: {_NOTES[change]}" for change in changes]
    scores = None
    if circuit.scores is not None:
        highest = float(ranked(circuit.scores, absolute=False).max())
        scores = _carried(circuit.graph, graph, circuit.scores.float(), highest if highest > -torch.inf else 0.0)
        scores = scores.masked_fill(scores == -torch.inf, torch.nan)
    kept = _carried(circuit.graph, graph, circuit.kept.float(), 1.0) > 0
    provenance: dict[str, Any] = dict(circuit.provenance) | {"graph": target.to_dict()}
    provenance["converted"] = [*circuit.provenance.get("converted", []), *notes]
    return replace(circuit, graph=graph, kept=kept, scores=scores, provenance=provenance)


def as_format_has_it(circuit: Circuit, format: str, **convention: Any) -> tuple[Circuit, list[str]]:
    """A circuit under a format's convention, without positions, and what that changed. Raises `InputError` for one with
    features or neurons, which the formats do not have.
    """
    if apart := circuit.graph.spec.apart:
        raise InputError(f"{format}: it has no {apart}, and the circuit's graph has; use edge_table")
    before = len(circuit.provenance.get("converted", []))
    circuit = convert(circuit, Graph(replace(circuit.graph.spec, spans=(), **convention)))
    return circuit, circuit.provenance.get("converted", [])[before:]


def _carried(source: Graph, target: Graph, values: Float[Tensor, " E"], unmasked: float) -> Float[Tensor, " F"]:
    """One value per edge carried to the target's edges, in each group of positions apart."""
    groups = values.view(source.n_groups, source.n_plain)
    return torch.cat([_carried_group(source, target, each, unmasked) for each in groups])


def _carried_group(source: Graph, target: Graph, values: Float[Tensor, " P"], unmasked: float) -> Float[Tensor, " Q"]:
    """One value per edge of a group, by way of the finest graph, whose keys, values and embeddings are all apart:
    spread there, then the highest taken. `unmasked` is that of edges the source does not have.
    """
    dense = torch.full((source.n_readers, source.n_writers + 1), -torch.inf, dtype=torch.float32)
    reader, writer = (each[: source.n_plain].long() for each in (source.edge_reader, source.edge_writer))
    dense[reader, writer] = ranked(values, absolute=False)
    dense[:, -1] = unmasked  # the column of embeddings that are no writers
    readers, writers = _fine_readers(source), _fine_writers(source)
    fine = dense[readers][:, torch.where(writers < 0, source.n_writers, writers)]
    rows, columns = _fine_readers(target), _fine_writers(target)
    merged = torch.full((target.n_readers, len(columns)), -torch.inf, dtype=torch.float32)
    merged = merged.scatter_reduce(0, rows[:, None].expand_as(fine), fine, "amax")
    merged, columns = merged[:, columns >= 0], columns[columns >= 0]
    final = torch.full((target.n_readers, target.n_writers), -torch.inf, dtype=torch.float32)
    final = final.scatter_reduce(1, columns.expand_as(merged), merged, "amax")
    reader, writer = (each[: target.n_plain].long() for each in (target.edge_reader, target.edge_writer))
    return final[reader, writer]


def _fine_readers(graph: Graph) -> Int[Tensor, " Rf"]:
    """The reader that each reader of the finest graph (keys and values for every query head) belongs to."""
    shared = (graph.reader_kind == KEY) | (graph.reader_kind == VALUE)
    return torch.arange(graph.n_readers).repeat_interleave(torch.where(shared, graph.heads_per_key, 1))


def _fine_writers(graph: Graph) -> Int[Tensor, " Wf"]:
    """The writer that each writer of the finest graph (two embeddings) belongs to; -1 for embeddings that are none."""
    rest = torch.arange(graph.n_writers)[graph.writer_kind != EMBED]
    embeddings = {"joint": [0, 0], "split": [0, 1], "off": [-1, -1]}[graph.spec.embeddings]
    return torch.cat([torch.tensor(embeddings), rest])
