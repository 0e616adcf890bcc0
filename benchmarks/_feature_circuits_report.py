"""The page of `feature_circuits.py`, and the figures that it is made of."""

import json
import math
from pathlib import Path
from statistics import mean
from typing import Any

from edgewise.runs import write_atomically

RESULTS = Path(__file__).parents[1] / "docs" / "results"
PAGE, FIGURES = RESULTS / "feature-circuits.md", RESULTS / "feature-circuits.json"
KEY = ("model", "task", "nodes", "method", "seed")
Rows = list[dict[str, Any]]


def keep(rows: Rows, agreements: Rows) -> None:
    """Put cells into the file of figures, in place of those of the same name, and write the page from it."""
    old = json.loads(FIGURES.read_text()) if FIGURES.exists() else {"cells": [], "agreement": []}
    cells = {tuple(row[name] for name in KEY): row for row in [*old["cells"], *rows]}
    found = {tuple(row[name] for name in KEY[:4]): row for row in [*old["agreement"], *agreements]}
    lines = [",\n".join(json.dumps(row) for row in each.values()) for each in (cells, found)]
    write_atomically(FIGURES, f'{{"cells": [\n{lines[0]}\n],\n"agreement": [\n{lines[1]}\n]}}\n')
    write_atomically(PAGE, page(list(cells.values()), list(found.values())))


def page(rows: Rows, agreements: Rows) -> str:
    """The page."""
    return f"""# Circuits of features, neurons and components

Written by `python benchmarks/feature_circuits.py --write` from what the study had
([its figures](feature-circuits.json)). KL(full ‖ circuit) in nats at the answers, on test pairs whose templates no
other split has; hard masks, interchange ablation. *Kept*: the circuit alone. *Removed*: the model without it. Of
several seeds the mean, the smallest and the largest. *Area*: mean over sizes on a logarithmic scale of the share of
the behaviour that the circuits keep, or that goes with them. *IoU*: mean over every two seeds. *As near as the
ranking*: edges for the KL that the ranking of the same nodes has at its middle size, between sizes by a straight line
in log edges.
{tables(rows, agreements)}"""


def tables(rows: Rows, agreements: Rows) -> str:
    """Every task's tables."""
    lines = list[str]()
    for model, task in dict.fromkeys((row["model"], row["task"]) for row in rows):
        own = [row for row in rows if (row["model"], row["task"]) == (model, task)]
        these = [row for row in agreements if (row["model"], row["task"]) == (model, task)]
        shared = {(row["nodes"], row["method"]): row["iou"] for row in these}
        lines += ["", f"## `{task}` on {Path(model).stem}"]
        for how in ("kept", "removed"):
            lines += _by_size(own, how)
        lines += _summary(own, shared)
    return "\n".join(lines) + "\n"


def _groups(rows: Rows) -> dict[tuple[str, str], Rows]:
    found: dict[tuple[str, str], Rows] = {}
    for row in rows:
        found.setdefault((row["nodes"], row["method"]), []).append(row)
    return found


def _by_size(rows: Rows, how: str) -> list[str]:
    sizes = sorted({point["edges"] for row in rows for point in row["points"]})
    lines = ["", f"KL, {how}, by actual edges at most:", ""]
    lines += [f"| nodes | method | {' | '.join(f'{n:,}' for n in sizes)} |", "|---" * (2 + len(sizes)) + "|"]
    for (nodes, method), own in _groups(rows).items():
        cells = []
        for n in sizes:
            values = [point[how][0] for row in own for point in row["points"] if point["edges"] == n]
            spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{mean(values):.3f}{spread}" if values else "–")
        lines.append(f"| {nodes} | {method} | {' | '.join(cells)} |")
    return lines


def _summary(rows: Rows, shared: dict[tuple[str, str], dict[str, float]]) -> list[str]:
    head = ("nodes", "method", "seeds", "edges in all", "area kept", "area removed", "IoU", "as near as the ranking")
    lines = ["", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    groups = _groups(rows)
    for (nodes, method), own in groups.items():
        iou = shared.get((nodes, method))
        agree = "–" if iou is None else ", ".join(f"{int(n):,}: {value:.2f}" for n, value in iou.items())
        areas = (f"{mean(row[name] for row in own):.3f}" for name in ("sufficiency", "necessity"))
        reference = groups.get((nodes, "ranking"))
        near = "–" if reference is None else _needed(_mean_points(own), _middle(reference))
        cells = (nodes, method, str(len(own)), f"{own[0]['total_edges']:,}", *areas, agree, near)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _mean_points(rows: Rows) -> list[tuple[float, float]]:
    """Edges and KL, size by size, means over the seeds."""
    columns = zip(*(row["points"] for row in rows), strict=True)
    return [(mean(each["actual"] for each in own), mean(each["kept"][0] for each in own)) for own in columns]


def _middle(rows: Rows) -> float:
    points = _mean_points(rows)
    return points[len(points) // 2][1]


def _needed(points: list[tuple[float, float]], target: float) -> str:
    """How many edges the smallest circuit has that is as near to the model as `target`."""
    before: tuple[float, float] | None = None
    for edges, kl in points:
        if kl <= target:
            if before is None or not before[0]:
                return f"at most {edges:,.0f}"
            share = (before[1] - target) / (before[1] - kl)
            return f"{math.exp(math.log(before[0]) + share * math.log(edges / before[0])):,.0f}"
        before = edges, kl
    return f"more than {points[-1][0]:,.0f}"
