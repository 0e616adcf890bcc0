"""Graphs in JSON that are broken, deceitful or hostile: each is shown or refused in one line, and runs nothing.

`EDGEWISE_CASES=10000` makes as many; a change to the reader should have passed them once.
"""

import copy
import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgewise.viewer import _page, page
from tests.viewer.conftest import HOSTILE, run
from tests.viewer.graphs import made, neuronpedia
from tests.viewer.test_bundle import SOURCES, node  # noqa: F401

CASES = int(os.environ.get("EDGEWISE_CASES", 600))
AT_ONCE = 50
ODD: list[Any] = [
    None, True, -1, 0, 1e308, -0.0, 2**53, 1.5, "", "E", "constructor", "__proto__", HOSTILE, "\u202e\ud800",
    "x" * 5000, [], {}, [[]], {"__proto__": {"owned": 1}}, "1e9", "NaN", " 3 ", "javascript:alert(1)",
]  # fmt: skip
KEYS = ["__proto__", "constructor", "prototype", "hasOwnProperty", "toString", "valueOf", HOSTILE]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where anything stands in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, each in inner for place in places(each, (*path, key))]


def deceitful(graph: dict[str, Any], draw: random.Random) -> str:
    """A graph with something wrong in it."""
    graph = copy.deepcopy(graph)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        spots = places(graph)
        if not spots:
            break
        *path, last = draw.choice(spots)
        holder = graph
        for key in path:
            holder = holder[key]
        how = draw.randrange(6)
        if how == 0:
            del holder[last]
        elif how == 1 and isinstance(holder, dict):
            holder[draw.choice(KEYS)] = copy.deepcopy(draw.choice(ODD))
        elif how == 2 and isinstance(graph.get("links"), list) and isinstance(graph.get("nodes"), list):
            ends = [each.get("node_id") for each in graph["nodes"] if isinstance(each, dict)] or [1]
            graph["links"].append({"source": draw.choice(ends), "target": draw.choice(ends), "weight": 1})
        elif how == 3 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
        else:
            holder[last] = copy.deepcopy(draw.choice(ODD))
    text = json.dumps(graph)
    how = draw.randrange(12)
    if how == 0:
        return text[: draw.randrange(len(text))]
    if how == 1:
        spot = draw.randrange(len(text))
        return text[:spot] + draw.choice('{}[]",:\\\0<') + text[spot + 1 :]
    if how == 2:
        return draw.choice(("", "null", "[" * 100_000, '{"nodes":' * 5000, "\ufeff" + text, text + text, HOSTILE))
    return text


@pytest.fixture
def hostile_page(node: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:  # noqa: F811
    """A page whose script reads and shows many graphs, one after the other."""
    subprocess.run([node, SOURCES / "build.mjs", tmp_path, "test/fuzz.ts"], check=True, timeout=120)
    bundle = _page.bundle
    monkeypatch.setattr(
        _page,
        "bundle",
        lambda suffix: bundle(suffix) if suffix == "css" else (tmp_path / "bundle.js").read_text("utf-8"),
    )
    return page([run("ioi")])


def test_whatever_is_in_a_file_it_is_shown_or_refused_in_a_line(hostile_page: str, browser: Any, tmp_path: Path):
    (tmp_path / "page.html").write_text(hostile_page, encoding="utf-8")
    tab = browser.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("dialog", lambda dialog: wrong.append("a dialog") or dialog.dismiss())
    tab.on("request", lambda request: None if request.url.startswith(("file:", "blob:")) else wrong.append(request.url))
    tab.goto((tmp_path / "page.html").as_uri())
    draw, base = random.Random(0), neuronpedia(made(n_features=6, n_layers=2, n_edges=40, n_tokens=3))
    shown = 0
    for _ in range(0, CASES, AT_ONCE):
        texts = [deceitful(base, draw) for _ in range(AT_ONCE)]
        said = tab.evaluate("texts => tryGraphs(texts)", texts)
        for text, message in zip(texts, said, strict=True):
            shown += not message
            plain = message.removeprefix("Error: ")
            assert not message or (message.startswith("Error: ") and len(plain) < 200 and "\n" not in plain), (
                message,
                text,
            )
        assert tab.evaluate("() => [document.title === 'owned', 'owned' in {}, document.images.length]") == [
            False,
            False,
            0,
        ]
    tab.close()
    assert not wrong
    assert CASES / 10 < shown < CASES


def test_a_huge_file_is_refused_unread(open_page: Any, tmp_path: Path):
    """A gigabyte of JSON, which no browser can hold as a text."""
    path = tmp_path / "huge.json"
    with open(path, "wb") as file:
        file.truncate(1 << 30)
    tab = open_page(run("ioi"))
    tab.locator("summary").click()
    with tab.expect_file_chooser() as chooser:
        tab.get_by_role("button", name="Open a graph").click()
    chooser.value.set_files(path)
    message = tab.get_by_role("alert").filter(has_text="huge.json")
    message.wait_for()
    assert "it has 1024 MiB; at most 400 MiB are read" in message.inner_text()
