"""The loop of a training run. Like that of discovery, with the same checkpoints; but it keeps no copy of the state,
which may be gigabytes: an interrupt waits for the end of the step, and what is not finite is found before anything
changes.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from edgewise.runs import Ranks, RunOptions, check_writable, progress
from edgewise.runs import _loop as runs


def run(
    learner: runs.Learner,
    n_steps: int,
    config: dict[str, Any],
    options: RunOptions,
    ranks: Ranks,
    tokens_per_step: int,
) -> runs.RunReport:
    """Run a learner for `n_steps` steps (see `edgewise.discovery`'s loop, whose arguments these are).

    Raises:
        InputError: the folder holds a checkpoint of another run, or one that cannot be read.
    """
    first = ranks.rank == 0
    if options.out is not None and first:
        check_writable(options.out)
    write, close = runs.open_loggers(options) if first else ([], lambda: None)
    step, before, fresh = runs.resume(learner, config, options)
    if step >= n_steps:  # a run that is over stays as it is, its seconds too
        close()
        return runs.RunReport(step, before, None)
    begin = saved = time.monotonic()
    stopped, reached = None, step

    def save() -> float:
        seconds = before + time.monotonic() - begin
        if options.out is not None and first:
            runs.save_checkpoint(learner, step, seconds, config, options.out)
        return seconds

    with progress(show=options.progress and first) as bars, _interrupts() as interrupted:
        bar = bars.add_task("training", total=n_steps, completed=step, note="starting" if fresh else "going on")
        learner.prepare()
        if fresh:
            learner.begin()
            save()
        while step < n_steps and stopped is None:
            try:
                metrics = learner.step(step)
            except runs.NotFiniteError as error:
                stopped = f"step {step + 1}: {error}"
                break
            step += 1
            if write or options.progress:
                values = {name: float(value) for name, value in metrics.items()}
                values["tokens/s"] = (step - reached) * tokens_per_step / (time.monotonic() - begin)
                for each in write:
                    each(values, step)
                bars.update(bar, completed=step, note=" ".join(f"{name} {x:.3g}" for name, x in values.items()))
            if time.monotonic() - saved > options.checkpoint_seconds:
                save()
                saved = time.monotonic()
            if bool(ranks.sum(torch.tensor(float(interrupted())))) and step < n_steps:
                stopped = f"interrupted after step {step}"
    close()
    return runs.RunReport(step, save(), stopped)  # as the checkpoint has it, so that a finished run stays as it is


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Within it Ctrl-C only sets a flag, which the function yielded returns; a second one stops at once."""
    if threading.current_thread() is not threading.main_thread():  # signals can only be caught there
        yield lambda: False
        return
    caught: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, _frame: Any) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(caught)
    finally:
        signal.signal(signal.SIGINT, before)
