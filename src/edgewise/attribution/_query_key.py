"""Why a head looks where it looks: which pairs of upstream nodes make its query meet this key, and not the others.

The score of query position p for key position j is bilinear in the stream once norm scales are frozen, those of queries
and keys too. A softmax only sees differences, so what is explained is the contrast

    s(p, j) − Σ_j' A(p, j') s(p, j')  =  scale · ⟨q_p, Σ_j' (1[j' = j] − A(p, j')) c_j' k_j'⟩

the score against those of all keys, as much as each is looked at: the derivative of log A(p, j) along the scores. A
soft-cap's slope is its secant, `c_j' = cap tanh(s / cap) / s`, 1 without one. Both sides are linear in what the nodes
below write: each is a target like any other, in as many directions as a head is wide, and the term of a pair of nodes
is the product of what one gives to the query and the other to the keys. All pairs, biases included, add up to the
contrast.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._frozen import FrozenRun
from edgewise.attribution._nodes import Nodes
from edgewise.attribution._rows import Columns, Targets, Walk, rows
from edgewise.models import Attention, Heads
from edgewise.models.block import normed, project

BLOCK_BYTES = 1 << 28
"""How much the rows of one walk, or its covectors, may take."""


@dataclass(frozen=True, eq=False)
class Contrast:
    """One head's contrast at one query and key position."""

    run: FrozenRun
    layer: int
    head: int
    query: int
    """The position that asks."""
    key: int
    """The position asked about."""

    def __post_init__(self) -> None:
        """Check that the query looks at the key at all. Raises `InputError`."""
        if not (self.key < len(self.looks) and self.looks[self.key] > 0):
            raise InputError(
                f"key position {self.key}: the query at {self.query} does not look at it in head "
                f"a{self.layer}.h{self.head}; give a position that it sees"
            )

    @cached_property
    def looks(self) -> Float[Tensor, " n"]:
        """How much the query takes of each key that may be seen from it."""
        pattern = self.run.layers[self.layer].pattern
        n = self.query + 1 if pattern.attention.causal else len(self.run)
        return pattern.first(n)[self.head, self.query]

    @cached_property
    def asking(self) -> Float[Tensor, " k"]:
        """The query, times the scale."""
        return self.run.layers[self.layer].pattern.query[self.head, self.query] * self._attention.scale

    @cached_property
    def weights(self) -> Float[Tensor, " n"]:
        """What each key is multiplied by."""
        weights = -self.looks
        weights[self.key] += 1
        cap = self._attention.softcap
        if cap is None:
            return weights
        scores = self._keys @ self.asking
        scores = torch.where(scores.abs() < 1e-6, 1e-6, scores)
        return weights * (scores / cap).tanh() * cap / scores

    @cached_property
    def asked(self) -> Float[Tensor, " k"]:
        """The keys, times their weights, together."""
        return self.weights @ self._keys

    @property
    def value(self) -> float:
        """The contrast, a sink's part aside."""
        return float(self.asking @ self.asked)

    @property
    def sink(self) -> float:
        """What a sink's logit, a constant, adds to the contrast; 0 without one."""
        sinks = self._attention.sinks
        return 0.0 if sinks is None else -float((1 - self.looks.sum()) * sinks[self.head])

    def targets(self) -> list[Targets]:
        """The query's side as row 0 and the keys' as row 1; the edges of either add up to `value`."""
        scale = self._attention.scale
        return [self._query_side(self.asked[None] * scale, 0), self._key_side(self.asking[None], 1)]

    def directions(self, chosen: slice) -> list[Targets]:
        """Some of the head's directions, as n rows of the query's side and n of the keys'."""
        unit = torch.eye(len(self.asking)).to(self.asking)[chosen]
        return [self._query_side(unit * self._attention.scale, 0), self._key_side(unit, len(unit))]

    @property
    def _attention(self) -> Attention:
        return self.run.layers[self.layer].layer.attention

    @property
    def _key_head(self) -> int:
        return self.head // self.run.layers[self.layer].groups

    @property
    def _keys(self) -> Float[Tensor, "n k"]:
        return self.run.layers[self.layer].pattern.key[self._key_head, : len(self.looks)]

    def _query_side(self, directions: Float[Tensor, "r k"], row: int) -> Targets:
        """Readers of the placed query, along some directions."""
        position = torch.tensor([self.query], device=directions.device)
        return self._readers("query", position, directions[:, None], row)

    def _key_side(self, directions: Float[Tensor, "r k"], row: int) -> Targets:
        """Readers of the weighted sum of the placed keys."""
        position = self.looks.nonzero()[:, 0]
        return self._readers("key", position, directions[:, None] * self.weights[position, None], row)

    def _readers(self, role: str, position: Int[Tensor, " n"], covector: Float[Tensor, "r n k"], row: int) -> Targets:
        """From covectors of placed queries or keys to readers of the stream before the layer."""
        ran, attention = self.run.layers[self.layer], self._attention
        is_query = role == "query"
        heads, head = (attention.query, self.head) if is_query else (attention.key, self._key_head)
        covector = self._turned_back(covector, position, is_query=is_query)
        covector = covector * self._norm_ratio(heads, head, position, is_query=is_query)
        read = covector @ heads.weight[head].to(covector).T  # (r, n, D), of the norm's output
        bias = read.new_zeros(read.shape[:2]) if heads.bias is None else covector @ heads.bias[head].to(covector)
        norm = attention.norm
        bias = bias if norm.bias is None else bias + read @ norm.bias.to(read)
        pulled = ran.attention_norm.at(position).back(read.transpose(0, 1))  # (n, r, D)
        n = len(covector)
        number = torch.arange(row, row + n, device=position.device).repeat(len(position))
        where = position.repeat_interleave(n)
        return Targets(self.layer, False, where, pulled.flatten(0, 1), bias.T.flatten(), number)

    def _turned_back(
        self, covector: Float[Tensor, "r n k"], position: Int[Tensor, " n"], *, is_query: bool
    ) -> Float[Tensor, "r n k"]:
        """To covectors of queries or keys before their rotation, which is linear."""
        rotate, rotary = self._attention.rotate, self.run.layers[self.layer].pattern.context.rotary
        if rotate is None or rotary is None:
            return covector
        cosines, sines = (each[:, position].to(covector).expand(len(covector), -1, -1) for each in rotary)
        with torch.enable_grad():
            x = torch.zeros_like(covector)[:, None].requires_grad_()  # (r, 1, n, k)
            none = x[:, :0]
            pair = rotate(x, none, cosines, sines) if is_query else rotate(none, x, cosines, sines)
        return torch.autograd.grad(pair[0 if is_query else 1], x, covector[:, None])[0][:, 0]

    def _norm_ratio(
        self, heads: Heads, head: int, position: Int[Tensor, " n"], *, is_query: bool
    ) -> Float[Tensor, "n k"] | float:
        """What the norm of queries or keys multiplies each number by."""
        norm = self._attention.query_norm if is_query else self._attention.key_norm
        if norm is None:
            return 1.0
        ran = self.run.layers[self.layer]
        raw = project(normed(self._attention.norm, ran.before[position]), heads)[None]  # (1, heads, n, k)
        raw = torch.where(raw.abs() < 1e-12, 1e-12, raw)
        return (norm(raw).detach().to(raw) / raw)[0, head]


