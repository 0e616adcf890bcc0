"""Engines whose graphs have features of random transcoders in the place of some MLPs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from edgewise.engine import Engine
from edgewise.graph import Graph
from edgewise.models import Model
from edgewise.transcoders import Transcoder
from tests.engines import ABLATIONS
from tests.transcoders.reference import random_transcoder

KINDS = ("relu", "topk:5", "batch_topk:5", "jumprelu")
SITES = ("mlp_in", "mlp_normalized", "resid_mid", "mlp_in.centred", "mlp_normalized.centred", "resid_mid.centred")
FEATURES = {0: (1, 4, 5, 20), 2: (0, 7, 30)}
"""With an MLP left between them, where a model has three layers."""


def transcoder_of(
    model: Model, layer: int, activation: str = "relu", site: str = "mlp_in", *, exclude: bool = False, **choices: Any
) -> Transcoder:
    """A random transcoder of a layer, with every term that one may have."""
    kind, _, centred = site.partition(".")
    if kind == "resid_mid" and model.parts.final_norm.kind == "layer":
        centred = "centred"  # the only one that such a model's engine can read
    d = model.parts.d_model
    made = random_transcoder(
        activation, layer=layer, reads=kind, d_in=d, d_out=d, n_features=32, seed=layer, input_bias=True, skip=True
    )
    reads = replace(made.spec.reads, centred=bool(centred))
    made.spec = replace(made.spec, reads=reads, exclude_special=exclude)
    return made


def features_of(model: Model) -> dict[int, tuple[int, ...]]:
    """`FEATURES`, in a model of two layers of the last layer."""
    last = len(model.parts.layers) - 1
    return {min(layer, last): chosen for layer, chosen in FEATURES.items()}


def featured(
    model: Model,
    transcoders: Sequence[Transcoder] | None = None,
    ablation: str = "interchange",
    features: Mapping[int, Sequence[int]] | None = None,
    graph: Graph | None = None,
    **choices: Any,
) -> Engine:
    """An engine of such a graph."""
    features = features_of(model) if features is None else features
    graph = graph or model.graph(features=features)
    if transcoders is None:
        transcoders = [transcoder_of(model, layer) for layer in features]
    return Engine(model, graph, ABLATIONS[ablation], transcoders=transcoders, **choices)


def ones(engine: Engine) -> torch.Tensor:
    """All edges."""
    return torch.ones(engine.graph.n_edges, dtype=torch.float64)
