"""The page that stands beside a circuit on the hub: what it is of, how it was found and judged, how to load it."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import yaml

from edgewise.circuit import Circuit
from edgewise.runs import record_of

CARD = "README.md"
_COLUMNS = {"value": "circuit", "full": "full model", "empty": "empty circuit", "random": "random", "eap": "EAP"}


def card(
    circuit: Circuit,
    repository: str,
    file: str,
    constants: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> str:
    """A model card in Markdown; whatever the circuit says of itself is shown as code. Its last line is for `is_own`.

    Args:
        circuit: the circuit.
        repository: `owner/name`, where it will be.
        file: what it is called there.
        constants: what the constants of its removed edges are called there, where it has some.
        evaluation: what `edgewise evaluate` wrote of it, if it did.
    """
    said = circuit.provenance
    model, task, method = (record_of(said, name) for name in ("model", "task", "method"))
    front: dict[str, Any] = {
        "library_name": "edgewise",
        "tags": ["circuit", "interpretability", "mechanistic-interpretability"],
    }
    identity = str(model.get("id", ""))
    if identity.count("/") == 1 and not identity.startswith(("/", ".", "~")):
        front["base_model"] = identity
    sizes = f"{circuit.n_edges:,} of {circuit.graph.n_edges:,} edges, {circuit.n_actual:,} of which can carry signal"
    rows = {
        "model": ", ".join(_code(model.get(name) or "?") for name in ("id", "revision", "dtype")),
        "weights (SHA-256)": _code(model.get("weights_hash", "?")),
        "task": f"{_code(task.get('name', '?'))}, metric {_code(task.get('metric', '?'))}",
        "size": f"{sizes} (actual sparsity {circuit.actual_sparsity:.2%})",
        "removed edges carry": _code(circuit.ablation_kind),
        "method": f"{_code(method.get('name', '?'))}, with {_code(json.dumps(method.get('config', {})), None)}",
        "software": _code(json.dumps(said.get("software", {})), None),
    }
    if constants is not None:
        rows["constants of removed edges"] = f"in {_code(constants)}, which `edgewise pull` puts beside the circuit"
    pulled = f"ew.exchange.pull({_quoted(repository)}, file={_quoted(file)})"
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# A circuit of {_code(identity or 'a model')} for {_code(task.get('name', 'a task'))}",
        "The edges between attention heads and MLPs that carry this behaviour, found with edgewise.",
        _table(("what", "value"), rows.items()),
        *([] if evaluation is None else _judged(evaluation)),
        "## Use",
        f"```python\nimport edgewise as ew\n\ncircuit = {pulled}\n```",
        f"Or `edgewise pull {_plain(repository)}`, then `edgewise view` or `edgewise evaluate`.",
    ]
    text = "\n\n".join(parts)
    return f"{text}{_MARK}{_mark(text, file)}"


_MARK = "\n\n<!-- "


def is_own(text: str, file: str) -> bool:
    """Whether a card is as `card` wrote it of a file of that name, and nobody has changed it since."""
    body, _, mark = text.rpartition(_MARK)
    return mark == _mark(body, file)


def _mark(text: str, file: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"written by edgewise of {_plain(file)}; SHA-256 of the text above: {digest} -->\n"


def _judged(evaluation: Mapping[str, Any]) -> list[str]:
    """The table of an evaluation's metrics, and under what they were measured."""
    metrics, conditions = record_of(evaluation, "metrics"), record_of(evaluation, "conditions")
    shown = [name for name in _COLUMNS if any(_number(each, name) for each in metrics.values())]
    rows = []
    for name, each in metrics.items():
        cells = [_number(each, column) for column in shown]
        low, high = _number(each, "low"), _number(each, "high")
        rows.append((_code(name), *cells, f"{low} to {high}" if low and high else ""))
    split, n = _code(conditions.get("split", "?")), _code(evaluation.get("n", "?"))
    ablation = _code(record_of(conditions, "ablation").get("kind", "?"))
    head = ("metric", *(_COLUMNS[name] for name in shown), "95 % interval of the circuit's")
    said = f"On {n} examples of the split {split}, under ablation {ablation}."
    return ["## Measured", _table(head, rows), said]


def _number(metric: Any, name: str) -> str:
    value = metric.get(name) if isinstance(metric, Mapping) else None
    return f"{value:.3f}" if isinstance(value, (int, float)) else ""


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _plain(value: object, longest: int | None = 300) -> str:
    text = " ".join(str(value).split()).replace("`", "'")
    return text if longest is None or len(text) <= longest else f"{text[:longest]} …"


def _code(value: object, longest: int | None = 300) -> str:
    """As code in a table: one line, no marks of Markdown's."""
    return f"`{_plain(value, longest) or ' '}`".replace("|", "\\|")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
