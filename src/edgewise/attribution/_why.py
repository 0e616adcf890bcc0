"""Why an edge is there: its heads at every layer, and why the largest of them look where they look."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._attach import explained_of
from edgewise.attribution._columns import column_table
from edgewise.attribution._graph import KINDS, GraphData, node_names
from edgewise.attribution._heads import Passing, Source, passes, source_of, whole_edges
from edgewise.attribution._query_key import Contrast, terms
from edgewise.attribution._reasons import HeadLoading, LayerSplit, QueryKey, Term, Why
from edgewise.attribution._rows import Columns, Targets
from edgewise.attribution._targets import Explained, node_targets
from edgewise.runs import check_counts

TOP_HEADS = 3
"""Heads that are listed of each layer."""


def why(graph: GraphData, source: str, target: str, n_heads: int = 1, most: int = 10) -> Why:
    """What an edge is made of: its heads at each layer, and the query-key reasons of the largest.

    Args:
        graph: made by `attribute`, or attached.
        source: a node's name, such as `m3.n12@5`, `token@0`, `m2.error@4` or `m2.bias`.
        target: a neuron's, feature's or root's name; `logits` for a graph's only root.
        n_heads: how many heads' reasons are given.
        most: how many pairs and nodes of each are.

    Raises:
        InputError: the run is not at hand, a node is not in the graph, nothing flows into the target or out of the
            source, the source comes after the target, or a count is negative.
    """
    check_counts("why", least=0, n_heads=n_heads, most=most)
    made = explained_of(graph)
    to, start = graph.node(_target_name(graph, target)), graph.node(source)
    readers = targets_of(graph, made, torch.tensor([to]))
    writer = source_at(graph, made, start)
    layers = [_split(passing) for passing in passes(made.nodes, readers, 1, [writer])]
    weight = float(whole_edges(made.nodes, readers, 1, [writer]))
    if not layers and not weight:
        raise InputError(f"source {source!r}: it does not come before {target!r}; give a node of a lower layer")
    loadings = sorted((each for split in layers for each in split.heads), key=lambda each: -abs(each.weight))
    chosen = [each for each in loadings if each.weight and each.attention < 1]  # 1: it sees no other key
    reasons = [_reason(made, each, most) for each in chosen[:n_heads]]
    share = abs(weight) / max(float(graph.ledger.size[to]), 1e-30)
    in_graph = float(graph.matrix[to, start]) != 0
    return Why(source, graph.names[to], weight, share, in_graph, tuple(layers), tuple(reasons), graph.tokens)


def _target_name(graph: GraphData, target: str) -> str:
    if target != "logits" or target in graph.names:
        return target
    if len(graph.roots) != 1:
        raise InputError(f"target 'logits': the graph explains several; give one of {', '.join(graph.roots)}")
    return graph.roots[0]


def source_at(graph: GraphData, made: Explained, number: int) -> Source:
    """What a node writes. Raises `InputError` for one that writes nothing."""
    kind, layer, position, index = (int(column[number]) for column in graph.nodes[:4])
    return source_of(made.nodes, graph.names[number], KINDS[kind], layer, index, position)


def targets_of(graph: GraphData, made: Explained, numbers: Int[Tensor, " n"]) -> list[Targets]:
    """Nodes as targets, a row each. Raises `InputError` for one into which nothing flows."""
    found = list[Targets]()
    for row, number in enumerate(numbers.tolist()):
        kind, layer, position, index = (int(column[number]) for column in graph.nodes[:4])
        if KINDS[kind] == "root":
            targets = made.roots[index].targets
        elif KINDS[kind] in ("neuron", "feature"):
            active = made.nodes.active[layer]
            start, end = active.offsets[position : position + 2].tolist()
            targets = node_targets(made.nodes, layer, (active.index[start:end] == index).nonzero()[:, 0] + start)
        else:
            name = graph.names[number]
            raise InputError(f"target {name!r}: nothing flows into a {KINDS[kind]}; give a neuron, feature or root")
        found.append(targets._replace(row=torch.full_like(targets.row, row)))
    return found


def _split(passing: Passing) -> LayerSplit:
    """One edge at one layer."""
    weights = passing.heads[:, 0, 0]
    heads = weights.abs().topk(min(TOP_HEADS, len(weights))).indices
    none = torch.zeros_like(heads)
    where = passing.positions(heads, none, none)
    at = where.flatten(1).abs().argmax(1)
    pattern, loadings = passing.ran.pattern.first(where.shape[1]), list[HeadLoading]()
    for head, part, place in zip(heads.tolist(), where, at.tolist(), strict=True):
        query, key = divmod(place, where.shape[2])
        attention = float(pattern[head, query, key])
        loadings.append(
            HeadLoading(passing.layer, head, float(weights[head]), query, key, float(part[query, key]), attention)
        )
    through, past, later = float(weights.sum()), float(passing.past), float(passing.later)
    return LayerSplit(passing.layer, through, past, later, tuple(loadings))


def _reason(made: Explained, loading: HeadLoading, most: int) -> QueryKey:
    """Why a head's query looks at the key through which most of an edge goes."""
    contrast = Contrast(made.nodes.run, loading.layer, loading.head, loading.query, loading.key)
    columns = Columns.of(made.nodes)
    found = terms(made.nodes, columns, contrast)
    residual = (contrast.value - found.sides.total).abs() / found.sides.size.clamp(min=1e-30)
    asking, asked = (_names(made, columns, found.columns(side), loading.layer, "qk"[side]) for side in (0, 1))
    largest = found.pairs.flatten().abs().topk(min(most, found.pairs.numel())).indices.tolist()
    places = [divmod(each, len(asked)) for each in largest]
    return QueryKey(
        *loading[:2],
        loading.query,
        loading.key,
        loading.attention,
        contrast.value + contrast.sink,
        (contrast.value + contrast.sink) / max(1 - float(contrast.looks[contrast.key]), 1e-30),
        contrast.sink,
        float(residual.max()),
        tuple(Term(asking[i], asked[j], float(found.pairs[i, j])) for i, j in places),
        tuple(Term(name, "", x) for name, x in _first(asking, found.weights(0), most)),
        tuple(Term("", name, x) for name, x in _first(asked, found.weights(1), most)),
    )


def _first(names: Sequence[str], values: Float[Tensor, " n"], most: int) -> list[tuple[str, float]]:
    return list(zip(names[:most], values[:most].tolist(), strict=True))


def _names(made: Explained, columns: Columns, chosen: Int[Tensor, " n"], layer: int, letter: str) -> list[str]:
    """Of columns; what the head itself adds, its bias and its norm's, is no MLP's."""
    n_layers = len(made.nodes.active)
    ordered, place = chosen.cpu().sort()
    table = column_table(made.nodes, columns, ordered).take(place.argsort())
    names = node_names(table, n_layers)
    own = columns.bias(layer, "reading")
    return [f"a{layer}.{letter}.bias" if i == own else name for i, name in zip(chosen.tolist(), names, strict=True)]
