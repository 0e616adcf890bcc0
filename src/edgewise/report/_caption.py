"""The words around a picture: which model and task, how many edges, under which ablation, found how.

Provenance comes from a file and may lack anything; what is missing is left out.
"""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from edgewise.graph import GraphSpec

LONGEST = 90
"""Characters of one name; a longer one loses its middle."""


def heading(provenance: Mapping[str, Any]) -> str:
    """`ioi in smollm2-135m`, or as much of it as is known."""
    task, model = (last_part(name_of(provenance.get(key))) for key in ("task", "model"))
    if task and model:
        return f"{task} in {model}"
    return task or model or "Circuit"


def counts(kept: int, actual: int, total: int) -> str:
    """Nominal and actual size of a circuit, with the denominator of both."""

    def share(edges: int) -> str:
        return f"{100 * (1 - edges / total):.2f} %" if total else "–"

    nominal = f"{kept:,} of {total:,} edges kept (sparsity {share(kept)}), "
    if kept == actual:
        return nominal + "all able to carry signal"
    return nominal + f"{actual:,} of them able to carry signal (actual sparsity {share(actual)})"


def conditions(provenance: Mapping[str, Any], spec: GraphSpec) -> str:
    """Method, ablation and the graph's conventions, those that are known."""
    parts = []
    if method := name_of(provenance.get("method")):
        parts.append(f"method: {method}")
    if ablation := name_of(provenance.get("ablation")):
        source = provenance["ablation"].get("source") if isinstance(provenance["ablation"], Mapping) else None
        parts.append(f"ablation: {ablation}" + (f" ({shorten(str(source))})" if source else ""))
    heads = f"{_count(spec.n_layers, 'layer')} × {_count(spec.n_heads, 'head')}"
    if spec.n_kv_heads < spec.n_heads:
        heads += f" ({_count(spec.n_kv_heads, 'KV head')}, {spec.kv})"
    parts += [heads, f"embeddings {spec.embeddings}", *_apart(spec)]
    model = provenance.get("model")
    if isinstance(model, Mapping) and model.get("note"):
        parts.append(shorten(str(model["note"])))
    return " · ".join(parts)


def _apart(spec: GraphSpec) -> list[str]:
    """How many candidates there are of what MLPs are taken apart into; a picture has those in use alone."""
    found = []
    for word, layers in (("feature", spec.features), ("neuron", spec.neurons)):
        if layers:
            n = sum(len(chosen) for _, chosen in layers)
            found.append(f"{_count(n, word)} in {_count(len(layers), 'layer')}, those in use drawn")
    return found + ([f"error terms {spec.error}"] if spec.features else [])


def name_of(entry: Any) -> str | None:
    """The name of a model, task, method or ablation: the entry itself, or its `name`, `id` or `kind`."""
    if isinstance(entry, Mapping):
        entry = next((entry[key] for key in ("name", "id", "kind") if entry.get(key)), None)
    return shorten(str(entry)) if entry else None


def shorten(text: str, longest: int = LONGEST) -> str:
    """`text` in at most `longest` characters: start and end, which tell names and paths apart, stay."""
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def last_part(name: str | None) -> str | None:
    """The last part of a local path, and any other name as it is."""
    return PurePath(name).name or name if name and name.startswith(("/", "./", "../", "~")) else name


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
