"""Why a head looks where it looks: which pairs of upstream nodes make its query meet this key, and not the others.

The score of query position p for key position j is bilinear in the stream once norm scales are frozen. A softmax only
sees differences, so what is explained is the contrast `s(p, j) − Σ_j' A(p, j') s(p, j')`: the score against those of all
keys, as much as each is looked at. Each side is a target like any other (its covector holds the other side fixed), and
a pair's term is the product of two nodes' own parts. A soft-cap's slope is its secant, `c tanh(s / c) / s`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.attribution._frozen import FrozenRun
from edgewise.attribution._rows import Targets
from edgewise.models import Heads
from edgewise.models.block import normed, project


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

    def value(self) -> float:
        """`s(p, j) − Σ_j' A(p, j') s(p, j')`; −∞ logits of keys that the query does not see count as nothing."""
        query, keys = self._raw_run()
        return float(self._sides(query, keys)[0] @ self._sides(query, keys)[1])

    def targets(self) -> list[Targets]:
        """The query's side as row 0 and the keys' as row 1; the edges of either add up to `value`."""
        query, keys = self._raw_run()
        with torch.enable_grad():
            query, keys = query.detach().requires_grad_(), keys.detach().requires_grad_()
            left, right = self._sides(query, keys)
            for_query, for_keys = torch.autograd.grad(left @ right, (query, keys))
        attention = self.run.layers[self.layer].layer.attention
        return [
            self._target(attention.query, self.head, torch.tensor([self.query]), for_query[None], 0),
            self._target(attention.key, self._key_head, torch.arange(len(for_keys)), for_keys, 1),
        ]

    def pairs(self, queries: Float[Tensor, "S M D"], keys: Float[Tensor, "S P D"]) -> Float[Tensor, "M P"]:
        """The terms of pairs of nodes, by the change of the stream before the layer that each makes. Over all nodes and
        biases they add up to `value`.
        """
        ran = self.run.layers[self.layer]
        weights = ran.layer.attention.query.weight[self.head], ran.layer.attention.key.weight[self._key_head]
        asking = ran.attention_norm.forward(queries)[self.query] @ weights[0].to(queries)  # (M, k)
        asked = ran.attention_norm.forward(keys)[: self.query + 1] @ weights[1].to(keys)  # (n, P, k)
        nothing = torch.zeros_like(asked[:, 0])
        left = torch.stack([self._sides(each, nothing)[0] for each in asking])
        right = torch.stack([self._sides(asking[0] * 0, each)[1] for each in asked.unbind(1)])
        return left @ right.T

    @property
    def _key_head(self) -> int:
        return self.head // self.run.layers[self.layer].groups

    def _raw_run(self) -> tuple[Float[Tensor, " k"], Float[Tensor, "n k"]]:
        """The run's own query, and the keys up to it, before their norms and rotations."""
        ran = self.run.layers[self.layer]
        y = normed(ran.layer.attention.norm, ran.before)
        query = project(y, ran.layer.attention.query)[self.head, self.query]
        return query, project(y, ran.layer.attention.key)[self._key_head, : self.query + 1]

    def _sides(self, query: Float[Tensor, " k"], keys: Float[Tensor, "n k"]) -> tuple[Tensor, Tensor]:
        """Both sides of the product, linear each in what is given; the second with its weights summed over keys."""
        raise NotImplementedError

    def _target(self, heads: Heads, head: int, positions: Tensor, covector: Float[Tensor, "n k"], row: int) -> Targets:
        """From a covector of raw queries or keys to one of the stream."""
        ran = self.run.layers[self.layer]
        bias = covector.new_zeros(len(covector)) if heads.bias is None else covector @ heads.bias[head].to(covector)
        read = covector @ heads.weight[head].to(covector).T  # of the norm's output
        norm = ran.layer.attention.norm
        bias = bias if norm.bias is None else bias + read @ norm.bias.to(read)
        pulled = ran.attention_norm.at(positions).back(read[:, None])[:, 0]
        return Targets(self.layer, False, positions, pulled, bias, torch.full_like(positions, row))
