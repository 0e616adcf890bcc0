"""How the commands print: lines that are never wrapped, and tables. rich is imported when something needs more than
plain text, so that help and refusals come at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@cache
def console(*, errors: bool = False) -> Console:
    """The output stream or that of errors, for more than plain text."""
    from rich.console import Console

    return Console(stderr=errors, highlight=False)


def line(text: str, *, errors: bool = False) -> None:
    """A line of plain text, never wrapped."""
    print(text, file=sys.stderr if errors else sys.stdout, flush=True)


def styled(markup: str) -> None:
    """A line in rich's markup, never wrapped."""
    console().print(markup, soft_wrap=True)


def escape(text: str) -> str:
    """Plain text as markup."""
    from rich.markup import escape

    return escape(text)


def stopped(reason: str) -> None:
    """Why a run ended early."""
    styled(f"[bold]stopped:[/] {escape(reason)}; the same command goes on from there")


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
    from rich.table import Table

    shown = Table(title=escape(title), caption=caption and escape(caption), caption_justify="left")
    for number, name in enumerate(columns):
        shown.add_column(escape(name), justify="left" if number < left else "right", no_wrap=whole and number < left)
    for row in rows:
        if row:
            shown.add_row(*map(escape, row), style="bold" if row[0] == "in all" else None)
        else:
            shown.add_section()
    console().print(shown)
