"""Graphs in other tools' files: what is written is read again; what is hostile is refused in one line."""

import csv
import json
import math
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import networkx
import pytest
import torch

from edgewise import InputError
from edgewise.attribution import AttributionGraph, edge_table, export, import_graph, influence, prune, to_networkx
from edgewise.attribution.formats._foreign import cumulative
from tests.attribution.made_up import L, S, made_up

SCHEMA: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "required": ["metadata", "qParams", "nodes", "links"],
    "properties": {
        "metadata": {
            "type": "object",
            "required": ["slug", "scan", "prompt_tokens", "prompt"],
            "properties": {
                "slug": {"type": "string"},
                "scan": {"type": "string"},
                "prompt": {"type": "string"},
                "prompt_tokens": {"type": "array", "items": {"type": "string"}},
                "transcoder_list": {"type": "array", "items": {"type": "string"}},
                "node_threshold": {"type": "number"},
                "schema_version": {"const": 1},
                "info": {
                    "type": "object",
                    "properties": {
                        "generator": {
                            "type": "object",
                            "properties": {"name": {"type": "string"}, "version": {"type": "string"}},
                        }
                    },
                },
                "generation_settings": {
                    "type": "object",
                    "properties": {"batch_size": {"type": "integer"}, "max_feature_nodes": {"type": "integer"}},
                },
                "pruning_settings": {
                    "type": "object",
                    "properties": {"node_threshold": {"type": "number"}, "edge_threshold": {"type": "number"}},
                },
            },
        },
        "qParams": {
            "type": "object",
            "properties": {
                "pinnedIds": {"type": "array", "items": {"type": "string"}},
                "supernodes": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
                "linkType": {"type": "string"},
                "clickedId": {"type": "string"},
                "sg_pos": {"type": "string"},
            },
        },
        "nodes": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"],
                "properties": {
                    "node_id": {"type": "string"},
                    "feature": {"type": ["integer", "null"]},
                    "layer": {"type": ["string", "integer"]},
                    "ctx_idx": {"type": "integer", "minimum": 0},
                    "feature_type": {
                        "enum": [
                            "cross layer transcoder",
                            "lorsa",
                            "mlp reconstruction error",
                            "lorsa error",
                            "embedding",
                            "logit",
                            "bias",
                            "unknown",
                        ]
                    },
                    "token_prob": {"type": "number"},
                    "is_target_logit": {"type": "boolean"},
                    "run_idx": {"type": "integer"},
                    "reverse_ctx_idx": {"type": "integer"},
                    "jsNodeId": {"type": "string"},
                    "clerp": {"type": "string"},
                    "influence": {"type": ["number", "null"], "minimum": 0, "maximum": 1 + 1e-9},
                    "activation": {"type": ["number", "null"]},
                },
            },
        },
        "links": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["source", "target", "weight"],
                "properties": {
                    "source": {"type": "string"},
                    "target": {"type": "string"},
                    "weight": {"type": "number"},
                },
            },
        },
    },
}
"""As Neuronpedia describes its files (`apps/webapp/app/api/graph/graph-schema.json`, and its types), in our words."""


def written(graph: AttributionGraph, path: Path, **choices) -> dict[str, Any]:
    export(graph, path, **choices)
    return json.loads(path.read_text())


def numbers(graph: AttributionGraph) -> dict[tuple[str, str], float]:
    """Every edge's weight by the names of its ends."""
    ends = zip(graph.sources.tolist(), graph.edge_targets.tolist(), graph.weight.tolist(), strict=True)
    return {(graph.names[source], graph.names[target]): weight for source, target, weight in ends}


def by_name(graph: AttributionGraph, values: torch.Tensor) -> dict[str, float]:
    return dict(zip(graph.names, values.tolist(), strict=True))


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


