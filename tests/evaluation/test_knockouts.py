"""Completeness and minimality: against what the definitions say of circuits run by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from edgewise.circuit import Circuit
from edgewise.discovery import eap
from edgewise.engine import Engine
from edgewise.evaluation import completeness, component_effects, judge
from edgewise.evaluation._knockouts import _Search
from tests.discovery.toys import random_task, toy_engine
from tests.tiny import refused

QUICK: dict[str, Any] = {"n_random": 3, "greedy_steps": 2, "greedy_width": 4, "learned_steps": 10}


def half(engine: Engine, sparsity: float = 0.5) -> Circuit:
    return eap(engine, random_task()).at(sparsity, actual=True, absolute=True)


def means(engine: Engine, split: str = "test", **kept: torch.Tensor) -> dict[str, np.ndarray]:
    circuits = {name: Circuit(engine.graph, each) for name, each in kept.items()}
    found = judge(engine, circuits, random_task(), split, names=("logit_diff",))
    return {name: each["logit_diff"] for name, each in found.items()}


def test_the_whole_model_is_complete():
    engine = toy_engine(dtype=torch.float64)
    whole = Circuit(engine.graph, torch.ones(engine.graph.n_edges, dtype=torch.bool))
    found = completeness(engine, whole, random_task(), **QUICK)
    assert [each.how for each in found.knockouts] == ["none", "random", "greedy", "learned"]
    for each in found.knockouts:
        assert each.difference.value == pytest.approx(0, abs=1e-9), "without the same edges it is the same"
        assert each.circuit == pytest.approx(each.model)
    assert any(each.edges for each in found.knockouts) and found.full == pytest.approx(found.knockouts[0].model)


def test_without_a_set_circuit_and_model_do_what_they_do_by_hand():
    engine = toy_engine(dtype=torch.float64)
    circuit, task = half(engine), random_task()
    found = completeness(engine, circuit, task, **QUICK)
    search = _Search(engine, circuit, task, "logit_diff", "validation")
    sets = {"none": torch.zeros_like(circuit.kept), "greedy": search.greedy(2, 4, 0), "learned": search.learned(10)}
    for each in found.knockouts:
        if each.how not in sets:
            continue
        removed = sets[each.how]
        assert not (removed & ~circuit.kept).any() and each.edges == int(removed.sum())
        by_hand = means(engine, one=circuit.kept & ~removed, other=~removed)
        assert each.difference.value == pytest.approx(np.abs(by_hand["one"] - by_hand["other"]).mean(), abs=1e-6)
        assert each.circuit == pytest.approx(by_hand["one"].mean(), abs=1e-6)
    assert found.worst.difference.value == max(each.difference.value for each in found.knockouts)


def test_greedy_takes_the_worst_component_of_all_where_all_are_tried():
    engine = toy_engine(dtype=torch.float64)
    circuit = half(engine)
    search = _Search(engine, circuit, random_task(), "logit_diff", "validation")
    singles = [circuit.kept & (search.writer == writer) for writer in search.components.tolist()]
    found = search.greedy(1, len(singles), seed=0)
    assert search.difference(found) == max(search.difference(each) for each in singles)


def test_gradient_ascent_finds_worse_sets_than_nothing_and_chance():
    engine = toy_engine(dtype=torch.float64)
    circuit = half(engine)
    search = _Search(engine, circuit, random_task(), "logit_diff", "validation")
    found = search.difference(search.learned(30))
    assert found > search.difference(torch.zeros_like(circuit.kept))
    assert found > np.mean([search.difference(search.random(0, number)) for number in range(8)])


def test_a_components_effect_is_that_of_its_edges():
    engine = toy_engine(dtype=torch.float64)
    circuit, task = half(engine, 0.7), random_task()
    found = component_effects(engine, circuit, task, n_sets=2)
    writers = circuit.graph.edge_writer[circuit.kept].unique().tolist()
    assert {each.component for each in found} == {circuit.graph.writer_names[w] for w in writers}
    assert [each.effect for each in found] == sorted(each.effect for each in found)
    assert sum(each.edges for each in found) == circuit.n_edges
    for each in found:
        assert each.effect >= each.alone >= 0
        own = circuit.graph.edge_writer == circuit.graph.writer_names.index(each.component)
        by_hand = means(engine, one=circuit.kept & ~own, other=circuit.kept)
        assert each.alone == pytest.approx(abs(by_hand["one"].mean() - by_hand["other"].mean()), abs=1e-6)


def test_a_circuit_without_edges_has_nothing_to_knock_out():
    engine = toy_engine()
    empty = Circuit(engine.graph, torch.zeros(engine.graph.n_edges, dtype=torch.bool))
    assert "nothing can be knocked out" in refused(lambda: completeness(engine, empty, random_task()))


def test_what_no_set_can_be_learned_by_is_refused_before_any_is_looked_for(monkeypatch: pytest.MonkeyPatch):
    engine, task = toy_engine(), random_task()
    circuit = half(engine)
    monkeypatch.setattr(Engine, "run", None)
    assert "no gradient" in refused(lambda: completeness(engine, circuit, task, metric="accuracy"))
    assert "test split is empty" in refused(lambda: completeness(engine, circuit, replace(task, test=())))


def test_a_metric_without_a_gradient_serves_where_no_set_is_learned():
    engine = toy_engine()
    settings: dict[str, Any] = QUICK | {"learned_steps": 0}
    found = completeness(engine, half(engine), random_task(), metric="accuracy", **settings)
    assert [each.how for each in found.knockouts] == ["none", "random", "greedy"]


def test_so_many_pairs_are_looked_at_of_every_split():
    engine, task = toy_engine(), random_task()
    circuit = half(engine)
    settings: dict[str, Any] = {"n_random": 1, "greedy_steps": 0, "learned_steps": 0}
    found = completeness(engine, circuit, task, split="train", search_split="train", pairs=3, **settings)
    assert found.n == 3 < len(task.train)
    few = replace(task, train=task.train[:3])
    assert component_effects(engine, circuit, task, split="train", pairs=3) == component_effects(
        engine, circuit, few, split="train"
    )


@pytest.mark.parametrize("wrong", [{"pairs": 0}, {"greedy_width": 0}, {"n_random": -1}, {"learned_steps": -1}])
def test_numbers_that_are_too_small_are_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
):
    engine = toy_engine()
    circuit = half(engine)
    monkeypatch.setattr(Engine, "run", None)
    (name, number), *_ = wrong.items()
    said = refused(lambda: completeness(engine, circuit, random_task(), **wrong))
    assert f"completeness: {name}={number} is too small; give" in said
    assert "give 1 or more" in refused(lambda: component_effects(engine, circuit, random_task(), pairs=0))
