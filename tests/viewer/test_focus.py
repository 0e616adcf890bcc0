"""The focus and the first click survive what a change draws anew."""

from collections.abc import Callable
from typing import Any

from edgewise.viewer import page
from tests.viewer.circuit_tab import panel, said
from tests.viewer.conftest import run
from tests.viewer.graphs import FEATURE, made

Open = Callable[..., Any]
GRAPH = made()
NODE = GRAPH.ids[int((GRAPH.kind == FEATURE).argmax())]


def focused(tab: Any) -> str:
    """What has the focus: the label, or else the text."""
    return tab.evaluate("() => document.activeElement.ariaLabel ?? document.activeElement.textContent")


def test_a_control_keeps_the_focus(open_page: Open):
    tab = open_page(run("ioi"))
    tab.get_by_role("button", name="Examples").focus()
    tab.keyboard.press("Enter")
    assert focused(tab) == "Examples"
    tab.get_by_role("button", name="Edges", exact=True).click()
    tab.get_by_label("Compare with").focus()
    before = said(tab)
    for place in (1, 2):
        tab.keyboard.press("ArrowDown")
        assert focused(tab) == "Compare with"
        assert tab.get_by_label("Compare with").evaluate("each => each.selectedIndex") == place
    assert said(tab) == before
    tab.get_by_label("Compare with").select_option(value="")
    panel(tab).locator(".row").first.focus()
    tab.keyboard.press("Enter")
    assert focused(tab) == "What is chosen"


def test_zooming_and_the_tab_key_keep_the_focus(open_page: Open):
    tab = open_page(text=page([GRAPH]), fragment=f"#influence=1&node={NODE}&zoom=6")
    tab.get_by_role("button", name="Zoom in").focus()
    tab.keyboard.press("Enter")
    assert focused(tab) == "Zoom out", "there is no more to zoom in"
    tab.keyboard.press("Enter")
    assert focused(tab) == "Zoom out"
    tab.get_by_label(f"Label of {NODE}").focus()
    tab.keyboard.type("mine")
    tab.keyboard.press("Tab")
    panel(tab).get_by_role("heading", name="mine").wait_for()
    assert focused(tab) == "Pin"


def test_a_click_that_ends_typing_is_heard(open_page: Open):
    tab = open_page(text=page([GRAPH]), fragment=f"#influence=1&node={NODE}")
    tab.get_by_label(f"Label of {NODE}").focus()
    tab.keyboard.type("mine")
    panel(tab).get_by_role("button", name="Pin", exact=True).click()
    assert "Pinned (1)" in tab.locator(".tabs").inner_text()
    assert panel(tab).locator("h2").inner_text().startswith("mine")
    circuits = open_page(run("ioi"))
    circuits.get_by_label("Actual edges, at most").focus()
    circuits.keyboard.press("ArrowDown")
    edge = panel(circuits).locator(".row .name").first.inner_text()
    panel(circuits).locator(".row").first.click()
    assert panel(circuits).locator("h2").inner_text().startswith(edge)


def test_a_press_whose_end_was_swallowed_holds_nothing_back(open_page: Open):
    tab = open_page(text=page([GRAPH]), fragment=f"#pin={NODE}&tab=pinned")
    scores = tab.locator(".scores")
    scores.get_by_text("%").first.wait_for()
    nodes = [NODE, GRAPH.ids[int((GRAPH.kind == FEATURE).nonzero()[0][1])]]
    select = "document.body.appendChild(document.createElement('select'))"
    ends = (
        "new MouseEvent('contextmenu')",
        "new PointerEvent('pointermove', { buttons: 0 })",
        "new PointerEvent('pointercancel')",
        "new FocusEvent('blur')",
        f"(({select}).dispatchEvent(new Event('change')), new Event('none'))",
    )
    still = "for (const name of ['change', 'blur']) document.querySelector('input').dispatchEvent(new Event(name))"
    for turn, end in enumerate(ends):
        tab.evaluate("() => { dispatchEvent(new PointerEvent('pointerdown', { buttons: 1 })) }")
        tab.evaluate("node => { location.hash = `pin=${node}&tab=pinned` }", nodes[(turn + 1) % 2])
        tab.wait_for_timeout(150)
        tab.evaluate(f"() => {{ {still}; dispatchEvent(new PointerEvent('pointermove', {{ buttons: 1 }})) }}")
        tab.wait_for_timeout(50)
        assert "%" not in scores.inner_text(), "the press may still become a click"
        tab.evaluate(f"() => {{ dispatchEvent({end}) }}")
        scores.get_by_text("%").first.wait_for(timeout=5_000)
