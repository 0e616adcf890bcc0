"""A static picture of a circuit: every node of the model, and the edges that the circuit keeps."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Int

from edgewise.circuit import Circuit
from edgewise.graph import EMBED, LOGITS, Graph
from edgewise.report._canvas import BRACKET, FAINT, INK, QUIET, box, canvas, write
from edgewise.report._caption import conditions, counts, heading, shorten
from edgewise.report._layout import MARGIN, Layout, place
from edgewise.report._legend import FILLS, draw_legend, legend_height, legend_rows
from edgewise.report._routes import Curve, route
from edgewise.report._strokes import Strokes, is_signed, strokes, weigh

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NARROWEST = 6.4
"""Width of the page in inches that caption and legend need."""
TITLE, CAPTION, LABEL = 13, 7.5, 7
"""Font sizes in points."""
LINE = 0.16
"""Height of a line of the caption in inches."""
CASING = 1.0
"""Points by which the white under an edge is wider than the edge, up to 300 edges; less where lanes lie closer."""
SMALLEST = 4
"""A label that would have to be smaller is left out; rows and columns are numbered at the edges."""


def draw(
    circuit: Circuit,
    path: str | Path,
    *,
    title: str | None = None,
    signed: bool | None = None,
    dpi: int = 200,
    most: int = 20_000,
) -> None:
    """Draw a circuit: layers upwards, heads across, MLPs at the right (or, where some are taken apart into features or
    neurons, what stands in their place above their layer's heads), its actual edges with width and ink by score.

    Args:
        circuit: what to draw. Edges that cannot carry signal are left out, and counted in the caption; nodes without
            an edge are faint dots.
        path: the file to write; `.png`, `.svg` or `.pdf`. Equal circuits give equal files.
        title: instead of the task's and model's name.
        signed: True: colour by the score's sign, weigh by its absolute value. False: the scores are a ranking, so weigh
            by value and colour by the input that an edge enters. None: as edges were chosen (`Circuit.selection`);
            where that was by absolute score, or is not known, signed if an actual edge has a negative score.
        dpi: pixels per inch of a PNG.
        most: draw at most so many edges, the strongest; the caption says so.

    Raises:
        InputError: the suffix is none of these, matplotlib is not installed, or the file cannot be written.
    """
    graph = circuit.graph
    actual = circuit.actual.nonzero()[:, 0].numpy()
    scores = None if circuit.scores is None else circuit.scores.detach().float().cpu().numpy()
    if signed is None and circuit.selection == "signed":
        signed = False  # the lowest score, though it is negative, is the weakest
    if scores is not None:
        signed = is_signed(scores[actual], signed)
        # Weakest first, so that the strongest are drawn last and lie on top.
        actual = actual[np.argsort(weigh(scores[actual], signed), kind="stable")]
    edges = actual[max(len(actual) - most, 0) :]
    kinds = graph.reader_kind[graph.edge_reader[edges].long()].numpy()
    looks = strokes(None if scores is None else scores[edges], kinds, signed)
    size = counts(circuit.n_edges, len(actual), graph.n_edges)
    if len(edges) < len(actual):
        size += f"; drawn: {len(edges):,} of them" + (", the strongest" if scores is not None else "")
    words = [size, conditions(circuit.provenance, graph.spec)]
    paint(path, graph, edges, looks, title or heading(circuit.provenance), words, dpi)


def paint(
    path: str | Path,
    graph: Graph,
    edges: Int[np.ndarray, " n"],
    looks: Strokes,
    name: str,
    words: list[str],
    dpi: int = 200,
) -> None:
    """Draw some edges of a model, the one to lie on top last, under a title and `words` in lines of their own."""
    live = live_nodes(graph, edges)
    layout = place(graph, live.writers, live.readers)
    curves = route(layout, graph.edge_writer[edges].tolist(), graph.edge_reader[edges].tolist())
    left, right = _sides(layout, curves)
    inner = right - left - 2 * MARGIN
    lines = [line for text in words for line in textwrap.wrap(text, int(inner * 72 / (CAPTION * 0.53)))]
    key = legend_rows(looks, graph, live.writers, inner)
    top = layout.height + 0.62 + LINE * len(lines)
    with canvas(path, (left, right, -legend_height(key), top), dpi) as axes:
        _draw_header(axes, left + MARGIN, top, shorten(name, int(inner * 72 / (TITLE * 0.68))), lines)
        _draw_grid(axes, layout)
        _draw_edges(axes, layout, edges, curves, looks)
        _draw_nodes(axes, layout, live)
        draw_legend(axes, key, left + MARGIN)


def _sides(layout: Layout, curves: list[Curve]) -> tuple[float, float]:
    """Left and right end of a page on which grid and arcs stand in the middle, with room for the words."""
    right = max([layout.rail[1], *(x for curve in curves for x, _ in curve)]) + MARGIN
    spare = max(NARROWEST - right, 0.0)
    return -spare / 2, right + spare / 2


class Live(NamedTuple):
    """What of the model takes part in the circuit."""

    writers: set[int]
    """Nodes with an edge out or in, and embeddings with an edge out. A feature that writes to later layers is one in
    its own layer if anything goes in, and in each other only if anything goes out there."""
    readers: set[int]


def live_nodes(graph: Graph, edges: Int[np.ndarray, " n"]) -> Live:
    """The nodes that some edges join."""
    writers = set(graph.edge_writer[edges].tolist())
    readers = set(graph.edge_reader[edges].tolist())
    for reader in readers:
        if graph.heads_per_key == 1 or graph.role(reader) not in ("key", "value"):
            writers.update(graph.writers_fed_by(reader)[:1])
    return Live(writers, readers)


def _draw_header(axes: "Axes", x: float, top: float, title: str, lines: list[str]) -> None:
    write(axes, x, top - 0.36, title, TITLE, weight="bold")
    for number, line in enumerate(lines):
        write(axes, x, top - 0.62 - LINE * number, line, CAPTION, color=QUIET)


def _draw_grid(axes: "Axes", layout: Layout) -> None:
    """A dot for every node of the model, the rails, and the numbers of layers and heads."""
    graph = layout.graph
    nodes = graph.writer_kind.numpy() != EMBED
    axes.plot(*layout.writer_xy[nodes].T, "o", markersize=2.2, color=FAINT, markeredgewidth=0, zorder=1)

    left, right = layout.rail
    heights = [*layout.writer_xy[: graph.n_embeddings, 1], layout.port_xy[-1, 1]]
    for name, y in zip([*graph.writer_names[: graph.n_embeddings], "logits"], heights, strict=True):
        axes.plot([left, right], [y, y], color=QUIET, linewidth=5, solid_capstyle="round", zorder=3)
        write(axes, left - 0.08, y, name, LABEL, ha="right")

    size = min(LABEL, layout.pitch[1] * 72 * 0.8, layout.pitch[0] * 72 * 0.4)
    for layer, y in layout.rows.items():
        write(axes, left - 0.08, y, str(layer), size, ha="right", color=QUIET)
    below = MARGIN - 0.1
    for head, column in enumerate(layout.head_columns):
        write(axes, layout.columns[column], below, str(head), size, ha="center", color=QUIET)
    if layout.aside:
        write(axes, layout.columns[-1], below, "MLP", size, ha="center", color=QUIET)
    write(axes, left - 0.08, below, "head", LABEL, ha="right", color=QUIET)
    middle = float(np.mean([*layout.rows.values()] or [layout.height / 2]))
    write(axes, left - 0.38, middle, "layer", LABEL, ha="center", color=QUIET, rotation=90)


def _draw_edges(
    axes: "Axes", layout: Layout, edges: Int[np.ndarray, " n"], curves: list[Curve], looks: Strokes
) -> None:
    """The curves, weakest first, each on a white casing: where two cross, the stronger visibly passes over."""
    from matplotlib.collections import PathCollection
    from matplotlib.path import Path as Outline

    graph = layout.graph
    outlines = [Outline(curve, [Outline.MOVETO] + [Outline.CURVE4] * (len(curve) - 1)) for curve in curves]
    widths = np.array([looks.width(strength) for strength in looks.strength.tolist()])
    casing = CASING * min(1.0, (300 / max(len(edges), 1)) ** 0.5)
    collection = PathCollection(
        [outline for outline in outlines for _ in range(2)],
        facecolors="none",
        edgecolors=np.stack([np.ones_like(looks.ink), looks.ink], axis=1).reshape(-1, 3),
        linewidths=np.stack([widths + casing, widths], axis=1).reshape(-1),
        zorder=2,
    )
    collection.set_gid("edges")
    axes.add_collection(collection, autolim=False)
    from_rail = graph.writer_kind[graph.edge_writer[edges].long()] == EMBED
    to_rail = graph.reader_kind[graph.edge_reader[edges].long()] == LOGITS
    on_rails = [curve[0] for curve, marked in zip(curves, from_rail.tolist(), strict=True) if marked]
    on_rails += [curve[-1] for curve, marked in zip(curves, to_rail.tolist(), strict=True) if marked]
    if on_rails:
        axes.plot(*np.array(on_rails).T, "o", markersize=2, color="white", markeredgewidth=0, zorder=4)


def _draw_nodes(axes: "Axes", layout: Layout, live: Live) -> None:
    graph, (width, height) = layout.graph, layout.box
    components = sorted(writer for writer in live.writers if writer >= graph.n_embeddings)
    longest = max((len(layout.labels[writer]) for writer in components), default=1)
    size = min(LABEL, 72 * width / (0.585 * longest + 0.45), 72 * height * 0.72)
    for writer in components:
        x, y = layout.writer_xy[writer]
        colour = FILLS.get(int(graph.writer_kind[writer]), "white")
        corner = 0.0 if colour in FILLS.values() else min(0.045, height / 3)
        axes.add_patch(box(x, y, width, height, colour, corner))
        if size >= SMALLEST:
            write(axes, x, y - 0.005, layout.labels[writer], size, ha="center", zorder=5)
    ports = [reader for reader in live.readers if int(graph.reader_kind[reader]) != LOGITS]
    if ports:
        axes.plot(*layout.port_xy[ports].T, "o", markersize=2, color=INK, markeredgewidth=0, zorder=5)
    if layout.shares_keys:
        _draw_shared_heads(axes, layout, live)


def _draw_shared_heads(axes: "Axes", layout: Layout, live: Live) -> None:
    """A marker for each shared key and value in use, with a line to the live query heads of its group."""
    graph = layout.graph
    width, height = layout.tag
    for reader in sorted(live.readers):
        role = graph.role(reader)
        if role not in ("key", "value"):
            continue
        x, y = layout.port_xy[reader]
        y += height / 2
        users = [layout.writer_xy[writer] for writer in graph.writers_fed_by(reader) if writer in live.writers]
        shift = x - layout.columns[layout.reader_column[reader]]
        for user_x, user_y in users:
            axes.plot([x, user_x + shift, user_x + shift], [y, y, user_y], color=BRACKET, linewidth=0.6, zorder=3)
        axes.add_patch(box(x, y, width, height, "white", height / 3))
        write(axes, x, y - 0.004, "k" if role == "key" else "v", height * 72 * 0.75, ha="center", zorder=6)
