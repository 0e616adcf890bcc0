"""How far a run is: a bar on a terminal, elsewhere a plain line now and then; both go to the error stream."""

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Column

FIRST_LINE, LONGEST_PAUSE = 10.0, 60.0
"""Seconds to the first plain line, and at most between two; the pauses double."""


class Progress:
    """Of something that counts steps. Nothing is shown before the context is entered or `update` is called."""

    def __init__(self, title: str, total: int | None = None, completed: int = 0, *, show: bool = True) -> None:
        """Set up.

        Args:
            title: what is counted.
            total: of how many steps; None if that is not known yet.
            completed: how many are done already.
            show: whether to show anything at all.
        """
        self._shown: _Bar | _Lines | None = None
        if show:
            console = Console(stderr=True)
            watched = console.is_terminal or console.is_jupyter
            self._shown = (_Bar if watched else _Lines)(title, total, completed)

    @property
    def due(self) -> bool:
        """Whether an update would be seen, so that a step's metrics need not be fetched from the device otherwise."""
        return self._shown is not None and self._shown.due

    def update(self, completed: int, metrics: Mapping[str, float] | None = None, total: int | None = None) -> None:
        """So many steps are done, the last with these metrics."""
        if self._shown is not None:
            self._shown.update(completed, metrics or {}, total)

    def close(self) -> None:
        """Show the last update, whatever was due."""
        if self._shown is not None:
            self._shown.close()

    def __enter__(self) -> "Progress":
        if isinstance(self._shown, _Bar):
            self._shown.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Bar:
    """A bar. Behind the count stand the metrics; where a terminal is narrow they take several lines, so that the count
    stays whole.
    """

    due = True

    def __init__(self, title: str, total: int | None, completed: int) -> None:
        whole = Column(no_wrap=True)
        self.bars = Bars(
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

    def update(self, completed: int, metrics: Mapping[str, float], total: int | None) -> None:
        self.bars.start()  # not before: another's bar may come first
        self.bars.update(self.task, completed=completed, total=total, note=_note(metrics, " "))

    def close(self) -> None:
        self.bars.stop()


class _Lines:
    """`ranking: 120/900, loss 0.31, edges 800, 2 min left`."""

    def __init__(self, title: str, total: int | None, completed: int) -> None:
        self.title, self.total, self.first = title, total, completed
        self.begin = self.last = time.monotonic()
        self.pause = FIRST_LINE
        self.held: str | None = None  # an update that was not shown

    @property
    def due(self) -> bool:
        return time.monotonic() - self.last >= self.pause

    def update(self, completed: int, metrics: Mapping[str, float], total: int | None) -> None:
        self.total = self.total if total is None else total
        now = time.monotonic()
        parts = [f"{self.title}: {completed}/{self.total}", _note(metrics, ", ")]
        if self.total is not None and self.first < completed < self.total:
            left = (now - self.begin) / (completed - self.first) * (self.total - completed)
            parts.append(f"{_duration(left)} left")
        else:
            parts.append(_duration(now - self.begin))
        self.held = ", ".join(filter(None, parts))
        if now - self.last >= self.pause:
            self.last, self.pause = now, min(2 * self.pause, LONGEST_PAUSE)
            self.close()

    def close(self) -> None:
        if self.held is not None:
            print(self.held, file=sys.stderr, flush=True)
            self.held = None


def _note(metrics: Mapping[str, float], between: str) -> str:
    return between.join(f"{name} {value:.3g}" for name, value in metrics.items())


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
