"""A circuit in a notebook: a small picture where it stands, and the whole page in it on a click."""

from html import escape

import numpy as np

from edgewise.circuit import Circuit
from edgewise.report import heading
from edgewise.viewer._page import page, writable
from edgewise.viewer._read import Viewed

CELL, GAP, LEFT = 14, 2, 30
INK = "#3a6fc4"


def notebook_html(circuit: Circuit) -> str:
    """What a notebook shows for a circuit: how many of its edges meet at each component, and the page on a click."""
    title = writable(heading(circuit.provenance))
    whole = escape(page([Viewed(circuit, title)], title=title), quote=True)
    return (
        f"<p>{escape(repr(circuit))}</p>{_small(circuit)}"
        "<details><summary>Look at it: every size, every edge</summary>"
        '<iframe sandbox="allow-scripts allow-downloads" loading="lazy" width="100%" height="720" '
        f'title="{escape(title)}" srcdoc="{whole}"></iframe></details>'
    )


def _small(circuit: Circuit) -> str:
    """Layers from bottom to top, heads from left to right, MLPs (or their features together) at the right end."""
    graph = circuit.graph
    layers, heads = graph.spec.n_layers, graph.spec.n_heads
    touched = np.zeros((layers, heads + 1))
    actual = circuit.actual
    writers = np.bincount(graph.edge_writer[actual].numpy(), minlength=graph.n_writers)
    readers = np.bincount(graph.edge_reader[actual].numpy(), minlength=graph.n_readers)
    for writer, count in enumerate(writers):
        layer, head = int(graph.writer_layer[writer]), int(graph.writer_head[writer])
        if layer >= 0:
            own = [each for each in graph.readers_of(writer) if int(graph.reader_layer[each]) == layer]
            touched[layer, head] += count + sum(readers[reader] for reader in own)  # a place reads in another layer
    depth = np.sqrt(touched / max(touched.max(), 1))
    width, height = LEFT + (heads + 1) * (CELL + GAP), layers * (CELL // 2 + GAP)
    cells = [
        f'<rect x="{LEFT + head * (CELL + GAP)}" y="{(layers - 1 - layer) * (CELL // 2 + GAP)}" width="{CELL}" '
        f'height="{CELL // 2}" fill="{INK}" fill-opacity="{0.06 + 0.94 * depth[layer, head]:.2f}">'
        f"<title>{_name(layer, head, heads)}: {touched[layer, head]:.0f} edges</title></rect>"
        for layer, head in np.ndindex(*touched.shape)
    ]
    return (
        f'<svg role="img" aria-label="Edges at each head and MLP, by layer" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">{"".join(cells)}</svg>'
    )


def _name(layer: int, head: int, heads: int) -> str:
    return f"a{layer}.h{head}" if head < heads else f"m{layer}"
