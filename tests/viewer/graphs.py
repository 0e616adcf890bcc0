"""Attribution graphs made up for the tests: as arrays, and as the JSON of Neuronpedia and circuit-tracer."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgewise.viewer import GraphArrays

TOKENS = [" the", " cat", " sat", " on", " a", " mat"]
TYPES = {0: "embedding", 3: "cross layer transcoder", 4: "mlp reconstruction error", 6: "logit"}
TOKEN, FEATURE, ERROR, BIAS, ROOT = 0, 3, 4, 5, 6


def made(n_features: int = 60, n_layers: int = 4, n_edges: int = 900, n_tokens: int = 6, seed: int = 0) -> GraphArrays:
    """Features, errors, tokens and three roots; an edge goes from a lower layer to a higher one, not back in time."""
    random = np.random.default_rng(seed)
    tokens = [TOKENS[i % len(TOKENS)] for i in range(n_tokens)]
    kind = np.repeat([TOKEN, FEATURE, ERROR, ROOT], [n_tokens, n_features, n_layers * n_tokens, 3])
    layer = np.concatenate(
        [
            np.full(n_tokens, -1),
            random.integers(0, n_layers, n_features),
            np.repeat(np.arange(n_layers), n_tokens),
            np.full(3, n_layers),
        ]
    )
    position = np.concatenate(
        [
            np.arange(n_tokens),
            random.integers(0, n_tokens, n_features),
            np.tile(np.arange(n_tokens), n_layers),
            np.full(3, n_tokens - 1),
        ]
    )
    order = np.argsort(layer, kind="stable")
    kind, layer, position = kind[order], layer[order], position[order]
    n, first = len(kind), np.searchsorted(layer, np.arange(-1, n_layers + 2))
    targets = random.choice(np.flatnonzero(np.isin(kind, (FEATURE, ROOT))), n_edges)
    sources = (random.random(n_edges) * first[layer[targets] + 1]).astype(int)
    right = position[sources] <= position[targets]
    key = np.unique(targets[right] * n + sources[right])
    targets, sources = key // n, key % n
    root_weight = np.zeros(n)
    root_weight[kind == ROOT] = (0.6, 0.3, 0.1)
    ids = [f"{layer[i]}_{i}_{position[i]}" for i in range(n)]
    labels = [f"about {i}" if kind[i] == FEATURE and i % 3 == 0 else "" for i in range(n)]
    for place, node in enumerate(np.flatnonzero(kind == ROOT)):
        labels[node] = f'Output "{("dog", "cat", "cow")[place]}" (p={root_weight[node]})'
    weight = (random.standard_normal(len(targets)) ** 3).astype(np.float32)
    value = np.abs(random.standard_normal(n)).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(targets, minlength=n))])
    return GraphArrays("made", tokens, kind, layer, position, value, ids, labels, root_weight, offsets, sources, weight)


def neuronpedia(graph: GraphArrays, **metadata: Any) -> dict[str, Any]:
    """The graph as those tools write it."""
    nodes = [
        {
            "node_id": graph.ids[i],
            "feature": i,
            "layer": "E" if graph.kind[i] == TOKEN else str(graph.layer[i]),
            "ctx_idx": int(graph.position[i]),
            "feature_type": TYPES[int(graph.kind[i])],
            "jsNodeId": f"{i}-0",
            "clerp": graph.labels[i],
            "activation": float(graph.value[i]),
        }
        for i in range(len(graph.kind))
    ]
    links = [
        {"source": graph.ids[s], "target": graph.ids[t], "weight": float(w)}
        for s, t, w in zip(graph.sources, targets_of(graph), graph.weight, strict=True)
    ]
    about = {"slug": "made-up", "scan": "none", "prompt_tokens": graph.tokens, "prompt": "".join(graph.tokens)}
    return {"metadata": about | metadata, "qParams": {}, "nodes": nodes, "links": links}


def targets_of(graph: GraphArrays) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(graph.kind)), np.diff(graph.offsets))


def matrix(graph: GraphArrays) -> NDArray[np.float64]:
    """Weights, targets by sources."""
    dense = np.zeros((len(graph.kind),) * 2)
    dense[targets_of(graph), graph.sources] = graph.weight
    return dense


def influence(weights: NDArray[np.float64], roots: NDArray[np.float64]) -> NDArray[np.float64]:
    """The series w A + w A² + …, term by term."""
    sizes = np.abs(weights)
    normal = sizes / np.maximum(sizes.sum(1, keepdims=True), 1e-300)
    total, term = np.zeros(len(roots)), roots
    while term.any():
        term = term @ normal
        total += term
    return total


def scores(graph: GraphArrays, kept: set[int]) -> tuple[float, float]:
    """Replacement and completeness where the features that are not kept are moved into their place's error, densely."""
    weights, kind = matrix(graph), graph.kind
    error = {(graph.layer[i], graph.position[i]): i for i in np.flatnonzero(kind == ERROR)}
    for node in np.flatnonzero(kind == FEATURE):
        if node not in kept:
            weights[:, error[graph.layer[node], graph.position[node]]] += weights[:, node]
            weights[:, node] = weights[node] = 0
    found = influence(weights, graph.root_weight)
    tokens, errors = found[kind == TOKEN].sum(), found[kind == ERROR].sum()
    sizes = np.abs(weights)
    # What reads nothing counts as whole, as in `edgewise.attribution.scores`.
    share = 1 - sizes[:, kind == ERROR].sum(1) / np.maximum(sizes.sum(1), 1e-300)
    mass = found + graph.root_weight
    return float(tokens / (tokens + errors)), float(mass @ share / mass.sum())
