"""The fast paths give what the reference gives on the masks of real runs: hard and fractional, with dead heads."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from edgewise import tasks
from edgewise.discovery import EdgePruningConfig, RankingConfig, edge_pruning, learn_ranking
from edgewise.engine import Engine
from edgewise.models import load
from edgewise.runs import RunOptions
from tests.discovery.toys import random_task
from tests.engines import assert_same, assert_same_where_given, outcome
from tests.tiny import ONE_OF_EACH, all_in_double, collate, draw_prompts, tiny

BATCH = collate(draw_prompts((6, 3, 5)))
QUIET = RunOptions(progress=False)
RUNS = {
    # What is hard early in a long run is hard from the start here, so that all stages fit in a few steps.
    "edge-pruning": EdgePruningConfig(steps=9, batch_size=4, lr_warmup=1, sparsity_warmup=6, sparsity=0.9),
    "paper": EdgePruningConfig.paper(steps=9, batch_size=4, lr_warmup=1, sparsity_warmup=6, sparsity=0.9, initial=2.0),
    "ranking": RankingConfig(steps=9, batch_size=4, start_temperature=0.1, end_temperature=0.02),
}


def _masks_of(engine: Engine, task: Any, config: EdgePruningConfig | RankingConfig, monkeypatch: Any) -> list[Tensor]:
    """The masks that a run gave its engine: the first, one in the middle, the last, and what was found."""
    dumped: list[Tensor] = []
    run = engine.run

    def record(batch: Any, mask: Tensor, **options: Any) -> Tensor:
        dumped.append(mask.detach().double())
        return run(batch, mask, **options)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "run", record)
        if isinstance(config, RankingConfig):
            found = learn_ranking(engine, task, config, options=QUIET).at(0.9)
        else:
            found = edge_pruning(engine, task, config, options=QUIET)
    return [dumped[-config.steps], dumped[-config.steps // 2], dumped[-1], found.kept.double()]


def _check(model: Any, batch: Any, mask: Tensor, lean: bool) -> None:
    """All gradients with one kind of memory, and those of fractional masks with the other."""
    expected = outcome(Engine(model, path="reference"), batch, mask)
    memory = ("lean", "default") if lean else ("default", "lean")
    assert_same(outcome(Engine(model, memory=memory[0]), batch, mask, gradients="all"), expected)
    found = outcome(Engine(model, memory=memory[1]), batch, mask)
    assert_same_where_given(found, expected, mask, "fractional")


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_masks_of_a_run(name: str, run: str, monkeypatch: pytest.MonkeyPatch):
    model = tiny(name)
    masks = _masks_of(Engine(model), random_task(), RUNS[run], monkeypatch)
    assert any(((mask > 0) & (mask < 1)).any() for mask in masks) and any((mask == 0).any() for mask in masks)
    for number, mask in enumerate(masks):
        _check(model, BATCH, mask, number % 2 == 1)


def test_masks_of_a_run_on_the_default_model(monkeypatch: pytest.MonkeyPatch):
    single = load("smollm2-135m")
    task = tasks.ioi(single.tokenizer, train=4, validation=1, test=1, seed=3)
    config = replace(RUNS["ranking"], batch_size=1, steps=2, warm_examples=1)
    mask = _masks_of(Engine(single), task, config, monkeypatch)[1]
    model = load("smollm2-135m", dtype=torch.float64)
    assert ((mask > 0) & (mask < 1)).any() and (mask == 0).any()
    batch = task.batch("test", [0])
    all_in_double(model.module)
    _check(model, batch, mask, lean=False)
