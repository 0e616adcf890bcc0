"""An edge of an attribution graph as products of two factors: what the input decides, and what the weights do.

    edge  =  activation · ( scale · connection, on the residual stream alone
                            + Σ over heads of scale · connection, through that head alone
                            + what goes through several heads, or through skip connections )

A scale is norm scales and an attention pattern, of the input. A connection is of the weights alone, the same on every
input (Dunefsky et al. 2024, §3; see `edgewise.transcoders.analysis`).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._attach import explained_of
from edgewise.attribution._features import Features
from edgewise.attribution._graph import KINDS, GraphData
from edgewise.attribution._heads import whole_edges
from edgewise.attribution._reasons import aligned
from edgewise.attribution._steps import Front, Stepper
from edgewise.attribution._targets import Root
from edgewise.attribution._why import source_at, targets_of
from edgewise.runs import SavedAsJson
from edgewise.transcoders import decoder_rows, through_heads


class Factor(NamedTuple):
    """One way along an edge: `activation · scale · connection` is what flows along it."""

    way: str
    """`direct`, or a head such as `a9.h1`."""
    scale: float
    """Norm scales and the head's attention: the input's."""
    connection: float
    """The weights' alone."""
    weight: float


@dataclass(frozen=True)
class Factors(SavedAsJson):
    """An edge, taken apart."""

    source: str
    target: str
    weight: float
    activation: float
    """The source's; 1 of a token or position."""
    factors: tuple[Factor, ...]
    """On the residual stream alone (where source and target stand at one token), and through each single head, the
    largest first."""
    further: float
    """Through several heads one after the other, or through skip connections."""

    def __str__(self) -> str:
        """As a table."""
        title = f"{self.source} → {self.target}: {self.weight:+.4g}, activation {self.activation:.4g}"
        rows = [
            (each.way, f"{each.weight:+.3g}", f"{each.scale:.3g}", f"{each.connection:+.3g}") for each in self.factors
        ]
        heads = ("way", "weight", "scale", "connection")
        return "\n".join([title, *aligned([heads, *rows, ("further", f"{self.further:+.3g}", "", "")])])


@torch.no_grad()
def factors(graph: GraphData, source: str, target: str) -> Factors:
    """What an edge is a product of.

    Args:
        graph: made by `attribute` of transcoders' features, or attached.
        source: a feature's, token's or position's name, such as `m3.f12@5` or `token@0`.
        target: a feature's or root's name.

    Raises:
        InputError: the run is not at hand, the graph's nodes are neurons, a node is not in the graph, the source is of
            another kind or comes after the target, or nothing flows into the target.
    """
    made = explained_of(graph)
    if not isinstance(made.nodes, Features):
        raise InputError(
            "graph: its nodes are neurons, whose connections change with the input; give a graph of transcoder features"
        )
    start, to = graph.node(source), graph.node(target)
    readers = targets_of(graph, made, torch.tensor([to]))
    front = Stepper(made.nodes).root(Root(target, 1.0, float(graph.nodes.value[to]), readers[0]))
    weight = float(whole_edges(made.nodes, readers, 1, [source_at(graph, made, start)]))  # the graph may have cut it
    written = _Written(graph, made.nodes, start)
    if written.layer >= front.read.layer:
        raise InputError(f"source {source!r}: it does not come before {target!r}; give a node of a lower layer")
    found = _direct(written, front) + _through_heads(written, front)
    found = [each for each in found if each.weight]
    found.sort(key=lambda each: -abs(each.weight))
    further = weight - sum(each.weight for each in found)
    return Factors(source, target, weight, written.activation, tuple(found), further)


class _Written:
    """What a source writes, for an activation of 1."""

    def __init__(self, graph: GraphData, nodes: Features, number: int) -> None:
        kind, self.layer, self.position, self.index = (int(column[number]) for column in graph.nodes[:4])
        self.nodes, self.kind = nodes, KINDS[kind]
        if self.kind not in ("feature", "token", "position"):
            name = graph.names[number]
            raise InputError(
                f"source {name!r}: a {self.kind} writes what no weights alone say; give a feature or token"
            )
        self.activation = 1.0
        if self.kind == "feature":
            active = nodes.active[self.layer]
            at = (active.index == self.index) & (active.position == self.position)
            self.activation = float(active.value[at][0])

    def below(self, layer: int) -> Float[Tensor, " D"]:
        """By layers below one."""
        if self.kind == "feature":
            return decoder_rows(self.nodes.transcoders[self.layer], self.index, layer)[0].to(self.nodes.run.final)
        return self.nodes.run.embeddings[("token", "position").index(self.kind)][self.position]

    def factor(self, way: str, scale: Tensor | float, connection: Tensor) -> Factor:
        """With what flows."""
        factors = float(scale), float(connection)
        return Factor(way, *factors, self.activation * factors[0] * factors[1])


def _direct(written: _Written, front: Front) -> list[Factor]:
    if written.position != front.position:
        return []
    return [written.factor("direct", front.scale, front.read.covector[0] @ written.below(front.read.layer))]


def _through_heads(written: _Written, front: Front) -> list[Factor]:
    run, found = written.nodes.run, list[Factor]()
    for layer in range(written.layer + 1, front.read.n_attention):
        ran = run.layers[layer]
        connections = through_heads(run.model, front.read, layer)[:, 0] @ written.below(layer)
        scale = front.scale * ran.attention_norm.inverse[written.position]
        if ran.attention_scale is not None:
            scale = scale * ran.attention_scale[front.position]
        scales = scale * ran.pattern.first(len(run))[:, front.position, written.position]
        found += [
            written.factor(f"a{layer}.h{head}", *each)
            for head, each in enumerate(zip(scales, connections, strict=True))
        ]
    return found
