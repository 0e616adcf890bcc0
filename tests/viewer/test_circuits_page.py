"""The page around circuits, in a real browser: addresses, undoing, files, keyboard, themes."""

import json
from pathlib import Path

import pytest

import edgewise as ew
from edgewise.graph import GraphSpec
from tests.viewer.circuit_tab import Open, address, cell, panel, said
from tests.viewer.conftest import HOSTILE, run


def test_everything_can_be_undone_and_stands_in_the_address(open_page: Open):
    tab = open_page(run("ioi"))
    first = said(tab)
    cell(tab, "m1").click()
    tab.locator(".chips button").last.click()
    second, link = said(tab), address(tab)
    assert "node=m1" in link and "size=" in link and second != first
    tab.keyboard.press("Control+z")
    assert said(tab) == first
    tab.get_by_role("button", name="Undo").click()
    assert "node=" not in address(tab)
    tab.keyboard.press("Control+Shift+z")
    tab.get_by_role("button", name="Redo").click()
    assert said(tab) == second and address(tab) == link
    again = open_page(run("ioi"), fragment="#" + link.split("#")[1])
    assert said(again) == second and panel(again).locator("h2").inner_text().startswith("m1")


def test_an_address_is_followed_though_a_change_that_was_waiting_takes_its_place(open_page: Open):
    tab = open_page(run("ioi"))
    tab.evaluate("() => { location.hash = 'node=m1'; history.replaceState(null, '', '#') }")
    panel(tab).locator("h2", has_text="m1").first.wait_for(timeout=20_000)
    assert "node=m1" in address(tab)


@pytest.mark.parametrize(
    "fragment", ["#run=9&size=-1&edge=1e9&node=constructor", "#show=all&beside=__proto__&lines=x", "#%"]
)
def test_an_address_that_means_nothing_shows_the_circuit_as_found(open_page: Open, fragment: str):
    one = run("ioi")
    assert said(open_page(one, fragment=fragment)).startswith(f"{one.circuit.n_actual} of")


def test_an_address_of_an_unknown_component_says_so_and_drops_it(open_page: Open):
    tab = open_page(run("ioi"), fragment="#node=a99.h1")
    assert "“a99.h1”, which is no component" in tab.get_by_role("alert").inner_text()
    tab.keyboard.press("]")
    assert "node=" not in address(tab)


def test_a_component_that_the_next_circuits_graph_lacks_is_let_go(open_page: Open):
    tab = open_page(run("big"), run("small", spec=GraphSpec(2, 2, 2)), fragment="#node=m3")
    tab.get_by_label("Circuit", exact=True).select_option(label="small")
    assert "node=" not in address(tab)
    tab.get_by_label("Circuit", exact=True).select_option(label="big")
    cell(tab, "m1").click()
    tab.get_by_label("Circuit", exact=True).select_option(label="small")
    assert "node=m1" in address(tab) and panel(tab).locator("h2").inner_text().startswith("m1")


def test_a_circuit_wider_than_a_canvas_can_be_is_drawn_where_one_looks(open_page: Open):
    spec = GraphSpec(1, 2, 2, neurons=((0, tuple((i,) for i in range(1400))),))
    tab = open_page(run("wide", spec=spec), device_scale_factor=2)
    canvas, stage = tab.locator(".stage canvas"), tab.locator(".stage")
    assert stage.evaluate("each => each.scrollWidth") > 65_535
    seen = "each => [each.width, each.toDataURL(), each.getBoundingClientRect().left]"
    width, first, left = canvas.evaluate(seen)
    assert width == 2 * stage.evaluate("each => each.clientWidth")
    far = "each => new Promise(done => { each.onscroll = () => requestAnimationFrame(done); each.scrollLeft = 30_000 })"
    stage.evaluate(f"each => ({far})(each).then(() => null)")
    scrolled = canvas.evaluate(seen)
    assert scrolled[1] != first and scrolled[2] == left
    blank = "each => { each.width += 0; return each.toDataURL() }"
    assert canvas.evaluate(blank) not in (first, scrolled[1])
    names = tab.eval_on_selector_all(
        ".stage button", "all => all.map(each => [each.dataset.name, each.getBoundingClientRect().left])"
    )
    assert any(name.startswith("m0.n") and 0 < at < 800 for name, at in names)


