"""Circuits side by side: counts by hand, and every number that of the circuit judged alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgewise.circuit import Circuit
from edgewise.discovery import eap, uniform_scores
from edgewise.evaluation import compare, judge
from edgewise.runs import bootstrap
from tests.discovery.toys import SMALLEST, random_pairs, random_task, refused, toy_engine


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
    assert "convert one" in refused(lambda: compare(engine, {"one": one, "other": other}, [task]))
    assert "ablation" in refused(lambda: compare(engine, {"one": one, "zero": zero}, [task]))
    assert "reserved name" in refused(lambda: compare(engine, {"union": one, "other": one}, [task]))
    assert "two tasks" in refused(lambda: compare(engine, {"one": one, "other": one}, [task, task]))
