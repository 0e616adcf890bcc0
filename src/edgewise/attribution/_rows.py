"""Rows of an attribution graph: everything that flows into some targets, by one walk down the frozen model.

A walk carries a covector per target and position, `G [T, K, D]`. From the last layer to the first:

1. MLP: what each node, the error and the biases of the layer write, times G, is their edge to the target; a skip
   connection carries G on to what the transcoder read.
2. Targets that read between attention and MLP join.
3. Attention: its biases' edges; G grows by what goes through the frozen heads.
4. Targets that read before attention join.

What is left at the bottom meets the embeddings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise.attribution._nodes import Nodes
from edgewise.attribution._sparse_rows import ALL, Collector, Cut, SparseRows

NEAR = 16
"""Rows that go through a layer's heads together: so few that what is made on the way stays in the processor's cache."""


class Targets(NamedTuple):
    """Readers of the stream at one place; each is a row."""

    layer: int
    """`n_layers` for what reads the stream after the last layer."""
    between: bool
    """Whether they read between attention and MLP, or before attention."""
    position: Int[Tensor, " n"]
    covector: Float[Tensor, "n D"]
    bias: Float[Tensor, " n"]
    """What the targets add to what they read."""
    row: Int[Tensor, " n"]
    """Which row of the block each is part of; a row may read at several positions."""


@dataclass(frozen=True)
class Columns:
    """Where the sources of one run stand in a row: nodes layer by layer, errors, tokens (and positions, where they are
    learned), biases (each layer's attention, MLP and reading, and the final norm's).
    """

    counts: tuple[int, ...]
    """Active nodes of each layer."""
    n_tokens: int
    n_embeddings: int

    @staticmethod
    def of(nodes: Nodes) -> "Columns":
        """A run's."""
        counts = tuple(len(active.index) for active in nodes.active)
        return Columns(counts, len(nodes.run), len(nodes.run.embeddings))

    @property
    def n_layers(self) -> int:
        """L."""
        return len(self.counts)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Where each layer's nodes begin; at last, how many there are."""
        return tuple(sum(self.counts[:layer]) for layer in range(len(self.counts) + 1))

    @property
    def n_nodes(self) -> int:
        """Active nodes of all layers."""
        return self.starts[-1]

    def nodes(self, layer: int) -> slice:
        """A layer's nodes."""
        return slice(self.starts[layer], self.starts[layer + 1])

    def errors(self, layer: int) -> slice:
        """A layer's errors, one for each position."""
        start = self.n_nodes + layer * self.n_tokens
        return slice(start, start + self.n_tokens)

    def embedding(self, term: int) -> slice:
        """Tokens, or learned positions, one for each position."""
        return self.errors(self.n_layers + term)

    @property
    def first_bias(self) -> int:
        """Where biases begin."""
        return self.embedding(self.n_embeddings).start

    def bias(self, layer: int, kind: str) -> int:
        """A layer's `attention`, `MLP` or `reading` bias; after the last layer there is the final norm's `reading`."""
        return self.first_bias + 3 * layer + ("reading", "attention", "MLP").index(kind)

    @property
    def total(self) -> int:
        """How many sources there are."""
        return self.bias(self.n_layers, "reading") + 1


@torch.no_grad()
def rows(nodes: Nodes, columns: Columns, targets: Sequence[Targets], n_rows: int, cut: Cut = ALL) -> SparseRows:
    """What flows into a block of targets.

    Args:
        nodes: the nodes of a run.
        columns: where they stand.
        targets: the block's, at any places; the row numbers are below `n_rows`.
        n_rows: K.
        cut: which edges are kept.

    Returns:
        For each row the edges of its sources, numbered as in `columns`. All of them add up to the targets' values.
    """
    return Walk(nodes, columns, targets, n_rows, cut).down()


