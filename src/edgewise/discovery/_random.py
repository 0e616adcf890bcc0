"""Random scores: the baseline that says what a circuit of that size is worth by chance."""

from typing import Any

from edgewise.discovery._configs import RandomConfig, configured
from edgewise.discovery._cost import Cost
from edgewise.discovery._provenance import method_record, provenance
from edgewise.discovery._scores import Scores
from edgewise.engine import Engine
from edgewise.graph import Graph
from edgewise.models import Model
from edgewise.runs import uniform
from edgewise.tasks import Task


def uniform_scores(graph: Graph, seed: int = 0, ablation: str = "interchange") -> Scores:
    """Uniform scores `[E]` in (0, 1) of a graph alone, from the seed; `ablation` says which edges count as idle."""
    said = {"method": {"name": "random", "seed": seed}, "ablation": {"kind": ablation}, "cost": Cost().record()}
    return Scores(graph, uniform(graph.n_edges, seed, 0), said)


def random_scores(model: Model | Engine, task: Task, config: RandomConfig | None = None, **changes: Any) -> Scores:
    """Uniform scores `[E]` in (0, 1), from the seed alone; the model and the task are only noted.

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: the behaviour.
        config: the settings.
        **changes: fields of `RandomConfig` to change.

    Raises:
        edgewise.InputError: a setting is wrong.
    """
    config, engine = configured(RandomConfig, config, changes), Engine.of(model)
    values = uniform(engine.graph.n_edges, config.seed, 0)
    return Scores(engine.graph, values, provenance(engine, task, method_record("random", config), Cost()))
