"""Our attribution graphs as arrays for a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgewise.attribution import AttributionGraph
from edgewise.runs import names_in
from edgewise.viewer._graphs import KINDS, GraphArrays

GRAPH = "graph.safetensors"
_BIASES = ("attention bias", "MLP bias", "reading bias")


def is_graph(path: Path) -> bool:
    """Whether a file, or the file in a run's folder, holds an attribution graph."""
    return "nodes.kind" in names_in(path / GRAPH if path.is_dir() else path)


def read_graph(path: Path) -> GraphArrays:
    """A saved graph, or that of a run's folder. Raises `InputError`."""
    file = path / GRAPH if path.is_dir() else path
    title = file.resolve().parent.name if file.name == GRAPH else file.stem
    return arrays_of(AttributionGraph.load(file), title)


def arrays_of(graph: AttributionGraph, title: str) -> GraphArrays:
    """A graph's numbers and names."""
    nodes, n = graph.nodes, graph.n_nodes
    kind, root_weight = np.zeros(n, dtype=np.int64), np.zeros(n)
    for number, name in enumerate(KINDS):
        kind[nodes.is_kind(*(_BIASES if name == "bias" else (name,))).numpy()] = number
    roots = nodes.is_kind("root").numpy()
    root_weight[roots] = graph.root_weights.double().numpy()[nodes.index.numpy()[roots]]
    position = nodes.position.numpy()
    labels = [
        graph.tokens[at] if which == 0 else "" for which, at in zip(kind.tolist(), position.tolist(), strict=True)
    ]
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


def _rows(*tables: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(name), f"{value}"[:400]) for table in tables for name, value in table.items()]
