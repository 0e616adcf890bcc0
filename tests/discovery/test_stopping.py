"""Poisoned, interrupted or out of disk, a run ends in one line and keeps what it has."""

import contextlib
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from edgewise.discovery import RankingConfig, _edge_pruning, _ranking
from edgewise.discovery._ranking import RankingLearner
from edgewise.runs import CHECKPOINT, _loop
from edgewise.tasks import Batch, Task, loss_function
from tests.discovery.toys import (
    LEARNED,
    PRESETS,
    RANKING,
    Killed,
    differing,
    find,
    learner,
    random_task,
    stop,
    toy_engine,
)
from tests.disk import little_disk
from tests.tiny import refused

# ------------------------------------------------------------------------------------------------- numbers gone wrong


def _poisoned(at: int, value: float, in_gradient: bool = False) -> Task:
    """A task whose loss is not finite from its call number `at` (counted from 1) on, or only its gradient."""
    calls = [0]

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        calls[0] += 1
        found = loss_function("kl")(logits, batch)
        if calls[0] < at:
            return found
        # The square root's slope at 0 is infinite, and its value is fine.
        return found + (logits[:, 0] - logits[:, 0].detach()).abs().sqrt() if in_gradient else found * value

    return random_task(loss=loss)


@pytest.mark.parametrize("preset", LEARNED)
@pytest.mark.parametrize(
    ("value", "in_gradient"), [(math.nan, False), (math.inf, False), (1, True)], ids=["nan", "inf", "gradient"]
)
def test_a_number_that_is_not_finite_stops_at_the_last_good_step(
    tmp_path, preset: str, value: float, in_gradient: bool
):
    config = LEARNED[preset]
    if isinstance(config, RankingConfig):  # whose start would meet the loss first
        config = replace(config, warm_metric="metric")
    circuit = find(tmp_path / "bad", config, task=_poisoned(5, value, in_gradient))
    said = circuit.provenance["method"]
    assert said["steps"] == 4 and said["stopped"].startswith("step 5: ") and "not finite" in said["stopped"]
    good = learner(config)
    for step in range(4):
        good.step(step)
    assert differing(load_file(tmp_path / "bad" / CHECKPOINT), _detached(good.tensors())) == []
    four = find(None, config, task=_poisoned(5, value, in_gradient))
    assert torch.equal(circuit.kept, four.kept)


def _detached(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in tensors.items()}


def test_a_first_step_that_is_not_finite_is_one_line(tmp_path):
    said = refused(lambda: find(tmp_path, PRESETS["ours"], task=_poisoned(1, math.nan)))
    assert "at the first step" in said and "not finite" in said


def test_an_interrupt_before_there_is_a_start_gives_no_circuit(tmp_path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(self: RankingLearner):
        raise KeyboardInterrupt

    monkeypatch.setattr(RankingLearner, "begin", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find(tmp_path, RANKING)
    assert not any(tmp_path.iterdir())


def test_a_loss_of_the_wrong_shape_is_one_line():
    task = random_task(loss=lambda logits, _batch: logits.sum())
    assert "one value per target" in refused(lambda: find(None, PRESETS["ours"], task=task))


def test_a_task_without_training_examples_is_one_line():
    assert "train split is empty" in refused(lambda: find(None, PRESETS["ours"], task=replace(random_task(), train=[])))


# ---------------------------------------------------------------------------------------------------------- interrupts


@pytest.mark.parametrize(
    ("preset", "where"),
    [("ranking", "step"), *((preset, w) for preset in PRESETS for w in ("step", "mask", "penalty", "update"))],
)
def test_ctrl_c_keeps_what_there_is_and_can_go_on(tmp_path, monkeypatch, preset: str, where: str):
    config, engine = LEARNED[preset], toy_engine()
    with monkeypatch.context() as patch:
        stop(patch, 4, KeyboardInterrupt(), where)
        kept = find(tmp_path / "cut", config, engine=engine)
    assert kept.provenance["method"]["stopped"] == "interrupted after step 4"
    resumed = find(tmp_path / "cut", config, engine=engine)
    assert "stopped" not in resumed.provenance["method"]
    assert differing(load_file(tmp_path / "cut" / CHECKPOINT), _whole(preset)) == []


@cache
def _whole(preset: str) -> dict[str, Tensor]:
    """The checkpoint of a run that nothing disturbs, made once for all runs that are to end as it does."""
    with TemporaryDirectory() as folder:
        find(Path(folder), LEARNED[preset])
        return load_file(Path(folder) / CHECKPOINT)


@pytest.mark.parametrize("preset", LEARNED)
def test_ctrl_c_between_two_steps_keeps_the_one_before(tmp_path, monkeypatch, preset: str):
    config, save = LEARNED[preset], _loop.save_checkpoint

    def interrupted(*_):
        monkeypatch.setattr(_loop, "save_checkpoint", save)
        raise KeyboardInterrupt

    monkeypatch.setattr(_loop, "save_checkpoint", interrupted)
    find(tmp_path / "cut", config)
    assert "stopped" not in find(tmp_path / "cut", config).provenance["method"]
    assert differing(load_file(tmp_path / "cut" / CHECKPOINT), _whole(preset)) == []


@pytest.mark.parametrize(
    "config", [LEARNED["ranking"], replace(PRESETS["ours"], warm_start=0.7)], ids=["ranking", "ours"]
)
def test_ctrl_c_while_a_run_begins_begins_again(tmp_path, monkeypatch, config):
    with monkeypatch.context() as patch:
        patch.setattr(_edge_pruning, "mask_ig", _interrupt)
        patch.setattr(_ranking, "mask_ig", _interrupt)
        with contextlib.suppress(KeyboardInterrupt):  # there is nothing yet that could be kept
            find(tmp_path / "cut", config)
    for name in ("cut", "whole"):
        find(tmp_path / name, config)
    cut, whole = (load_file(tmp_path / name / CHECKPOINT) for name in ("cut", "whole"))
    assert differing(cut, whole) == []


def _interrupt(*_, **__):
    raise KeyboardInterrupt


# ------------------------------------------------------------------------------------------------------------ the disk


def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop(patch, 3, KeyboardInterrupt())
        find(tmp_path, PRESETS["ours"])
    before = (tmp_path / CHECKPOINT).read_bytes()
    with little_disk(1000):
        message = refused(lambda: find(tmp_path, PRESETS["ours"]))
    assert str(tmp_path / CHECKPOINT) in message
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "cannot be written" in refused(lambda: find(tmp_path / "file", PRESETS["ours"]))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_refused_before_any_step(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    stop(monkeypatch, 0, Killed())
    assert "cannot be written" in refused(lambda: find(tmp_path / "file", PRESETS["ours"]))


def test_nothing_is_written_unasked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    find(None, PRESETS["ours"])
    assert not list(tmp_path.iterdir())
