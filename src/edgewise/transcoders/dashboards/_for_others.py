"""Dashboards as the files of other tools: those that SAEDashboard writes for Neuronpedia, and the feature details that
circuit-tracer's viewer reads.
"""

import gzip
import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from edgewise._errors import InputError
from edgewise.runs import atomic_path, write_atomically
from edgewise.transcoders.dashboards._examples import Example, quantile_bins, top_examples
from edgewise.transcoders.dashboards._feature_set import FeatureSet
from edgewise.transcoders.dashboards._seen import bin_edges
from edgewise.transcoders.dashboards._weights import N_LOGIT_BINS, Ranked

_BATCH = 512  # features of one file
_INDEX = "index.json.gz"


def write_neuronpedia(found: FeatureSet, folder: str | Path) -> tuple[Path, ...]:
    """Write a set's dashboards in the JSON that SAEDashboard writes for Neuronpedia: `FOLDER/12/batch-0.json`, …, of
    layer 12. What SAEDashboard measures and we do not (neurons, correlations) is left empty.

    Raises:
        InputError: a file cannot be written.
    """
    paths = list[Path]()
    for number, start in enumerate(range(0, found.transcoder.n_features, _BATCH)):
        features = range(start, min(start + _BATCH, found.transcoder.n_features))
        batch = {
            "model_id": str(found.conditions["model"]["id"]),
            "layer": found.layer,
            "sae_set": found.name,
            "features": [_neuronpedia(found, each) for each in features],
        }
        paths.append(Path(folder) / str(found.layer) / f"batch-{number}.json")
        write_atomically(paths[-1], _json(batch))
    return tuple(paths)


def _neuronpedia(found: FeatureSet, feature: int) -> dict[str, Any]:
    seen, weights = found.seen, found.weights
    promoted, suppressed = (_listed(found, each, feature) for each in (weights.promoted, weights.suppressed))
    values, heights = _histogram(found, feature)
    low, high = weights.logit_range[feature].tolist()
    step = (high - low) / N_LOGIT_BINS
    groups = [(0.0, 0.0, 0.0, top_examples(seen, feature, found.config, found.rows.ids.shape[1]))]
    groups += [(each.low, each.high, each.share, each.examples) for each in quantile_bins(seen, feature, found.config)]
    empty = {f"{name}_{column}": [] for name, columns in _NOT_MEASURED.items() for column in columns}
    return {
        "feature_index": feature,
        **empty,
        "neg_str": suppressed[0],
        "neg_values": suppressed[1],
        "pos_str": promoted[0],
        "pos_values": promoted[1],
        "frac_nonzero": float(seen.density[feature]),
        "freq_hist_data_bar_values": values,
        "freq_hist_data_bar_heights": heights,
        "logits_hist_data_bar_values": [low + (i + 0.5) * step for i in range(N_LOGIT_BINS)],
        "logits_hist_data_bar_heights": weights.logits[feature].tolist(),
        "n_prompts_total": len(found.rows),
        "n_tokens_in_prompt": found.rows.ids.shape[1],
        "dataset": ", ".join(found.rows.source.get("text", [])),
        "decoder_weights_dist": [],
        "activations": [
            {
                "bin_min": low,
                "bin_max": high,
                "bin_contains": share,
                **_tokens(found, each, "values"),
                "qualifying_token_index": _place(found, each),
            }
            for low, high, share, examples in groups
            for each in examples
        ],
    }


_NOT_MEASURED = {
    "neuron_alignment": ("indices", "values", "l1"),
    "correlated_neurons": ("indices", "pearson", "l1"),
    "correlated_features": ("indices", "pearson", "l1"),
}


def write_feature_details(sets: Sequence[FeatureSet], folder: str | Path) -> Path:
    """Write the details of features that circuit-tracer's viewer reads: `FOLDER/index.json.gz`, and for each layer
    `layer_12.bin` with one compressed record for each feature.

    Returns:
        The index, which is written last.

    Raises:
        InputError: two sets are of one layer, or a file cannot be written.
    """
    index = dict[str, Any]()
    for found in sets:
        if str(found.layer) in index:
            raise InputError(f"layer {found.layer}: two transcoders read it; write each to a folder of its own")
        name, offsets = f"layer_{found.layer}.bin", [0]
        with atomic_path(Path(folder) / name) as temporary, open(temporary, "wb") as file:
            for record in _details(found):
                file.write(struct.pack("<I", len(record)) + record)
                offsets.append(file.tell())
        index[str(found.layer)] = {"filename": name, "offsets": offsets}
    path = Path(folder) / _INDEX
    write_atomically(path, gzip.compress(_json(index).encode(), mtime=0))
    return path


def _details(found: FeatureSet) -> Iterator[bytes]:
    for feature in range(found.transcoder.n_features):
        yield gzip.compress(_json(_detail(found, feature)).encode(), mtime=0)


def _detail(found: FeatureSet, feature: int) -> dict[str, Any]:
    seen, weights, config = found.seen, found.weights, found.config
    groups = [("Top activations", top_examples(seen, feature, config, found.rows.ids.shape[1]))]
    bins = quantile_bins(seen, feature, config)
    groups += [(f"Quantile {i + 1} of {len(bins)}", each.examples) for i, each in enumerate(bins)]
    return {
        "transcoder_id": found.name,
        "index": feature,
        "examples_quantiles": [
            {
                "quantile_name": name,
                "examples": [
                    {
                        **_tokens(found, each, "tokens_acts_list"),
                        "train_token_ind": _place(found, each),
                        "is_repeated_datapoint": False,
                    }
                    for each in examples
                ],
            }
            for name, examples in groups
            if examples
        ],
        "top_logits": _listed(found, weights.promoted, feature)[0],
        "bottom_logits": _listed(found, weights.suppressed, feature)[0],
        "act_min": 0.0,
        "act_max": max(float(seen.top.value[feature, 0]), 1e-6),
        "quantile_values": [each.low for each in bins],
        "histogram": _histogram(found, feature)[1],
        "activation_frequency": float(seen.density[feature]),
    }


def _listed(found: FeatureSet, ranked: Ranked, feature: int) -> tuple[list[str], list[float]]:
    return [found.texts.shown(each) for each in ranked.token[feature].tolist()], ranked.weight[feature].tolist()


def _histogram(found: FeatureSet, feature: int) -> tuple[list[float], list[int]]:
    """The bins from the first to the last in which an activation lies: their middles, and how many do."""
    counts = found.seen.histogram[feature]
    inside = counts.nonzero().flatten()
    if not len(inside):
        return [], []
    kept, edges = slice(int(inside[0]), int(inside[-1]) + 1), bin_edges()
    return ((edges[:-1] + edges[1:]) / 2)[kept].tolist(), counts[kept].tolist()


def _within(found: FeatureSet, each: Example) -> tuple[int, int]:
    """Where an example's context begins and ends in the text: within its row."""
    n = found.rows.ids.shape[1]
    row = each.token // n * n
    return max(row, each.token - found.config.before), min(row + n, each.token + found.config.after + 1)


def _place(found: FeatureSet, each: Example) -> int:
    return each.token - _within(found, each)[0]


def _tokens(found: FeatureSet, each: Example, values: str) -> dict[str, Any]:
    start, end = _within(found, each)
    ids = found.rows.ids.flatten()[start:end]
    first = start - (each.token - found.config.before)
    numbers = torch.tensor(each.window)[first : first + end - start]
    numbers[each.token - start] = each.value  # the window's are rounded
    return {
        "tokens": [found.texts.shown(token) for token in ids.tolist()],
        values: [float(f"{x:.4g}") for x in numbers.tolist()],
    }


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
