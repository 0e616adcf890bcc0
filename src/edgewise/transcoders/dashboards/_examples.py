"""Which of the tokens that were kept of a feature are shown: where it is most on, and some of each quantile."""

from typing import NamedTuple

import torch

from edgewise.transcoders.dashboards._config import DashboardConfig
from edgewise.transcoders.dashboards._seen import Drawn, Seen


class Example(NamedTuple):
    """A token at which a feature is on, and its context."""

    token: int
    """Counted through the text."""
    value: float
    window: tuple[float, ...]
    """Activations of the context's tokens; 0 beyond the row."""


class Bin(NamedTuple):
    """A part of the range of a feature's activations."""

    low: float
    """Its smallest activation, of the sample's,"""
    high: float
    """and the largest."""
    share: float
    """Of the sample: how much of it lies in the bin."""
    examples: tuple[Example, ...]
    """The largest first."""


def top_examples(seen: Seen, feature: int, config: DashboardConfig, context: int) -> tuple[Example, ...]:
    """Where a feature is most on, the largest first. Of tokens of one row that stand in each other's context the
    largest alone is taken.
    """
    shown = list[Example]()
    for each in _examples(seen.top, feature):
        near = (
            other.token // context == each.token // context
            and -config.before <= each.token - other.token <= config.after
            for other in shown
        )
        if not any(near):
            shown.append(each)
        if len(shown) == config.shown_top:
            break
    return tuple(shown)


def quantile_bins(seen: Seen, feature: int, config: DashboardConfig) -> tuple[Bin, ...]:
    """The sample split by activation into bins of equal share, the largest first, with some examples of each: those at
    equal distances by rank. Fewer bins where the sample is small.
    """
    drawn = _examples(seen.sample, feature)
    n = min(config.quantiles, -(-len(drawn) // config.examples))
    bins = list[Bin]()
    for i in range(n):
        part = drawn[i * len(drawn) // n : (i + 1) * len(drawn) // n]
        chosen = part
        if len(part) > config.examples:
            chosen = [part[j * len(part) // config.examples] for j in range(config.examples)]
        bins.append(Bin(part[-1].value, part[0].value, len(part) / len(drawn), tuple(chosen)))
    return tuple(bins)


def _examples(drawn: Drawn, feature: int) -> list[Example]:
    n = int((drawn.token[feature] >= 0).sum())
    columns = (column[feature, :n].tolist() for column in drawn)
    return [Example(token, value, tuple(window)) for token, value, window in zip(*columns, strict=True)]


class Shares(NamedTuple):
    """Tokens by how much of a sample they are, the most frequent first."""

    token: tuple[int, ...]
    share: tuple[float, ...]


def tokens_at(seen: Seen, ids: torch.Tensor, most: int, ahead: int = 0) -> tuple[Shares, ...]:
    """Of each feature: at which tokens it is on in its sample, or (`ahead` 1) before which.

    Args:
        seen: of the features.
        ids: the text's rows.
        most: how many are listed.
        ahead: how many tokens on; those beyond the row's end are left out.
    """
    n = ids.shape[1]
    token = seen.sample.token
    inside = (token >= 0) & (token % n + ahead < n)
    found = ids.flatten()[torch.where(inside, token + ahead, 0)]
    shares = list[Shares]()
    for row, here in zip(found, inside, strict=True):
        kinds, counts = row[here].unique(return_counts=True)
        best = counts.argsort(descending=True, stable=True)[:most]
        total = max(1, int(here.sum()))
        shares.append(Shares(tuple(kinds[best].tolist()), tuple((counts[best] / total).tolist())))
    return tuple(shares)
