"""Shuffled activations: what a training step sees depends on the seed and the step alone.

Rows of tokens are drawn in a random order, a pool of them at a time goes through the model, and the pool's tokens are
shuffled flat, across sequences. A pool is divided into lanes, each with rows and an order of its own, and a batch takes
the same number of tokens from each lane: so however many processes share the lanes, together they see the same batches.
Nothing has to be saved: a resumed run makes its pool again.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.models import Model
from edgewise.runs import ONE_PROCESS, Ranks, uniform
from edgewise.transcoders import Site, capture, check_length

_ROWS, _TOKENS = 201, 301  # noise streams: the order of the rows, and of each lane's tokens (one stream a lane)
_FORWARD_TOKENS = 4096  # of one forward of the language model


@runtime_checkable
class Activations(Protocol):
    """Where vectors come from: a model that runs, or a cache."""

    @property
    def sites(self) -> Sequence[Site]:
        """The sites on offer."""
        ...

    def rows(self, index: Int[Tensor, " n"]) -> dict[Site, Float[Tensor, "n S D"]]:
        """The vectors of some rows."""
        ...


class LiveActivations:
    """Activations of a model that runs when they are asked for: one forward for all sites."""

    def __init__(self, model: Model, ids: Int[Tensor, "R S"], sites: Sequence[Site], *, bf16: bool = False) -> None:
        """Set up; `bf16`: products with the model's weights in bfloat16."""
        check_length(model, ids)
        self.model, self.ids, self.sites, self.bf16 = model, ids, tuple(sites), bf16

    def rows(self, index: Int[Tensor, " n"]) -> dict[Site, Float[Tensor, "n S D"]]:
        """The vectors of some rows."""
        size = max(1, _FORWARD_TOKENS // self.ids.shape[1])
        parts = [capture(self.model, self.sites, self.ids[rows], bf16=self.bf16) for rows in index.split(size)]
        return parts[0] if len(parts) == 1 else {site: torch.cat([p[site] for p in parts]) for site in self.sites}


class ActivationStream:
    """Batches of shuffled activations: this process's share of each."""

    def __init__(
        self,
        source: Activations,
        keep: Bool[Tensor, "R S"],
        *,
        batch_tokens: int,
        pool_tokens: int,
        lanes: int,
        seed: int,
        ranks: Ranks = ONE_PROCESS,
    ) -> None:
        """Set up: tokens of a batch and (about, it is made of whole rows) of a pool count over all processes; `keep`
        says which take part; `lanes` is how many parts a pool has, a multiple of the number of processes.

        Raises:
            InputError: the numbers do not divide, or there is too little text for one batch.
        """
        if batch_tokens % lanes or lanes % ranks.size:
            raise InputError(
                f"batch of {batch_tokens} tokens in {lanes} lanes on {ranks.size} processes: the batch must be a "
                "multiple of the lanes, and the lanes of the processes"
            )
        self.source, self.lanes, self.seed, self.ranks = source, lanes, seed, ranks
        self.share = batch_tokens // lanes
        self.keep = keep.cpu()
        self.kept = self.keep.sum(1).numpy()  # (R,)
        n_rows, context = keep.shape
        self.rows_per_lane = min(n_rows // lanes, max(1, pool_tokens // (context * lanes)))
        self.n_pools = n_rows // max(1, lanes * self.rows_per_lane)  # per pass over the text
        if not self.rows_per_lane or not any(self.n_batches(pool) for pool in range(self.n_pools)):
            raise InputError(
                f"text: {int(self.kept.sum())} tokens that count, in {n_rows} rows, are too few for batches of "
                f"{batch_tokens} tokens from pools of {pool_tokens}; give more text, or smaller batches or larger pools"
            )
        self._begins = [0]  # the first step of each pool
        self._current = -1
        self._lanes: list[dict[Site, Tensor]] = [{} for _ in range(lanes // ranks.size)]

    def batch(self, step: int) -> dict[Site, Float[Tensor, "b D"]]:
        """This process's part of a step's batch."""
        while self._begins[-1] <= step:
            self._begins.append(self._begins[-1] + self.n_batches(len(self._begins) - 1))
        pool = int(np.searchsorted(self._begins, step, side="right")) - 1
        if pool != self._current:
            self._fill(pool)
        place = step - self._begins[pool]
        part = slice(place * self.share, (place + 1) * self.share)
        return {site: torch.cat([lane[site][part] for lane in self._lanes]) for site in self.source.sites}

    def first(self, site: Site, n_batches: int) -> Float[Tensor, "b D"]:
        """This process's part of the first batches at one site, lane after lane; at most those of the first batch's
        pool.
        """
        self.batch(0)
        n = min(n_batches, self.n_batches(self._current))
        return torch.cat([lane[site][: n * self.share] for lane in self._lanes])

    def _pool_rows(self, pool: int) -> Int[Tensor, "lanes n"]:
        epoch, place = divmod(pool, self.n_pools)
        order = uniform(len(self.keep), self.seed, epoch, _ROWS).argsort()
        size = self.lanes * self.rows_per_lane
        return order[place * size : (place + 1) * size].view(self.lanes, -1)

    def n_batches(self, pool: int) -> int:
        """A pool's batches: as many as the lane with the fewest tokens gives."""
        return int(self.kept[self._pool_rows(pool).numpy()].sum(1).min()) // self.share

    def _fill(self, pool: int) -> None:
        """Put a pool's tokens where they belong, forward by forward, in memory that all pools share: beside it there is
        never more than one forward's.
        """
        own, context = self.lanes // self.ranks.size, self.keep.shape[1]
        size = max(1, _FORWARD_TOKENS // context)
        mine = range(self.ranks.rank * own, (self.ranks.rank + 1) * own)
        for kept, lane, rows in zip(self._lanes, mine, self._pool_rows(pool)[mine], strict=True):
            places = self.keep[rows].flatten().nonzero().squeeze(1)
            places = places[uniform(len(places), self.seed, pool, _TOKENS + lane).argsort()]
            for i, part in enumerate(rows.split(size)):
                first = i * size * context
                here = ((places >= first) & (places < first + part.numel() * context)).nonzero().squeeze(1)
                for site, x in self.source.rows(part).items():
                    if site not in kept:
                        kept[site] = x.new_empty(self.rows_per_lane * context, x.shape[-1])
                    there = here.to(x.device)
                    kept[site][there] = x.flatten(0, 1)[(places[here] - first).to(x.device)]
        self._current = pool
