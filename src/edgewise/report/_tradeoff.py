"""What sparsity costs: the loss with an MLP replaced, against how many features are active."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edgewise._errors import InputError
from edgewise.report._canvas import INK
from edgewise.report._curve import LINES, chart, draw_key, plain_look

HEIGHT = 4.4
"""Of the page in inches, without its caption."""


class Tradeoff(NamedTuple):
    """One trained set of features."""

    kind: str
    """The line that it stands on."""
    active: float
    """Active features per token."""
    loss: float
    """What replacing the MLP adds to the next-token loss, in nats."""
    low: float | None
    high: float | None
    """The interval's ends; None where there is none."""


def tradeoff(
    points: Sequence[Tradeoff],
    path: str | Path,
    *,
    references: Sequence[tuple[str, float]] = (),
    title: str = "Loss by sparsity",
    caption: str = "",
    dpi: int = 200,
) -> None:
    """Draw the loss against the number of active features, a line for each kind in the order in which they first occur.

    References are values with their names, as lines across (the model's own loss, an ablation's). `path`, `title`,
    `caption` and `dpi` are those of `curve`.

    Raises:
        InputError: no points, or one without active features; or what `draw` raises about the file.
    """
    if not points:
        raise InputError("tradeoff: there are no points to draw; give at least one")
    if none := next((point for point in points if not point.active > 0), None):
        raise InputError(f"tradeoff: {none.kind} has {none.active} active features, which no logarithmic axis can show")
    with chart(path, title, caption, dpi, HEIGHT) as axes:
        axes.set_xscale("log")
        kinds = list(dict.fromkeys(point.kind for point in points))
        for number, kind in enumerate(kinds):
            line = sorted((point for point in points if point.kind == kind), key=lambda point: point.active)
            colour, marker, dash = LINES[number % len(LINES)]
            x, y = [p.active for p in line], [p.loss for p in line]
            axes.plot(x, y, color=colour, marker=marker, linestyle=dash, linewidth=1.5, markersize=5, label=str(number))
            banded = [p for p in line if p.low is not None and p.high is not None]
            x, low, high = ([getattr(p, name) for p in banded] for name in ("active", "low", "high"))
            axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        for number, (_, value) in enumerate(references):
            dash = ("--", ":", "-.")[number % 3]
            axes.axhline(value, color=INK, linewidth=0.9, linestyle=dash, label=str(number))
        axes.set_xlabel("active features per token (logarithmic)", fontsize=8)
        axes.set_ylabel("loss added, nats per token", fontsize=8)
        axes.set_ylim(bottom=min(0.0, *(point.loss if point.low is None else point.low for point in points)))
        ticks = sorted({round(point.active) for point in points if point.active >= 0.5})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        plain_look(axes)
        draw_key(axes, [*kinds, *(f"{name} ({value:.3f})" for name, value in references)])