def foreign(**changes) -> dict[str, Any]:
    """A small graph as circuit-tracer wrote it in 2025: the error of layer 1 has the id of feature 1 of layer 0."""

    def node(node_id: str, feature: int, layer: str, position: int, of_type: str, **more) -> dict[str, Any]:
        where = {"node_id": node_id, "feature": feature, "layer": layer, "ctx_idx": position}
        return {**where, "feature_type": of_type, "jsNodeId": node_id, "clerp": "", **more}

    return {
        "metadata": {
            "slug": "s",
            "scan": "gemma-2-2b",
            "prompt_tokens": ["a", "b"],
            "prompt": "ab",
            "schema_version": 1,
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [
            node("E_5_0", 0, "E", 0, "embedding"),
            node("E_6_1", 1, "E", 1, "embedding"),
            node("0_1_1", 2, "0", 1, "cross layer transcoder", activation=3.0),
            node("0_1_1", -1, "1", 1, "mlp reconstruction error"),
            node("1_2_1", 8, "1", 1, "cross layer transcoder", activation=2.5),
            node("3_7_1", 7, "3", 1, "logit", token_prob=0.5, clerp='Output " c" (p=0.500)'),
        ],
        "links": [
            {"source": "E_6_1", "target": "0_1_1", "weight": 3.5},
            {"source": "0_1_1", "target": "1_2_1", "weight": 2.0},
            {"source": "0_1_1", "target": "3_7_1", "weight": -1.0},
            {"source": "0_1_1", "target": "3_7_1", "weight": 0.25},
            {"source": "1_2_1", "target": "3_7_1", "weight": 1.5},
        ],
        **changes,
    }


def reading(tmp_path: Path, content: Any) -> AttributionGraph:
    (tmp_path / "f.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return import_graph(tmp_path / "f.json")


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
        (change("links", 0, "source", to="nowhere"), "'nowhere' is no node"),
        (change("links", 0, "weight", to=None), "has no weight"),
        (change("links", 0, "weight", to="1"), "give a finite number"),
        (change("links", 0, to={"source": "1_2_1", "target": "0_1_1", "weight": 1.0}), "may have a cycle"),
        (change("links", 0, to={"source": "1_2_1", "target": "1_2_1", "weight": 1.0}), "may have a cycle"),
        (change("links", 0, to={"source": "E_5_0", "target": "E_6_1", "weight": 1.0}), "which read nothing"),
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


def test_too_large_to_read_or_write(tmp_path: Path, monkeypatch):
    from edgewise.attribution.formats import _circuit_tracer, _neuronpedia, _neuronpedia_read

    export(made_up(), tmp_path / "g.json")
    export(made_up(), tmp_path / "g.pt")
    for module in (_circuit_tracer, _neuronpedia, _neuronpedia_read):
        monkeypatch.setattr(module, "MOST_BYTES", 1000)
    for name in ("g.json", "g.pt"):
        with pytest.raises(InputError, match="prune"):
            import_graph(tmp_path / name)
        with pytest.raises(InputError, match="prune"):
            export(made_up(), tmp_path / name)


def without(graph: AttributionGraph, *kinds) -> AttributionGraph:
    return graph.subgraph(~graph.nodes.is_kind(*kinds))


@pytest.mark.parametrize("seed", [0, 1])
def test_circuit_tracers_file_is_read_as_it_was_written(tmp_path: Path, seed: int):
    graph = made_up(seed)
    left = export(graph, tmp_path / "g.pt", scan="some/set")
    assert [line.split(" ")[0] for line in left] == ["10", "4"]
    again = import_graph(tmp_path / "g.pt")
    expected = without(graph, "attention bias", "MLP bias", "reading bias", "position")
    assert numbers(again) == numbers(expected)
    assert set(again.names) == set(expected.names)
    inner = by_name(graph, graph.nodes.value)
    for name, value in by_name(again, again.nodes.value).items():
        if name.startswith("m") and "error" not in name:
            assert value == pytest.approx(inner[name], rel=1e-6)
    assert (again.ids.tolist(), again.roots) == (graph.ids.tolist(), graph.roots)
    assert again.settings["root_tokens"] == graph.settings["root_tokens"]
    assert again.provenance["scan"] == "some/set"
    assert by_name(again, influence(again)) == pytest.approx(by_name(expected, influence(expected)), rel=1e-6)
    assert not any(name.startswith("circuit_tracer") for name in sys.modules)


class Theirs(NamedTuple):
    token_str: str
    vocab_idx: int


Theirs.__module__, Theirs.__qualname__, Theirs.__name__ = (
    "circuit_tracer.attribution.targets",
    "LogitTarget",
    "LogitTarget",
)


@pytest.fixture
def their_module(monkeypatch):
    """Modules with circuit-tracer's classes, as far as its files name them."""
    for name in ("circuit_tracer", "circuit_tracer.attribution", "circuit_tracer.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    targets, mapping = (ModuleType(n) for n in (Theirs.__module__, "circuit_tracer.utils.tl_nnsight_mapping"))
    config = type("UnifiedConfig", (), {"__module__": mapping.__name__})
    targets.LogitTarget, mapping.UnifiedConfig = Theirs, config  # pyright: ignore
    monkeypatch.setitem(sys.modules, targets.__name__, targets)
    monkeypatch.setitem(sys.modules, mapping.__name__, mapping)
    return config


def test_circuit_tracer_opens_what_is_written(tmp_path: Path, their_module, monkeypatch):
    with monkeypatch.context() as without_them:  # written where it is not installed
        for name in [name for name in sys.modules if name.startswith("circuit_tracer")]:
            without_them.delitem(sys.modules, name)
        graph = made_up()
        export(graph, tmp_path / "g.pt")
    content = torch.load(tmp_path / "g.pt", weights_only=False)
    n_features = int(graph.nodes.is_kind("feature").sum())
    assert set(content) == {
        "input_string", "adjacency_matrix", "cfg", "active_features", "logit_targets", "logit_probabilities",
        "vocab_size", "input_tokens", "selected_features", "activation_values", "scan",
    }  # fmt: skip
    assert type(content["cfg"]) is their_module
    assert content["cfg"].n_layers == L
    assert type(content["logit_targets"][0]) is Theirs
    assert content["logit_targets"][0] == (graph.roots[0], 20)
    size = n_features + (L + 1) * S + 2
    assert content["adjacency_matrix"].shape == (size, size)
    rows = graph.nodes.is_kind("feature").nonzero()[:, 0]
    layer, position, index = content["active_features"][0].tolist()
    assert graph.names[int(rows[0])] == f"m{layer}.f{index}@{position}"
    # an error's column, and a token's
    row, error = graph.node(graph.roots[0]), graph.node("m1.error@2")
    assert content["adjacency_matrix"][size - 2, n_features + S + 2] == pytest.approx(
        graph.matrix.toarray()[row, error]
    )
    token = graph.node("token@3")
    assert content["adjacency_matrix"][size - 2, size - 3] == pytest.approx(graph.matrix.toarray()[row, token])


def circuit_tracer_file(their_module, **changes) -> dict[str, Any]:
    """One layer, two tokens; of four active features two are selected."""
    config = their_module()
    vars(config).update({"n_layers": 1, "model_name": "some/model", "dtype": torch.bfloat16})
    matrix = torch.zeros(2 + 2 + 2 + 1, 7)
    matrix[0, 4], matrix[6, 0], matrix[6, 1], matrix[6, 3] = 1.0, 2.0, 3.0, 4.0
    return {
        "input_string": "ab",
        "adjacency_matrix": matrix,
        "cfg": config,
        "active_features": torch.tensor([[0, 0, 5], [0, 0, 9], [0, 1, 2], [0, 1, 9]]),
        "logit_targets": [Theirs("x", 3)],
        "logit_probabilities": torch.tensor([0.5]),
        "vocab_size": 50,
        "input_tokens": torch.tensor([1, 2]),
        "selected_features": torch.tensor([1, 3]),
        "activation_values": torch.tensor([10.0, 11.0, 12.0, 13.0]),
        "scan": ["one", "two"],
        **changes,
    }


def test_activations_go_with_the_active_features(tmp_path: Path, their_module):
    torch.save(circuit_tracer_file(their_module), tmp_path / "g.pt")
    graph = import_graph(tmp_path / "g.pt")
    values = by_name(graph, graph.nodes.value)
    assert (values["m0.f9@0"], values["m0.f9@1"]) == (11, 13)
    assert numbers(graph) == {
        ("token@0", "m0.f9@0"): 1,
        ("m0.f9@0", "x"): 2,
        ("m0.f9@1", "x"): 3,
        ("m0.error@1", "x"): 4,
    }
    assert graph.provenance["transcoder_list"] == ["one", "two"]
    assert graph.provenance["model"] == {"id": "some/model"}


@pytest.mark.parametrize("name", ["logit_targets", "logit_tokens"])
def test_older_logit_targets(tmp_path: Path, their_module, name: str):
    content = circuit_tracer_file(their_module)
    del content["logit_targets"], content["vocab_size"]
    torch.save({**content, name: torch.tensor([3])}, tmp_path / "g.pt")
    graph = import_graph(tmp_path / "g.pt")
    assert (graph.roots, graph.settings["root_tokens"]) == (("3",), [3])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"adjacency_matrix": torch.zeros(8, 8)}, "fits no number of layers"),
        ({"adjacency_matrix": torch.zeros(7, 9)}, "fits no number of layers"),
        ({"adjacency_matrix": torch.zeros(1, 1).expand(1 << 20, 1 << 20)}, "more than the 2 GiB"),
        ({"adjacency_matrix": torch.full((7, 7), math.nan)}, "not finite"),
        ({"adjacency_matrix": torch.ones(7, 7)}, "read nothing"),
        ({"adjacency_matrix": None}, "no adjacency_matrix"),
        ({"selected_features": torch.tensor([1, 4])}, "do not fit"),
        ({"selected_features": torch.tensor([1, 1])}, "two nodes are"),
        ({"activation_values": torch.zeros(2)}, "do not fit"),
        ({"active_features": torch.tensor([[3, 0, 0]] * 4)}, "of no layer"),
        ({"logit_targets": "x"}, "no logit_targets"),
        ({"logit_targets": [("a", "b")]}, "no logit_targets"),
        ({"logit_targets": torch.tensor([0.5])}, "no logit_targets"),
        ({"logit_probabilities": torch.tensor([math.inf])}, "not finite"),
        ({"input_tokens": torch.tensor([1, -2])}, "a token has no number"),
        ({"input_tokens": torch.tensor([1.0, 2.0])}, "no input_tokens of 1 axes and whole numbers"),
        ({"logit_targets": []}, "0 logit targets with 1"),
    ],
)
def test_wrong_files_of_circuit_tracer(tmp_path: Path, their_module, changes, says: str):
    torch.save(circuit_tracer_file(their_module, **changes), tmp_path / "g.pt")
    with pytest.raises(InputError, match=says) as caught:
        import_graph(tmp_path / "g.pt")
    assert "\n" not in str(caught.value)


