"""Attribution graphs as a page carries them: ours as arrays, those of other tools as the files they are."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
from jaxtyping import Float, Int

from edgewise._errors import InputError
from edgewise.viewer._pack import Packer

_NO_FEATURES = ("embedding", "logit", "bias", "mlp reconstruction error", "lorsa error")
"""Types of nodes in other tools' files."""
KINDS = ("token", "position", "neuron", "feature", "error", "bias", "root", "nodes")
"""Kinds of nodes, as the page's script numbers them."""
LARGEST = 400 * 2**20
"""Bytes of another tool's file: a browser's longest text is not much more."""


class Several(NamedTuple):
    """What several graphs say beside each number of the one that is drawn."""

    kind: Literal["merged", "difference"]
    names: tuple[str, ...]
    """Of a difference: its two sides."""
    n_prompts: tuple[int, ...]
    """How many prompts there are; of a difference, on each side."""
    flows: bool
    """Whether edges count influence, as of graphs that were joined by places, and not weights."""
    influence: Float[np.ndarray, " n"]
    """By which nodes are ranked: the mean over prompts, of a difference the larger side's."""
    nodes: dict[str, Float[np.ndarray, " n"]]
    """Of the nodes' influence; merged: `low`, `high`, `share` of the prompts that have it; of a difference: `first`,
    `second`."""
    edges: dict[str, Float[np.ndarray, " E"]]
    """Merged: `low`, `high`, `share`, `agreement` of the signs; of a difference: `first`, `second`, `low`, `high`."""


class Reasons(NamedTuple):
    """What is known of some edges beyond their weight."""

    edge: Int[np.ndarray, " m"]
    """Which edges."""
    heads: Float[np.ndarray, "m L H"]
    """What goes through each head at each layer,"""
    past: Float[np.ndarray, "m L"]
    """what goes past them,"""
    later: Float[np.ndarray, "m L"]
    """and what is written only later."""
    whys: tuple[dict[str, Any] | None, ...]
    """Of each edge what `edgewise.attribution.why` says, as plain values; None for most."""


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
    notes: tuple[str, ...] = ()
    """What was left out, and why."""
    several: Several | None = None
    reasons: Reasons | None = None
    writes: Mapping[str, Any] = {}
    """By a node's id: the tokens that it speaks for, `raises` and `lowers`."""
    dashboards: Mapping[str, Any] = {}
    """By a node's id without its position: the feature's dashboard (`read_dashboards`)."""


class ForeignFile(NamedTuple):
    """A graph of Neuronpedia or circuit-tracer, as it is."""

    name: str
    content: bytes
    dashboards: Mapping[str, Any] = {}
    """By a node's id without its position, such as `12_410`."""


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
    texts = {name: getattr(graph, name) for name in ("ids", "labels", "writes", "dashboards")}
    packer.add_json(f"{prefix}/texts", texts)
    return {
        "arrays": prefix,
        "title": graph.title,
        "tokens": graph.tokens,
        "ledger": graph.ledger is not None,
        "about": list(graph.about),
        "notes": list(graph.notes),
        "several": None if graph.several is None else _pack_several(graph.several, prefix, packer),
        "reasons": None if graph.reasons is None else _pack_reasons(graph.reasons, prefix, packer),
    }


def _pack_several(found: Several, prefix: str, packer: Packer) -> dict[str, Any]:
    packer.add(f"{prefix}/influence", found.influence, "f8")
    for ends, columns in (("nodes", found.nodes), ("edges", found.edges)):
        for name, values in columns.items():
            packer.add(f"{prefix}/{ends}/{name}", values, "f4")
    return {name: getattr(found, name) for name in ("kind", "names", "n_prompts", "flows")}


def _pack_reasons(found: Reasons, prefix: str, packer: Packer) -> dict[str, Any]:
    packer.add(f"{prefix}/reasons/edge", found.edge, "u4")
    for name in ("heads", "past", "later"):
        packer.add(f"{prefix}/reasons/{name}", getattr(found, name), "f4")
    packer.add_json(f"{prefix}/reasons/whys", found.whys)
    return {"layers": found.heads.shape[1], "heads": found.heads.shape[2]}


def _pack_foreign(file: ForeignFile, array: str, packer: Packer) -> dict[str, Any]:
    packer.add_bytes(array, file.content)
    packer.add_json(f"{array}/dashboards", file.dashboards)
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
        graph = json.loads(content.decode("utf-8-sig"), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: no graph in JSON ({reason:.120}); give Neuronpedia's or circuit-tracer's") from error
    if not isinstance(graph, dict) or not all(isinstance(graph.get(name), list) for name in ("nodes", "links")):
        raise InputError(
            f"{path}: has no lists of nodes and links, as the graphs of Neuronpedia and circuit-tracer have"
        )
    return ForeignFile(path.name, content)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON, which has null for it")


def feature_ids(what: GraphArrays | ForeignFile) -> list[str]:
    """The ids of a graph's features; of a file those that are no texts are left to the page's script to refuse."""
    if isinstance(what, GraphArrays):
        return [what.ids[i] for i in np.flatnonzero(np.asarray(what.kind) == KINDS.index("feature"))]
    content = json.loads(what.content)
    metadata = content.get("metadata")
    if isinstance(metadata, dict) and str(metadata.get("scan", "")).endswith("-neurons"):  # as edgewise writes them
        return []
    rows = [row for row in content["nodes"] if isinstance(row, dict) and isinstance(row.get("node_id"), str)]
    return [row["node_id"] for row in rows if row.get("feature_type") not in _NO_FEATURES]
