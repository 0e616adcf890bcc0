"""Seconds of finding against the KL of what was found, on unseen templates (docs/performance.md).

    python benchmarks/time_to_quality.py --out runs/time.jsonl "ranking steps=100" "eap-ig points=5" …
    python benchmarks/time_to_quality.py --out runs/time.jsonl                  # attribution and rankings, an hour
    python benchmarks/time_to_quality.py --out runs/time.jsonl --table          # what the file holds

A run is a method's name and its settings as `edgewise find --set` takes them; those of the engine begin with `engine.`
(`engine.matmul=medium`; with `engine.dtype=bfloat16` it is found in a model of that type, and judged in float32 as all
are). `start=FILE` starts from the scores that a file holds (no space in its name). Each run is a process of its own.
Its seconds are those of the method alone, its own start and constants included, model and task loaded. Circuits are
compared at the same actual size, of the sign that the method names first. Settings are chosen on `--split validation`.
A run that the file holds is not done again.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from _measure import rss_bytes

import edgewise as ew
from edgewise.evaluation import judge
from edgewise.runs import bootstrap

SIZES = (0.9, 0.95, 0.98, 0.99, 0.995)
SPLITS = {"train": 200, "validation": 200, "test": 256}  # as many as `edgewise find` takes
RUNS = ("eap", "eap-ig points=5", "mask-ig", "ranking steps=60", "ranking steps=300", "ranking")


def parsed(run: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A run's method, its settings, and the engine's."""
    name, *pairs = run.split()
    settings: dict[str, Any] = {}
    engine: dict[str, Any] = {}
    for pair in pairs:
        key, value = pair.split("=", 1)
        with contextlib.suppress(json.JSONDecodeError):
            value = json.loads(value)
        if key.startswith("engine."):
            engine[key.removeprefix("engine.")] = getattr(torch, value) if key == "engine.dtype" else value
        else:
            settings[key] = value
    return name, settings, engine


def measured(run: str, args: argparse.Namespace) -> dict[str, Any]:
    """Find and judge."""
    name, settings, execution = parsed(run)
    model = ew.load_model(args.model)
    task = ew.tasks.TASKS[args.task](model.tokenizer, **SPLITS, seed=0)
    searched = model if "dtype" not in execution else ew.load_model(args.model, dtype=execution["dtype"])
    engine, method = ew.Engine(searched, **execution), ew.discovery.method(name)
    file = settings.pop("start", None)
    start, began = None if file is None else ew.Scores.load(file), time.perf_counter()
    found = ew.discovery.run_method(method, engine, task, method.configure(settings), start=start)
    seconds = time.perf_counter() - began
    assert isinstance(found, ew.Scores)
    if args.scores is not None:
        args.scores.mkdir(parents=True, exist_ok=True)
        found.save(args.scores / f"{args.task} {run.replace('/', '_')}.safetensors")
    return {"run": run, "seconds": seconds} | judged(found, method.absolute, model, task, args)


def judged(found: ew.Scores, absolute: bool, model: ew.Model, task: ew.tasks.Task, args: argparse.Namespace) -> Any:
    """KL of the circuits of all sizes, and what it was judged under."""
    sizes = {f"{size:.1%}": found.at(size, actual=True, absolute=absolute) for size in args.sizes}
    values = judge(ew.Engine(model), sizes, task, args.split, names=("kl",))
    kl = {size: float(values[size]["kl"].mean()) for size in sizes}
    interval = {size: bootstrap(values[size]["kl"])[1:] for size in sizes}
    about = {"model": args.model, "task": args.task, "split": args.split, "threads": torch.get_num_threads()}
    return {**about, "gb": rss_bytes() / 2**30, "kl": kl, "interval": interval}


def table(rows: list[dict[str, Any]]) -> str:
    """The runs, by seconds."""
    sizes = list(dict.fromkeys(size for row in rows for size in row["kl"]))
    lines = [f"| run | task | split | seconds | GB | {' | '.join(sizes)} |", "|---" * (5 + len(sizes)) + "|"]
    for row in sorted(rows, key=lambda row: row["seconds"]):
        kl = " | ".join(f"{row['kl'][size]:.3f}" if size in row["kl"] else "" for size in sizes)
        lines.append(
            f"| {row['run']} | {row['task']} | {row['split']} | {row['seconds']:.0f} | {row['gb']:.1f} | {kl} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", default=list(RUNS))
    parser.add_argument("--out", type=Path, default=Path("runs/time.jsonl"))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--split", default="validation", choices=["train", "validation", "test"])
    parser.add_argument("--scores", type=Path, help="a folder that keeps the scores that were found")
    parser.add_argument("--sizes", nargs="+", type=float, default=SIZES, help="sparsities of the circuits")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.runs[0], args)))
        return
    rows = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.is_file() else []
    about = ("model", "task", "split")
    for run in () if args.table else args.runs:
        sizes = {f"{size:.1%}" for size in args.sizes}
        if any(
            row["run"] == run and sizes <= row["kl"].keys() and all(row[key] == getattr(args, key) for key in about)
            for row in rows
        ):
            continue
        command = [
            sys.executable,
            __file__,
            run,
            "--one",
            *(x for key in about for x in (f"--{key}", getattr(args, key))),
            *("--sizes", *map(str, args.sizes)),
            *(() if args.scores is None else ("--scores", args.scores)),
        ]
        line = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
        rows.append(json.loads(line))
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("a") as file:
            file.write(line + "\n")
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
