"""The `.pt` of circuit-tracer: a dictionary with the dense matrix of all edges, targets by sources.

Nodes stand in the order features, errors (layer by layer), tokens, roots. `selected_features` are rows of
`active_features`; `activation_values` go with the active features, not with the selected ones. There are no biases and
no learned positions: they are left out when a graph is written.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._graph import BIASES, KINDS, AttributionGraph, NodeTable, concatenated
from edgewise.attribution.formats._foreign import VIRTUAL, Found, assembled, root_tokens
from edgewise.models import Model
from edgewise.runs import atomic_path
from edgewise.transcoders.formats import unpickled

MOST_BYTES = 2 << 30
"""The largest matrix that is written or read: 23,170 nodes."""
_TARGETS, _MAPPING = "circuit_tracer.attribution.targets", "circuit_tracer.utils.tl_nnsight_mapping"
_OLD_CONFIG = "transformer_lens.HookedTransformerConfig.HookedTransformerConfig"


class LogitTarget(NamedTuple):
    """Stands for circuit-tracer's class of this name."""

    token_str: str
    vocab_idx: int


class _Settings:
    """Stands for the model's configuration: a bag of attributes."""


def read(path: Path, tokenizer: Any = None) -> AttributionGraph:
    """Read a graph. Nothing is unpickled but tensors, plain values and three classes, as plain attributes.

    Args:
        path: the file.
        tokenizer: gives the tokens' texts, which the file has not; without it they are numbers.

    Raises:
        InputError: the file is no graph of circuit-tracer, or larger than is read.
    """
    allowed = [(LogitTarget, f"{_TARGETS}.LogitTarget")]
    allowed += [(_Settings, name) for name in (f"{_MAPPING}.UnifiedConfig", _OLD_CONFIG)]
    content = unpickled(path, allowed)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; a graph of circuit-tracer is a dictionary")
    features, selected, values = (
        _tensor(path, content, name, n)
        for name, n in (("active_features", 2), ("selected_features", 1), ("activation_values", 1))
    )
    ids, weights = _tensor(path, content, "input_tokens", 1).long(), _tensor(path, content, "logit_probabilities", 1)
    matrix = _tensor(path, content, "adjacency_matrix", 2)
    n_features, n_tokens, n_roots = len(selected), len(ids), len(weights)
    errors = len(matrix) - n_features - n_tokens - n_roots
    if matrix.shape[0] != matrix.shape[1] or not n_tokens or not n_roots or errors < 0 or errors % n_tokens:
        sizes = f"{n_features} features, {n_tokens} tokens and {n_roots} logits"
        raise InputError(f"{path}: its matrix is {list(matrix.shape)}, which fits no number of layers, with {sizes}")
    if (
        len(values) != len(features)
        or features.shape[1] != 3
        or (n_features and not 0 <= int(selected.min()) <= int(selected.max()) < len(features))
    ):
        raise InputError(f"{path}: its selected features or activations do not fit its active features")
    n_layers = errors // n_tokens
    chosen = features[selected.long()].long()
    nodes = _nodes(chosen, values[selected.long()].double(), ids, n_layers, n_roots)
    if n_features and not bool(((chosen >= 0) & (chosen < torch.tensor([n_layers, n_tokens, 1 << 31]))).all()):
        raise InputError(f"{path}: a feature is of no layer or position of the prompt")
    targets, sources, edges = _edges(matrix)
    tokens, known = _logit_tokens(path, content, n_roots)
    text = (lambda i: str(i)) if tokenizer is None else (lambda i: tokenizer.decode([i]))
    names = tuple(name or text(i) for name, i in zip(tokens, known, strict=True))
    found = Found(nodes, targets, sources, edges, ids, tuple(text(i) for i in ids.tolist()), names, weights.float())
    vocabulary = content.get("vocab_size")
    known = [i if not isinstance(vocabulary, int) or i < vocabulary else -1 for i in known]
    scan = content.get("scan_name", content.get("scan"))
    model = vars(content["cfg"]).get("model_name") if isinstance(content.get("cfg"), _Settings) else None
    said = {
        "scan": scan if isinstance(scan, str) else None,
        "transcoder_list": scan if isinstance(scan, list) else None,
    }
    said |= {"prompt": content.get("input_string"), "model": {"id": model} if isinstance(model, str) else None}
    provenance = {"format": "circuit-tracer", **{name: value for name, value in said.items() if value is not None}}
    return assembled(path, found, {"nodes": "features", "root_tokens": known}, provenance)


