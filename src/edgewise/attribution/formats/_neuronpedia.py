"""The graph JSON of Neuronpedia, Anthropic's front end and circuit-tracer (schema 1).

| node | `node_id` | `feature` | `layer` | `feature_type` |
|---|---|---|---|---|
| feature or neuron | `{layer}_{index}_{position}` | Cantor(layer, index) | layer | `cross layer transcoder` |
| error | `{layer}_-1_{position}` | −1 | layer | `mlp reconstruction error` |
| bias | `{layer}_-2_0` attention, `-3` MLP, `-4` reading | as in its id | layer | `bias` |
| token | `E_{token}_{position}`, −1 if not known | position | `E` | `embedding` |
| learned position | `E_-2_{position}` | −2 | `E` | `embedding` |
| root | `{layers + 1}_{token}_{position}` | token | layers + 1 | `logit` |

Ids are unique. circuit-tracer's errors were `0_{layer}_{position}` until 2026, which features of layer 0 are too; such
files are read. A neuron has the type of a feature because viewers count no other type as a node between tokens and
logits; `scan`, which names whose dashboards to show, then ends in `-neurons`, so that no feature's is shown for one.
A root that is no token has a number that no vocabulary reaches. `influence` is the cumulative rank that viewers prune
by; biases have none, so viewers always show them. What the format has no place for is in `metadata.edgewise`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._attribution_graph import AttributionGraph
from edgewise.attribution._graph import KINDS, Kind
from edgewise.attribution._influence import influence, kept
from edgewise.attribution.formats._foreign import cumulative, root_tokens
from edgewise.runs import software, write_atomically

MOST_BYTES = 100 << 20
"""The largest file that Neuronpedia takes, and that is read or written here."""
NEURONS = "-neurons"
"""At the end of the `scan` of a graph of neurons."""
BIAS_FEATURES: dict[Kind, int] = {"attention bias": -2, "MLP bias": -3, "reading bias": -4}
POSITION_FEATURE = -2
TYPES = {
    "feature": "cross layer transcoder",
    "neuron": "cross layer transcoder",
    "error": "mlp reconstruction error",
    "token": "embedding",
    "position": "embedding",
    "root": "logit",
} | dict.fromkeys(BIAS_FEATURES, "bias")


def write(graph: AttributionGraph, path: Path, scan: str | None, pruning: tuple[float, float] | None) -> list[str]:
    """Write a graph.

    Args:
        graph: the graph.
        path: the file.
        scan: what Neuronpedia calls the model; None: the model's id.
        pruning: the shares of influence of nodes and edges that are kept. Ranks are those of the whole graph.

    Raises:
        InputError: it would be larger than Neuronpedia takes, or cannot be written.
    """
    ranks = cumulative(influence(graph))
    everything = torch.ones(graph.n_nodes, dtype=torch.bool), torch.ones(graph.n_edges, dtype=torch.bool)
    keep, edges = everything if pruning is None else kept(graph, *pruning)
    ids = _node_ids(graph)
    nodes = [_node(graph, i, ids[i], float(ranks[i])) for i in keep.nonzero()[:, 0].tolist()]
    chosen = edges.nonzero()[:, 0]
    triples = zip(
        graph.sources[chosen].tolist(),
        graph.edge_targets[chosen].tolist(),
        graph.weight[chosen].double().tolist(),
        strict=True,
    )
    links = ",".join(f'{{"source":"{ids[s]}","target":"{ids[t]}","weight":{weight!r}}}' for s, t, weight in triples)
    first = {
        "metadata": _metadata(graph, path, scan, pruning),
        "qParams": _saved_state(graph, ids, keep),
        "nodes": nodes,
    }
    text = json.dumps(first, allow_nan=False)[:-1] + f', "links": [{links}]}}\n'
    if len(text) > MOST_BYTES:  # all of it is ASCII
        size = f"{len(text) >> 20} MiB, and Neuronpedia takes {MOST_BYTES >> 20}"
        raise InputError(f"{path}: {len(chosen):,} edges make {size}; prune more, or write .pt or .jsonl")
    write_atomically(path, text)
    return []


def _node_ids(graph: AttributionGraph) -> list[str]:
    """Every node's id (see above)."""
    tokens, n_layers = root_tokens(graph), graph.n_layers
    found = []
    for kind, layer, position, index, _ in zip(*(column.tolist() for column in graph.nodes), strict=True):
        name = KINDS[kind]
        if name == "root":
            found.append(f"{n_layers + 1}_{tokens[index]}_{position}")
        elif name in BIAS_FEATURES:
            found.append(f"{layer}_{BIAS_FEATURES[name]}_0")
        else:  # errors have the index −1
            index = POSITION_FEATURE if name == "position" else index
            found.append(f"{'E' if layer < 0 else layer}_{index}_{position}")
    return found


