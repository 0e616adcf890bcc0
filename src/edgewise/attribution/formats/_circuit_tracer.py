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
from edgewise.attribution._attribution_graph import AttributionGraph
from edgewise.attribution._graph import BIASES, KINDS, Kind, NodeTable, concatenated
from edgewise.attribution.formats._file_keys import TRACER
from edgewise.attribution.formats._foreign import VIRTUAL, Found, assembled, root_tokens
from edgewise.models import Model
from edgewise.runs import atomic_path, read_pickle
from edgewise.transcoders import TokenTexts

MOST_BYTES = 2 << 30
"""The largest matrix that is written or read: 23,170 nodes."""
_MOST = 1 << 31  # tokens and features have numbers below it
_TARGETS, _MAPPING = "circuit_tracer.attribution.targets", "circuit_tracer.utils.tl_nnsight_mapping"
_OLD_CONFIG = "transformer_lens.HookedTransformerConfig.HookedTransformerConfig"
_TENSORS = {
    "active_features": (2, False),
    "selected_features": (1, False),
    "activation_values": (1, True),
    "input_tokens": (1, False),
    "logit_probabilities": (1, True),
    "adjacency_matrix": (2, True),
}
"""Each tensor of a file, how many axes it has, and whether its numbers are real or whole."""


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
    found = _opened(path)
    nodes = _nodes(found)
    texts, numbers = _logit_tokens(path, found)
    text = TokenTexts(tokenizer).shown
    tokens = tuple(text(i) for i in found.ids.tolist())
    names = tuple(name or text(i) for name, i in zip(texts, numbers, strict=True))
    targets, sources, weight = _edges(found.matrix)
    graph = Found(nodes, targets, sources, weight, found.ids, tokens, names, found.probabilities.float())
    vocabulary = found.rest.get("vocab_size")
    known = [i if not isinstance(vocabulary, int) or i < vocabulary else -1 for i in numbers]
    provenance = {"format": "circuit-tracer", **_said(found.rest)}
    return assembled(path, graph, {"nodes": "features", "root_tokens": known}, provenance)


class _Opened(NamedTuple):
    """A file's content, whose sizes fit."""

    features: Tensor
    """Of the selected features, layer, position and number."""
    values: Tensor
    """Their activations."""
    ids: Tensor
    probabilities: Tensor
    matrix: Tensor
    n_layers: int
    rest: dict[str, Any]


def _opened(path: Path) -> _Opened:
    allowed = [(LogitTarget, f"{_TARGETS}.LogitTarget"), (_Settings, f"{_MAPPING}.UnifiedConfig")]
    content = read_pickle(path, [*allowed, (_Settings, _OLD_CONFIG)])
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; a graph of circuit-tracer is a dictionary")
    TRACER.check(path, content)
    active, selected, values, ids, probabilities, matrix = (
        _tensor(path, content.get(name), name, *which) for name, which in _TENSORS.items()
    )
    errors = len(matrix) - len(selected) - len(ids) - len(probabilities)
    if matrix.shape[0] != matrix.shape[1] or not len(ids) or not len(probabilities) or errors < 0 or errors % len(ids):
        sizes = f"{len(selected)} features, {len(ids)} tokens and {len(probabilities)} logits"
        raise InputError(f"{path}: its matrix is {list(matrix.shape)}, which fits no number of layers, with {sizes}")
    selected, n_layers = selected.long(), errors // len(ids)
    if len(values) != len(active) or not _all_within(selected[:, None], (len(active),)):
        raise InputError(f"{path}: its selected features or activations do not fit its active features")
    features = active[selected].long()
    if not _all_within(features, (n_layers, len(ids), _MOST)) or not _all_within(ids[:, None], (_MOST,)):
        raise InputError(f"{path}: a feature is of no layer or position of the prompt, or a token has no number")
    if not bool(probabilities.isfinite().all()):
        raise InputError(f"{path}: a logit's probability is not finite; write the file again")
    return _Opened(features, values[selected].double(), ids.long(), probabilities, matrix, n_layers, content)


