"""What a set of masks lets the executor skip or share, decided before it runs.

* A head or MLP whose output no kept edge carries to the logits need not run, and neither need its readers; under
  interchange the same holds for one that nothing clean reaches, since its output is then its ablated value.
* Readers whose masks are all 1 share one input (the plain residual stream), readers whose masks are all 0 another (the
  ablated one).
* Only fractional masks have a gradient that anything uses: a clamped or saturated mask passes none on (hard concrete,
  Louizos et al. 2018; a sigmoid at exactly 0 or 1). Where the gradient of every edge is wanted, as for attribution,
  nothing is skipped.
* A layer's MLP reads nearly what its attention reads, so they are read together: its sum over the writers before the
  layer is one more row of the attention readers' matrix product, and only its own layer's heads are added afterwards.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edgewise.graph import Block, Graph

Kind = Literal["mix", "ones", "zeros"]
"""How readers get their input: each its own mixture, all the plain residual stream, or all the ablated one."""


class AlikeReaders(NamedTuple):
    """Readers of one layer that get their input in the same way."""

    kind: Kind
    readers: Int[Tensor, " n"]
    """Which of the layer's running attention readers."""
    mask: Float[Tensor, "m w"] | None
    """Their masks over the live writers before the layer, the MLP's last if it is among them; only for `mix`."""
    with_mlp: bool
    """Whether the layer's MLP is among them."""

    @property
    def height(self) -> int:
        """How many inputs they have, the MLP's included."""
        return len(self.readers) + self.with_mlp


class NodeWrites(NamedTuple):
    """Features or neurons of one layer that write to one."""

    source: int
    """Whose they are; an earlier layer's are the places of cross-layer features."""
    rows: Int[Tensor, " n"]
    """Which of their layer's running readers."""
    readers: Int[Tensor, " n"]
    """The same, counted within their block."""


@dataclass(frozen=True)
class NodePlan:
    """What to run of a layer's features and error term, or of its neurons without the rest."""

    block: Block
    n_writers: int
    """How many live writers they see."""
    readers: Int[Tensor, " n"]
    """Those that run, counted within their block."""
    rows: tuple[tuple[AlikeReaders, ...], ...]
    """For each row of masks, its kinds of reader."""
    writes: tuple[NodeWrites, ...]
    """What writes to the layer, in order: its own, then earlier layers'."""
    slots: slice
    """Where they write among the live writers."""
    error_slot: int | None
    """Where the error term writes; None if nothing alive reads it, or it is no writer."""


@dataclass(frozen=True)
class LayerPlan:
    """What to run of one layer."""

    layer: int
    attention: Block
    mlp: Block
    n_writers: int
    """How many live writers stand before the layer."""
    heads: Int[Tensor, " h"]
    """The query heads that run."""
    keys: Int[Tensor, " j"]
    """The key and value heads that run."""
    key_of_head: Int[Tensor, " h"]
    """For each running query head, which of the running key heads it uses."""
    readers: Int[Tensor, " n"]
    """The attention readers that run, counted within their block: queries, keys, values."""
    rows: tuple[tuple[AlikeReaders, ...], ...]
    """For each row of masks, its kinds of reader."""
    own: Float[Tensor, "CP o"]
    """The MLP's masks over its own layer's running heads (o = h); no columns in a parallel block."""
    head_slots: slice
    """Where the heads write among the live writers."""
    mlp_edges: slice
    """The MLP's edges, or those of what its neurons leave of it; none where features are in its place."""
    mlp_slot: int | None
    """Where that writes; None if it does not run."""
    nodes: NodePlan | None
    """Of a layer with features or neurons."""

    def mlp_kind(self, row: int) -> Kind:
        """How the MLP gets its input under a row of masks."""
        return next(alike.kind for alike in self.rows[row] if alike.with_mlp)


@dataclass(frozen=True)
class Plan:
    """What to run of the whole model."""

    layers: tuple[LayerPlan, ...]
    writers: Int[Tensor, " w"]
    """The live writers, in order."""
    n_live_embeddings: int
    skips: bool
    """Whether some components may be left out, so that `writers` must be looked up."""
    all_edges: bool
    """Whether gradients of clamped masks are wanted too."""
    plain_end: bool
    """Whether the final norm reads the plain residual stream: all of its masks are 1, and sharing is allowed."""


def make_plan(
    graph: Graph, masks: Float[Tensor, "CP E"], ablation: str, *, all_edges: bool, skip: bool, share: bool = True
) -> Plan:
    """Decide what to run: `skip` what cannot matter, and `share` one input among readers with equal hard masks.

    `all_edges` wants gradients of masks at exactly 0 or 1 too. With it nothing may be skipped, nor where gradients of
    ablated values are wanted.
    """
    host = masks.detach().cpu()
    if skip:
        kept = graph.prune((host != 0).any(0), ablation)
        host = host * kept
        live = graph.running(kept)
    else:
        live = torch.ones(graph.n_writers, dtype=torch.bool)
    layers = tuple(_plan_layer(graph, layer, host, live, share, masks.device) for layer in range(graph.spec.n_layers))
    n_embeddings = int(live[: graph.n_embeddings].sum())
    writers = live.nonzero()[:, 0]
    plain_end = share and bool((host[:, graph.final.edges][:, writers] == 1).all())
    return Plan(layers, writers.to(masks.device), n_embeddings, skip, all_edges, plain_end)


