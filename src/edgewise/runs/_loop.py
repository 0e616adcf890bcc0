"""The loop that every long run goes through: progress, checkpoints, resume, and a clean stop whatever happens."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from edgewise._errors import InputError
from edgewise.runs._checkpoint import RunReport, Stop, resume, save_checkpoint
from edgewise.runs._files import check_writable
from edgewise.runs._learner import Learner, NotFiniteError, NothingToGainError
from edgewise.runs._loggers import Log, loggers
from edgewise.runs._progress import progress
from edgewise.runs._ranks import ONE_PROCESS, RankLostError, Ranks

_SAME = 5.0
"""Seconds within which interrupts of several processes are one."""


@dataclass(frozen=True)
class RunOptions:
    """How a run behaves, as opposed to what it computes."""

    out: Path | None = None
    """Folder for checkpoints and logs; None keeps nothing on disk."""
    checkpoint_seconds: float = 30.0
    """How much work a kill may cost."""
    resume: bool = True
    """Continue from a checkpoint of the same configuration if the folder has one."""
    progress: bool = True
    """Show how far the run is, on the error stream: a bar on a terminal, elsewhere a line now and then."""
    log: tuple[str, ...] = ()
    """Also write the metrics to `tensorboard` or `wandb`, if installed."""
    title: str = ""
    """What progress and messages call the run, where the method's name does not say enough."""

    def __post_init__(self) -> None:
        """Take a path or a single log given as text."""
        if self.out is not None:
            object.__setattr__(self, "out", Path(self.out))
        if isinstance(self.log, str):
            object.__setattr__(self, "log", (self.log,))


def run_steps(
    learner: Learner,
    n_steps: int,
    settings: dict[str, Any],
    options: RunOptions,
    title: str,
    ranks: Ranks = ONE_PROCESS,
) -> RunReport:
    """Run a learner for `n_steps` steps.

    Args:
        learner: the method.
        n_steps: how many.
        settings: what decides the run's numbers, as plain values; a checkpoint of other settings is refused.
        options: how to behave.
        title: what progress and messages call it, unless the options do.
        ranks: the processes that share the run, all of which call this. The first alone writes; they stop together.

    Returns:
        The report. An interrupt (Ctrl-C) or a number that is not finite ends the run early; the learner then holds the
        last good state. An interrupt while the last step is finished ends nothing, and is told as `interrupted`.

    Raises:
        InputError: the folder holds a checkpoint of other settings, or one that cannot be read; or nothing is finite at
            the very first step.
        KeyboardInterrupt: interrupted before the first step, where there is nothing to give; or, while a step is being
            finished, a second time.
    """
    first, title = ranks.rank == 0, options.title or title
    if options.out is not None and first:
        check_writable(options.out)
    with loggers(options.log if first else (), options.out, settings, resume=options.resume) as logs:
        before = resume(learner, settings, options.out) if options.resume and options.out is not None else None
        if before is not None and before.steps >= n_steps:  # a run that is over stays as it is, its seconds too
            return RunReport(before.steps, before.seconds)
        run = _Run(learner, n_steps, settings, options.out if first else None, ranks, before)
        with progress(title, n_steps, run.steps, show=options.progress and first) as shown:
            return run.to_the_end(shown, logs, options.checkpoint_seconds, title)


@dataclass
class _Run:
    """A run under way."""

    learner: Learner
    n_steps: int
    settings: dict[str, Any]
    folder: Path | None
    ranks: Ranks
    before: RunReport | None

    def __post_init__(self) -> None:
        self.steps, self.earlier = (0, 0.0) if self.before is None else (self.before.steps, self.before.seconds)
        self.begun = self.before is not None
        self.start = self.saved = time.monotonic()
        # A process that takes its step back while others wait for its sums would leave them waiting.
        self.undoes = self.learner.on_interrupt == "undo" and self.ranks.size == 1
        self.good = self.steps, self.learner.tensors()

    def to_the_end(self, shown: Any, logs: list[Log], checkpoint_seconds: float, title: str) -> RunReport:
        stopped: Stop | None = None
        reason = ""
        with _interrupts(noted=not self.undoes, once=self.ranks.size > 1) as interrupted:
            try:
                self.begin()
                while self.steps < self.n_steps and stopped is None:
                    metrics = self.step()
                    if logs or shown.due or self.steps == self.n_steps:
                        values = {name: float(value) for name, value in metrics.items()}
                        for log in logs:
                            log.write(values, self.steps)
                        shown.update(self.steps, values)
                    if self.folder is not None and time.monotonic() - self.saved > checkpoint_seconds:
                        self.save(self.report())
                        self.saved = time.monotonic()
                    if not self.undoes and self.steps < self.n_steps and self.any_rank(interrupted()):
                        stopped = "interrupted"
            except NothingToGainError:
                pass
            except KeyboardInterrupt:
                if not (self.undoes and self.begun):
                    raise  # what the run begins with is not there yet: there is nothing to give
                self.steps = self.good[0]  # an interrupt may come in the middle of an update, or just after it
                self.learner.restore(self.good[1])
                stopped = "interrupted"
            except RankLostError:
                if self.begun:  # the step that the other left is not taken
                    self.save(self.report())
                raise
            except NotFiniteError as error:
                if not self.steps:
                    raise InputError(f"{title}: at the first step {error}; check the loss and the start") from error
                stopped, reason = "not finite", str(error)
        report = self.report(stopped, reason)
        self.save(report)
        late = stopped is None and not self.undoes and self.any_rank(interrupted())
        return replace(report, interrupted=late or stopped == "interrupted")

    def begin(self) -> None:
        self.learner.prepare()
        if self.begun:
            return
        self.learner.begin()
        self.remember()
        self.begun = True
        self.save(self.report())  # what a run begins with may be the longest part of a short one

    def step(self) -> dict[str, Any]:
        self.remember()
        metrics = self.learner.step(self.steps)
        self.steps += 1
        return metrics

    def remember(self) -> None:
        if self.undoes:
            self.good = self.steps, {name: x.detach().clone() for name, x in self.learner.tensors().items()}

    def report(self, stopped: Stop | None = None, reason: str = "") -> RunReport:
        return RunReport(self.steps, self.earlier + time.monotonic() - self.start, stopped, reason)

    def save(self, report: RunReport) -> None:
        if self.folder is not None:
            save_checkpoint(self.learner, report, self.settings, self.folder)

    def any_rank(self, flag: bool) -> bool:
        return bool(self.ranks.sum(torch.tensor(float(flag))))


@contextmanager
def _interrupts(*, noted: bool, once: bool = False) -> Iterator[Callable[[], bool]]:
    """Where they are to be noted, Ctrl-C only sets a flag, which the function yielded returns; a second one stops at
    once. With `once` one that follows within seconds is the same one: a terminal sends it to all, and `torchrun` again.
    """
    if not noted or threading.current_thread() is not threading.main_thread():  # signals can only be caught there
        yield lambda: False
        return
    caught: list[float] = []
    before = signal.getsignal(signal.SIGINT)

    def note(_number: int, _frame: Any) -> None:
        if caught and not (once and time.monotonic() - caught[0] < _SAME):
            raise KeyboardInterrupt
        caught.append(time.monotonic())

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(caught)
    finally:
        signal.signal(signal.SIGINT, before)
