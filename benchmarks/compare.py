"""This commit against another one: seconds, memory and numbers of both, taken in turn on the same machine.

    python benchmarks/compare.py 7185910 [--rounds 5] [--cases gpt2-step-32 smollm2-eap-32] [--threads 2]
    python benchmarks/compare.py 7185910 --numbers       # the checked-in circuits' KL and logit differences instead

The other commit is checked out in a temporary folder (or is a folder already). Each round starts one fresh process for
each of the two, running `_cases.py` of this commit over that side's own `src`, and lets them do one case after another
in turns, the other side first in every second round; one waits while the other works. `ratio` is of the medians over
rounds; `by round` is the median of the rounds' own ratios, with the smallest and largest; a machine that drifts moves
the second least. `CPU` is the same of the processor's seconds, all threads together.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _cases import CASES

ROOT = Path(__file__).parents[1]
REAL = [name for name, case in CASES.items() if case.shape != "tiny"]
CIRCUITS = ROOT / "docs" / "results" / "circuits"


class Side:
    """A process that runs one commit's library."""

    def __init__(self, tree: Path, threads: int) -> None:
        """Start it, over the tree's own `src`."""
        # A thread that waits must not spin: the other side is at work.
        settings = {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, str(Path(__file__).with_name("_cases.py")), str(threads)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **settings})
        at = Path(self.ask(what="where"))
        assert at.is_relative_to(tree.resolve()), f"{tree}: its process imports {at}"

    def ask(self, **order: Any) -> Any:
        """Have something measured."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{order}: the process ended; see above")
        return json.loads(line)

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


@contextmanager
def tree_of(commit: str) -> Iterator[Path]:
    """A folder with the commit's files."""
    if Path(commit).is_dir():
        yield Path(commit)
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", str(tree), commit], check=True, capture_output=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def measure(trees: list[Path], args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """For each case, seconds and processor's seconds `[round][side]` and bytes `[side]`."""
    found: dict[str, dict[str, Any]] = {name: {"seconds": [], "cpu": [], "bytes": []} for name in args.cases}
    for number in range(args.rounds):
        sides = [Side(tree, args.threads) for tree in trees]
        order = [0, 1] if number % 2 == 0 else [1, 0]
        for name, rows in found.items():
            taken = [{}, {}]
            for side in order:
                taken[side] = sides[side].ask(what="seconds", case=name, steps=args.steps)
            for key in ("seconds", "cpu"):
                rows[key].append([each[key] for each in taken])
            if not number:
                rows["bytes"] = [each.ask(what="bytes", case=name) for each in sides]
        for each in sides:
            each.close()
        print(f"round {number + 1} of {args.rounds} done", file=sys.stderr)
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        "| case | s before | s after | ratio | by round (smallest to largest) | CPU | MB before | MB after | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in found.items():
        before, after = (statistics.median(column) for column in zip(*rows["seconds"], strict=True))
        ratios, cpu = ([b / a for a, b in rows[key]] for key in ("seconds", "cpu"))
        first, second = rows["bytes"]
        lines.append(
            f"| {name} | {before:.4g} | {after:.4g} | {after / before:.3f} | {statistics.median(ratios):.3f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) | {statistics.median(cpu):.3f} | {first / 1e6:,.1f} | "
            f"{second / 1e6:,.1f} | {second / first:.3f} |"
        )
    return "\n".join(lines)


def numbers(trees: list[Path], args: argparse.Namespace) -> str:
    """How far the checked-in circuits' numbers are apart, as Markdown."""
    sides = [Side(tree, args.threads) for tree in trees]
    lines, most = ["| circuit | number | mean before | mean after | largest difference |", "|---|---|---|---|---|"], 0.0
    for path in sorted(CIRCUITS.glob("ioi-*.safetensors")):
        before, after = (each.ask(what="numbers", circuit=str(path), pairs=args.pairs) for each in sides)
        for name, old in before.items():
            apart = max(abs(a - b) for a, b in zip(old, after[name], strict=True))
            most = max(most, apart)
            means = f"{statistics.fmean(old):.6f} | {statistics.fmean(after[name]):.6f}"
            lines.append(f"| {path.name} | {name} | {means} | {apart:.1e} |")
    for each in sides:
        each.close()
    return "\n".join([*lines, "", f"Largest difference: {most:.1e}"])


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the commit before, or a folder with its files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=REAL, metavar="CASE")
    parser.add_argument("--steps", type=int, default=4, help="of Edge Pruning with a batch of 32; twice as many with 8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--numbers", action="store_true", help="compare the checked-in circuits' numbers instead")
    parser.add_argument("--pairs", type=int, default=32, help="of --numbers")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tree_of(args.commit) as before:
        trees = [before.resolve(), ROOT]
        if args.numbers:
            print(numbers(trees, args))
            return
        found = measure(trees, args)
    print(json.dumps(found) if args.json else table(found))


if __name__ == "__main__":
    main()
