"""Where the nodes of a graph stand on the page.

Layers go upwards, heads across, MLPs in a column of their own at the right, a little above their layer's heads.
Embeddings are a rail along the bottom and the logits a rail along the top, so that the many edges from and to them run
straight up beside their head. All lengths are in inches.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from edgewise._errors import InputError
from edgewise.graph import EMBED, KEY, LOGITS, MLP, MLP_IN, QUERY, VALUE, Graph

MARGIN = 0.35
"""Blank space around what is drawn."""
RAISED = 0.4
"""Part of a row by which an MLP stands above its layer's heads, and below the markers of the next layer's."""


@dataclass(frozen=True)
class Layout:
    """Positions of a graph's nodes and ports."""

    graph: Graph
    height: float
    """Of the grid with its rails, without title and legend."""
    pitch: tuple[float, float]
    """From column to column, from layer to layer."""
    box: tuple[float, float]
    """Width and height of a node."""
    columns: Float[np.ndarray, " C"]
    """Centre of each column: the heads', then the MLPs'."""
    writer_column: np.ndarray
    """Column of each writer, `[W]`; -1 for embeddings."""
    reader_column: np.ndarray
    """Column of the node that each reader belongs to, `[R]`; -1 for `logits`."""
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
        return float(self.columns[0]) - self.pitch[0] + self.box[0] / 2, float(self.columns[-1]) + self.box[0] / 2

    def gutter(self, index: int) -> tuple[float, float]:
        """Centre and usable width of the gap left of column `index`, where edges run upwards past the nodes."""
        right = float(self.columns[index]) - self.box[0] / 2
        left = right - self.pitch[0] + self.box[0] if index == 0 else float(self.columns[index - 1]) + self.box[0] / 2
        return (left + right) / 2, (right - left) * 0.8


def place(graph: Graph) -> Layout:
    """Lay `graph` out: cells shrink as the model grows, down to the smallest legible label."""
    spec = graph.spec
    if spec.apart:
        raise InputError(f"draw: the graph has {spec.apart}; a picture shows only heads and MLPs; use edge_table")
    layers, heads = spec.n_layers, spec.n_heads
    pitch = float(np.clip(8.4 / (heads + 1.4), 0.42, 1.15)), float(np.clip(11 / (layers + 1), 0.35, 0.72))
    box = min(0.64 * pitch[0], 0.5), min(0.4 * pitch[1], 0.22)
    tag = min(0.3 * box[0], 0.12), min(0.24 * pitch[1], 0.11)
    left = MARGIN + 0.5 + pitch[0] - box[0] / 2
    columns = left + pitch[0] * np.array([*range(heads), heads + 0.45])
    rails = 0.3 * (max(graph.n_embeddings, 1) - 1)
    first = MARGIN + rails + 0.15 + 0.9 * pitch[1]  # height of layer 0
    top = first + (layers + 0.25) * pitch[1]

    kind = graph.writer_kind.numpy()
    writer_column = np.select([kind == EMBED, kind == MLP], [-1, heads], graph.writer_head.numpy())
    level = first + pitch[1] * (graph.writer_layer.numpy() + np.where(kind == MLP, RAISED, 0.0))
    level = np.where(kind == EMBED, MARGIN + 0.1 + rails - 0.3 * np.arange(graph.n_writers), level)
    writer_xy = np.stack([columns[writer_column], level], axis=1)
    reader_column, port_xy = _ports(graph, columns, first, top, pitch[1], box, tag)
    return Layout(
        graph=graph,
        height=top + MARGIN / 2,
        pitch=pitch,
        box=box,
        columns=columns,
        writer_column=writer_column,
        reader_column=reader_column,
        writer_xy=writer_xy,
        port_xy=port_xy,
        tag=tag,
    )


def _ports(
    graph: Graph,
    columns: np.ndarray,
    first: float,
    top: float,
    pitch: float,
    box: tuple[float, float],
    tag: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Column and entry point of every reader: q, k, v from left to right at a head's lower edge, an MLP's at its left.

    A key head that several query heads share has a marker under the first of them, its value head under the last.
    """
    kind, head = graph.reader_kind.numpy(), graph.reader_head.numpy()
    group = graph.heads_per_key
    own = np.where(kind == KEY, head * group, np.where(kind == VALUE, head * group + group - 1, head))
    column = np.select([kind == MLP_IN, kind == LOGITS], [graph.spec.n_heads, -1], own)

    height = first + pitch * (graph.reader_layer.numpy() + np.where(kind == MLP_IN, RAISED, 0.0))
    x, y = columns[column], height - box[1] / 2
    if group == 1:
        x = x + np.select([kind == QUERY, kind == VALUE], [-0.3 * box[0], 0.3 * box[0]], 0.0)
    else:
        x = x + np.where(kind == QUERY, -0.3 * box[0], 0.12 * box[0])
        y = np.where((kind == KEY) | (kind == VALUE), y - tag[1] - 0.015, y)
    x = np.where(kind == MLP_IN, columns[-1] - box[0] / 2, x)
    y = np.select([kind == MLP_IN, kind == LOGITS], [height - 0.22 * box[1], top], y)
    return column, np.stack([x, y], axis=1)
