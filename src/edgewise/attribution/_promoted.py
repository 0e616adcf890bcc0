"""Which tokens a neuron's or feature's decoder speaks for: what its write would add to the logits at its own position,
straight through the final norm, if nothing came in between.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.attribution._attach import explained_of
from edgewise.attribution._graph import GraphData
from edgewise.attribution._targets import Explained, token_text
from edgewise.attribution._why import source_at
from edgewise.runs import check_counts, gradients

_AT_ONCE = 64  # nodes whose logits are held at once: 64 MB for a vocabulary of 262,144


class Promoted(NamedTuple):
    """The tokens that a node's write raises and lowers most, each with what it adds beyond the mean of all logits."""

    raises: tuple[tuple[str, float], ...]
    lowers: tuple[tuple[str, float], ...]

    @staticmethod
    def read(values: Mapping[str, Any]) -> "Promoted":
        """The inverse of `_asdict`, from JSON."""
        sides = (values["raises"], values["lowers"])
        return Promoted(*(tuple((str(token), float(x)) for token, x in side) for side in sides))


@torch.no_grad()
def promoted(graph: GraphData, names: Sequence[str], most: int = 8) -> dict[str, Promoted]:
    """What some nodes write, read by the unembedding; the final norm's scale is that of the node's position.

    Args:
        graph: made by `attribute`, or attached.
        names: neurons or features of it.
        most: how many tokens of each.

    Raises:
        InputError: the run is not at hand, or a name is not in the graph.
    """
    check_counts("promoted", least=0, most=most)
    made, found = explained_of(graph), dict[str, Promoted]()
    for start in range(0, len(names), _AT_ONCE):
        some = names[start : start + _AT_ONCE]
        logits = _logits(made, torch.stack([_written(graph, made, graph.node(name)) for name in some]))
        n = min(most, logits.shape[1])
        high, low = logits.topk(n), (-logits).topk(n)
        for row, name in enumerate(some):
            raises = _named(made, high.indices[row], high.values[row])
            found[name] = Promoted(raises, _named(made, low.indices[row], -low.values[row]))
    return found


def _written(graph: GraphData, made: Explained, number: int) -> Float[Tensor, " D"]:
    """All that a node writes, behind the final norm."""
    written = source_at(graph, made, number).written.values()
    rows = torch.stack([each.rows for each in written]).sum(0)  # (1, D): of its one position
    norm = made.nodes.run.final_norm.at(graph.nodes.position[number : number + 1])
    return norm.forward(rows[:, None])[0, 0]


def _logits(made: Explained, written: Float[Tensor, "n D"]) -> Float[Tensor, "n V"]:
    """What is added to the logits, a soft-cap passed with its slope at 0; an unembedding's bias is no node's."""
    unembed = made.nodes.run.model.parts.unembed
    with gradients():
        added = torch.autograd.functional.jvp(unembed, torch.zeros_like(written), written)[1]
    assert isinstance(added, Tensor)
    return (added - added.mean(1, keepdim=True)).to(written)


def _named(made: Explained, ids: Tensor, values: Tensor) -> tuple[tuple[str, float], ...]:
    run = made.nodes.run
    return tuple((token_text(run, i), x) for i, x in zip(ids.tolist(), values.tolist(), strict=True))
