"""Faithfulness, CPR and CMD: against numbers worked out by hand, and against each circuit judged alone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from edgewise.circuit import Circuit
from edgewise.discovery import Scores, eap
from edgewise.engine import Ablation, Engine
from edgewise.evaluation import (
    MIB_SHARES,
    areas,
    both_curves,
    completeness,
    component_effects,
    evaluate,
    faithfulness,
    hypothesis_tests,
    judge,
    mib_scores,
    size_curve,
)
from edgewise.tasks import Target
from tests.discovery.toys import random_task, toy_engine
from tests.tiny import refused


def test_faithfulness_is_a_ratio_of_means():
    assert faithfulness(3.0, full=5.0, empty=1.0) == 0.5
    assert faithfulness(7.0, full=5.0, empty=1.0) == 1.5  # more than the model
    assert "nothing to keep" in refused(lambda: faithfulness(1.0, 2.0, 2.0))
    assert "nothing to keep" in refused(lambda: faithfulness(1.0, 2.0, 2.00001))
    assert "nothing to keep" in refused(lambda: faithfulness(1.0, 1e-6, 2e-6, scale=3.0))  # means of both signs
    assert faithfulness(1e-6, 2e-6, 0.0) == 0.5


def test_of_answers_before_what_differs_no_circuit_keeps_a_share():
    """The full model runs as the module, the empty circuit under masks: they differ by rounding, which is no share."""
    engine, task = toy_engine(dtype=torch.float32), random_task()
    early = [
        replace(pair, corrupted=(*pair.clean[:-1], pair.clean[-1] ^ 1), targets=(Target(1, (3,), (5,)),))
        for pair in task.test
    ]
    task = replace(task, train=early, validation=early, test=early)
    scores = Scores(engine.graph, torch.randn(engine.graph.n_edges), {}, ablation=Ablation())
    judged = evaluate(engine, scores.top(5), task, baselines=(), metrics=("logit_diff", "log_prob"))
    for measured in judged.metrics.values():
        assert measured.full == pytest.approx(measured.empty, rel=1e-5) and measured.faithfulness is None
    assert "nothing to keep" in refused(lambda: mib_scores(engine, scores, task, shares=(0.1, 1.0)))
    assert "nothing to keep" in refused(lambda: both_curves(engine, scores, task, shares=(0.1, 0.5)))


def test_areas_by_hand():
    # Trapezoids: 0.4 · (0 + 0.5)/2 + 0.5 · (0.5 + 2)/2 = 0.1 + 0.625, and of |1 − f|: 0.4 · 1.5/2 + 0.5 · 1.5/2.
    assert areas((0.1, 0.5, 1.0), (0.0, 0.5, 2.0)) == pytest.approx((0.725, 0.675))
    # Over log size, halves of the axis from 0.01 to 1: (0 + 1)/2 and (1 + 1)/2.
    assert areas((0.01, 0.1, 1.0), (0.0, 1.0, 1.0), log=True) == pytest.approx((0.75, 0.25))


def test_a_perfect_circuit_has_the_axis_below_it():
    assert MIB_SHARES == (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
    assert areas(MIB_SHARES, [1.0] * 10) == pytest.approx((0.999, 0.0))
    assert areas(MIB_SHARES, [1.0] * 10, log=True) == pytest.approx((1.0, 0.0))


@pytest.mark.parametrize("shares", [(0.5,), (0.5, 0.1), (0.1, 0.1), (0.1, 0.2, 0.3)])
def test_sizes_that_are_no_axis_are_refused(shares: tuple[float, ...]):
    refused(lambda: areas(shares, (1.0, 1.0)))


def test_mib_scores_are_made_of_circuits_judged_alone():
    engine, task = toy_engine(), random_task()
    scores, shares = eap(engine, task), (0.05, 0.2, 0.5, 1.0)
    found = mib_scores(engine, scores, task, shares=shares)
    none = judge(engine, {"none": scores.top(0)}, task, "test", names=("logit_diff",))
    assert found.empty == pytest.approx(float(none["none"]["logit_diff"].mean()), abs=1e-5)
    assert found.full == pytest.approx(float(none["full"]["logit_diff"].mean()), abs=1e-5)
    assert (found.signed.selection, found.absolute.selection) == ("signed", "absolute")
    for chosen in (found.signed, found.absolute):
        circuits = {
            str(k): scores.top(int(share * engine.graph.n_edges), absolute=chosen.selection == "absolute")
            for k, share in enumerate(shares)
        }
        judged = judge(engine, circuits, task, "test", names=("logit_diff",))
        values = [float(judged[name]["logit_diff"].mean()) for name in circuits]
        assert chosen.values == pytest.approx(values, abs=1e-5)
        assert chosen.actual == tuple(circuit.n_actual for circuit in circuits.values())
        kept = (np.array(values) - found.empty) / (found.full - found.empty)
        widths, mean = np.diff(shares), (kept[1:] + kept[:-1]) / 2
        assert chosen.cpr == pytest.approx(float((widths * mean).sum()), abs=1e-5)
        away = np.abs(1 - kept)
        assert chosen.cmd == pytest.approx(float((widths * (away[1:] + away[:-1]) / 2).sum()), abs=1e-5)
        assert chosen.faithfulness[-1] == pytest.approx(1, abs=1e-5)  # all edges are the model
        real = np.diff(np.array(chosen.actual) / engine.graph.n_edges)
        assert chosen.actual_cpr == pytest.approx(float((real * mean).sum()), abs=1e-5)
        assert chosen.actual_cmd == pytest.approx(float((real * (away[1:] + away[:-1]) / 2).sum()), abs=1e-5)
        assert (chosen.log_cpr, chosen.log_cmd) == pytest.approx(areas(shares, kept.tolist(), log=True), abs=1e-5)
    assert found.signed.values != found.absolute.values and found.n == 4


def test_what_mib_does_not_know_is_refused():
    engine, task = toy_engine(), random_task()
    scores = eap(engine, task)
    assert "choose" in refused(lambda: mib_scores(engine, scores, task, metric="beauty"))
    assert "above 0" in refused(lambda: mib_scores(engine, scores, task, shares=(0.0, 1.0)))


def test_scores_are_judged_under_the_ablation_they_were_found_under():
    task, engine = random_task(), toy_engine(ablation=Ablation("zero"))
    scores = eap(engine, task)
    assert mib_scores(engine.model, scores, task) == mib_scores(engine, scores, task)
    assert "ablation" in refused(lambda: mib_scores(toy_engine(), scores, task))


def test_sizes_that_do_not_rise_are_refused_before_anything_is_judged(monkeypatch: pytest.MonkeyPatch):
    engine, task = toy_engine(), random_task()
    scores = eap(engine, task)
    monkeypatch.setattr(Engine, "run", None)
    assert "rising sizes" in refused(lambda: mib_scores(engine, scores, task, shares=(0.5, 0.1)))
    assert "no share" in refused(lambda: mib_scores(engine, scores, task, shares=(0.0, 0.1)))
    assert "rising sizes" in refused(lambda: both_curves(engine, scores, task, shares=(0.5, 0.1)))
    assert "rising sizes" in refused(lambda: both_curves(engine, scores, task, shares=(0.5,)))


# ------------------------------------------------------------------------------------- what every judgement looks at


@pytest.mark.parametrize("how", [completeness, component_effects, evaluate, hypothesis_tests, both_curves, mib_scores])
def test_pairs_that_have_not_what_a_metric_needs_are_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, how: Callable[..., Any]
):
    """Where one pair of several has no wrong answer its logit difference is NaN, and so would be every mean."""
    engine, task = toy_engine(), random_task()
    bare = replace(task.test[0], targets=tuple(replace(each, wrong=()) for each in task.test[0].targets))
    few, scores = replace(task, test=[bare, *task.test[1:]]), eap(engine, task)
    named: dict[str, Any] = {"metrics": ("logit_diff",)} if how is evaluate else {"metric": "logit_diff"}
    judged = scores if how in (both_curves, mib_scores) else scores.at(0.5)
    monkeypatch.setattr(Engine, "run", None)
    assert "toy has no wrong answers" in refused(lambda: how(engine, judged, few, **named))
    if how is not evaluate:
        assert "test split is empty" in refused(lambda: how(engine, judged, replace(task, test=[]), **named))


def test_a_metric_that_is_not_finite_is_named_with_its_circuit():
    def odd(logits: torch.Tensor, batch: Any) -> torch.Tensor:
        return torch.where(batch.row == 2, torch.nan, logits[..., 0])

    engine, task = toy_engine(), random_task(metric=odd)
    circuit = Circuit(engine.graph, torch.ones(engine.graph.n_edges, dtype=torch.bool))
    expected = "odd': it is not finite for some example of full; mend the metric or choose another"
    assert expected in refused(lambda: judge(engine, {"it": circuit}, task, "test"))
    assert expected in refused(lambda: evaluate(engine, circuit, task, baselines=()))
    assert size_curve(engine, {"it": [circuit]}, task).n == 4
