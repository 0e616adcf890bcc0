"""What a masked run is given, and what its backward gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from edgewise.engine._constants import Constants
from edgewise.engine._execution import Execution
from edgewise.engine._live import FixedTokens
from edgewise.engine._stack import Workspace
from edgewise.engine._token_share import TokenShare
from edgewise.engine._writes import Writes
from edgewise.engine.features import FeatureRun, NeuronRun, NodeBlock
from edgewise.graph import Graph
from edgewise.models import Parts
from edgewise.models.folded import FoldedHeads


@dataclass
class Gradients:
    """What a backward gives."""

    masks: Float[Tensor, "CP E"]
    ablated: Writes | None
    """Gradients of the ablated values, for values that all tokens share; None if not asked for."""


class ArrangedModel:
    """A model arranged for masked runs, and what one run leaves for the next."""

    def __init__(
        self,
        parts: Parts,
        graph: Graph,
        execution: Execution,
        splits_bias: bool,
        nodes: Mapping[int, NodeBlock],
    ) -> None:
        """Nothing is made before it is needed; `splits_bias`: heads carry shares of b_O (see `Ablation.bias`); `nodes`:
        by layer, the features or neurons that stand in an MLP's place.
        """
        self.parts, self.graph, self.splits_bias, self.nodes = parts, graph, splits_bias, nodes
        self.lean, self.dtype = execution.memory == "lean", execution.dtype
        self.heads: dict[int, FoldedHeads] = {}
        """By layer, the attention readers' projections."""
        self.workspace = Workspace()
        """Where the stack's buffers come from."""


class MaskedBatch(NamedTuple):
    """What a masked run is given."""

    share: TokenShare
    """N packed tokens, this process's."""
    masks: Float[Tensor, "CP E"]
    """One row per circuit and position group."""
    targets: Int[Tensor, " A"]
    """The packed tokens whose predictions are wanted; −1 for another process's."""
    clean: tuple[Float[Tensor, "N D"], ...]
    """The embedding terms."""
    constants: Constants
    """What removed edges carry."""
    nodes: Mapping[int, FeatureRun | NeuronRun]
    """By layer that has them, what is fixed of its features or neurons."""
    kept: Mapping[int, Float[Tensor, "N D"]]
    """By block of readers, what kept error terms add to what removed edges carry; empty where none are kept."""
    fixed: FixedTokens | None = None
    """Tokens that are not packed, since nothing changes there, but are looked at."""
    scale: float = 1.0
    """All differences are multiplied by this: masks that are all α give what masks that are all 1 give of α Δ."""
