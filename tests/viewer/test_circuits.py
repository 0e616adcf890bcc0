"""Circuits in a real browser, by clicking as a person would: what is shown is what the library says."""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise.circuit import Circuit
from edgewise.discovery import Scores
from edgewise.evaluation import Point
from edgewise.graph import AblationKind, GraphSpec
from edgewise.viewer import Viewed
from edgewise.viewer._circuits import pack_circuits
from edgewise.viewer._pack import Packer
from tests.viewer.circuit_tab import Open, address, cell, meeting, panel, said, shown
from tests.viewer.conftest import SPEC, measured, run, scored

KINDS: dict[str, tuple[GraphSpec, AblationKind]] = {
    "grouped": (SPEC, "interchange"),
    "zero": (SPEC, "zero"),
    "parallel, split": (GraphSpec(3, 3, 3, embeddings="split", parallel=True), "interchange"),
    "off, expanded": (GraphSpec(3, 4, 2, embeddings="off", kv="expanded"), "interchange"),
    "spans": (GraphSpec(3, 2, 1, spans=("subject", "rest")), "interchange"),
    "features": (GraphSpec(3, 2, 2, features=((1, (3, 17)),)), "interchange"),
    "across layers": (
        GraphSpec(4, 4, 2, features=((0, (1, 3)), (1, (2,)), (3, ())), cross_layer=((0, (1, 3)), (1, (3,)))),
        "interchange",
    ),
    "across layers, zero": (
        GraphSpec(3, 2, 2, parallel=True, features=((0, (4, 6)), (2, (1,))), cross_layer=((0, (2,)),)),
        "zero",
    ),
    "kept errors": (GraphSpec(3, 4, 2, features=((1, (5,)), (2, (0, 3))), error="kept"), "interchange"),
    "kept, across layers, spans": (
        GraphSpec(3, 2, 1, spans=("a", "b"), features=((0, (5,)), (1, ())), cross_layer=((0, (1,)),), error="kept"),
        "interchange",
    ),
    "corrupted errors": (GraphSpec(3, 2, 2, features=((0, (5,)), (1, ())), error="corrupted"), "interchange"),
    "neurons": (GraphSpec(3, 2, 2, neurons=((1, ((3,), (4, 17))),)), "interchange"),
    "coupled": (GraphSpec(3, 3, 3, coupled_heads=True), "interchange"),
    "coupled, spans": (GraphSpec(2, 4, 2, coupled_heads=True, spans=("a", "b")), "interchange"),
}


def test_every_size_has_the_edges_that_the_library_gives_it(open_page: Open):
    """On graphs of every kind: sharing, positions, features, coupled heads; whatever the ablation."""
    scores = {name: scored(spec, 1, ablation) for name, (spec, ablation) in KINDS.items()}
    runs = [Viewed(each.at(0.5, actual=True), name) for name, each in scores.items()]
    tab = open_page(*runs)
    for name, each in scores.items():
        tab.get_by_label("Circuit", exact=True).select_option(label=name)
        for share in (0.5, 0.8, 0.2):
            circuit = each.at(share, actual=True)
            tab.get_by_label("Actual edges, at most").fill(str(int((1 - share) * each.graph.n_edges)))
            tab.keyboard.press("Enter")
            assert said(tab).startswith(f"{circuit.n_actual:,} of {each.graph.n_edges:,} edges"), (name, share)
            assert shown(tab) == meeting(circuit), (name, share)


def test_absolute_scores_double_precision_and_circuits_without_scores(open_page: Open):
    signed = scored(SPEC, 2, absolute=True)
    fine = Scores(signed.graph, signed.values.double() + 1e-12 * torch.arange(signed.graph.n_edges))
    bare = Circuit(signed.graph, signed.at(0.6).kept)
    circuits = {"absolute": signed.at(0.6, actual=True, absolute=True), "fine": fine.at(0.6, actual=True), "bare": bare}
    tab = open_page(*(Viewed(circuit, name) for name, circuit in circuits.items()))
    for name, circuit in circuits.items():
        tab.get_by_label("Circuit", exact=True).select_option(label=name)
        assert shown(tab) == meeting(circuit)
    assert tab.get_by_label("Edges asked for").is_disabled() and "no scores" in tab.locator(".chips").inner_text()
    assert panel(tab).locator("h2").first.inner_text() == "Edges, which have no scores"
    assert "any 40" in tab.get_by_label("Lines at rest").inner_text()


