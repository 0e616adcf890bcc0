"""Several rankings as one: each of its own pairs, fused, interrupted and taken up."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise.discovery import (
    RankingConfig,
    RankingEnsembleConfig,
    Scores,
    ensemble,
    learn_ranking,
    learn_ranking_ensemble,
    learned_engine,
)
from edgewise.discovery import _ranking_ensemble as room
from edgewise.discovery._objective import step_examples
from edgewise.discovery._ranking import RankingLearner
from edgewise.runs import RunOptions
from tests.discovery.toys import Killed, quiet, random_task, stop, toy_engine
from tests.tiny import refused, tiny

CONFIG = RankingEnsembleConfig(members=3, steps=4, batch_size=3, warm_examples=4, seed=2)


def test_it_is_the_ensemble_of_rankings_of_pairs_drawn_anew():
    engine, task = toy_engine(), random_task()
    found = learn_ranking_ensemble(engine, task, CONFIG, options=quiet())
    single = RankingConfig(steps=4, batch_size=3, warm_examples=4)
    members = [
        learn_ranking(engine, room.resampled(task, seed), replace(single, seed=seed), options=quiet())
        for seed in (6, 7, 8)  # no other seed's ensemble of three has one of them
    ]
    assert torch.equal(found.values, ensemble(members, absolute=False).values)
    assert len({each.values.sum().item() for each in members}) == 3
    method, cost = found.provenance["method"], found.provenance["cost"]
    assert method["name"] == "ranking-ensemble" and method["config"]["members"] == method["learned"] == 3
    assert "stopped" not in method and found.provenance["task"]["name"] == task.name
    costs = [each.provenance["cost"] for each in members]
    passes = sum(each["backwards_per_example"] * each["examples"] for each in costs)
    assert cost["backwards_per_example"] * cost["examples"] == pytest.approx(passes, rel=1e-2)


def test_pairs_are_drawn_with_replacement_by_the_seed_alone():
    task = random_task()
    drawn = room.resampled(task, 5).train
    assert len(drawn) == len(task.train) and set(map(id, drawn)) < set(map(id, task.train))
    assert all(one is other for one, other in zip(drawn, room.resampled(task, 5).train, strict=True))
    assert any(one is not other for one, other in zip(drawn, room.resampled(task, 6).train, strict=True))
    assert room.resampled(task, 5).test is task.test


@pytest.mark.parametrize(("members", "steps", "warm"), [(2, 1, 0), (2, 1, 4), (1, 8, 0)])
def test_the_examples_of_its_cost_are_the_different_ones_that_were_seen(members: int, steps: int, warm: int):
    task, seen = random_task(), set[int]()
    few = replace(CONFIG, steps=steps, warm_examples=warm, members=members)
    for seed in range(2 * members, 3 * members):
        own = room.resampled(task, seed).train
        orders = [step_examples(12, 3, seed, step) for step in range(steps)]
        seen |= {id(own[place]) for place in (*range(warm), *(place for order in orders for place in order))}
    found = learn_ranking_ensemble(toy_engine(), task, few, options=quiet())
    assert found.provenance["cost"]["examples"] == len(seen) < 12
    judged = learn_ranking_ensemble(toy_engine(), task, few, patience=1, validation_examples=3, options=quiet())
    assert judged.provenance["cost"]["examples"] == len(seen) + 3


def test_progress_says_which_ranking_learns(capsys: pytest.CaptureFixture[str]):
    learn_ranking_ensemble(toy_engine(), random_task(), CONFIG)
    shown = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert list(dict.fromkeys(shown)) == [f"ranking-ensemble, ranking {number} of 3" for number in (1, 2, 3)]


def test_it_goes_on_in_the_member_that_it_was_stopped_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    engine, task, learned = toy_engine(), random_task(), list[object]()
    whole = learn_ranking_ensemble(engine, task, CONFIG, options=quiet())
    options = RunOptions(out=tmp_path, progress=False, checkpoint_seconds=0)

    def killed(*given: Any, options: RunOptions, **more: Any) -> Scores:
        learned.append(options.out)
        with monkeypatch.context() as patch:
            if len(learned) == 2:
                stop(patch, 2, Killed())
            return learn_ranking(*given, options=options, **more)

    with monkeypatch.context() as patch:
        patch.setattr(room, "learn_ranking", killed)
        with pytest.raises(Killed):
            learn_ranking_ensemble(engine, task, CONFIG, options=options)
    assert learned == [tmp_path / "member-0", tmp_path / "member-1"]
    again = learn_ranking_ensemble(engine, task, CONFIG, options=options)
    assert torch.equal(again.values, whole.values) and "stopped" not in again.provenance["method"]
    assert again.provenance["method"]["steps"] == 12
    other = replace(CONFIG, learning_rate=0.5)
    assert "checkpoint" in refused(lambda: learn_ranking_ensemble(engine, task, other, options=options))
    (tmp_path / "member-0" / "checkpoint.safetensors").unlink()  # as the message says; it begins anew
    assert learn_ranking_ensemble(engine, task, other, options=options).provenance["method"]["learned"] == 3


@pytest.mark.parametrize(
    ("where", "says"), [("step", "ranking 2 of 3: interrupted"), ("begin", "before ranking 2 of 3")]
)
def test_an_interrupt_gives_what_was_learned(monkeypatch: pytest.MonkeyPatch, where: str, says: str):
    begun, begin = list[object](), RankingLearner.begin

    def begins(learner: RankingLearner) -> None:
        begun.append(learner)
        if where == "begin" and len(begun) == 2:
            raise KeyboardInterrupt
        begin(learner)
        if where == "step" and len(begun) == 2:
            stop(monkeypatch, 2, KeyboardInterrupt())

    monkeypatch.setattr(RankingLearner, "begin", begins)
    found = learn_ranking_ensemble(toy_engine(), random_task(), CONFIG, options=quiet())
    method = found.provenance["method"]
    assert says in method["stopped"] and method["stop"] == "interrupted"
    assert method["learned"] == (2 if where == "step" else 1) == len(begun) - (where == "begin")


def test_it_refuses_constants_that_all_would_learn():
    engine = learned_engine(tiny("gpt2", torch.float32), random_task())
    assert "takes no optimal ablation" in refused(lambda: learn_ranking_ensemble(engine, random_task(), CONFIG))


def test_it_refuses_no_members():
    assert "members" in refused(lambda: learn_ranking_ensemble(toy_engine(), random_task(), members=0))
