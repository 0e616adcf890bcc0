"""Absolute effects averaged over the examples: one example's scores at a time, whatever the batches and positions."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from edgewise.discovery import learn_ranking, mask_ig, method, methods, run_method
from edgewise.discovery._configs import AveragedConfig
from edgewise.discovery._scores import normal_scores
from edgewise.engine import Ablation, Engine
from edgewise.tasks import Task
from tests.discovery.test_positions import SPANS
from tests.discovery.test_positions import task as spanned_task
from tests.discovery.toys import near, quiet, random_task, refused, toy_engine
from tests.tiny import tiny

AVERAGED = [each.name for each in methods().values() if issubclass(each.config, AveragedConfig)]


def scores(engine: Engine, task: Task, name: str, **settings: Any) -> torch.Tensor:
    chosen = method(name)
    found = run_method(chosen, engine, task, chosen.configure(settings), options=quiet())
    return found.values if found.writers is None else found.writers


def one_by_one(engine: Engine, task: Task, name: str, **settings: Any) -> torch.Tensor:
    alone = [replace(task, train=[pair]) for pair in task.train]
    return torch.stack([scores(engine, each, name, **settings).abs() for each in alone]).mean(0)


def test_the_methods_that_average_are_the_ones_meant():
    assert {"eap", "eap-ig", "eap-ig-activations", "mask-ig", "relevance", "node-eap", "node-ig"} <= set(AVERAGED)


@pytest.mark.parametrize("name", sorted({*AVERAGED} - {"ensemble"}))
def test_absolute_scores_are_the_mean_size_of_each_examples_own(name: str):
    engine, task = toy_engine("gpt2", torch.float64), random_task(5)
    expected = one_by_one(engine, task, name)
    for size in (2, 32):
        near(scores(engine, task, name, average="absolute", batch_size=size), expected, 1e-6)
    signed = scores(engine, task, name)
    near(scores(engine, task, name, average="signed"), signed, 0)
    assert bool((signed.abs() < expected * (1 - 1e-3)).any())  # some cancel


@pytest.mark.parametrize("family", ["llama-gqa", "gpt2"])
@pytest.mark.parametrize("ablation", ["interchange", "zero"])
def test_positions_stay_apart_and_unequal_lengths_are_no_matter(family: str, ablation: Any):
    model = tiny(family, torch.float64)
    for engine, task in (
        (Engine(model, model.graph(spans=SPANS), Ablation(ablation)), spanned_task(4)),
        (Engine(model, model.graph(), Ablation(ablation)), spanned_task(4)),
    ):
        near(scores(engine, task, "mask-ig", average="absolute"), one_by_one(engine, task, "mask-ig"), 1e-6)


def test_the_keys_fix_has_absolute_scores_too():
    engine, task = toy_engine("gpt2", torch.float64), random_task(4)
    found = scores(engine, task, "eap", average="absolute", qk_fix=True)
    near(found, one_by_one(engine, task, "eap", qk_fix=True), 1e-6)


def test_the_sign_of_a_distance_is_no_matter():
    engine, task = toy_engine("gpt2", torch.float64), random_task(4)
    found = scores(engine, task, "mask-ig", average="absolute", explains="kl")
    assert bool((found >= 0).all()) and bool((found > 0).any())


def test_rankings_start_from_absolute_effects():
    engine, task = toy_engine("gpt2"), random_task(6)
    ranking = learn_ranking(engine, task, steps=1, learning_rate=1e-12, warm_examples=4, warm_points=2, options=quiet())
    few = replace(task, train=task.train[:4], metric="kl")
    start = mask_ig(engine, few, points=2, average="absolute").values
    torch.testing.assert_close(ranking.values, normal_scores(start), atol=1e-5, rtol=0)


def test_another_average_is_refused():
    assert "average" in refused(lambda: mask_ig(toy_engine(), random_task(2), average="median"))  # pyright: ignore
