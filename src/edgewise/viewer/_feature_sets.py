"""Dashboards of a transcoder's features as a page carries them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from edgewise.transcoders import FeatureSet, trained_on
from edgewise.transcoders.analysis import VirtualWeights
from edgewise.transcoders.dashboards import Others, Ranked, Shares, bin_edges, quantile_bins, top_examples
from edgewise.viewer._pack import Packer

_LEVELS = 255  # of a context's activations, of the feature's largest


class ShownSet(NamedTuple):
    """A feature set as a page shows it."""

    found: FeatureSet
    labels: Mapping[str, str] = {}
    """By a feature's name, such as `m12.f410`."""
    files: Mapping[int, str] = {}
    """The pages of other layers' sets, which lie beside it."""


def pack_sets(shown: Sequence[ShownSet], packer: Packer) -> dict[str, Any]:
    """What the header says of feature sets."""
    return {"features": [_pack_set(each, f"features{number}", packer) for number, each in enumerate(shown)]}


def _pack_set(shown: ShownSet, prefix: str, packer: Packer) -> dict[str, Any]:
    found = shown.found
    words = _Words(found)

    def add(name: str, values: Any, kind: str) -> None:
        packer.add(f"{prefix}/{name}", np.asarray(values), kind)

    seen, weights = found.seen, found.weights
    add("on", seen.on, "u4")
    add("max", seen.top.value[:, 0], "f4")
    add("mean", seen.sum / seen.on.clamp(min=1), "f4")
    add("bias", weights.bias, "f4")
    add("positions", seen.positions, "u4")
    inside = seen.histogram.sum(0).nonzero().flatten()
    first, last = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 1)
    add("histogram", seen.histogram[:, first:last], "u4")
    add("edges", bin_edges()[first : last + 1], "f8")
    add("logits", weights.logits, "u4")
    add("logit_range", weights.logit_range, "f4")
    for name in ("raising", "lowering", "promoted", "suppressed"):
        _ranked(add, name, getattr(weights, name), words)
    for name in ("fires_on", "before"):
        _shares(add, name, getattr(found, name), words, found.config.listed)
    _others(add, "upstream", weights.upstream)
    _others(add, "downstream", weights.downstream)
    _heads(add, found, words)
    for name in ("inputs", "outputs"):
        table: VirtualWeights | None = getattr(found, name)
        if table is not None:
            _virtual(add, name, table)
    _examples(add, found, words)
    packer.add_json(f"{prefix}/texts", words.texts())
    return {
        "arrays": prefix,
        "name": found.name,
        "layer": found.layer,
        "n": found.transcoder.n_features,
        "tokens": seen.n_tokens,
        "context": int(found.rows.ids.shape[1]),
        "window": found.config.window,
        "listed": found.config.listed,
        "attention": int(weights.lengths.shape[1]),
        "virtual": [name for name in ("inputs", "outputs") if getattr(found, name) is not None],
        "labels": list(shown.labels.items()),
        "files": {str(layer): file for layer, file in shown.files.items() if layer != found.layer},
        "about": list(_about(found)),
    }


def _about(found: FeatureSet) -> Iterable[tuple[str, str]]:
    spec, conditions = found.transcoder.spec, found.conditions
    text = conditions.get("text", {})
    yield "reads", str(spec.reads)
    yield "writes", ", ".join(map(str, spec.writes))
    yield "features", f"{spec.n_features:,}, {spec.activation}"
    if trained := trained_on(found.transcoder):
        yield "trained on", trained
    yield "model", str(conditions.get("model", {}).get("id", ""))
    yield "text", ", ".join(text.get("text", []))
    yield "tokens", f"{found.seen.n_tokens:,} that count, in rows of {found.rows.ids.shape[1]}"
    yield "left out", "special tokens and each row's first" if conditions.get("exclude_special") else "none"
    yield "sample", f"{found.config.sample} tokens of each feature, drawn at random of all at which it is on"
    connected = conditions.get("connections", {})
    if connected:
        yield "TWERA and ERA", f"over {connected['tokens']:,} tokens of {', '.join(connected['text'].get('text', []))}"
    for name, version in conditions.get("software", {}).items():
        yield name, str(version)


class _Words:
    """The tokens that a page shows, numbered as they come."""

    def __init__(self, found: FeatureSet) -> None:
        self.found, self.ids = found, list[np.ndarray]()
        vocabulary = int(found.rows.ids.max()) + 1
        for ranked in _all_ranked(found):
            vocabulary = max(vocabulary, int(ranked.token.max()) + 1)
        self.place = np.full(vocabulary, -1, dtype=np.int64)
        self.used = list[int]()

    def __call__(self, tokens: Any) -> np.ndarray:
        """Tokens as places in the list of texts."""
        tokens = np.asarray(tokens)
        new = np.unique(tokens)
        new = new[self.place[new] < 0]
        self.place[new] = np.arange(len(self.used), len(self.used) + len(new))
        self.used += new.tolist()
        return self.place[tokens]

    def texts(self) -> list[Any]:
        """The text of each, or its bytes where they are no whole characters."""
        found = (self.found.texts[token] for token in self.used)
        return [each if isinstance(each, str) else list(each) for each in found]


