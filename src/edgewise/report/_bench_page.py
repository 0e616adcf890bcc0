"""A bench's page: tables of the distance to the model by method and size, edges needed for the same, and costs."""

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgewise._errors import InputError
from edgewise.bench import BenchPoint, BenchTable, is_attribution, is_empty
from edgewise.evaluation import edges_needed
from edgewise.report._caption import last_part
from edgewise.report._panels import draw_bench
from edgewise.runs import bootstrap, write_atomically

BEST = "best attribution"
READING = "## Reading"


def write_bench(table: BenchTable, path: str | Path, *, command: str = "edgewise bench") -> None:
    """Write a Markdown page about a bench, and its figure beside it.

    Args:
        table: what `edgewise bench` wrote.
        path: the `.md` file; the figure has its name and `.png`. If there is one with a section `## Reading`, which is
            a person's, that section stays, before the tables.
        command: how the table was made.

    Raises:
        InputError: a file cannot be written, the page that is there cannot be read, or the table is empty.
    """
    path = Path(path)
    reading = _reading(path)
    draw_bench(table, path.with_suffix(".png"))
    write_atomically(path, bench_page(table, path.with_suffix(".png").name, command=command, reading=reading))


def _reading(path: Path) -> str:
    try:
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is there and cannot be read ({error}); give another file, or remove it") from error
    section = re.search(rf"^{READING}\s*$.*?(?=^## |\Z)", before, re.MULTILINE | re.DOTALL)
    return section[0].rstrip() if section else ""


def bench_page(table: BenchTable, figure: str, *, command: str, reading: str = "") -> str:
    """The page's text, with the section that a person wrote before the tables that it reads."""
    lines = ["# Methods × tasks × sizes", "", *_heading(table, command), ""]
    if note := table.about.get("note"):
        lines += [*textwrap.wrap(note, 110, break_on_hyphens=False), ""]
    lines += [f"![The distance to the model by size]({figure})", ""]
    lines += [reading, ""] if reading else []
    for model, task in table.panels():
        points = table.points(model, task)
        if all(is_empty(point.algorithm) for point in points):
            lines += [f"## `{task}` in `{last_part(model)}`", "", "No circuit is judged yet.", ""]
            continue
        best = table.best_attribution(model, task)
        pairs = table.about.get("pairs", {}).get(task, {})
        lines += [f"## `{task}` in `{last_part(model)}`", "", *_distances(points, best, pairs), ""]
        if needed := _needed(points, best):
            lines += [*needed, ""]
        lines += [*_costs(points, table.about.get("matmul", {})), ""]
    return "\n".join(lines)


def _heading(table: BenchTable, command: str) -> list[str]:
    software = ", ".join(f"{name} {number}" for name, number in table.about["software"].items())
    cells, took = table.about["cells"], f"finding took {_time(_seconds(table))}"
    if judging := table.about.get("judging"):  # which tables of earlier versions do not have
        took += f" and judging {_time(judging)}"
    first = table.rows[0]
    return [
        f"Written by `{command}` ({cells['done']} of {cells['asked']} cells done; {took}",
        f"of processes' time in all; {software}).",
        "",
        "The distance is KL(full ‖ circuit) in nats unless a table says otherwise: the mean over the test examples",
        "and over the seeds, with its 95 % bootstrap interval over the examples, and ± the standard deviation of the",
        f"seeds' means. Hard masks, at the answers, {first['ablation']} ablation. Columns are the sizes asked for, in",
        "cells stand the actual edges. A method that finds its own sizes (ACDC) stands with its largest circuit in the",
        "columns that it does not reach. Of attribution by absolute and by signed score, and of several attribution",
        "methods (*best attribution*, of those that are done), what is nearest to the model on validation is shown (on",
        "the training pairs where a task has no others); test examples choose nothing. Attribution explains the task's",
        "own metric unless its settings say another.",
        "",
        "Another seed of a learned method draws other batches, sizes and noise, from the same pairs and the same",
        "start. In the tables of costs, passes count what depends on a pair alone once, as if all of it were kept, and",
        "leave out the validation that chooses a sign; seconds are those of the process that found the circuits,",
        "whatever ran beside it.",
    ]


def _distances(points: Sequence[BenchPoint], best: Sequence[BenchPoint], pairs: Mapping[str, int]) -> list[str]:
    sizes = sorted({point.size for point in points if not is_empty(point.algorithm)})
    names = list(dict.fromkeys(point.method for point in points if not is_empty(point.algorithm)))
    rows = {name: {point.size: point for point in points if point.method == name} for name in names}
    reference = {point.size: point for point in best}
    empty = [point for point in points if is_empty(point.algorithm)]
    shown = points[0]
    splits = f" ({', '.join(f'{n:,} {split}' for split, n in pairs.items())})" if pairs else ""
    lines = [f"{shown.metric}, {shown.values.shape[1]} examples{splits}, of {shown.total:,} edges."]
    if empty:
        lines[0] = lines[0][:-1] + f"; the empty circuit has {empty[0].values.mean():.3f}."
    lines += ["", "| method (seeds) | " + " | ".join(map(_percent, sizes)) + " |"]
    lines += ["|---|" + "---|" * len(sizes)]
    if len({point.method for point in points if is_attribution(point.algorithm)}) > 1:
        lines.append("| *best attribution* | " + " | ".join(_chosen(reference.get(size)) for size in sizes) + " |")
    for name in names:
        seeds = max(len(point.values) for point in rows[name].values())
        cells = [_cell(rows[name].get(size)) for size in sizes]
        lines.append(f"| {name} ({seeds}) | " + " | ".join(cells) + " |")
    return lines


