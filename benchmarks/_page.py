"""Pages of results that have two parts: what was written by hand, and tables that a benchmark writes again."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgewise.runs import write_atomically

RESULTS = Path(__file__).parents[1] / "docs" / "results"
Rows = list[dict[str, Any]]


def model_name(model: str) -> str:
    """What a model is called on a page: a file's name without its folders and `.gguf`."""
    return Path(model).name.removesuffix(".gguf")


def parts_of(page: Path, title: str, mark: str) -> tuple[str, str]:
    """What stands in a page by hand, before the mark, and the tables after it; of a page that is new, its title."""
    if not page.exists():
        return f"# {title}\n\n", ""
    by_hand, found, tables = page.read_text(encoding="utf-8").partition(mark)
    if not found:
        sys.exit(f"{page}: has no line {mark!r}; put it between what is written by hand and the tables")
    return by_hand, tables


def mark_of(script: str) -> str:
    """The line between a page's two parts."""
    return f"<!-- What follows is written by benchmarks/{script}.py; what stands before it, by hand. -->"


def write_page(name: str | Path, title: str, script: str, tables: str) -> None:
    """Write a page, `docs/results/NAME.md` or the file given: what stands in it by hand, then the tables."""
    page, mark = name if isinstance(name, Path) else RESULTS / f"{name}.md", mark_of(script)
    write_atomically(page, f"{parts_of(page, title, mark)[0]}{mark}\n{tables}")


def held_to(file: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """End the command if a file's result was found with other settings than those that are asked for now. What is not
    known of it, since it is from before that was kept, is not compared.
    """
    values = {name: (json.dumps(found[name]), json.dumps(asked[name])) for name in asked if name in found}
    if other := [f"{name} is {old}, not {new}" for name, (old, new) in values.items() if old != new]:
        sys.exit(f"{file}: was found with other settings ({'; '.join(other)}); choose another --out, or remove it")


def keep_rows(name: str, rows: Rows, key: Sequence[str]) -> Rows:
    """The rows of `docs/results/NAME.json` with these in place of those of the same key, and written there: a page is
    made of runs on several days.
    """
    file = RESULTS / f"{name}.json"
    old = json.loads(file.read_text()) if file.exists() else []
    found = {json.dumps([row[part] for part in key]): row for row in [*old, *rows]}
    write_atomically(file, "[\n" + ",\n".join(json.dumps(row) for row in found.values()) + "\n]\n")
    return list(found.values())
