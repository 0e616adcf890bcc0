"""Files of others: read when written by hand in their schema, the same after a round trip, refused in one line."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise.circuit import Circuit
from edgewise.exchange import (
    convert,
    edge_table,
    from_edge_table,
    read_edges,
    read_mib,
    to_networkx,
    write_edges,
    write_mib,
)
from edgewise.graph import Graph, GraphSpec
from tests.tiny import refused

GRAPH = Graph(GraphSpec(2, 2, 1))
EXPANDED = Graph(GraphSpec(2, 2, 1, kv="expanded"))
CFG = {"n_layers": 1, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 8}
# One layer of two heads, in the order of EAP-IG's own construction.
HAND_EDGES = {
    "input->a0.h0<q>": 0.5,
    "input->a0.h0<k>": -1.0,
    "input->a0.h0<v>": 0.25,
    "input->a0.h1<q>": 0.0,
    "input->a0.h1<k>": 2.0,
    "input->a0.h1<v>": 3.0,
    "input->m0": -0.5,
    "a0.h0->m0": 0.75,
    "a0.h1->m0": 1.5,
    "input->logits": 4.0,
    "a0.h0->logits": -2.0,
    "a0.h1->logits": 1.0,
    "m0->logits": 0.125,
}
HAND_KEPT = {"input->a0.h1<v>", "a0.h1->logits", "input->logits"}
HAND = {
    "cfg": CFG,
    "nodes": {
        name: {"in_graph": name in ("input", "a0.h1", "logits")} for name in ("input", "a0.h0", "a0.h1", "m0", "logits")
    },
    "edges": {name: {"score": score, "in_graph": name in HAND_KEPT} for name, score in HAND_EDGES.items()},
}


def _random(graph: Graph = GRAPH) -> Circuit:
    draw = torch.rand(graph.n_edges, generator=torch.Generator().manual_seed(1))
    return Circuit(graph, draw < 0.4, draw - 0.5)


def test_a_json_written_by_hand_is_read_right(tmp_path: Path):
    (tmp_path / "mib.json").write_text(json.dumps(HAND))
    circuit = read_mib(tmp_path / "mib.json")
    assert circuit.graph == Graph(GraphSpec(1, 2, 2, kv="expanded")) and circuit.scores is not None
    for name, score in HAND_EDGES.items():
        writer, reader = name.split("->")
        edge = circuit.graph.edge_id(f"{writer.replace('input', 'embed')} -> {reader.replace('<', '.').strip('>')}")
        assert (float(circuit.scores[edge]), bool(circuit.kept[edge])) == (score, name in HAND_KEPT)
    assert circuit.n_actual == 3


def test_a_json_of_a_parallel_model_written_by_hand_is_read_right(tmp_path: Path):
    edges = {"input->a0.h0<q>": 1.0, "input->m0": 2.0, "m0->a1.h0<v>": 3.0, "a1.h0->logits": -1.0, "m1->logits": 0.5}
    content = {
        "cfg": {"n_layers": 2, "n_heads": 1, "parallel_attn_mlp": True, "d_model": 8},
        "nodes": {name: {"in_graph": True} for name in ("input", "a0.h0", "m0", "a1.h0", "m1", "logits")},
        "edges": {name: {"score": score, "in_graph": score > 1} for name, score in edges.items()},
    }
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=r"c.json: 16 of 21 edges are not in it; they rank last here, and as 0 in"):
        circuit = read_mib(tmp_path / "c.json")
    assert circuit.graph == Graph(GraphSpec(2, 1, 1, kv="expanded", parallel=True)) and circuit.scores is not None
    assert circuit.edge_names() == ["embed -> m0", "m0 -> a1.h0.v"]
    assert float(circuit.scores[circuit.graph.edge_id("a1.h0 -> logits")]) == -1
    content["edges"]["a0.h0->m0"] = {"score": 9.0, "in_graph": True}  # side by side: neither reads the other
    (tmp_path / "c.json").write_text(json.dumps(content))
    assert "a0.h0" in refused(lambda: read_mib(tmp_path / "c.json"))


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ({"neurons": [True, False]}, "some of its neurons are not in the circuit"),
        ({"neurons": [True, True]}, None),
        ({"neurons_scores": [0.5, 0.1]}, "its nodes have scores, and its edges all the same one"),
        ({"neurons": None, "neurons_scores": None}, None),
    ],
)
def test_neurons_within_a_json_s_nodes_are_refused(tmp_path: Path, node: dict, says: str | None):
    """EAP-IG's `to_json` writes them there, and its `to_pt` beside."""
    content = json.loads(json.dumps(HAND))
    content["nodes"]["a0.h0"] |= node
    for edge in content["edges"].values():
        edge["score"] = 1.0
    (tmp_path / "mib.json").write_text(json.dumps(content))
    if says is None:
        assert read_mib(tmp_path / "mib.json").n_actual == 3
    else:
        assert says in refused(lambda: read_mib(tmp_path / "mib.json"))