def _cell(point: BenchPoint | None) -> str:
    if point is None:
        return ""
    mean, low, high = bootstrap(point.by_example)
    means = point.values.mean(1)
    spread = f" ± {means.std(ddof=1):.3f}" if len(means) > 1 else ""
    sign = f", {point.selection}" if is_attribution(point.algorithm) else ""
    empty = "" if point.edges else " (empty)"
    interval = "" if low is None or high is None else f" [{_number(low)}, {_number(high)}]"
    return f"{_number(mean)}{interval}{spread}; {point.edges:,.0f}{empty}{sign}"


def _number(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # no minus before 0.000


def _chosen(point: BenchPoint | None) -> str:
    if point is None:
        return ""
    return f"{point.by_example.mean():.3f}; {point.edges:,.0f}; {point.method}, {point.selection}"


def _needed(points: Sequence[BenchPoint], best: Sequence[BenchPoint]) -> list[str]:
    """How many edges each method with several sizes needs for what the others have at theirs."""
    names = list(dict.fromkeys(point.method for point in points))
    curves = {name: _rising([p for p in points if p.method == name and not is_empty(p.algorithm)]) for name in names}
    curves = {
        name: curve
        for name, curve in curves.items()
        if len(curve) > 1 and curve[0].algorithm != "random" and not is_attribution(curve[0].algorithm)
    }
    goals = [(f"{BEST} at {_percent(point.size)} ({point.method})", point) for point in best if point.edges]
    goals += [
        (point.method, point)
        for point in points
        if point.algorithm in ("edge-pruning", "acdc")
        and point.edges
        and point.size == _nearest([p for p in points if p.method == point.method and p.edges])
    ]
    if not goals or not curves:
        return []
    lines = [
        "Edges needed for the same distance, on a line over the logarithm of the size between measured sizes (95 %",
        "interval over the examples alone; each seed; their share of the other circuit's edges, and of the seed with",
        "the most). Where the other method's distance hardly changes with the size, the share says little:",
        "",
        "| as near as | edges | " + " | ".join(curves) + " |",
        "|---|---|" + "---|" * len(curves),
    ]
    for name, goal in goals:
        cells = ["" if goal.method == other else _share(curve, goal) for other, curve in curves.items()]
        distance = _number(float(goal.by_example.mean()))
        lines.append(f"| {name}, {distance} | {goal.edges:,.0f} | " + " | ".join(cells) + " |")
    return lines


def _share(curve: list[BenchPoint], goal: BenchPoint) -> str:
    sizes = [point.edges for point in curve]
    found = edges_needed(sizes, np.stack([point.by_example for point in curve]), goal.by_example)
    seeds = min(len(point.values) for point in curve)
    each = [
        edges_needed(sizes, np.stack([point.values[seed] for point in curve]), goal.by_example, resamples=1).edges
        for seed in range(seeds)
    ]

    def number(edges: float) -> str:
        if not edges:
            return f"≤ {sizes[0]:,.0f}"
        return f"> {sizes[-1]:,.0f}" if math.isinf(edges) else f"{edges:,.0f}"

    def ratio(edges: float) -> str:
        share = (edges or sizes[0]) / goal.edges
        return "" if math.isinf(share) else f"{'' if edges else '≤ '}{share:.2f} ×"

    text = number(found.edges)
    if found.low is not None and found.high is not None:
        text += f" [{number(found.low)}, {number(found.high)}]"
    if seeds < 2:
        return "; ".join(filter(None, (text, ratio(found.edges))))
    shares = " to ".join(filter(None, (ratio(found.edges), ratio(max(each)))))
    return f"{text}, seeds {', '.join(map(number, each))}" + (f"; {shares}" if shares else "")


def _rising(points: Sequence[BenchPoint]) -> list[BenchPoint]:
    """By size, each size once."""
    return list({point.edges: point for point in sorted(points, key=lambda point: point.edges) if point.edges}.values())


def _nearest(points: Sequence[BenchPoint]) -> float:
    """The size nearest to 98 %, where the literature compares."""
    return min((point.size for point in points), key=lambda size: abs(size - 0.98), default=0.98)


def _costs(points: Sequence[BenchPoint], matmul: Mapping[str, str]) -> list[str]:
    lines = [
        "| method | settings | different pairs seen | forwards | backwards (of one pair) | seconds, each seed |",
        "|---|---|---|---|---|---|",
    ]
    for point in {point.method: point for point in points if not is_empty(point.algorithm)}.values():
        cost = {name: values[0] for name, values in point.cost.items()}
        seconds = ", ".join(f"{each:,.0f}" for each in point.cost["seconds"])
        counts = " | ".join(f"{cost[name]:,.0f}" for name in ("examples", "forwards", "backwards"))
        given = dict(point.settings)
        if (kind := matmul.get(point.method, "highest")) != "highest":
            given["matmul"] = kind
        settings = ", ".join(f"{name} {_setting(value)}" for name, value in given.items())
        lines.append(f"| {point.method} | {settings} | {counts} | {seconds} |")
    return lines


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):  # a start: its method, and that one's settings
        return " ".join(f"{'' if name == 'method' else f'{name} '}{_setting(each)}" for name, each in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _seconds(table: BenchTable) -> float:
    cells = {(row["model"], row["task"], row["method"], row["seed"]): row["seconds"] for row in table.rows}
    return sum(cells.values())


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _percent(size: float) -> str:
    return f"{100 * size:g} %"
