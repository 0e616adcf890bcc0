"""Feature dashboards that others made, in one short form: on which tokens a feature fires, and which it speaks for.

Two forms are read: a feature's details as Anthropic's, circuit-tracer's and Neuronpedia's viewers load them
(`examples_quantiles`, `top_logits`, `bottom_logits`), and what sae-dashboard writes for Neuronpedia (`activations`,
`pos_str`, `neg_str`). All texts stay texts.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgewise._errors import InputError
from edgewise.runs import is_finite

N_EXAMPLES, N_TOKENS, N_LOGITS = 8, 24, 10
"""What is kept of a dashboard: contexts, their tokens around the strongest, and tokens that it speaks for."""
LONGEST = 100
"""Characters of a token's text."""
_DIGITS = 100
"""Of a layer's, a feature's or a file's number."""
Dashboards = Mapping[tuple[int, int], dict[str, Any]]
"""By layer and feature."""


def read_dashboards(path: str | Path) -> Dashboards:
    """The dashboards of a folder or of one JSON file.

    A file `m12.f410.json`, or `410.json` in a folder `12`, is feature 410 of layer 12; any other file with a number for
    a name is of the feature whose layer and index that number pairs, as in circuit-tracer's folders. A file with a list
    `features`, as sae-dashboard writes it, lies in a folder that is named after its layer. One JSON file holds an
    object with names such as `m12.f410`.

    Raises:
        InputError: there is nothing of the kind, or a file is no dashboard.
    """
    path = Path(path)
    if path.is_file():
        content = _read(path)
        named = ((name, row) for name, row in content.items() if isinstance(row, dict))
        found = {key: _short(row) for name, row in named if (key := _by_name(name)) is not None}
    else:
        found = {key: _short(row) for file in sorted(path.rglob("*.json")) for key, row in _of_file(file)}
    if not found:
        raise InputError(f"{path}: no dashboards there; give a folder of files such as m12.f410.json or 12/410.json")
    return found


def dashboards_of(ids: Iterable[str], dashboards: Dashboards) -> dict[str, Any]:
    """Those of a graph's features, by their ids without a position: `m12.f410@7` of ours, `12_410_7` of other tools."""
    names = {name.partition("@")[0] if "@" in name else name.rpartition("_")[0] for name in ids}
    keys = ((name, _by_name(name) or _by_numbers(name)) for name in sorted(names))
    return {name: dashboards[key] for name, key in keys if key is not None and key in dashboards}


def _by_numbers(name: str) -> tuple[int, int] | None:
    """Layer and index of `12_410`."""
    layer, _, index = name.partition("_")
    return (int(layer), int(index)) if _is_number(layer) and _is_number(index) else None


def _of_file(path: Path) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    content, layer = _read(path), path.parent.name
    if isinstance(content.get("features"), list):
        if not layer.isdecimal():
            raise InputError(f"{path}: put it into a folder that is named after its features' layer, such as 12")
        rows = (row for row in content["features"] if isinstance(row, dict) and _is_number(row.get("feature_index")))
        yield from (((int(layer), int(row["feature_index"])), row) for row in rows)
    elif (key := _by_name(path.stem)) is not None:
        yield key, content
    elif path.stem.isdecimal():
        yield (int(layer), int(path.stem)) if layer.isdecimal() else _unpaired(int(path.stem)), content


def _is_number(value: Any) -> bool:
    """Whether it is digits; thousands of them are none that Python reads."""
    return str(value).isdecimal() and len(str(value)) <= _DIGITS


def _by_name(name: str) -> tuple[int, int] | None:
    """Layer and index of `m12.f410`."""
    layer, _, index = name.partition(".f")
    known = layer[:1] == "m" and _is_number(layer[1:]) and _is_number(index)
    return (int(layer[1:]), int(index)) if known else None


def _unpaired(number: int) -> tuple[int, int]:
    """The inverse of Cantor's pairing, as Neuronpedia's graphs number features (`schema_version` 1)."""
    diagonal = (math.isqrt(8 * number + 1) - 1) // 2
    index = number - diagonal * (diagonal + 1) // 2
    return diagonal - index, index


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: no dashboard in JSON ({reason:.120}); move it away") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: no dashboard, which is an object with names; move it away")
    return content


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    quantiles = [each for each in _list(row.get("examples_quantiles")) if isinstance(each, dict)]
    examples = [example for each in quantiles for example in _list(each.get("examples"))]
    examples = examples or _list(row.get("activations"))
    contexts = [found for each in examples if (found := _context(each)) is not None]
    contexts.sort(key=lambda each: -each["values"][each["at"]])
    top, bottom = (row.get(name) or row.get(other) for name, other in _LOGITS)
    density = row.get("frac_nonzero")
    return {
        "top": [_text(each) for each in _list(top)[:N_LOGITS]],
        "bottom": [_text(each) for each in _list(bottom)[:N_LOGITS]],
        "density": float(density) if isinstance(density, (int, float)) and is_finite(density) else None,
        "contexts": contexts[:N_EXAMPLES],
    }


_LOGITS = (("top_logits", "pos_str"), ("bottom_logits", "neg_str"))


def _context(example: Any) -> dict[str, Any] | None:
    """A context's tokens around the one on which the feature fires most, and how much it does on each."""
    if not isinstance(example, dict):
        return None
    tokens = _list(example.get("tokens"))
    values = _list(example.get("tokens_acts_list") or example.get("values"))
    if not tokens or len(tokens) != len(values) or not all(isinstance(x, (int, float)) for x in values):
        return None
    at = max(range(len(values)), key=lambda i: values[i])
    start = max(0, min(at - N_TOKENS * 2 // 3, len(tokens) - N_TOKENS))
    kept = slice(start, start + N_TOKENS)
    numbers = [float(x) if is_finite(x) else 0.0 for x in values[kept]]
    return {"tokens": [_text(each) for each in tokens[kept]], "values": numbers, "at": at - start}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return str(value)[:LONGEST]