def test_a_pt_written_by_hand_is_read_right(tmp_path: Path):
    sources = ["input", "a0.h0", "a0.h1", "m0"]
    targets = ["a0.h0<q>", "a0.h1<q>", "a0.h0<k>", "a0.h1<k>", "a0.h0<v>", "a0.h1<v>", "m0", "logits"]
    scores, kept = torch.full((4, 8), -torch.inf), torch.zeros(4, 8, dtype=torch.bool)
    for name, score in HAND_EDGES.items():
        writer, reader = name.split("->")
        scores[sources.index(writer), targets.index(reader)] = score
        kept[sources.index(writer), targets.index(reader)] = name in HAND_KEPT
    content = {"cfg": CFG, "src_nodes": sources, "dst_nodes": targets, "edges_scores": scores, "edges_in_graph": kept}
    torch.save(content | {"nodes_in_graph": torch.ones(4, dtype=torch.bool)}, tmp_path / "mib.pt")
    (tmp_path / "mib.json").write_text(json.dumps(HAND))
    found, expected = read_mib(tmp_path / "mib.pt"), read_mib(tmp_path / "mib.json")
    assert found.scores is not None and expected.scores is not None
    assert torch.equal(found.kept, expected.kept) and torch.equal(found.scores, expected.scores)


@pytest.mark.parametrize("suffix", ["json", "pt"])
def test_mib_files_round_trip_and_say_what_changed(tmp_path: Path, suffix: str):
    circuit = _random()
    path = tmp_path / f"circuit.{suffix}"
    changed = write_mib(circuit, path, d_model=16)
    assert len(changed) == 1 and "each of its query heads" in changed[0]
    read = read_mib(path, n_kv_heads=1)
    expected = convert(circuit, EXPANDED)
    assert read.graph == EXPANDED and read.scores is not None and expected.scores is not None
    assert torch.equal(read.kept, expected.kept) and torch.equal(read.scores, expected.scores)
    assert torch.equal(convert(read, GRAPH).kept, circuit.kept)
    assert write_mib(read, tmp_path / f"again.{suffix}", d_model=16) == []
    if suffix == "json":
        assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_circuits_of_coupled_heads_come_back_through_files_that_do_not_know_them(tmp_path: Path):
    graph = Graph(GraphSpec(2, 4, 2, kv="expanded", coupled_heads=True))
    circuit = Circuit(graph, torch.rand(graph.n_edges, generator=torch.Generator().manual_seed(0)) < 0.4)
    assert write_mib(circuit, tmp_path / "circuit.json", 8) == []
    again = read_mib(tmp_path / "circuit.json", 2)
    assert not again.graph.spec.coupled_heads
    assert torch.equal(convert(again, graph).kept, circuit.kept) and convert(again, graph).graph == graph


def test_the_json_has_their_schema(tmp_path: Path):
    write_mib(_read_hand(tmp_path), tmp_path / "ours.json", d_model=8)
    ours = json.loads((tmp_path / "ours.json").read_text())
    assert ours["cfg"] == CFG and ours["nodes"] == HAND["nodes"]
    assert ours["edges"] == HAND["edges"]


def _read_hand(folder: Path) -> Circuit:
    (folder / "hand.json").write_text(json.dumps(HAND))
    return read_mib(folder / "hand.json")


@pytest.mark.parametrize("graph", [EXPANDED, GRAPH], ids=["as it is", "converted"])
def test_scores_that_are_none_are_written_as_the_lowest_and_infinite_ones_as_the_highest(tmp_path: Path, graph: Graph):
    circuit = _random(graph)
    assert circuit.scores is not None
    names = ("m0 -> logits", "embed -> m1", "embed -> logits")
    circuit.scores[[graph.edge_id(name) for name in names]] = torch.tensor([-torch.inf, torch.nan, torch.inf])
    *_, last, first = write_mib(circuit, tmp_path / "c.json", d_model=8)
    assert "NaN and −∞ became" in last and "∞ became" in first
    scores = read_mib(tmp_path / "c.json", 1).scores
    assert scores is not None and scores.abs().max() < 3
    one, other, top = (EXPANDED.edge_id(name) for name in names)
    assert scores[one] == scores[other] == scores.min() and (scores == scores.min()).sum() == 2
    assert int(scores.argmax()) == int(scores.abs().argmax()) == top


