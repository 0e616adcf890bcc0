"""The study's tables and picture, from the files that `quality.py` left."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _page import RESULTS, write_page
from numpy.typing import NDArray

import edgewise as ew
from edgewise.evaluation import Point
from edgewise.report import curve
from edgewise.runs import bootstrap, write_atomically

SPARSITIES = (0.9, 0.95, 0.98, 0.99, 0.995)
ATTRIBUTED = ("best attribution", "attribution of KL")
LEARNED = (
    "ranking",
    "ranking, 550 steps",
    "ranking + polish",
    "edge pruning",
)
PUBLISHED = ("edge pruning, paper in short", "edge pruning, paper")
"""Whose circuits have a size of their own."""


class Cell(NamedTuple):
    """A method at a size."""

    kl: NDArray[np.float64]
    """Per example, mean over the seeds."""
    actual: list[int]
    seeds: int
    spread: float
    """Standard deviation of the seeds' means."""


def write(root: Path, tasks: list[str], best: Callable[[Path, float], dict[str, tuple[str, Path]]]) -> None:
    """Write `quality.md`, `quality.json` and a picture per task."""
    lines, data = [""], {}
    for task in tasks:
        folder = root / task
        table = {(m, s): cell for m, s in product(("random", *LEARNED), SPARSITIES) if (cell := _cell(folder, m, s))}
        chosen = {}
        for sparsity in SPARSITIES:
            for label, (what, file) in best(folder, sparsity).items():
                row = json.loads(file.read_text())
                chosen[label, sparsity] = what
                table[label, sparsity] = Cell(np.array(row["kl"]), [row["actual"]], 1, 0.0)
        if not table:
            continue  # nothing is done yet
        lines += [f"## `{task}`", "", *_table(table, chosen), ""]
        lines += [*_costs(folder), ""]
        if validated := _validated(folder):
            lines += ["On validation (200 pairs), KL of each seed's circuit at 98 %: what polishing is worth.", ""]
            lines += ["| method | each seed | mean |", "|---|---|---|", *validated, ""]
        if matched := _matched(folder):
            lines += [
                "Edge Pruning with the published settings (in full 3,000 steps; in short 300, its warm-ups cut",
                "likewise): a circuit is as large as its masks amount to at the end. The last column is its own",
                "circuit, cut to the size asked for by edge mask × writer mask; it was not learned at that size, and",
                "may be no nearer to the model than the circuit without edges. [All 3,000 steps](quality-paper.md).",
                "",
            ]
            lines += ["| method | edges | KL | KL of the rankings, same size | ranking − it, paired | cut to 98 % |"]
            lines += ["|---|---|---|---|---|---|", *matched, ""]
        if agreement := _agreement(folder):
            lines += ["| circuits | edges of each | pairwise IoU | mean [95 % interval] | edges in all |"]
            lines += ["|---|---|---|---|---|"]
            lines += [*agreement, ""]
        lines += ["### Reading", "", *_reading(folder, table), ""]
        data[task] = {f"{m} {s}": {"kl": float(c.kl.mean()), "actual": c.actual} for (m, s), c in table.items()}
        _draw(table, folder, task)
        lines += [f"![KL by size on {task}](quality-{task}.png)", "", *_published(folder, task), ""]
    write_page("quality", "How faithful circuits are, by method and size", "quality", "\n".join(lines))
    write_atomically(RESULTS / "quality.json", json.dumps(data, indent=1) + "\n")


def _published(folder: Path, task: str) -> list[str]:
    """Copy the first seed's circuits beside the page, and say what they were judged to be."""
    lines = []
    for method, name in (("ranking", "ranking"), ("ranking + polish", "polished")):
        own = folder / f"{method}-0"
        if not (own / "0.98 test.json").is_file():
            continue
        circuit, row = ew.Circuit.load(own / "0.98.safetensors"), json.loads((own / "0.98 test.json").read_text())
        if name == "polished":  # its scores are for this size alone
            circuit = ew.Circuit(circuit.graph, circuit.kept, None, circuit.provenance)
        target = RESULTS / "circuits" / f"{task}-{name}.safetensors"
        target.parent.mkdir(exist_ok=True)
        circuit.save(target)
        sizes = "" if circuit.scores is None else "; its scores give every other size"
        lines.append(
            f"* [{target.name}](circuits/{target.name}): `{method}`, seed 0, {row['actual']:,} edges, KL "
            f"{np.mean(row['kl']):.3f}{sizes}."
        )
    return ["Circuits to be judged by anyone (`edgewise evaluate FILE` on a copy):", "", *lines] if lines else []


