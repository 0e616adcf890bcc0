"""Writing and reading graphs in the format that a file's name, or its content, says."""

from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

from edgewise._errors import InputError
from edgewise.attribution._attribution_graph import AttributionGraph
from edgewise.attribution.formats import _circuit_tracer, _neuronpedia, _neuronpedia_read, _tables
from edgewise.models import Model


def export(
    graph: AttributionGraph,
    path: str | Path,
    *,
    scan: str | None = None,
    pruning: tuple[float, float] | None = None,
    model: Model | None = None,
) -> list[str]:
    """Write a graph for other tools.

    | suffix | what | who reads it |
    |---|---|---|
    | `.json` | graph JSON, schema 1, up to 100 MiB | Neuronpedia, circuit-tracer's server, Anthropic's front end |
    | `.pt` | a dense matrix, up to 23,170 nodes | circuit-tracer |
    | `.csv`, `.jsonl` | the table of edges (see `edge_table`) | |
    | `.safetensors` | all of it | this library |

    Args:
        graph: the graph.
        path: the file.
        scan: for `.json` and `.pt`, how Neuronpedia calls the model, or circuit-tracer the transcoders.
        pruning: for `.json`, the shares of influence of nodes and edges that are kept, such as (0.8, 0.98); nodes keep
            the ranks they have in the whole graph, by which viewers prune further. None: everything is written.
        model: for `.pt`, the graph's model, which the file describes.

    Returns:
        What was left out, a line each.

    Raises:
        edgewise.InputError: another suffix, a graph too large for the format, or a file that cannot be written.
    """
    path = Path(path)
    if pruning is not None and path.suffix != ".json":
        raise InputError(f"pruning: for .json alone; prune the graph itself before it is written to {path.name}")
    if path.suffix == ".json":
        return _neuronpedia.write(graph, path, scan, pruning)
    if path.suffix == ".pt":
        return _circuit_tracer.write(graph, path, scan, model)
    if path.suffix in (".csv", ".jsonl"):
        return _tables.write(graph, path)
    if path.suffix == ".safetensors":
        graph.save(path)
        return []
    raise InputError(f"{path}: attribution graphs are written as .json, .pt, .csv, .jsonl or .safetensors")


def import_graph(path: str | Path, *, tokenizer: Any = None) -> AttributionGraph:
    """Read a graph of this library, of Neuronpedia or of circuit-tracer; the file's content says which it is.

    Foreign graphs have no ledger: what a target's edges leave out of its value is all counted as `outside`.

    Args:
        path: the file.
        tokenizer: gives the tokens' texts where a file has none (`.pt`).

    Raises:
        edgewise.InputError: it is none of these, or something in it is wrong; the message names it.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); give an existing file") from error
    if path.suffix in (".csv", ".jsonl"):
        raise InputError(f"{path}: a table has not all of a graph; give its .json, .pt or .safetensors")
    if head.startswith(b"PK"):
        return _circuit_tracer.read(path, tokenizer)
    if path.suffix == ".safetensors":
        return AttributionGraph.load(path)
    if head.removeprefix(BOM_UTF8).lstrip().startswith(b"{"):
        return _neuronpedia_read.read(path)
    raise InputError(f"{path}: no attribution graph of edgewise, Neuronpedia or circuit-tracer")
