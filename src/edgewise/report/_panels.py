"""A bench's figure: one panel per task, one line per method, faithfulness against size."""

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgewise._errors import InputError
from edgewise.bench import BenchPoint, BenchTable, is_empty
from edgewise.evaluation import Point
from edgewise.report._canvas import QUIET, canvas, printable, write
from edgewise.report._caption import last_part, shorten
from edgewise.report._curve import LINES, draw_method, finish_axes, marker_size
from edgewise.runs import bootstrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _HEIGHT = 4.0, 3.2  # of a panel in inches
_LEFT, _BELOW, _ABOVE = 0.62, 0.5, 0.62  # room around a panel's axes
_KEY_ROW, _KEY_COLUMN = 0.2, 2.6
_UNITS = {"kl": "KL(full ‖ circuit), nats"}


def draw_bench(table: BenchTable, path: str | Path, *, metric: str | None = None, log: bool = True) -> None:
    """Draw what a bench measured on its test splits.

    A line is the mean over the seeds, its band the 95 % bootstrap interval over the examples; small dots are the seeds'
    own means.

    Args:
        table: what `edgewise bench` wrote.
        path: the file; `.png`, `.svg` or `.pdf`. Equal tables give equal files.
        metric: which; each task's distance to the model (KL) if None.
        log: a logarithmic vertical axis, where the values allow one.

    Raises:
        InputError: the table has no such metric, or what `draw` raises about the file.
    """
    panels = [(model, task, table.points(model, task, metric)) for model, task in table.panels()]
    panels = [panel for panel in panels if _shown(panel[2])]  # the others have nothing yet
    if not panels:
        known = ", ".join(sorted({row["metric"] for row in table.rows}))
        raise InputError(
            f"plot: the table has nothing to draw for {metric or 'the distance'}; it has {known or 'none'}"
        )
    models = list(dict.fromkeys(model for model, _, _ in panels))
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    across = max(1, int(columns * _WIDTH // _KEY_COLUMN))
    shown = [point for _, _, points in panels for point in _shown(points)]
    methods = list(dict.fromkeys(point.method for point in shown))
    notes = textwrap.wrap(_caption(models, shown, str(table.rows[0]["ablation"])), int(columns * 62))
    key = _KEY_ROW * math.ceil(len(methods) / across) + 0.15 * len(notes) + 0.25
    with canvas(path, (0.0, columns * _WIDTH, 0.0, rows * _HEIGHT + key), 200) as page:
        for number, (model, task, points) in enumerate(panels):
            row, column = divmod(number, columns)
            corner = column * _WIDTH, key + (rows - 1 - row) * _HEIGHT
            title = task if len(models) == 1 else f"{task} in {last_part(model)}"
            _panel(page, corner, title, points, methods, log)
        for number, method in enumerate(methods):
            row, column = divmod(number, across)
            _key(page, 0.3 + column * _KEY_COLUMN, key - 0.15 - row * _KEY_ROW, method, number)
        for number, note in enumerate(notes):
            write(page, 0.3, 0.12 + 0.15 * (len(notes) - 1 - number), note, 7, color=QUIET)


def _shown(points: list[BenchPoint]) -> list[BenchPoint]:
    """The circuits that have a place on an axis of sizes."""
    return [point for point in points if not is_empty(point.algorithm) and point.edges >= 1]


def _caption(models: list[str], points: list[BenchPoint], ablation: str) -> str:
    runs, examples = (
        f"{min(sizes)}" if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}"
        for sizes in ({point.values.shape[axis] for point in points} for axis in (0, 1))
    )
    return (
        f"{', '.join(filter(None, map(last_part, models)))}; {examples} test examples; {ablation} "
        f"ablation, hard masks, at the answers; actual edges. Lines: mean over {runs} seeds; bands: 95 % bootstrap "
        "over the examples; dots: each seed; dotted: the empty circuit."
    )


def _panel(
    page: Any, corner: tuple[float, float], title: str, points: list[BenchPoint], methods: list[str], log: bool
) -> None:
    (_, width), (_, height) = page.get_xlim(), page.get_ylim()
    box = (
        (corner[0] + _LEFT) / width,
        (corner[1] + _BELOW) / height,
        (_WIDTH - _LEFT - 0.15) / width,
        (_HEIGHT - _BELOW - _ABOVE) / height,
    )
    axes = page.figure.add_axes(box)
    shown, empty = _shown(points), [point for point in points if is_empty(point.algorithm)]
    values = [value for point in shown for value in (point.by_example.mean(), *point.values.mean(1))]
    if log and min(values) > 0:
        axes.set_yscale("log")
    for method in dict.fromkeys(point.method for point in shown):
        here = [point for point in shown if point.method == method]
        draw_method(axes, [_mean(point) for point in here], methods.index(method))
        _dots(axes, here, LINES[methods.index(method) % len(LINES)][0])
    for point in empty:
        axes.axhline(float(point.values.mean()), color=QUIET, linewidth=0.9, linestyle=":", zorder=1)
    metric = points[0].metric
    finish_axes(axes, [round(point.edges) for point in shown], shown[0].total, _UNITS.get(metric, metric))
    write(page, corner[0] + _LEFT, corner[1] + _HEIGHT - 0.12, shorten(title, 60), 9.5, weight="bold")


def _mean(point: BenchPoint) -> Point:
    value, low, high = bootstrap(point.by_example)
    return Point(point.method, round(point.edges), value, low, high)


def _dots(axes: "Axes", points: list[BenchPoint], colour: str) -> None:
    several = [point for point in points if len(point.values) > 1]
    x = [edges for point in several for edges in point.actual]
    y = np.concatenate([point.values.mean(1) for point in several]) if several else []
    axes.plot(x, y, linestyle="", marker=".", markersize=3, color=colour, alpha=0.6, zorder=4)


def _key(page: Any, x: float, y: float, method: str, number: int) -> None:
    colour, marker, dash = LINES[number % len(LINES)]
    page.plot([x, x + 0.3], [y, y], color=colour, linestyle=dash, linewidth=1.5)
    page.plot([x + 0.15], [y], color=colour, marker=marker, markersize=marker_size(marker), markeredgecolor="white")
    write(page, x + 0.38, y, printable(shorten(method, 32)), 8)
