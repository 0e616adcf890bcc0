"""Learned rankings of several seeds beside the best attribution, on unseen templates: KL by size, and the seconds.

    python benchmarks/seeds.py --out runs/seeds --ensemble                          # SmolLM2-135M, ioi and greater-than
    python benchmarks/seeds.py --out runs/seeds --model FILE.gguf --steps 80        # another model
    python benchmarks/seeds.py --out runs/seeds --write                             # docs/results/seeds.md

For each task: EAP, EAP-IG and mask-path IG of KL, each also by absolute effects, and a ranking of `--steps` steps for
each seed, found in bfloat16 where the processor has it and judged in float32 on the test split; and the rankings fused
(`ensemble`), which cost what they do together. `--ensemble` adds one `ranking-ensemble`, half an hour a task. Circuits
are compared at the same actual size, of the sign that the method names first. The best attribution of a size is the
best *on test*: the ranking is held against more than anybody could have chosen. Each run is a process of its own
(`time_to_quality.py`); what is done is not done again, and the command may be stopped.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import time_to_quality
from _page import Rows, keep_rows, model_name, write_page

import edgewise as ew

ATTRIBUTIONS = ("eap", "eap-ig points=5", "mask-ig explains=kl")
ABSOLUTE = tuple(f"{each} average=absolute" for each in ATTRIBUTIONS)
SIZES = tuple(f"{size:.1%}" for size in time_to_quality.SIZES)


def rankings(args: argparse.Namespace) -> list[str]:
    """Of one task, as `time_to_quality.py` takes them."""
    return [f"ranking steps={args.steps} seed={seed} engine.dtype={args.dtype}" for seed in args.seeds]


def ensembles(args: argparse.Namespace) -> list[str]:
    """Of one task, where asked for."""
    return [f"ranking-ensemble engine.dtype={args.dtype}"] if args.ensemble else []


def scores_of(args: argparse.Namespace) -> Path:
    """The folder of a model's scores."""
    return args.out / "scores" / model_name(args.model)


def study(args: argparse.Namespace) -> None:
    """Run what is missing."""
    for task in args.tasks:
        command = [
            sys.executable,
            time_to_quality.__file__,
            "--out",
            args.out / "seeds.jsonl",
            "--model",
            args.model,
            "--task",
            task,
            "--scores",
            scores_of(args),
        ]
        runs = [*rankings(args), *ensembles(args), *ABSOLUTE, *ATTRIBUTIONS]
        subprocess.run([*command, "--split", "test", *runs], check=True)
        judge_fused(args, task)


def judge_fused(args: argparse.Namespace, task: str) -> None:
    """Judge the rankings fused, if that is not done; its seconds are those of all together."""
    seeds = ",".join(map(str, args.seeds))
    file, name = (
        args.out / "seeds.jsonl",
        f"ranking steps={args.steps} engine.dtype={args.dtype} fused from seeds {seeds}",
    )
    rows = [row for row in read(file) if (row["model"], row["task"]) == (args.model, task)]
    own = rankings(args)
    files = [scores_of(args) / f"{task} {run}.safetensors" for run in own]
    if any(row["run"] == name for row in rows) or not all(path.exists() for path in files):
        return
    fused = ew.discovery.ensemble([ew.Scores.load(path) for path in files], absolute=False)
    model = ew.load_model(args.model)
    pairs = ew.tasks.TASKS[task](model.tokenizer, **time_to_quality.SPLITS, seed=0)
    told = argparse.Namespace(model=args.model, task=task, split="test", sizes=time_to_quality.SIZES)
    row = {"run": name, "seconds": sum(row["seconds"] for row in rows if row["run"] in own)}
    row |= time_to_quality.judged(fused, False, model, pairs, told)
    with file.open("a") as into:
        into.write(json.dumps(row) + "\n")


def read(file: Path) -> Rows:
    """What is done."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def tables(rows: Rows) -> str:
    """All models and tasks that were run."""
    lines = list[str]()
    for model, task in dict.fromkeys((row["model"], row["task"]) for row in rows):
        lines += ["", f"## `{task}` on {model_name(model)}", ""]
        lines += table([row for row in rows if (row["model"], row["task"]) == (model, task)])
    return "\n".join(lines) + "\n"


def table(rows: Rows) -> list[str]:
    """One model's and task's."""
    lines = [f"| run | seconds | {' | '.join(SIZES)} |", "|---" * (2 + len(SIZES)) + "|"]
    others = [row for row in rows if not row["run"].startswith("ranking")]
    for row in others:
        kl = (f"{row['kl'][size]:.3f}" for size in SIZES)
        lines.append(f"| {row['run']} | {row['seconds']:.0f} | {' | '.join(kl)} |")
    best = {size: min((row["kl"][size] for row in others), default=float("nan")) for size in SIZES}
    seeds: dict[str, Rows] = {}
    for row in rows:
        if row not in others:
            name = " ".join(word for word in row["run"].split() if not word.startswith(("seed=", "engine.")))
            seeds.setdefault(name, []).append(row)
    for name, found in seeds.items():
        several = f", {len(found)} seeds" if len(found) > 1 else ""
        values = {size: np.array([row["kl"][size] for row in found]) for size in SIZES}
        shown = (f"{x.mean():.3f}" + (f" ({x.min():.3f} to {x.max():.3f})" if several else "") for x in values.values())
        seconds = ", ".join(f"{row['seconds']:.0f}" for row in found)
        lines.append(f"| {name}{several} | {seconds} | {' | '.join(shown)} |")
        ratios = (f"{x.mean() / best[size]:.2f}" for size, x in values.items())
        lines.append(f"| of the best attribution | | {' | '.join(ratios)} |")
    return lines


def main() -> None:
    """Parse, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", nargs="+", default=["ioi", "greater-than"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument(
        "--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="in which rankings are found"
    )
    parser.add_argument("--ensemble", action="store_true", help="also one ranking-ensemble a task")
    parser.add_argument("--write", action="store_true", help="write docs/results/seeds.md and .json from what there is")
    args = parser.parse_args()
    if not args.write:
        study(args)
    rows = read(args.out / "seeds.jsonl")
    if args.write:
        named = [row | {"model": model_name(row["model"])} for row in rows]
        rows = keep_rows("seeds", named, ("model", "task", "run"))
        write_page("seeds", "Rankings of several seeds beside attribution", "seeds", tables(rows))
    print(tables(rows))


if __name__ == "__main__":
    main()
