"""What a set of masks lets the executor skip or share, decided before it runs.

* A head or MLP whose output no kept edge carries to the logits need not run, and neither need its readers; under
  interchange the same holds for one that nothing clean reaches, since its output is then its ablated value.
* Readers whose masks are all 1 share one input (the plain residual stream), readers whose masks are all 0 another (the
  ablated one).
* Only fractional masks have a gradient that anything uses: a clamped or saturated mask passes none on (hard concrete,
  Louizos et al. 2018; a sigmoid at exactly 0 or 1). Where the gradient of every edge is wanted, as for attribution,
  nothing is skipped.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise.graph import Block, Graph

Kind = Literal["mix", "ones", "zeros"]


class Rows(NamedTuple):
    """Readers of one block that get their input in the same way."""

    kind: Kind
    readers: Int[Tensor, " n"]
    """Which of the block's live readers."""
    mask: Float[Tensor, "n w"] | None
    """Their masks over the live writers before them; only for `mix`."""


@dataclass(frozen=True)
class BlockPlan:
    """What to run of one block."""

    block: Block
    live: Int[Tensor, " n"]
    """Readers of the block that run, counted within the block."""
    n_writers: int
    """How many live writers the block sees: a prefix of all live ones."""
    rows: tuple[tuple[Rows, ...], ...]
    """For each row of masks, its kinds of reader."""
    heads: Int[Tensor, " h"]
    """Attention: the query heads that run. MLP: one entry if it runs, none if not."""
    keys: Int[Tensor, " j"]
    """Attention: the key and value heads that run."""
    key_of_head: Int[Tensor, " h"]
    """Attention: for each running query head, which of the running key heads it uses."""
    slots: slice
    """Where the block's component writes among the live writers."""

    def shares(self, kind: str) -> bool:
        """Whether some readers are of this kind."""
        return any(rows.kind == kind for row in self.rows for rows in row)


@dataclass(frozen=True)
class Plan:
    """What to run of all blocks."""

    blocks: tuple[BlockPlan, ...]
    writers: Int[Tensor, " w"]
    """The live writers, in order."""
    n_live_embeddings: int
    skips: bool
    """Whether some components may be left out, so that `writers` must be looked up."""
    all_edges: bool
    """Whether gradients of clamped masks are wanted too."""


def make_plan(
    graph: Graph, masks: Float[Tensor, "CP E"], ablation: str, *, all_edges: bool, skip: bool, share: bool = True
) -> Plan:
    """Decide what to run.

    Args:
        graph: the graph.
        masks: one row per circuit and position group.
        ablation: the ablation's kind.
        all_edges: whether gradients of masks at exactly 0 or 1 are wanted.
        skip: leave out components that cannot matter; not with `all_edges`, nor where gradients of ablated values are
            wanted.
        share: give readers with equal hard masks one input.
    """
    host = masks.detach().cpu()
    if skip:
        kept = graph.prune((host != 0).any(0), ablation)
        host = host * kept
        carried = torch.zeros(graph.n_writers, dtype=torch.bool)
        carried[graph.edge_writer[kept].long()] = True
    else:
        carried = torch.ones(graph.n_writers, dtype=torch.bool)
    writers = carried.nonzero()[:, 0]
    before = torch.cat([torch.zeros(1, dtype=torch.long), carried.cumsum(0)])  # live writers before each writer
    blocks = tuple(
        _plan_block(graph, block, host, carried, writers, before, share, masks.device) for block in graph.blocks
    )
    return Plan(blocks, writers, int(before[graph.n_embeddings]), skip, all_edges)


def _plan_block(
    graph: Graph,
    block: Block,
    masks: Tensor,
    carried: Tensor,
    writers: Tensor,
    before: Tensor,
    share: bool,
    device: torch.device,
) -> BlockPlan:
    heads, keys, key_of_head, slots = (
        torch.zeros(0, dtype=torch.long),
        torch.zeros(0, dtype=torch.long),
        torch.zeros(0),
        slice(0, 0),
    )
    if block.kind == "logits":
        live = torch.zeros(1, dtype=torch.long)
    else:
        own = graph.writers_of(block)
        heads = carried[own].nonzero()[:, 0]
        slots = slice(int(before[own.start]), int(before[own.stop]))
        live = heads
        if block.kind == "attention":
            group = graph.spec.n_heads // graph.n_kv_readers
            keys, key_of_head = torch.unique(heads // group, return_inverse=True)
            first_key, first_value = graph.spec.n_heads, graph.spec.n_heads + graph.n_kv_readers
            live = torch.cat([heads, first_key + keys, first_value + keys])
    n_writers = int(before[block.n_writers])
    # (rows, live readers, live writers)
    own_masks = masks[:, block.edges].view(len(masks), block.n_readers, block.n_writers)[:, live][
        :, :, writers[:n_writers]
    ]
    rows = tuple(tuple(_split(row, share, device)) for row in own_masks)
    return BlockPlan(block, live, n_writers, rows, heads.to(device), keys.to(device), key_of_head.to(device), slots)


def _split(masks: Float[Tensor, "n w"], share: bool, device: torch.device) -> list[Rows]:
    zeros = (masks == 0).all(1) & (share or masks.shape[1] == 0)
    ones = (masks == 1).all(1) & ~zeros & share
    split = []
    kinds: tuple[tuple[Kind, Tensor], ...] = (("mix", ~(ones | zeros)), ("ones", ones), ("zeros", zeros))
    for kind, chosen in kinds:
        readers = chosen.nonzero()[:, 0]
        if len(readers):
            split.append(
                Rows(kind, readers.to(device), masks[readers].contiguous().to(device) if kind == "mix" else None)
            )
    return split