def test_the_measured_value_stands_beside_the_size(open_page: Open):
    one = run("ioi")
    tab = open_page(one)
    fact = tab.locator(".size .fact")
    assert "kl 0.430 (95 %: 0.387 to 0.516), measured at this size on 128 test examples." in fact.inner_text()
    assert "Full model 0, empty circuit 4.40." in fact.inner_text()
    for point in tab.locator(".curve .point").all():
        point.click()
        assert "measured at this size" in fact.inner_text()
    before = said(tab)
    tab.keyboard.press("]")
    assert said(tab) != before and "Not measured at this size" in fact.inner_text()
    tab.get_by_role("button", name="as found").click()
    assert said(tab).startswith(f"{one.circuit.n_actual} of")


def test_the_circuit_as_found_has_the_value_it_was_judged_to_have(open_page: Open):
    """Where its size is no point of the curve."""
    one = run("ioi")
    assert one.curve is not None
    tab = open_page(replace(one, curve=replace(one.curve, points=one.curve.points[1:])))
    fact = tab.locator(".size .fact")
    assert "kl 0.430 (95 %: 0.370 to 0.510), measured at this size on 128 test examples." in fact.inner_text()
    assert tab.locator(".curve .point").count() == 3
    tab.keyboard.press("]")
    assert "Not measured at this size; between kl 0.430 at" in fact.inner_text()


def no_size_of_its_ranking(circuit: Circuit) -> Circuit:
    """With as many actual edges as one that is."""
    inside, outside = circuit.actual.nonzero()[:, 0].tolist(), (~circuit.kept).nonzero()[:, 0].tolist()
    for out, into in product(inside, outside):
        kept = circuit.kept.clone()
        kept[out], kept[into] = False, True
        if (found := replace(circuit, kept=kept)).n_actual == circuit.n_actual:
            return found
    pytest.fail("no two edges can change places")


@pytest.mark.parametrize("curve", [False, True])
def test_as_many_other_edges_do_not_have_the_found_circuits_value(open_page: Open, curve: bool):
    one = run("ioi")
    found = no_size_of_its_ranking(one.circuit)
    n = found.n_actual
    tab = open_page(Viewed(found, "odd", {"": measured(found)}, one.curve if curve else None), fragment="#tab=examples")
    fact = tab.locator(".size .fact")
    assert "kl 0.430 (95 %: 0.370 to 0.510), measured at this size" in fact.inner_text()
    for typed in (1, n):
        tab.get_by_label("Actual edges, at most").fill(str(typed))
        tab.keyboard.press("Enter")
    assert said(tab).startswith(f"{n} of") and "size=" in address(tab)
    if curve:
        assert "kl 0.430 (95 %: 0.387 to 0.516), measured at this size" in fact.inner_text()
    else:
        assert "Not measured of these edges; as many others have kl 0.430" in fact.inner_text()
    title = panel(tab).locator("h2").first.inner_text()
    assert title == f"Judged measured at {n} edges; you look at as many others"
    tab.get_by_role("button", name="as found").click()
    assert "kl 0.430 (95 %: 0.370 to 0.510), measured at this size" in fact.inner_text()


def test_a_circuit_without_edges_stands_before_the_curves_scale(open_page: Open):
    one = run("ioi")
    assert one.curve is not None
    points = (*one.curve.points, Point("ranking", 0, 999.7))
    tab = open_page(replace(one, curve=replace(one.curve, points=points)))
    assert "999" not in tab.locator(".curve").inner_html() and "1,000 at 0 edges" in tab.locator(".curve").inner_html()
    at = "all => Object.fromEntries(all.map(each => [each.textContent, +each.getAttribute('x')]))"
    ticks = tab.eval_on_selector_all(".curve text.middle", at)
    places = tab.eval_on_selector_all(".curve .point", "all => all.map(each => +each.getAttribute('cx'))")
    assert min(places) == ticks["0"] < sorted(places)[1] - 20 and "1" not in ticks


def test_another_tasks_value_is_not_taken_for_the_circuits(open_page: Open):
    one = run("ioi")
    tab = open_page(replace(one, curve=None, evaluations={"other": one.evaluations[""]}))
    assert "Nothing was measured of this circuit" in tab.locator(".size .fact").inner_text()


