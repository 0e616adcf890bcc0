"""The learned ranking: the soft top-k mask, its schedules, its start, and what it learns."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgewise.discovery import (
    MaskIgConfig,
    RankingConfig,
    Scores,
    eap,
    edge_pruning,
    learn_ranking,
    learn_rankings,
    mask_ig,
    method,
    node_pruning,
)
from edgewise.discovery._objective import example_scores, step_batch
from edgewise.discovery._ranking import RankingLearner, soft_top
from edgewise.discovery._scores import normal_scores
from edgewise.engine import Engine
from edgewise.runs import normal
from edgewise.tasks import Batch, Task, loss_function, metric_function
from tests.discovery.toys import RANKING, Killed, learner, quiet, random_task, stop, toy_engine
from tests.tiny import refused

# --------------------------------------------------------------------------------------------------- the soft top-k


@given(st.integers(0, 5), st.floats(0.01, 399.9), st.sampled_from([0.05, 0.3, 2.0]))
def test_the_mask_sums_to_the_budget(seed: int, budget: float, temperature: float):
    mask = soft_top(normal(400, seed, 0), budget, temperature)
    assert float(mask.double().sum()) == pytest.approx(budget, rel=2e-5, abs=1e-5)
    assert mask.min() >= 0 and mask.max() <= 1


def test_the_mask_is_in_the_order_of_the_scores_and_ignores_their_level():
    scores = normal(300, 1, 0)
    mask = soft_top(scores, 50, 0.1)
    assert torch.equal(mask[scores.argsort()].sort().values, mask[scores.argsort()])
    torch.testing.assert_close(soft_top(scores + 7, 50, 0.1), mask, rtol=1e-4, atol=1e-5)


def test_a_cold_mask_is_the_top_k():
    scores = normal(300, 1, 0)
    top = torch.zeros(300)
    top[scores.argsort(descending=True)[:50]] = 1
    torch.testing.assert_close(soft_top(scores, 50, 1e-4), top, rtol=0, atol=1e-3)


def test_a_hot_mask_is_even():
    torch.testing.assert_close(soft_top(normal(300, 1, 0), 60, 1e4), torch.full((300,), 0.2), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("budget", "temperature"), [(3.3, 0.3), (20.0, 0.05), (37.5, 1.0)])
def test_its_gradient_goes_through_the_threshold_too(budget: float, temperature: float):
    scores = normal(40, 2, 0).double().requires_grad_()
    weights = normal(40, 3, 0).double()
    mask = soft_top(scores, budget, temperature)
    (gradient,) = torch.autograd.grad((weights * mask).sum(), scores)
    h, found = 1e-6, []
    for i in range(40):
        moved = torch.zeros(40, dtype=torch.float64)
        moved[i] = h
        up, down = (soft_top(scores.detach() + sign * moved, budget, temperature) for sign in (1, -1))
        found.append(float((weights * (up - down)).sum() / (2 * h)))
    torch.testing.assert_close(gradient, torch.tensor(found, dtype=torch.float64), rtol=1e-5, atol=1e-6)
    assert abs(float(gradient.sum())) < 1e-9  # raising all scores alike changes nothing


# ------------------------------------------------------------------------------------------------------- schedules


def test_temperatures_fall_geometrically():
    config = RankingConfig(steps=11, start_temperature=0.4, end_temperature=0.1)
    temperatures = [config.temperature(step) for step in range(11)]
    assert (temperatures[0], temperatures[5], temperatures[10]) == pytest.approx((0.4, 0.2, 0.1))
    assert all(b / a == pytest.approx(0.25**0.1) for a, b in pairwise(temperatures))
    assert RankingConfig(steps=1).temperature(0) == RankingConfig().start_temperature


def test_budgets_are_log_uniform():
    config = RankingConfig(smallest=0.01, largest=0.4)
    budgets = torch.tensor([config.budget(step, 1000) for step in range(2000)])
    assert 10 <= budgets.min() < 11 and 380 < budgets.max() <= 400
    share = (budgets.log() - math.log(10)) / math.log(40)
    assert stats.kstest(share.numpy(), "uniform").pvalue > 1e-3
    assert replace(config, seed=1).budget(0, 1000) != config.budget(0, 1000)
    for first in (0, 17, 1000):  # any ten steps in a row leave no large gap on the log scale
        few = share[first : first + 10].sort().values
        assert float(few.diff().max()) < 0.25 and float(few[0]) < 0.25 and float(few[-1]) > 0.75


def test_the_last_steps_run_hard_circuits():
    config = RankingConfig(steps=10, straight_through=0.3)
    assert [config.is_hard(step) for step in range(10)] == [False] * 7 + [True] * 3
    assert not any(RankingConfig(steps=10).is_hard(step) for step in range(10))
    for steps, share, hard in ((10, 0.7, 7), (300, 0.3, 90), (100, 0.69, 69)):
        config = RankingConfig(steps=steps, straight_through=share)
        assert sum(map(config.is_hard, range(steps))) == hard
    assert all(RankingConfig(steps=10, straight_through=1.0).is_hard(step) for step in range(10))


def test_uniform_budgets_are_drawn_evenly_up_to_all_edges():
    config = RankingConfig(smallest=0.01, largest=1.0, budgets="uniform")
    budgets = torch.tensor([config.budget(step, 1000) for step in range(2000)])
    share = (budgets - 10) / 990
    assert 10 <= budgets.min() < 11 and 999 < budgets.max() <= 1000
    assert stats.kstest(share.numpy(), "uniform").pvalue > 1e-3


def test_the_preset_for_mib_starts_with_all_edges_alike_and_raises_the_metric():
    engine, task = toy_engine("gpt2", torch.float64), random_task()
    config = method("ranking").configure({"steps": 8, "batch_size": 5}, preset="mib")
    assert isinstance(config, RankingConfig)
    learner = RankingLearner(engine, task, config)
    learner.begin()
    assert not learner.scores.any() and config.temperature(0) == config.temperature(7) == 0.5
    leaf = learner.scores.detach().clone().requires_grad_()
    mask = soft_top(leaf[0], config.budget(0, engine.graph.n_edges), 0.5)
    behaviour = example_scores(engine, step_batch(task, 5, config.seed, 0), mask, metric_function("logit_diff")).mean()
    (gradient,) = torch.autograd.grad(behaviour, leaf)
    found = learner.step(0)
    assert float(found["loss"]) == pytest.approx(-float(behaviour.detach()), rel=1e-6)
    moved, clear = learner.scores.detach(), gradient.abs() > 1e-4 * gradient.abs().max()
    assert torch.equal(moved[clear].sign(), gradient[clear].sign()) and clear.sum() > 20


def test_the_preset_for_mib_learns_at_small_budgets():
    engine, task = toy_engine("gpt2"), random_task()
    config = method("ranking").configure({"steps": 8, "largest": 0.02}, preset="mib")
    assert isinstance(config, RankingConfig)
    learner = RankingLearner(engine, task, config)
    learner.begin()
    learner.step(0)
    assert learner.scores.detach().abs().max() > 0


def test_what_is_learned_by_is_in_the_record_and_in_the_cost():
    engine, task = toy_engine("gpt2"), random_task()
    by_loss, by_metric = (
        learn_ranking(engine, task, objective=objective, steps=2, batch_size=5, options=quiet()).provenance
        for objective in ("loss", "metric")
    )
    assert by_loss["task"]["loss"] == "kl" and by_metric["task"]["loss"] == "logit_diff"
    assert by_metric["cost"]["forwards_per_example"] < by_loss["cost"]["forwards_per_example"]


def test_a_metric_without_a_gradient_has_a_stand_in():
    engine, task = toy_engine("gpt2"), replace(random_task(), metric="choice")
    scores = learn_ranking(engine, task, objective="metric", warm_metric="metric", steps=2, batch_size=5)
    assert scores.values.isfinite().all() and scores.provenance["method"]["config"]["objective"] == "metric"


@pytest.mark.parametrize(
    "changed",
    [
        *({"steps": 0}, {"batch_size": 0}, {"smallest": 0.0}, {"smallest": 0.5, "largest": 0.4}, {"largest": 1.1}),
        *({"smallest": math.nan}, {"largest": math.nan}, {"budgets": "log"}, {"objective": "kl"}),
        *({"initial_spread": -1.0}, {"initial_spread": math.inf}, {"straight_through": 1.1}),
        *({"patience": -1}, {"validate_every": 0}, {"validation_examples": 0}),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(changed: dict[str, Any]):
    refused(lambda: RankingConfig(**changed))


@pytest.mark.parametrize(
    "changed",
    [{"start_temperature": 0.0}, {"end_temperature": 0.0}, {"end_temperature": -1.0}, {"warm_examples": -1}],
    ids=str,
)
def test_other_impossible_settings_are_refused(changed: dict[str, Any]):
    refused(lambda: RankingConfig(**changed))


# --------------------------------------------------------------------------------------------------------- the start


def test_normal_scores_keep_the_order_and_are_normal():
    values = normal(500, 4, 0).exp()
    found = normal_scores(values)
    assert torch.equal(found.argsort(), values.argsort())
    torch.testing.assert_close(
        found.sort().values, torch.from_numpy(stats.norm.ppf((torch.arange(500) + 0.5) / 500)).float()
    )
    tied = normal_scores(torch.zeros(500))
    assert torch.equal(tied.argsort(), torch.arange(500))  # the same on every machine


@pytest.mark.parametrize("explained", ["loss", "metric"])
def test_it_starts_from_the_ranks_of_mask_ig(explained):
    begun = learner(replace(RANKING, warm_metric=explained, warm_points=3))
    assert isinstance(begun, RankingLearner)
    task = random_task()
    task = replace(task, metric=task.loss) if explained == "loss" else task
    absolute = MaskIgConfig(average="absolute", batch_size=RANKING.batch_size)
    attribution = mask_ig(toy_engine(), task, absolute, points=3).values
    assert torch.equal(begun.scores.detach()[0], normal_scores(attribution))


def test_it_starts_from_as_many_examples_as_asked():
    few = RankingLearner(toy_engine(), random_task(), replace(RANKING, warm_examples=5))
    few.begin()
    task = random_task()
    absolute = MaskIgConfig(average="absolute", batch_size=RANKING.batch_size)
    attribution = mask_ig(toy_engine(), replace(task, train=task.train[:5], metric=task.loss), absolute).values
    assert torch.equal(few.scores.detach()[0], normal_scores(attribution))


def test_without_examples_it_starts_from_noise():
    starts = []
    for seed in (0, 0, 1):
        cold = RankingLearner(toy_engine(), random_task(), replace(RANKING, warm_examples=0, seed=seed))
        cold.begin()
        starts.append(cold.scores.detach()[0].clone())
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])
    assert abs(float(starts[0].mean())) < 1e-5 and float(starts[0].std()) == pytest.approx(1, abs=0.02)


# -------------------------------------------------------------------------------------------------------- whole runs


def test_a_run_is_repeatable_and_follows_its_seed():
    runs = [learn_ranking(toy_engine(), random_task(), RANKING, options=quiet(), seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(runs[0].values, runs[1].values)
    assert not torch.equal(runs[0].values, runs[2].values)


def test_a_run_says_where_its_scores_come_from():
    said = learn_ranking(toy_engine(), random_task(), RANKING, options=quiet()).provenance
    assert said["method"]["name"] == "ranking" and said["method"]["steps"] == 8
    assert said["method"]["config"]["largest"] == RANKING.largest and said["task"]["name"] == "toy"
    assert said["method"]["examples_seen"] == 40


def test_examples_seen_are_those_that_were():
    scores = learn_ranking(toy_engine(), random_task(3), RANKING, options=quiet())
    assert scores.provenance["method"]["examples_seen"] == 8 * 3


def test_one_ranking_is_better_than_attribution_at_every_size():
    engine, task = toy_engine(), random_task(8)
    learned = learn_ranking(engine, task, RankingConfig(steps=120, batch_size=8), options=quiet())
    for sparsity in (0.75, 0.85, 0.92):
        for other in (mask_ig(engine, task), eap(engine, task)):
            assert _kl(engine, task, learned, sparsity) < 0.9 * _kl(engine, task, other, sparsity)


def _kl(engine: Engine, task: Task, scores: Scores, sparsity: float) -> float:
    absolute = scores.provenance["method"]["name"] != "ranking"
    kept = scores.at(sparsity, absolute=absolute).kept.float()
    batch = task.batch("train", range(len(task.train)))
    return float(example_scores(engine, batch, kept, loss_function("kl")).mean())


def test_the_learning_rate_falls_to_nothing_or_stays():
    falling, constant = (
        RankingConfig(steps=4, learning_rate=0.1),
        RankingConfig(steps=4, learning_rate=0.1, decay=False),
    )
    assert [falling.rate(step) for step in range(4)] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert {constant.rate(step) for step in range(4)} == {0.1}


def test_every_step_has_its_rate():
    learner = RankingLearner(toy_engine(), random_task(), RankingConfig(steps=5, batch_size=4))
    learner.prepare()
    learner.begin()
    for step in range(5):
        learner.step(step)
        assert learner.optimizer.param_groups[0]["lr"] == learner.config.rate(step)


# ------------------------------------------------------------------------------------------------- several at a time


@pytest.mark.parametrize(
    "changes", [{}, {"straight_through": 1.0}, {"straight_through": 0.4}, {"warm_examples": 0}], ids=str
)
def test_rankings_side_by_side_are_those_of_runs_of_their_own(changes: dict[str, Any]):
    task = random_task(5)  # one batch of all examples, so that their order does not matter
    config = replace(RANKING, **changes)
    together = learn_rankings(toy_engine(dtype=torch.float64), task, (3, 4), config, options=quiet())
    for scores, seed in zip(together, (3, 4), strict=True):
        alone = learn_ranking(toy_engine(dtype=torch.float64), task, config, seed=seed, options=quiet())
        # Adam divides a gradient by its size, so what rounding does to tiny ones shows.
        torch.testing.assert_close(scores.values, alone.values, rtol=1e-3, atol=1e-3)
        assert scores.provenance["method"]["config"]["seed"] == seed
    assert not torch.equal(together[0].values, together[1].values)


def test_no_seeds_are_refused():
    assert "no seeds" in refused(lambda: learn_rankings(toy_engine(), random_task(), ()))


@pytest.mark.parametrize(
    "learn",
    [
        lambda engine, task: learn_ranking(engine, task, RANKING, options=quiet()),
        lambda engine, task: edge_pruning(engine, task, steps=2, options=quiet()),
        lambda engine, task: node_pruning(engine, task, steps=2, options=quiet()),
    ],
    ids=["ranking", "edge pruning", "node pruning"],
)
def test_a_loss_without_gradient_is_refused_by_name(learn: Any):
    def wins(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return (logits.argmax(-1) == 0).float()

    task = replace(random_task(), loss=wins)
    assert "wins': it has no gradient; use kl" in refused(lambda: learn(toy_engine(), task))


# -------------------------------------------------------------------------------------------------------- validation

VALIDATED = replace(RANKING, largest=0.3, steps=12, patience=2, validate_every=2, validation_examples=3, smallest=0.1)


def _validation_loss(engine: Engine, task: Task, values: torch.Tensor) -> float:
    few = task.batch("validation", range(3))
    losses = []
    for share in (0.1, math.sqrt(0.1 * 0.3), 0.3):
        kept = torch.zeros_like(values)
        kept[values.topk(round(share * len(values))).indices] = 1
        losses.append(float(example_scores(engine, few, kept, loss_function("kl")).mean()))
    return sum(losses) / 3


def test_it_gives_the_scores_that_were_best_on_validation(monkeypatch: pytest.MonkeyPatch):
    seen: list[torch.Tensor] = []
    real = RankingLearner.validate

    def spy(self: RankingLearner):
        seen.append(self.scores.detach()[0].clone())
        real(self)

    monkeypatch.setattr(RankingLearner, "validate", spy)
    engine, task = toy_engine(), random_task()
    found = learn_ranking(engine, task, VALIDATED, options=quiet(), learning_rate=1.0, patience=100)
    assert len(seen) == 6
    losses = [_validation_loss(engine, task, values) for values in seen]
    assert torch.equal(found.values, seen[losses.index(min(losses))]) and len(set(losses)) > 3


def test_it_stops_when_validation_gets_no_better(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(RankingLearner, "hard", lambda self, budgets: torch.zeros_like(self.scores))  # never better
    found = learn_ranking(toy_engine(), random_task(), VALIDATED, options=quiet())
    assert found.provenance["method"]["steps"] == 6  # the first validation sets the mark, the next two are no better
    assert "stopped" not in found.provenance["method"]


def test_a_killed_run_with_validation_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def run(name: str) -> torch.Tensor:
        task, options = random_task(), quiet(tmp_path / name)
        return learn_ranking(toy_engine(), task, VALIDATED, options=options, learning_rate=1.0).values

    with monkeypatch.context() as patch:
        stop(patch, 5, Killed())
        with pytest.raises(Killed):
            run("killed")
    assert torch.equal(run("killed"), run("whole"))
    assert torch.equal(run("whole"), run("whole"))  # a run that is over gives the same again


def test_a_run_that_is_over_prepares_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = learn_ranking(toy_engine(), random_task(), RANKING, options=quiet(tmp_path)).values
    monkeypatch.setattr(RankingLearner, "prepare", None)  # may be a long part of a run
    assert torch.equal(learn_ranking(toy_engine(), random_task(), RANKING, options=quiet(tmp_path)).values, whole)


def test_patience_without_validation_pairs_is_refused():
    task = replace(random_task(), validation=[])
    assert "validation split is empty" in refused(lambda: learn_ranking(toy_engine(), task, VALIDATED))


def test_a_budget_of_all_edges_has_a_finite_gradient():
    leaf = torch.randn(400, requires_grad=True)
    mask = soft_top(leaf, 400.0, 0.05)
    (gradient,) = torch.autograd.grad(mask.sum(), leaf)
    assert bool(mask.isfinite().all() and gradient.isfinite().all()) and float(mask.detach().min()) > 0.999
