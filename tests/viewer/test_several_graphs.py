"""Merged graphs, differences and dashboards in the page: every number beside an edge or a node is the library's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import torch

import edgewise as ew
from edgewise import InputError
from edgewise.attribution import MERGED_KINDS, Difference, Keys, MergedGraph, difference, merge
from edgewise.viewer import GraphArrays, difference_arrays, page, read_dashboards
from edgewise.viewer._graphs import Several
from tests.attribution.made_up import made_up
from tests.viewer.conftest import HOSTILE

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def merged() -> MergedGraph:
    return merge([made_up(seed) for seed in range(5)])


@pytest.fixture(scope="module")
def differing() -> Difference:
    return difference([made_up(seed) for seed in range(3)], [made_up(seed) for seed in (5, 6, 7)])


def rows(tab: Any, place: int) -> list[list[str]]:
    lists = tab.locator(".panel .rows").nth(place).locator(".row").all()
    return [row.inner_text().split("\n") for row in lists]


def number(text: str) -> float:
    return float(text.replace("−", "-").replace("+", "").replace(",", ""))


def interval_of(text: str) -> tuple[float, ...]:
    return tuple(number(each) for each in text.removeprefix("95 %: ").split(" to "))


def root_weights(nodes: Keys, weights: torch.Tensor) -> torch.Tensor:
    """Of each node; 0 for those that are no roots."""
    is_root = nodes.kind == MERGED_KINDS.index("root")
    return torch.where(is_root, weights.double()[nodes.index.clamp(0, len(weights) - 1)], 0.0)


def by_importance(values: list[float], sizes: list[float], targets: torch.Tensor, mass: torch.Tensor) -> list[int]:
    """Edges by their share of what flows into their target, times the target's influence."""
    flow = torch.zeros_like(mass).index_add_(0, targets, torch.tensor(sizes).double().abs())
    matters = torch.tensor(values).double().abs() / flow[targets] * mass[targets]
    return matters.argsort(descending=True, stable=True).tolist()


def test_a_merged_graph_lists_means_intervals_prompts_and_signs(merged: MergedGraph, open_page: Open, tmp_path: Path):
    merged.save(tmp_path / "merged.safetensors")
    path = ew.view(tmp_path, show=False)
    tab = open_page(text=path.read_text("utf-8"), fragment="#influence=1")
    table = merged.table(1000)
    roots = root_weights(merged.nodes, merged.root_weights)
    order = by_importance(table["mean"], table["mean"], merged.targets, merged.influence.mean + roots)
    shown = rows(tab, 0)
    assert len(shown) == 40
    for i, row in zip(order, shown, strict=False):
        assert row[0] == f"{table['source'][i]} → {table['target'][i]}"
        assert number(row[1]) == pytest.approx(table["mean"][i], rel=6e-3)
        interval, prompts, signs = row[2].split(" · ")
        assert interval_of(interval) == pytest.approx((table["low"][i], table["high"][i]), rel=6e-3, abs=1e-4)
        assert prompts == f"in {round(5 * table['share'][i])} of 5 prompts"
        assert signs == f"same sign in {100 * table['agreement'][i]:.0f} %"
    names = [name for name, kind in zip(merged.names, merged.nodes.kind.tolist(), strict=True) if kind == 3]
    influence = dict(zip(merged.names, merged.influence.mean.tolist(), strict=True))
    assert [row[0] for row in rows(tab, 1)][:5] == sorted(names, key=lambda name: -influence[name])[:5]
    tab.get_by_label("Edges", exact=True).select_option(label="of every prompt")
    every = [i for i in order if table["share"][i] == 1]
    assert [row[0] for row in rows(tab, 0)] == [f"{table['source'][i]} → {table['target'][i]}" for i in every][:40]
    tab.locator(".panel .row").first.click()
    facts = tab.locator(".panel").inner_text()
    assert f"same sign in {100 * table['agreement'][every[0]]:.0f} %" in facts and "those of one prompt" in facts
    tab.locator(".panel dd button").nth(1).click()
    into = [i for i in every if table["target"][i] == table["target"][every[0]]]
    shown = tab.locator(".panel").inner_text()
    assert f"Inputs ({len(into)})" in shown and "of 5 prompts" in shown
    assert all(row[2].split(" · ")[1] == "in 5 of 5 prompts" for row in rows(tab, 0))
    named = max(names, key=lambda name: influence[name])
    tab.evaluate("hash => { location.hash = hash }", "influence=1&" + urlencode({"label": json.dumps([named, "mine"])}))
    tab.wait_for_function("() => document.querySelector('.panel').innerText.includes('mine')")
    assert rows(tab, 1)[0][0] == "mine" and any("mine" in row[0].split(" → ") for row in rows(tab, 0))