def test_an_unknown_key_of_any_edge_is_warned_of(tmp_path: Path):
    edges = {name: dict(row) for name, row in HAND["edges"].items()}
    edges["input->m0"]["weight"] = 0.5  # a known one comes first
    edges["m0->logits"]["sign"] = -1
    (tmp_path / "c.json").write_text(json.dumps(HAND | {"edges": edges}))
    with pytest.warns(UserWarning, match="'sign' is not known here"):
        read_mib(tmp_path / "c.json")


WRONG: dict[str, dict[str, Any]] = {
    "cfg": {"cfg": {"n_layers": 1}},
    "layers": {"cfg": CFG | {"n_layers": 0}},
    "huge": {"cfg": CFG | {"n_layers": 10**9}},
    "edges": {"edges": [1, 2]},
    "no such edge": {"edges": {"m0->a0.h0<q>": {"score": 1.0, "in_graph": True}}},
    "no score": {"edges": {"input->m0": {"in_graph": True}}},
    "score": {"edges": {"input->m0": {"in_graph": True, "score": "high"}}},
    "row": {"edges": {"input->m0": 3}},
    "truth": {"edges": {"input->m0": {"in_graph": "false", "score": 1.0}}},
    "scores of nodes": {
        "edges": {name: {"score": 0.0, "in_graph": True} for name in HAND_EDGES},
        "nodes": {name: {"score": 0.5, "in_graph": True} for name in HAND["nodes"]},
    },
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_wrong_json_is_refused(tmp_path: Path, wrong: dict[str, Any]):
    (tmp_path / "mib.json").write_text(json.dumps(HAND | wrong))
    assert "mib.json" in refused(lambda: read_mib(tmp_path / "mib.json"))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"null"], ids=range(6))
@pytest.mark.parametrize("suffix", ["json", "pt"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, suffix: str, content: bytes):
    path = tmp_path / f"mib.{suffix}"
    refused(lambda: read_mib(path))
    path.write_bytes(content)
    assert path.name in refused(lambda: read_mib(path))


def test_a_pickle_of_anything_else_is_not_opened(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "opened"),)

    torch.save({"cfg": Evil()}, tmp_path / "evil.pt")
    assert "nothing else is read" in refused(lambda: read_mib(tmp_path / "evil.pt"))
    assert not (tmp_path / "opened").exists()


def test_matrices_of_another_shape_or_order_are_refused(tmp_path: Path):
    write_mib(_random(EXPANDED), tmp_path / "c.pt", d_model=8)
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    for change in ({"edges_scores": torch.zeros(3, 3)}, {"dst_nodes": content["dst_nodes"][::-1]}, {"src_nodes": 5}):
        torch.save(content | change, tmp_path / "wrong.pt")
        assert "its" in refused(lambda: read_mib(tmp_path / "wrong.pt", 1))


# ------------------------------------------------------------------------------------------------------- edges.json


@pytest.mark.parametrize("embeddings", ["joint", "split", "off"])
@pytest.mark.parametrize("keys", [1, 2])
def test_edges_round_trip(tmp_path: Path, embeddings: str, keys: int):
    graph = Graph(GraphSpec(2, 2, keys, embeddings))  # pyright: ignore[reportArgumentType] (parametrised)
    circuit = _random(graph)
    assert write_edges(circuit, tmp_path / "edges.json") == []
    read = read_edges(tmp_path / "edges.json", graph)
    assert read.graph == graph and torch.equal(read.kept, circuit.kept)
    expanded = convert(circuit, Graph(replace(graph.spec, kv="expanded")))
    said = write_edges(expanded, tmp_path / "e.json")
    assert ("any of its copies" in str(said)) == bool(said) == (keys < 2)  # where nothing is shared, nothing changes
    assert (tmp_path / "e.json").read_bytes() == (tmp_path / "edges.json").read_bytes()


def test_edges_written_by_hand_are_read_right(tmp_path: Path):
    edges = [["tok_embeds", "a0.h1.q"], ["pos_embeds", "m0"], ["a0.h1", "a1.h0.v"], ["m1", "resid_post"]]
    (tmp_path / "edges.json").write_text(json.dumps(edges))
    circuit = read_edges(tmp_path / "edges.json", Graph(GraphSpec(2, 2, 2)))
    assert circuit.graph.spec.embeddings == "split"  # the file decides
    assert circuit.edge_names() == ["tok_embed -> a0.h1.q", "pos_embed -> m0", "a0.h1 -> a1.h0.v", "m1 -> logits"]
    (tmp_path / "llama.json").write_text(json.dumps([["embeds", "a1.h0.k"], ["a0.h1", "resid_post"]]))
    assert read_edges(tmp_path / "llama.json", GRAPH).edge_names() == ["embed -> a1.kv0.k", "a0.h1 -> logits"]
    shared = [["embeds", "a0.h0.k"], ["m0", "a1.h1.k"], ["a0.h3", "a1.h1.v"]]  # two heads for keys, of four
    (tmp_path / "shared.json").write_text(json.dumps(shared))
    names = ["embed -> a0.kv0.k", "m0 -> a1.kv1.k", "a0.h3 -> a1.kv1.v"]
    assert sorted(read_edges(tmp_path / "shared.json", Graph(GraphSpec(2, 4, 2))).edge_names()) == sorted(names)
    program = [["token_embeds", "a0.h0.q"], ["pos_embeds", "a0.h0.k"], ["a0.h0", "resid_post"]]
    (tmp_path / "program.json").write_text(json.dumps(program))
    found = read_edges(tmp_path / "program.json", Graph(GraphSpec(1, 1, 1)))
    assert found.edge_names() == ["tok_embed -> a0.h0.q", "pos_embed -> a0.h0.k", "a0.h0 -> logits"]


