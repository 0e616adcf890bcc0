"""Where the nodes of a graph stand on the page.

Layers go upwards, heads across, MLPs in a column of their own at the right, a little above their layer's heads.
Embeddings are a rail along the bottom and the logits a rail along the top, so that the many edges from and to them run
straight up beside their head. All lengths are in inches.

Where MLPs are taken apart, what stands in a layer's MLP has a row of its own above the layer's heads, and only the
nodes in use are there: candidates are many. Rows without any are left out.
"""

from collections.abc import Set
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from edgewise.graph import EMBED, KEY, LOGITS, MLP, MLP_IN, QUERY, VALUE, Graph

MARGIN = 0.35
"""Blank space around what is drawn."""
READABLE = 5.5
"""Size in points for which there is room in the boxes of features and neurons."""
RAISED = 0.4
"""Part of a row by which an MLP stands above its layer's heads, and below the markers of the next layer's."""


@dataclass(frozen=True)
class Layout:
    """Positions of a graph's nodes and ports; of what is left out they are no numbers."""

    graph: Graph
    labels: list[str]
    """What is written on each writer's node."""
    height: float
    """Of the grid with its rails, without title and legend."""
    pitch: tuple[float, float]
    """From column to column, from layer to layer."""
    box: tuple[float, float]
    """Width and height of a node."""
    columns: Float[np.ndarray, " C"]
    """Centre of each column."""
    head_columns: range
    aside: bool
    """MLPs have the last column to themselves, and edges come into them from the left. Otherwise they, or what stands
    in their place, are in rows like heads."""
    rows: dict[int, float]
    """Height of each layer that is shown, for its number."""
    writer_column: np.ndarray
    """Column of each writer, `[W]`; -1 for embeddings."""
    reader_column: np.ndarray
    """Column of the node that each reader belongs to, `[R]`; -1 for `logits`."""
    writer_row: np.ndarray
    """Row of each writer, `[W]`, from the bottom."""
    reader_row: np.ndarray
    """Row of the node that each reader belongs to, `[R]`."""
    writer_xy: Float[np.ndarray, "W 2"]
    """Centre of each writer's node; an embedding has a rail instead, and only its height counts."""
    port_xy: Float[np.ndarray, "R 2"]
    """Where an edge meets each reader; of `logits`, a rail, only the height counts."""
    tag: tuple[float, float]
    """Width and height of the marker of a shared key or value head."""

    @property
    def shares_keys(self) -> bool:
        """Several query heads share one key and value reader, which then has a marker of its own."""
        return self.graph.heads_per_key > 1

    @property
    def rail(self) -> tuple[float, float]:
        """Left and right end of the rails."""
        gutter = self.pitch[0] - self.box[0]
        right = float(self.columns[-1]) + self.box[0] / 2
        return float(self.columns[0]) - self.box[0] / 2 - gutter, right if self.aside else right + gutter

    def gutter(self, index: int) -> tuple[float, float]:
        """Centre and usable width of the gap left of column `index`, where edges run upwards past the nodes; the last
        one, where MLPs are not `aside`, is right of the last column.
        """
        edges = self.columns - self.box[0] / 2, self.columns + self.box[0] / 2
        left = float(edges[1][index - 1]) if index else self.rail[0]
        right = float(edges[0][index]) if index < len(self.columns) else self.rail[1]
        return (left + right) / 2, (right - left) * 0.8


def place(graph: Graph, writers: Set[int], readers: Set[int]) -> Layout:
    """Lay a graph out; where MLPs are taken apart, with only the writers given of what is in their place, and the heads
    of layers that have a writer or reader given.
    """
    return _in_rows(graph, _places_in_rows(graph, writers, readers)) if graph.spec.apart else _in_columns(graph)


