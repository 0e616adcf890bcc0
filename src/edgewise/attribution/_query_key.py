"""Why a head looks where it looks: which pairs of upstream nodes make its query meet this key, and not the others.

The score of query position p for key position j is bilinear in the stream once norm scales are frozen, those of queries
and keys too. A softmax only sees differences, so what is explained is the contrast

    s(p, j) − Σ_j' A(p, j') s(p, j')  =  scale · ⟨q_p, Σ_j' (1[j' = j] − A(p, j')) c_j' k_j'⟩

the score against those of all keys, as much as each is looked at: the derivative of log A(p, j) along the scores. A
soft-cap's slope is its secant, `c_j' = cap tanh(s / cap) / s`, 1 without one. Both sides are linear in what the nodes
below write: each is a target like any other, in as many directions as a head is wide, and the term of a pair of nodes
is the product of what one gives to the query and the other to the keys. All pairs, biases included, add up to the
contrast.

Where a softmax is saturated, all of A at one key or evenly at some with one score, that contrast is 0 and has no terms.
Against all keys evenly, 1/n in place of A, it is not.
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
from edgewise.attribution._sparse_rows import Cut, SparseRows
from edgewise.models import Attention
from edgewise.models.block import normed, placed, project
from edgewise.runs import gradients

BLOCK_BYTES = 1 << 28
"""How much one walk's covectors may take."""
_CHUNK = 256  # nodes whose covectors are gathered at once


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
    evenly: bool = False
    """Against all keys that may be seen evenly, not as much as each is looked at."""

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
    def seen(self) -> Float[Tensor, " n"]:
        """1 for each key that may be seen from the query, 0 for those that are hidden."""
        pattern = self.run.layers[self.layer].pattern
        allowed, n, heads = pattern.context.allowed, len(self.looks), len(pattern.query)
        if allowed is None:
            return torch.ones_like(self.looks)
        return allowed.expand(1, heads, *allowed.shape[-2:])[0, self.head, self.query, :n].to(self.looks)

    @cached_property
    def asking(self) -> Float[Tensor, " k"]:
        """The query, times the scale."""
        return self.run.layers[self.layer].pattern.query[self.head, self.query] * self._attention.scale

    @cached_property
    def weights(self) -> Float[Tensor, " n"]:
        """What each key is multiplied by."""
        weights = -self.seen / self.seen.sum() if self.evenly else -self.looks
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
    def size(self) -> float:
        """The sum of the sizes of what the keys give to it."""
        return float(self.weights.abs() @ (self._keys @ self.asking).abs())

    @property
    def sink(self) -> float:
        """What a sink's logit, a constant, adds to the contrast; 0 without one."""
        sinks = self._attention.sinks
        return 0.0 if sinks is None or self.evenly else -float((1 - self.looks.sum()) * sinks[self.head])

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
        position = (self.seen if self.evenly else self.looks).nonzero()[:, 0]
        return self._readers("key", position, directions[:, None] * self.weights[position, None], row)

    def _readers(self, role: str, position: Int[Tensor, " n"], covector: Float[Tensor, "r n k"], row: int) -> Targets:
        """From covectors of placed queries or keys to readers of the stream before the layer."""
        ran, attention = self.run.layers[self.layer], self._attention
        is_query = role == "query"
        heads, head = (attention.query, self.head) if is_query else (attention.key, self._key_head)
        covector = self._turned_back(covector, position, is_query=is_query)
        covector = covector * self._norm_ratio(head, position, is_query=is_query)
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
        with gradients():
            x = torch.zeros_like(covector)[:, None].requires_grad_()  # (r, 1, n, k)
            none = x[:, :0]
            pair = rotate(x, none, cosines, sines) if is_query else rotate(none, x, cosines, sines)
        return torch.autograd.grad(pair[0 if is_query else 1], x, covector[:, None])[0][:, 0]

    def _norm_ratio(self, head: int, position: Int[Tensor, " n"], *, is_query: bool) -> Float[Tensor, "n k"] | float:
        """What the norm of queries or keys multiplies each number by."""
        attention = self._attention
        if (attention.query_norm if is_query else attention.key_norm) is None:
            return 1.0
        y = normed(attention.norm, self.run.layers[self.layer].before[position])
        both = (project(y, heads)[None] for heads in (attention.query, attention.key))  # (1, heads, n, k)
        raw = [torch.where(x.abs() < 1e-12, 1e-12, x) for x in both]
        which = 0 if is_query else 1
        scaled = placed(attention, raw[0], raw[1], None)[which].detach()  # without a rotation
        return (scaled.to(y) / raw[which])[0, head]


