"""Faithfulness against size: the numbers are those of each circuit judged alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgewise.circuit import Circuit
from edgewise.discovery import eap, uniform_scores
from edgewise.engine import Ablation
from edgewise.evaluation import judge, size_curve
from edgewise.report import draw_curve
from edgewise.runs import bootstrap
from tests.discovery.toys import SMALLEST, random_task, toy_engine
from tests.tiny import refused

SIZES = (0.9, 0.6, 0.3)


def test_every_point_is_the_circuit_judged_alone(tmp_path: Path):
    engine, task = toy_engine(), random_task()
    methods = {"eap": eap(engine, task), "random": uniform_scores(engine.graph, 0)}
    circuits = {name: [scores.at(s, actual=True) for s in SIZES] for name, scores in methods.items()}
    found = size_curve(engine, circuits, task)
    assert [point.method for point in found.points] == ["eap"] * 3 + ["random"] * 3
    for point, circuit in zip(found.points, [*circuits["eap"], *circuits["random"]], strict=True):
        alone = judge(engine, {"it": circuit}, task, "test", names=("kl",))["it"]["kl"]
        assert point[2:] == pytest.approx(bootstrap(alone), rel=1e-6)
        assert point.edges == circuit.n_actual
    none = Circuit(engine.graph, torch.zeros(engine.graph.n_edges, dtype=torch.bool))
    empty = judge(engine, {"it": none}, task, "test", names=("kl",))["it"]["kl"].mean()
    assert found.empty == pytest.approx(empty) and found.full == pytest.approx(0, abs=1e-6) and found.n == 4
    found.save(tmp_path / "curve.json")
    row = json.loads((tmp_path / "curve.json").read_text())
    assert row["points"][0]["edges"] == found.points[0].edges and row["conditions"]["split"] == "test"
    draw_curve(found, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 10_000


def test_it_runs_under_the_circuits_own_ablation():
    task = random_task()
    engine = toy_engine(ablation=Ablation("zero"))
    circuit = eap(engine, task).at(0.5)
    found = size_curve(engine.model, {"eap": [circuit]}, task)
    assert found.conditions["ablation"]["kind"] == "zero"
    assert found.points == size_curve(engine, {"eap": [circuit]}, task).points


def test_what_cannot_be_judged_is_refused():
    engine, task = toy_engine(), random_task()
    circuit = eap(engine, task).at(0.5)
    other = Circuit(SMALLEST, torch.ones(SMALLEST.n_edges, dtype=torch.bool))
    assert "no circuits" in refused(lambda: size_curve(engine, {"none": []}, task))
    assert "choose" in refused(lambda: size_curve(engine, {"eap": [circuit]}, task, metric="beauty"))
    assert "another graph" in refused(lambda: size_curve(engine, {"eap": [circuit, other]}, task))
    zero = eap(toy_engine(ablation=Ablation("zero")), task).at(0.5)
    mixed = {"eap": [circuit], "zero": [zero]}
    assert "zero 0 was found under zero ablation" in refused(lambda: size_curve(engine.model, mixed, task))


def test_it_is_known_of_which_scores_it_is():
    engine, task = toy_engine(), random_task()
    scores, other = eap(engine, task), uniform_scores(engine.graph, 0)
    found = size_curve(engine, {"eap": [scores.at(s, actual=True) for s in SIZES]}, task)
    assert found.is_of(scores.at(0.5)) and not found.is_of(other.at(0.5))
    assert not found.is_of(scores.at(0.5, absolute=True)), "whose circuits of other sizes are others"
    assert not found.is_of(replace(scores.at(0.5), scores=None))
    both = size_curve(engine, {"eap": [scores.at(0.5)], "random": [other.at(0.5)]}, task)
    assert both.is_of(scores.at(0.9)) and both.is_of(other.at(0.9))
    before = replace(found, conditions={"split": "test"})
    assert before.is_of(other.at(0.5)), "files of earlier versions go by the number of edges"
    assert not replace(before, total_edges=3).is_of(scores.at(0.5))