def test_a_component_lists_its_edges_in_and_out_sorted(open_page: Open):
    one = run("ioi", absolute=True, share=0.5)
    circuit, graph = one.circuit, one.circuit.graph
    scores = circuit.scores
    assert scores is not None
    tab = open_page(one)
    cell(tab, "a2.h1").click()
    assert panel(tab).locator("h2").inner_text().startswith("a2.h1")
    rows = [row.inner_text().split("\n") for row in panel(tab).locator(".rows").nth(0).locator(".row").all()]
    readers = {graph.reader_names[r] for r in graph.readers_of(graph.writer(2, 1))}
    edges = [e for e in circuit.actual.nonzero()[:, 0].tolist() if graph.reader_names[graph.edge_reader[e]] in readers]
    edges.sort(key=lambda e: -abs(float(scores[e])))
    names = [graph.edge_name(e).split(" -> ") for e in edges]
    assert [row[0] for row in rows] == [f"{writer} → {reader[-1]}" for writer, reader in names]
    signs = ["−" if scores[e] < 0 else "+" for e in edges]
    assert [row[1][0] for row in rows] == signs and {"+", "−"} <= set(signs)
    panel(tab).locator(".row").first.click()
    facts = panel(tab).inner_text()
    assert f"of {graph.n_edges}" in facts and "in this circuit\nyes" in facts
    panel(tab).get_by_role("button", name=names[0][0], exact=True).click()
    assert panel(tab).locator("h2").inner_text().startswith(names[0][0])


def test_an_edge_says_in_how_many_circuits_it_is(open_page: Open):
    tab = open_page(run("ioi"), run("other", 1), fragment="#edge=5")
    assert "In " in panel(tab).locator("h3").inner_text() and panel(tab).locator("tbody tr").count() == 2


def test_the_smallest_circuit_with_an_edge_is_the_smallest_in_which_it_can_carry_signal(open_page: Open):
    one = run("ioi")
    scores = Scores.of(one.circuit)
    order = scores.values.argsort(descending=True, stable=True).tolist()

    def live(edge: int, size: int) -> bool:
        return bool(scores.top(size).actual[edge])

    edge = next(edge for place, edge in enumerate(order) if not live(edge, place + 1))
    tab = open_page(one, fragment=f"#edge={edge}")
    panel(tab).get_by_role("button", name="Smallest circuit that has it").click()
    assert "in this circuit\nyes" in panel(tab).inner_text()
    sizes = re.search(r"size=(\d+)", address(tab))
    assert sizes and live(edge, int(sizes[1])) and not live(edge, int(sizes[1]) - 1)


def test_an_edge_and_examples_without_evidence_say_how_to_measure_it(open_page: Open):
    one = run("ioi")
    tab = open_page(one, fragment=f"#edge={one.circuit.actual.nonzero()[0, 0]}")
    command = "edgewise view RUN --evidence 200"
    assert f"not measured: `{command}` measures them" in panel(tab).inner_text()
    tab.get_by_role("button", name="Examples").click()
    assert f"the right answer, were not measured: `{command}`" in panel(tab).inner_text()


@pytest.mark.parametrize("changes", [{"neurons": ((0, ((1,), (2,))),)}, {"spans": ("subject", "end")}])
def test_what_no_command_measures_is_not_said_to_be(open_page: Open, changes: dict[str, Any]):
    one = run("ioi", spec=replace(SPEC, **changes))
    tab = open_page(one, fragment=f"#edge={one.circuit.actual.nonzero()[0, 0]}")
    assert "are not patched one by one" in panel(tab).inner_text()
    tab.get_by_role("button", name="Examples").click()
    assert "--evidence" not in panel(tab).inner_text()


def test_one_example_has_no_interval(open_page: Open):
    one = run("ioi")
    judged = one.evaluations[""]
    row = replace(judged.metrics["kl"], low=None, high=None)
    tab = open_page(replace(one, evaluations={"": replace(judged, n=1, metrics={"kl": row})}), fragment="#tab=examples")
    assert "1 test example, a circuit of" in panel(tab).inner_text()
    assert panel(tab).locator("td[title]").count() == 0


def test_examples_of_another_size_say_so(open_page: Open):
    one = run("ioi")
    tab = open_page(one, fragment="#tab=examples")
    assert "you look at" not in panel(tab).inner_text()
    tab.keyboard.press("[")
    now = tab.get_by_label("Actual edges, at most").input_value()
    title = panel(tab).locator("h2").first.inner_text()
    assert title == f"Judged measured at {one.circuit.n_actual} edges; you look at {now}"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ranking", "learned by ranking: it has no unit"),
        ("eap", "an estimate, by eap, of what keeping the edge adds to logit_diff"),
        ("exact-patching", "what keeping the edge adds to logit_diff"),
        ("mine", "the method's own number"),
    ],
)
def test_an_edge_says_what_its_score_is(name: str, said: str):
    one = run("ioi")
    circuit = replace(one.circuit, provenance={"method": {"name": name}, "task": {"metric": "logit_diff"}})
    score = pack_circuits([replace(one, circuit=circuit)], Packer())["circuits"][0]["score"]
    assert score.startswith(said) and score.endswith("The highest come first.")


