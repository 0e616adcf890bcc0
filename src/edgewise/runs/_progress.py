"""The progress bar of everything that takes steps; it goes to the error stream."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Column


def progress(*, note: bool = True, show: bool = True) -> Progress:
    """A bar that counts steps.

    Args:
        note: behind the count stands each task's field `note`; where a terminal is narrow it takes several lines, so
            that the count stays whole.
        show: otherwise nothing is drawn.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        *((TextColumn("{task.fields[note]}", table_column=Column()),) if note else ()),
    )
    return Progress(*columns, disable=not show, console=Console(stderr=True), refresh_per_second=2)
