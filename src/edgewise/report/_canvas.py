"""What every picture shares: matplotlib on demand, one look, literal text, files written whole and the same each time.

Only matplotlib's object interface is used, inside a style context: a caller's pyplot figures, backend and settings stay
as they are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewise._errors import InputError
from edgewise.runs import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

# Colours that are told apart differ in lightness as well as in hue: for colour-blind readers and for greyscale print.
POSITIVE, NEGATIVE = "#17438f", "#ee8a12"
INTO_QUERY, INTO_KEY, INTO_VALUE = "#17438f", "#ee9a1a", "#12947c"
INTO_MLP, INTO_LOGITS, INTO_FEATURE = "#6b5b73", "#222222", "#a8432f"
INK, QUIET, FAINT = "#222222", "#6e6e6e", "#c6c6c6"
MLP_FILL, FEATURE_FILL, ERROR_FILL, BRACKET = "#e4e0e8", "#f9ead2", "#d5d5d5", "#8c8c8c"

# No date or version in the file: equal circuits give equal bytes.
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}

_MISSING = "drawing needs matplotlib, which is not installed: pip install edgewise[plot]"


@contextmanager
def canvas(path: str | Path, page: tuple[float, float, float, float], dpi: int) -> Iterator["Axes"]:
    """Yield axes that fill a page (its left, right, bottom and top in inches); write it to `path` on a clean exit.

    Raises `InputError` if the suffix is none of `.png`, `.svg` and `.pdf`, matplotlib is missing, or the file cannot be
    written.
    """
    path = check_path(path)
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(_MISSING) from error
    with matplotlib.style.context(["default", {"svg.hashsalt": "edgewise", "text.usetex": False}]):
        left, right, bottom, top = page
        figure = Figure(figsize=(right - left, top - bottom), facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
        yield axes
        suffix = path.suffix.lower()
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=suffix[1:], dpi=dpi, metadata=_METADATA[suffix])


def check_path(path: str | Path) -> Path:
    """`path` as a `Path`, once its suffix is one that can be drawn and matplotlib is there, which is not imported.
    Raises `InputError` otherwise.
    """
    path = Path(path)
    if path.suffix.lower() not in _METADATA:
        given = f"a {path.suffix} file" if path.suffix else "a name without a suffix"
        raise InputError(f"{path}: cannot draw to {given}; choose .png, .svg or .pdf")
    if find_spec("matplotlib") is None:
        raise InputError(_MISSING)
    return path


def write(axes: "Axes", x: float, y: float, text: str, size: float, **style: Any) -> None:
    """Put `text` on the page at `(x, y)`, character by character as it is: a `$` starts no formula."""
    axes.text(x, y, printable(text), fontsize=size, parse_math=False, **{"color": INK, "va": "center", **style})


def box(x: float, y: float, width: float, height: float, fill: str, corner: float) -> "Patch":
    """A node's outline, centred at `(x, y)`, with corners of radius `corner`."""
    from matplotlib.patches import FancyBboxPatch

    style = f"round,pad=0,rounding_size={corner}" if corner else "square,pad=0"
    low = x - width / 2, y - height / 2
    return FancyBboxPatch(low, width, height, boxstyle=style, facecolor=fill, edgecolor=INK, linewidth=0.6, zorder=4)


def printable(text: str) -> str:
    """`text` on one line; what no font shows and no file holds (control characters, lone surrogates) becomes `?`."""
    text = " ".join(text.split()).encode("utf-8", "replace").decode()
    return "".join(character if character.isprintable() else "?" for character in text)
