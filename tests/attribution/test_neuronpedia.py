"""Graphs in Neuronpedia's files: what is written is read again; what is hostile is refused in one line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise import InputError
from edgewise.attribution import import_graph, influence, prune
from edgewise.attribution.formats._foreign import cumulative
from tests.attribution.foreign import SCHEMA, by_name, foreign, numbers, reading, written
from tests.attribution.made_up import L, made_up


@pytest.mark.parametrize("kind", ["feature", "neuron"])
@pytest.mark.parametrize("seed", [0, 1])
def test_graph_json_is_read_as_it_was_written(tmp_path: Path, kind: str, seed: int):
    graph = made_up(seed, kind)
    content = written(graph, tmp_path / "g.json")
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft7Validator(SCHEMA).validate(content)
    again = import_graph(tmp_path / "g.json")
    assert numbers(again) == numbers(graph)
    assert again.weight.dtype == graph.weight.dtype
    assert by_name(again, again.nodes.value) == pytest.approx(by_name(graph, graph.nodes.value), rel=1e-12)
    assert by_name(again, influence(again)) == pytest.approx(by_name(graph, influence(graph)), rel=1e-9)
    assert by_name(again, again.ledger.outside) == pytest.approx(by_name(graph, graph.ledger.outside), abs=1e-12)
    assert (again.ids.tolist(), again.tokens, again.roots) == (graph.ids.tolist(), graph.tokens, graph.roots)
    assert torch.equal(again.root_weights, graph.root_weights)
    assert (again.settings, again.provenance) == (graph.settings, graph.provenance)


def test_a_byte_order_mark_is_left_out(tmp_path: Path):
    written(made_up(), tmp_path / "g.json")
    (tmp_path / "marked.json").write_text((tmp_path / "g.json").read_text("utf-8"), "utf-8-sig")
    assert numbers(import_graph(tmp_path / "marked.json")) == numbers(made_up())


def test_ids_are_unique_and_as_published(tmp_path: Path):
    graph = made_up(n_inner=9)
    nodes = written(graph, tmp_path / "g.json")["nodes"]
    assert len({node["node_id"] for node in nodes}) == len(nodes)
    for node in nodes:
        if node["feature_type"] == "cross layer transcoder":
            layer, index, position = map(int, node["node_id"].split("_"))
            assert (str(layer), position) == (node["layer"], node["ctx_idx"])
            assert node["feature"] == (layer + index) * (layer + index + 1) // 2 + index
        if node["feature_type"] == "logit":
            assert node["layer"] == str(L + 1)
            assert float(node["clerp"].split("(p=")[-1].split(")")[0]) == pytest.approx(node["token_prob"], abs=6e-4)
    # what viewers identify a node by
    assert len({(node["layer"], node["feature"], node["ctx_idx"], node["feature_type"]) for node in nodes}) == len(
        nodes
    )


def test_influence_is_the_cumulative_rank(tmp_path: Path):
    graph = made_up()
    nodes = written(graph, tmp_path / "g.json")["nodes"]
    found = influence(graph)
    order = sorted(range(graph.n_nodes), key=lambda i: -float(found[i]))
    total, so_far = float(found.sum()), 0.0
    for i in order:
        so_far += float(found[i])
        expected = None if nodes[i]["feature_type"] in ("bias", "logit") else pytest.approx(so_far / total)
        assert nodes[i]["influence"] == expected


def test_pruned_on_the_way_out(tmp_path: Path):
    graph, pruning = made_up(n_inner=9), (0.6, 0.9)
    content = written(graph, tmp_path / "g.json", pruning=pruning)
    ranks = by_name(graph, cumulative(influence(graph)))
    again, expected = import_graph(tmp_path / "g.json"), prune(graph, *pruning)
    assert again.n_nodes < graph.n_nodes
    assert numbers(again) == numbers(expected)
    assert set(again.names) == set(expected.names)
    assert content["metadata"]["node_threshold"] == 0.6
    assert content["metadata"]["pruning_settings"] == {"node_threshold": 0.6, "edge_threshold": 0.9}
    for node, name in zip(content["nodes"], expected.names, strict=True):
        assert node["influence"] in (None, pytest.approx(ranks[name]))


def test_what_was_pruned_away_is_not_pinned(tmp_path: Path):
    content = written(made_up(n_inner=9), tmp_path / "g.json")
    ids = [each["node_id"] for each in content["nodes"]]
    content["qParams"] |= {"pinnedIds": ids, "supernodes": [["all", *ids]]}
    (tmp_path / "g.json").write_text(json.dumps(content))
    again = written(import_graph(tmp_path / "g.json"), tmp_path / "h.json", pruning=(0.3, 0.9))
    kept = [each["node_id"] for each in again["nodes"]]
    assert len(kept) < len(ids) and set(again["qParams"]["pinnedIds"]) == set(again["qParams"]["supernodes"][0][1:])
    assert set(again["qParams"]["pinnedIds"]) <= set(kept)


def test_labels_and_groups_stay(tmp_path: Path):
    graph = made_up()
    content = written(graph, tmp_path / "g.json")
    features = [node for node in content["nodes"] if node["feature_type"] == "cross layer transcoder"]
    features[0]["clerp"] = "<b>says & more</b>"
    content["qParams"]["pinnedIds"] = [features[0]["node_id"], "nowhere"]
    content["qParams"]["supernodes"] = [["a group", features[0]["node_id"], features[1]["node_id"]], "nonsense"]
    (tmp_path / "g.json").write_text(json.dumps(content))
    again = written(import_graph(tmp_path / "g.json"), tmp_path / "h.json")
    assert next(n for n in again["nodes"] if n["node_id"] == features[0]["node_id"])["clerp"] == "<b>says & more</b>"
    assert again["qParams"]["pinnedIds"] == [features[0]["node_id"]]
    assert again["qParams"]["supernodes"] == content["qParams"]["supernodes"][:1]


def test_files_of_2025_in_which_two_nodes_have_one_id(tmp_path: Path):
    graph = reading(tmp_path, foreign())
    assert graph.n_layers == 2
    assert numbers(graph) == {
        ("token@1", "m0.f1@1"): 3.5,
        ("m0.f1@1", "m1.f2@1"): 2.0,  # not clear
        ("m0.f1@1", " c"): -1.0,
        ("m1.error@1", " c"): 0.25,
        ("m1.f2@1", " c"): 1.5,
    }
    assert graph.provenance["unclear_links"] == 1
    assert graph.ids.tolist() == [5, 6]
    # what the edges leave out of an activation; of a logit it is not known
    assert by_name(graph, graph.ledger.outside)["m0.f1@1"] == pytest.approx(-0.5)
    assert by_name(graph, graph.nodes.value)[" c"] == pytest.approx(0.75)
    assert graph.ledger.worst == 0


def test_features_without_cantor_numbers(tmp_path: Path):
    content = foreign()
    del content["metadata"]["schema_version"]
    content["nodes"][4] |= {"node_id": "x", "feature": 100_004}
    content["links"] = []
    assert "m1.f100004@1" in reading(tmp_path, content).names


def change(*path: Any, to: Any):
    def changed() -> dict[str, Any]:
        content = where = foreign()
        for step in path[:-1]:
            where = where[step]
        where[path[-1]] = to
        return content

    return changed


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: '{"a": 1', "is no JSON"),
        (lambda: "", "no attribution graph"),
        (lambda: "{" + '"a":{' * 100_000, "is no JSON"),
        (lambda: '{"metadata": NaN}', "no number of JSON"),
        (lambda: "{}", "has no metadata"),
        (change("metadata", "prompt_tokens", to=[1, 2]), "prompt_tokens are to be strings"),
        (change("nodes", to={}), "has no nodes"),
        (change("nodes", to=7), "has no nodes"),
        (change("links", to=None), "has no links"),
        (change("nodes", 2, to=3), r"nodes\[2\] has no node_id"),
        (change("nodes", 2, "ctx_idx", to=9), "positions 0 to 1"),
        (change("nodes", 2, "ctx_idx", to=True), "positions 0 to 1"),
        (change("nodes", 2, "layer", to="E"), "give a layer's number"),
        (change("nodes", 2, "layer", to="9" * 4000), "give a layer's number"),
        (change("nodes", 2, "feature", to=3), "stands for no feature of layer 0"),
        (change("nodes", 2, "feature", to=10**300), "stands for no feature"),
        (change("nodes", 2, "activation", to="3"), "activation 3; give a finite number"),
        (change("nodes", 2, "activation", to=10**400), "give a finite number"),
        (change("nodes", 2, "clerp", to=[]), None),
        (change("nodes", 2, "clerp", to=["x"]), "clerp"),
        (change("nodes", 2, "feature_type", to=["bias"]), "is not read"),
        (change("nodes", 2, "feature", to=[1]), "give its number"),
        (change("nodes", 2, "feature_type", to="lorsa"), "'lorsa' is not read"),
        (change("nodes", 4, "node_id", to="E_5_0"), "two nodes have the node_id"),
        (change("nodes", 5, "feature_type", to="embedding"), "no node of type logit"),
        (change("links", 0, "source", to="nowhere"), "'nowhere' is not a node"),
        (change("links", 0, "weight", to=None), "has no weight"),
        (change("links", 0, "weight", to="1"), "give a finite number"),
        (change("links", 0, to={"source": "1_2_1", "target": "0_1_1", "weight": 1.0}), "may have a cycle"),
        (change("links", 0, to={"source": "1_2_1", "target": "1_2_1", "weight": 1.0}), "may have a cycle"),
        (change("links", 0, to={"source": "E_5_0", "target": "E_6_1", "weight": 1.0}), "and these read nothing"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, content, says: str | None):
    if says is None:
        reading(tmp_path, content())
        return
    with pytest.raises(InputError, match=says) as caught:
        reading(tmp_path, content())
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "f.json"))
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_twice_the_same_node(tmp_path: Path):
    content = foreign()
    content["nodes"].append({**content["nodes"][4], "node_id": "another"})
    with pytest.raises(InputError, match="two nodes are 'm1.f2@1'"):
        reading(tmp_path, content)


@pytest.mark.parametrize(
    ("first", "second", "weights"),
    [
        ({"token_prob": 0.5}, {"token_prob": 0.25}, [0.5, 0.25]),
        ({"clerp": "Austin (p=0.40)"}, {"clerp": 'Output " c" (p=0.2)'}, [0.4, 0.2]),
        ({"clerp": "Austin"}, {"token_prob": 0.25}, [1.0, 0.25]),
    ],
)
def test_the_probability_of_a_logit_is_said_or_warned_of(tmp_path: Path, first: dict, second: dict, weights: list):
    content = foreign()
    *others, logit = content["nodes"]
    del logit["token_prob"]
    roots = [logit | {"clerp": ""} | first, logit | {"clerp": "", "node_id": "3_8_1", "feature": 8} | second]
    (tmp_path / "g.json").write_text(json.dumps(content | {"nodes": others + roots}))
    if 1.0 in weights:
        with pytest.warns(UserWarning, match="g.json: 1 of 2 logits have no token_prob; each of these counts as 1"):
            graph = import_graph(tmp_path / "g.json")
    else:
        graph = import_graph(tmp_path / "g.json")
    assert graph.root_weights.tolist() == pytest.approx(weights)