def _cell(folder: Path, method: str, sparsity: float) -> Cell | None:
    rows = [json.loads(file.read_text()) for file in sorted(folder.glob(f"{method}-[0-9]/{sparsity} test.json"))]
    if not rows:
        return None
    by_seed = np.array([row["kl"] for row in rows])  # (seeds, examples)
    spread = float(by_seed.mean(1).std(ddof=1)) if len(rows) > 1 else 0.0
    return Cell(by_seed.mean(0), [row["actual"] for row in rows], len(rows), spread)


def _table(table: dict[tuple[str, float], Cell], chosen: dict[tuple[str, float], str]) -> list[str]:
    lines = [
        "| method (seeds) | " + " | ".join(f"{s:.1%}" for s in SPARSITIES) + " |",
        "|---|" + "---|" * len(SPARSITIES),
    ]
    for method in ("random", *ATTRIBUTED, *LEARNED):
        cells = [table.get((method, s)) for s in SPARSITIES]
        if not any(cells):
            continue
        seeds = max(cell.seeds for cell in cells if cell)
        shown = []
        for sparsity, cell in zip(SPARSITIES, cells, strict=True):
            if cell is None:
                shown.append("")
                continue
            ratios = [f"{x:.1f} ×" for x in _ratios(table, method, sparsity).values()]
            text = str(bootstrap(cell.kl))
            text += f" ± {cell.spread:.3f}" if cell.seeds > 1 else ""
            text += f"; {', '.join(ratios)}" if method in LEARNED else ""
            text += f" ({chosen[method, sparsity]})" if method in ATTRIBUTED else ""
            sizes = f"{min(cell.actual):,} to " if min(cell.actual) < max(cell.actual) else ""
            shown.append(f"{text}; {sizes}{max(cell.actual):,} edges")
        lines.append(f"| {method} ({seeds}) | " + " | ".join(shown) + " |")
    return lines


def _costs(folder: Path) -> list[str]:
    lines = [
        "| method | training pairs seen, repeats counted | passes of a pair, both ways | seconds, each seed |",
        "|---|---|---|---|",
    ]
    for method in ("eap", "eap-ig", "mask-ig", "mask-ig, KL", *LEARNED, *PUBLISHED):
        found: list[dict[str, Any]] = [
            json.loads(f.read_text()) for f in sorted(folder.glob(f"{method}-[0-9]/found.json"))
        ]
        if found:
            note = f" (beside {found[0]['beside']})" if "beside" in found[0] else ""
            seconds = ", ".join(f"{row['seconds']:.0f}" for row in found)
            lines.append(f"| {method} | {found[0]['examples']:,}{note} | {found[0]['passes']:,} | {seconds} |")
    return lines


def _ratios(table: dict[tuple[str, float], Cell], method: str, sparsity: float) -> dict[str, float]:
    """How many times as far from the model each kind of attribution is."""
    own = table[method, sparsity].kl.mean()
    return {label: float(table[label, sparsity].kl.mean() / own) for label in ATTRIBUTED if (label, sparsity) in table}


def _reading(folder: Path, table: dict[tuple[str, float], Cell]) -> list[str]:
    """What the tables say, in sentences that the numbers make."""
    said = []
    for method, label in product(("ranking", "ranking, 550 steps"), ATTRIBUTED):
        if all((name, s) in table for name in (method, label) for s in SPARSITIES):
            seen = ", ".join(f"{_ratios(table, method, s)[label]:.1f} × at {s:.1%}" for s in SPARSITIES)
            said.append(f"* KL of the {label} in multiples of that of `{method}` (one run for all sizes): {seen}.")
    at = {method: table[method, 0.98] for method in LEARNED if (method, 0.98) in table}
    if len(at) > 1:
        order = ", ".join(f"{m} {c.kl.mean():.3f}" for m, c in sorted(at.items(), key=lambda row: row[1].kl.mean()))
        said.append(f"* At 98 %, from the lowest KL: {order}.")
    short = "edge pruning, paper in short"
    alike = [
        sorted(folder.glob(pattern))
        for pattern in ("ranking-[0-9]/0.98.*", f"{short}-0/ranking-*.safetensors", f"{short}-[0-9]/0.98.*")
    ]
    if all(len(files) > 2 for files in alike):
        ours, ours_there, theirs = (ew.stability([ew.Circuit.load(f) for f in files]).iou for files in alike)
        said.append(
            f"* How far runs agree (mean pairwise IoU): rankings {ours.value:.3f} at 98 %, {ours_there.value:.3f} at "
            f"the size of Edge Pruning's circuits; those {theirs.value:.3f}, from 300 steps."
        )
    return said


