"""What files of graphs hold: the schema of one kind, a small file of it, and the edges of what was read."""

import json
from pathlib import Path
from typing import Any

import torch

from edgewise.attribution import AttributionGraph, export, import_graph


def numbers(graph: AttributionGraph) -> dict[tuple[str, str], float]:
    """Every edge's weight by the names of its ends."""
    ends = zip(graph.sources.tolist(), graph.edge_targets.tolist(), graph.weight.tolist(), strict=True)
    return {(graph.names[source], graph.names[target]): weight for source, target, weight in ends}


def by_name(graph: AttributionGraph, values: torch.Tensor) -> dict[str, float]:
    return dict(zip(graph.names, values.tolist(), strict=True))


def written(graph: AttributionGraph, path: Path, **choices) -> dict[str, Any]:
    export(graph, path, **choices)
    return json.loads(path.read_text())


def foreign(**changes) -> dict[str, Any]:
    """A small graph as circuit-tracer wrote it in 2025: the error of layer 1 has the id of feature 1 of layer 0."""

    def node(node_id: str, feature: int, layer: str, position: int, of_type: str, **more) -> dict[str, Any]:
        where = {"node_id": node_id, "feature": feature, "layer": layer, "ctx_idx": position}
        return {**where, "feature_type": of_type, "jsNodeId": node_id, "clerp": "", **more}

    return {
        "metadata": {
            "slug": "s",
            "scan": "gemma-2-2b",
            "prompt_tokens": ["a", "b"],
            "prompt": "ab",
            "schema_version": 1,
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [
            node("E_5_0", 0, "E", 0, "embedding"),
            node("E_6_1", 1, "E", 1, "embedding"),
            node("0_1_1", 2, "0", 1, "cross layer transcoder", activation=3.0),
            node("0_1_1", -1, "1", 1, "mlp reconstruction error"),
            node("1_2_1", 8, "1", 1, "cross layer transcoder", activation=2.5),
            node("3_7_1", 7, "3", 1, "logit", token_prob=0.5, clerp='Output " c" (p=0.500)'),
        ],
        "links": [
            {"source": "E_6_1", "target": "0_1_1", "weight": 3.5},
            {"source": "0_1_1", "target": "1_2_1", "weight": 2.0},
            {"source": "0_1_1", "target": "3_7_1", "weight": -1.0},
            {"source": "0_1_1", "target": "3_7_1", "weight": 0.25},
            {"source": "1_2_1", "target": "3_7_1", "weight": 1.5},
        ],
        **changes,
    }


def reading(tmp_path: Path, content: Any) -> AttributionGraph:
    (tmp_path / "f.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return import_graph(tmp_path / "f.json")


SCHEMA: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "required": ["metadata", "qParams", "nodes", "links"],
    "properties": {
        "metadata": {
            "type": "object",
            "required": ["slug", "scan", "prompt_tokens", "prompt"],
            "properties": {
                "slug": {"type": "string"},
                "scan": {"type": "string"},
                "prompt": {"type": "string"},
                "prompt_tokens": {"type": "array", "items": {"type": "string"}},
                "transcoder_list": {"type": "array", "items": {"type": "string"}},
                "node_threshold": {"type": "number"},
                "schema_version": {"const": 1},
                "info": {
                    "type": "object",
                    "properties": {
                        "generator": {
                            "type": "object",
                            "properties": {"name": {"type": "string"}, "version": {"type": "string"}},
                        }
                    },
                },
                "generation_settings": {
                    "type": "object",
                    "properties": {"batch_size": {"type": "integer"}, "max_feature_nodes": {"type": "integer"}},
                },
                "pruning_settings": {
                    "type": "object",
                    "properties": {"node_threshold": {"type": "number"}, "edge_threshold": {"type": "number"}},
                },
            },
        },
        "qParams": {
            "type": "object",
            "properties": {
                "pinnedIds": {"type": "array", "items": {"type": "string"}},
                "supernodes": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
                "linkType": {"type": "string"},
                "clickedId": {"type": "string"},
                "sg_pos": {"type": "string"},
            },
        },
        "nodes": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"],
                "properties": {
                    "node_id": {"type": "string"},
                    "feature": {"type": ["integer", "null"]},
                    "layer": {"type": ["string", "integer"]},
                    "ctx_idx": {"type": "integer", "minimum": 0},
                    "feature_type": {
                        "enum": [
                            "cross layer transcoder",
                            "lorsa",
                            "mlp reconstruction error",
                            "lorsa error",
                            "embedding",
                            "logit",
                            "bias",
                            "unknown",
                        ]
                    },
                    "token_prob": {"type": "number"},
                    "is_target_logit": {"type": "boolean"},
                    "run_idx": {"type": "integer"},
                    "reverse_ctx_idx": {"type": "integer"},
                    "jsNodeId": {"type": "string"},
                    "clerp": {"type": "string"},
                    "influence": {"type": ["number", "null"], "minimum": 0, "maximum": 1 + 1e-9},
                    "activation": {"type": ["number", "null"]},
                },
            },
        },
        "links": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["source", "target", "weight"],
                "properties": {
                    "source": {"type": "string"},
                    "target": {"type": "string"},
                    "weight": {"type": "number"},
                },
            },
        },
    },
}
"""As Neuronpedia describes its files (`apps/webapp/app/api/graph/graph-schema.json`, and its types), in our words."""
