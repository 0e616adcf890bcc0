"""What the pages show in Python is Python, of names that exist and arguments that are taken.

(The tutorials and the lines of methods.md, extending.md and tracr.md are run, by tests of their own.)
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgewise as ew

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def blocks(text: str) -> Iterator[str]:
    """The fenced blocks of Python, and indented ones that name the library's functions."""
    yield from re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    unfenced = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for block in re.findall(r"^ {4}.*\n(?:(?: {4}.*)?\n)*", unfenced, re.MULTILINE):
        if re.search(r"\bew\.|^ {4}import edgewise", block):
            yield textwrap.dedent(block).replace("…", "...")


def named(node: ast.expr) -> str | None:
    """`ew.tasks.ioi` of such an expression."""
    if isinstance(node, ast.Name):
        return node.id
    inner = named(node.value) if isinstance(node, ast.Attribute) else None
    return inner and f"{inner}.{node.attr}"  # pyright: ignore[reportAttributeAccessIssue]


def found(name: str) -> Any:
    value: Any = ew
    for part in name.split(".")[1:]:
        value = getattr(value, part)
    return value


def complaints(block: str) -> Iterator[str]:
    """Names that do not exist, and calls whose arguments are not taken."""
    tree = ast.parse(block)
    calls = {node.func: node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not (name := named(node)) or not name.startswith("ew."):
            continue
        try:
            value = found(name)
        except AttributeError:
            yield f"there is no {name}"
            continue
        if call := calls.get(node):
            plain = [None for each in call.args if not _dots(each)]
            words = {each.arg: None for each in call.keywords if each.arg}
            try:
                inspect.signature(value).bind_partial(*plain, **words)
            except TypeError as error:
                yield f"{name}: {error}"


def _dots(node: ast.expr) -> bool:
    """Whether an argument stands for any number of them."""
    return isinstance(node, ast.Starred) or (isinstance(node, ast.Constant) and node.value is ...)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_on_a_page_names_what_there_is(page: Path):
    wrong = [each for block in blocks(page.read_text("utf-8")) for each in complaints(block)]
    assert not wrong, "\n".join(wrong)


def test_what_is_wrong_is_found():
    assert list(complaints("ew.no_such(1)")) == ["there is no ew.no_such"]
    assert list(complaints("ew.evaluate(engine, circuit, task, nonsense=1)")) == [
        "ew.evaluate: got an unexpected keyword argument 'nonsense'"
    ]
    assert not list(complaints("ew.evaluate(engine, ..., split='test')"))
    text = "Words.\n\n    import edgewise as ew\n\n    ew.nothing()\n\nMore words.\n\n```python\new.less\n```\n"
    assert sorted(each for block in blocks(text) for each in complaints(block)) == [
        "there is no ew.less",
        "there is no ew.nothing",
    ]