def _tensor(path: Path, content: dict[str, Any], name: str, n_axes: int) -> Tensor:
    found = content.get(name)
    if not isinstance(found, Tensor) or found.ndim != n_axes:
        raise InputError(f"{path}: it has no {name}, or not with {n_axes} axes; a graph of circuit-tracer has")
    if found.numel() * found.element_size() > MOST_BYTES:
        raise InputError(
            f"{path}: {name} is {list(found.shape)}, more than the {MOST_BYTES >> 30} GiB that are read; prune it"
        )
    return found


def _nodes(features: Tensor, values: Tensor, ids: Tensor, n_layers: int, n_roots: int) -> NodeTable:
    """In circuit-tracer's order."""

    def table(kind: str, layer: Tensor, position: Tensor, index: Tensor, value: Tensor | None = None) -> NodeTable:
        value = torch.full((len(layer),), torch.nan, dtype=torch.float64) if value is None else value
        return NodeTable(torch.full_like(layer, KINDS.index(kind)), layer, position, index, value)

    positions, roots = torch.arange(len(ids)), torch.arange(n_roots)
    error_layers = torch.arange(n_layers).repeat_interleave(len(ids))
    error_positions = positions.repeat(n_layers)
    return concatenated(
        [
            table("feature", features[:, 0], features[:, 1], features[:, 2], values),
            table("error", error_layers, error_positions, torch.full_like(error_layers, -1)),
            table("token", torch.full_like(positions, -1), positions, ids),
            table("root", torch.full_like(roots, n_layers), torch.full_like(roots, len(ids) - 1), roots),
        ]
    )


