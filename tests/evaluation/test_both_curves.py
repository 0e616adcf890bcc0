"""Sufficiency and necessity: what a circuit keeps, and what the model loses without it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import edgewise as ew
from edgewise.circuit import Circuit
from edgewise.evaluation import both_curves, judge
from edgewise.runs import bootstrap
from tests.discovery.toys import random_task, toy_engine
from tests.tiny import refused


def test_every_point_is_the_circuit_and_its_complement_judged_alone(tmp_path: Path):
    engine, task = toy_engine(), random_task()
    scores = ew.eap(engine, task)
    found = both_curves(engine, scores, task, shares=(0.1, 0.4, 1.0), absolute=True)
    assert (found.metric, found.distance, found.n) == ("logit_diff", "kl", len(task.test))
    for point in found.points:
        circuit = scores.at(1 - point.share, actual=True, absolute=True)
        both = {"kept": circuit, "removed": replace(circuit, kept=~circuit.actual)}
        alone = judge(engine, both, task, "test", names=("logit_diff", "kl"))
        assert point.actual == circuit.n_actual
        for how in both:
            assert getattr(point, how) == pytest.approx(bootstrap(alone[how]["logit_diff"]), rel=1e-5)
            assert getattr(point, f"{how}_distance") == pytest.approx(bootstrap(alone[how]["kl"]), rel=1e-5, abs=1e-6)
    whole = found.points[-1]
    assert whole.kept.value == pytest.approx(found.full) and whole.removed.value == pytest.approx(found.empty, rel=1e-5)
    found.save(tmp_path / "both.json")
    assert json.loads((tmp_path / "both.json").read_text())["necessity"] == found.necessity


def test_the_areas_of_all_edges_are_1_and_of_none_0():
    engine, task = toy_engine(), random_task()
    for kept, area in ((torch.ones, 1.0), (torch.zeros, 0.0)):
        circuit = Circuit(engine.graph, kept(engine.graph.n_edges, dtype=torch.bool))
        found = both_curves(engine, [circuit, circuit], task, shares=(1 - 1e-9, 1.0))  # all edges at either
        assert found.sufficiency == pytest.approx(area, abs=1e-5) and found.necessity == pytest.approx(area, abs=1e-5)
    assert "give one for each" in refused(lambda: both_curves(engine, [circuit], task, shares=(0.1, 0.2)))
    many, few = (ew.eap(engine, task).at(1 - share, actual=True) for share in (0.5, 0.2))
    assert "a share of 0.2 is" in refused(lambda: both_curves(engine, [many, many], task, shares=(0.2, 0.5)))
    other = replace(many, ablation=ew.Ablation("zero"))
    assert "under zero ablation" in refused(lambda: both_curves(engine, [few, other], task, shares=(0.2, 0.5)))
    assert "is no share" in refused(lambda: both_curves(engine, ew.eap(engine, task), task, shares=(0.1, 2.0)))


def test_an_evaluation_says_what_the_model_loses_without_the_circuit():
    engine, task = toy_engine(), random_task()
    circuit = ew.eap(engine, task).at(0.6, actual=True, absolute=True)
    found = ew.evaluate(engine, circuit, task, baselines=(), necessity=True)
    complement = ew.evaluate(engine, replace(circuit, kept=~circuit.actual), task, baselines=())
    for name, row in found.removed.items():
        assert row.value == pytest.approx(complement.metrics[name].value, rel=1e-5, abs=1e-6)
        assert (row.full, row.empty) == (found.metrics[name].full, found.metrics[name].empty)
    plain = ew.evaluate(engine, circuit, task, baselines=())
    assert plain.metrics == found.metrics and not plain.removed
    assert "kl without the circuit" in str(found) and "without the circuit" not in str(plain)
