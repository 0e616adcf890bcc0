"""Circuits as tables and as networkx graphs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.exchange._reading import truth
from edgewise.graph import WRITER_KINDS, Graph
from edgewise.runs import Keys

if TYPE_CHECKING:
    import networkx


KEYS = Keys(
    "Edge tables (`from_edge_table`)",
    honoured={
        "writer": "the edge; one that is not in the graph, or stands twice, is refused",
        "reader": "likewise",
        "span": "likewise, where edges carry positions",
        "kept": "true or false; absent: all are in",
        "score": "a number; edges that the table does not have get none, and rank last",
    },
    irrelevant={
        "the graph says them": ("edge", "writer_kind", "writer_layer", "reader_kind", "reader_layer", "actual"),
    },
)


def edge_table(circuit: Circuit, *, kept_only: bool = True) -> dict[str, list[Any]]:
    """The edges as columns, for `pandas.DataFrame(...)` or `polars.DataFrame(...)`.

    Args:
        circuit: the circuit.
        kept_only: the kept edges alone, or all of the graph's.

    Returns:
        `edge` (its number), `writer`, `writer_kind`, `writer_layer` (−1 for embeddings), `reader`, `reader_kind`,
        `reader_layer`, `kept`, `actual` (it can carry signal), `span`, if edges carry positions, and `score`, if there
        are scores.
    """
    graph = circuit.graph
    edges = circuit.kept.nonzero()[:, 0] if kept_only else torch.arange(graph.n_edges)
    writers, readers = graph.edge_writer[edges].long(), graph.edge_reader[edges].long()
    table: dict[str, list[Any]] = {
        "edge": edges.tolist(),
        "writer": [graph.writer_names[w] for w in writers.tolist()],
        "writer_kind": [WRITER_KINDS[kind] for kind in graph.writer_kind[writers].tolist()],
        "writer_layer": graph.writer_layer[writers].tolist(),
        "reader": [graph.reader_names[r] for r in readers.tolist()],
        "reader_kind": [graph.role(r) for r in readers.tolist()],
        "reader_layer": graph.reader_layer[readers].tolist(),
        "kept": circuit.kept[edges].tolist(),
        "actual": circuit.actual[edges].tolist(),
    }
    if graph.spec.spans:
        table["span"] = [graph.spec.spans[edge // graph.n_plain] for edge in edges.tolist()]
    if circuit.scores is not None:
        table["score"] = circuit.scores[edges].tolist()
    return table


def from_edge_table(table: Mapping[str, Sequence[Any]], graph: Graph) -> Circuit:
    """The circuit of the edges that a table names.

    Args:
        table: columns `writer` and `reader`, `span` where the graph's edges carry positions, and if wanted `kept` and
            `score`; a pandas or polars frame is one.
        graph: the graph.

    Raises:
        edgewise.InputError: a column is missing, or a row names no edge of the graph or one that another row named.
    """
    frame = getattr(table, "columns", None)
    KEYS.check("edge table", dict.fromkeys(table if frame is None else frame))
    needed = ("writer", "reader", "span") if graph.spec.spans else ("writer", "reader")
    columns = {name: list(table[name]) for name in (*needed, "kept", "score") if name in table}
    if missing := set(needed) - columns.keys():
        raise InputError(f"edge table: it has no column {min(missing)!r}")
    if len(lengths := {len(column) for column in columns.values()}) > 1:
        raise InputError(f"edge table: its columns have {', '.join(map(str, sorted(lengths)))} rows; give all as many")
    names = zip(*(columns[name] for name in needed), strict=True)
    edges = [
        graph.edge_id(f"{writer} -> {reader}" + "".join(f" @ {name}" for name in span))
        for writer, reader, *span in names
    ]
    if len(set(edges)) < len(edges):
        again = next(edge for number, edge in enumerate(edges) if edge in edges[:number])
        raise InputError(f"edge table: {graph.edge_name(again)!r} stands in two rows; give each edge once")
    kept = torch.zeros(graph.n_edges, dtype=torch.bool)
    try:
        kept[edges] = torch.tensor([truth(x) for x in columns.get("kept", [True] * len(edges))], dtype=torch.bool)
    except (TypeError, ValueError) as error:  # pandas' missing values have no truth
        raise InputError(f"edge table: kept is {error}") from error
    scores = None
    if "score" in columns:
        scores = torch.full((graph.n_edges,), torch.nan, dtype=torch.float32)
        scores[edges] = torch.tensor([_number(x) for x in columns["score"]], dtype=torch.float32)
    return Circuit(
        graph, kept, scores, {"graph": graph.spec.to_dict(), "method": {"name": "imported", "format": "table"}}
    )


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"edge table: a score is {str(value)[:40]!r}; give numbers") from error


def to_networkx(circuit: Circuit) -> "networkx.MultiDiGraph":
    """The kept edges as a `networkx.MultiDiGraph` of components.

    Nodes are embeddings, heads, MLPs (or features and error terms) and `logits`, with `kind` and `layer`. An edge's key
    is the input that it goes to: `q`, `k`, `v`, or `in` for all others, with the position group where edges carry one
    (`q @ subject`); its attributes are `edge` (the number), `actual` and, if there are scores, `score`. An edge into a
    key or value that query heads share goes to each of them, with the same number.

    Raises:
        edgewise.InputError: networkx is not installed.
    """
    try:
        import networkx
    except ImportError as error:
        raise InputError("to_networkx: networkx is not installed; pip install networkx") from error
    graph, result = circuit.graph, networkx.MultiDiGraph()
    for name, kind, layer in zip(
        graph.writer_names, graph.writer_kind.tolist(), graph.writer_layer.tolist(), strict=True
    ):
        result.add_node(name, kind=WRITER_KINDS[kind], layer=layer)
    result.add_node("logits", kind="logits", layer=graph.spec.n_layers)
    for edge in circuit.kept.nonzero()[:, 0].tolist():
        reader = int(graph.edge_reader[edge])
        role, fed = graph.role(reader), graph.writers_fed_by(reader)
        attributes: dict[str, Any] = {"edge": edge, "actual": bool(circuit.actual[edge])}
        if circuit.scores is not None:
            attributes["score"] = float(circuit.scores[edge])
        targets = [graph.writer_names[writer] for writer in fed] or ["logits"]
        key = role[0] if role in ("query", "key", "value") else "in"
        if graph.spec.spans:
            key += f" @ {graph.spec.spans[edge // graph.n_plain]}"
        for target in targets:
            result.add_edge(graph.writer_names[int(graph.edge_writer[edge])], target, key=key, **attributes)
    return result
