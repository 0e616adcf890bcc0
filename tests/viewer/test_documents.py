"""Several documents in one page: what was done in one is there again, and an address says of which it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest

import edgewise as ew
from edgewise import InputError
from edgewise.viewer import ForeignFile, page, told_apart
from tests.viewer.circuit_tab import address, cell, panel, said
from tests.viewer.conftest import run
from tests.viewer.graphs import FEATURE, made, neuronpedia
from tests.viewer.test_graphs import WRONG

Open = Callable[..., Any]


def look_at(tab: Any, name: str) -> None:
    tab.get_by_label("Shown", exact=True).select_option(label=name)


def test_what_was_done_in_a_document_is_there_when_it_is_looked_at_again(open_page: Open):
    text = page([run("ioi"), made()])
    tab = open_page(text=text)
    cell(tab, "m1").click()
    tab.get_by_label("Label of m1").fill("keeper")
    tab.keyboard.press("Enter")
    look_at(tab, "made")  # before the address has followed
    panel(tab).locator(".row").first.click()
    panel(tab).get_by_role("button", name="Pin", exact=True).click()
    link = address(tab)
    assert "doc=1" in link and "pin=" in link and "keeper" not in link
    look_at(tab, "ioi")
    assert tab.get_by_label("Label of m1").input_value() == "keeper"
    assert "keeper" in address(tab) and "doc=" not in tab.url
    dropped = json.dumps(neuronpedia(made(seed=1)))
    tab.evaluate(
        """text => {
            const data = new DataTransfer();
            data.items.add(new File([text], "dropped.json"));
            window.dispatchEvent(new DragEvent("drop", { dataTransfer: data }));
        }""",
        dropped,
    )
    tab.locator(".stage.graph").wait_for()
    assert "doc=2" in address(tab)
    look_at(tab, "made")
    assert "Pinned (1)" in tab.locator(".tabs").inner_text()
    tab.evaluate("() => { location.hash = 'node=m0' }")  # as a link to the first document would
    tab.get_by_label("Label of m0").wait_for()
    again = open_page(text=text, fragment="#" + link.split("#")[1])
    assert "Pinned (1)" in again.locator(".tabs").inner_text()
    for missing in ("doc=2&node=m1", "doc=x"):
        link = address(again)
        again.evaluate("to => { location.hash = to }", missing)
        again.get_by_role("alert").get_by_text("open its file again").wait_for(timeout=5_000)
        assert address(again) == link and "Pinned (1)" in again.locator(".tabs").inner_text()
        again.get_by_role("alert").get_by_label("Close").click()
    gone = open_page(text=text, fragment="#doc=2&node=m1")
    assert "open its file again" in gone.get_by_role("alert").inner_text()
    assert panel(gone).locator("h2").first.inner_text() == "Strongest edges"


def test_labels_from_a_file_leave_the_others_of_a_graph(open_page: Open):
    graph = made()
    one, other, both = graph.ids[:3]
    own = urlencode({"label": [json.dumps(pair) for pair in ((one, "mine"), (both, "old"))]}, doseq=True)
    tab = open_page(text=page([graph]), fragment="#" + own)
    tab.locator("summary").click()
    with tab.expect_file_chooser() as chooser:
        tab.get_by_role("button", name="Labels from a file").click()
    saved = {"kind": "edgewise labels", "labels": [[other, "theirs"], [both, "new"]]}
    chooser.value.set_files({"name": "l.json", "mimeType": "", "buffer": json.dumps(saved).encode()})
    tab.wait_for_function("() => location.hash.includes('theirs')", timeout=5_000)
    found = parse_qs(tab.url.split("#")[1])["label"]
    assert {tuple(json.loads(pair)) for pair in found} == {(one, "mine"), (other, "theirs"), (both, "new")}


def test_a_document_that_cannot_be_shown_leaves_the_view_and_its_address(open_page: Open):
    tab = open_page(text=page([run("ioi"), ForeignFile("circle.json", WRONG["go in a circle"].encode())]))
    cell(tab, "m1").click()
    link = address(tab)
    look_at(tab, "circle.json")
    assert "go in a circle" in tab.get_by_role("alert").inner_text()
    assert address(tab) == link and "node=m1" in link
    assert tab.get_by_label("Shown", exact=True).locator("option:checked").inner_text() == "ioi"
    tab.evaluate("() => { location.hash = 'doc=1' }")
    assert address(tab) == link and panel(tab).locator("h2").inner_text().startswith("m1")


def test_a_page_begins_with_what_can_be_shown(open_page: Open):
    bad = ForeignFile("circle.json", WRONG["go in a circle"].encode())
    good = ForeignFile("good.json", json.dumps(neuronpedia(made())).encode())
    for files, fragment, shown in (([bad, good], "", "doc=1"), ([good, bad], "#doc=1", "")):
        tab = open_page(text=page(files), fragment=fragment)
        assert tab.get_by_label("Shown", exact=True).locator("option:checked").inner_text() == "good.json"
        alert = tab.get_by_role("alert").inner_text()
        assert alert.startswith("circle.json: ") and "go in a circle" in alert
        assert tab.url.partition("#")[2] == shown
    tab = open_page(text=page([bad, bad]))
    assert "This page cannot be shown: circle.json: its edges go in a circle" in tab.locator("#app").inner_text()


def test_what_was_done_can_be_undone_after_another_document_was_looked_at(open_page: Open):
    tab = open_page(text=page([run("ioi"), made()]))
    undo, redo = (tab.get_by_role("button", name=name) for name in ("Undo", "Redo"))
    title = panel(tab).locator("h2").first
    cell(tab, "m1").click()
    tab.locator(".chips button").last.click()  # of another kind: steps of one kind at once are undone at once
    cell(tab, "m2").click()
    undo.click()
    look_at(tab, "made")
    assert undo.is_disabled() and redo.is_disabled()
    look_at(tab, "ioi")
    small = said(tab)
    redo.click()
    assert title.inner_text().startswith("m2") and redo.is_disabled()
    undo.click()
    assert title.inner_text().startswith("m1") and said(tab) == small
    undo.click()
    assert title.inner_text().startswith("m1") and said(tab) != small
    look_at(tab, "made")
    tab.evaluate("() => { location.hash = 'node=m0' }")  # as a link does
    tab.get_by_label("Label of m0").wait_for()
    assert redo.is_disabled()
    for name in ("m1", "Strongest"):
        undo.click()
        assert title.inner_text().startswith(name)
    assert undo.is_disabled()


def test_runs_of_one_name_are_told_apart(tmp_path: Path):
    paths = [tmp_path / each for each in ("a/ioi", "b/ioi", "b/other", "c/d/graph.json", "e/graph.json")]
    for path in paths:
        (path.parent if path.suffix else path).mkdir(parents=True)
        if path.suffix:
            path.write_text(json.dumps(neuronpedia(made())))
        else:
            run("it").circuit.save(path / "circuit.safetensors")
    paths[1] /= "circuit.safetensors"
    text = ew.view(*paths, show=False).read_text("utf-8")
    names = ["a/ioi", "b/ioi", "other", "d/graph.json", "e/graph.json"]
    assert f"<title>{', '.join(names)}</title>" in text
    twice = [Path("/x/a/ioi"), Path("/x/b/ioi"), Path("/y/a/ioi")]
    assert told_apart(["ioi"] * 3, twice) == ["x/a/ioi", "x/b/ioi", "y/a/ioi"]
    assert told_apart(["ioi", "ioi"], [twice[0], None]) == ["a/ioi", "ioi"]


@pytest.mark.parametrize("constant", ["NaN", "-Infinity"])
def test_a_file_with_what_no_browser_reads_is_refused(tmp_path: Path, constant: str):
    graph = json.dumps(neuronpedia(made())).replace('"activation": ', f'"activation": {constant}, "other": ', 1)
    (tmp_path / "graph.json").write_text(graph)
    with pytest.raises(InputError, match=rf"graph.json: .*{constant} is no number of JSON") as refused:
        ew.view(tmp_path / "graph.json", show=False)
    assert "\n" not in str(refused.value) and not (tmp_path / "graph.html").exists()
    with pytest.raises(InputError, match="page: its foreign0/dashboards has a number"):
        page([ForeignFile("graph.json", b"{}", {"1_2": {"density": float("nan")}})])


def labels_saved(tab: Any, tmp_path: Path) -> dict[str, str]:
    tab.locator("summary").first.click()
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Labels to a file").click()
    download.value.save_as(tmp_path / "saved.json")
    return dict(json.loads((tmp_path / "saved.json").read_text())["labels"])


def test_labels_to_a_file_are_all_of_a_graph_s(open_page: Open, tmp_path: Path):
    graph = made()
    inner = [name for name, kind in zip(graph.ids, graph.kind, strict=True) if kind == FEATURE]
    tab = open_page(text=page([graph], labels={inner[0]: "given", inner[1]: "old"}), fragment=f"#node={inner[1]}")
    tab.get_by_label(f"Label of {inner[1]}").fill("new")
    tab.keyboard.press("Enter")
    assert labels_saved(tab, tmp_path) == {inner[0]: "given", inner[1]: "new"}


def test_a_group_that_is_being_made_is_there_when_its_document_is_looked_at_again(open_page: Open):
    graph = made()
    inner = [name for name, kind in zip(graph.ids, graph.kind, strict=True) if kind == FEATURE][:3]
    address = urlencode({"doc": 1, "tab": "pinned", "pin": inner}, doseq=True)
    tab = open_page(text=page([run("ioi"), graph]), fragment="#" + address)
    tab.get_by_role("checkbox").first.check()
    tab.get_by_label("Name of a group").fill("half written")
    look_at(tab, "ioi")
    look_at(tab, "made")
    assert tab.get_by_label("Name of a group").input_value() == "half written"
    assert tab.get_by_role("checkbox").first.is_checked() and not tab.get_by_role("checkbox").nth(1).is_checked()
