"""Attribution graphs in a real browser: the numbers are those of the graph, from our arrays and from others' JSON."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.viewer import ForeignFile, page
from tests.viewer.conftest import HOSTILE, run
from tests.viewer.graphs import ERROR, FEATURE, ROOT, TOKEN, influence, made, matrix, neuronpedia, scores

Open = Callable[..., Any]
GRAPH = made()


def as_page(graph: dict[str, Any], name: str = "graph.json") -> str:
    return page([ForeignFile(name, json.dumps(graph).encode())])


@pytest.fixture(params=["ours", "theirs"])
def tab(request: pytest.FixtureRequest, open_page: Open) -> Any:
    text = page([GRAPH]) if request.param == "ours" else as_page(neuronpedia(GRAPH))
    return open_page(text=text, fragment="#influence=1")


def panel(tab: Any) -> Any:
    return tab.locator(".panel")


def rows(tab: Any, place: int) -> list[list[str]]:
    lists = panel(tab).locator(".rows").nth(place).locator(".row").all()
    return [row.inner_text().split("\n") for row in lists]


def goto(tab: Any, node: int, *pinned: int) -> None:
    """Through the address, as by a link."""
    words = [f"node={GRAPH.ids[node]}", *(f"pin={GRAPH.ids[each]}" for each in pinned)]
    tab.evaluate("hash => { location.hash = hash }", "influence=1&" + "&".join(words))
    tab.wait_for_function("id => document.querySelector('.panel dd')?.textContent === id", arg=GRAPH.ids[node])


def name(node: int) -> str:
    return GRAPH.labels[node] or GRAPH.ids[node]


def number(text: str) -> float:
    return float(re.sub(r"[,+]", "", text.split(" ")[0]).replace("−", "-"))


def test_search_by_id_label_and_token(tab: Any):
    labelled = next(i for i, label in enumerate(GRAPH.labels) if label.startswith("about"))
    for typed in (GRAPH.labels[labelled].upper(), GRAPH.ids[labelled]):
        tab.get_by_label("Search").fill(typed)
        tab.locator(".hits button").filter(has_text=GRAPH.labels[labelled]).first.click()
        assert panel(tab).locator("dd").first.inner_text() == GRAPH.ids[labelled]
        tab.keyboard.press("Escape")
    tab.get_by_label("Search").fill("mat")
    assert all("mat" in hit for hit in tab.locator(".hits button").all_inner_texts())


def test_inputs_and_outputs_are_the_graphs_sorted_and_signed(tab: Any):
    weights = matrix(GRAPH)
    for node in np.flatnonzero(GRAPH.kind == FEATURE)[[5, 25, 50]].tolist():
        goto(tab, node)
        for heading, row in (("Inputs", weights[node]), ("Outputs", weights[:, node])):
            assert f"{heading} ({np.count_nonzero(row)})" in panel(tab).inner_text()
        shown = [(each[0], number(each[-1])) for each in rows(tab, 0)] if weights[node].any() else []
        expected = sorted(np.flatnonzero(weights[node]).tolist(), key=lambda i: -abs(weights[node, i]))[:40]
        assert [each[0] for each in shown] == [name(i) for i in expected]
        assert [each[1] for each in shown] == pytest.approx([weights[node, i] for i in expected], rel=6e-3)


def test_the_slider_keeps_the_most_influential(tab: Any):
    found = influence(matrix(GRAPH), GRAPH.root_weight)
    order = np.argsort(-found, kind="stable")
    share = np.empty(len(found))
    share[order] = np.cumsum(found[order]) / found.sum()
    always = np.isin(GRAPH.kind, (TOKEN, ROOT))
    for threshold in (0.9, 0.5, 0.2):
        tab.get_by_label("Share of all influence").fill(str(round(1000 * threshold)))
        kept = int((always | (share <= threshold + 1e-6)).sum())
        assert tab.locator(".said").inner_text().startswith(f"{kept} of {len(found)} nodes")


def test_scores_of_what_is_pinned_are_those_of_the_smaller_graph(tab: Any):
    features = np.flatnonzero(GRAPH.kind == FEATURE)
    heading = "The whole graph\nreplacement\n"
    tab.wait_for_function("text => document.querySelector('.panel').innerText.includes(text)", arg=heading)
    for pinned in (features.tolist(), features[::2].tolist(), features[:3].tolist()):
        goto(tab, pinned[0], *pinned)
        tab.get_by_role("button", name="Pinned").click()
        tab.wait_for_function("() => /%/.test(document.querySelector('.scores')?.innerText ?? '')")
        words = re.findall(r"([\d.]+) %", tab.locator(".scores").inner_text())
        assert [float(each) / 100 for each in words] == pytest.approx(scores(GRAPH, set(pinned)), abs=6e-4)


def test_pins_and_groups_by_hand_and_their_edges_summed(tab: Any):
    weights = matrix(GRAPH)
    root = int(np.flatnonzero(GRAPH.kind == ROOT)[0])
    sources = sorted(np.flatnonzero(weights[root]).tolist(), key=lambda i: -abs(weights[root, i]))[:3]
    panel(tab).locator(".row").first.click()
    panel(tab).get_by_role("button", name="Pin", exact=True).click()
    for place in range(3):
        panel(tab).locator(".rows").first.locator(".row").nth(place).click()
        panel(tab).get_by_role("button", name="Pin", exact=True).click()
        tab.keyboard.press("Control+z")
        assert f"Pinned ({place + 1})" in tab.locator(".tabs").inner_text()
        tab.keyboard.press("Control+Shift+z")
        panel(tab).get_by_role("button", name="Choose nothing").click()
        panel(tab).locator(".row").first.click()
    tab.get_by_role("button", name="Pinned (4)").click()
    for node in sources[:2]:
        panel(tab).get_by_label(f"Take {GRAPH.ids[node]} into a group").check()
    panel(tab).get_by_label("Name of a group").fill("sayers")
    tab.get_by_role("button", name="Zoom in").click()
    assert panel(tab).get_by_label("Name of a group").input_value() == "sayers"
    panel(tab).get_by_role("button", name="Group those ticked").click()
    summed = weights[root, sources[:2]].sum()
    text = panel(tab).inner_text()
    edge = re.search(rf"sayers → {re.escape(name(root))}\s+(\S+) ", text)
    assert edge and number(edge[1]) == pytest.approx(summed, rel=6e-3)
    tab.wait_for_function("() => location.hash.includes('group=') && location.hash.split('pin=').length === 5")
    panel(tab).get_by_role("button", name="Ungroup sayers").click()
    assert "sayers" not in panel(tab).inner_text()
    assert (
        panel(tab).get_by_label("Name of a group").input_value() == "" and panel(tab).locator(":checked").count() == 0
    )
    panel(tab).get_by_role("button", name="Unpin all").click()
    assert "Nothing is pinned" in panel(tab).inner_text()


def test_features_that_read_and_write_alike_are_suggested(open_page: Open):
    graph = neuronpedia(GRAPH)
    twin = next(
        node for node in graph["nodes"] if sum(link["target"] == node["node_id"] for link in graph["links"]) > 4
    )
    if twin["feature_type"] == "logit":
        pytest.fail("the first node with many inputs is to be a feature")
    graph["nodes"].append(twin | {"node_id": "twin"})
    for end in ("source", "target"):
        graph["links"] += [link | {end: "twin"} for link in graph["links"] if link[end] == twin["node_id"]]
    tab = open_page(text=as_page(graph), fragment=f"#pin=twin&pin={twin['node_id']}&tab=pinned")
    assert "Alike in what they read and write" in panel(tab).inner_text()
    panel(tab).get_by_role("button", name="Group", exact=True).click()
    assert tab.locator(".diagram .supernode").count() == 1


def test_a_file_that_is_picked_or_dropped_opens_beside_what_was_there(open_page: Open, tmp_path: Path):
    tab = open_page(run("ioi"))
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(neuronpedia(GRAPH)))
    tab.locator("summary").click()
    with tab.expect_file_chooser() as chooser:
        tab.get_by_role("button", name="Open a graph").click()
    chooser.value.set_files(path)
    tab.locator(".stage.graph").wait_for()
    assert "About" in tab.locator(".tabs").inner_text()
    tab.get_by_label("Shown", exact=True).select_option(label="ioi")
    assert tab.locator('.stage button[data-name="m1"]').count() == 1
    tab.evaluate(
        """text => {
            const data = new DataTransfer();
            data.items.add(new File([text], "dropped.json"));
            window.dispatchEvent(new DragEvent("drop", { dataTransfer: data }));
        }""",
        path.read_text(),
    )
    tab.locator(".stage.graph").wait_for()
    assert tab.get_by_label("Shown", exact=True).locator("option:checked").inner_text() == "dropped.json"


WRONG = {
    "it is no JSON": "{",
    "it has -Infinity, which is no number of JSON": '{"nodes": [{"activation": -Infinity}]}',
    "has no list of nodes": "{}",
    "it has no nodes": '{"nodes": [], "links": []}',
    "node 0 is no object": '{"nodes": [1], "links": []}',
    "go in a circle": json.dumps(
        {
            "nodes": [
                {"node_id": x, "layer": "1", "feature_type": "cross layer transcoder", "ctx_idx": 0} for x in "ab"
            ],
            "links": [{"source": a, "target": b, "weight": 1} for a, b in ("ab", "ba")],
        }
    ),
}


def test_a_wrong_file_is_refused_with_one_message_and_what_was_there_stays(open_page: Open, tmp_path: Path):
    tab = open_page(run("ioi"))
    for said, text in WRONG.items():
        path = tmp_path / "wrong.json"
        path.write_text(text)
        tab.locator("summary").click()
        with tab.expect_file_chooser() as chooser:
            tab.get_by_role("button", name="Open a graph").click()
        chooser.value.set_files(path)
        message = tab.get_by_role("alert").filter(has_text=said)
        message.wait_for()
        assert message.inner_text().startswith("wrong.json: ") and "\n" not in message.inner_text().strip(" ×\n")
        assert tab.locator(".stage button").count() > 10
        message.get_by_role("button", name="Close").click()


def test_texts_of_a_file_are_shown_as_text(open_page: Open):
    graph = neuronpedia(GRAPH, slug=HOSTILE, prompt=HOSTILE)
    graph["metadata"]["prompt_tokens"] = [HOSTILE] * 6
    for node in graph["nodes"]:
        node["clerp"] = HOSTILE
    tab = open_page(text=as_page(graph, HOSTILE))
    for button in ("Node", "Pinned", "About"):
        tab.get_by_role("button", name=button, exact=False).first.click()
        assert tab.locator("img, .panel b b").count() == 0
    assert tab.title() != "owned"


def test_pointer_keyboard_zoom_and_pictures(open_page: Open, tmp_path: Path):
    tab = open_page(text=page([GRAPH]), fragment="#influence=1")
    stage = tab.locator(".stage.graph")
    stage.focus()
    chosen = set()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowLeft", "ArrowUp"):
        tab.keyboard.press(key)
        chosen.add(panel(tab).locator("dd").first.inner_text())
    assert len(chosen) > 3
    tab.keyboard.press("Enter")
    assert "Pinned (1)" in tab.locator(".tabs").inner_text()
    mark = tab.locator(".chosen-mark").bounding_box()
    assert mark
    name_of = panel(tab).locator("h2").inner_text()
    tab.keyboard.press("Escape")
    tab.mouse.move(mark["x"] + 4, mark["y"] + 4)
    tab.locator(".tip").wait_for()
    tab.mouse.click(mark["x"] + 4, mark["y"] + 4)
    assert panel(tab).locator("h2").inner_text() == name_of
    tab.get_by_role("button", name="Zoom in").click()
    assert tab.evaluate("() => { const s = document.querySelector('.graph'); return s.scrollWidth > s.clientWidth }")
    tab.locator("summary").click()
    with tab.expect_download() as saved:
        tab.get_by_role("button", name="Picture as SVG").click()
    saved.value.save_as(tmp_path / "graph.svg")
    text = (tmp_path / "graph.svg").read_text("utf-8")
    assert text.startswith("<svg xmlns=") and text.count("<rect") > len(GRAPH.kind)


def test_arrow_keys_keep_the_chosen_node_in_view(open_page: Open):
    tab = open_page(text=page([made(n_features=400, n_edges=4000)]), fragment="#influence=1&zoom=8")
    tab.locator(".stage.graph").focus()
    inside = """() => {
        const box = (name) => document.querySelector(name).getBoundingClientRect();
        const [stage, mark] = [box(".stage.graph"), box(".chosen-mark")];
        const across = mark.left >= stage.left && mark.right <= stage.right;
        return across && mark.top >= stage.top && mark.bottom <= stage.bottom;
    }"""
    for key in (*["ArrowLeft"] * 6, *["ArrowDown"] * 4, *["ArrowLeft"] * 4, *["ArrowUp"] * 4):
        tab.keyboard.press(key)
        assert tab.evaluate(inside), key


def test_a_token_that_turns_the_line_round_is_shown_for_what_it_is(open_page: Open, tmp_path: Path):
    graph = neuronpedia(GRAPH)
    graph["metadata"]["prompt_tokens"][0] = "\u202eevil"
    tab = open_page(text=as_page(graph), fragment="#influence=1")
    assert "⟨202E⟩evil" in panel(tab).inner_text() and "\u202e" not in panel(tab).inner_text()
    tab.locator("summary").click()
    with tab.expect_download() as saved:
        tab.get_by_role("button", name="Picture as SVG").click()
    saved.value.save_as(tmp_path / "graph.svg")
    assert "\u202e" not in (tmp_path / "graph.svg").read_text("utf-8")


def test_numbers_that_a_file_states_are_shown(open_page: Open):
    """Influence, activation and probability as Neuronpedia and circuit-tracer write them; errors may share ids."""
    graph = {
        "metadata": {"slug": "by-hand", "scan": "gemma-2-2b", "prompt_tokens": ["<bos>", "Hi"], "prompt": "<bos>Hi"},
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [
            {"node_id": "E_2_0", "layer": "E", "ctx_idx": 0, "feature_type": "embedding", "clerp": "Emb: <bos>"},
            {"node_id": "E_7_1", "layer": "E", "ctx_idx": 1, "feature_type": "embedding", "clerp": "Emb: Hi"},
            {"node_id": "0_3_1", "layer": "0", "ctx_idx": 1, "feature_type": "cross layer transcoder",
             "clerp": "greets", "activation": 3.25, "influence": 0.25, "feature": 6, "qk_tracing_results": {
                "pair_wise_contributors": [["E_7_1", "E_2_0", 0.5], ["E_7_1", "gone", -2], ["x"], {"y": 1}, [1, 2, ""]],
                "top_q_marginal_contributors": [["E_7_1", 0.75]], "top_k_marginal_contributors": 3}},
            {"node_id": "0_0_1", "layer": "0", "ctx_idx": 1, "feature_type": "mlp reconstruction error",
             "influence": 0.9},
            {"node_id": "27_9_1", "layer": "27", "ctx_idx": 1, "feature_type": "logit", "token_prob": 0.75,
             "is_target_logit": True, "clerp": 'Output " there" (p=0.750)'},
        ],
        "links": [
            {"source": "E_7_1", "target": "0_3_1", "weight": 2.0},
            {"source": "E_2_0", "target": "0_3_1", "weight": -0.5},
            {"source": "0_3_1", "target": "27_9_1", "weight": 4.0},
            {"source": "0_0_1", "target": "27_9_1", "weight": 1.0},
            {"source": "gone", "target": "27_9_1", "weight": 1.0},
        ],
    }  # fmt: skip
    tab = open_page(text=as_page(graph), fragment="#node=0_3_1")
    text = panel(tab).inner_text()
    assert "greets" in text and "3.25" in text and "within the first 25.0 %" in text
    assert rows(tab, 0) == [["Emb: Hi", "+2.00 (80 %)"], ["Emb: <bos>", "−0.500 (−20 %)"]]
    asking = "E_7_1 “Emb: Hi”"
    pairs = [[asking, "+0.500", "by the key's E_2_0 “Emb: <bos>”"], [asking, "−2.00", "by the key's gone"]]
    assert rows(tab, 1) == pairs
    panel(tab).get_by_text("Through the query alone").click()
    assert rows(tab, 2) == [[f"query: {asking}", "+0.750"]]
    tab.get_by_role("button", name="About").click()
    assert "1 of 5 links name a node that is not there" in panel(tab).inner_text()
    tab.get_by_label("Share of all influence").fill("500")
    assert tab.locator(".said").inner_text().startswith("4 of 5 nodes")


def test_an_address_of_an_unknown_node_says_so(open_page: Open):
    tab = open_page(text=page([GRAPH]), fragment="#node=9_9_9")
    assert "“9_9_9”, which is no node" in tab.get_by_role("alert").inner_text()


def test_a_node_that_is_not_shown_draws_no_edges(open_page: Open, tmp_path: Path):
    """By an address or a search; there is no place for their other end."""
    root = int(np.flatnonzero(GRAPH.kind == ROOT)[0])
    node = next(i for i in np.flatnonzero(GRAPH.kind == FEATURE).tolist() if matrix(GRAPH)[root, i])
    tab = open_page(text=page([GRAPH]), fragment=f"#influence=0&node={GRAPH.ids[node]}")
    assert "of all influence: not shown now" in panel(tab).inner_text()
    tab.locator("summary").click()
    with tab.expect_download() as saved:
        tab.get_by_role("button", name="Picture as SVG").click()
    saved.value.save_as(tmp_path / "graph.svg")
    assert "<path" not in (tmp_path / "graph.svg").read_text("utf-8")


def test_an_error_is_pruned_and_not_always_shown(open_page: Open):
    error = GRAPH.ids[int(np.flatnonzero(GRAPH.kind == ERROR)[0])]
    tab = open_page(text=page([GRAPH]), fragment=f"#node={error}")
    assert "within the first" in panel(tab).inner_text() and "always shown" not in panel(tab).inner_text()


def test_a_large_picture_is_made_smaller_and_one_that_fails_is_said(open_page: Open):
    tab = open_page(text=page([GRAPH]), fragment="#zoom=8", width=2600, height=1600)
    tab.evaluate(
        """() => {
            const { prototype } = HTMLCanvasElement;
            const [real, small] = [prototype.getContext, document.createElement("canvas")];
            prototype.getContext = function (...how) { return real.apply(this.isConnected ? this : small, how); };
            prototype.toBlob = function (done) { window.size = [this.width, this.height]; done(null); };
        }"""
    )
    tab.locator("summary").click()
    tab.get_by_role("button", name="Picture as PNG").click()
    width, height = tab.evaluate("() => window.size")
    assert max(width, height) <= 32_000 and 1e8 < width * height <= 1.6e8
    assert "save it as SVG" in tab.get_by_role("alert").inner_text()


def test_scores_are_there_where_the_worker_fails(open_page: Open):
    tab = open_page(text=page([GRAPH]))
    tab.add_init_script(
        """window.Worker = class extends EventTarget {
            constructor() { super(); setTimeout(() => this.dispatchEvent(new Event("error")), 50); }
            postMessage() {}
            terminate() {}
        };"""
    )
    tab.reload()
    tab.wait_for_function("() => /replacement\\n[\\d.]+ %/.test(document.querySelector('.panel')?.innerText)")


def test_of_nodes_with_one_id_links_and_addresses_mean_the_first(open_page: Open):
    node = {"node_id": "twin", "layer": "0", "feature_type": "cross layer transcoder", "ctx_idx": 0}
    nodes = [node | {"clerp": "first"}, node | {"clerp": "last"}, node | {"node_id": "out", "feature_type": "logit"}]
    links = [{"source": "twin", "target": "out", "weight": 1}]
    tab = open_page(text=as_page({"nodes": nodes, "links": links}), fragment="#node=twin")
    assert panel(tab).locator("h2").inner_text().startswith("first") and rows(tab, 0)[0][0] == "out"
