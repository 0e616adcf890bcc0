"""Attribution graphs as a page carries them: ours as arrays, those of other tools as the files they are."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from edgewise._errors import InputError
from edgewise.viewer._pack import Packer

KINDS = ("token", "position", "neuron", "feature", "error", "bias", "root")
"""Kinds of nodes, as the page's script numbers them."""
LARGEST = 400 * 2**20
"""Bytes of another tool's file: a browser's longest text is not much more."""


class GraphArrays(NamedTuple):
    """An attribution graph's numbers and names, edges by target."""

    title: str
    tokens: list[str]
    kind: Int[np.ndarray, " n"]
    """Along `KINDS`."""
    layer: Int[np.ndarray, " n"]
    """−1 for tokens and positions; the number of layers for roots."""
    position: Int[np.ndarray, " n"]
    """−1 for nodes of no position."""
    value: Float[np.ndarray, " n"]
    ids: list[str]
    labels: list[str]
    root_weight: Float[np.ndarray, " n"]
    """How much each root counts; 0 for other nodes."""
    offsets: Int[np.ndarray, " offsets"]
    """Where each node's incoming edges begin, and at last how many there are."""
    sources: Int[np.ndarray, " E"]
    weight: Float[np.ndarray, " E"]
    ledger: dict[str, Float[np.ndarray, " n"]] | None = None
    """`residual`, `size`, `outside` and `outside_size` of each target."""
    about: tuple[tuple[str, str], ...] = ()
    """Where it comes from, in rows for people."""


class ForeignFile(NamedTuple):
    """A graph of Neuronpedia or circuit-tracer, as it is."""

    name: str
    content: bytes


def pack_graphs(graphs: list[GraphArrays], foreign: list[ForeignFile], packer: Packer) -> dict[str, Any]:
    """What the header says of attribution graphs."""
    return {
        "attributions": [_pack_graph(graph, f"attribution{number}", packer) for number, graph in enumerate(graphs)],
        "foreign": [_pack_foreign(file, f"foreign{number}", packer) for number, file in enumerate(foreign)],
    }


def _pack_graph(graph: GraphArrays, prefix: str, packer: Packer) -> dict[str, Any]:
    columns = {
        "kind": "u1",
        "layer": "i2",
        "position": "i4",
        "value": "f4",
        "root_weight": "f8",
        "offsets": "u4",
        "sources": "u4",
        "weight": "f4",
    }
    for name, kind in columns.items():
        packer.add(f"{prefix}/{name}", getattr(graph, name), kind)
    for name, values in (graph.ledger or {}).items():
        packer.add(f"{prefix}/{name}", values, "f4")
    packer.add_bytes(f"{prefix}/texts", json.dumps({"ids": graph.ids, "labels": graph.labels}).encode())
    return {
        "arrays": prefix,
        "title": graph.title,
        "tokens": graph.tokens,
        "ledger": graph.ledger is not None,
        "about": list(graph.about),
    }


def _pack_foreign(file: ForeignFile, array: str, packer: Packer) -> dict[str, Any]:
    packer.add_bytes(array, file.content)
    return {"name": file.name, "array": array}


def read_foreign(path: str | Path) -> ForeignFile:
    """Another tool's graph, once it looks like one; the page's script reads it, and says what is wrong within.

    Raises:
        InputError: it is too large, cannot be read, or is no JSON object with nodes and links.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST:
            size = path.stat().st_size >> 20
            raise InputError(f"{path}: {size:,} MiB; give a graph of at most {LARGEST >> 20} MiB, with fewer nodes")
        content = path.read_bytes()
        graph = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: no graph in JSON ({reason:.120}); give Neuronpedia's or circuit-tracer's") from error
    if not isinstance(graph, dict) or not all(isinstance(graph.get(name), list) for name in ("nodes", "links")):
        raise InputError(
            f"{path}: has no lists of nodes and links, as the graphs of Neuronpedia and circuit-tracer have"
        )
    return ForeignFile(path.name, content)
