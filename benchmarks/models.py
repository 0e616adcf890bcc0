"""Real models on the built-in tasks, and three methods on `ioi`, with seconds and memory: docs/results/models.md.

    python benchmarks/models.py smollm2-135m qwen2.5-coder-0.5b-instruct-q4_k_m.gguf gemma-3-270m-q4_k_m.gguf \\
        --pairs 32 --steps 30 --machine "two cores of an AMD EPYC that did other work too" --out docs/results/models.md

Each model runs in a process of its own, whose largest memory is told. What was measured is kept in `--rows`, a line
each, and not done again. `--pairs 4 --steps 2` is a try of a minute.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from _measure import rss_bytes, seconds
from _page import write_page

import edgewise as ew

SPARSITY = 0.98
SETTINGS: dict[str, dict[str, Any]] = {"eap": {}, "eap-ig": {"points": 5}, "ranking": {}}


def measured(name: str, pairs: int, steps: int) -> dict[str, Any]:
    """One model: what it is, how well it does the tasks, and how well circuits of it do `ioi`."""
    load_s, model = seconds(lambda: ew.load_model(name))
    check = ew.engine.check(model, own=True)
    row: dict[str, Any] = {"model": Path(name).name, "load_s": load_s, "identity": model.identity, "tasks": []}
    row["check"] = [check.edges, check.full_mask_error, check.empty_mask_error, check.own_error, check.max_logit]
    for task_name in ew.tasks.BUILT_IN:
        try:
            task = ew.tasks.TASKS[task_name](model.tokenizer, train=0, validation=0, test=pairs)
            took, found = seconds(lambda task=task: ew.evaluation.score(model, task, split="test"))
            values = [found.metrics[metric].value for metric in ("accuracy", "choice", "logit_diff")]
            row["tasks"].append([task_name, *values, took])
        except ew.InputError as error:
            row["tasks"].append([task_name, str(error)])
    row["score_gb"] = rss_bytes() / 2**30
    task = ew.tasks.ioi(model.tokenizer, train=pairs, validation=pairs // 2, test=pairs)
    engine, row["methods"] = ew.Engine(model), []
    for method_name, settings in SETTINGS.items():
        record = ew.discovery.method(method_name)
        config = record.configure(settings | ({"steps": steps} if method_name == "ranking" else {}))
        took, found = seconds(lambda r=record, c=config: ew.discovery.run_method(r, engine, task, c))
        circuit = found.at(SPARSITY, actual=True, absolute=record.absolute)
        judged_s, judged = seconds(lambda c=circuit: ew.evaluate(engine, c, task, baselines=()))
        values = [judged.metrics[metric].value for metric in ("kl", "logit_diff", "accuracy")]
        row["methods"].append([method_name, circuit.n_edges, circuit.n_actual, *values, took, judged_s])
    return row | {"methods_gb": rss_bytes() / 2**30}


def page(rows: list[dict[str, Any]], pairs: int, steps: int, machine: str) -> str:
    """The page's tables, in Markdown."""
    lines = [
        "",
        f"Written by `python benchmarks/models.py`, {pairs} pairs to judge on, as many to find circuits on and half as",
        "many for validation; float32. The engine's largest errors with all masks 1 and all masks 0 stand beside the",
        "module's own, which is counted from its weights in float64.",
        f"GB is the process's peak. Seconds are of one run on {machine}.",
        "",
        "| model | weights | edges | masks 1 | masks 0 | own | largest logit | load, s | scoring, GB | methods, GB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        edges, full, empty, own, largest = row["check"]
        who = f"{row['identity']['note']}, SHA-256 {row['identity']['weights_hash'][:12]}"
        lines.append(
            f"| {row['model']} | {who} | {edges:,} | {full:.1e} | {empty:.1e} | {own:.1e} | {largest:.1f} | "
            f"{row['load_s']:.0f} | {row['score_gb']:.1f} | {row['methods_gb']:.1f} |"
        )
    lines += ["", "## The models themselves", "", "| model | task | accuracy | choice | logit difference | s |"]
    lines.append("|---|---|---|---|---|---|")
    for row in rows:
        for task, *values in row["tasks"]:
            cells = (
                [values[0], "", "", ""] if len(values) == 1 else [*(f"{x:.2f}" for x in values[:3]), f"{values[3]:.0f}"]
            )
            lines.append(f"| {row['model']} | {task} | {' | '.join(cells)} |")
    lines += ["", f"## Circuits of `ioi` at {SPARSITY:.0%} actual sparsity, interchange ablation, the test split", ""]
    lines += [f"EAP-IG at 5 points; the ranking takes {steps} steps.", ""]
    lines.append("| model | method | edges | actual | KL | logit difference | accuracy | finding, s | judging, s |")
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        for name, kept, actual, kl, logit_diff, accuracy, took, judged in row["methods"]:
            numbers = f"{kl:.3f} | {logit_diff:.2f} | {accuracy:.2f} | {took:.0f} | {judged:.0f}"
            lines.append(f"| {row['model']} | {name} | {kept:,} | {actual:,} | {numbers} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--machine", default="this machine", help="what the page says that the seconds are of")
    parser.add_argument("--rows", type=Path, default=Path("runs/models.jsonl"))
    parser.add_argument("--one", action="store_true", help="print one model's numbers as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.models[0], options.pairs, options.steps)))
        return
    asked = {"pairs": options.pairs, "steps": options.steps}
    options.rows.parent.mkdir(parents=True, exist_ok=True)
    kept = [json.loads(line) for line in options.rows.read_text().splitlines()] if options.rows.is_file() else []
    done = {row["asked"]: row for row in kept if {key: row[key] for key in asked} == asked}
    for name in options.models:
        if name in done:
            continue
        sizes = [x for key, value in asked.items() for x in (f"--{key}", str(value))]
        command = [sys.executable, __file__, name, "--one", *sizes]
        found = json.loads(
            subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1]
        )
        done[name] = found | asked | {"asked": name}
        with options.rows.open("a") as file:
            file.write(json.dumps(done[name]) + "\n")
        print(f"{name}: done", file=sys.stderr)
    rows = [done[name] for name in options.models]
    text = page(rows, options.pairs, options.steps, options.machine)
    print(text) if options.out is None else write_page(options.out, "Real models", "models", text)


if __name__ == "__main__":
    main()