def _in_columns(graph: Graph) -> Layout:
    layers, heads = graph.spec.n_layers, graph.spec.n_heads
    pitch = _pitch(heads + 1, layers, 0.42)
    box = min(0.64 * pitch[0], 0.5), min(0.4 * pitch[1], 0.22)
    left = MARGIN + 0.5 + pitch[0] - box[0] / 2
    columns = left + pitch[0] * np.array([*range(heads), heads + 0.45])
    kind, layer = graph.writer_kind.numpy(), graph.writer_layer.numpy()
    first, rails = _first(graph, pitch)
    level = first + pitch[1] * (layer + np.where(kind == MLP, RAISED, 0.0))
    column = np.select([kind == EMBED, kind == MLP], [-1, heads], graph.writer_head.numpy())

    reader_kind, reader_layer = graph.reader_kind.numpy(), graph.reader_layer.numpy()
    reader_column = np.select([reader_kind == MLP_IN, reader_kind == LOGITS], [heads, -1], _head_under(graph))
    reader_level = first + pitch[1] * (reader_layer + np.where(reader_kind == MLP_IN, RAISED, 0.0))
    top = first + (layers + 0.25) * pitch[1]
    tag = _tag(pitch, box)
    return Layout(
        graph=graph,
        labels=graph.writer_names,
        height=top + MARGIN / 2,
        pitch=pitch,
        box=box,
        columns=columns,
        head_columns=range(heads),
        aside=True,
        rows={each: first + pitch[1] * each for each in range(layers)},
        writer_column=column,
        reader_column=reader_column,
        writer_row=layer,
        reader_row=reader_layer,
        writer_xy=np.stack([columns[column], np.where(kind == EMBED, rails, level)], axis=1),
        port_xy=_ports(graph, columns[reader_column], reader_level, top, box, tag, aside=True),
        tag=tag,
    )


