"""Pages of results that have two parts: what was written by hand, and tables that a benchmark writes again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgewise.runs import write_atomically

RESULTS = Path(__file__).parents[1] / "docs" / "results"
Rows = list[dict[str, Any]]


def model_name(model: str) -> str:
    """What a model is called on a page: a file's name without its folders and `.gguf`."""
    return Path(model).name.removesuffix(".gguf")


def write_page(name: str, title: str, script: str, tables: str) -> None:
    """Write `docs/results/NAME.md`: what stands in it by hand, then the tables."""
    page = RESULTS / f"{name}.md"
    mark = f"<!-- What follows is written by benchmarks/{script}.py; what stands before it, by hand. -->"
    by_hand = page.read_text(encoding="utf-8").split(mark)[0] if page.exists() else f"# {title}\n\n"
    write_atomically(page, f"{by_hand}{mark}\n{tables}")


def keep_rows(name: str, rows: Rows, key: Sequence[str]) -> Rows:
    """The rows of `docs/results/NAME.json` with these in place of those of the same key, and written there: a page is
    made of runs on several days.
    """
    file = RESULTS / f"{name}.json"
    old = json.loads(file.read_text()) if file.exists() else []
    found = {json.dumps([row[part] for part in key]): row for row in [*old, *rows]}
    write_atomically(file, "[\n" + ",\n".join(json.dumps(row) for row in found.values()) + "\n]\n")
    return list(found.values())
