"""`edgewise.view`: write a page and open it."""

import webbrowser
from pathlib import Path

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.runs import write_atomically
from edgewise.viewer._page import page
from edgewise.viewer._read import CIRCUIT, Viewed, read

SEVERAL = "circuits.html"
"""The page of more than one run."""


def view(
    *what: Circuit | Viewed | str | Path,
    out: str | Path | None = None,
    title: str | None = None,
    show: bool = True,
) -> Path:
    """Write one HTML file in which circuits are looked at, and open it.

    The file needs no server and no network: it can be sent by mail.

    Args:
        what: circuits, folders of runs, or files of circuits; several stand side by side.
        out: the `.html` file; `circuit.html` in the first run's folder if None (`circuits.html` of several).
        title: of the page.
        show: open it in the browser.

    Returns:
        Where the page is.

    Raises:
        InputError: nothing was given, a file is no circuit, or the page cannot be written.
    """
    if not what:
        raise InputError("view: nothing to look at; give a circuit or a run's folder")
    path = check_page(out) if out is not None else _beside(what)
    runs = [_viewed(each, number) for number, each in enumerate(what)]
    write_atomically(path, page(runs, title=title))
    if show:
        webbrowser.open(path.resolve().as_uri())
    return path


def check_page(out: str | Path) -> Path:
    """`out` as a path, once it is one for a page. Raises `InputError`."""
    path = Path(out)
    if path.suffix not in (".html", ".htm"):
        raise InputError(f"{path}: a page is written as .html")
    return path


def _beside(what: tuple[Circuit | Viewed | str | Path, ...]) -> Path:
    first = what[0]
    if not isinstance(first, (str, Path)):
        raise InputError("view: give out=, the .html file to write")
    folder = Path(first) if Path(first).is_dir() else Path(first).parent
    return folder / (Path(CIRCUIT).with_suffix(".html").name if len(what) == 1 else SEVERAL)


def _viewed(what: Circuit | Viewed | str | Path, number: int) -> Viewed:
    if isinstance(what, Viewed):
        return what
    if isinstance(what, Circuit):
        return Viewed(what, f"circuit {number + 1}")
    return read(what)
