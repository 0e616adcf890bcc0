"""Edge Pruning with the published settings, in full (3,000 steps of 32 examples), beside the learned ranking that
`quality.py` left in docs/results: does a ranking that saw a tenth of the examples do no worse at the same actual size?

    python benchmarks/quality_paper.py --out runs/paper [--cache 10]     # find and judge; may be stopped and taken up
    python benchmarks/quality_paper.py --out runs/paper --write          # docs/results/quality-paper.md

The find takes hours. Its pairs, splits and settings are `quality.py`'s; the test split is only judged. `--cache` is
part of the run: keep it when taking one up.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from _quality_report import RESULTS
from quality import SIZE, SPLITS, find_all, judge_all, match_sizes

import edgewise as ew
from edgewise._files import write_atomically
from edgewise.evaluation import bootstrap

TASK, METHOD = "ioi", "edge pruning, paper"
RANKING, POLISHED = (RESULTS / "circuits" / f"{TASK}-{name}.safetensors" for name in ("ranking", "polished"))


def study(out: Path, cache: float) -> None:
    """Find the circuit and judge it, the checked-in ranking at its size and at 98 %, and the polished circuit."""
    model = ew.load_model("smollm2-135m")
    engine = ew.Engine(model, cache_bytes=int(cache * 2**30))
    task = ew.tasks.TASKS[TASK](model.tokenizer, **SPLITS, seed=0)
    theirs = ew.Circuit.load(RANKING).provenance["task"]["sha256"]
    ours = task.provenance["sha256"]
    if ours != theirs:
        raise SystemExit(f"{RANKING}: learned from other pairs ({theirs[:12]}) than these ({ours[:12]})")
    folder = _folder(out)
    find_all(engine, task, METHOD, 0, folder)
    judge_all(engine, task, folder, "test")
    match_sizes(engine, task, folder, {"ranking-0": RANKING})
    for file in (RANKING, POLISHED):
        ew.Circuit.load(file).save(folder / f"{file.stem}.safetensors")
    judge_all(engine, task, folder, "test", [RANKING.stem, POLISHED.stem])


def write(out: Path) -> None:
    """Write the page."""
    folder = _folder(out)
    cost = json.loads((folder / "found.json").read_text())
    learned = ew.Circuit.load(RANKING).provenance["method"]
    rows = {name: _judged(folder, name) for name in (str(SIZE), "ranking-0", "cut", RANKING.stem, POLISHED.stem)}
    seen = learned["examples_seen"]
    difference = bootstrap(np.array(rows["ranking-0"]["kl"]) - np.array(rows[str(SIZE)]["kl"]))
    mean, low, high = difference
    lines = [
        "# Edge Pruning's published settings in full, beside the learned ranking",
        "",
        "Written by `python benchmarks/quality_paper.py --write`. SmolLM2-135M-Instruct in Q4_1 weights, `ioi`; pairs,",
        "splits and judgement are those of [the quality study](quality.md): KL(full ‖ circuit) in nats, hard masks,",
        "interchange ablation, 256 test pairs whose templates, names and objects no other split has; 95 % bootstrap",
        "intervals over examples. Edge Pruning is one run (seed 0) of `ioi_sweep.sh`'s settings with 98 % asked for;",
        "its circuit is as large as its masks amount to. The ranking is the one that is checked in (seed 0).",
        "",
        "| circuit | examples seen | edges | KL |",
        "|---|---|---|---|",
        _row("Edge Pruning, published settings", cost["examples"], rows[str(SIZE)]),
        _row("the ranking at that size", seen, rows["ranking-0"]),
        _row("Edge Pruning's circuit cut to 98 % by edge mask × writer mask", cost["examples"], rows["cut"]),
        _row("the ranking at 98 %", seen, rows[RANKING.stem]),
        _row("the ranking, polished at 98 %", seen + _seen(POLISHED), rows[POLISHED.stem]),
        "",
        f"* The ranking's KL minus Edge Pruning's at the same size, example by example: {mean:+.3f} "
        f"[{low:+.3f}, {high:+.3f}], from {seen / cost['examples']:.1%} of the examples.",
        f"* Edge Pruning asked for 98 % (1,413 edges) and kept {rows[str(SIZE)]['actual']:,}. A cut circuit was not",
        "  learned at its size.",
        f"* Seconds of finding: Edge Pruning {cost['seconds']:,.0f} with two threads; the ranking "
        f"{learned['seconds']:,.0f} with one, on another day.",
        "",
    ]
    write_atomically(RESULTS / "quality-paper.md", "\n".join(lines))


def _folder(out: Path) -> Path:
    return out / TASK / f"{METHOD}-0"


def _judged(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name} test.json").read_text())


def _seen(file: Path) -> int:
    return ew.Circuit.load(file).provenance["method"]["examples_seen"]


def _row(label: str, examples: int, row: dict[str, Any]) -> str:
    mean, low, high = bootstrap(np.array(row["kl"]))
    return f"| {label} | {examples:,} | {row['actual']:,} | {mean:.3f} [{low:.3f}, {high:.3f}] |"


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/paper"))
    parser.add_argument("--cache", type=float, default=10.0, help="GiB kept of what depends on the pairs alone")
    parser.add_argument("--write", action="store_true", help="write the page into docs/results")
    args = parser.parse_args()
    if args.write:
        write(args.out)
    else:
        study(args.out, args.cache)


if __name__ == "__main__":
    main()
