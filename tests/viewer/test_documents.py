"""Several documents in one page: what was done in one is there again, and an address says of which it is."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlencode

from edgewise.viewer import ForeignFile, page
from tests.viewer.conftest import run
from tests.viewer.graphs import made, neuronpedia
from tests.viewer.test_circuits import address, cell, panel
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
