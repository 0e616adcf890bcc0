"""What a run shows: without a terminal a plain line now and then, on one a bar, and nothing where that is asked."""

import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from edgewise.runs import Learner, RunOptions, _progress, progress, run_steps


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class _Sleeper(Learner):
    """A learner whose steps take a known time, and which counts how often its metrics are looked at."""

    def __init__(self, clock: _Clock, seconds: float) -> None:
        self.clock, self.seconds, self.looked = clock, seconds, 0

    def step(self, step: int) -> dict[str, Tensor | float]:
        self.clock.now += self.seconds
        return {"loss": _Counted(self, 1 / (step + 1))}  # pyright: ignore[reportReturnType] (as a tensor is: a float)

    def tensors(self) -> dict[str, Tensor]:
        return {"nothing": torch.zeros(1)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        pass


class _Counted:
    def __init__(self, learner: _Sleeper, value: float) -> None:
        self.learner, self.value = learner, value

    def __float__(self) -> float:
        self.learner.looked += 1
        return self.value


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(_progress, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def _lines(run: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> list[str]:
    run()
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err.splitlines()


def test_without_a_terminal_lines_come_after_ten_seconds_and_then_ever_more_rarely(clock, capsys):
    learner = _Sleeper(clock, 1.0)
    lines = _lines(lambda: run_steps(learner, 400, {}, RunOptions(), "sleeping"), capsys)
    steps = [int(line.split("/")[0].removeprefix("sleeping: ")) for line in lines]
    assert steps == [10, 30, 70, 130, 190, 250, 310, 370, 400]  # pauses of 10, 20, 40 s, then a minute each
    assert lines[0] == "sleeping: 10/400, loss 0.1, 6 min left"
    assert lines[1] == "sleeping: 30/400, loss 0.0333, 6 min left" and lines[-2].endswith(", 30 s left")
    assert lines[-1] == "sleeping: 400/400, loss 0.0025, 400 s" or lines[-1].endswith("7 min")
    assert learner.looked == len(lines)  # a step that shows nothing does not wait for the device


def test_a_short_run_shows_its_end_alone(clock, capsys):
    lines = _lines(lambda: run_steps(_Sleeper(clock, 0.1), 50, {}, RunOptions(), "sleeping"), capsys)
    assert lines == ["sleeping: 50/50, loss 0.02, 5 s"]


def test_a_long_step_is_one_line_each(clock, capsys):
    lines = _lines(lambda: run_steps(_Sleeper(clock, 7200.0), 3, {}, RunOptions(), "sleeping"), capsys)
    assert [re.sub(r"loss \S+ ", "", line) for line in lines] == [
        "sleeping: 1/3, 4.0 h left",
        "sleeping: 2/3, 2.0 h left",
        "sleeping: 3/3, 6.0 h",
    ]


def test_nothing_is_shown_unasked(clock, capsys):
    learner = _Sleeper(clock, 100.0)
    assert _lines(lambda: run_steps(learner, 20, {}, RunOptions(progress=False), "sleeping"), capsys) == []


def test_a_terminal_gets_the_bar(clock, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as rich takes it, a terminal
    shown = "\n".join(_lines(lambda: run_steps(_Sleeper(clock, 100.0), 3, {}, RunOptions(), "sleeping"), capsys))
    assert "━" in shown and "3/3" in shown and "left" not in shown


def test_of_what_never_began_nothing_is_shown(capsys):
    with progress("judging"):
        pass
    with progress("judging", show=False) as shown:
        shown.update(3, total=5)
    assert capsys.readouterr() == ("", "")
    with progress("judging") as shown:
        shown.update(3, total=5)
    assert capsys.readouterr().err == "judging: 3/5, 0 s left\n"


@pytest.mark.parametrize("installed", [True, False])
def test_a_notebook_shows_a_bar_where_it_can(monkeypatch: pytest.MonkeyPatch, installed: bool):
    notebook = SimpleNamespace(is_terminal=False, is_jupyter=True)
    monkeypatch.setattr(_progress, "Console", lambda **_: notebook)
    monkeypatch.setattr(_progress, "find_spec", lambda name: notebook if installed and name == "ipywidgets" else None)
    monkeypatch.setattr(_progress, "_Bar", lambda *_: SimpleNamespace(close=lambda: None))
    with progress("judging", 3) as shown:
        assert isinstance(shown, _progress._Lines) != installed