def _node(graph: AttributionGraph, i: int, node_id: str, rank: float) -> dict[str, Any]:
    kind, position, index = KINDS[int(graph.nodes.kind[i])], int(graph.nodes.position[i]), int(graph.nodes.index[i])
    layer, middle, _ = node_id.split("_")
    is_inner, is_root, is_bias = kind in ("feature", "neuron"), kind == "root", kind in BIAS_FEATURES
    number = position if kind == "token" else int(middle)
    weight = float(graph.root_weights[index]) if is_root else 0.0
    label = graph.names[i] if kind == "neuron" or is_bias else ""  # a feature's own has its number alone
    label = graph.provenance.get("labels", {}).get(graph.names[i], label)
    return {
        "node_id": node_id,
        "feature": cantor(int(layer), number) if is_inner else number,
        "layer": layer,
        "ctx_idx": max(position, 0),
        "feature_type": TYPES[kind],
        "token_prob": weight,
        "is_target_logit": is_root and index == 0,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{'L' if is_root else layer}_{middle}-{0 if is_inner or is_bias else position}",
        "clerp": f'Output "{graph.roots[index]}" (p={weight:.3f})' if is_root else label,
        "influence": None if is_root or is_bias else rank,
        "activation": float(graph.nodes.value[i]) if is_inner or is_root else None,
    }


def cantor(layer: int, index: int) -> int:
    """One number for two (Cantor's pairing)."""
    return (layer + index) * (layer + index + 1) // 2 + index


def _metadata(
    graph: AttributionGraph, path: Path, scan: str | None, pruning: tuple[float, float] | None
) -> dict[str, Any]:
    settings, provenance = graph.settings, graph.provenance
    model = provenance.get("model")
    scan = scan or str(provenance.get("scan") or (model.get("id") if isinstance(model, dict) else model) or "unknown")
    scan = scan + NEURONS if settings.get("nodes") == "neurons" and not scan.endswith(NEURONS) else scan
    generation = {"max_feature_nodes": settings.get("max_nodes"), "batch_size": settings.get("batch")}
    names = None if pruning is None else dict(zip(("node_threshold", "edge_threshold"), pruning, strict=True))
    found = {
        "slug": path.stem,
        "scan": scan,
        "transcoder_list": provenance.get("transcoder_list", []),
        "prompt_tokens": list(graph.tokens),
        "prompt": provenance.get("prompt", "".join(graph.tokens)),
        "schema_version": 1,
        "info": {"generator": {"name": "edgewise", "version": software()["edgewise"]}},
        "generation_settings": {name: value for name, value in generation.items() if value is not None},
        "edgewise": {"settings": settings, "provenance": provenance},
    }
    return found | ({} if names is None else {"node_threshold": names["node_threshold"], "pruning_settings": names})


def _saved_state(graph: AttributionGraph, ids: list[str], keep: Bool[Tensor, " n"]) -> dict[str, Any]:
    """What a viewer begins with: pinned nodes and groups of them, of those that are written."""
    numbers = {name: each for name, each, stays in zip(graph.names, ids, keep.tolist(), strict=True) if stays}
    saved = graph.provenance.get("saved", {})
    groups = [
        [label, *(numbers[name] for name in names if name in numbers)] for label, *names in saved.get("groups", [])
    ]
    return {
        "pinnedIds": [numbers[name] for name in saved.get("pinned", []) if name in numbers],
        "supernodes": [group for group in groups if len(group) > 1],
        "linkType": "both",
        "clickedId": "",
        "sg_pos": "",
    }
