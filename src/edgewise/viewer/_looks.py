"""Where the head of a circuit's edge looks, and what its attention becomes without the edge.

An edge into a query or key changes where its head looks. It is taken out of that one input, w's ablated output in place
of its own; the input's norm, projection and the softmax run as they are, and everything else stays the full model's. An
edge into a value leaves the attention alone: what counts is where the head takes most of the change from. Of an edge
from a head into an MLP or the logits, it is the writing head whose look is of interest.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.engine import Engine, Stream
from edgewise.graph import HEAD, KEY, LOGITS, QUERY, VALUE
from edgewise.models.block import pattern_logits
from edgewise.tasks import Task

N_KEYS = 3


class Look(NamedTuple):
    """One head at one token of one example."""

    example: int
    """Its number in the split."""
    head: int
    """Of the reader's layer, of several that share a key or value the one for which the edge does most; of the writer's
    layer where an MLP or the logits read."""
    query: int
    """The position that asks: the one for which the edge does most, the answer's where the logits read."""
    keys: tuple[tuple[int, float, float], ...]
    """Positions asked about, and how much of its attention the query gives to each, with the edge and without it."""


@torch.no_grad()
def looks(engine: Engine, task: Task, split: str, edges: Sequence[int], examples: Sequence[int]) -> list[Look | None]:
    """Of each edge into an attention head, or from one, where the head looks.

    Args:
        engine: of the circuit's graph and ablation.
        task: the behaviour.
        split: which examples.
        edges: which edges.
        examples: for each edge, the number of the example to look at.

    Returns:
        One for each edge; None for those that join no head.
    """
    found: list[Look | None] = [None] * len(edges)
    for example in sorted(set(examples)):
        stream = Stream(engine, task.batch(split, [example]).to(engine.model.device))
        for i, edge in enumerate(edges):
            if examples[i] == example:
                found[i] = _look(stream, edge, example)
    return found


def _look(stream: Stream, edge: int, example: int) -> Look | None:
    graph = stream.graph
    writer, reader = int(graph.edge_writer[edge]), int(graph.edge_reader[edge])
    kind = int(graph.reader_kind[reader])
    if kind in (QUERY, KEY, VALUE):
        return _reading(stream, writer, reader, kind, example)
    return _writing(stream, writer, kind, example) if graph.writer_kind[writer] == HEAD else None


def _writing(stream: Stream, writer: int, kind: int, example: int) -> Look:
    """Where a head looks as it writes."""
    layer, head = (int(column[writer]) for column in (stream.graph.writer_layer, stream.graph.writer_head))
    change = stream.differences(slice(None), slice(writer, writer + 1))[0].norm(dim=-1)  # (S,)
    query = int(stream.targets[-1]) if kind == LOGITS else int(change.argmax())
    clean = stream.clean[stream.graph.attention(layer).number]
    pattern = _attention(stream, layer, stream.project(layer, clean))[head, query]
    keys = pattern.topk(min(N_KEYS, len(pattern))).indices.tolist()
    return Look(example, head, query, tuple((key, float(pattern[key]), float(pattern[key])) for key in keys))


def _reading(stream: Stream, writer: int, reader: int, kind: int, example: int) -> Look:
    """Where a head looks that reads the edge."""
    graph = stream.graph
    block = graph.block_of(reader)
    clean = stream.clean[block.number]
    without = clean - stream.differences(slice(None), slice(writer, writer + 1))[0]
    place = reader - block.reader
    known, changed = (stream.project(block.layer, x) for x in (clean, without))  # (n, N, k)
    moved = known.clone()
    moved[place] = changed[place]
    before, after = (_attention(stream, block.layer, x) for x in (known, moved))  # (H, S, S)
    own = [head for head in range(stream.parts.n_heads) if reader in graph.readers_of(graph.writer(block.layer, head))]
    if kind == VALUE:
        carried = before[own] * (known[place] - changed[place]).norm(dim=-1)
    else:
        carried = (before[own] - after[own]).abs()
    at, query = divmod(int(carried.sum(-1).flatten().argmax()), carried.shape[1])
    most = carried[at, query] if kind == VALUE else torch.maximum(before, after)[own[at], query]
    keys = most.topk(min(N_KEYS, len(most))).indices.tolist()
    shown = tuple((key, float(before[own[at], query, key]), float(after[own[at], query, key])) for key in keys)
    return Look(example, own[at], query, shown)


def _attention(stream: Stream, layer: int, projected: Float[Tensor, "n N k"]) -> Float[Tensor, "H S S"]:
    """One prompt's pattern, from what all of a layer's readers project; a sink's share is in none of the keys."""
    query, key, _ = stream.unpacked(projected)
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    logits = pattern_logits(stream.parts.layers[layer].attention, query, key, stream.contexts[layer])
    return logits.softmax(-1)[0, :, :, : query.shape[2]]
