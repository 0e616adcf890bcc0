"""What `why` answers: an edge's heads and their reasons, as plain values and as text."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

from edgewise.runs import SavedAsJson


class HeadLoading(NamedTuple):
    """How much of an edge goes through one head."""

    layer: int
    head: int
    weight: float
    """Of the edge's weight."""
    query: int
    """The query and key position through which most of it goes,"""
    key: int
    at_pair: float
    """how much goes through those two,"""
    attention: float
    """and how much of its attention the query gives to the key."""

    @property
    def name(self) -> str:
        """Such as `a9.h3`."""
        return f"a{self.layer}.h{self.head}"


class LayerSplit(NamedTuple):
    """An edge, split at one layer: `through + past + later` is its weight."""

    layer: int
    through: float
    """Through all heads."""
    past: float
    """Past them, on the residual stream or through a skip connection."""
    later: float
    """Written only after this layer's attention, by a cross-layer feature."""
    heads: tuple[HeadLoading, ...]
    """The largest, the largest first."""


class Term(NamedTuple):
    """What a node, or a pair of nodes, gives to a contrast."""

    query: str
    """The node through which the query gets it; empty for a node of the keys alone."""
    key: str
    """The node through which the keys get it; empty for a node of the query alone."""
    weight: float


class QueryKey(NamedTuple):
    """Why a head's query looks at a key and not at the others."""

    layer: int
    head: int
    query: int
    """The position that asks."""
    key: int
    """The position asked about."""
    attention: float
    """How much of its attention the query gives to the key."""
    value: float
    """The contrast: the key's score minus the mean of all keys' scores, weighted by attention."""
    margin: float
    """How far the key's score stands above the mean of the other keys' scores: the contrast by 1 − attention."""
    sink: float
    """The part of the contrast that a sink's constant logit gives; no node's."""
    residual: float
    """The larger of the two sides' ledger residuals, relative to the sum of the side's sizes: round-off."""
    pairs: tuple[Term, ...]
    """The largest terms of pairs of nodes, the largest first."""
    query_side: tuple[Term, ...]
    """The largest terms of single nodes through the query, met by all keys."""
    key_side: tuple[Term, ...]
    """The largest terms of single nodes through the keys, met by the whole query."""


@dataclass(frozen=True)
class Why(SavedAsJson):
    """What an edge is made of, and why its heads look where they look."""

    source: str
    target: str
    weight: float
    """What flows along it."""
    share: float
    """Its size by that of all the target's edges."""
    in_graph: bool
    """Whether the graph has it; a small edge is only added up there."""
    layers: tuple[LayerSplit, ...]
    """From below; each splits the whole edge, and there is no joint split over several."""
    reasons: tuple[QueryKey, ...]
    """Of the heads with the largest loadings."""
    tokens: tuple[str, ...]
    """The prompt's, by position."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return json.loads(self.to_json())

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Why":
        """The inverse of `to_dict`. Raises `KeyError` or `TypeError` for what is none."""
        layers = tuple(
            LayerSplit(**{**each, "heads": tuple(HeadLoading(**head) for head in each["heads"])})
            for each in values["layers"]
        )
        terms = ("pairs", "query_side", "key_side")
        reasons = tuple(
            QueryKey(**{**each, **{name: tuple(Term(**term) for term in each[name]) for name in terms}})
            for each in values["reasons"]
        )
        return Why(**{**values, "layers": layers, "reasons": reasons, "tokens": tuple(values["tokens"])})

    def __str__(self) -> str:
        """As tables."""
        where = "" if self.in_graph else " (too small for the graph)"
        lines = [f"{self.source} → {self.target}: {self.weight:+.4g}, {self.share:.1%} of what flows into it{where}"]
        if self.layers:
            lines += [
                "",
                *aligned([("layer", "past", "later", "heads", "through which"), *map(self._layer, self.layers)]),
            ]
        for each in self.reasons:
            lines += ["", *self._reason(each)]
        return "\n".join(lines)

    def _layer(self, split: LayerSplit) -> tuple[str, ...]:
        heads = [
            f"h{each.head} {each.weight:+.3g} ({self._at(each.query)} → {self._at(each.key)}, {each.at_pair:+.3g})"
            for each in split.heads
        ]
        return (str(split.layer), *(f"{x:+.3g}" for x in (split.past, split.later, split.through)), "  ".join(heads))

    def _reason(self, reason: QueryKey) -> list[str]:
        above = f"{reason.margin:.3g} above the other keys"
        title = (
            f"a{reason.layer}.h{reason.head} at {self._at(reason.query)} looks at {self._at(reason.key)} with "
            f"{reason.attention:.1%}, {above}: contrast {reason.value:+.4g}, residual {reason.residual:.1e}"
        )
        title += f", of which a sink {reason.sink:+.3g}" if reason.sink else ""
        pairs = [(f"{each.weight:+.3g}", self._node(each.query), self._node(each.key)) for each in reason.pairs]
        queries = [(f"{each.weight:+.3g}", self._node(each.query)) for each in reason.query_side]
        keys = [(f"{each.weight:+.3g}", self._node(each.key)) for each in reason.key_side]
        sides = [(*a, *b) for a, b in zip_longest(queries, keys, fillvalue=("", ""))]
        return [
            title,
            *aligned([("term", "query's node", "key's node"), *pairs]),
            *aligned([("query", "alone", "key", "alone"), *sides]),
        ]

    def _at(self, position: int) -> str:
        return f"{self.tokens[position]!r}@{position}"

    def _node(self, name: str) -> str:
        _, at, position = name.rpartition("@")
        return f"{name} {self.tokens[int(position)]!r}" if at else name


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text as lines with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(x.ljust(n) for x, n in zip(row, widths, strict=True)).rstrip() for row in rows]
