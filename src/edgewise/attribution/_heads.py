"""Head loadings: which heads an edge passes through, layer by layer.

With everything frozen, a source's write becomes a change δ of the stream before layer l, and a target pulls back to a
covector g of the stream after that layer's attention. At every layer that lies between them their edge is

    ⟨g, δ⟩ past the heads  +  Σ_h ⟨g, H_h(δ)⟩ through each head h  +  what the source writes only later

where the last is not 0 for cross-layer features alone. A skip connection belongs to what goes past. There is no joint
split over several layers. (After circuit-tracer's pull request 114, which has no cross-layer or skip transcoders and no
norm biases: those do not act on a change.)

1. One walk down (as for `rows`) keeps each layer's g, and adds up what every source's writes meet.
2. One walk up carries every source's δ, and at each layer splits it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._frozen import FrozenLayer
from edgewise.attribution._nodes import Nodes
from edgewise.attribution._rows import Columns, Targets, Walk


class Written(NamedTuple):
    """What is added to the stream at some positions."""

    at: slice
    rows: Float[Tensor, "n D"]

    def add_to(self, stream: Float[Tensor, "T D"]) -> None:
        """Add it, as far as the stream's positions reach."""
        stream[self.at] += self.rows[: len(stream[self.at])]

    def meets(self, covector: Float[Tensor, "T K D"]) -> Float[Tensor, " K"]:
        """Its product with covectors of the first T positions."""
        part = covector[self.at]
        return torch.einsum("tkd,td->k", part, self.rows[: len(part)])


class Source(NamedTuple):
    """What a node writes."""

    written: dict[int, Written]
    """By layer, where its MLP writes; −1: at the bottom."""
    attended: dict[int, Written]
    """By layer, where its attention writes."""

    @property
    def first(self) -> int:
        """The first layer at which it writes; −1 for an embedding."""
        return min([*self.written, *self.attended])


