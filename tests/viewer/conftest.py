"""A browser to click in, and runs to look at. Without a browser these tests are skipped, but never in CI."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise.circuit import Circuit
from edgewise.discovery import Scores
from edgewise.evaluation import Evaluation, Measured, Point, SizeCurve, WorstExample
from edgewise.graph import Ablation, AblationKind, Graph, GraphSpec
from edgewise.viewer import Viewed, page

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><b>&amp;\u2028"
"""What no name, prompt or label may do anything with but be shown."""
SPEC = GraphSpec(4, 4, 2)


def in_ci() -> bool:
    return bool(os.environ.get("CI"))


def missing(what: str) -> Any:
    """Skip for want of something; in CI, where it is installed, fail."""
    return pytest.fail(f"{what}: CI installs it") if in_ci() else pytest.skip(f"{what}: not installed here")


def scored(spec: GraphSpec, seed: int = 0, ablation: AblationKind = "interchange", absolute: bool = False) -> Scores:
    graph = Graph(spec)
    values = torch.randn(graph.n_edges, generator=torch.Generator().manual_seed(seed))
    values[::7] = values[0]  # ties
    return Scores(graph, values if absolute else values.abs(), {"task": {"name": "ioi"}}, ablation=Ablation(ablation))


def measured(circuit: Circuit) -> Evaluation:
    row = Measured(0.43, 0.37, 0.51, 0.0, 4.4, 4.39, 2.45, True)
    worst = (WorstExample(3, 2.1, f"Mary and John {HOSTILE}", f"Ann and Lee {HOSTILE}"),)
    return Evaluation(
        circuit.n_edges, circuit.n_actual, circuit.graph.n_edges, 128, {"kl": row}, {"split": "test"}, worst
    )


def run(name: str, seed: int = 0, spec: GraphSpec = SPEC, share: float = 0.7, absolute: bool = False) -> Viewed:
    scores = scored(spec, seed, absolute=absolute)
    found = scores.at(share, actual=True, absolute=absolute)
    sizes = [scores.at(s, actual=True, absolute=absolute).n_actual for s in (0.5, 0.9)]
    points = [(found.n_actual, 0.43), (sizes[0], 0.21), (sizes[1], 1.9)]
    curve = SizeCurve(
        "kl",
        tuple(Point("ranking", n, value, 0.9 * value, 1.2 * value) for n, value in points),
        0.0,
        4.4,
        found.graph.n_edges,
        128,
        {"split": "test"},
    )
    return Viewed(found, name, {"": measured(found)}, curve)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        missing("a browser (Debian's chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright")
        raise
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a page of runs; whatever it asks the network for, and every error in it, fails the test."""
    wrong: list[str] = []
    contexts = []

    def opened(
        *runs: Viewed, fragment: str = "", width: int = 1440, height: int = 900, text: str | None = None, **context: Any
    ) -> Any:
        path = tmp_path / "page.html"
        path.write_text(page(runs) if text is None else text, encoding="utf-8")
        made = browser.new_context(viewport={"width": width, "height": height}, **context)
        contexts.append(made)
        made.set_default_timeout(60_000)
        tab = made.new_page()
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        allowed = ("file:", "blob:", "data:")
        tab.on("request", lambda request: None if request.url.startswith(allowed) else wrong.append(request.url))
        tab.goto(path.as_uri() + fragment)
        tab.wait_for_selector("#app[data-ready]")
        return tab

    opened.wrong = wrong  # type: ignore[attr-defined]
    yield opened
    for each in contexts:
        each.close()
    assert not wrong
