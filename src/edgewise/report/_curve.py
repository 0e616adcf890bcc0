"""How faithfulness falls as circuits shrink: one line per method over the number of edges kept."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgewise._errors import InputError
from edgewise.evaluation import Point, SizeCurve
from edgewise.report._canvas import INK, QUIET, canvas, printable, write
from edgewise.report._caption import heading, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 7.6, 4.6
"""Of the page in inches."""
LINES = [
    ("#17438f", "o", "-"),
    ("#ee8a12", "s", "-"),
    ("#12947c", "^", "-"),
    ("#c05a9d", "D", "-"),
    ("#6b6b6b", "v", "--"),
    ("#56b4e9", "P", "--"),
    ("#8a4b12", "X", "--"),
    ("#222222", "*", "--"),
]
"""Colour, marker and dash of each method in turn; marker and dash hold where colours are not seen."""
SPARSITIES = (0.98, 0.9, 0.99, 0.5, 0.999, 0.95, 0.8, 0.995, 0.9999, 0.998, 0.9995, 0.9998)
"""Along the top, the more telling first: where there is no room for all, the later ones are left out."""
ROOM = 0.45  # inches that the label of a tick takes


def curve(
    points: Sequence[Point],
    path: str | Path,
    *,
    total: int | None = None,
    full: float | None = None,
    empty: float | None = None,
    measure: str = "KL(full ‖ circuit)",
    title: str = "Faithfulness by size",
    caption: str = "",
    log: bool = False,
    dpi: int = 200,
) -> None:
    """Draw a measure against the number of edges kept, a line with its interval band for each method.

    Args:
        points: the measured circuits, in any order; methods are drawn in the order in which they first occur.
        path: the file to write; `.png`, `.svg` or `.pdf`. Equal points give equal files.
        total: edges of the whole graph; with it, sparsity stands along the top.
        full: the full model's value, as a line across.
        empty: the empty circuit's value, as a line across.
        measure: the name of the vertical axis.
        title: the heading.
        caption: what else a reader must know, such as model, task, ablation, split and number of examples.
        log: a logarithmic vertical axis.
        dpi: pixels per inch of a PNG.

    Raises:
        InputError: no points, one that a (logarithmic) axis cannot show, or what `draw` raises about the file.
    """
    _check(points, log)
    with chart(path, title, caption, dpi, HEIGHT, above=1.55 if total else 1.2) as axes:
        if log:
            axes.set_yscale("log")
        methods = list(dict.fromkeys(point.method for point in points))
        for number, method in enumerate(methods):
            draw_method(axes, [point for point in points if point.method == method], number)
        references = _draw_references(axes, full, empty)
        finish_axes(axes, [point.edges for point in points], total, measure)
        draw_key(axes, [*methods, *references])


@contextmanager
def chart(path: str | Path, title: str, caption: str, dpi: int, height: float, above: float = 1.2) -> Iterator["Axes"]:
    """Axes under a heading and a caption, with room for a key at the right; the file is written at the end.

    Of the page's height without the caption, in inches, `above` is not the axes'.
    """
    notes = textwrap.wrap(caption, 120)
    top = height + 0.15 * len(notes)
    with canvas(path, (0.0, WIDTH, 0.0, top), dpi) as page:
        write(page, 0.3, top - 0.3, shorten(title), 12, weight="bold")
        for number, note in enumerate(notes):
            write(page, 0.3, top - 0.54 - 0.15 * number, note, 7.5, color=QUIET)
        yield page.figure.add_axes((0.75 / WIDTH, 0.6 / top, 5.05 / WIDTH, (height - above) / top))


def plain_look(axes: "Axes") -> None:
    """Small grey ticks, no frame at the top and right, faint lines across behind everything."""
    axes.tick_params(labelsize=7.5, color=QUIET)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)


def draw_curve(found: SizeCurve, path: str | Path, *, title: str | None = None, log: bool = False) -> None:
    """Draw what `size_curve` found, with the conditions it was measured under.

    `path` and `log` are those of `curve`, and so is what is raised. The heading is task and model if `title` is None.
    """
    conditions = found.conditions
    ablation = " with ".join(filter(None, (conditions["ablation"]["kind"], conditions["ablation"]["source"])))
    caption = (
        f"{found.n} {conditions['split']} examples, hard masks, at the answers, ablation {ablation}; actual edges; "
        "band: 95 % bootstrap interval over the examples"
    )
    curve(
        [point for point in found.points if point.edges],  # one without edges is the empty circuit's line
        path,
        total=found.total_edges,
        empty=found.empty,
        full=None if found.metric == "kl" else found.full,  # 0 by definition
        measure="KL(full ‖ circuit), nats" if found.metric == "kl" else found.metric,
        title=title or heading(conditions),
        caption=caption,
        log=log,
    )


def _check(points: Sequence[Point], log: bool) -> None:
    if not points:
        raise InputError("curve: there are no points to draw; give at least one")
    for point in points:
        where = f"curve: {point.method} at {point.edges} edges"
        if point.edges < 1:
            raise InputError(f"{where} has no place on a logarithmic axis; give that value as `empty`")
        if not math.isfinite(point.value):
            raise InputError(f"{where} has the value {point.value}; leave it out or give a finite one")
        if log and point.value <= 0:
            raise InputError(
                f"{where} has the value {point.value}, which a logarithmic axis cannot show; use log=False"
            )


def draw_method(axes: "Axes", points: list[Point], number: int) -> None:
    """One method's line, markers and band."""
    colour, marker, dash = LINES[number % len(LINES)]
    points = sorted(points, key=lambda point: point.edges)
    edges = [point.edges for point in points]
    axes.plot(
        edges,
        [point.value for point in points],
        color=colour,
        marker=marker,
        linestyle=dash,
        linewidth=1.5,
        markersize=marker_size(marker),
        markeredgecolor="white",
        markeredgewidth=0.5,
        zorder=3,
        label=str(number),
    )
    banded = [point for point in points if point.low is not None and point.high is not None]
    sizes, low, high = ([getattr(point, name) for point in banded] for name in ("edges", "low", "high"))
    axes.fill_between(sizes, low, high, color=colour, alpha=0.16, linewidth=0, zorder=2)
    if len(set(sizes)) == 1:  # a band of one size has no area
        axes.plot(sizes[:1] * 2, [min(low), max(high)], color=colour, linewidth=1, zorder=2)


