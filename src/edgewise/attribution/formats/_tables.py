"""Attribution graphs as tables of edges and as networkx graphs."""

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewise._errors import InputError
from edgewise.attribution._attribution_graph import AttributionGraph
from edgewise.attribution._graph import KINDS
from edgewise.attribution._influence import influence
from edgewise.runs import write_atomically

if TYPE_CHECKING:
    import networkx


def edge_table(graph: AttributionGraph) -> dict[str, list[Any]]:
    """The edges as columns, for `pandas.DataFrame(...)` or `polars.DataFrame(...)`, target after target.

    Returns:
        `source`, `target` (names), `weight`, `share` (of the sizes of all the target's edges, those outside the graph
        too), and `source_kind`, `source_layer`, `source_position`, `source_index`, `target_kind`, ….
    """
    weight, targets = graph.weight.double(), graph.edge_targets
    table: dict[str, list[Any]] = {
        "source": [graph.names[i] for i in graph.sources.tolist()],
        "target": [graph.names[i] for i in targets.tolist()],
        "weight": weight.tolist(),
        "share": (weight.abs() / graph.ledger.size[targets].clamp(min=1e-30)).tolist(),
    }
    for end, which in (("source", graph.sources), ("target", targets)):
        table[f"{end}_kind"] = [KINDS[kind] for kind in graph.nodes.kind[which].tolist()]
        for name in ("layer", "position", "index"):
            table[f"{end}_{name}"] = getattr(graph.nodes, name)[which].tolist()
    return table


def write(graph: AttributionGraph, path: Path) -> list[str]:
    """Write the table as `.csv`, or as `.jsonl` with an object a line. Raises `InputError` if it cannot be written."""
    table = edge_table(graph)
    rows = zip(*table.values(), strict=True)
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(dict(zip(table, row, strict=True)), allow_nan=False) + "\n" for row in rows)
    else:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(rows)
        text = buffer.getvalue()
    write_atomically(path, text)
    return ["the table has edges alone: no values, no ledger"]


def to_networkx(graph: AttributionGraph) -> "networkx.DiGraph":
    """The graph as a `networkx.DiGraph`: nodes by name with `kind`, `layer`, `position`, `index`, `value`, `influence`
    and `token` (the prompt's at its position); edges with `weight`.

    Raises:
        edgewise.InputError: networkx is not installed.
    """
    try:
        import networkx
    except ImportError as error:
        raise InputError("to_networkx: networkx is not installed; pip install networkx") from error
    result, found = networkx.DiGraph(roots=list(graph.roots), tokens=list(graph.tokens)), influence(graph)
    for i, (kind, layer, position, index, value) in enumerate(
        zip(*(column.tolist() for column in graph.nodes), strict=True)
    ):
        token = graph.tokens[position] if position >= 0 else ""
        place = {"layer": layer, "position": position, "index": index, "token": token}
        result.add_node(graph.names[i], kind=KINDS[kind], **place, value=value, influence=float(found[i]))
    for source, target, weight in zip(
        graph.sources.tolist(), graph.edge_targets.tolist(), graph.weight.double().tolist(), strict=True
    ):
        result.add_edge(graph.names[source], graph.names[target], weight=weight)
    return result
