"""CPR and CMD of attribution and of rankings, as MIB's circuit track has them, on tasks and models like its own.

    python benchmarks/mib.py --out runs/mib                                          # SmolLM2-135M: ioi, greater-than
    python benchmarks/mib.py --out runs/mib --model FILE.gguf --tasks ioi arithmetic # Qwen2.5-Coder-0.5B
    python benchmarks/mib.py --out runs/mib --write                                  # docs/results/mib.md

As the track has it: keys and values for every query head, a BOS where the tokenizer has one, ten sizes, faithfulness by
the logit difference; CPR by signed score, CMD by absolute. Ours: test pairs of unseen templates, and interchange with
our own counterfactuals. Everything is found by the logit difference but what is named after the KL, and the plain
ranking, which learns by it. The size of a ranking's score means nothing, so its CMD is that of its signed order.
Rankings are found in bfloat16 where the processor has it; all are judged in float32. What is done is not done again,
and the command may be stopped.
"""

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from _page import Rows, keep_rows, model_name, write_page

import edgewise as ew
from edgewise.evaluation import mib_scores
from edgewise.runs import RunOptions, fastest_precision

METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "EAP": ("eap", "default", {}),
    "EAP-IG, 5 points": ("eap-ig", "default", {"points": 5}),
    "mask-path IG of the KL": ("mask-ig", "default", {"explains": "kl"}),
    "mask-path IG of the KL, absolute effects": ("mask-ig", "default", {"explains": "kl", "average": "absolute"}),
    "ranking": ("ranking", "default", {}),
    "ranking, mib": ("ranking", "mib", {}),
    "ranking, mib, logarithmic budgets": ("ranking", "mib", {"budgets": "logarithmic"}),
}
"""By name: the catalogue's, a preset, and settings."""


def found(model: ew.Model, task: ew.tasks.Task, name: str, args: argparse.Namespace) -> ew.Scores:
    """One method's scores."""
    engine = ew.Engine(model, model.graph(kv="expanded"))
    catalogued, preset, settings = METHODS[name]
    method = ew.discovery.method(catalogued)
    if method.learns:
        settings = settings | {"steps": args.steps, "seed": args.seed}
    options = RunOptions(args.out / "checkpoints" / " ".join(map(str, key(task.name, name, args))))
    scores = ew.discovery.run_method(method, engine, task, method.configure(settings, preset=preset), options=options)
    assert isinstance(scores, ew.Scores)
    if stopped := scores.provenance["method"].get("stopped"):
        sys.exit(f"{name}: {stopped}; the same command goes on from there")
    return scores


def key(task: str, method: str, args: argparse.Namespace) -> tuple[str | int, ...]:
    """What tells one row from the others."""
    seed, steps = (args.seed, args.steps) if ew.discovery.method(METHODS[method][0]).learns else (0, 0)
    return (model_name(args.model), task, method, seed, steps, *args.pairs)


KEY = ("model", "task", "method", "seed", "steps", "train", "validation", "test")


def cell(task_name: str, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Find and judge one method on one task."""
    model = ew.load_model(args.model)
    bos = True if getattr(model.tokenizer, "bos_token_id", None) is not None else None
    train, validation, test = args.pairs
    task = ew.tasks.TASKS[task_name](model.tokenizer, train=train, validation=validation, test=test, seed=0, bos=bos)
    task, searched = replace(task, metric="logit_diff"), model
    precision = fastest_precision(torch.device("cpu")) if ew.discovery.method(METHODS[name][0]).learns else "float32"
    if precision != "float32":
        searched = ew.load_model(args.model, dtype=getattr(torch, precision))
    scores = found(searched, task, name, args)
    about = {"seconds": scores.provenance["cost"]["seconds"], "found_in": precision, "threads": torch.get_num_threads()}
    return dict(zip(KEY, key(task_name, name, args), strict=True)) | about | asdict(mib_scores(model, scores, task))


def tables(rows: Rows) -> str:
    """Every model's and task's table."""
    lines = [
        "",
        "*CPR* is the area under faithfulness by signed score: more is more, and above 1 circuits do the behaviour",
        "more than the model. *CMD* is the area between faithfulness and 1 by absolute score, of rankings by signed",
        "(0 is best). In both, half the weight is on circuits of more than half of all edges. *To EAP-IG* is the ratio",
        "of CPRs. *1 %* and *10 %* are faithfulness at these sizes, by signed score. Interchange ablation, hard masks.",
        "Rankings are found in bfloat16 where the processor has it, so seconds compare loosely. On MIB's twelve cells",
        "the mean CPR of EAP-IG is 1.63, and that of Matryoshka Attribution with logarithmic budgets 6.37 (validation,",
        "5,000 steps, its authors' figures).",
    ]
    for model, task in dict.fromkeys((row["model"], row["task"]) for row in rows):
        own = [row for row in rows if (row["model"], row["task"]) == (model, task)]
        lines += ["", f"## `{task}` on {model}", "", f"{own[0]['n']} test pairs.", "", *table(own)]
    return "\n".join(lines) + "\n"


def table(rows: Rows) -> list[str]:
    """One model's and task's."""
    lines = ["| method | steps | seed | seconds | CPR | to EAP-IG | CMD | 1 % | 10 % |", "|---" * 9 + "|"]
    reference = next((row["signed"]["cpr"] for row in rows if row["method"].startswith("EAP-IG")), float("nan"))
    for row in sorted(rows, key=lambda row: list(METHODS).index(row["method"])):
        method = ew.discovery.method(METHODS[row["method"]][0])
        signed, cmd = row["signed"], row["signed" if method.signs == ("signed",) else "absolute"]["cmd"]
        kept = dict(zip(signed["shares"], signed["faithfulness"], strict=True))
        numbers = (signed["cpr"], signed["cpr"] / reference, cmd, kept[0.01], kept[0.1])
        shown = " | ".join(f"{x:.2f}" for x in numbers)
        settings = f"{row['steps']} | {row['seed']}" if row["steps"] else " | "
        lines.append(f"| {row['method']} | {settings} | {row['seconds']:.0f} | {shown} |")
    return lines


def main() -> None:
    """Find and judge what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/mib"))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", nargs="+", default=["ioi", "greater-than"], choices=sorted(ew.tasks.TASKS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--steps", type=int, default=300, help="of rankings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", nargs=3, type=int, default=[200, 64, 128], help="of training, validation and test")
    parser.add_argument("--write", action="store_true", help="write the page from what there is")
    args = parser.parse_args()
    file = args.out / "mib.jsonl"
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    done = {tuple(row[name] for name in KEY) for row in rows}
    for task, method in [] if args.write else [(task, method) for task in args.tasks for method in args.methods]:
        if key(task, method, args) in done:
            continue
        rows.append(cell(task, method, args))
        with file.open("a") as into:
            into.write(json.dumps(rows[-1]) + "\n")
        print(f"{task} {method}: {rows[-1]['seconds']:.0f} s, CPR {rows[-1]['signed']['cpr']:.2f}", flush=True)
    if args.write:
        rows = keep_rows("mib", rows, KEY)
        write_page("mib", "MIB's areas", "mib", tables(rows))
    print(tables(rows))


if __name__ == "__main__":
    main()