def test_a_graph_of_one_prompt_has_no_intervals(open_page: Open, tmp_path: Path):
    merge([made_up()]).save(tmp_path / "merged.safetensors")
    tab = open_page(text=ew.view(tmp_path, show=False).read_text("utf-8"), fragment="#influence=1")
    assert all(row[2] == "in 1 of 1 prompt · same sign in 100 %" for row in rows(tab, 0))
    assert "Means over 1 prompt, of" in tab.locator(".panel").inner_text()
    assert "95 %" not in tab.locator(".panel").inner_text()
    choices = tab.get_by_label("Edges", exact=True).inner_text()
    assert "of every prompt" in choices and "whose interval has no 0" not in choices


def test_a_difference_lists_both_sides_and_says_which_is_larger(differing: Difference, open_page: Open):
    arrays = difference_arrays(differing, "what differs", (HOSTILE, "other"))
    tab = open_page(text=page([arrays]), fragment="#influence=1")
    columns = {"first": differing.first, "second": differing.second, "difference": differing.value}
    columns |= {"low": differing.intervals[:, 0], "high": differing.intervals[:, 1]}
    table = {name: column.tolist() for name, column in columns.items()}
    for end, which in (("source", differing.sources), ("target", differing.targets)):
        table[end] = [differing.names[i] for i in which.tolist()]
    either = torch.maximum(differing.first.abs(), differing.second.abs()).tolist()
    mass = torch.maximum(differing.first_influence, differing.second_influence)
    mass = mass + root_weights(differing.nodes, differing.root_weights)
    order = by_importance(table["difference"], either, differing.targets, mass)
    shown = rows(tab, 0)
    for i, row in zip(order, shown, strict=False):
        assert row[0] == f"{table['source'][i]} → {table['target'][i]}"
        assert number(row[1]) == pytest.approx(table["difference"][i], rel=6e-3)
        first, second, interval, side = row[2].split(" · ")
        said = number(first.removeprefix("A ")), number(second.removeprefix("B "))
        assert said == pytest.approx((table["first"][i], table["second"][i]), rel=6e-3)
        assert interval_of(interval) == pytest.approx((table["low"][i], table["high"][i]), rel=6e-3, abs=1e-4)
        a, b = table["first"][i], table["second"][i]
        assert side == (
            "only in A" if not b else "only in B" if not a else f"larger in {'A' if abs(a) > abs(b) else 'B'}"
        )
    nodes = differing.node_table()
    inner = [i for i, name in enumerate(nodes["node"]) if ".f" in name]
    assert [row[0] for row in rows(tab, 1)] == [nodes["node"][i] for i in inner][:40]
    assert number(rows(tab, 1)[0][1]) == pytest.approx(nodes["difference"][inner[0]], rel=6e-3)
    assert HOSTILE[:20] in tab.locator(".panel").inner_text() and tab.locator(".panel img").count() == 0
    tab.get_by_label("Edges", exact=True).select_option(value="second")
    assert all("B" in row[2].split(" · ")[-1] for row in rows(tab, 0))
    tab.locator(".panel .rows").nth(1).locator(".row").first.click()
    assert "A − B" not in tab.locator(".panel h2").inner_text() and "influence" in tab.locator(".panel").inner_text()


