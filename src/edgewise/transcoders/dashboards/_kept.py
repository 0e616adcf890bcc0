"""Of each feature the few entries with the smallest keys, from any number that come in any order.

With random keys that is a sample without replacement, in which every entry is as likely; with falling activations for
keys, those that are largest. Either way the result does not depend on how the entries were cut into batches.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NONE = (1 << 63) - 1
"""The key of a place that no entry has taken."""
_WAITING = 1 << 18  # entries that are collected before they are sorted among those kept


class Entries(NamedTuple):
    """Activations of features at tokens, in context."""

    feature: Int[Tensor, " A"]
    key: Int[Tensor, " A"]
    token: Int[Tensor, " A"]
    """Counted through the whole text."""
    value: Float[Tensor, " A"]
    window: Float[Tensor, "A W"]
    """The feature's activations around the token, itself among them."""

    def at(self, chosen: Tensor) -> "Entries":
        """Some of them."""
        return Entries(*(column[chosen] for column in self))


class Kept:
    """The `k` entries of each feature with the smallest keys, equal ones by token; in that order."""

    def __init__(self, n_features: int, k: int, window: int) -> None:
        """Start with none."""
        self.k = k
        self.key = torch.full((n_features, k), NONE)
        self.token = torch.full((n_features, k), -1)
        self.value = torch.zeros(n_features, k, dtype=torch.float32)
        self.window = torch.zeros(n_features, k, window, dtype=torch.bfloat16)
        self._waiting: list[Entries] = []

    def wants(self, feature: Int[Tensor, " A"], key: Int[Tensor, " A"]) -> Bool[Tensor, " A"]:
        """Which entries may be among the smallest; all others need not be added."""
        return key <= self.key[feature, -1]

    def add(self, entries: Entries) -> None:
        """Take these into account."""
        self._waiting.append(entries)
        if sum(len(each.key) for each in self._waiting) > _WAITING:
            self.settle()

    def settle(self) -> None:
        """Sort what has been added among what was kept."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        new = Entries(*(torch.cat(columns) for columns in zip(*waiting, strict=True)))
        touched, place = new.feature.unique(return_inverse=True)
        old = (self.key[touched].flatten(), self.token[touched].flatten(), self.value[touched].flatten())
        window = self.window[touched].flatten(0, 1)
        group = torch.cat([torch.arange(len(touched)).repeat_interleave(self.k), place])
        key, token, value = (torch.cat([a, b]) for a, b in zip(old, new[1:4], strict=True))
        window = torch.cat([window, new.window.to(window)])
        order = token.argsort(stable=True)
        order = order[key[order].argsort(stable=True)]
        order = order[group[order].argsort(stable=True)]
        counts = group.bincount(minlength=len(touched))
        first = counts.cumsum(0) - counts
        best = order[(first[:, None] + torch.arange(self.k))]  # (m, k); each has its k old places at least
        self.key[touched], self.token[touched], self.value[touched] = key[best], token[best], value[best]
        self.window[touched] = window[best]

    def tensors(self) -> dict[str, Tensor]:
        """What is kept, by name."""
        self.settle()
        return {"key": self.key, "token": self.token, "value": self.value, "window": self.window}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `tensors` gave."""
        self._waiting.clear()
        self.key, self.token, self.value, self.window = (tensors[n] for n in ("key", "token", "value", "window"))
