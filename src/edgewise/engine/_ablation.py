"""What a removed edge carries instead: said beside the graph, which prunes by it."""

from edgewise.graph import Ablation as Ablation
from edgewise.graph import AblationKind as AblationKind