def test_scores_and_signs_are_explained(open_page: Open):
    tab = open_page(run("ioi"), fragment="#edge=5")
    assert "The score is the method's own number" in panel(tab).inner_text()
    tab.keyboard.press("?")
    terms = tab.get_by_role("dialog").locator("dt").all_inner_texts()
    assert {"score", "kl", "distance", "random, EAP", "shade of a box", "width of a line", "asked for, actual"} <= {
        *terms
    }


def test_a_label_stands_on_the_box_in_the_picture_and_in_a_search(open_page: Open, tmp_path: Path):
    tab = open_page(run("ioi"), fragment="#label=a1.h2%3Dname+mover+of+the+second+kind&label=m2%3D%F0%9F%90%99+one")
    tab.locator("summary").click()
    with tab.expect_download() as saved:
        tab.get_by_role("button", name="Picture as SVG").click()
    saved.value.save_as(tmp_path / "labelled.svg")
    text = (tmp_path / "labelled.svg").read_text("utf-8")
    assert re.search(">1.2 name mover[a-z ]*…</text>", text) and ">m2 🐙 one</text>" in text
    tab.get_by_label("Search").fill("1.2")
    assert "name mover of the second kind" in tab.locator(".hits button").first.inner_text()
    assert "name mover of the second kind" in str(cell(tab, "a1.h2").get_attribute("title"))


def test_two_circuits_are_compared_edge_by_edge(open_page: Open):
    a, b = run("first", 0), run("second", 1)
    tab = open_page(a, b)
    tab.get_by_label("Compare with").select_option(label="second")
    other = Scores.of(b.circuit).top_actual(a.circuit.n_actual)
    counts = [int((x & y).sum()) for x, y in ((a.circuit.kept, other.kept), (a.circuit.kept, ~other.kept))]
    counts.append(int((other.kept & ~a.circuit.kept).sum()))
    assert f"{counts[0]} edges in both, {counts[1]} only in A, {counts[2]} only in B" in panel(tab).inner_text()
    said_of_both = panel(tab).locator("div.fact").inner_text()
    assert f"A, first with {a.circuit.n_actual} edges: kl 0.430 (95 %: 0.387 to 0.516), measured" in said_of_both
    assert f"B, second with {other.n_actual} edges: " in said_of_both
    smaller = Scores.of(a.circuit).at(0.9, actual=True)
    tab.get_by_label("Compare with").select_option(value=f"at{smaller.n_actual}")
    shared = int((a.circuit.kept & smaller.kept).sum())
    said_of_both = panel(tab).locator("div.fact").inner_text()
    assert f"{shared} edges in both" in said_of_both and "kl 1.90" in said_of_both
    tab.get_by_label("Compare with").select_option(label="second")
    for choice, kept in (
        ("both", a.circuit.kept & other.kept),
        ("only A", a.circuit.kept & ~other.kept),
        ("only B", other.kept & ~a.circuit.kept),
    ):
        tab.get_by_label("Show").select_option(label=choice)
        by_writer = torch.bincount(a.circuit.graph.edge_writer[kept].long(), minlength=a.circuit.graph.n_writers)
        found = shown(tab)
        assert [found[name][1] for name in a.circuit.graph.writer_names] == by_writer.tolist(), choice


def test_what_only_the_other_circuit_has_carries_its_score_and_rank(open_page: Open):
    a, b = run("first", 0), run("second", 1)
    scores, graph = b.circuit.scores, b.circuit.graph
    assert scores is not None
    rank = torch.empty(len(scores), dtype=torch.long)
    rank[scores.argsort(descending=True, stable=True)] = torch.arange(1, len(scores) + 1)
    tab = open_page(a, b, fragment="#beside=1&show=second")
    kept = Scores.of(b.circuit).top_actual(a.circuit.n_actual).kept & ~a.circuit.kept
    best = min(kept.nonzero()[:, 0].tolist(), key=lambda edge: int(rank[edge]))
    row = panel(tab).locator(".row").first
    name, score, place = row.inner_text().split("\n")
    assert name == graph.edge_name(best).replace("->", "→")
    assert float(score) == pytest.approx(float(scores[best]), rel=6e-3) and place == f"B #{rank[best]}"
    row.click()
    facts = panel(tab).inner_text()
    assert f"score in B, second\n{score}\nrank in B, second\n{rank[best]} of {graph.n_edges}" in facts