class Terms(NamedTuple):
    """What nodes give to a contrast."""

    sides: SparseRows
    """Through the query, to all keys, and through the keys, to the whole query: each side's largest terms, the largest
    first. With those that are cut, biases included, either side adds up to the contrast's value."""
    pairs: Float[Tensor, "a b"]
    """The terms of all pairs of those."""

    def columns(self, side: int) -> Int[Tensor, " n"]:
        """The nodes of the query's side, 0, or the keys', 1."""
        return self.sides.columns[self.sides.offsets[side] : self.sides.offsets[side + 1]].long()

    def weights(self, side: int) -> Float[Tensor, " n"]:
        """Their terms."""
        return self.sides.weight[self.sides.offsets[side] : self.sides.offsets[side + 1]]


@torch.no_grad()
def terms(nodes: Nodes, columns: Columns, contrast: Contrast, most: int = 2048) -> Terms:
    """Take a contrast apart.

    Args:
        nodes: of the run.
        columns: where they stand in a row.
        contrast: what is to be explained.
        most: how many nodes of each side are paired.
    """
    found = Terms(rows(nodes, columns, contrast.targets(), 2, Cut(most=most)), nodes.run.final.new_zeros(0, 0))
    asking, asked = found.columns(0), found.columns(1)
    width, final = len(contrast.asking), nodes.run.final
    step = max(1, BLOCK_BYTES // (2 * final.numel() * final.element_size()))
    pairs = final.new_zeros(len(asking), len(asked))
    for start in range(0, width, step):
        n = min(step, width - start)
        walk = _Chosen(nodes, columns, contrast.directions(slice(start, start + n)), 2 * n)
        edges = walk.edges(torch.cat([asking, asked]))
        pairs += edges[:n, : len(asking)].T @ edges[n:, len(asking) :]
    return found._replace(pairs=pairs)


class _Chosen(Walk):
    """A walk that gives the edges of some columns alone."""

    def edges(self, chosen: Int[Tensor, " c"]) -> Float[Tensor, "K c"]:
        """Of those columns."""
        kept, place = chosen.unique(return_inverse=True)
        self.kept = _Kept(kept, self.biases.new_zeros(self.n_rows, len(kept)))
        self.found = self.kept  # pyright: ignore[reportAttributeAccessIssue] (in place of a collector of whole rows)
        self.walk()
        return self.kept.edges[self.place][:, place]

    def add_nodes(self, layer: int, raw: Float[Tensor, "T K D"]) -> None:
        for source in self.nodes.sources(layer):
            span, active = self.columns.nodes(source), self.nodes.active[source]
            here = self.kept.within(span.start, span.stop)
            for part in torch.arange(here.start, here.stop).split(_CHUNK):
                which = self.kept.columns[part] - span.start
                position = torch.searchsorted(active.offsets, which, right=True) - 1
                written = self.nodes.decoder(source, layer, active.index[which]) * active.value[which, None]
                self.kept.edges[: raw.shape[1], part] += torch.einsum("nkd,nd->kn", raw[position], written)


class _Kept(NamedTuple):
    """Collects some columns."""

    columns: Int[Tensor, " c"]
    """In order."""
    edges: Float[Tensor, "K c"]

    def within(self, start: int, end: int) -> slice:
        """Which of them lie between two columns."""
        return slice(*torch.searchsorted(self.columns, self.columns.new_tensor([start, end])).tolist())

    def add(self, start: int, edges: Float[Tensor, "k n"]) -> None:
        """The edges of the first rows from columns that begin at `start`."""
        here = self.within(start, start + edges.shape[1])
        self.edges[: len(edges), here] = edges[:, self.columns[here] - start]
