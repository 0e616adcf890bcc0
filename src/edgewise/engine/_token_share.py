"""The packed tokens of a run shared out over processes, so that each holds the stacks of its own tokens alone.

All that a masked run does is done token by token, but for attention: mixing, norms, projections, MLPs, and backwards
all of them again. So each process runs the layers for its tokens. For attention the queries, keys and values of all
tokens are gathered, 3 N D numbers a layer where each reader's inputs would be as many as the stack; every process then
mixes them all and keeps its own tokens'. Gradients of masks, sums over tokens, are added up once, at the end.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise.engine._packing import Packing
from edgewise.runs import Ranks, share, sum_in_order


class TokenShare:
    """Which of a run's packed tokens are this process's, and what all processes must know of each other's."""

    def __init__(self, whole: Packing, ranks: Ranks) -> None:
        """Share out N tokens in a row, as many to each process, or one more."""
        self.whole, self.ranks = whole, ranks
        self.range = share(whole.n_tokens, ranks)
        self.own = whole if ranks.size == 1 else whole.part(self.range.start, self.range.stop)

    def gathered(self, own: Float[Tensor, "n M k"]) -> Float[Tensor, "n N k"]:
        """All tokens', from those of each process."""
        if self.ranks.size == 1:
            return own
        n_tokens, size = self.whole.n_tokens, self.ranks.size
        most = -(-n_tokens // size)
        padded = own.new_zeros(most, len(own), own.shape[2])
        padded[: own.shape[1]] = own.transpose(0, 1)
        every = self.ranks.gather(padded)
        if n_tokens % size:
            counts = [n_tokens * (rank + 1) // size - n_tokens * rank // size for rank in range(size)]
            every = torch.cat([x[:n] for x, n in zip(every.split(most), counts, strict=True)])
        return every.transpose(0, 1)

    def take(self, every: Float[Tensor, "n N k"]) -> Float[Tensor, "n M k"]:
        """This process's tokens of all."""
        return every if self.ranks.size == 1 else every[:, self.range.start : self.range.stop]

    def total(self, own: Tensor) -> Tensor:
        """A sum over all tokens, from that over each process's."""
        return own if self.ranks.size == 1 else sum_in_order(own[None], self.ranks)

    def at_targets(self, own: Float[Tensor, "a D"], mine: Int[Tensor, " a"], n_targets: int) -> Float[Tensor, "A D"]:
        """What stands at all targets, from what stands at those on each process's tokens (`mine` says which)."""
        if self.ranks.size == 1:
            return own
        return self.ranks.sum(own.new_zeros(n_targets, own.shape[1]).index_copy_(0, mine, own))
