"""`edgewise view`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgewise._errors import InputError
from edgewise.cli import _features, _show
from edgewise.cli import _options as options
from edgewise.cli._common import engine_of, load_for, task_of

CIRCUIT, EVIDENCE = "circuit.safetensors", "evidence.json"


def view(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of find or attribute, circuits, graphs, or graphs (.json) of other tools."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The .html file; circuit.html in the first run's folder if not given.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page; the runs' names if not given.")] = None,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = True,
    evidence: Annotated[
        int, typer.Option(help="Patch so many of each circuit's strongest edges exactly first; writes evidence.json.")
    ] = 0,
    model: options.OwnModel = None,
    transcoders: _features.Sources = None,
    device: options.Device = "cpu",
) -> None:
    """Write one HTML file to look at circuits in: every size and edge, what was measured, two side by side.

    It needs no server and no network, so it can be sent by mail.
    """
    if missing := next((path for path in runs if not path.exists()), None):
        raise InputError(f"{missing}: no such file or folder; give the folder that `edgewise find` wrote to")
    if evidence < 0:
        raise InputError(f"--evidence {evidence}: give how many edges, 0 or more")
    from edgewise.viewer import is_graph
    from edgewise.viewer import view as write

    for run in runs if evidence else ():
        if run.suffix != ".json" and not is_graph(run):
            _gather(run, evidence, model, transcoders, device)
    print(f"written to {write(*runs, out=out, title=title, show=show)}")


def _gather(run: Path, n_edges: int, model: str | None, transcoders: _features.Sources, device: str) -> None:
    """Write a run's evidence beside its circuit; predictions are those of the examples that it is worst at."""
    from edgewise.viewer import gather, read

    path = run / CIRCUIT if run.is_dir() else run
    viewed = read(run)
    circuit, judged = viewed.circuit, viewed.evaluations.get("")
    features = _features.for_circuit(circuit, transcoders)
    loaded = load_for(circuit, model, device)
    engine = engine_of(path, circuit, loaded, transcoders=features)
    task = task_of(circuit, loaded.tokenizer)
    worst = None if judged is None else [each.number for each in judged.worst if each.number < len(task.test)]
    with _show.working("patching edges one by one"):
        found = gather(engine, circuit, task, n_edges, examples=worst)
    found.save(path.parent / EVIDENCE)
