"""Random scores: the baseline that says what a circuit of that size is worth by chance."""

from jaxtyping import Float
from torch import Tensor

from edgewise.discovery._attributing import attribution
from edgewise.discovery._configs import RandomConfig
from edgewise.discovery._cost import Cost
from edgewise.discovery._scores import Scores
from edgewise.engine import Engine
from edgewise.graph import Graph
from edgewise.runs import uniform
from edgewise.tasks import Task


def uniform_scores(graph: Graph, seed: int = 0, ablation: str = "interchange") -> Scores:
    """Uniform scores `[E]` in (0, 1) of a graph alone, from the seed; `ablation` says which edges count as idle."""
    said = {"method": {"name": "random", "seed": seed}, "ablation": {"kind": ablation}, "cost": Cost().record()}
    return Scores(graph, uniform(graph.n_edges, seed, 0), said)


@attribution(RandomConfig)
def random_scores(engine: Engine, task: Task, config: RandomConfig, cost: Cost) -> Float[Tensor, " E"]:
    """Uniform scores, from the seed alone; the model and the task are only noted.

    Returns:
        Scores `[E]` in (0, 1).

    Raises:
        edgewise.InputError: a setting is wrong.
    """
    return uniform(engine.graph.n_edges, config.seed, 0)
