"""Dashboards of features in the page: its numbers are the library's, all text stays text, and blind is blind."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import edgewise as ew
from edgewise import InputError
from edgewise.transcoders import DashboardConfig, FeatureSet, TokenTexts, make_dashboards
from edgewise.transcoders.dashboards import top_examples
from edgewise.viewer import read_labels, write_dashboards
from tests.tiny import refused, tiny
from tests.transcoders.test_analysis import made
from tests.transcoders.toys import text
from tests.viewer.conftest import HOSTILE

RIGHT_TO_LEFT = "שלום\u202eevil"
WORDS = {3: HOSTILE, 4: RIGHT_TO_LEFT, 5: "\n", 6: " word"}


class Tokenizer:
    """Pieces that try to be more than text, and two that are halves of one character."""

    def decode(self, ids: list[int]) -> str:
        return "\ufffd" if ids[0] in (7, 8) else WORDS.get(ids[0], f" t{ids[0]}")

    def convert_ids_to_tokens(self, token: int) -> str:
        return {7: "<0xC3>", 8: "<0xA9>"}.get(token, "piece")


@cache
def sets() -> tuple[FeatureSet, ...]:
    model = tiny("gpt2", torch.float32)
    transcoders = [made(model, layer, n=30).float() for layer in (0, 1)]
    with torch.no_grad():
        transcoders[1].b_enc[2] = -100.0  # never on
        transcoders[1].b_enc[3] = 100.0  # always on, so that all tokens are seen
    rows = text(60, context=10)
    rows.ids[:, 4:6] = torch.tensor([7, 8])  # one character
    config = DashboardConfig(batch_tokens=200, sample=40, top=20, before=6, after=3, precision="float32")
    found = make_dashboards(model, transcoders, rows, config, options=ew.RunOptions(progress=False))
    return tuple(replace(each, texts=TokenTexts(Tokenizer())) for each in found)


@pytest.fixture
def open_set(open_page: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    def opened(fragment: str = "", labels: dict[str, str] | None = None, **context: Any) -> Any:
        path = write_dashboards(sets(), tmp_path, labels=labels)[1]
        return open_page(text=path.read_text("utf-8"), fragment=fragment, **context)

    return opened


def test_the_page_says_what_the_library_says(open_set: Callable[..., Any]):
    found = sets()[1]
    tab = open_set(fragment="#feature=3")
    detail = tab.locator(".dashboard")
    assert detail.locator("h2").first.inner_text().strip() == "m1.f3"
    assert "On at 100.000 % of" in detail.inner_text()
    counts = [found.seen.histogram[3].max().item(), found.seen.positions[3].max().item()]
    titles = detail.locator("svg rect title").all_text_contents()
    assert all(any(f": {n} tokens" in title for title in titles) for n in counts)
    shown = tab.locator(".contexts").first.locator("li")
    best = top_examples(found.seen, 3, found.config, 10)
    assert shown.count() == len(best)
    said = [float(row.locator(".numbers").inner_text()) for row in shown.all()]
    assert said == pytest.approx([each.value for each in best], rel=6e-3)
    promoted = [f" t{t}" if t not in (*WORDS, 7, 8) else None for t in found.weights.promoted.token[3].tolist()]
    chips = tab.get_by_label("Output side").locator(".tokens").first.locator("bdi").all_text_contents()
    assert all(a == b for a, b in zip(chips, promoted, strict=True) if b is not None)
    layers, features = found.weights.upstream.layer[3].tolist(), found.weights.upstream.feature[3].tolist()
    names = tab.get_by_label("Input side").locator(".row .name").all_text_contents()
    assert names[: len(layers)] == [f"m{a}.f{b}" for a, b in zip(layers, features, strict=True)]


def test_text_that_tries_to_be_more_stays_text(open_set: Callable[..., Any]):
    label = HOSTILE + RIGHT_TO_LEFT
    tab = open_set(fragment="#feature=3", labels={"m1.f3": label, "m0.f1": "another page's"})
    words = tab.locator(".contexts .words").all_text_contents()
    assert tab.title() != "owned" and tab.locator("img").count() == 0
    every = "".join(words)
    assert "</script><img src=x" in every and "שלום⟨202E⟩evil" in every and "\u202e" not in every
    assert "é" in every and "⏎" in every
    assert tab.get_by_label("Label of m1.f3").input_value() == label[:200]
    assert tab.locator(".features .label").count() == 1
    box = tab.locator(".contexts li").first.bounding_box()
    assert box["width"] <= tab.viewport_size["width"]


def test_it_is_searched_and_sorted_in_the_page(open_set: Callable[..., Any]):
    found = sets()[1]
    tab = open_set()
    ids = lambda: tab.locator(".features .id").all_text_contents()  # noqa: E731
    assert ids() == found.names()
    tab.get_by_label("Sort by").select_option("density")
    order = sorted(range(30), key=lambda i: (-int(found.seen.on[i]), i))
    assert ids() == [f"m1.f{i}" for i in order]
    tab.get_by_label("Show").select_option("on")
    assert "m1.f2" not in ids() and len(ids()) == int((found.seen.on > 0).sum())
    tab.get_by_label("Search").fill("m1.f12")
    assert ids() == ["m1.f12"]
    tab.get_by_label("Search").fill("nothing of the kind")
    assert ids() == [] and "No feature" in tab.locator(".dashboard").inner_text()
    tab.get_by_label("Undo", exact=True).click()
    tab.get_by_label("Search").fill("")
    tab.keyboard.press("Escape")
    tab.get_by_role("button", name="m1.f3 ").click()
    tab.wait_for_function("() => location.hash.includes('feature=3')")
    link = tab.get_by_label("Input side").locator(".row").first
    with tab.expect_popup() as opened:  # the guesses and labels of this page are in its address alone
        link.click()
    opened.value.wait_for_url(lambda url: "layer0.html#feature=" in url)
    assert "feature=3" in tab.url


def test_blind_shows_no_text_before_a_guess_and_keeps_a_sheet(open_set: Callable[..., Any]):
    tab = open_set(fragment="#feature=3&blind=yes", labels={"m1.f3": "told"})
    detail = tab.locator(".dashboard")
    assert detail.locator(".contexts").count() == 0 and "told" not in tab.locator("main").inner_text()
    assert detail.inner_text().count("Hidden until you commit") == 2
    assert tab.get_by_label("Label of m1.f3").count() == 0 and tab.locator(".features .name").first.inner_text() == ""
    tab.get_by_label("Search").fill("told")
    assert tab.locator(".features .id").count() == 0
    tab.get_by_label("Search").fill("")
    tab.get_by_label("Guess of m1.f3").fill('=always on, "all" tokens')
    tab.get_by_label("Sort by").select_option("density")
    tab.get_by_role("button", name="The other way round").click()
    assert tab.get_by_label("Guess of m1.f3").input_value() == '=always on, "all" tokens'
    tab.get_by_role("button", name="Commit").click()
    assert detail.locator(".contexts").count() > 0 and "told" in tab.locator(".features").inner_text()
    tab.get_by_role("button", name="right", exact=True).click()
    assert "1 guessed: 1 right, 0 mostly, 0 wrong" in tab.locator(".side").inner_text()
    with tab.expect_download() as saved:
        tab.get_by_role("button", name="Save the score sheet").click()
    rows = list(csv.DictReader(io.StringIO(Path(saved.value.path()).read_text("utf-8"))))
    assert rows == [
        {"id": "m1.f3", "guess": '\'=always on, "all" tokens', "verdict": "right", "label": "told", "density": "1"}
    ]
    tab.wait_for_function("() => location.hash.includes('guess=')")
    tab.reload()
    tab.wait_for_selector("#app[data-ready]")
    assert "1 guessed" in tab.locator(".side").inner_text()


def test_labels_go_out_come_in_and_reach_the_graphs(open_set: Callable[..., Any], tmp_path: Path, open_page: Any):
    tab = open_set(fragment="#feature=3")
    tab.get_by_label("Label of m1.f3").fill("all tokens")
    tab.get_by_label("Label of m1.f3").press("Enter")
    tab.locator("summary", has_text="File").click()
    with tab.expect_download() as saved:
        tab.get_by_role("button", name="Labels to a file").click()
    file = tmp_path / "labels.json"
    file.write_bytes(Path(saved.value.path()).read_bytes())
    assert read_labels(file) == {"m1.f3": "all tokens"}
    nodes = [{"node_id": "1_3_0", "feature": 11, "layer": "1", "ctx_idx": 0, "feature_type": "cross layer transcoder"}]
    nodes += [{"node_id": "3_1_0", "feature": 1, "layer": "3", "ctx_idx": 0, "feature_type": "logit"}]
    links = [{"source": "1_3_0", "target": "3_1_0", "weight": 1.0}]
    graph = {"metadata": {"prompt_tokens": ["a"], "slug": "x"}, "nodes": nodes, "links": links}
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    path = ew.view(tmp_path / "graph.json", labels=file, show=False)
    tab = open_page(text=path.read_text("utf-8"), fragment="#node=1_3_0")
    assert tab.locator(".panel h2").first.inner_text().startswith("all tokens")


def test_a_file_of_labels_is_read_in_each_of_its_forms(tmp_path: Path):
    forms = {
        "a.json": '{"m1.f3": " a ", "m1.f4": ""}',
        "b.json": '{"kind": "edgewise labels", "labels": [["m1.f3", "a"], [1, 2]]}',
        "c.csv": 'id,other,label\nm1.f3,x,"a"\nm1.f4,y,\n',
    }
    for name, content in forms.items():
        (tmp_path / name).write_text(content)
        assert read_labels(tmp_path / name) == {"m1.f3": "a"}
    for name, content in {"d.json": "[[[", "e.json": "3", "f.csv": "a,b\n1,2\n"}.items():
        (tmp_path / name).write_text(content)
        assert "no labels there" in refused(lambda name=name: read_labels(tmp_path / name))
    with pytest.raises(InputError, match="cannot be read"):
        read_labels(tmp_path / "none.json")


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_is_wider_than_the_screen(open_set: Callable[..., Any], width: int):
    tab = open_set(fragment="#feature=3", width=width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("document.querySelector('.dashboard').scrollWidth") <= width


@pytest.mark.parametrize("order", ["label", "token"])
def test_what_has_no_text_comes_last_either_way(open_set: Callable[..., Any], order: str):
    tab = open_set(labels={"m1.f3": "a", "m1.f5": "b"})
    never_on = {f"m1.f{i}" for i in (sets()[1].seen.on == 0).nonzero().flatten().tolist()}
    tab.get_by_label("Sort by").select_option(order)
    for labelled in (["m1.f3", "m1.f5"], ["m1.f5", "m1.f3"]):
        ids = tab.locator(".features .id").all_text_contents()
        assert ids[:2] == labelled if order == "label" else {*ids[-len(never_on) :]} == never_on
        tab.get_by_role("button", name="The other way round").click()


def test_what_is_printed_has_the_rows_of_its_lists(open_set: Callable[..., Any]):
    tab = open_set(fragment="#feature=3")
    tab.emulate_media(media="print")
    assert tab.get_by_label("Input side").locator("li.line").first.is_visible()
    assert not tab.locator("header").first.is_visible()
