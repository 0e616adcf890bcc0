"""Engines whose graphs have neurons in the place of some MLPs, or features that write to several layers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from edgewise.engine import Engine
from edgewise.graph import ErrorPolicy
from edgewise.models import Model
from edgewise.transcoders import Site, Transcoder, cross_layer
from tests.engine.featured import featured
from tests.engines import ABLATIONS, assert_close
from tests.tiny import Batch
from tests.transcoders.reference import random_transcoder

NEURONS = {0: (1, 4, (2, 7, 9)), 2: (0, 3, 11, 5)}
"""With an MLP left between them, where a model has three layers; one group of three."""


def neurons_of(model: Model) -> dict[int, Any]:
    """`NEURONS`, in a model of two layers of the last layer."""
    last = len(model.parts.layers) - 1
    return {min(layer, last): chosen for layer, chosen in NEURONS.items()}


def with_neurons(model: Model, ablation: str = "interchange", neurons: Any = None, **choices: Any) -> Engine:
    """An engine of such a graph."""
    graph = model.graph(neurons=neurons_of(model) if neurons is None else neurons)
    return Engine(model, graph, ABLATIONS[ablation], **choices)


def crossing(model: Model, kind: str = "relu", *, exclude: bool = False) -> list[Transcoder]:
    """Random cross-layer transcoders of all layers but the last, each writing to all layers from its own on."""
    n, d, made = len(model.parts.layers), model.parts.d_model, []
    for layer in range(n - 1):
        each = random_transcoder(
            kind, layer=layer, n_sites=n - layer, d_in=d, d_out=d, n_features=32, seed=layer, input_bias=True
        )
        writes = tuple(Site("mlp_out", later) for later in range(layer, n))
        each.spec = replace(each.spec, reads=Site("mlp_in", layer), writes=writes, exclude_special=exclude)
        made.append(each)
    return made


def with_places(
    model: Model,
    transcoders: Sequence[Transcoder],
    ablation: str = "interchange",
    error: ErrorPolicy = "scored",
    **choices: Any,
) -> Engine:
    """An engine of a graph with four features of each; the layer after them has none of its own."""
    features = {each.spec.reads.layer: (1, 4, 20, 30) for each in transcoders} | {len(model.parts.layers) - 1: ()}
    graph = model.graph(features=features, cross_layer=cross_layer(transcoders), error=error)
    return featured(model, transcoders, ablation, graph=graph, **choices)


def assert_slopes(make: Callable[[str], Engine], batch: Batch, mask: Tensor, into: str, still: int = 0) -> None:
    """The fast path's gradients of ten edges into such readers are finite differences of the reference's runs, and so
    are as many gradients of (nearly) zero as `still` says.
    """
    engine, reference = make("fast"), make("reference")
    weights = torch.randn(engine.run(batch, mask).shape, generator=torch.Generator().manual_seed(3), dtype=mask.dtype)
    leaf = mask.clone().requires_grad_()
    (engine.run(batch, leaf, gradients="all") * weights).sum().backward()
    assert leaf.grad is not None
    gradient = leaf.grad.flatten()
    chosen = torch.tensor([into in name for name in engine.graph.edge_names(torch.arange(engine.graph.n_edges))])
    edges = chosen.repeat(mask.numel() // len(chosen)).nonzero()[:, 0]
    edges = edges[torch.randperm(len(edges), generator=torch.Generator().manual_seed(4))]
    moves = gradient[edges].abs() > 1e-6
    edges = torch.cat([edges[moves][:10], edges[~moves][:still]])
    assert len(edges) == 10 + still
    directions = torch.zeros(len(edges), mask.numel(), dtype=mask.dtype)
    directions[range(len(edges)), edges] = 1

    def losses(by: float) -> Tensor:
        moved = reference.run(batch, (mask + by * directions.view(-1, *mask.shape)).flatten(0, 1)).detach()
        return (moved.view(len(edges), *weights.shape) * weights).flatten(1).sum(1)

    step = 1e-5
    slopes = (8 * (losses(step) - losses(-step)) - (losses(2 * step) - losses(-2 * step))) / (12 * step)
    for found, slope in zip(gradient[edges], slopes, strict=True):
        assert_close(found, slope, 1e-6)