def _all_ranked(found: FeatureSet) -> list[Ranked]:
    weights = found.weights
    return [weights.raising, weights.lowering, weights.promoted, weights.suppressed, *weights.heads.tokens]


def _ranked(add: Any, name: str, ranked: Ranked, words: _Words) -> None:
    add(f"{name}/token", words(ranked.token), "u4")
    add(f"{name}/weight", ranked.weight, "f4")


def _shares(add: Any, name: str, shares: Sequence[Shares], words: _Words, most: int) -> None:
    token, share = np.zeros((len(shares), most), dtype=np.int64), np.zeros((len(shares), most))
    for place, each in enumerate(shares):
        token[place, : len(each.token)], share[place, : len(each.share)] = each
    add(f"{name}/token", np.where(share > 0, words(token), 0), "u4")
    add(f"{name}/weight", share, "f4")


def _others(add: Any, name: str, others: Others) -> None:
    add(f"{name}/layer", others.layer, "i2")
    add(f"{name}/feature", others.feature, "i4")
    add(f"{name}/weight", others.weight, "f4")


def _virtual(add: Any, name: str, table: VirtualWeights) -> None:
    add(f"{name}/layer", table.layer, "i2")
    add(f"{name}/feature", table.feature, "i4")
    for column in ("weight", "era", "twera"):
        add(f"{name}/{column}", getattr(table, column), "f4")


def _heads(add: Any, found: FeatureSet, words: _Words) -> None:
    weights = found.weights
    largest = weights.lengths.flatten(1).max(1).values if weights.lengths[0].numel() else torch.zeros(len(weights.bias))
    scale = largest.clamp(min=1e-30)[:, None, None]
    add("lengths", (weights.lengths / scale * _LEVELS).round(), "u1")
    add("longest", largest, "f4")
    add("heads/layer", weights.heads.layer, "i2")
    add("heads/head", weights.heads.head, "i2")
    for place, (tokens, features) in enumerate(zip(weights.heads.tokens, weights.heads.features, strict=True)):
        _ranked(add, f"heads{place}/tokens", tokens, words)
        _others(add, f"heads{place}/features", features)


def _examples(add: Any, found: FeatureSet, words: _Words) -> None:
    """Examples feature after feature: the largest, then bin after bin; and all tokens of their contexts, once."""
    config, n = found.config, int(found.rows.ids.shape[1])
    rows, counts, bins = list[tuple[int, int, float]](), list[int](), list[list[tuple[float, float, float]]]()
    windows = list[tuple[float, ...]]()
    for feature in range(found.transcoder.n_features):
        before = len(rows)
        own = quantile_bins(found.seen, feature, config)
        groups = [(0, top_examples(found.seen, feature, config, n)), *((i + 1, b.examples) for i, b in enumerate(own))]
        for group, examples in groups:
            rows += [(group, each.token, each.value) for each in examples]
            windows += [each.window for each in examples]
        counts.append(len(rows) - before)
        bins.append([(each.low, each.high, each.share) for each in own])
    group, token, value = (np.array(column) for column in zip(*rows, strict=True)) if rows else (np.zeros(0),) * 3
    token = token.astype(np.int64)
    row = token // n * n
    start, end = np.maximum(row, token - config.before), np.minimum(row + n, token + config.after + 1)
    covered = np.zeros(found.rows.n_tokens + 1, dtype=np.int32)
    np.add.at(covered, start, 1)
    np.add.at(covered, end, -1)
    used = covered.cumsum(dtype=np.int32)[:-1] > 0
    place = used.cumsum(dtype=np.int32) - 1  # of each token among those that are used
    shown = words(found.rows.ids.flatten().numpy()[used])
    add("tokens", shown, "u4" if len(words.used) > 1 << 16 else "u2")
    add("example/offsets", np.concatenate([[0], np.cumsum(counts)]), "u4")
    add("example/group", group, "u1")
    add("example/start", place[start], "u4")
    add("example/length", end - start, "u1")
    add("example/at", token - start, "u1")
    add("example/value", value, "f4")
    add("example/window", _levels(windows, start - (token - config.before), counts, found), "u1")
    most = max(map(len, bins), default=0)
    ends = np.zeros((len(bins), most, 3))
    for feature, own in enumerate(bins):
        ends[feature, : len(own)] = np.array(own).reshape(-1, 3)
    add("bins/count", [len(own) for own in bins], "u1")
    add("bins/ends", ends, "f4")


def _levels(windows: list[tuple[float, ...]], cut: np.ndarray, counts: list[int], found: FeatureSet) -> np.ndarray:
    """Contexts' activations from 0 to 255 of the feature's largest, moved so that the first token shown comes first."""
    width = found.config.window
    values = np.array(windows, dtype=np.float32).reshape(-1, width)
    largest = np.repeat(np.maximum(found.seen.top.value[:, 0].numpy(), 1e-30), counts)
    levels = np.ceil(values / largest[:, None] * _LEVELS).clip(0, _LEVELS)
    places = np.arange(width) + cut[:, None]
    return np.where(places < width, np.take_along_axis(levels, np.minimum(places, width - 1), 1), 0)
