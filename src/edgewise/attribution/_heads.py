"""Head loadings: which heads an edge passes through, layer by layer.

With everything frozen, a source's write becomes a change δ of the stream before layer l, and a target pulls back to a
covector g of the stream after that layer's attention. Their edge is `⟨g, δ⟩` past the heads plus `⟨g, H_h(δ)⟩` through
each head h, at every layer between them; of a cross-layer feature also what it writes only later. There is no joint
split over several layers (circuit-tracer, pull request 114, which refuses cross-layer and skip transcoders).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.attribution._nodes import Nodes
from edgewise.attribution._rows import Columns, Targets, Walk


class Source(NamedTuple):
    """What a node writes."""

    layer: int
    """−1 for an embedding."""
    written: dict[int, Float[Tensor, "S D"]]
    """By layer: what its MLP adds to the stream for this node's sake; −1: at the bottom."""


class HeadSplit(NamedTuple):
    """Edges of some sources to some targets, split at every layer. At layers that do not lie between, all is 0."""

    heads: Float[Tensor, "L H K M"]
    """Through each head, for K targets and M sources."""
    past: Float[Tensor, "L K M"]
    """Past the layer's heads, on the residual stream (or through a skip connection)."""
    later: Float[Tensor, "L K M"]
    """Written only after the layer's attention: all of the edge for layers below the source."""


class _Recording(Walk):
    """A walk that keeps each layer's covectors: of the stream after its attention, and after its MLP."""

    def down(self) -> Float[Tensor, "K C"]:
        self.after_attention, self.after_mlp = dict[int, Tensor](), dict[int, Tensor]()
        return super().down()

    def mlp(self, layer: int) -> Tensor | None:
        self.after_mlp[layer] = self.covector
        return super().mlp(layer)

    def attention(self, layer: int) -> Float[Tensor, "T K D"]:
        self.after_attention[layer] = self.covector
        return super().attention(layer)

    def in_order(self, covector: Float[Tensor, "T k D"]) -> Float[Tensor, "T K D"]:
        """With the rows in the order asked for, those that had not joined as 0."""
        return torch.nn.functional.pad(covector, (0, 0, 0, self.n_rows - covector.shape[1]))[:, self.place]


@torch.no_grad()
def split_by_heads(
    nodes: Nodes, columns: Columns, targets: Sequence[Targets], n_targets: int, sources: Sequence[Source]
) -> HeadSplit:
    """Split the edges of all pairs.

    Args:
        nodes: of a run.
        columns: where they stand in a row.
        targets: K rows, as for `rows`.
        n_targets: K.
        sources: M of them.
    """
    walk = _Recording(nodes, columns, targets, n_targets)
    walk.down()
    run, shape = nodes.run, (len(nodes.run.layers), n_targets, len(sources))
    heads = run.final.new_zeros(shape[0], len(run.layers[0].pattern.query), *shape[1:])
    past, later = run.final.new_zeros(shape), run.final.new_zeros(shape)
    change = _written(sources, -1, run.final)
    for layer, ran in enumerate(run.layers):
        covector = walk.in_order(walk.after_attention[layer])
        moved, length = ran.mixed_forward(change), len(covector)
        heads[layer] = torch.einsum("htkv,htmv->hkm", ran.mixed_back(covector), moved[:, :length])
        after = change + ran.write(moved)
        skipped = nodes.skip_forward(layer, change if run.model.parts.parallel else after)
        past[layer] = torch.einsum("tkd,tmd->km", covector, change[:length])
        if skipped is not None and run.model.parts.parallel:
            past[layer] += torch.einsum("tkd,tmd->km", covector, skipped[:length])
        written = _written(sources, layer, run.final)
        met = torch.einsum("tkd,tmd->km", walk.in_order(walk.after_mlp[layer]), written[:length])
        later[: layer + 1] += met
        change = after + written if skipped is None else after + written + skipped
    return HeadSplit(heads, past, later)


def _written(sources: Sequence[Source], layer: int, like: Tensor) -> Float[Tensor, "S M D"]:
    return torch.stack([each.written.get(layer, torch.zeros_like(like)) for each in sources], 1)


def source_of(nodes: Nodes, kind: str, layer: int, index: int, position: int) -> Source:
    """What a node of a graph writes.

    Args:
        nodes: of the run.
        kind: `neuron`, `feature`, `error`, `token` or `position`.
        layer: its layer.
        index: which neuron or feature.
        position: where.
    """
    run = nodes.run

    def placed(row: Float[Tensor, " D"]) -> Float[Tensor, "S D"]:
        return torch.zeros_like(run.final).index_put_((torch.tensor(position),), row)

    if kind in ("token", "position"):
        return Source(-1, {-1: placed(run.embeddings[("token", "position").index(kind)][position])})
    if kind == "error":
        return Source(layer, {layer: placed(nodes.errors[layer][position])})
    active = nodes.active[layer]
    which = ((active.index == index) & (active.position == position)).nonzero()[:, 0]
    written = dict[int, Tensor]()
    for at in range(layer, len(run.layers)):
        if layer in nodes.sources(at):
            row = placed(nodes.decoder(layer, at, active.index[which])[0] * active.value[which[0]])
            post = run.layers[at].mlp_post_norm if nodes.before_post_norm else None
            written[at] = row if post is None else post.forward(row[:, None])[:, 0]
    return Source(layer, written)
