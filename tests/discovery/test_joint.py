"""Rankings that also ask which edges are needed: the coin, and what a step that removes the top edges does."""

from dataclasses import replace

import pytest
import torch

from edgewise.discovery import RankingConfig
from edgewise.discovery._objective import example_scores, step_batch
from edgewise.discovery._ranking import RankingLearner, soft_top
from edgewise.tasks import metric_function
from tests.discovery.toys import random_task, toy_engine
from tests.tiny import refused


def test_the_coin_is_fair_and_follows_from_seed_and_step_alone():
    config = RankingConfig(joint=0.3, seed=5)
    flips = [config.removes(step) for step in range(500)]
    assert abs(sum(flips) / 500 - 0.3) < 0.08
    assert flips == [replace(config, steps=7).removes(step) for step in range(500)]
    assert flips != [replace(config, seed=6).removes(step) for step in range(500)]
    assert not any(RankingConfig().removes(step) for step in range(50))
    assert "a share of the steps" in refused(lambda: RankingConfig(joint=1.0))


@pytest.mark.parametrize("straight_through", [0.0, 1.0])
def test_a_step_that_removes_lowers_what_is_left_of_the_behaviour(straight_through: float):
    engine, task = toy_engine("gpt2", torch.float64), random_task()
    config = RankingConfig(joint=0.5, steps=8, batch_size=5, mask_margin=0, straight_through=straight_through)
    step = next(step for step in range(8) if config.removes(step))
    learner = RankingLearner(engine, task, config)
    learner.begin()
    scores, budget = learner.scores.detach().clone(), config.budget(step, engine.graph.n_edges)
    leaf = scores[0].clone().requires_grad_()
    mask = soft_top(leaf, budget, config.temperature(step))
    if straight_through:
        mask = learner.hard([budget])[0] + (mask - mask.detach())
    batch = step_batch(task, config.batch_size, config.seed, step)
    left = example_scores(engine, batch, 1 - mask, metric_function("presence"), gradients="all").mean()
    (gradient,) = torch.autograd.grad(left, leaf)
    found = learner.step(step)
    assert float(found["loss"]) == pytest.approx(float(left.detach()), rel=1e-6) and 0 < float(found["loss"]) < 1
    moved, clear = (learner.scores.detach() - scores)[0], gradient.abs() > 1e-4 * gradient.abs().max()
    assert torch.equal(moved[clear].sign(), -gradient[clear].sign()) and clear.sum() > 20
    kept = next(step for step in range(8) if not config.removes(step))
    assert torch.equal(learner.losses(kept, mask[None, None]), learner.losses(kept, mask[None, None], learner.loss))
