"""The loop around a learner that only counts: what one sees of it, and how often it saves."""

import json
import signal
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from edgewise.discovery import edge_pruning
from edgewise.runs import CHECKPOINT, Learner, RunOptions, _loop, log_pictures, run_steps
from tests.discovery.toys import PRESETS, differing, find, quiet, random_task, scores_of, toy_engine
from tests.tiny import refused


class _Counter(Learner):
    """A learner that only counts."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.begun = 0

    def begin(self) -> None:
        self.begun += 1

    def step(self, step: int) -> dict[str, Tensor | float]:
        self.done.append(step)
        return {"loss": torch.tensor(1.0 / (step + 1)), "edges": 7.0}

    def tensors(self) -> dict[str, Tensor]:
        return {"done": torch.tensor(self.done)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.done = tensors["done"].tolist()


def test_progress_goes_to_the_error_stream(capsys):
    learner = _Counter()
    report = run_steps(learner, 5, {}, RunOptions(), "counting")
    assert learner.begun == 1 and learner.done == [0, 1, 2, 3, 4] and report.steps == 5 and report.stopped is None
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "counting" in shown.err and "5/5" in shown.err and "loss 0.2" in shown.err


def test_without_progress_nothing_is_shown(capsys):
    run_steps(_Counter(), 5, {}, quiet(), "counting")
    assert capsys.readouterr() == ("", "")


def test_progress_changes_no_number():
    silent = find(None, PRESETS["ours"])
    shown = edge_pruning(toy_engine(), random_task(), PRESETS["ours"], options=RunOptions())
    assert differing({"": scores_of(silent)}, {"": scores_of(shown)}) == []


def test_metrics_go_to_tensorboard(monkeypatch, tmp_path):
    written: list[tuple[Any, ...]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path)

        def add_text(self, title: str, text: str) -> None:
            assert json.loads(text.removeprefix("```json").removesuffix("```")) == {"speed": 3}
            written.append((title,))

        def add_image(self, title: str, pixels: Any, dataformats: str) -> None:
            written.append((title, pixels.shape, dataformats))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            written.append(("closed", 0, 0))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", _module(SummaryWriter=SummaryWriter))
    run_steps(_Counter(), 2, {"speed": 3}, quiet(tmp_path, log=("tensorboard",)), "counting")
    curves = [("loss", 1, 1), ("edges", 7, 1), ("loss", 0.5, 2), ("edges", 7, 2)]
    assert written == [("settings",), *curves, ("closed", 0, 0)]
    log_pictures(("tensorboard",), tmp_path, {"circuit": picture(tmp_path)})
    assert written[-2:] == [("circuit", (2, 3, 3), "HWC"), ("closed", 0, 0)]


def picture(folder: Path) -> Path:
    """Three pixels by two, with transparency."""
    Image.new("RGBA", (3, 2)).save(folder / "a.png")
    return folder / "a.png"


def test_metrics_go_to_wandb_and_a_run_taken_up_again_to_the_same_curve(monkeypatch, tmp_path):
    written: list[Any] = []
    begun: list[dict[str, Any]] = []
    run = SimpleNamespace(
        log=lambda *given, **more: written.append((*given, more)), finish=lambda: written.append("end")
    )
    wandb = _module(init=lambda **given: begun.append(given) or run, Image=lambda path: path)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    run_steps(_Counter(), 1, {"speed": 3}, quiet(tmp_path, log=("wandb",)), "counting")
    assert written == [({"loss": 1.0, "edges": 7.0}, {"step": 1}), "end"] and begun[0]["config"] == {"speed": 3}
    run_steps(_Counter(), 1, {"speed": 3}, quiet(tmp_path, log=("wandb",)), "counting")
    log_pictures(("wandb",), tmp_path, {"circuit": picture(tmp_path)})
    assert written[-2:] == [({"circuit": str(tmp_path / "a.png")}, {}), "end"]
    run_steps(_Counter(), 1, {}, quiet(tmp_path, log=("wandb",), resume=False), "counting")
    assert len({each["id"] for each in begun[:3]}) == 1 and begun[3]["id"] != begun[0]["id"]


def _module(**names: Any) -> ModuleType:
    module = ModuleType("fake")
    vars(module).update(names)
    return module


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_log_that_is_not_installed_is_refused_before_any_work(monkeypatch, name: str):
    monkeypatch.setitem(sys.modules, {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}[name], None)
    learner = _Counter()
    message = refused(lambda: run_steps(learner, 5, {}, quiet(log=(name,)), "counting"))
    assert name in message and "pip install" in message and learner.begun == 0 and learner.done == []


def test_a_log_that_does_not_open_is_refused_before_any_work(monkeypatch, tmp_path):
    """As wandb's does, with an error of its own, where nobody is logged in."""

    class UsageError(Exception):
        pass

    def init(**_: Any) -> None:
        raise UsageError("No API key configured.\nUse `wandb login`")

    monkeypatch.setitem(sys.modules, "wandb", _module(init=init))
    learner = _Counter()
    message = refused(lambda: run_steps(learner, 5, {}, quiet(tmp_path, log=("wandb",)), "counting"))
    assert "No API key configured. Use" in message and "WANDB_MODE=offline" in message
    assert learner.begun == 0 and list(tmp_path.iterdir()) == []