class Walk:
    """One walk (see `rows`). Rows stand in the order in which they join."""

    def __init__(self, nodes: Nodes, columns: Columns, targets: Sequence[Targets], n_rows: int, cut: Cut = ALL) -> None:
        self.nodes, self.run, self.columns, self.n_rows = nodes, nodes.run, columns, n_rows
        self.targets = sorted(targets, key=lambda each: (each.layer, each.between), reverse=True)
        causal = all(layer.attention.causal for layer in self.run.model.parts.stored)
        length = 1 + max(int(each.position.max()) for each in targets) if causal else len(self.run)
        final = self.run.final
        self.covector = final.new_zeros(length, 0, final.shape[1])  # (T, joined rows, D)
        self.place = torch.full((n_rows,), -1, device=final.device)  # of each row among those that joined
        self.found = Collector(n_rows, columns.total, cut, final)
        self.biases = final.new_zeros(n_rows, columns.total - columns.first_bias)
        self.pending = dict[int, Tensor]()  # edges of nodes that also write at lower layers

    def down(self) -> SparseRows:
        """Walk, and give the rows."""
        self.walk()
        return self.found.rows().take(self.place)

    def walk(self) -> None:
        """From the last layer to the bottom."""
        n_layers = len(self.run.layers)
        self.join(n_layers, False)
        for layer in range(n_layers - 1, -1, -1):
            if self.run.model.parts.parallel:
                self.parallel_layer(layer)
                self.join(layer, True)  # their MLP reads the same stream as attention
            else:
                skipped = self.mlp(layer)
                self.covector = self.covector if skipped is None else self.covector + skipped
                self.join(layer, True)
                self.covector = self.covector + self.attention(layer)
            self.join(layer, False)
        self.bottom()

    def bottom(self) -> None:
        """The edges of the embeddings, and of all biases."""
        for term, written in enumerate(self.run.embeddings):
            self.found.add(self.columns.embedding(term).start, self.dot(written))
        self.found.add(self.columns.first_bias, self.biases)

    def parallel_layer(self, layer: int) -> None:
        skipped = self.mlp(layer)
        below = self.covector + self.attention(layer)
        self.covector = below if skipped is None else below + skipped

    def join(self, layer: int, between: bool) -> None:
        for each in self.targets:
            if (each.layer, each.between) != (layer, between):
                continue
            fresh = each.row.unique()
            fresh = fresh[self.place[fresh] < 0]
            joined = self.covector.shape[1]
            self.place[fresh] = torch.arange(joined, joined + len(fresh), device=fresh.device)
            self.covector = torch.nn.functional.pad(self.covector, (0, 0, 0, len(fresh)))
            self.covector.index_put_((each.position, self.place[each.row]), each.covector, accumulate=True)
            self.bias(layer, "reading").index_add_(0, self.place[each.row], each.bias)

    def mlp(self, layer: int) -> Tensor | None:
        """The layer's edges; gives what the skip connection carries on."""
        if not self.covector.shape[1]:
            return None
        self.found.add(self.columns.errors(layer).start, self.dot(self.nodes.errors[layer]))
        self.add_bias(layer, "MLP", self.nodes.constant(layer))
        raw = self.covector
        if self.nodes.before_post_norm:
            raw = self.run.layers[layer].mlp_output_back(raw)
        self.add_nodes(layer, raw)
        return self.nodes.skip_back(layer, self.covector)

    def add_nodes(self, layer: int, raw: Float[Tensor, "T K D"]) -> None:
        """The edges of what nodes write at a layer, from the covector of what its MLP gives."""
        for source in self.nodes.sources(layer):
            edges = self.nodes.edges(source, layer, raw)
            if source in self.pending:
                earlier = self.pending.pop(source)
                edges[: len(earlier)] += earlier
            if source < layer:
                self.pending[source] = edges
            else:
                self.found.add(self.columns.nodes(source).start, edges)

    def attention(self, layer: int) -> Float[Tensor, "T K D"]:
        """The layer's bias's edge; gives what goes through the heads."""
        if not self.covector.shape[1]:
            return self.covector
        self.add_bias(layer, "attention", self.run.attention_biases[layer])
        back = self.run.layers[layer].attention_back
        return torch.cat([back(some) for some in self.covector.split(NEAR, dim=1)], dim=1)

    def dot(self, written: Float[Tensor, "S D"]) -> Float[Tensor, "K T"]:
        """What is written, times the covector, at each position."""
        return torch.bmm(self.covector, written[: len(self.covector), :, None])[..., 0].T

    def add_bias(self, layer: int, kind: str, written: Float[Tensor, "S D"]) -> None:
        """What is written at all positions, added up."""
        edges = self.dot(written).sum(1)
        self.bias(layer, kind)[: len(edges)] += edges

    def bias(self, layer: int, kind: str) -> Float[Tensor, " K"]:
        """The column of a bias."""
        return self.biases[:, self.columns.bias(layer, kind) - self.columns.first_bias]
