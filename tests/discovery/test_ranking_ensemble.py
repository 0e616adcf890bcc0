"""Several rankings as one: each of its own pairs, fused, interrupted and taken up."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgewise.discovery import RankingConfig, RankingEnsembleConfig, ensemble, learn_ranking, learn_ranking_ensemble
from edgewise.discovery import _ranking_ensemble as room
from edgewise.runs import RunOptions
from tests.discovery.toys import quiet, random_task, refused, toy_engine

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
    passes = sum(each.provenance["cost"]["backwards_per_example"] * 12 for each in members)
    assert cost["examples"] == len(task.train)
    assert cost["backwards_per_example"] * len(task.train) == pytest.approx(passes, rel=1e-2)


def test_pairs_are_drawn_with_replacement_by_the_seed_alone():
    task = random_task()
    drawn = room.resampled(task, 5).train
    assert len(drawn) == len(task.train) and set(map(id, drawn)) < set(map(id, task.train))
    assert all(one is other for one, other in zip(drawn, room.resampled(task, 5).train, strict=True))
    assert any(one is not other for one, other in zip(drawn, room.resampled(task, 6).train, strict=True))
    assert room.resampled(task, 5).test is task.test


def test_it_goes_on_in_the_member_that_it_was_stopped_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    engine, task = toy_engine(), random_task()
    whole = learn_ranking_ensemble(engine, task, CONFIG, options=quiet())
    options, learned = RunOptions(out=tmp_path, progress=False), []

    def cut_short(*given, options: RunOptions, **more):
        learned.append(options.out)
        found = learn_ranking(*given, options=options, **more)
        if len(learned) == 2:
            said = {**found.provenance["method"], "stop": "interrupted", "stopped": "interrupted after 2 steps"}
            found = replace(found, provenance={**found.provenance, "method": said})
        return found

    monkeypatch.setattr(room, "learn_ranking", cut_short)
    part = learn_ranking_ensemble(engine, task, CONFIG, options=options)
    assert part.provenance["method"]["stopped"] == "interrupted after 2 steps"
    assert part.provenance["method"]["learned"] == 2 and learned == [tmp_path / "member-0", tmp_path / "member-1"]
    monkeypatch.setattr(room, "learn_ranking", learn_ranking)
    again = learn_ranking_ensemble(engine, task, CONFIG, options=options)
    assert torch.equal(again.values, whole.values) and "stopped" not in again.provenance["method"]
    other = replace(CONFIG, learning_rate=0.5)
    assert "checkpoint" in refused(lambda: learn_ranking_ensemble(engine, task, other, options=options))


def test_it_refuses_no_members():
    assert "members" in refused(lambda: learn_ranking_ensemble(toy_engine(), random_task(), members=0))