def _all_within(numbers: Tensor, limits: tuple[int, ...]) -> bool:
    """Whether each column's numbers are at least 0 and below its limit."""
    return numbers.shape[1] == len(limits) and bool(((numbers >= 0) & (numbers < torch.tensor(limits))).all())


def _said(content: dict[str, Any]) -> dict[str, Any]:
    """Where the graph comes from, as far as the file says it."""
    scan, config = content.get("scan_name", content.get("scan")), content.get("cfg")
    model = vars(config).get("model_name") if isinstance(config, _Settings) else None
    of_layers = isinstance(scan, list) and all(isinstance(each, str) for each in scan)
    said = {
        "scan": scan if isinstance(scan, str) else None,
        "transcoder_list": scan if of_layers else None,
        "prompt": content.get("input_string") if isinstance(content.get("input_string"), str) else None,
        "model": {"id": model} if isinstance(model, str) else None,
    }
    return {name: value for name, value in said.items() if value is not None}


def _tensor(path: Path, found: Any, name: str, n_axes: int, real: bool) -> Tensor:
    numbers = "real" if real else "whole"
    if not isinstance(found, Tensor) or found.ndim != n_axes or _of_numbers(found) != numbers:
        what = f"no {name} of {n_axes} axes and {numbers} numbers"
        raise InputError(f"{path}: it has {what}; a graph of circuit-tracer has")
    if found.numel() * found.element_size() > MOST_BYTES:
        limit = f"more than the {MOST_BYTES >> 30} GiB that are read"
        raise InputError(f"{path}: {name} is {list(found.shape)}, {limit}; prune it")
    return found


def _of_numbers(tensor: Tensor) -> str:
    """Whether its numbers are real, whole, or neither."""
    if tensor.is_floating_point():
        return "real"
    return "neither" if tensor.is_complex() or tensor.dtype == torch.bool else "whole"


def _nodes(found: _Opened) -> NodeTable:
    """In circuit-tracer's order."""

    def table(kind: Kind, layer: Tensor, position: Tensor, index: Tensor, value: Tensor | None = None) -> NodeTable:
        value = torch.full((len(layer),), torch.nan, dtype=torch.float64) if value is None else value
        return NodeTable(torch.full_like(layer, KINDS.index(kind)), layer, position, index, value)

    n_tokens, n_layers = len(found.ids), found.n_layers
    positions, roots = torch.arange(n_tokens), torch.arange(len(found.probabilities))
    layers = torch.arange(n_layers).repeat_interleave(n_tokens)
    return concatenated(
        [
            table("feature", found.features[:, 0], found.features[:, 1], found.features[:, 2], found.values),
            table("error", layers, positions.repeat(n_layers), torch.full_like(layers, -1)),
            table("token", torch.full_like(positions, -1), positions, found.ids),
            table("root", torch.full_like(roots, n_layers), torch.full_like(roots, n_tokens - 1), roots),
        ]
    )


