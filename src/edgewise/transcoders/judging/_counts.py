"""How often features fire and how much they explain, summed over tokens."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from edgewise.models import Model
from edgewise.runs import finest
from edgewise.transcoders import Site, Transcoder, capture

LIVE = 1e-4
"""Firing frequency above which a feature counts as live (Dunefsky, Chlenski & Nanda 2024)."""
_ROUNDING = 1e-12  # of a sum of squares: a smaller variance is what the sums' own rounding leaves
BINS = (-np.inf, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0)
"""Edges of the histogram of log10 firing frequencies; the first bin also holds what never fires."""


class Counts:
    """Running sums over tokens, for several transcoders at once."""

    def __init__(self, model: Model, transcoders: Sequence[Transcoder], *, add_up: bool) -> None:
        """Start at nothing; `add_up`: the transcoders are a cross-layer set, whose outputs at a site add up."""
        self.model, self.transcoders, self.add_up = model, list(transcoders), add_up
        sites = [site for each in transcoders for site in (each.spec.reads, *each.spec.writes)]
        self.sites = list(dict.fromkeys(sites))
        self.n = 0
        self.fired = [torch.zeros(each.n_features, dtype=torch.long) for each in transcoders]
        self.errors = [0.0] * len(self.transcoders)
        self.squares = dict.fromkeys(self.sites, 0.0)
        self.sums: dict[Site, Tensor] = {}

    @torch.no_grad()
    def add(self, ids: Int[Tensor, "B S"], keep: Bool[Tensor, "B S"]) -> None:
        """Count these tokens."""
        found = {site: x[keep.to(x.device)] for site, x in capture(self.model, self.sites, ids).items()}  # (n, D)
        self.n += int(keep.sum())
        for site, x in found.items():
            x = x.to(finest(x.device))
            self.squares[site] += float(x.square().sum())
            self.sums[site] = self.sums.get(site, 0.0) + x.sum(0)
        predicted: dict[Site, Tensor] = {}
        for i, each in enumerate(self.transcoders):
            x = found[each.spec.reads].to(each.W_enc.dtype)
            codes = each.codes(x)
            on = codes.feature[codes.value != 0]
            self.fired[i] += torch.bincount(on, minlength=each.n_features).cpu()
            written = each.decode(codes, x).unbind(1)
            if not self.add_up:
                predicted.clear()
            for site, y in zip(each.spec.writes, written, strict=True):
                predicted[site] = predicted.get(site, 0.0) + y
            fine = finest(x.device)
            own = each.spec.writes[0]  # later layers' sites are not complete before their own transcoder
            self.errors[i] += float((found[own].to(fine) - predicted[own].to(fine)).square().sum())

    def active(self, i: int) -> float:
        """Active features per token."""
        return float(self.fired[i].sum()) / self.n

    def explained(self, i: int) -> float | None:
        """1 − squared error / variance at the transcoder's own site; None where that does not vary."""
        own = self.transcoders[i].spec.writes[0]
        variance = self.squares[own] - float(self.sums[own].square().sum()) / self.n
        return 1 - self.errors[i] / variance if variance > _ROUNDING * self.squares[own] else None

    def live(self, i: int) -> int:
        """Features that fire on more than one token in 10,000."""
        return int((self.fired[i].double() / self.n > LIVE).sum())

    def histogram(self, i: int) -> tuple[int, ...]:
        """Features by log10 of their firing frequency, in the bins of `BINS`."""
        with np.errstate(divide="ignore"):
            logs = np.log10(self.fired[i].numpy() / self.n)
        return tuple(int(x) for x in np.bincount(np.digitize(logs, BINS[1:-1]), minlength=len(BINS) - 1))
