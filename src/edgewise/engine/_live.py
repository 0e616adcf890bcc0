"""Which tokens of a batch a circuit can change, and which its targets can see: nothing else need be run.

Where attention is causal, a pair of prompts is the same up to its first difference: under interchange every writer
writes its ablated value there (Δ = 0), whatever the masks. And nothing after an example's last target reaches it.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edgewise.engine._constants import Constants, Prompts, partners
from edgewise.engine._packing import Packing, pack
from edgewise.models import Parts


class FixedTokens(NamedTuple):
    """Tokens that no circuit changes and that later ones look at."""

    cell: Int[Tensor, " M"]
    """Where they stand in the padded grid."""
    clean: Float[Tensor, "M D"]
    """The sum of their embedding terms."""
    constants: Constants
    """What is written there, whatever the masks."""


def changed(parts: Parts, ablation: str, batch: Prompts, packing: Packing) -> Bool[Tensor, " n"]:
    """Whether a writer can write something else than its ablated value, at each token in plain order: under interchange
    and causal attention, from the pair's first difference on.
    """
    every = torch.ones(int(packing.real.sum()), dtype=torch.bool, device=packing.cell.device)
    if ablation != "interchange" or not _causal(parts):
        return every
    other = pack(batch.corrupted)
    partner = slice(None) if batch.align is None else partners(batch.clean, batch.corrupted, batch.align)
    real, others = packing.real, (x[other.real][partner] for x in (other.ids, other.positions))
    differ = torch.zeros(packing.real.shape, dtype=torch.long, device=every.device)
    differ[real] = sum((x[real] != y).long() for x, y in zip((packing.ids, packing.positions), others, strict=True))
    return differ.cummax(1).values[real] > 0


def split_tokens(
    parts: Parts, ablation: str, batch: Prompts, packing: Packing
) -> tuple[Bool[Tensor, " n"], Bool[Tensor, " n"]]:
    """Which tokens of the batch must be run and which are fixed but looked at, each in plain order.

    A target is always run, and so is whatever stands between an example's first token to run and its last target.
    """
    real, device = packing.real, packing.cell.device
    first = torch.full((len(real),), real.shape[1], device=device)
    last = torch.full((len(real),), real.shape[1] - 1 if not _causal(parts) else -1, device=device)
    column = batch.position - packing.shift[batch.row]
    first.scatter_reduce_(0, batch.row, column, "amin")
    last.scatter_reduce_(0, batch.row, column, "amax")
    columns = torch.arange(real.shape[1], device=device)
    run = columns >= first[:, None]
    run[real] |= changed(parts, ablation, batch, packing)
    seen = columns <= last[:, None]
    return (run & seen)[real], (~run & seen)[real]


def _causal(parts: Parts) -> bool:
    return all(layer.attention.causal for layer in parts.stored)
