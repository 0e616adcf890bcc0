"""An attribution graph with all that can be asked of it; each answer is a function of its own module."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from edgewise.attribution._attach import attached
from edgewise.attribution._graph import GraphData
from edgewise.attribution._head_table import HeadTable, heads_of
from edgewise.attribution._influence import GraphScores, influence, prune, scores
from edgewise.attribution._reasons import Why
from edgewise.attribution._targets import Target
from edgewise.attribution._why import why
from edgewise.models import Model
from edgewise.transcoders import Transcoder


class AttributionGraph(GraphData):
    """What flows between tokens, neurons or features, errors, biases and roots on one prompt (see `GraphData`)."""

    def prune(self, nodes: float = 0.8, edges: float = 0.98) -> "AttributionGraph":
        """The nodes and edges that carry most of the influence; see `edgewise.attribution.prune`."""
        return prune(self, nodes, edges)

    def influence(self) -> Float[Tensor, " n"]:
        """Every node's influence on the roots."""
        return influence(self)

    def scores(self) -> GraphScores:
        """Replacement and completeness."""
        return scores(self)

    def attach(
        self, model: Model, transcoders: Transcoder | Sequence[Transcoder] | None = None, target: Target = None
    ) -> "AttributionGraph":
        """The graph with its prompt's run made again, which `why` and `heads_of` need, and a file does not hold.

        Args:
            model: that of the graph.
            transcoders: those of the graph; None for neurons.
            target: where a direction is explained, its name and the direction again.

        Raises:
            InputError: the model, the transcoders or the direction are others, or it is the mean over several prompts,
                which has no run.
        """
        return attached(self, model, transcoders, target)

    def why(self, source: str, target: str, n_heads: int = 1, most: int = 10) -> Why:
        """What an edge is made of; see `edgewise.attribution.why`."""
        return why(self, source, target, n_heads, most)

    def heads(self, top: int = 200, without_first: bool = False) -> HeadTable:
        """Which heads carry its most influential edges; see `edgewise.attribution.heads_of`."""
        return heads_of(self, top, without_first)
