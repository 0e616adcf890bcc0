"""The tables of `feature_circuits.py`, and the figures that they are made of."""

import json
import math
import sys
from collections.abc import Iterable, Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np
from _page import RESULTS, Rows, write_page

from edgewise.runs import write_atomically

FIGURES = RESULTS / "feature-circuits.json"
CIRCUITS = RESULTS / "feature-circuits"
KEY = ("model", "task", "nodes", "method", "seed")
SETTINGS = ("pairs", "per_layer", "steps", "prompts", "rows", "error")
SHOWN = {"kept": (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000), "removed": (1, 2, 5, 10, 20, 50, 200, 1000)}
SIZES = (50, 200, 1000, 5000, 10_000)
"""Of tables that show few."""
Groups = dict[tuple[str, str], Rows]
"""Cells by nodes and method: the seeds of each."""


def keep(rows: Rows, agreements: Rows) -> None:
    """Put cells into the file of figures, in place of those of the same name, and write the page from it."""
    old = json.loads(FIGURES.read_text()) if FIGURES.exists() else {"cells": [], "agreement": []}
    cells = {tuple(row[name] for name in KEY): row for row in [*old["cells"], *rows]}
    check_alike(list(cells.values()))
    found = {tuple(row[name] for name in KEY[:4]): row for row in [*old["agreement"], *agreements]}
    lines = [",\n".join(json.dumps(row) for row in each.values()) for each in (cells, found)]
    write_atomically(FIGURES, f'{{"cells": [\n{lines[0]}\n],\n"agreement": [\n{lines[1]}\n]}}\n')
    written = tables(list(cells.values()), list(found.values()))
    write_page("feature-circuits", "Circuits of features", "feature_circuits", written)


def check_alike(rows: Rows) -> None:
    """End the command where a table would mix settings: a task's cells need the same pairs, seeds the same of all."""
    for key, names in ((KEY[:2], ("pairs",)), (KEY[:4], SETTINGS)):
        first: dict[tuple[str, ...], dict[str, Any]] = {}
        for row in rows:
            known = row | row.get("size", {})  # where earlier versions kept them
            other = first.setdefault(group := tuple(row[name] for name in key), known)
            for name in names:
                if name in known and name in other and known[name] != other[name]:
                    values = f"{name} {other[name]} and {name} {known[name]}"
                    sys.exit(f"{', '.join(group)}: cells of {values}; find all of them with the same, then --write")


def tables(rows: Rows, agreements: Rows) -> str:
    """Every task's tables."""
    lines = list[str]()
    for model, task in dict.fromkeys((row["model"], row["task"]) for row in rows):
        own = _groups([row for row in rows if (row["model"], row["task"]) == (model, task)])
        these = [row for row in agreements if (row["model"], row["task"]) == (model, task)]
        lines += ["", f"## `{task}` on {model}"]
        lines += _by_size(own, "kept", "KL of the circuit alone, by edges:")
        lines += _by_size(own, "removed", "KL of the model *without* the circuit, by edges:")
        lines += _summary(own)
        lines += _needed(own)
        lines += _writers(own)
        lines += _inside(these)
        lines += _overlap(these)
    return "\n".join(lines) + "\n"


def _groups(rows: Rows) -> Groups:
    found: Groups = {}
    for row in rows:
        found.setdefault((row["nodes"], row["method"]), []).append(row)
    return dict(sorted(found.items()))


def _spread(values: list[float]) -> str:
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(line)} |" for line in body)]


