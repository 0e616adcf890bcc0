"""Our attribution graphs in the page: names, kinds, numbers, scores and ledger are the graph's own."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import torch

import edgewise as ew
from edgewise.attribution import AttributionGraph, edge_reasons, influence, prune, scores
from edgewise.viewer import arrays_of, page
from edgewise.viewer._attribution import read_graph
from tests.attribution.made_up import made_up
from tests.tiny import tiny
from tests.viewer.circuit_tab import address


@pytest.fixture(scope="module")
def graph() -> AttributionGraph:
    return ew.attribute(tiny("gpt2"), [1, 2, 3, 4])


def test_the_arrays_are_the_graphs(graph: AttributionGraph):
    found = arrays_of(graph, "it")
    assert found.ids == graph.names and found.tokens == list(graph.tokens)
    roots = np.flatnonzero(found.root_weight)
    assert [graph.names[i] for i in roots] == list(graph.roots)
    assert found.root_weight[roots] == pytest.approx(graph.root_weights.tolist())
    for name, number in (("token", 0), ("neuron", 2), ("error", 4), ("root", 6)):
        assert ((found.kind == number) == graph.nodes.is_kind(name).numpy()).all()  # type: ignore[arg-type]
    biases = graph.nodes.is_kind("attention bias", "MLP bias", "reading bias").numpy()
    assert ((found.kind == 5) == biases).all() and biases.any()


def test_the_page_says_what_the_library_says(graph: AttributionGraph, open_page: Callable[..., Any], tmp_path: Path):
    graph.save(tmp_path / "graph.safetensors")
    path = ew.view(tmp_path, show=False)
    assert path.name == "graph.html" and ew.view(tmp_path / "graph.safetensors", show=False) == path
    tab = open_page(text=path.read_text("utf-8"), fragment="#influence=1")
    heading = "replacement"
    tab.wait_for_function("text => document.querySelector('.panel').innerText.includes(text)", arg=heading)
    tab.wait_for_function("() => /%/.test(document.querySelector('.scores')?.innerText ?? '')")
    words = [float(each) / 100 for each in re.findall(r"([\d.]+) %", tab.locator(".scores").inner_text())]
    assert words == pytest.approx(list(scores(graph)), abs=6e-4)
    inner = graph.nodes.is_kind("neuron").numpy()
    best = int(np.argmax(np.where(inner, influence(graph).numpy(), -1)))
    tab.evaluate("hash => { location.hash = hash }", f"influence=1&node={graph.names[best]}")
    tab.wait_for_function("id => document.querySelector('.panel dd')?.textContent === id", arg=graph.names[best])
    incoming = graph.incoming(best)[:40]
    rows = tab.locator(".panel .rows").first.locator(".row")
    assert rows.count() == len(incoming)
    said = [float(row.inner_text().split("\n")[-1].split(" ")[0].replace("−", "-")) for row in rows.all()]
    assert said == pytest.approx([weight for _, weight in incoming], rel=6e-3)
    assert "in edges" in tab.locator(".panel").inner_text() and "residual" in tab.locator(".panel").inner_text()


def scores_shown(tab: Any) -> list[float]:
    tab.wait_for_function("() => /%/.test(document.querySelector('.scores')?.innerText ?? '')")
    return [float(each) / 100 for each in re.findall(r"([\d.]+) %", tab.locator(".scores").inner_text())]


def test_replacement_and_completeness_are_the_librarys(open_page: Callable[..., Any]):
    """Of a graph with errors, and of some of its features, the others counting as errors."""
    made = made_up(0)
    inner = made.nodes.is_kind("feature").nonzero()[:, 0].tolist()[::2]
    keep = torch.zeros(made.n_nodes, dtype=torch.bool)
    keep[inner] = True
    whole, some = scores(made), scores(made.with_errors(keep))
    assert 0.1 < some.completeness < whole.completeness < 0.95
    text = page([arrays_of(made, "made up")])
    assert scores_shown(open_page(text=text, fragment="#influence=1")) == pytest.approx(list(whole), abs=6e-4)
    pins = urlencode([("tab", "pinned"), *(("pin", made.names[i]) for i in inner)])
    assert scores_shown(open_page(text=text, fragment=f"#influence=1&{pins}")) == pytest.approx(list(some), abs=6e-4)


def test_a_pruned_graphs_scores_are_said_to_be_of_what_is_kept(graph: AttributionGraph, open_page: Callable[..., Any]):
    small = prune(graph, 0.5, 0.9)
    assert small.n_nodes < graph.n_nodes
    tab = open_page(text=page([arrays_of(small, "small")]), fragment="#influence=1")
    said = tab.locator(".panel").inner_text()
    assert "What is kept of the graph" in said and f"{small.ledger.share_outside:.1%}".replace("%", " %") in said
    assert "The whole graph" not in said and "both are 1" not in said


def test_an_edges_heads_and_their_reasons_are_a_click_away(
    graph: AttributionGraph, open_page: Callable[..., Any], tmp_path: Path
):
    reasons = edge_reasons(graph, 40, n_reasons=3)
    graph.save(tmp_path / "graph.safetensors")
    reasons.save(tmp_path / "reasons.safetensors")
    place, why = next((place, why) for place, why in reasons.whys.items() if why.reasons)
    source, target = reasons.sources[place], reasons.targets[place]
    text = ew.view(tmp_path, show=False).read_text("utf-8")
    tab = open_page(text=text, fragment=f"#influence=1&node={target}")
    label = dict(zip(graph.names, arrays_of(graph, "it").labels, strict=True))[source] or source
    tab.get_by_role("button", name=f"Why {label}", exact=True).click()
    panel = tab.locator(".panel")
    assert panel.locator("h2").inner_text().startswith(f"{label} → {target}") and "edge=" in address(tab)
    heads = reasons.heads[place]
    largest = int(heads.abs().argmax())
    layer, head = divmod(largest, heads.shape[1])
    row = panel.locator(".row").first.inner_text().split("\n")
    assert row[0] == f"a{layer}.h{head}"
    assert float(row[1].split(" ")[0].replace("−", "-")) == pytest.approx(float(heads[layer, head]), rel=6e-3)
    for cells in panel.locator(".split tbody tr").all():
        number, past, through = (each.replace("−", "-").rstrip(" %") for each in cells.inner_text().split("\t")[:3])
        shares = (
            reasons.past[place, int(number)] / reasons.weight[place],
            heads[int(number)].sum() / reasons.weight[place],
        )
        assert [float(past), float(through)] == pytest.approx([100 * float(each) for each in shares], abs=0.51)
    first = why.reasons[0]
    said = panel.inner_text()
    assert f"a{first.layer}.h{first.head} at" in said and f"looks at “{graph.tokens[first.key]}”@{first.key}" in said
    assert all(term.query in said and term.key in said for term in first.pairs[:2])
    tab.keyboard.press("Escape")
    assert "What is explained" in panel.inner_text()


def test_reasons_of_another_prompt_are_left_out_and_named(graph: AttributionGraph, tmp_path: Path):
    other = ew.attribute(tiny("gpt2"), [4, 3, 2, 1])
    edge_reasons(other, 3, n_reasons=0).save(tmp_path / "reasons.safetensors")
    graph.save(tmp_path / "graph.safetensors")
    assert "reasons.safetensors is of another prompt" in ew.view(tmp_path, show=False).read_text("utf-8")


def test_reasons_of_another_model_are_left_out_and_named(graph: AttributionGraph, tmp_path: Path):
    """`attribute --force` leaves them there."""
    reasons = edge_reasons(graph, 30, n_reasons=0)
    reasons.save(tmp_path / "reasons.safetensors")
    replace(graph, weight=-graph.weight).save(tmp_path / "graph.safetensors")
    found = read_graph(tmp_path)
    assert found.reasons is None and not found.writes
    assert "reasons.safetensors is of another prompt's, model's or setting's graph" in found.notes[0]
    changed = graph.weight.clone()
    gone = reasons.edges_in(graph)[1][:3]
    changed[gone] *= 1.1
    replace(graph, weight=changed).save(tmp_path / "graph.safetensors")
    found = read_graph(tmp_path)
    assert found.reasons is not None and len(found.reasons.edge) == 27
    assert not set(gone.tolist()) & set(found.reasons.edge.tolist())
    assert found.notes == (
        "3 edges of reasons.safetensors have another weight in this graph, so their heads are not shown.",
    )


def test_labels_that_another_tool_gave_are_shown(graph: AttributionGraph):
    name = graph.names[int(graph.nodes.is_kind("neuron", "feature").nonzero()[0])]
    labelled = replace(graph, provenance=graph.provenance | {"labels": {name: "days of the week"}})
    arrays = arrays_of(labelled, "x")
    assert arrays.labels[graph.names.index(name)] == "days of the week"
    assert sum(label == "days of the week" for label in arrays.labels) == 1
