"""Graphs as tables, in networkx, and which format a file's name stands for."""

import csv
import json
from pathlib import Path

import networkx
import pytest

from edgewise import InputError
from edgewise.attribution import edge_table, export, import_graph, to_networkx
from tests.attribution.foreign import numbers
from tests.attribution.made_up import made_up


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
