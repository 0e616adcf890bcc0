"""Random scores: the baseline that says what a circuit of that size is worth by chance."""

from edgewise.discovery._cost import Cost
from edgewise.discovery._scores import Scores
from edgewise.graph import Graph
from edgewise.runs import uniform


def random_scores(graph: Graph, seed: int = 0, ablation: str = "interchange") -> Scores:
    """Uniform scores in (0, 1), from the seed alone."""
    method = {"method": {"name": "random", "seed": seed}, "ablation": {"kind": ablation}, "cost": Cost().record()}
    return Scores(graph, uniform(graph.n_edges, seed, 0), method)
