"""True circuits, each computed once for all tests that only read it."""

from functools import cache

import edgewise as ew
from edgewise.models import load
from edgewise.tracr import Truth, find_truth


def engine_of(name: str, ablation: str, embeddings: str = "joint") -> ew.Engine:
    model = load(f"tracr:{name}")
    return ew.Engine(model, model.graph(embeddings), ew.Ablation(ablation))  # pyright: ignore[reportArgumentType]


@cache
def truth_of(name: str, ablation: str) -> Truth:
    """Of the graph with both embeddings together."""
    return find_truth(engine_of(name, ablation))