def test_what_is_pressed_is_seen_where_colours_are_forced(open_page: Open):
    tab = open_page(run("ioi"), forced_colors="active")
    outlines = tab.eval_on_selector_all(".tabs button", "all => all.map(each => getComputedStyle(each).outlineStyle)")
    assert outlines == ["solid", "none", "none"]


def test_the_menu_closes_on_a_click_outside_and_on_escape(open_page: Open):
    tab = open_page(run("ioi"), fragment="#node=m1")
    item = tab.get_by_role("button", name="Print")
    for leave in (lambda: tab.locator("h1").click(), lambda: tab.keyboard.press("Escape")):
        tab.locator("summary").click()
        assert item.is_visible()
        leave()
        assert not item.is_visible() and panel(tab).locator("h2").inner_text().startswith("m1")


def test_labels_go_to_a_file_and_come_back(open_page: Open, tmp_path: Path):
    tab = open_page(run("ioi"))
    cell(tab, "a1.h2").click()
    tab.get_by_label("Label of a1.h2").fill(HOSTILE.replace("\u2028", ""))
    tab.keyboard.press("Enter")
    tab.locator("summary").click()
    with tab.expect_download() as saved:
        tab.get_by_role("button", name="Labels to a file").click()
    path = tmp_path / "labels.json"
    saved.value.save_as(path)
    fresh = open_page(run("ioi"))
    fresh.locator("summary").click()
    with fresh.expect_file_chooser() as chooser:
        fresh.get_by_role("button", name="Labels from a file").click()
    chooser.value.set_files(path)
    fresh.wait_for_function("() => document.querySelector('[data-name=\"a1.h2\"]').title.includes('</script>')")
    fresh.get_by_label("Search").fill("onerror")
    assert fresh.locator(".hits button").first.inner_text().startswith("a1.h2")
    (tmp_path / "wrong.json").write_text('{"labels": [1]}')
    fresh.keyboard.press("Escape")
    fresh.locator("summary").click()
    with fresh.expect_file_chooser() as chooser:
        fresh.get_by_role("button", name="Labels from a file").click()
    chooser.value.set_files(tmp_path / "wrong.json")
    assert "wrong.json: this is no file of labels" in fresh.get_by_role("alert").inner_text()
    (tmp_path / "own.json").write_text(json.dumps({"a1.h3": " of one's own ", "a1.h2": ""}))
    fresh.locator("summary").click()
    with fresh.expect_file_chooser() as chooser:
        fresh.get_by_role("button", name="Labels from a file").click()
    chooser.value.set_files(tmp_path / "own.json")
    fresh.wait_for_function("() => document.querySelector('[data-name=\"a1.h3\"]').title.includes('of one')")
    assert "</script>" in cell(fresh, "a1.h2").get_attribute("title"), "a label without words takes none away"


def test_pictures_are_saved_as_they_are_seen(open_page: Open, tmp_path: Path):
    tab = open_page(run(HOSTILE), fragment="#node=logits")
    for name, begins in (("PNG", b"\x89PNG\r\n\x1a\n"), ("SVG", b"<svg xmlns=")):
        tab.locator("summary").click()
        with tab.expect_download() as saved:
            tab.get_by_role("button", name=f"Picture as {name}").click()
        saved.value.save_as(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begins)
    text = (tmp_path / "SVG").read_text("utf-8")
    assert "a3.h0" in text and "<img" not in text and text.count("<path") > 5


def test_names_and_prompts_are_text_and_nothing_else(open_page: Open):
    tab = open_page(run(HOSTILE), run("other"))
    tab.get_by_role("button", name="Examples").click()
    assert HOSTILE.split()[0] in panel(tab).inner_text()
    tab.get_by_role("button", name="About").click()
    assert tab.locator("img, b b").count() == 0 and tab.title() != "owned"