def _edges(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Targets, sources and weights, a thousand rows at a time."""
    places = [rows.nonzero() + torch.tensor([i * 1000, 0]) for i, rows in enumerate(matrix.split(1000))]
    targets, sources = torch.cat(places).unbind(1)
    return targets, sources, matrix[targets, sources]


def _logit_tokens(path: Path, content: dict[str, Any], n_roots: int) -> tuple[list[str], list[int]]:
    """The roots' texts, empty where the file has none, and numbers."""
    given = content.get("logit_targets", content.get("logit_tokens"))
    if isinstance(given, Tensor):
        texts, numbers = [""] * given.numel(), [int(each) for each in given.flatten().tolist()]
    elif isinstance(given, list) and all(isinstance(each, tuple) and len(each) == 2 for each in given):
        texts, numbers = [str(text) for text, _ in given], [int(number) for _, number in given]
    else:
        raise InputError(f"{path}: it has no logit_targets or logit_tokens; a graph of circuit-tracer has")
    if len(numbers) != n_roots:
        raise InputError(f"{path}: {len(numbers)} logit targets with {n_roots} probabilities")
    return texts, numbers


def write(graph: AttributionGraph, path: Path, scan: str | None = None, model: Model | None = None) -> list[str]:
    """Write a graph that circuit-tracer opens.

    Args:
        graph: the graph.
        path: the file.
        scan: the name of the transcoders.
        model: the model, which the file describes; None: as unknown.

    Returns:
        What the format has no place for and was left out, a line each.

    Raises:
        InputError: its matrix would be larger than `MOST_BYTES`.
    """
    nodes, n_layers, n_tokens = graph.nodes, graph.n_layers, len(graph.tokens)
    inner = nodes.is_kind("neuron", "feature").nonzero()[:, 0]
    n_roots = len(graph.roots)
    size = len(inner) + (n_layers + 1) * n_tokens + n_roots
    if size * size * 4 > MOST_BYTES:
        raise InputError(
            f"{path}: a dense matrix of {size:,} nodes is more than {MOST_BYTES >> 30} GiB; prune, or write .json"
        )
    place = torch.full((graph.n_nodes,), -1)  # of each node in circuit-tracer's order
    place[inner] = torch.arange(len(inner))
    first = len(inner)
    for kind, offset in (
        ("error", nodes.layer * n_tokens + nodes.position),
        ("token", n_layers * n_tokens + nodes.position),
        ("root", (n_layers + 1) * n_tokens + nodes.index),
    ):
        of_kind = nodes.is_kind(kind)
        place[of_kind] = first + offset[of_kind]
    matrix = torch.zeros(size, size)
    stays = place[graph.sources] >= 0
    matrix[place[graph.edge_targets[stays]], place[graph.sources[stays]]] = graph.weight[stays].float()
    vocabulary = VIRTUAL if model is None else int(model.module.config.vocab_size)
    tokens = [vocabulary + i if token >= VIRTUAL else token for i, token in enumerate(root_tokens(graph))]
    scan = scan or graph.provenance.get("scan") or graph.provenance.get("transcoder_list")
    with _their_classes() as (target_class, settings_class), atomic_path(path) as temporary:
        settings = settings_class()
        vars(settings).update(_settings(graph, n_layers, vocabulary, model))
        content = {
            "input_string": graph.provenance.get("prompt", "".join(graph.tokens)),
            "adjacency_matrix": matrix,
            "cfg": settings,
            "active_features": torch.stack([nodes.layer, nodes.position, nodes.index], 1)[inner],
            "logit_targets": [target_class(*each) for each in zip(graph.roots, tokens, strict=True)],
            "logit_probabilities": graph.root_weights.float(),
            "vocab_size": vocabulary,
            "input_tokens": graph.ids,
            "selected_features": torch.arange(len(inner)),
            "activation_values": nodes.value[inner].float(),
            "scan": scan,
        }
        torch.save(content, temporary)
    left = {"biases": nodes.is_kind(*BIASES), "learned positions": nodes.is_kind("position")}
    return [
        f"{int(which.sum())} {what} and their edges are left out: circuit-tracer has no such nodes"
        for what, which in left.items()
        if bool(which.any())
    ]


def _settings(graph: AttributionGraph, n_layers: int, vocabulary: int, model: Model | None) -> dict[str, Any]:
    """What circuit-tracer asks of a model's configuration; 0 where it is not known."""
    known = graph.provenance.get("model")
    name = str(known.get("id", "")) if isinstance(known, dict) else ""
    sizes = dict.fromkeys(("d_model", "d_head", "n_heads", "d_mlp"), 0)
    if model is not None:
        parts, config = model.parts, model.module.config
        heads = parts.layers[0].attention.output_weight  # (H, v, D)
        sizes = {"d_model": parts.d_model, "d_head": heads.shape[1], "n_heads": parts.n_heads}
        sizes["d_mlp"] = int(getattr(config, "intermediate_size", 0) or 0)
    architecture = "" if model is None else type(model.module).__name__
    return {
        "n_layers": n_layers,
        **sizes,
        "d_vocab": vocabulary,
        "tokenizer_name": name,
        "model_name": name,
        "original_architecture": architecture,
        "n_key_value_heads": None if model is None else model.parts.n_kv_heads,
        "dtype": torch.float32,
    }


@contextmanager
def _their_classes() -> Iterator[tuple[type, type]]:
    """circuit-tracer's classes, if they are loaded; else empty ones under their names, while a file is written."""
    names = {_TARGETS: "LogitTarget", _MAPPING: "UnifiedConfig"}
    if all(name in sys.modules for name in names):
        yield sys.modules[_TARGETS].LogitTarget, sys.modules[_MAPPING].UnifiedConfig
        return
    packages = [".".join(name.split(".")[:n]) for name in names for n in (1, 2)]
    before = {name: sys.modules.get(name) for name in (*packages, *names)}
    for name in before:
        sys.modules[name] = ModuleType(name)
    target = type("LogitTarget", (LogitTarget,), {"__module__": _TARGETS, "__slots__": ()})
    settings = type("UnifiedConfig", (), {"__module__": _MAPPING})
    sys.modules[_TARGETS].LogitTarget, sys.modules[_MAPPING].UnifiedConfig = target, settings  # pyright: ignore
    try:
        yield target, settings
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
