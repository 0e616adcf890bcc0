"""The curves along which edges run.

An edge leaves its writer, slips into a gutter between two columns, runs straight up there and turns into its reader's
port. It never passes behind a node, which would look as if it ended there. Edges of one writer that go up the same
gutter share one lane, like the branches of a tree; different writers get different lanes. Edges between MLPs bow out to
the right of their column. (Where MLPs are taken apart, all nodes are in rows, and there are no such arcs.)
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from edgewise.graph import EMBED, FEATURE_IN, HEAD, KEY, LOGITS, MLP, MLP_IN, QUERY
from edgewise.report._layout import Layout

XY = tuple[float, float]
Curve = list[XY]
"""A start point, then three points for each cubic Bézier piece."""

LANE = 0.055
"""Widest distance between two lanes of a gutter, in inches."""
NARROWEST_ARC, WIDEST_ARC = 0.2, 1.1
"""How far the control points of an arc beside the MLPs stand off, in inches."""


class Ends(NamedTuple):
    """The two ends of an edge, by number and in space."""

    writer: int
    reader: int
    writer_kind: int
    reader_kind: int
    start: XY
    end: XY
    gutter: int | None
    """The gutter it goes up; None where it needs none."""


def route(layout: Layout, writers: Sequence[int], readers: Sequence[int]) -> list[Curve]:
    """A curve for each edge `writers[i] -> readers[i]`."""
    edges = [_ends(layout, writer, reader) for writer, reader in zip(writers, readers, strict=True)]
    lanes = _lanes(layout, edges)
    return [_curve(layout, edge, lanes) for edge in edges]


def _ends(layout: Layout, writer: int, reader: int) -> Ends:
    graph = layout.graph
    writer_kind, reader_kind = int(graph.writer_kind[writer]), int(graph.reader_kind[reader])
    if not layout.aside:  # an MLP is left at its top like a head, and entered at its bottom like a feature
        writer_kind = HEAD if writer_kind == MLP else writer_kind
        reader_kind = FEATURE_IN if reader_kind == MLP_IN else reader_kind
    (x, y), (width, height) = layout.writer_xy[writer], layout.box
    start = {EMBED: (x, y), MLP: (x - width / 2, y + 0.22 * height)}.get(writer_kind, (x, y + height / 2))
    end = layout.port_xy[reader]
    rows = int(layout.reader_row[reader]) - int(layout.writer_row[writer])
    gutter = None
    if (writer_kind, reader_kind) != (MLP, MLP_IN) and rows > _direct_rows(writer_kind, reader_kind):
        gutter = _gutter(layout, writer, reader)
    return Ends(writer, reader, writer_kind, reader_kind, start, (float(end[0]), float(end[1])), gutter)


def _direct_rows(writer_kind: int, reader_kind: int) -> int:
    """Up to how many rows further an edge meets no other node on its way."""
    if writer_kind == EMBED or reader_kind == LOGITS:
        return -1
    return 0 if reader_kind == MLP_IN else 1


def _gutter(layout: Layout, writer: int, reader: int) -> int:
    """The gutter beside the reader, on the side that the edge comes from or, failing that, on the side of its port."""
    source, target = int(layout.writer_column[writer]), int(layout.reader_column[reader])
    last = len(layout.columns) - layout.aside
    if target < 0:
        return 0 if source < 0 else min(source + 1, last)
    if target == last:  # the MLPs' column
        return last
    from_right = source > target
    if source in (target, -1):
        from_right = int(layout.graph.reader_kind[reader]) not in (QUERY, KEY)
    return target + from_right


def _lanes(layout: Layout, edges: Sequence[Ends]) -> dict[tuple[int, int], float]:
    """The x at which each writer's edges run up each gutter; no two writers' straight stretches lie on each other."""
    stretches: dict[int, dict[int, tuple[float, float]]] = defaultdict(dict)
    for edge in edges:
        if edge.gutter is not None:
            low, high = stretches[edge.gutter].get(edge.writer, (edge.start[1], edge.end[1]))
            stretches[edge.gutter][edge.writer] = (low, max(high, edge.end[1]))
    lanes = {}
    for gutter, by_writer in stretches.items():
        numbers = _without_overlap(by_writer)
        count = max(numbers.values()) + 1
        centre, usable = layout.gutter(gutter)
        step = min(LANE, usable / count)
        for writer, number in numbers.items():
            lanes[writer, gutter] = centre + step * (number - (count - 1) / 2)
    return lanes


def _without_overlap(stretches: dict[int, tuple[float, float]]) -> dict[int, int]:
    """Number the stretches from low to high, each with the first number free there (interval colouring; optimal)."""
    ends: list[float] = []
    numbers = {}
    for writer, (low, high) in sorted(stretches.items(), key=lambda item: (item[1], item[0])):
        number = next((i for i, end in enumerate(ends) if end < low), len(ends))
        ends[number : number + 1] = [high]
        numbers[writer] = number
    return numbers


def _curve(layout: Layout, edge: Ends, lanes: dict[tuple[int, int], float]) -> Curve:
    if (edge.writer_kind, edge.reader_kind) == (MLP, MLP_IN):
        return _arc(layout, edge)
    if edge.gutter is None:
        return [edge.start, *_turn(edge.start, edge.end, edge.writer_kind == MLP, edge.reader_kind == MLP_IN)]
    x = lanes[edge.writer, edge.gutter]
    row = layout.pitch[1]
    y0, y1 = edge.start[1], edge.end[1]
    if edge.writer_kind == EMBED:
        curve, low = [(x, y0)], y0
    else:
        low = y0 + (0.12 if edge.writer_kind == MLP else 0.35) * row
        curve = [edge.start, *_turn(edge.start, (x, low), edge.writer_kind == MLP, False)]
    high = y1 if edge.reader_kind == LOGITS else y1 - 0.3 * row
    curve += _line((x, low), (x, max(low, high)))
    if edge.reader_kind != LOGITS:
        curve += _turn((x, max(low, high)), edge.end, False, edge.reader_kind == MLP_IN)
    return curve


def _line(start: XY, end: XY) -> Curve:
    (x0, y0), (x1, y1) = start, end
    return [((2 * x0 + x1) / 3, (2 * y0 + y1) / 3), ((x0 + 2 * x1) / 3, (y0 + 2 * y1) / 3), end]


def _turn(start: XY, end: XY, leaves_sideways: bool, enters_sideways: bool) -> Curve:
    """One piece from `start` to `end`, upwards at both ends unless it leaves or enters sideways."""
    (x0, y0), (x1, y1) = start, end
    bend = 0.6
    first = (x0 + bend * (x1 - x0), y0) if leaves_sideways else (x0, y0 + bend * (y1 - y0))
    second = (x1 - bend * (x1 - x0), y1) if enters_sideways else (x1, y1 - bend * (y1 - y0))
    return [first, second, end]


def _arc(layout: Layout, edge: Ends) -> Curve:
    """Right of the MLP column, the wider the more layers it skips."""
    x = float(layout.columns[-1]) + layout.box[0] / 2
    low, high = edge.start[1], edge.end[1]
    layers = layout.graph.spec.n_layers
    skipped = (high - low) / layout.pitch[1] / max(layers - 1, 1)
    reach = NARROWEST_ARC + (WIDEST_ARC - NARROWEST_ARC) * min(max(skipped, 0.0), 1.0) ** 0.5
    return [(x, low), (x + reach, low), (x + reach, high), (x, high)]
