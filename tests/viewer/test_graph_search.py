"""Searching an attribution graph in a real browser: what comes first, how the hits close, what they say."""

from collections.abc import Callable
from typing import Any

from edgewise.viewer import page
from tests.viewer.graphs import TOKEN, neuronpedia
from tests.viewer.test_graphs import GRAPH, as_page, panel

Open = Callable[..., Any]


def test_search_puts_what_is_called_so_before_what_holds_the_text(open_page: Open):
    """`m1.f3@1` before `m1.f3@10`, and a root before the many nodes at a token of its name."""
    content = neuronpedia(GRAPH)
    features = [each for each in content["nodes"] if each["feature_type"] == "cross layer transcoder"]
    logit = next(each for each in content["nodes"] if each["feature_type"] == "logit")
    for each, words in zip([*features, logit], [*(f"about{i}" for i in range(len(features))), "about1"], strict=True):
        each["clerp"] = words
    tab = open_page(text=as_page(content), fragment="#influence=1")
    tab.get_by_label("Search").fill("about1")
    first, second, *_ = tab.locator(".hits button").all_inner_texts()
    assert first.startswith("about1 ·") and second.startswith("about1 ·")
    assert {"root" in each for each in (first, second)} == {True, False}


def test_hits_close_on_escape_and_on_a_click_elsewhere_and_keep_what_is_chosen(open_page: Open):
    tab = open_page(text=page([GRAPH]), fragment=f"#influence=1&node={GRAPH.ids[9]}")
    search, hits = tab.get_by_label("Search"), tab.locator(".hits")
    search.fill("about")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Escape")
    assert hits.is_hidden() and panel(tab).locator("dd").first.inner_text() == GRAPH.ids[9]
    assert tab.evaluate("() => document.activeElement.type") == "search"
    search.fill("about 1")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowUp")
    assert tab.evaluate("() => document.activeElement.type") == "search" and hits.is_visible()
    panel(tab).locator("h2").first.click()
    assert hits.is_hidden()


def test_blanks_of_tokens_are_told_apart(open_page: Open):
    content = neuronpedia(GRAPH)
    content["metadata"]["prompt_tokens"][:3] = ["\n", "\n\n", "    "]
    tab = open_page(text=as_page(content), fragment="#influence=1")
    for number, said in enumerate(("“⏎”", "“⏎⏎”", "“␣␣␣␣”")):
        tokens = [i for i in range(len(GRAPH.ids)) if GRAPH.kind[i] == TOKEN and GRAPH.position[i] == number]
        tab.get_by_label("Search").fill(content["nodes"][tokens[0]]["node_id"])
        assert f"token {number}, {said}" in tab.locator(".hits button").first.inner_text()