def test_a_feature_that_writes_to_several_layers_has_a_place_in_each(open_page: Open):
    features = ((0, (1, 3)), (1, (2,)), (2, ()))
    spec = GraphSpec(3, 2, 2, features=features, cross_layer=((0, (1, 2)),), error="kept")
    one = run("crossing", spec=spec, share=0.0)
    tab = open_page(one, fragment="#node=m0.f3>2")
    edges = meeting(one.circuit)["m0.f3>2"]
    assert f"what m0.f3 writes to layer 2: {edges[0]} edges in, {edges[1]} out" in panel(tab).inner_text()
    rows = panel(tab).locator(".rows").last.locator(".name").all_inner_texts()
    assert rows == ["logits"]
    panel(tab).locator(".rows").first.locator(".row").first.click()
    into = panel(tab).locator("dd").nth(1)
    assert into.inner_text().strip() == "m0.f3"  # the feature, and none of its places
    for typed, hit in (
        ("m0.f3>2", "m0.f3>2"),
        ("m0.f3>1 > logits", "m0.f3>1 → logits"),
        ("m0.f3 > a1.h0.q", "m0.f3 → a1.h0.q"),
    ):
        tab.get_by_label("Search").fill(typed)
        assert tab.locator(".hits button").first.inner_text().startswith(hit), typed
    tab.keyboard.press("Escape")
    tab.get_by_role("button", name="About").click()
    assert "error terms kept" in panel(tab).inner_text()


def test_search_by_name_number_label_and_edge(open_page: Open):
    tab = open_page(run("ioi"))
    for typed in ("2.1", "L2H1", "a2.h1"):
        tab.keyboard.press("/")
        tab.keyboard.type(typed)
        tab.keyboard.press("Enter")
        assert panel(tab).locator("h2").inner_text().startswith("a2.h1")
        tab.keyboard.press("Escape")
        assert panel(tab).locator("h2").first.inner_text() == "Strongest edges"
    tab.keyboard.press("/")
    tab.keyboard.type("embed > m")
    hit = tab.locator(".hits button").first
    name = hit.inner_text()
    hit.click()
    assert name.startswith("embed → m") and panel(tab).locator("h2").inner_text().startswith(name)
    tab.get_by_label("Search").fill("nobody")
    assert tab.locator(".hits").inner_text() == "nothing of that name"


def test_a_heads_inputs_are_those_of_its_query_key_or_value(open_page: Open):
    one = run("ioi", share=0.5)
    circuit, graph = one.circuit, one.circuit.graph
    tab = open_page(one, fragment="#node=a2.h1")
    for role, reader in zip("qkv", graph.readers_of(graph.writer(2, 1)), strict=True):
        n = int((circuit.actual & (graph.edge_reader == reader)).sum())
        panel(tab).get_by_role("button", name=f"{role} {n}", exact=True).click()
        names = panel(tab).locator(".rows").first.locator(".name").all_inner_texts()
        assert len(names) == n and all(name.endswith(f"→ {role}") for name in names)


def test_a_box_is_grey_where_nothing_goes_out(open_page: Open, tmp_path: Path):
    """Heads that share a key with one that is in the circuit have edges in, and none out."""
    one = run("ioi", share=0.9)
    met = meeting(one.circuit)
    idle = [name for name, (into, out) in met.items() if into and not out and name != "logits"]
    assert idle
    tab = open_page(one)
    grey, blue = (
        tab.evaluate(f"() => getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()")
        for name in ("quiet", "accent")
    )
    tab.locator("summary").click()
    with tab.expect_download() as saved:
        tab.get_by_role("button", name="Picture as SVG").click()
    saved.value.save_as(tmp_path / "grey.svg")
    boxes = re.findall(r'<rect[^>]*fill="(#[0-9a-f]+)"[^>]*stroke-width', (tmp_path / "grey.svg").read_text("utf-8"))
    busy = sum(out > 0 for _, out in met.values()) + 1
    assert boxes.count(grey) == len(met) - busy and boxes.count(blue) == busy
