"""People's and models' words for components, features and nodes, from a file."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from edgewise._errors import InputError

LONGEST = 200
"""Characters of a label."""
_WANTED = (
    "give a JSON object of names and labels, what a page's 'Labels to a file' wrote, or a CSV with columns id,label"
)


def read_labels(path: str | Path) -> dict[str, str]:
    """Labels by name: `a9.h3` for a circuit's component, `m12.f410` for a feature wherever it stands, `m12.f410@7` for
    one node of a graph.

    A `.csv` has the columns `id` and `label`, others are left alone. A `.json` is an object of names and labels, or the
    file that a page saves.

    Raises:
        InputError: it cannot be read, or holds no labels.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError(f"{path}: cannot be read ({reason}); {_WANTED}") from error
    found = _of_csv(text) if path.suffix == ".csv" else _of_json(text)
    if not found:
        raise InputError(f"{path}: no labels there; {_WANTED}")
    return {name.strip(): label.strip()[:LONGEST] for name, label in found.items() if label.strip()}


def _of_csv(text: str) -> dict[str, str]:
    try:
        rows = list(csv.DictReader(io.StringIO(text)))
    except csv.Error:
        return {}
    return {row["id"]: row["label"] for row in rows if row.get("id") and row.get("label")}


def _of_json(text: str) -> dict[str, str]:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if isinstance(content, dict) and isinstance(content.get("labels"), (list, dict)):
        content = content["labels"]
    pairs = list(content.items()) if isinstance(content, dict) else content if isinstance(content, list) else []
    return {
        pair[0]: pair[1]
        for pair in pairs
        if isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(each, str) for each in pair)
    }