class Terms(NamedTuple):
    """What nodes give to a contrast."""

    query: Float[Tensor, " C"]
    """Each through the query, to all keys; biases included, they add up to the contrast's value."""
    key: Float[Tensor, " C"]
    """Each through the keys, to the whole query; they add up to it too."""
    asking: Int[Tensor, " a"]
    """Columns whose pairs were made: those with the largest terms through the query,"""
    asked: Int[Tensor, " b"]
    """and through the keys."""
    pairs: Float[Tensor, "a b"]
    """The terms of those pairs."""


@torch.no_grad()
def terms(nodes: Nodes, columns: Columns, contrast: Contrast, most: int = 2048) -> Terms:
    """Take a contrast apart.

    Args:
        nodes: of the run.
        columns: where they stand in a row.
        contrast: what is to be explained.
        most: how many nodes of each side are paired.
    """
    query, key = rows(nodes, columns, contrast.targets(), 2).dense(columns.total)
    asking, asked = (each.abs().topk(min(most, len(each))).indices for each in (query, key))
    width, final = len(contrast.asking), nodes.run.final
    step = max(1, BLOCK_BYTES // (2 * max(*columns.counts, final.numel()) * final.element_size()))
    pairs = final.new_zeros(len(asking), len(asked))
    for start in range(0, width, step):
        n = min(step, width - start)
        walk = _Chosen(nodes, columns, contrast.directions(slice(start, start + n)), 2 * n)
        found = walk.edges(torch.cat([asking, asked]))
        pairs += found[:n, : len(asking)].T @ found[n:, len(asking) :]
    return Terms(query, key, asking, asked, pairs)


class _Chosen(Walk):
    """A walk that gives the edges of some columns alone."""

    def edges(self, chosen: Int[Tensor, " c"]) -> Float[Tensor, "K c"]:
        """Of those columns."""
        kept, place = chosen.unique(return_inverse=True)
        self.found = _Kept(kept, self.biases.new_zeros(self.n_rows, len(kept)))
        self.walk()
        return self.found.edges[self.place][:, place]


class _Kept(NamedTuple):
    """Collects some columns."""

    columns: Int[Tensor, " c"]
    """In order."""
    edges: Float[Tensor, "K c"]

    def add(self, start: int, edges: Float[Tensor, "k n"]) -> None:
        """The edges of the first rows from columns that begin at `start`."""
        bounds = self.columns.new_tensor([start, start + edges.shape[1]])
        first, last = torch.searchsorted(self.columns, bounds).tolist()
        self.edges[: len(edges), first:last] = edges[:, self.columns[first:last] - start]