def test_sides_that_are_equal_are_said_to_be(open_page: Open):
    tab = open_page(text=page([difference_arrays(difference(made_up(0), made_up(0)), "none")]), fragment="#influence=1")
    assert {row[2].rpartition(" · ")[2] for row in rows(tab, 0)} == {"as large in both"}


def test_a_graph_of_very_many_nodes_is_listed(open_page: Open):
    """More than a call has room for arguments."""
    n = 130_000
    kind, layer, root = np.full(n + 2, 3), np.zeros(n + 2, int), np.zeros(n + 2)
    kind[[0, -1]], layer[[0, -1]], root[-1] = (0, 6), (-1, 1), 1
    weight = np.linspace(1, -1, n)
    size = np.abs(np.concatenate([[0], weight, [0]])) / n
    nodes = {name: np.zeros(n + 2) for name in ("low", "high", "share")}
    edges = {"low": weight, "high": weight, "share": np.ones(n), "agreement": np.ones(n)}
    several = Several("merged", (), (2,), False, size, nodes, edges)
    names = [f"m0.f{i}@0" for i in range(n + 2)]
    offsets = np.concatenate([np.zeros(n + 2, int), [n]])
    where = (kind, layer, np.zeros(n + 2, int), np.zeros(n + 2), names, [""] * (n + 2))
    big = GraphArrays("big", ["a"], *where, root, offsets, np.arange(1, n + 1), weight, several=several)
    tab = open_page(text=page([big]), fragment="#influence=1")
    assert rows(tab, 0)[0][0] == f"m0.f1@0 → {names[-1]}" and len(rows(tab, 1)) == 40


def test_graphs_joined_by_places_are_shown_as_flows(open_page: Open, tmp_path: Path):
    found = difference(made_up(0, "feature"), made_up(0, "neuron"), by="places")
    found.save(tmp_path / "difference.safetensors")
    path = ew.view(tmp_path / "difference.safetensors", show=False)
    tab = open_page(text=path.read_text("utf-8"), fragment="#influence=1")
    text = tab.locator(".panel").inner_text()
    assert "influence along it" in text and ".nodes@" in text and "(1 prompt)" in text


def detail(tokens: list[str], values: list[float]) -> dict[str, Any]:
    example = {"tokens": tokens, "tokens_acts_list": values}
    return {"top_logits": ["up"], "bottom_logits": [HOSTILE], "examples_quantiles": [{"examples": [example]}]}


def test_dashboards_are_read_in_every_place_where_they_may_lie(tmp_path: Path):
    long = [f"t{i}" for i in range(60)]
    (tmp_path / "12").mkdir()
    (tmp_path / "m3.f7.json").write_text(json.dumps(detail(["a", "b"], [0.0, 2.0])))
    (tmp_path / "12" / "410.json").write_text(json.dumps(detail(long, [float(i == 40) for i in range(60)])))
    (tmp_path / "8.json").write_text(json.dumps(detail(["x"], [1.0])))  # Cantor's pair of layer 1 and feature 2
    batch = {
        "features": [
            {
                "feature_index": 5,
                "pos_str": ["p"],
                "frac_nonzero": 0.25,
                "activations": [{"tokens": ["q"], "values": [3.0]}],
            }
        ]
    }
    (tmp_path / "12" / "batch-0.json").write_text(json.dumps(batch))
    found = read_dashboards(tmp_path)
    assert set(found) == {(3, 7), (12, 410), (1, 2), (12, 5)}
    assert found[3, 7]["contexts"] == [{"tokens": ["a", "b"], "values": [0.0, 2.0], "at": 1}]
    cut = found[12, 410]["contexts"][0]
    assert len(cut["tokens"]) == 24 and cut["tokens"][cut["at"]] == "t40" and cut["values"][cut["at"]] == 1.0
    assert found[12, 5]["top"] == ["p"] and found[12, 5]["density"] == 0.25
    one = tmp_path / "all" / "one.json"
    one.parent.mkdir()
    one.write_text(json.dumps({"m3.f7": detail(["a"], [1.0]), "other": 3}))
    assert set(read_dashboards(one)) == {(3, 7)}
    for text, said in (
        ("[]", "no dashboard, which is an object"),
        ("{", "no dashboard in JSON"),
        ("{}", "no dashboards there"),
    ):
        one.write_text(text)
        with pytest.raises(InputError, match=said):
            read_dashboards(one)


