"""Absolute effects averaged over the examples: one example's scores at a time, whatever the batches and positions."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from edgewise.discovery import Scores, mask_ig, method, methods, run_method
from edgewise.discovery._configs import AveragedConfig
from edgewise.engine import Ablation, Engine
from edgewise.tasks import Task
from tests.discovery.test_positions import SPANS
from tests.discovery.test_positions import task as spanned_task
from tests.discovery.toys import near, quiet, random_task, toy_engine
from tests.tiny import refused, tiny

AVERAGED = [each.name for each in methods().values() if issubclass(each.config, AveragedConfig)]


def scores(engine: Engine, task: Task, name: str, **settings: Any) -> torch.Tensor:
    chosen = method(name)
    found = run_method(chosen, engine, task, chosen.configure(settings), options=quiet())
    assert isinstance(found, Scores)
    return found.values if found.writers is None else found.writers


def one_by_one(engine: Engine, task: Task, name: str, **settings: Any) -> torch.Tensor:
    alone = [replace(task, train=[pair]) for pair in task.train]
    return torch.stack([scores(engine, each, name, **settings).abs() for each in alone]).mean(0)


def test_the_methods_that_average_are_the_ones_meant():
    of_edges = {"eap", "eap-ig", "eap-ig-activations", "mask-ig", "relevance", "ensemble"}
    assert of_edges | {"node-eap", "node-ig"} == set(AVERAGED)


@pytest.mark.parametrize("name", sorted({*AVERAGED} - {"ensemble"}))
def test_absolute_scores_are_the_mean_size_of_each_examples_own(name: str):
    engine, task = toy_engine("gpt2", torch.float64), random_task(5)
    expected = one_by_one(engine, task, name)
    for size in (2, 32):
        near(scores(engine, task, name, average="absolute", batch_size=size), expected, 1e-6)
    signed = scores(engine, task, name)
    near(scores(engine, task, name, average="signed"), signed, 0)
    assert bool((signed.abs() < expected * (1 - 1e-3)).any())  # some cancel


@pytest.mark.parametrize("name", ["mask-ig", "eap-ig", "eap-ig-activations", "relevance"])
@pytest.mark.parametrize("family", ["llama-gqa", "gpt2"])
@pytest.mark.parametrize("ablation", ["interchange", "zero"])
def test_positions_stay_apart_and_padding_is_no_matter(name: str, family: str, ablation: Any):
    model, task = tiny(family, torch.float64), spanned_task(4)
    longer = [
        replace(pair, clean=(*pair.clean, 3), corrupted=(*pair.corrupted, 4), spans=(*(pair.spans or ()), 2))
        for pair in task.train[:2]
    ]
    task = replace(task, train=[*longer, *task.train[2:]])
    for spans in (SPANS, ()):
        engine = Engine(model, model.graph(spans=spans), Ablation(ablation))
        near(scores(engine, task, name, average="absolute"), one_by_one(engine, task, name), 1e-6)


def test_a_token_in_no_group_is_refused_and_not_taken_for_another_examples():
    model, task = tiny("gpt2"), spanned_task(4)
    engine = Engine(model, model.graph(spans=SPANS))
    for spans in (None, (0, 1, 2, 3, 0, 1, 2)):
        wrong = replace(task, train=[replace(pair, spans=spans) for pair in task.train])
        message = refused(lambda task=wrong: mask_ig(engine, task, average="absolute"))
        assert "span_id: groups must lie in 0 to 2" in message


def test_graphs_with_neurons_have_absolute_scores_too():
    model, task = tiny("gpt2", torch.float64), random_task(3)
    engine = Engine(model, model.graph(neurons={0: (0, 3), 2: (1,)}))
    for ablation in ("interchange", "zero"):
        engine = Engine(model, engine.graph, Ablation(ablation))
        near(scores(engine, task, "mask-ig", average="absolute"), one_by_one(engine, task, "mask-ig"), 1e-6)


def test_the_keys_fix_has_absolute_scores_too():
    engine, task = toy_engine("gpt2", torch.float64), random_task(4)
    found = scores(engine, task, "eap", average="absolute", qk_fix=True)
    near(found, one_by_one(engine, task, "eap", qk_fix=True), 1e-6)


def test_the_sign_of_a_distance_is_no_matter():
    engine, task = toy_engine("gpt2", torch.float64), random_task(4)
    found = scores(engine, task, "mask-ig", average="absolute", explains="kl")
    assert bool((found >= 0).all()) and bool((found > 0).any())


def test_another_average_is_refused():
    assert "average" in refused(lambda: mask_ig(toy_engine(), random_task(2), average="median"))  # pyright: ignore