def _matched(folder: Path) -> list[str]:
    """Edge Pruning with the published settings, whose circuits are as large as its masks amount to, against the
    rankings at that size; and its own circuits cut to the size asked for.
    """
    lines = []
    for own in (own for method in PUBLISHED for own in sorted(folder.glob(f"{method}-[0-9]"))):
        others = [np.array(json.loads(file.read_text())["kl"]) for file in sorted(own.glob("ranking-* test.json"))]
        if not others:
            continue
        found, cut = (json.loads((own / f"{name} test.json").read_text()) for name in ("0.98", "cut"))
        more = bootstrap(np.mean(others, axis=0) - np.array(found["kl"]))
        shown = ", ".join(f"{kl.mean():.3f}" for kl in others)
        lines.append(
            f"| {own.name} | {found['actual']:,} | {np.mean(found['kl']):.3f} | {shown} | "
            f"{more:+.3f} | {np.mean(cut['kl']):.3f}; {cut['actual']:,} edges |"
        )
    return lines


def _validated(folder: Path) -> list[str]:
    lines = []
    for method in LEARNED:
        files = sorted(folder.glob(f"{method}-[0-9]*/0.98 validation.json"))
        means = [float(np.mean(json.loads(file.read_text())["kl"])) for file in files]
        if means:
            lines.append(f"| {method} | {', '.join(f'{x:.3f}' for x in means)} | {np.mean(means):.3f} |")
    return lines


def _agreement(folder: Path) -> list[str]:
    lines = []
    for method in LEARNED:
        lines += _iou(method, sorted(folder.glob(f"{method}-[0-9]/0.98.safetensors")))
    for method in PUBLISHED:
        lines += _iou(method, sorted(folder.glob(f"{method}-[0-9]/0.98.safetensors")))
        lines += _iou(f"{method}, cut to 98 %", sorted(folder.glob(f"{method}-[0-9]/cut.safetensors")))
        for own in sorted(folder.glob(f"{method}-[0-9]"))[:1]:  # each ranking at the size of one run's circuit
            lines += _iou(f"ranking, at the size of {own.name}", sorted(own.glob("ranking-*.safetensors")))
    return lines


def _iou(label: str, files: list[Path]) -> list[str]:
    circuits = [ew.Circuit.load(file) for file in files]
    if len(circuits) < 2:
        return []
    found = ew.stability(circuits)
    pairs = ", ".join(f"{pair:.3f}" for pair in found.pairs)
    sizes = ", ".join(f"{size:,}" for size in dict.fromkeys(circuit.n_actual for circuit in circuits))
    return [f"| {label} | {sizes} | {pairs} | {found.iou} | {int((found.frequency == 1).sum()):,} |"]


def _draw(table: dict[tuple[str, float], Cell], folder: Path, task: str) -> None:
    points = []
    for (method, _), cell in table.items():
        points.append(Point(method, max(cell.actual), *bootstrap(cell.kl)))
    for method in PUBLISHED:  # each seed at its own size
        for file in sorted(folder.glob(f"{method}-[0-9]/0.98 test.json")):
            row = json.loads(file.read_text())
            points.append(Point(method, row["actual"], *bootstrap(np.array(row["kl"]))))
    caption = (
        f"SmolLM2-135M-Instruct (Q4_1 weights), {task}, {len(next(iter(table.values())).kl)} unseen examples, "
        "interchange ablation, hard masks, at the answers; actual edges; bands: 95 % bootstrap over examples of the"
        " mean over seeds"
    )
    curve(
        points,
        RESULTS / f"quality-{task}.png",
        total=70_651,
        title=f"{task}: KL by size",
        caption=caption,
        log=True,
        dpi=110,
    )
