"""Circuits side by side: counts by hand, and every number that of the circuit judged alone."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgewise.circuit import Circuit
from edgewise.discovery import eap, uniform_scores
from edgewise.engine import Engine
from edgewise.evaluation import compare, judge
from edgewise.graph import Graph
from edgewise.runs import bootstrap
from tests.discovery.toys import SMALLEST, random_pairs, random_task, toy_engine
from tests.engine.apart import crossing, with_places
from tests.engine.featured import featured, transcoder_of
from tests.tiny import refused, tiny


def test_counts_by_hand():
    engine, task = toy_engine(), random_task()
    kept = torch.zeros(3, engine.graph.n_edges, dtype=torch.bool)
    kept[0, :4], kept[1, 2:8], kept[2, 3:5] = True, True, True
    found = compare(engine, {name: Circuit(engine.graph, row) for name, row in zip("abc", kept, strict=True)}, [task])
    assert found.edges == {"a": 4, "b": 6, "c": 2, "intersection": 1, "union": 8}
    assert [(pair.one, pair.other, pair.shared) for pair in found.pairs] == [
        ("a", "b", 2),
        ("a", "c", 1),
        ("b", "c", 2),
    ]
    assert found.pairs[0].iou == 2 / 8 and (found.pairs[0].of_one, found.pairs[0].of_other) == (0.5, 2 / 6)
    assert set(found.total_edges.values()) == {engine.graph.n_edges} and found.in_all == ()


def named(graph: Graph, *edges: str, **provenance: Mapping[str, object]) -> Circuit:
    """The circuit of some edges."""
    kept = torch.zeros(graph.n_edges, dtype=torch.bool)
    kept[[graph.edge_id(name) for name in edges]] = True
    return Circuit(graph, kept, None, provenance)


def test_counts_by_hand_where_the_neurons_differ():
    """The rest of an MLP without neurons 1 and 4 is another node than that without 4 and 7, whatever its name."""
    model, task = tiny("gpt2", torch.float32), random_task()
    one, other = (model.graph(neurons={0: neurons}) for neurons in ((1, 4), (4, 7)))
    found = compare(
        model,
        {
            "a": named(one, "embed -> m0.n4", "m0.n4 -> logits", "m0.rest -> logits", "a0.h0 -> logits"),
            "b": named(other, "embed -> m0.n4", "m0.n4 -> logits", "m0.rest -> logits", "embed -> m0.n7"),
        },
        [task],
    )
    (pair,) = found.pairs
    assert (pair.shared, pair.name_only, pair.iou, pair.of_one) == (2, 1, 2 / 6, 0.5)
    # Nothing goes into the rest or the head, and nothing out of neuron 7.
    assert (pair.shared_nodes, pair.nodes_iou, found.nodes) == (1, 1.0, {"a": 1, "b": 1})
    assert found.in_all == ("m0.n4",) and found.actual == {"a": 2, "b": 2}
    assert found.conditions["differ"] == ["neurons"] and found.conditions["graphs"]["a"] == one.spec.to_dict()
    assert found.total_edges == {"a": one.n_edges, "b": other.n_edges} and "graph" not in found.conditions
    assert set(found.judged[task.name]) == {"full", "a", "b"}


def test_groups_of_neurons_of_one_name_are_one_node_only_with_the_same_neurons():
    model = tiny("gpt2", torch.float32)
    graphs = [model.graph(neurons={0: [group]}) for group in ((1, 2, 3), (1, 5, 9), (1, 2, 3))]
    edges = ("embed -> m0.n1+2", "m0.n1+2 -> logits")
    found = compare(model, {name: named(graph, *edges) for name, graph in zip("abc", graphs, strict=True)}, [])
    shared = {(pair.one, pair.other): (pair.shared, pair.name_only, pair.shared_nodes) for pair in found.pairs}
    assert shared == {("a", "b"): (0, 2, 0), ("a", "c"): (2, 0, 1), ("b", "c"): (0, 2, 0)} and found.in_all == ()


def test_a_feature_is_a_node_wherever_it_writes_and_errors_are_none():
    """Between graphs of other features, and between one with error terms as writers and one without."""
    model = tiny("gpt2", torch.float32)
    transcoders = crossing(model)
    engines = [with_places(model, transcoders, error=error) for error in ("scored", "kept")]
    last = len(model.parts.layers) - 1
    place, own = f"m0.f4>{last}", "m0.f4"
    one = named(engines[0].graph, "embed -> m0.f4", f"{place} -> logits", "m0.error -> logits")
    other = named(engines[1].graph, "embed -> m0.f4", f"{own} -> logits")
    found = compare(model, {"a": one, "b": other}, [], transcoders=transcoders)
    assert found.pairs[0].shared == 1 and found.pairs[0].name_only == 0
    assert found.in_all == ("m0.f4",) and found.nodes == {"a": 1, "b": 1}
    assert found.conditions["differ"] == ["error"]


def test_circuits_of_different_features_are_judged_in_their_own_graphs():
    """Each to the numbers that it has alone, in the order in which they were given."""
    model, tasks = tiny("gpt2", torch.float32), [random_task(), replace(random_task(), name="other")]
    last = len(model.parts.layers) - 1
    transcoders = [transcoder_of(model, layer) for layer in (0, last)]
    chosen = ({0: (1, 4), last: (0, 7)}, {0: (4, 20)}, {0: (1, 4), last: (0, 7)})
    engines = [
        featured(model, [each for each in transcoders if each.spec.reads.layer in features], features=features)
        for features in chosen
    ]
    engines.append(Engine(model))
    circuits = {
        name: replace(
            uniform_scores(engine.graph, seed).at(0.4), provenance={"transcoders": engine.transcoder_identity}
        )
        for seed, (name, engine) in enumerate(zip("abcd", engines, strict=True))
    }
    found = compare(model, circuits, tasks, transcoders=transcoders)
    for task in tasks:
        assert [*found.judged[task.name]] == ["full", *"abcd"]
        for (who, circuit), engine in zip(circuits.items(), engines, strict=True):
            alone = judge(engine, {"it": circuit}, task, "test", names=("kl", "accuracy"))["it"]
            for name, values in alone.items():
                assert found.judged[task.name][who][name] == pytest.approx(bootstrap(values), rel=1e-6)
    names = {who: set(circuit.edge_names()) for who, circuit in circuits.items()}
    pair = {(each.one, each.other): each for each in found.pairs}["a", "b"]
    assert pair.shared + pair.name_only == len(names["a"] & names["b"])
    assert pair.shared == len({name for name in names["a"] & names["b"] if "m0.error" not in name})
    assert found.conditions["transcoders"] == engines[0].transcoder_identity
    assert found.conditions["differ"] == ["features"]
    same = compare(engines[0], {"a": circuits["a"], "c": circuits["c"]}, tasks[:1])
    assert same.conditions["transcoders"] == engines[0].transcoder_identity and "union" in same.judged["toy"]


def test_one_number_of_two_transcoders_is_refused():
    model = tiny("gpt2", torch.float32)
    engines = [
        featured(model, [transcoder_of(model, 0, site=site)], features={0: (1,)})
        for site in ("mlp_in", "mlp_normalized")
    ]
    one, other = (named(each.graph, "embed -> m0.f1", transcoders=each.transcoder_identity) for each in engines)
    said = refused(lambda: compare(model, {"one": one, "other": other}, [], transcoders=[transcoder_of(model, 0)]))
    assert "layer 0 are of one transcoder in one and of another in other" in said
    refusal = refused(lambda: compare(model, {"one": one, "also": one}, [random_task()]))
    assert "give its transcoder" in refusal


def test_numbers_are_those_of_each_circuit_judged_alone(tmp_path: Path):
    engine = toy_engine()
    tasks = [random_task(), replace(random_task(), name="other", test=random_pairs(5, 9))]
    circuits = {"eap": eap(engine, tasks[0]).at(0.5, absolute=True), "random": uniform_scores(engine.graph, 0).at(0.5)}
    found = compare(engine, circuits, tasks)
    circuits |= {"intersection": circuits["eap"] & circuits["random"], "union": circuits["eap"] | circuits["random"]}
    for task in tasks:
        assert found.n[task.name] == len(task.test)
        for who, circuit in circuits.items():
            alone = judge(engine, {"it": circuit}, task, "test", names=("kl", "accuracy"))["it"]
            for name, values in alone.items():
                assert found.judged[task.name][who][name] == pytest.approx(bootstrap(values), rel=1e-6)
        assert found.judged[task.name]["full"]["kl"].value == pytest.approx(0, abs=1e-6)
    found.save(tmp_path / "c.json")
    row = json.loads((tmp_path / "c.json").read_text())
    assert row["judged"]["other"]["union"]["kl"]["value"] == found.judged["other"]["union"]["kl"].value


def test_what_cannot_be_compared_is_refused():
    engine, task = toy_engine(), random_task()
    one = eap(engine, task).at(0.5)
    other = Circuit(SMALLEST, torch.ones(SMALLEST.n_edges, dtype=torch.bool))
    zero = Circuit(one.graph, one.kept, None, {"ablation": {"kind": "zero"}})
    assert "at least two" in refused(lambda: compare(engine, {"one": one}, [task]))
    assert "give circuits of one model" in refused(lambda: compare(engine, {"one": one, "other": other}, [task]))
    assert "ablation" in refused(lambda: compare(engine, {"one": one, "zero": zero}, [task]))
    assert "reserved name" in refused(lambda: compare(engine, {"union": one, "other": one}, [task]))
    assert "two tasks" in refused(lambda: compare(engine, {"one": one, "other": one}, [task, task]))
