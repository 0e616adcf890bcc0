"""`edgewise view`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgewise._errors import InputError
from edgewise.cli import _options as options
from edgewise.cli import _show
from edgewise.cli import _transcoder_inputs as inputs
from edgewise.cli._common import engine_of, load, load_for, task_of
from edgewise.cli._print import line
from edgewise.runs import check_writable, of_other_weights, record_of

if TYPE_CHECKING:
    from edgewise.attribution import AttributionGraph
    from edgewise.viewer import GraphArrays

CIRCUIT, EVIDENCE, REASONS = "circuit.safetensors", "evidence.json", "reasons.safetensors"


def view(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders that find or attribute wrote, circuits, graphs, or other tools' graphs (.json)."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The .html file. Default, in the first one's folder: circuit.html; circuits.html for several; "
            "graph.html, or NAME.html of a graph's file."
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page. Default: the runs' names.")] = None,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = True,
    evidence: Annotated[
        int,
        typer.Option(
            help="First examine so many of the strongest edges: patch them exactly (a circuit; writes evidence.json), "
            "or split them over heads (an attribution graph; writes reasons.safetensors)."
        ),
    ] = 0,
    difference: Annotated[
        bool, typer.Option("--difference", help="Show two attribution graphs and what differs between them.")
    ] = False,
    dashboards: Annotated[
        Path | None, typer.Option(help="A folder or file of feature dashboards, shown beside a graph's features.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="A file of labels: JSON, or a CSV with columns id,label.")] = None,
    model: options.OwnModel = None,
    transcoders: inputs.Sources = None,
    device: options.Device = "cpu",
) -> None:
    """Write one HTML file that shows circuits: every size and edge, what was measured, two side by side.

    It needs no server and no network, so it can be sent by mail.
    """
    if missing := next((path for path in runs if not path.exists()), None):
        raise InputError(f"{missing}: no such file or folder; give the folder that `edgewise find` wrote to")
    if evidence < 0:
        raise InputError(f"--evidence {evidence}: give how many edges, 0 or more")
    from edgewise.viewer import is_graph
    from edgewise.viewer import view as write

    if not evidence and (model or transcoders):
        option = "--model" if model else "--transcoders"
        raise InputError(f"{option}: is read with --evidence alone, which is not given; leave it out")
    if evidence and all(run.suffix == ".json" for run in runs):
        raise InputError("--evidence: other tools' graphs cannot be examined; leave it out")
    seen = [*runs, *([_difference(runs)] if difference else [])]
    if evidence:
        if transcoders and not any(map(is_graph, runs)):
            raise InputError("--transcoders: of an attribution graph's features, and none is given; leave it out")
        _check(runs, out, dashboards, labels)
    for run in runs if evidence else ():
        if is_graph(run):
            _explain(run, evidence, model, transcoders, device)
        elif run.suffix != ".json":
            _gather(run, evidence, model, device)
    line(f"written to {write(*seen, out=out, title=title, show=show, dashboards=dashboards, labels=labels)}")


def _difference(runs: list[Path]) -> GraphArrays:
    """What differs between two graphs."""
    from edgewise.attribution import Difference, MergedGraph
    from edgewise.attribution import difference as differ
    from edgewise.viewer import difference_arrays, is_graph, load_graph, title_of, told_apart

    loaded = (load_graph(run) for run in runs if is_graph(run))
    graphs = [graph for graph in loaded if not isinstance(graph, Difference)]
    if len(runs) != 2 or len(graphs) != 2:
        raise InputError("--difference: give two attribution graphs of edgewise, or two merged ones")
    first, second = told_apart([title_of(run) for run in runs], runs)
    # As they were merged, whatever changed since: transcoders that were tuned have the same features.
    by = graphs[0].by if isinstance(graphs[0], MergedGraph) else None
    return difference_arrays(differ(graphs[0], graphs[1], by=by), f"{first} − {second}", (first, second))


def _check(runs: list[Path], out: Path | None, dashboards: Path | None, labels: Path | None) -> None:
    """Refuse before edges are examined, which takes long, what could not be shown after it."""
    from edgewise.viewer import check_page, is_graph, read, read_dashboards, read_foreign, read_labels

    if out is not None:
        check_writable(check_page(out).parent)
    if dashboards is not None:
        read_dashboards(dashboards)
        if not any(run.suffix == ".json" or is_graph(run) for run in runs):
            raise InputError(f"{dashboards}: dashboards stand beside a graph's features; give an attribution graph too")
    if labels is not None:
        read_labels(labels)
    beside = [run for run in runs if run.suffix != ".json"] + (runs[:1] if out is None else [])
    for run in runs:
        if run.suffix == ".json":
            read_foreign(run)
        elif is_graph(run):
            _graph(run)
        else:
            spec = read(run).circuit.graph.spec
            if odd := spec.apart or ("positions" if spec.spans else ""):
                raise InputError(f"--evidence: {run}: its graph has {odd}, whose edges are not patched; leave it out")
    for run in beside:
        check_writable(run if run.is_dir() else run.parent)


def _graph(run: Path) -> AttributionGraph:
    """A graph whose edges have heads; those of several prompts have none. Raises `InputError`."""
    from edgewise.attribution import AttributionGraph
    from edgewise.viewer import load_graph

    graph = load_graph(run)
    if not isinstance(graph, AttributionGraph):
        raise InputError(f"{run}: a graph of several prompts, whose edges have no heads; give one of its prompts'")
    return graph


def _explain(run: Path, n_edges: int, model: str | None, transcoders: inputs.Sources, device: str) -> None:
    """Write the reasons of a graph's most influential edges beside it."""
    from edgewise.attribution import edge_reasons

    graph = _graph(run)
    loaded = load(model or str(record_of(graph.provenance, "model").get("id", "")), device)
    features = inputs.as_recorded(inputs.read(transcoders, device=device), graph.provenance.get("transcoders"))
    whole = graph.attach(loaded, features or None)
    with _show.working("splitting edges over heads"):
        found = edge_reasons(whole, n_edges)
    found.save((run if run.is_dir() else run.parent) / REASONS)


def _gather(run: Path, n_edges: int, model: str | None, device: str) -> None:
    """Write a run's evidence beside its circuit; predictions are those of the test examples that it is worst at, where
    they are known. Raises `InputError` for a model of other weights, whose evidence would not be shown.
    """
    from edgewise.viewer import gather, read

    path = run / CIRCUIT if run.is_dir() else run
    viewed = read(run)
    circuit, judged = viewed.circuit, viewed.evaluations.get("")
    loaded = load_for(circuit, model, device)
    if of_other_weights(record_of(circuit.provenance, "model"), loaded.identity):
        raise InputError(f"--evidence: {path}: was found on other weights than the model has; give its own --model")
    _show.compare_weights(circuit, loaded)
    engine = engine_of(path, circuit, loaded)
    task = task_of(circuit, loaded.tokenizer)
    known = judged.worst if judged is not None and judged.conditions.get("split", "test") == "test" else ()
    worst = [each.number for each in known if each.number < len(task.test)]
    with _show.working("patching edges one by one"):
        found = gather(engine, circuit, task, n_edges, examples=worst or None)
    found.save(path.parent / EVIDENCE)