def test_edges_of_a_run_without_embeddings_reach_every_reader(tmp_path: Path):
    (tmp_path / "edges.json").write_text(json.dumps([["a0.h0", "m1"], ["m1", "resid_post"]]))
    circuit = read_edges(tmp_path / "edges.json", Graph(GraphSpec(2, 2, 2)))
    assert circuit.graph.spec.embeddings == "off" and circuit.n_actual == 2
    (tmp_path / "none.json").write_text("[]")
    assert read_edges(tmp_path / "none.json", Graph(GraphSpec(2, 2, 2))).graph.spec.embeddings == "joint"


def test_where_nothing_is_shared_nothing_is_said_of_keys(tmp_path: Path):
    assert write_mib(_random(Graph(GraphSpec(2, 2, 2))), tmp_path / "c.json", d_model=8) == []


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        '[["a0.h0"]]',
        '[["a0.h0", 3]]',
        '[["a0.h9", "m1"]]',
        '[["m1", "m0"]]',
        '[["a0 -> x", "m0"]]',
        '[["", "m0"]]',
    ],
)
def test_wrong_edges_are_refused(tmp_path: Path, content: str):
    (tmp_path / "edges.json").write_text(content)
    assert "edges.json" in refused(lambda: read_edges(tmp_path / "edges.json", GRAPH))


# ------------------------------------------------------------------------------------------------- tables, networkx


def test_tables_round_trip():
    circuit = _random()
    for kept_only in (True, False):
        table = edge_table(circuit, kept_only=kept_only)
        assert {len(column) for column in table.values()} == {circuit.n_edges if kept_only else circuit.graph.n_edges}
        back = from_edge_table(table, GRAPH)
        assert torch.equal(back.kept, circuit.kept) and back.scores is not None and circuit.scores is not None
        known = ~back.scores.isnan()
        assert torch.equal(back.scores[known], circuit.scores[known]) and bool(known[circuit.kept].all())
    assert sum(edge_table(circuit)["actual"]) == circuit.n_actual
    assert set(edge_table(circuit, kept_only=False)["reader_kind"]) == {"query", "key", "value", "mlp", "logits"}


def test_wrong_tables_are_refused():
    assert "no column" in refused(lambda: from_edge_table({"writer": ["m0"]}, GRAPH))
    ends = {"writer": ["m0", "m1"], "reader": ["logits", "logits"]}
    assert "1, 2 rows" in refused(lambda: from_edge_table(ends | {"kept": [True]}, GRAPH))
    assert "kept is 'False'" in refused(lambda: from_edge_table(ends | {"kept": ["False", True]}, GRAPH))
    assert "a score is 'high'" in refused(lambda: from_edge_table(ends | {"score": ["high", 1]}, GRAPH))
    assert "no reader" in refused(lambda: from_edge_table({"writer": ["m0"], "reader": ["m9"]}, GRAPH))
    twice = {"writer": ["m0", "m0"], "reader": ["logits", "logits"]}
    assert "two rows" in refused(lambda: from_edge_table(twice, GRAPH))


def test_networkx_has_every_kept_edge():
    circuit = _random()
    graph = to_networkx(circuit)
    assert {attributes["edge"] for *_, attributes in graph.edges(data=True)} == set(
        circuit.kept.nonzero()[:, 0].tolist()
    )
    assert set(graph.nodes) == {*GRAPH.writer_names, "logits"} and graph.nodes["a1.h0"] == {"kind": "head", "layer": 1}
    shared = circuit.kept & ((GRAPH.reader_kind == 1) | (GRAPH.reader_kind == 2))[GRAPH.edge_reader.long()]
    assert graph.number_of_edges() == circuit.n_edges + int(shared.sum())  # one key serves two query heads
    for writer, reader, key, attributes in graph.edges(keys=True, data=True):
        name = GRAPH.edge_name(attributes["edge"])
        assert name.startswith(f"{writer} -> ") and (key == "in" or name.endswith(f".{key}"))
        assert reader.split(".")[0] in name
