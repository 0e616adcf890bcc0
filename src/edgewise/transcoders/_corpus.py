"""A small built-in corpus: the documentation that every Python carries.

Enough to try everything without a text of one's own (some 350,000 tokens); too little and too uniform to train a
transcoder for use.
"""

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_SHORTEST = 200  # characters; shorter docstrings are mostly "See class docstring."


def builtin_documents() -> Iterator[str]:
    """The language reference's help topics, then the docstrings of the standard library's modules."""
    from pydoc_data.topics import topics

    yield from (topics[name] for name in sorted(topics))
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield from _docstrings(path)


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):  # a file that this Python cannot read has nothing to give
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) >= _SHORTEST:
                yield text
