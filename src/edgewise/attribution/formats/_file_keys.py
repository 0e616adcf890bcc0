"""What is read of each key of the files of graphs, and what is not; docs/foreign-files.md shows it."""

from edgewise.runs import Keys

TOP = Keys(
    "Graph JSON (Neuronpedia, circuit-tracer, Anthropic)",
    honoured={
        "metadata": "see the next table",
        "qParams": "`supernodes` and `pinnedIds` are kept, and written again",
        "nodes": "see below",
        "links": "see below",
    },
)
METADATA = Keys(
    "Graph JSON: `metadata`",
    honoured={
        "prompt_tokens": "the tokens",
        "schema_version": "present: features are numbered by Cantor's pairing",
        "scan": "where it says neurons, nodes are neurons; kept",
        "slug": "kept",
        "prompt": "kept",
        "transcoder_list": "kept",
        "edgewise": "what this library wrote beside",
    },
    irrelevant={
        "how it was made; what is read is what stands in the file": (
            *("info", "generation_settings", "pruning_settings", "node_threshold", "edge_threshold"),
        ),
        "for people": ("title_prefix", "title", "description", "url", "creator_name", "creator_url", "create_time_ms"),
    },
)
NODE = Keys(
    "Graph JSON: a node",
    honoured={
        "node_id": "its name, and its number where `feature` does not say it",
        "feature_type": "its kind; attention features (`lorsa`) and unknown kinds are refused",
        "feature": "its number",
        "layer": "its layer",
        "ctx_idx": "its position",
        "activation": "its value; absent: what its edges add up to",
        "token_prob": "of a logit, its probability; absent: what its label says (`(p=0.4)`), or 1, which is warned of "
        "where there are several",
        "clerp": "its label; of a logit its token",
    },
    irrelevant={
        "for a page": (
            "jsNodeId",
            "run_idx",
            "reverse_ctx_idx",
            "streamIdx",
            "nodeId",
            "nodeColor",
            "pos",
            "is_pinned",
        ),
        "computed again from the edges": ("influence", "is_target_logit", "logitPct", "inputError", "sourceLinks"),
        "contributors to queries and keys; the viewer shows them": ("qk_tracing_results",),
        "labels and examples of a feature": ("ppClerp", "localClerp", "remoteClerp", "featureIndex", "feature_details"),
    },
)
LINK = Keys(
    "Graph JSON: a link",
    honoured={"source": "the source", "target": "the target", "weight": "the edge's weight; links of one pair add up"},
    irrelevant={
        "computed from the weights": (*("absWeight", "pctInput", "pctInputColor", "color", "strokeWidth", "pathStr"),)
    },
)
TRACER = Keys(
    "circuit-tracer: a graph's `.pt`",
    honoured={
        "adjacency_matrix": "the edges",
        "active_features": "the features' layers, positions and numbers",
        "selected_features": "which of them are nodes",
        "activation_values": "their values",
        "input_tokens": "the tokens",
        "logit_targets": "the logits' tokens and texts",
        "logit_tokens": "the same, in older files",
        "logit_probabilities": "their probabilities",
        "vocab_size": "which logits are tokens",
        "scan": "kept",
        "scan_name": "kept, in newer files",
        "input_string": "kept, as the prompt",
        "cfg": "the model's name, kept",
    },
    irrelevant={"not needed to read the graph": ("n_layers", "n_pos", "dtype")},
)
