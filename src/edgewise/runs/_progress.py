"""How far a run is: a bar on a terminal and in notebooks, elsewhere a plain line now and then; both go to the error
stream.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

FIRST_LINE, LONGEST_PAUSE = 10.0, 60.0
"""Seconds to the first plain line, and at most between two; the pauses double."""


@contextmanager
def progress(
    title: str, total: int | None = None, completed: int = 0, *, show: bool = True
) -> Iterator["_Bar | _Lines"]:
    """Yield what shows how far something is that counts steps; the last update is shown in any case.

    Args:
        title: what is counted.
        total: of how many steps; if that is not known yet, nothing is shown before the first update.
        completed: how many are done already.
        show: whether to show anything at all.
    """
    console = Console(stderr=True)
    # Without ipywidgets, rich's bar in a notebook is a warning.
    widgets = console.is_jupyter and find_spec("ipywidgets") is not None
    watched = show and (console.is_terminal or widgets)
    shown = _Bar(title, total, completed) if watched else _Lines(title, total, completed, show)
    try:
        yield shown
    finally:
        shown.close()


class _Bar:
    """A bar. Behind the count stand the metrics; where a terminal is narrow they take several lines, so that the count
    stays whole.
    """

    due = True
    """Whether an update would be seen, so that a step's metrics need not be fetched from the device otherwise."""

    def __init__(self, title: str, total: int | None, completed: int) -> None:
        whole = Column(no_wrap=True)
        self.bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(table_column=whole),
            TimeRemainingColumn(table_column=whole),
            TextColumn("{task.fields[note]}", table_column=Column()),
            console=Console(stderr=True),
            refresh_per_second=2,
        )
        note = "" if total is None else "going on" if completed else "starting"
        self.task = self.bars.add_task(title, total=total, completed=completed, note=note)
        if total is not None:
            self.bars.start()

    def update(self, completed: int, metrics: Mapping[str, float] | None = None, total: int | None = None) -> None:
        """So many steps are done, the last with these metrics."""
        self.bars.start()
        self.bars.update(self.task, completed=completed, total=total, note=_note(metrics, " "))

    def close(self) -> None:
        self.bars.stop()


class _Lines:
    """`ranking: 120/900, loss 0.31, edges 800, 2 min left`."""

    def __init__(self, title: str, total: int | None, completed: int, show: bool) -> None:
        self.title, self.total, self.first, self.show = title, total, completed, show
        self.begin = self.last = time.monotonic()
        self.pause = FIRST_LINE
        self.held: str | None = None  # an update that was not shown

    @property
    def due(self) -> bool:
        """Whether an update would be seen."""
        return self.show and time.monotonic() - self.last >= self.pause

    def update(self, completed: int, metrics: Mapping[str, float] | None = None, total: int | None = None) -> None:
        """So many steps are done, the last with these metrics."""
        self.total, due = self.total if total is None else total, self.due
        spent = time.monotonic() - self.begin
        when = _duration(spent)
        if self.total is not None and self.first < completed < self.total:
            when = f"{_duration(spent / (completed - self.first) * (self.total - completed))} left"
        self.held = ", ".join(filter(None, (f"{self.title}: {completed}/{self.total}", _note(metrics, ", "), when)))
        if due:
            self.last, self.pause = time.monotonic(), min(2 * self.pause, LONGEST_PAUSE)
            self.close()

    def close(self) -> None:
        if self.show and self.held is not None:
            print(self.held, file=sys.stderr, flush=True)
        self.held = None


def _note(metrics: Mapping[str, float] | None, between: str) -> str:
    return between.join(f"{name} {value:.3g}" for name, value in (metrics or {}).items())


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
