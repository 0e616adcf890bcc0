"""The key under a picture: what colours, widths and marks mean."""

from collections.abc import Callable, Set
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from edgewise.graph import ERROR, FEATURE, MLP, NEURON, Graph
from edgewise.report._canvas import BRACKET, ERROR_FILL, FAINT, FEATURE_FILL, INK, MLP_FILL, box, write
from edgewise.report._strokes import Strokes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 7
"""Font size in points."""
CHARACTER = SIZE * 0.56 / 72
"""Width of an average character in inches."""
ROW = 0.3
GAP = 0.17
FILLS = {MLP: MLP_FILL, FEATURE: FEATURE_FILL, NEURON: FEATURE_FILL, ERROR: ERROR_FILL}
"""Of the boxes of writers, by kind; heads' are white."""
_NAMED = {
    MLP: "MLP, or rest of it",
    FEATURE: "feature",
    NEURON: "neuron",
    ERROR: "what features leave of an MLP",
}


class Entry(NamedTuple):
    """A mark and what it means."""

    label: str
    mark_width: float
    mark: Callable[["Axes", float, float], None]
    """Draws the mark, given its left end and its middle's height."""

    @property
    def width(self) -> float:
        """Of mark and label with the gap behind them, in inches."""
        return self.mark_width + 0.07 + len(self.label) * CHARACTER + GAP


def legend_rows(looks: Strokes, graph: Graph, writers: Set[int], width: float) -> list[list[Entry]]:
    """The key for these lines and the nodes of some `writers`, in rows of at most `width` inches: colours and widths
    first, then the marks of nodes.
    """
    colours = [Entry(label, 0.26, partial(_line, colour, looks.width(0.6))) for label, colour in looks.legend]
    widths = [Entry(label, 0.26, partial(_line, INK, looks.width(strength))) for label, strength in looks.scale]
    heads = [Entry("head with its query, key and value inputs", 0.38, partial(_head, ("q", "k", "v")))]
    if graph.heads_per_key > 1:
        heads = [
            Entry("head with its query input", 0.38, partial(_head, ("q",))),
            Entry("key and value shared by the heads above", 0.52, _shared_head),
        ]
    others = [*_boxes(graph, writers), Entry("not in the circuit", 0.06, _absent)]
    return _arrange([*colours, *widths], width) + _arrange([*heads, *others], width)


def _boxes(graph: Graph, writers: Set[int]) -> list[Entry]:
    if not graph.spec.apart:
        return [Entry("MLP", 0.28, partial(_box, MLP_FILL))]
    kinds = {int(graph.writer_kind[writer]) for writer in writers}
    names = _NAMED | ({FEATURE: "feature (m3.f17: one of layer 3, writing here)"} if graph.spec.cross_layer else {})
    return [Entry(names[kind], 0.28, partial(_box, fill)) for kind, fill in FILLS.items() if kind in kinds]


def legend_height(rows: list[list[Entry]]) -> float:
    """Inches that the rows take."""
    return ROW * len(rows) + 0.2


def draw_legend(axes: "Axes", rows: list[list[Entry]], left: float) -> None:
    """Draw the rows downwards from height 0, from `left` on."""
    for number, row in enumerate(rows):
        x, y = left, -0.12 - ROW * number
        for entry in row:
            entry.mark(axes, x, y)
            write(axes, x + entry.mark_width + 0.07, y, entry.label, SIZE)
            x += entry.width


def _arrange(entries: list[Entry], width: float) -> list[list[Entry]]:
    rows: list[list[Entry]] = []
    room = 0.0
    for entry in entries:
        if entry.width - GAP > room:
            rows.append([])
            room = width
        rows[-1].append(entry)
        room -= entry.width
    return rows


def _line(colour: str, width: float, axes: "Axes", x: float, y: float) -> None:
    axes.plot([x, x + 0.26], [y, y], color=colour, linewidth=width, solid_capstyle="butt")


def _head(inputs: tuple[str, ...], axes: "Axes", x: float, y: float) -> None:
    axes.add_patch(box(x + 0.19, y + 0.03, 0.38, 0.15, "white", 0.04))
    for name, shift in zip(inputs, (0.076, 0.19, 0.304), strict=False):
        axes.plot([x + shift], [y - 0.045], "o", markersize=2, color=INK, markeredgewidth=0, zorder=5)
        write(axes, x + shift, y - 0.115, name, 5.5, ha="center")


def _shared_head(axes: "Axes", x: float, y: float) -> None:
    axes.plot([x + 0.05, x + 0.47], [y, y], color=BRACKET, linewidth=0.6)
    for name, shift in (("k", 0.05), ("v", 0.47)):
        axes.add_patch(box(x + shift, y, 0.11, 0.09, "white", 0.03))
        write(axes, x + shift, y - 0.004, name, 5.5, ha="center", zorder=6)


def _box(fill: str, axes: "Axes", x: float, y: float) -> None:
    axes.add_patch(box(x + 0.14, y, 0.28, 0.14, fill, 0.0))


def _absent(axes: "Axes", x: float, y: float) -> None:
    axes.plot([x + 0.03], [y], "o", markersize=2.2, color=FAINT, markeredgewidth=0)