class Hostile:
    def __reduce__(self):
        return print, ("run",)


def test_no_code_of_a_file_is_run(tmp_path: Path, their_module, capsys):
    torch.save(circuit_tracer_file(their_module, scan=Hostile()), tmp_path / "g.pt")
    with pytest.raises(InputError, match="cannot be read"):
        import_graph(tmp_path / "g.pt")
    assert "run" not in capsys.readouterr().out
    (tmp_path / "h.pt").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(InputError, match="no attribution graph"):
        import_graph(tmp_path / "h.pt")


def test_the_table_has_every_edge(tmp_path: Path):
    graph = made_up()
    table = edge_table(graph)
    assert {(s, t): w for s, t, w in zip(table["source"], table["target"], table["weight"], strict=True)} == numbers(
        graph
    )
    for i in range(graph.n_nodes):
        shares = sum(s for s, name in zip(table["share"], table["target"], strict=True) if name == graph.names[i])
        assert shares <= 1 + 1e-9
    export(graph, tmp_path / "t.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [line["weight"] for line in lines] == table["weight"]
    export(graph, tmp_path / "t.csv")
    with open(tmp_path / "t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(table)
    assert [row["source"] for row in rows] == table["source"]
    assert [float(row["weight"]) for row in rows] == table["weight"]


def test_networkx():
    graph = made_up()
    result = to_networkx(graph)
    assert networkx.is_directed_acyclic_graph(result)
    assert {(s, t): w for s, t, w in result.edges.data("weight")} == numbers(graph)
    assert set(result.nodes) == set(graph.names)
    assert result.nodes["token@1"]["token"] == graph.tokens[1]


def test_choosing_a_format(tmp_path: Path):
    graph = made_up()
    export(graph, tmp_path / "g.safetensors")
    assert numbers(import_graph(tmp_path / "g.safetensors")) == numbers(graph)
    for name, says in (("g.xml", "are written as"), ("g", "are written as")):
        with pytest.raises(InputError, match=says):
            export(graph, tmp_path / name)
    with pytest.raises(InputError, match="for .json alone"):
        export(graph, tmp_path / "g.pt", pruning=(0.8, 0.98))
    with pytest.raises(InputError, match="give an existing file"):
        import_graph(tmp_path / "none.json")
    (tmp_path / "x.json").write_bytes(b"\x00\x01")
    with pytest.raises(InputError, match="no attribution graph"):
        import_graph(tmp_path / "x.json")
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(InputError, match="has not all of a graph"):
        import_graph(tmp_path / "x.csv")
