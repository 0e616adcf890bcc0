"""How the commands print: lines that are never wrapped, and tables. rich is imported when something needs more than
plain text, so that help and refusals come at once.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from typer import Exit

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def own_rank() -> int:
    """Which of the processes that `torchrun` started this is; 0 for one alone."""
    return int(os.environ.get("RANK", "0")) if os.environ.get("WORLD_SIZE", "1") != "1" else 0


@cache
def console(*, errors: bool = False) -> Console:
    """The output stream or that of errors, for more than plain text."""
    from rich.console import Console

    return Console(stderr=errors, highlight=False, emoji=False)  # `:id:` of a user's text stays what it is


# Control characters but for tabs and line feeds, halves of surrogate pairs, and what turns the direction of text.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Text of files, names and tokens as a terminal may have it: what would move its cursor, colour it, set its title
    or turn its direction is spelled out, such as `\x1b`.
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def flat(text: str) -> str:
    """Text on one line, with marks for its line feeds and tabs."""
    return text.replace("\n", "⏎").replace("\t", "⇥")


def line(text: str, *, errors: bool = False) -> None:
    """A line of plain text, never wrapped."""
    print(visible(text), file=sys.stderr if errors else sys.stdout, flush=True)


def styled(text: str | Text) -> None:
    """A line of rich's markup or a `Text`, never wrapped."""
    console().print(text, soft_wrap=True)


def escape(text: str) -> str:
    """Plain text as markup."""
    from rich.markup import escape

    return escape(visible(text))


def stopped(reason: str) -> None:
    """Why a run ended early."""
    styled(f"[bold]stopped:[/] {escape(reason)}; the same command goes on from there")


@contextmanager
def stopping() -> Iterator[None]:
    """At Ctrl-C say that the same command goes on, and end with 130: a script should not go on with half a run."""
    try:
        yield
    except KeyboardInterrupt as error:
        stopped(str(error) or "interrupted")
        raise Exit(130) from error


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
