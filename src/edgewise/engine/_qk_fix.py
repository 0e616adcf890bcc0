"""What removing one edge does to a head's attention, computed exactly, for all edges into queries and keys."""

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.engine._reach import LiveComponent, made_of
from edgewise.engine._rerun import BlockRun, Rerun
from edgewise.engine._stream import Stream
from edgewise.models.block import normed

TILE_BYTES = 16 << 20
"""How much the readers' inputs of the edges that run side by side may take."""


@torch.no_grad()
def query_and_key_effects(stream: Stream, gradients: dict[int, Float[Tensor, "N H v"]]) -> Float[Tensor, " E"]:
    """What each edge into a query or a key is worth, the effect of the head's output alone being linear.

    A query's or key's input without the edge goes through its norm, its projection and the softmax as they are (the QK
    fix of Kramár et al. 2024, section 3.1.1, for an edge in place of a node). A key's effect is the sum over its heads.

    Args:
        stream: a batch's clean run.
        gradients: of what is explained, by attention block, with respect to what its heads give before W_O.

    Returns:
        The effects, summed over the batch; NaN for edges into other readers.
    """
    rerun, graph, heads = Rerun(stream), stream.graph, stream.parts.n_heads
    positions = rerun.positions[True]
    found = stream.clean[0].new_full((graph.n_edges,), torch.nan)
    step = max(1, TILE_BYTES // (len(positions) * stream.parts.d_model * found.element_size()))
    for layer, parts in enumerate(stream.parts.layers):
        block = graph.attention(layer)
        clean = stream.clean[block.number][positions.tokens]
        component = {head: LiveComponent(True, made_of(graph, block, head)) for head in range(heads)}
        queries, keys, _ = graph.roles
        y = normed(parts.attention.norm, clean[None])
        known = BlockRun(projected=rerun.projections(layer, range(block.n_readers), y, True, BlockRun()))
        known.written = rerun.mixed(layer, component, {}, known)
        table = block.table(found)
        table[: keys.stop] = 0
        for start in range(0, block.n_writers, step):
            writers = slice(start, min(start + step, block.n_writers))
            inputs = normed(parts.attention.norm, clean - stream.differences(positions.tokens, writers))
            for role in (queries, keys):
                new = rerun.projections(layer, role, inputs, True, BlockRun())
                # One reader at a time where it moves all heads, and otherwise all, each of which moves its own.
                for some in [[reader] for reader in role] if parts.attention.joint else [list(role)]:
                    moved = {reader: new[reader] for reader in some}
                    for head, mixed in rerun.mixed(layer, component, moved, known).items():
                        change = known.written[head] - mixed  # (n, T, v)
                        effect = (change * gradients[block.number][positions.tokens, head]).sum((1, 2))
                        own = component[head].readers[0 if role is queries else 1]
                        table[own if len(some) > 1 else some[0], writers] += effect
    return found
