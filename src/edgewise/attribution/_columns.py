"""What the columns of a row are: nodes of a graph."""

import torch
from jaxtyping import Int
from torch import Tensor

from edgewise.attribution._graph import KINDS, NodeTable, concatenated
from edgewise.attribution._nodes import Neurons, Nodes
from edgewise.attribution._rows import Columns


def column_table(nodes: Nodes, columns: Columns, chosen: Int[Tensor, " c"]) -> NodeTable:
    """What some columns of a row, given in order, are."""
    kind, tables = "neuron" if isinstance(nodes, Neurons) else "feature", list[NodeTable]()
    starts = torch.searchsorted(chosen, torch.tensor(columns.starts))
    for layer, active in enumerate(nodes.active):
        which = chosen[starts[layer] : starts[layer + 1]] - columns.starts[layer]
        position = torch.searchsorted(active.offsets.cpu(), which, right=True) - 1
        tables.append(table_of(kind, layer, position, *(each.cpu()[which] for each in (active.index, active.value))))
    return concatenated([*tables, _other_columns(nodes, columns).take(chosen[starts[-1] :] - columns.n_nodes)])


def _other_columns(nodes: Nodes, columns: Columns) -> NodeTable:
    """Errors, embeddings and biases."""
    run = nodes.run
    positions, n_layers = torch.arange(len(run)), len(run.layers)
    tables = list[NodeTable]()
    tables += [table_of("error", layer, positions) for layer in range(n_layers)]
    tables += [
        table_of(kind, -1, positions, run.ids.cpu() if kind == "token" else None)
        for kind in ("token", "position")[: columns.n_embeddings]
    ]
    for layer in range(n_layers):
        tables += [table_of(kind, layer, positions[:1] - 1) for kind in ("reading bias", "attention bias", "MLP bias")]
    return concatenated([*tables, table_of("reading bias", n_layers, positions[:1] - 1)])


def table_of(
    kind: str, layer: int, position: Tensor, index: Tensor | None = None, value: Tensor | None = None
) -> NodeTable:
    def filled(number: int) -> Tensor:
        return torch.full_like(position, number)

    index = filled(-1) if index is None else index
    value = torch.zeros(len(position), dtype=torch.float64) if value is None else value.double()
    return NodeTable(filled(KINDS.index(kind)), filled(layer), position, index, value)