def _edges(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Targets, sources and weights, a thousand rows at a time."""
    places = [rows.nonzero() + torch.tensor([i * 1000, 0]) for i, rows in enumerate(matrix.split(1000))]
    targets, sources = torch.cat(places).unbind(1)
    return targets, sources, matrix[targets, sources]


def _logit_tokens(path: Path, found: _Opened) -> tuple[list[str], list[int]]:
    """The roots' texts, empty where the file has none, and numbers."""
    given, n_roots = found.rest.get("logit_targets", found.rest.get("logit_tokens")), len(found.probabilities)
    if isinstance(given, Tensor) and _of_numbers(given) == "whole":
        texts, numbers = [""] * given.numel(), given.flatten().tolist()
    elif isinstance(given, list) and all(isinstance(each, tuple) and len(each) == 2 for each in given):
        texts, numbers = [str(text) for text, _ in given], [number for _, number in given]
    else:
        texts, numbers = [], [None]
    if not all(type(number) is int and 0 <= number < _MOST for number in numbers):
        raise InputError(f"{path}: it has no logit_targets or logit_tokens; a graph of circuit-tracer has")
    if len(numbers) != n_roots:
        raise InputError(f"{path}: {len(numbers)} logit targets with {n_roots} probabilities")
    return texts, [number for number in numbers if number is not None]


def write(graph: AttributionGraph, path: Path, scan: str | None = None, model: Model | None = None) -> list[str]:
    """Write a graph that circuit-tracer opens.

    Args:
        graph: the graph.
        path: the file.
        scan: the name of the transcoders.
        model: the model, which the file describes; None: as unknown.

    Returns:
        What the format has no place for and was left out or moved, a line each.

    Raises:
        InputError: its matrix would be larger than `MOST_BYTES`, or its prompt has no tokens.
    """
    if bool((graph.ids < 0).any()):
        raise InputError(
            f"{path}: the graph lacks numbers of its tokens, as a mean over prompts does, or a file without them; "
            "write .json"
        )
    nodes, n_layers = graph.nodes, graph.n_layers
    inner = nodes.is_kind("neuron", "feature").nonzero()[:, 0]
    size = len(inner) + (n_layers + 1) * len(graph.tokens) + len(graph.roots)
    if size * size * 4 > MOST_BYTES:
        limit = f"{MOST_BYTES >> 30} GiB"
        raise InputError(f"{path}: a dense matrix of {size:,} nodes is more than {limit}; prune, or write .json")
    place = _places(graph, inner)
    matrix = torch.zeros(size, size, dtype=torch.float32)
    stays = place[graph.sources] >= 0
    matrix[place[graph.edge_targets[stays]], place[graph.sources[stays]]] = graph.weight[stays].float()
    vocabulary = VIRTUAL if model is None else int(getattr(model.module.config, "vocab_size", VIRTUAL))
    tokens = [vocabulary + i if token >= VIRTUAL else token for i, token in enumerate(root_tokens(graph))]
    scan = scan or graph.provenance.get("scan") or graph.provenance.get("transcoder_list")
    with _their_classes() as (target_class, settings_class), atomic_path(path) as temporary:
        settings: Any = object.__new__(settings_class)  # theirs asks for all its fields, which follow
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
    moved = int((nodes.is_kind("root") & (nodes.position < len(graph.tokens) - 1)).sum())
    return [
        f"{int(which.sum())} {what} and their edges are left out: circuit-tracer has no such nodes"
        for what, which in left.items()
        if bool(which.any())
    ] + [f"{moved} of what is explained stands before the last token, where circuit-tracer has all of it"] * (moved > 0)


def _places(graph: AttributionGraph, inner: Tensor) -> Tensor:
    """Where each node stands in circuit-tracer's order; −1 for those it has not."""
    nodes, n_tokens = graph.nodes, len(graph.tokens)
    place = torch.full((graph.n_nodes,), -1)
    place[inner] = torch.arange(len(inner))
    offsets: dict[Kind, Tensor] = {
        "error": nodes.layer * n_tokens + nodes.position,
        "token": graph.n_layers * n_tokens + nodes.position,
        "root": (graph.n_layers + 1) * n_tokens + nodes.index,
    }
    for kind, offset in offsets.items():
        place = torch.where(nodes.is_kind(kind), len(inner) + offset, place)
    return place


def _settings(graph: AttributionGraph, n_layers: int, vocabulary: int, model: Model | None) -> dict[str, Any]:
    """What circuit-tracer asks of a model's configuration; 0 where it is not known."""
    known = graph.provenance.get("model")
    name = str(known.get("id", "")) if isinstance(known, dict) else ""
    sizes: dict[str, int] = dict.fromkeys(("d_model", "d_head", "n_heads", "d_mlp"), 0)
    if model is not None:
        parts, hidden = model.parts, getattr(model.module.config, "intermediate_size", None)
        width = parts.stored[0].attention.output_weight.shape[1]  # (H, v, D)
        sizes = {"d_model": parts.d_model, "d_head": width, "n_heads": parts.n_heads, "d_mlp": int(hidden or 0)}
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
    sys.modules[_TARGETS].LogitTarget, sys.modules[_MAPPING].UnifiedConfig = target, settings  # pyright: ignore (made here)
    try:
        yield target, settings
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