def _section(title: str, head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """A table under a line of words; nothing where it would be empty."""
    return ["", title, "", *_table(head, body)] if body else []


def _by_size(groups: Groups, how: str, title: str) -> list[str]:
    points = {key: _points(own, how) for key, own in groups.items()}
    sizes = sorted({n for each in points.values() for n in each if n in SHOWN[how]})
    body = [(*key, *(_spread(each[n]) if n in each else "–" for n in sizes)) for key, each in points.items()]
    return _section(title, ("nodes", "method", *(f"{n:,}" for n in sizes)), body)


def _points(own: Rows, how: str = "kept") -> dict[int, list[float]]:
    """The seeds' KL by how many edges were asked for."""
    found: dict[int, list[float]] = {}
    for row in own:
        for point in row["points"]:
            found.setdefault(point["edges"], []).append(point[how][0])
    return found


def _summary(groups: Groups) -> list[str]:
    head = ("nodes", "method", "seeds", "edges in all", "mean KL", "without, mean KL", "area kept", "area removed")
    body = []
    for key, own in groups.items():
        means = (_spread([_mean_kl(row, how) for row in own]) for how in ("kept", "removed"))
        areas = (_spread([row[name] for row in own]) for name in ("sufficiency", "necessity"))
        seconds = f"{mean(row['cost']['seconds'] for row in own):.0f}"
        body.append((*key, str(len(own)), f"{own[0]['total_edges']:,}", *means, *areas, seconds))
    note = (
        "",
        "*Mean KL*: over sizes from 20 edges on, on a logarithmic scale, of the circuit alone and of the model without",
        "it. *Area*: mean over all sizes that were judged of the share of the behaviour that circuits keep, or that",
        "goes with them; components were judged from one edge on, others from 20. Seconds are of finding.",
        "",
    )
    return [*note, *_table((*head, "seconds"), body)]


def _mean_kl(row: dict[str, Any], how: str) -> float:
    points = [(math.log(point["edges"]), point[how][0]) for point in row["points"] if point["edges"] >= 20]
    x, y = zip(*points, strict=True)
    return float(np.trapezoid(y, x)) / (x[-1] - x[0])


def _needed(groups: Groups) -> list[str]:
    """How many edges the learned ranking has where it is as near to the model as the other methods' circuits."""
    body = list[tuple[str, ...]]()
    for (nodes, method), own in groups.items():
        reference = groups.get((nodes, "ranking"))
        if reference is None or method not in ("first order", "attribution graph"):
            continue
        curve = [(n, mean(values)) for n, values in _points(reference).items()]
        for n, values in _points(own).items():
            if n in (200, 1000, 5000, 10_000):
                edges, bound = _edges_for(curve, mean(values))
                shares = f"{bound}{edges:,.0f}", f"{bound}{edges / n:.3f}"
                body.append((nodes, method, f"{n:,}", f"{mean(values):.3f}", *shares))
    head = ("nodes", "as near as", "its edges", "its KL", "the ranking's edges", "share")
    return _section("Edges for the same KL, between sizes by a straight line in log edges:", head, body)


def _edges_for(curve: list[tuple[int, float]], target: float) -> tuple[float, str]:
    """How many edges are as near to the model as `target`, and `≤ ` or `> ` where the curve begins or ends there."""
    before: tuple[int, float] | None = None
    for edges, kl in sorted(curve):
        if kl <= target:
            if before is None:
                return edges, "≤ "
            share = (before[1] - target) / (before[1] - kl)
            return math.exp(math.log(before[0]) + share * math.log(edges / before[0])), ""
        before = edges, kl
    return max(curve)[0], "> "


def _writers(groups: Groups) -> list[str]:
    body = []
    for key, own in groups.items():
        found = {n: [point["writers"] for row in own for point in row["points"] if point["edges"] == n] for n in SIZES}
        body.append((*key, *(f"{mean(each):.0f}" if each else "–" for each in found.values())))
    return _section("Nodes that write, by edges:", ("nodes", "method", *(f"{n:,}" for n in SIZES)), body)


def _inside(agreements: Rows) -> list[str]:
    body = [
        (row["nodes"], row["method"], *("; ".join(map(str, row["inside"].get(str(n), "–"))) for n in SIZES))
        for row in agreements
        if row["nodes"] != "components"
    ]
    what = "Edges that touch a feature or neuron; that join two; that begin at an error term. First seed, by edges:"
    return _section(what, ("nodes", "method", *(f"{n:,}" for n in SIZES)), body)


def _overlap(agreements: Rows) -> list[str]:
    sizes = SIZES[:-1]
    body = [
        (row["nodes"], row["method"], what, *(f"{row['iou'][kind][str(n)]:.2f}" for n in sizes))
        for kind, what in (("seeds", "its own seeds"), ("ranking", "the ranking"))
        for row in agreements
        if all(str(n) in row["iou"][kind] for n in sizes)
    ]
    head = ("nodes", "circuits of", "and of", *(f"{n:,}" for n in sizes))
    return _section("Overlap (IoU of edges), by edges; of seeds the mean over every two:", head, body)