class Passing(NamedTuple):
    """What the edges of M sources to K targets carry through one layer's attention, and past it."""

    layer: int
    ran: FrozenLayer
    taken: Float[Tensor, "H T K v"]
    """The targets' covectors of the heads' mixed values."""
    values: Float[Tensor, "G T M v"]
    """The sources' changes of the values."""
    heads: Float[Tensor, "H K M"]
    """Through each head."""
    past: Float[Tensor, "K M"]
    """On the residual stream, or through a skip connection beside the heads."""
    later: Float[Tensor, "K M"]
    """Written only after this layer's attention."""

    def positions(
        self, head: Int[Tensor, " n"], target: Int[Tensor, " n"], source: Int[Tensor, " n"]
    ) -> Float[Tensor, "n T T"]:
        """How much of some edges goes through a head by each pair of query and key position."""
        values = self.values[head // self.ran.groups, :, source]  # (n, T, v)
        met = torch.bmm(self.taken[head, :, target], values.transpose(1, 2))
        return met * self.ran.pattern.first(met.shape[1])[head]


class _Meeting(Walk):
    """A walk that makes no rows: it keeps each layer's covectors, and what the sources' writes meet on the way."""

    def __init__(self, nodes: Nodes, targets: Sequence[Targets], n_rows: int, sources: Sequence[Source]) -> None:
        n_layers = len(nodes.run.layers)
        super().__init__(nodes, Columns((0,) * n_layers, 0, 0), targets, n_rows)
        self.sources, self.covectors = sources, dict[int, Tensor]()
        self.met = self.covector.new_zeros(n_layers + 1, n_rows, len(sources))
        """By layer at which they are written, at last the bottom."""

    def mlp(self, layer: int) -> Tensor | None:
        self.meet(layer, [each.written.get(layer) for each in self.sources])
        return self.nodes.skip_back(layer, self.covector) if self.covector.shape[1] else None

    def attention(self, layer: int) -> Float[Tensor, "T K D"]:
        self.covectors[layer] = self.covector
        self.meet(layer, [each.attended.get(layer) for each in self.sources])
        joined = self.covector.shape[1]
        return self.run.layers[layer].attention_back(self.covector) if joined else self.covector

    def bottom(self) -> None:
        self.meet(-1, [each.written.get(-1) for each in self.sources])

    def meet(self, layer: int, written: list[Written | None]) -> None:
        for i, each in enumerate(written):
            if each is not None:
                self.met[layer, : self.covector.shape[1], i] += each.meets(self.covector)

    def in_order(self, x: Tensor, axis: int) -> Tensor:
        """With the rows in the order asked for, those that had not joined as 0."""
        missing = list(x.shape)
        missing[axis] = self.n_rows - x.shape[axis]
        return torch.cat([x, x.new_zeros(missing)], axis).index_select(axis, self.place)


@torch.no_grad()
def whole_edges(
    nodes: Nodes, targets: Sequence[Targets], n_targets: int, sources: Sequence[Source]
) -> Float[Tensor, "K M"]:
    """What flows from all sources to all targets, by every way, in a graph or not; 0 where a source does not come
    before a target. Arguments as for `passes`.
    """
    walk = _Meeting(nodes, targets, n_targets, sources)
    walk.walk()
    return walk.in_order(walk.met, 1).sum(0)


@torch.no_grad()
def passes(nodes: Nodes, targets: Sequence[Targets], n_targets: int, sources: Sequence[Source]) -> Iterator[Passing]:
    """Split the edges of all pairs, at each layer between the lowest source and the highest target, from below.

    Of an edge, `heads.sum(0) + past + later` is its weight at each layer below its target, 0 above. There may be no
    layer between (see `whole_edges`).

    Args:
        nodes: of a run.
        targets: K rows, as for `rows`.
        n_targets: K.
        sources: M of them.
    """
    walk = _Meeting(nodes, targets, n_targets, sources)
    walk.walk()
    met, parallel = walk.in_order(walk.met, 1), nodes.run.model.parts.parallel
    change = walk.covector.new_zeros(len(walk.covector), len(sources), walk.covector.shape[2])
    first = min(each.first for each in sources)
    _write(change, [each.written.get(-1) for each in sources])
    for layer in range(max(first, 0), len(nodes.run.layers)):
        if not walk.covectors[layer].shape[1]:
            return
        ran = nodes.run.layers[layer]
        skipped = nodes.skip_forward(layer, change) if parallel else None
        past = change if skipped is None else change + skipped
        values = ran.values_forward(change)
        moved = ran.mixed_forward(values)
        if layer > first:
            covector = walk.in_order(walk.covectors.pop(layer), 1)
            taken = ran.mixed_back(covector)
            heads = torch.einsum("htkv,htmv->hkm", taken, moved)
            beside = torch.einsum("tkd,tmd->km", covector, past)
            yield Passing(layer, ran, taken, values, heads, beside, met[layer:-1].sum(0))
        change = past + ran.write(moved)
        _write(change, [each.attended.get(layer) for each in sources])
        skipped = None if parallel else nodes.skip_forward(layer, change)
        change = change if skipped is None else change + skipped
        _write(change, [each.written.get(layer) for each in sources])


def _write(stream: Float[Tensor, "T M D"], written: list[Written | None]) -> None:
    for i, each in enumerate(written):
        if each is not None:
            each.add_to(stream[:, i])


def source_of(nodes: Nodes, name: str, kind: str, layer: int, index: int, position: int) -> Source:
    """What a node of a graph writes.

    Args:
        nodes: of the run.
        name: its name, for the error.
        kind: one of `KINDS`.
        layer: its layer.
        index: which neuron or feature.
        position: where.

    Raises:
        InputError: it writes nothing to the stream (a root, or a bias that its reader adds), or is not active.
    """
    run, here = nodes.run, slice(position, position + 1)
    if kind in ("token", "position"):
        return Source({-1: Written(here, run.embeddings[("token", "position").index(kind)][here])}, {})
    if kind == "error":
        return Source({layer: Written(here, nodes.errors[layer][here])}, {})
    if kind == "MLP bias":
        return Source({layer: Written(slice(None), nodes.constant(layer))}, {})
    if kind == "attention bias":
        return Source({}, {layer: Written(slice(None), run.attention_biases[layer])})
    if kind not in ("neuron", "feature"):
        raise InputError(f"source {name!r}: a {kind} writes nothing to the stream; give a token, neuron or feature")
    active = nodes.active[layer]
    start, end = active.offsets[position : position + 2].tolist()
    found = (active.index[start:end] == index).nonzero()[:, 0] + start
    if not len(found):
        raise InputError(f"source {name!r}: not active on this prompt; give a node of the graph")
    value = active.value[found][:, None]
    written = dict[int, Written]()
    for at in range(layer, len(run.layers)):
        if layer in nodes.sources(at):
            row = nodes.decoder(layer, at, active.index[found]) * value
            post = run.layers[at].mlp_post_norm if nodes.before_post_norm else None
            row = row if post is None else post.at(torch.arange(position, position + 1)).forward(row[:, None])[:, 0]
            written[at] = Written(here, row)
    return Source(written, {})