def test_the_page_may_reach_no_network(open_page: Open):
    """Its own policy says no before any network is asked."""
    tab = open_page(run("ioi"))
    assert tab.evaluate("() => fetch('https://example.org').then(() => 'reached', () => 'refused')") == "refused"
    refusals = open_page.wrong  # type: ignore[attr-defined]
    assert refusals and all("Content Security Policy" in each for each in refusals)
    refusals.clear()


def test_the_keyboard_reaches_every_component(open_page: Open):
    tab = open_page(run("ioi"))
    cell(tab, "logits").focus()
    visited = set()
    for key in ("ArrowDown", *("ArrowRight",) * 5, *("ArrowDown",) * 2, *("ArrowLeft",) * 3, "ArrowUp"):
        tab.keyboard.press(key)
        visited.add(tab.evaluate("() => document.activeElement.dataset.name"))
    assert len(visited) > 8 and {"m3", "m1"} <= visited
    tab.keyboard.press("Enter")
    name = tab.evaluate("() => document.activeElement.dataset.name")
    assert panel(tab).locator("h2").inner_text().startswith(name)
    assert name in tab.get_by_role("status").inner_text()
    tab.keyboard.press("?")
    assert tab.get_by_role("dialog").is_visible()


def test_what_the_pointer_is_on_is_drawn_at_once(open_page: Open):
    tab = open_page(run("ioi"))
    ink = "() => document.querySelector('canvas').toDataURL()"
    before = tab.evaluate(ink)
    cell(tab, "m2").hover()
    hovered = tab.evaluate(ink)
    tab.mouse.move(5, 5)
    assert hovered != before and tab.evaluate(ink) == before


def test_light_dark_and_a_phones_width(open_page: Open):
    tab = open_page(run("ioi"), width=390, height=844, color_scheme="dark")
    assert tab.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(23, 24, 27)"
    tab.get_by_role("button", name="Light or dark").click()
    assert tab.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.evaluate("() => document.documentElement.scrollWidth") <= 390
    cell(tab, "m1").click()
    assert panel(tab).locator("h2").inner_text().startswith("m1")


def test_labels_that_the_page_was_given_stand_on_the_components_and_long_ones_are_whole(
    open_page: Open, tmp_path: Path
):
    one, long = run("ioi"), "w" * 150
    one.circuit.save(tmp_path / "circuit.safetensors")
    (tmp_path / "labels.json").write_text(f'{{"a1.h2": "{long}", "m1": "gone"}}')
    path = ew.view(tmp_path, labels=tmp_path / "labels.json", show=False)
    tab = open_page(text=path.read_text("utf-8"))
    assert long in str(cell(tab, "a1.h2").get_attribute("title")) and "label=" not in tab.url
    cell(tab, "m1").click()
    tab.get_by_label("Label of m1").fill("")
    tab.keyboard.press("Enter")
    fragment = "#" + address(tab).split("#")[1]
    again = open_page(text=path.read_text("utf-8"), fragment=fragment)
    assert again.get_by_label("Label of m1").input_value() == "" and long not in fragment
    saved = {"kind": "edgewise labels", "labels": [["m1", long]]}
    again.locator("summary").click()
    with again.expect_file_chooser() as chooser:
        again.get_by_role("button", name="Labels from a file").click()
    chooser.value.set_files({"name": "l.json", "mimeType": "", "buffer": json.dumps(saved).encode()})
    again.wait_for_function("long => document.querySelector('.panel input').value === long", arg=long)
    assert again.get_by_label("Label of m1").get_attribute("maxlength") == "200"
    assert long in str(cell(again, "a1.h2").get_attribute("title"))


def test_an_emptied_size_stays_what_it_was(open_page: Open):
    tab = open_page(run("ioi"))
    before, field = said(tab), tab.get_by_label("Actual edges, at most")
    shown = field.input_value()
    field.fill("")
    field.press("Tab")
    assert field.input_value() == shown and said(tab) == before