def _in_rows(graph: Graph, place_of: dict[tuple[int, bool], list[int]]) -> Layout:
    heads = graph.spec.n_heads
    labels = [_label(*each) for each in zip(graph.writer_names, graph.writer_layer.tolist(), strict=True)]
    n_columns = max([heads, *(len(row) for row in place_of.values())])
    longest = max((len(labels[writer]) for row in place_of.values() for writer in row), default=1)
    readable = (0.585 * longest + 0.45) * READABLE / 72
    pitch = _pitch(n_columns, len(place_of), readable / 0.64)
    box = min(0.64 * pitch[0], max(0.5, readable)), min(0.4 * pitch[1], 0.22)
    columns = MARGIN + 0.5 + pitch[0] - box[0] / 2 + pitch[0] * np.arange(n_columns)
    first, rails = _first(graph, pitch)

    column, row = np.full(graph.n_writers, -1), np.full(graph.n_writers, -1)
    for number, (_, writers) in enumerate(sorted(place_of.items())):
        column[writers] = (n_columns - len(writers)) // 2 + np.arange(len(writers))
        row[writers] = number
    # An embedding is on a rail; what is left out is nowhere.
    level = np.where(graph.writer_kind.numpy() == EMBED, rails, np.where(row < 0, np.nan, first + pitch[1] * row))
    reader_column, reader_row = column[_node_of(graph)], row[_node_of(graph)]
    reader_column[-1], reader_row[-1] = -1, len(place_of)
    top = first + (len(place_of) - 0.5) * pitch[1]
    tag = _tag(pitch, box)
    reader_level = np.where(reader_row < 0, np.nan, first + pitch[1] * reader_row)
    by_layer = {layer: [n for n, key in enumerate(sorted(place_of)) if key[0] == layer] for layer, _ in place_of}
    return Layout(
        graph=graph,
        labels=labels,
        height=top + MARGIN / 2,
        pitch=pitch,
        box=box,
        columns=columns,
        head_columns=range((n_columns - heads) // 2, (n_columns - heads) // 2 + heads),
        aside=False,
        rows={layer: first + pitch[1] * float(np.mean(rows)) for layer, rows in by_layer.items()},
        writer_column=column,
        reader_column=reader_column,
        writer_row=row,
        reader_row=reader_row,
        writer_xy=np.stack([columns[column], level], axis=1),
        port_xy=_ports(graph, columns[reader_column], reader_level, top, box, tag, aside=False),
        tag=tag,
    )


def _places_in_rows(graph: Graph, writers: Set[int], readers: Set[int]) -> dict[tuple[int, bool], list[int]]:
    """The writers of each row, by its layer and whether it is that of the MLP's place: all heads where any takes part,
    if only as a reader (a key that several share belongs to none of them alone).
    """
    found: dict[tuple[int, bool], list[int]] = {}
    for layer in range(graph.spec.n_layers):
        every = range(graph.n_writers)[graph.writers(layer)]
        inputs = range(graph.n_readers)[graph.attention(layer).readers]
        heads, others = every[: graph.spec.n_heads], [w for w in every[graph.spec.n_heads :] if w in writers]
        if not writers.isdisjoint(heads) or not readers.isdisjoint(inputs):
            found[layer, False] = [*heads]
        if others:
            found[layer, True] = others
    return found


def _label(name: str, layer: int) -> str:
    """A node's name without what its row says: `f17`; with its layer where it is a place in a later one, `m0.f17`."""
    return name.partition(">")[0].removeprefix(f"m{layer}.")


def _node_of(graph: Graph) -> np.ndarray:
    """The writer whose node each reader belongs to: of a shared key or value the head that it is drawn under; nothing
    in particular for `logits`.
    """
    own = [(graph.writers_fed_by(reader) or (0,))[0] for reader in range(graph.n_readers)]
    return np.array(own) + np.where(graph.reader_kind.numpy() == VALUE, graph.heads_per_key - 1, 0)


def _head_under(graph: Graph) -> np.ndarray:
    """The head that a reader is drawn under. A key that several query heads share has a marker under the first of them,
    its value under the last.
    """
    kind, head, group = graph.reader_kind.numpy(), graph.reader_head.numpy(), graph.heads_per_key
    return np.where(kind == KEY, head * group, np.where(kind == VALUE, head * group + group - 1, head))


def _pitch(n_columns: int, n_rows: int, narrowest: float) -> tuple[float, float]:
    width = np.clip(8.4 / (n_columns + 0.4), narrowest, max(narrowest, 1.15))
    return float(width), float(np.clip(11 / (n_rows + 1), 0.35, 0.72))


def _tag(pitch: tuple[float, float], box: tuple[float, float]) -> tuple[float, float]:
    return min(0.3 * box[0], 0.12), min(0.24 * pitch[1], 0.11)


def _first(graph: Graph, pitch: tuple[float, float]) -> tuple[float, np.ndarray]:
    """Height of the lowest row, and of each embedding's rail (of other writers no matter what)."""
    rails = 0.3 * (max(graph.n_embeddings, 1) - 1)
    return MARGIN + rails + 0.15 + 0.9 * pitch[1], MARGIN + 0.1 + rails - 0.3 * np.arange(graph.n_writers)


def _ports(
    graph: Graph,
    x: np.ndarray,
    level: np.ndarray,
    top: float,
    box: tuple[float, float],
    tag: tuple[float, float],
    *,
    aside: bool,
) -> np.ndarray:
    """Entry point of every reader, `[R, 2]`, from the middle of its node: q, k, v from left to right at a head's lower
    edge, others in its middle; where MLPs stand `aside`, at their left.
    """
    kind, y = graph.reader_kind.numpy(), level - box[1] / 2
    key_or_value = (kind == KEY) | (kind == VALUE)
    if graph.heads_per_key == 1:
        shift = np.select([kind == QUERY, kind == VALUE], [-0.3, 0.3], 0.0)
    else:
        shift = np.select([kind == QUERY, key_or_value], [-0.3, 0.12], 0.0)
        y = np.where(key_or_value, y - tag[1] - 0.015, y)
    if aside:
        shift = np.where(kind == MLP_IN, -0.5, shift)
        y = np.where(kind == MLP_IN, level - 0.22 * box[1], y)
    return np.stack([x + shift * box[0], np.where(kind == LOGITS, top, y)], axis=1)
