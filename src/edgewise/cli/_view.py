"""`edgewise view`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgewise._errors import InputError


def view(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders that find wrote to, circuits, or graphs (.json) of other tools.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The .html file; circuit.html in the first run's folder if not given.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page; the runs' names if not given.")] = None,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = True,
) -> None:
    """Write one HTML file to look at circuits in: every size and edge, what was measured, two side by side.

    It needs no server and no network, so it can be sent by mail.
    """
    if missing := next((path for path in runs if not path.exists()), None):
        raise InputError(f"{missing}: no such file or folder; give the folder that `edgewise find` wrote to")
    from edgewise.viewer import view as write

    print(f"written to {write(*runs, out=out, title=title, show=show)}")
