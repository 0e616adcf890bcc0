"""Running sums over a text of what the features of one transcoder do."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise.runs import random_keys
from edgewise.transcoders import Codes
from edgewise.transcoders.dashboards._config import DashboardConfig
from edgewise.transcoders.dashboards._kept import Entries, Kept

PER_OCTAVE, LOWEST, HIGHEST = 8, -24, 24
"""Bins of the histogram between a power of two and the next, and the powers at its ends."""
N_BINS = PER_OCTAVE * (HIGHEST - LOWEST)
"""Of the histogram; the first and the last take what lies beyond the ends."""
N_POSITIONS = 16
"""Bins of positions, at most."""
_MANTISSA = 23  # bits of a float32's fraction


class Drawn(NamedTuple):
    """Tokens at which features are on."""

    token: Int[Tensor, "F K"]
    """Counted through the text; −1 where there are fewer."""
    value: Float[Tensor, "F K"]
    window: Float[Tensor, "F K W"]
    """The activations around it; the token stands at `DashboardConfig.before`."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a text shows of one transcoder's features."""

    n_tokens: int
    """How many count."""
    on: Int[Tensor, " F"]
    """At how many of them each feature is on."""
    sum: Float[Tensor, " F"]
    """Of its activations."""
    histogram: Int[Tensor, "F B"]
    """Of its activations where it is on, in the bins of `bin_edges`."""
    positions: Int[Tensor, "F P"]
    """Where in a row it is on, in bins of equal width."""
    sample: Drawn
    """Drawn at random, each token at which it is on as likely as the others; the largest first."""
    top: Drawn
    """Where it is most on, the largest first."""

    @property
    def density(self) -> Float[Tensor, " F"]:
        """The share of tokens at which each feature is on."""
        return self.on.float() / self.n_tokens


def bin_edges() -> Float[Tensor, " edges"]:
    """The ends of the histogram's bins: eight of equal width between each power of two and the next."""
    steps = torch.arange(N_BINS + 1, dtype=torch.float64)
    whole = steps.div(PER_OCTAVE, rounding_mode="floor")
    return torch.exp2(whole + LOWEST) * (1 + (steps - PER_OCTAVE * whole) / PER_OCTAVE)


def bins_of(value: Float[Tensor, " A"]) -> Int[Tensor, " A"]:
    """The bin of each positive activation, from the very bits of the number."""
    bits = value.float().contiguous().view(torch.int32).long()
    shift = _MANTISSA - PER_OCTAVE.bit_length() + 1
    return ((bits >> shift) - (127 + LOWEST) * PER_OCTAVE).clamp(0, N_BINS - 1)


class Counts:
    """One transcoder's sums."""

    def __init__(self, n_features: int, context: int, config: DashboardConfig) -> None:
        """Start at nothing."""
        self.n_features, self.context, self.config = n_features, context, config
        self.n_positions = min(N_POSITIONS, context)
        self.n = torch.zeros(1, dtype=torch.int64)
        self.on, self.sum = torch.zeros(n_features, dtype=torch.int64), torch.zeros(n_features, dtype=torch.float64)
        self.histogram = torch.zeros(n_features * N_BINS, dtype=torch.int32)
        self.positions = torch.zeros(n_features * self.n_positions, dtype=torch.int32)
        self.sample = Kept(n_features, config.sample, config.window)
        self.top = Kept(n_features, config.top, config.window)

    def add(self, codes: Codes, place: Int[Tensor, " n"], first: int, size: int) -> None:
        """Count the tokens of a batch.

        Args:
            codes: of the tokens that count.
            place: where each of them stands in the batch, rows after rows.
            first: where the batch begins in the text.
            size: how many tokens it has, all counted.
        """
        on = codes.value > 0
        feature, value = codes.feature[on].cpu(), codes.value[on].float().cpu()
        place = place.cpu()[codes.tokens[on].cpu()]
        self.n += len(codes.offsets) - 1
        self.on += feature.bincount(minlength=self.n_features)
        self.sum += feature.bincount(value.double(), self.n_features)
        self.histogram += (feature * N_BINS + bins_of(value)).bincount(minlength=len(self.histogram)).int()
        within = (place % self.context) * self.n_positions // self.context
        self.positions += (feature * self.n_positions + within).bincount(minlength=len(self.positions)).int()
        self._keep(feature, value, place, first, size)

    def _keep(self, feature: Tensor, value: Tensor, place: Tensor, first: int, size: int) -> None:
        token = place + first
        drawn = random_keys(token * self.n_features + feature, self.config.seed)
        largest = -value.contiguous().view(torch.int32).long()  # positive floats rise as their bits do
        wanted = {id(self.sample): self.sample.wants(feature, drawn), id(self.top): self.top.wants(feature, largest)}
        some = torch.stack(list(wanted.values())).any(0)
        index = torch.zeros(len(feature), dtype=torch.int64)
        index[some] = torch.arange(int(some.sum()))
        windows = self._windows(feature, value, place, size, some)
        for kept, key in ((self.sample, drawn), (self.top, largest)):
            chosen = wanted[id(kept)]
            if bool(chosen.any()):
                found = feature[chosen], key[chosen], token[chosen], value[chosen]
                kept.add(Entries(*found, windows[index[chosen]]))

    def _windows(self, feature: Tensor, value: Tensor, place: Tensor, size: int, some: Tensor) -> Float[Tensor, "m W"]:
        """The activations around some entries, looked up among the batch's, which stand in order of place and feature.
        0 beyond the row's ends.
        """
        known = place * self.n_features + feature
        steps = torch.arange(-self.config.before, self.config.after + 1)
        around = place[some][:, None] + steps  # (m, W)
        inside = (around >= 0) & (around < size) & (around // self.context == (place[some] // self.context)[:, None])
        wanted = around * self.n_features + feature[some][:, None]
        found = torch.searchsorted(known, wanted).clamp(max=max(len(known) - 1, 0))
        return torch.where(inside & (known[found] == wanted), value[found], 0.0)

    def tensors(self) -> dict[str, Tensor]:
        """The state, by name."""
        own = {"n": self.n, "on": self.on, "sum": self.sum, "histogram": self.histogram, "positions": self.positions}
        for name in ("sample", "top"):
            own |= {f"{name}.{column}": x for column, x in getattr(self, name).tensors().items()}
        return own

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `tensors` gave."""
        self.n, self.on, self.sum = tensors["n"], tensors["on"], tensors["sum"]
        self.histogram, self.positions = tensors["histogram"], tensors["positions"]
        for name in ("sample", "top"):
            start = f"{name}."
            own = {key.removeprefix(start): x for key, x in tensors.items() if key.startswith(start)}
            getattr(self, name).restore(own)

    def seen(self) -> Seen:
        """What was counted so far."""
        return Seen(
            int(self.n),
            self.on.clone(),
            self.sum.clone(),
            self.histogram.view(self.n_features, -1).long(),
            self.positions.view(self.n_features, -1).long(),
            _drawn(self.sample),
            _drawn(self.top),
        )


def _drawn(kept: Kept) -> Drawn:
    """What was kept, the largest activation first; where there is none at the end."""
    kept.settle()
    value = torch.where(kept.token < 0, -1.0, kept.value)
    order = (-value).argsort(dim=1, stable=True)
    window = kept.window.gather(1, order[:, :, None].expand_as(kept.window)).float()
    return Drawn(kept.token.gather(1, order), kept.value.gather(1, order), window)
