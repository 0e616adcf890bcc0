"""How the commands print: lines that are never wrapped, and tables."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

OUT, ERRORS = Console(highlight=False), Console(stderr=True, highlight=False)


def line(text: str, console: Console = OUT) -> None:
    """A line of plain text, never wrapped."""
    console.print(escape(text), soft_wrap=True)


def stopped(reason: str) -> None:
    """Why a run ended early."""
    OUT.print(f"[bold]stopped:[/] {escape(reason)}; the same command goes on from there", soft_wrap=True)


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    caption: str | None = None,
    *,
    left: int = 1,
    whole: bool = False,
) -> None:
    """Print rows under a title, the first `left` columns to the left; with `whole` these do not wrap.

    A row without cells is a line between others, and one of sums (`in all`) is bold.
    """
    shown = Table(title=escape(title), caption=caption and escape(caption), caption_justify="left")
    for number, name in enumerate(columns):
        shown.add_column(escape(name), justify="left" if number < left else "right", no_wrap=whole and number < left)
    for row in rows:
        if row:
            shown.add_row(*map(escape, row), style="bold" if row[0] == "in all" else None)
        else:
            shown.add_section()
    OUT.print(shown)
