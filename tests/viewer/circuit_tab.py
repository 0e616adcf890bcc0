"""A browser's tab with a page of circuits: its parts, and what it says, beside what the library counts."""

import re
from collections.abc import Callable
from typing import Any

import torch

from edgewise.circuit import Circuit

Open = Callable[..., Any]


def cell(tab: Any, name: str) -> Any:
    return tab.locator(f'.stage button[data-name="{name}"]')


def said(tab: Any) -> str:
    return tab.locator(".said").inner_text()


def address(tab: Any) -> str:
    """The address, which follows what is looked at after a moment; by the page's own clock, however slow it is."""
    return tab.evaluate("new Promise((done) => setTimeout(() => done(location.href), 300))")


def panel(tab: Any) -> Any:
    return tab.locator(".panel")


def meeting(circuit: Circuit) -> dict[str, tuple[int, int]]:
    """Edges in and out of each component, counted from the graph."""
    graph, actual = circuit.graph, circuit.actual
    by_reader = torch.bincount(graph.edge_reader[actual].long(), minlength=graph.n_readers)
    by_writer = torch.bincount(graph.edge_writer[actual].long(), minlength=graph.n_writers)
    found = {
        name: (sum(int(by_reader[r]) for r in graph.readers_of(w)), int(by_writer[w]))
        for w, name in enumerate(graph.writer_names)
    }
    return found | {"logits": (int(by_reader[-1]), 0)}


def shown(tab: Any) -> dict[str, tuple[int, int]]:
    """The same as each component's button says it."""
    labels = tab.eval_on_selector_all(
        ".stage button[data-name]", "all => all.map(b => [b.dataset.name, b.getAttribute('aria-label')])"
    )
    found = {}
    for name, label in labels:
        numbers = re.search(r"([\d,]+) edges in, ([\d,]+) out", label)
        assert numbers
        found[name] = int(numbers[1].replace(",", "")), int(numbers[2].replace(",", ""))
    return found
