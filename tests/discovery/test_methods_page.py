"""Every line of the page about methods runs as it stands there."""

import ast
import re
from pathlib import Path

import pytest
from torch import Tensor

import edgewise as ew
from edgewise.circuit import Circuit
from edgewise.engine import Engine
from tests.discovery.toys import random_task
from tests.tiny import tiny

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
SMALLER = {"top(500": "top(50"}
"""The tiny model has 262 edges."""
LEARNED = ("edge_pruning", "learn_ranking", "learn_ranking_ensemble", "node_pruning", "optimal_constants")
STEPS = 12
"""That the lines run and give what they should is seen in a few steps."""


class Shorter(ast.NodeTransformer):
    """Fewer steps wherever something is learned."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Attribute) and node.func.attr in LEARNED:
            node.keywords.append(ast.keyword("steps", ast.Constant(STEPS)))
        return self.generic_visit(node)


def _sections() -> dict[str, str]:
    """Each section's indented Python, by its heading."""
    pieces = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    code = {
        title: "\n".join(line[4:] for line in text.splitlines() if re.match(r"    (?!edgewise )\S", line))
        for title, text in zip(pieces[1::2], pieces[2::2], strict=True)
    }
    return {title: lines for title, lines in code.items() if lines}


SECTIONS = _sections()


def test_every_method_has_a_line():
    assert len(SECTIONS) >= 14
    linked = re.findall(r"\]\(#([a-z-]+)\)", PAGE.read_text())
    headings = [re.sub(r"[^a-z -]", "", title.lower()).replace(" ", "-") for title in SECTIONS]
    assert set(linked) == set(headings)


@pytest.mark.slow
@pytest.mark.parametrize("title", SECTIONS)
def test_its_lines_run(title: str):
    model, task = tiny("gpt2"), random_task(6)
    assert model.graph().n_edges == 262
    names: dict[str, object] = {"ew": ew, "model": model, "task": task, "engine": Engine(model)}
    code = SECTIONS[title]
    for large, small in SMALLER.items():
        code = code.replace(large, small)
    for line in ast.unparse(Shorter().visit(ast.parse(code))).splitlines():
        if re.match(r"\w+(, \w+)* = ", line):
            exec(line, names)
        else:
            found = eval(line, names)
            assert isinstance(found, (Circuit, ew.Scores, ew.Evaluation, Tensor, float)), line