def _plan_layer(
    graph: Graph, layer: int, masks: Tensor, live: Bool[Tensor, " W"], share: bool, device: torch.device
) -> LayerPlan:
    attention, mlp = graph.attention(layer), graph.mlp(layer)
    own = graph.writers_of(attention)
    heads = live[own].nonzero()[:, 0]
    nodes = None if mlp.kind == "mlp" else _plan_nodes(graph, mlp, masks, live, share, device)
    whole = graph.whole(layer)
    mlp_edges, runs = (slice(0, 0), False) if whole is None else (whole[1], bool(live[whole[2]]))
    keys, key_of_head = torch.unique(heads // graph.heads_per_key, return_inverse=True)
    readers = torch.cat([heads, graph.roles.key.start + keys, graph.roles.value.start + keys])
    n_writers = int(live[: own.start].sum())

    before = live[: attention.n_writers].nonzero()[:, 0]
    table = attention.table(masks)[:, readers][:, :, before]  # (rows, live readers, live writers)
    mlp_masks = masks[:, mlp_edges]  # those of features and neurons are planned apart
    mlp_before = mlp_masks[:, before] if runs else None
    own_masks = masks[:, :0] if graph.spec.parallel or whole is None else mlp_masks[:, own][:, heads]
    rows = tuple(
        _split(table[row], None if mlp_before is None else mlp_before[row], own_masks[row], share, device)
        for row in range(len(masks))
    )
    return LayerPlan(
        layer,
        attention,
        mlp,
        n_writers,
        heads.to(device),
        keys.to(device),
        key_of_head.to(device),
        readers.to(device),
        rows,
        own_masks.contiguous().to(device),
        slice(n_writers, n_writers + len(heads)),
        mlp_edges,
        (n_writers + len(heads) if nodes is None else nodes.slots.stop) if runs else None,
        nodes,
    )


def _plan_nodes(
    graph: Graph, block: Block, masks: Tensor, live: Bool[Tensor, " W"], share: bool, device: torch.device
) -> NodePlan:
    readers = _running_nodes(graph, block, live)
    before = live[: block.n_writers].nonzero()[:, 0]
    table = block.table(masks)[:, readers][:, :, before]
    rows = tuple(_split(own_masks, None, masks.new_ones(0), share, device) for own_masks in table)
    writes, n_slots = [], 0
    sources = [source for source, targets in graph.spec.cross_layer if block.layer in targets]
    for source in (block.layer, *sources):
        own = graph.mlp(source)
        within, writers = _writers_at(graph, own, block.layer)
        running, here = _running_nodes(graph, own, live), within[live[writers]]
        where = torch.searchsorted(running, here)
        writes.append(NodeWrites(source, where.to(device), here.to(device)))
        n_slots += len(here)
    first = int(live[: graph.writers_of(block).start].sum())
    slots, error = slice(first, first + n_slots), graph.error_writer(block.layer)
    error_slot = slots.stop if error is not None and live[error] else None
    return NodePlan(block, len(before), readers.to(device), rows, tuple(writes), slots, error_slot)


def _writers_at(graph: Graph, block: Block, layer: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Of a block's features or neurons (without the rest), which write to a layer, and as which writers."""
    if layer == block.layer:
        own = torch.arange(block.n_readers - (block.kind == "neurons"))
        return own, graph.writers_of(block).start + own
    within, writers = graph.places.get(block.number, (torch.empty(0, dtype=torch.long),) * 2)
    here = graph.writer_layer[writers] == layer
    return within[here], writers[here]


def _running_nodes(graph: Graph, block: Block, live: Bool[Tensor, " W"]) -> Int[Tensor, " n"]:
    """The block's features or neurons (without the rest) that write to any live writer, in order."""
    own, writers = _writers_at(graph, block, block.layer)
    runs = live[writers]
    if block.number in graph.places:
        within, writers = graph.places[block.number]
        runs[within[live[writers]]] = True
    return own[runs]


def _split(
    masks: Float[Tensor, "n w"],
    mlp_before: Float[Tensor, " w"] | None,
    own: Float[Tensor, " h"],
    share: bool,
    device: torch.device,
) -> tuple[AlikeReaders, ...]:
    """Sort a layer's readers, and its MLP if it runs, by how they get their input."""
    zeros = (masks == 0).all(1) & (share or masks.shape[1] == 0)
    ones = (masks == 1).all(1) & ~zeros & share
    mlp_kind = None if mlp_before is None else _kind(torch.cat([mlp_before, own]), share)
    split = []
    kinds: tuple[tuple[Kind, Tensor], ...] = (("mix", ~(ones | zeros)), ("ones", ones), ("zeros", zeros))
    for kind, chosen in kinds:
        readers = chosen.nonzero()[:, 0]
        if len(readers) or kind == mlp_kind:
            table = masks[readers]
            if mlp_before is not None and kind == mlp_kind:
                table = torch.cat([table, mlp_before[None]])
            mask = table.contiguous().to(device) if kind == "mix" else None
            split.append(AlikeReaders(kind, readers.to(device), mask, kind == mlp_kind))
    return tuple(split)


def _kind(masks: Float[Tensor, " w"], share: bool) -> Kind:
    if not share:
        return "mix"
    return "zeros" if bool((masks == 0).all()) else "ones" if bool((masks == 1).all()) else "mix"
