"""Our attribution graphs as arrays for a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgewise.attribution import AttributionGraph, Difference, EdgeReasons, MergedGraph
from edgewise.runs import names_in, record_of
from edgewise.viewer._graphs import KINDS, GraphArrays, Reasons
from edgewise.viewer._several import difference_arrays, merged_arrays

GRAPH, PRUNED, MERGED = "graph.safetensors", "pruned.safetensors", "merged.safetensors"
REASONS = "reasons.safetensors"
MOST_EDGES = 1_000_000
"""A run's graph with more is shown as it was pruned, so that the page can be sent about; its file by name shows all."""
_BIASES = ("attention bias", "MLP bias", "reading bias")


def is_graph(path: Path) -> bool:
    """Whether a file, or the file in a run's folder, holds an attribution graph, or one of several prompts."""
    return "nodes.kind" in names_in(_file(path))


def load_graph(path: Path) -> AttributionGraph | MergedGraph | Difference:
    """A saved graph, or that of a run's folder. Raises `InputError`."""
    file = _file(path)
    names = names_in(file)
    kind = MergedGraph if "weight.offsets" in names else Difference if "first_influence" in names else AttributionGraph
    return kind.load(file)


def read_graph(path: Path) -> GraphArrays:
    """The arrays of a saved graph, or of that of a run's folder, and of the reasons of its edges that lie beside it.
    Raises `InputError`.
    """
    graph, notes = load_graph(path), ()
    if len(graph.sources) > MOST_EDGES and (path / PRUNED).is_file():
        notes = (f"{GRAPH} has {len(graph.sources):,} edges; this is {PRUNED}. Give the file by name to see all.",)
        graph = AttributionGraph.load(path / PRUNED)
    arrays = arrays_of(graph, title_of(path))._replace(notes=notes)
    beside = _file(path).parent / REASONS
    if not isinstance(graph, AttributionGraph) or not beside.is_file():
        return arrays
    reasons = EdgeReasons.load(beside)
    if not reasons.fits(graph):
        note = f"{beside.name} is of another prompt's, model's or setting's graph, so it is not shown."
        return arrays._replace(notes=(*notes, note))
    if changed := reasons.changed_in(graph):
        notes += (f"{changed} edges of {beside.name} have another weight in this graph, so their heads are not shown.",)
    return with_reasons(arrays._replace(notes=notes), graph, reasons)


def title_of(path: Path) -> str:
    """What a graph's file, or a run's folder, is called beside others."""
    file = _file(path)
    return file.resolve().parent.name if file.name in (GRAPH, MERGED) else file.stem


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    return path / (MERGED if not (path / GRAPH).is_file() else GRAPH)


def arrays_of(graph: AttributionGraph | MergedGraph | Difference, title: str) -> GraphArrays:
    """A graph's numbers and names."""
    if isinstance(graph, MergedGraph):
        return merged_arrays(graph, title)
    if isinstance(graph, Difference):
        return difference_arrays(graph, title)
    nodes, n = graph.nodes, graph.n_nodes
    kind, root_weight = np.zeros(n, dtype=np.int64), np.zeros(n)
    for number, name in enumerate(KINDS[:-1]):
        kind[nodes.is_kind(*(_BIASES if name == "bias" else (name,))).numpy()] = number
    roots = nodes.is_kind("root").numpy()
    root_weight[roots] = graph.root_weights.double().numpy()[nodes.index.numpy()[roots]]
    position = nodes.position.numpy()
    known = record_of(graph.provenance, "labels")  # of a graph that another tool wrote
    named = zip(graph.names, kind.tolist(), position.tolist(), strict=True)
    labels = [str(known.get(name) or (graph.tokens[at] if which == 0 else "")) for name, which, at in named]
    return GraphArrays(
        title,
        list(graph.tokens),
        kind,
        nodes.layer.numpy(),
        position,
        nodes.value.float().numpy(),
        graph.names,
        labels,
        root_weight,
        graph.offsets.numpy(),
        graph.sources.numpy(),
        graph.weight.float().numpy(),
        {name: column.float().numpy() for name, column in graph.ledger._asdict().items()},
        tuple(_rows(graph.settings, graph.provenance)),
    )


def with_reasons(arrays: GraphArrays, graph: AttributionGraph, reasons: EdgeReasons) -> GraphArrays:
    """A graph's arrays with what is known of its edges."""
    places, edges = (each.tolist() for each in reasons.edges_in(graph))
    heads, past, later = (each[places].numpy() for each in (reasons.heads, reasons.past, reasons.later))
    found = Reasons(
        np.array(edges, dtype=np.int64),
        heads,
        past,
        later,
        tuple(reasons.whys[place].to_dict() if place in reasons.whys else None for place in places),
    )
    known = {name for place in places for name in (reasons.sources[place], reasons.targets[place])}
    writes = {name: each._asdict() for name, each in reasons.writes.items() if name in known}
    return arrays._replace(reasons=found, writes=writes)


def _rows(*tables: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(name), f"{value}"[:400]) for table in tables for name, value in table.items()]