def marker_size(marker: str) -> float:
    """In points; a star's own shape leaves little of it."""
    return 8.0 if marker == "*" else 4.5


def _draw_references(axes: "Axes", full: float | None, empty: float | None) -> list[str]:
    """Lines across at the full model's and the empty circuit's value; returns their names."""
    names = []
    for value, name, dash in ((full, "full model", "--"), (empty, "empty circuit", ":")):
        if value is not None:
            axes.axhline(value, color=INK, linewidth=0.9, linestyle=dash, zorder=1, label=name)
            names.append(f"{name} ({value:.3g})")
    return names


def draw_key(axes: "Axes", names: list[str]) -> None:
    """The key at the right, with names as they are: a label would hide one that starts with `_`."""
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text("\n".join(textwrap.wrap(printable(shorten(name)), 22)))


def finish_axes(axes: "Axes", edges: list[int], total: int | None, measure: str) -> None:
    """Scales and labels."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_xlim(min(edges) / 1.25, max(edges) * 1.25)
    decade = _inches(axes) / math.log10(max(edges) / min(edges) * 1.25**2)
    subs = next((subs for subs, gap in (((1, 2, 5), 0.3), ((1, 3), 0.47)) if gap * decade > ROOM), (1,))
    low, high = axes.get_xlim()
    inside = [n for exponent in range(10) for n in (sub * 10**exponent for sub in subs) if low <= n <= high]
    # Of fewer than two such numbers matplotlib makes a scale of its own, with parts of edges.
    own = None if len(inside) > 1 else _spread(sorted({*edges}), decade)
    axes.xaxis.set_major_locator(LogLocator(subs=subs) if own is None else FixedLocator(own))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("edges kept (logarithmic)", fontsize=8)
    axes.set_ylabel(printable(measure), fontsize=8, parse_math=False)
    plain_look(axes)
    if total:
        _add_sparsity(axes, total)


def _spread(edges: list[int], decade: float) -> list[int]:
    """Sizes that have room for a label each, on a scale with so many inches a decade."""
    found = edges[:1]
    for n in edges[1:]:
        if math.log10(n / found[-1]) * decade >= ROOM:
            found.append(n)
    return found


def _inches(axes: "Axes") -> float:
    """How wide axes are."""
    figure = axes.get_figure()
    assert figure is not None
    return axes.get_position().width * figure.get_figwidth()  # pyright: ignore[reportAttributeAccessIssue]


def _add_sparsity(axes: "Axes", total: int) -> None:
    low, high = axes.get_xlim()
    inches = _inches(axes) / math.log10(high / low)
    shown: list[float] = []
    for share in SPARSITIES:
        apart = [abs(math.log10((1 - share) / (1 - other))) * inches for other in shown]
        if low <= (1 - share) * total <= high and min(apart, default=ROOM) >= ROOM:
            shown.append(share)
    above = axes.twiny()
    above.set_xscale("log")
    above.set_xlim(low, high)
    above.set_xticks([(1 - share) * total for share in shown], [f"{100 * share:g} %" for share in shown])
    above.set_xticks([], minor=True)
    above.tick_params(labelsize=7.5, color=QUIET)
    above.spines[["right"]].set_visible(False)
    above.set_xlabel(f"sparsity (of {total:,} edges)", fontsize=8)