def test_a_features_dashboard_stands_beside_it(open_page: Open, tmp_path: Path):
    graph = made_up(0)
    name = next(name for name in graph.names if ".f" in name)
    folder = tmp_path / "dashboards"
    folder.mkdir()
    (folder / f"{name.split('@')[0]}.json").write_text(json.dumps(detail([HOSTILE, " fires"], [0.1, 4.0])))
    path = ew.view(graph, out=tmp_path / "graph.html", show=False, dashboards=folder)
    tab = open_page(text=path.read_text("utf-8"), fragment=f"#influence=1&node={name}")
    text = tab.locator(".panel").inner_text()
    assert "Dashboard" in text and "“up”" in text and HOSTILE[:20] in text
    assert (
        tab.locator(".panel .context mark").all_inner_texts() == [" fires"] and tab.locator(".panel img").count() == 0
    )


def test_another_tools_feature_has_its_dashboard_too(open_page: Open, tmp_path: Path):
    node = {"node_id": "3_7_0", "layer": "3", "feature_type": "cross layer transcoder", "ctx_idx": 0}
    (tmp_path / "graph.json").write_text(json.dumps({"nodes": [node], "links": []}))
    (tmp_path / "dashboards").mkdir()
    (tmp_path / "dashboards" / "m3.f7.json").write_text(json.dumps(detail(["fires"], [1.0])))
    path = ew.view(tmp_path / "graph.json", show=False, dashboards=tmp_path / "dashboards")
    tab = open_page(text=path.read_text("utf-8"), fragment="#node=3_7_0")
    assert tab.locator(".panel .context mark").all_inner_texts() == ["fires"]


def test_errors_and_neurons_of_other_tools_are_not_taken_for_features(open_page: Open, tmp_path: Path):
    """circuit-tracer's errors were named `0_LAYER_POSITION`; in a graph of neurons `3_7_0` is a neuron."""
    kinds = {"0_3_0": "mlp reconstruction error", "3_7_0": "cross layer transcoder"}
    nodes = [{"node_id": i, "layer": "3", "feature_type": kind, "ctx_idx": 0} for i, kind in kinds.items()]
    (tmp_path / "dashboards").mkdir()
    for name in ("m0.f3", "m3.f7"):
        (tmp_path / "dashboards" / f"{name}.json").write_text(json.dumps(detail(["fires"], [1.0])))
    (tmp_path / "labels.json").write_text(json.dumps({"m0.f3": "wrong", "m3.f7": "feature's", "m3.n7": "neuron's"}))
    for scan, said in (("tiny", ["error", "feature's"]), ("tiny-neurons", ["error", "neuron's"])):
        content = {"nodes": nodes, "links": [], "metadata": {"scan": scan}}
        (path := tmp_path / f"{scan}.json").write_text(json.dumps(content))
        known: dict[str, Any] = {"labels": tmp_path / "labels.json"}
        if scan == "tiny":
            known["dashboards"] = tmp_path / "dashboards"
        else:
            with pytest.raises(InputError, match="it has none of the graph's features"):
                ew.view(path, show=False, dashboards=tmp_path / "dashboards")
        text = ew.view(path, show=False, **known).read_text("utf-8")
        for node, words in zip(kinds, said, strict=True):
            found = open_page(text=text, fragment=f"#node={node}").locator(".panel").inner_text()
            assert words in found and "wrong" not in found
            assert ("Dashboard" in found) == (words == "feature's")