def test_an_unknown_log_is_refused():
    assert "tensorboard or wandb" in refused(lambda: run_steps(_Counter(), 5, {}, quiet(log=("excel",)), "counting"))


def test_checkpoints_are_as_frequent_as_asked(monkeypatch, tmp_path):
    # Each look at the clock is a second later: a step takes one look, a checkpoint one more.
    saved, clock = [], iter(range(10_000))
    monkeypatch.setattr(_loop, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    monkeypatch.setattr(_loop, "save_checkpoint", lambda _learner, report, *_: saved.append(report.steps))
    run_steps(_Counter(), 20, {}, quiet(tmp_path, checkpoint_seconds=4.5), "counting")
    assert 3 <= len(saved) <= 6 and saved[-1] == 20
    assert all(b - a <= 6 for a, b in pairwise(saved))


class _Other:
    """The ranks of two processes, of which the other has its own interrupt after some steps."""

    size, shares = 2, 2

    def __init__(self, rank: int, interrupted_after: int = 1_000) -> None:
        self.rank, self.left = rank, interrupted_after

    def sum(self, tensor: Tensor) -> Tensor:
        self.left -= 1
        return tensor + float(self.left <= 0)

    def gather(self, tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor])


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_stop_together_and_the_first_alone_writes(tmp_path, rank: int):
    learner = _Counter()
    report = run_steps(learner, 9, {}, quiet(tmp_path), "counting", _Other(rank, 4))
    assert (report.steps, report.stopped, report.message) == (4, "interrupted", "interrupted after step 4")
    assert len(learner.done) == 4  # whole steps, though this learner could take one back
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT] * (rank == 0)


def test_of_several_processes_an_interrupted_one_finishes_its_step(tmp_path):
    class Interrupted(_Counter):
        def step(self, step: int) -> dict[str, Tensor | float]:
            if step == 2:
                signal.raise_signal(signal.SIGINT)
            return super().step(step)

    learner, before = Interrupted(), signal.getsignal(signal.SIGINT)
    report = run_steps(learner, 9, {}, quiet(tmp_path), "counting", _Other(0))
    assert report.message == "interrupted after step 3" and learner.done == [0, 1, 2]
    assert signal.getsignal(signal.SIGINT) is before
    again = _Counter()
    assert run_steps(again, 9, {}, quiet(tmp_path), "counting").stopped is None
    assert again.done == list(range(9)) and again.begun == 0


def test_a_run_that_is_over_stays_as_it_is(tmp_path):
    first = run_steps(_Counter(), 3, {}, quiet(tmp_path), "counting")
    before = (tmp_path / CHECKPOINT).read_bytes()
    again = run_steps(_Counter(), 3, {}, quiet(tmp_path), "counting")
    assert again == first and (tmp_path / CHECKPOINT).read_bytes() == before
