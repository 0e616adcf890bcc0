"""`edgewise.view`: write a page and open it."""

import webbrowser
from dataclasses import replace
from pathlib import Path

from edgewise._errors import InputError
from edgewise.attribution import AttributionGraph, Difference, MergedGraph
from edgewise.circuit import Circuit
from edgewise.runs import write_atomically
from edgewise.viewer._attribution import arrays_of, is_graph, read_graph
from edgewise.viewer._dashboards import Dashboards, dashboards_of, read_dashboards
from edgewise.viewer._graphs import ForeignFile, GraphArrays, feature_ids, read_foreign
from edgewise.viewer._labels import read_labels
from edgewise.viewer._names import told_apart
from edgewise.viewer._page import page
from edgewise.viewer._read import CIRCUIT, Viewed, read

SEVERAL = "circuits.html"
"""The page of more than one run."""
GRAPH_PAGE = "graph.html"
Shown = Viewed | GraphArrays | ForeignFile
Seen = Circuit | AttributionGraph | MergedGraph | Difference | Viewed | GraphArrays | str | Path


def view(
    *what: Seen,
    out: str | Path | None = None,
    title: str | None = None,
    show: bool = True,
    dashboards: str | Path | None = None,
    labels: str | Path | None = None,
) -> Path:
    """Write one HTML file in which circuits and attribution graphs are looked at, and open it.

    The file needs no server and no network: it can be sent by mail.

    Args:
        what: circuits, attribution graphs, merged ones and differences, folders of runs, files of circuits and graphs,
            or graphs in the JSON of Neuronpedia and circuit-tracer.
        out: the `.html` file; if None, in the first one's folder: `circuit.html`, `graph.html`, `NAME.html` of a
            graph's file, or `circuits.html` for several.
        title: of the page.
        show: open it in the browser.
        dashboards: a folder or file of feature dashboards, of which those of the graphs' features are put into the page
            (see `read_dashboards`).
        labels: a file of words for components, features and nodes (see `read_labels`).

    Returns:
        Where the page is.

    Raises:
        InputError: nothing was given, a file is no circuit, graph, dashboard or labels, dashboards were given and no
            graph or none of its features, or the page cannot be written.
    """
    if not what:
        raise InputError("view: nothing to look at; give a circuit or a run's folder")
    path = check_page(out) if out is not None else _beside(what)
    known = {} if dashboards is None else read_dashboards(dashboards)
    words = {} if labels is None else read_labels(labels)
    runs = _told_apart(what, [_with(known, _viewed(each, number)) for number, each in enumerate(what)])
    if known and all(isinstance(each, Viewed) for each in runs):
        raise InputError(f"{dashboards}: dashboards stand beside a graph's features; give an attribution graph too")
    if known and not any(each.dashboards for each in runs if not isinstance(each, Viewed)):
        raise InputError(f"{dashboards}: it has none of the graph's features; give those of its layers")
    write_atomically(path, page(runs, title=title, labels=words))
    if show:
        webbrowser.open(path.resolve().as_uri())
    return path


def check_page(out: str | Path) -> Path:
    """`out` as a path, once it is one for a page. Raises `InputError`."""
    path = Path(out)
    if path.suffix not in (".html", ".htm"):
        raise InputError(f"{path}: a page is written as .html")
    return path


def _beside(what: tuple[Seen, ...]) -> Path:
    first = what[0]
    if not isinstance(first, (str, Path)):
        raise InputError("view: give out=, the .html file to write")
    path = Path(first)
    folder = path if path.is_dir() else path.parent
    if len(what) > 1:
        return folder / SEVERAL
    if path.suffix == ".json" or is_graph(path):
        return folder / GRAPH_PAGE if path.is_dir() else path.with_suffix(".html")
    return folder / Path(CIRCUIT).with_suffix(".html").name


def _viewed(what: Seen, number: int) -> Shown:
    if isinstance(what, (Viewed, GraphArrays)):
        return what
    if isinstance(what, Circuit):
        return Viewed(what, f"circuit {number + 1}")
    if isinstance(what, (AttributionGraph, MergedGraph, Difference)):
        return arrays_of(what, f"graph {number + 1}")
    path = Path(what)
    return read_foreign(path) if path.suffix == ".json" else read_graph(path) if is_graph(path) else read(path)


def _told_apart(what: tuple[Seen, ...], runs: list[Shown]) -> list[Shown]:
    """The same, by names that differ."""
    names = [_name(run) for run in runs]
    paths = [Path(each) if isinstance(each, (str, Path)) else None for each in what]
    return [_called(run, name) for run, name in zip(runs, told_apart(names, paths), strict=True)]


def _name(run: Shown) -> str:
    return run.label if isinstance(run, Viewed) else run.title if isinstance(run, GraphArrays) else run.name


def _called(run: Shown, name: str) -> Shown:
    if isinstance(run, Viewed):
        return replace(run, label=name)
    return run._replace(title=name) if isinstance(run, GraphArrays) else run._replace(name=name)


def _with(known: Dashboards, what: Shown) -> Shown:
    """The same, a graph with the dashboards of its features."""
    if isinstance(what, Viewed) or not known:
        return what
    return what._replace(dashboards=dashboards_of(feature_ids(what), known))
