"""Is there one circuit of a behaviour, or are there many? Twelve rankings of one task, beside each other.

    python benchmarks/several_circuits.py --out runs/several            # find and judge: an hour, one thread
    python benchmarks/several_circuits.py --out runs/several --write    # docs/results/several-circuits.md
    python benchmarks/several_circuits.py --out runs/several --try      # two minutes, tiny sizes

Each of the twelve learns from pairs of its own (a twelfth of the training split), with a seed of its own, and starts
from attribution of the KL, from attribution of the logit difference, or from noise, in turn. Two more learn what the
first one does with the edges of the first circuit out of reach, and with those of the first two such. Circuits are of
98 % sparsity, actual edges, and judged on the test split, whose templates no other has. What several have in common is
asked of those that work, whose KL on validation is less than half of no circuit's. Rankings are found in bfloat16 where
the processor has it, and judged in float32. Each is a process of its own; what is done is not done again, and what was
done with other sizes ends the command.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from _page import held_to, write_page

import edgewise as ew
from edgewise.evaluation import judge, stability
from edgewise.runs import Interval, RunOptions, bootstrap, fastest_precision, write_atomically
from edgewise.tasks import HEADLINE, metric_function, reduce

MODEL, TASK, RUNS, SPARSITY = "smollm2-135m", "ioi", 12, 0.98
STARTS: dict[str, dict[str, Any]] = {
    "KL": {},
    "logit difference": {"warm_metric": "metric"},
    "noise": {"warm_examples": 0},
}
SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Edges in at least such a share of the circuits that work; 0 for those in any."""
WORKS = 0.5
"""A circuit works if its KL on validation is less than this share of no circuit's."""
OUT_OF_REACH = -50.0
"""A score so far below all others that its soft mask, and with it its gradient, is 0."""


def start_of(number: int) -> str:
    """What a ranking starts from."""
    return list(STARTS)[number % len(STARTS)]


def task_of(model: ew.Model, args: argparse.Namespace, number: int = 0) -> ew.tasks.Task:
    """The task with the training pairs of one ranking; validation and test are everyone's."""
    sizes = {"train": args.train * RUNS, "validation": args.test, "test": args.test}
    task = ew.tasks.TASKS[TASK](model.tokenizer, **sizes, seed=0)
    return replace(task, train=task.train[number * args.train : (number + 1) * args.train])


def file_of(name: str, args: argparse.Namespace) -> Path:
    """Where scores are kept."""
    return args.out / f"{name}.safetensors"


def is_found(name: str, args: argparse.Namespace) -> bool:
    """Whether a ranking is there. Ends the command if it was learned with other steps or pairs."""
    file = file_of(name, args)
    if file.is_file():
        record = ew.Scores.load(file).provenance
        sizes = {"steps": record["method"]["config"]["steps"], "train": record["task"]["arguments"]["train"] // RUNS}
        held_to(file, sizes, {"steps": args.steps, "train": args.train})
    return file.is_file()


def circuit_of(name: str, args: argparse.Namespace) -> ew.Circuit:
    """The circuit of a ranking that is found."""
    return ew.Scores.load(file_of(name, args)).at(SPARSITY, actual=True)


def without(engine: ew.Engine, task: ew.tasks.Task, others: list[ew.Circuit]) -> ew.Scores:
    """A start as rankings have it, from attribution of the KL, with the edges of other circuits out of reach."""
    config = ew.RankingConfig()
    few = replace(task, train=task.train[: config.warm_examples])
    found = ew.mask_ig(engine, few, explains="kl", points=config.warm_points, average="absolute")
    start = ew.discovery.ensemble([found])  # of one: normal quantiles of its ranks
    taken = torch.stack([each.kept for each in others]).any(0)
    return replace(start, values=start.values.masked_fill(taken, OUT_OF_REACH))


def find(name: str, args: argparse.Namespace) -> None:
    """One ranking: `3` is number 3 of the twelve, from 0; `second` shares no edge with `0`, `third` none with both."""
    precision = fastest_precision(torch.device("cpu"))
    model = ew.load_model(MODEL, dtype=getattr(torch, precision))
    engine, number = ew.Engine(model), int(name) if name.isdigit() else 0
    task = task_of(model, args, number)
    before = {"second": ["0"], "third": ["0", "second"]}.get(name, [])
    start = without(engine, task, [circuit_of(each, args) for each in before]) if before else None
    config = ew.RankingConfig(steps=args.steps, seed=number, **STARTS[start_of(number)])
    options = RunOptions(args.out / "checkpoints" / name, progress=False)
    scores = ew.learn_ranking(engine, task, config, start=start, options=options)
    if stopped := scores.provenance["method"].get("stopped"):
        sys.exit(f"{name}: {stopped}; the same command goes on from there")
    scores.save(file_of(name, args))


def judged(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that the page says."""
    model = ew.load_model(MODEL)
    engine, task = ew.Engine(model), task_of(model, args)
    names = [str(number) for number in range(RUNS)]
    scores = {name: ew.Scores.load(file_of(name, args)) for name in names}
    single = {name: scores[name].at(SPARSITY, actual=True) for name in names}
    first = single["0"]
    circuits = single | {"no edge": replace(first, kept=torch.zeros_like(first.kept), scores=None)}
    chosen = judge(engine, circuits, task, "validation", names=("kl",))
    none = chosen["no edge"]["kl"].mean()
    able = [name for name in names if chosen[name]["kl"].mean() < WORKS * none] or names  # of tiny ones none may
    agreed = stability([single[name] for name in able])
    fused = ew.discovery.ensemble([scores[name] for name in able], absolute=False)
    more: dict[str, ew.Circuit] = {name: circuit_of(name, args) for name in ("second", "third")}
    for share in SHARES:
        core = replace(agreed.consensus, kept=agreed.frequency > max(0.0, share - 0.5 / len(able)))
        more[f"core {share}"] = core
        more[f"fused {share}"] = fused.top_actual(max(1, core.n_actual))
        more[f"first {share}"] = scores["0"].top_actual(max(1, core.n_actual))
    more |= {"fused": fused.at(SPARSITY, actual=True), "vote": votes(fused, agreed.frequency)}
    circuits |= more
    values = judge(engine, circuits, task, "test", names=HEADLINE)
    return {
        "able": able,
        "steps": args.steps,
        "train": args.train,
        "n": len(task.test),
        "edges": {name: circuit.n_actual for name, circuit in circuits.items()},
        "judged": {who: {name: bootstrap(x) for name, x in each.items()} for who, each in values.items()},
        "seconds": {name: each.provenance["cost"]["seconds"] for name, each in scores.items()},
        "agreement": agreement({name: scores[name] for name in able}),
        "shared": {name: (first & circuits[name]).n_edges for name in ("second", "third")},
        "nodes": {name: in_common(first, circuits[name]) for name in ("1", "second", "third")},
        "behaviour": behaviour(engine, task, {name: single[name] for name in able}, values),
    }


def votes(fused: ew.Scores, frequency: torch.Tensor) -> ew.Circuit:
    """The edges that most circuits have, of those that equally many have the first of the ensemble."""
    places = fused.values.argsort().argsort() / len(fused.values)
    return replace(fused, values=frequency * RUNS + places).at(SPARSITY, actual=True)


def agreement(scores: dict[str, ew.Scores]) -> dict[str, dict[str, Any]]:
    """By size, the mean IoU of every two circuits, its interval, and the means within and between starts."""
    found = {}
    for size in (0.95, 0.98, 0.99):
        circuits = {name: each.at(size, actual=True).pruned() for name, each in scores.items()}
        pairs = [(start_of(int(a)), start_of(int(b)), circuits[a].iou(circuits[b])) for a, b in combinations(scores, 2)]
        groups = {
            " and ".join(dict.fromkeys((one, other))): mean(x for a, b, x in pairs if {a, b} == {one, other})
            for number, one in enumerate(STARTS)
            for other in list(STARTS)[number:]
            if any({a, b} == {one, other} for a, b, _ in pairs)
        }
        n, total = (first := next(iter(circuits.values()))).n_edges, first.graph.n_edges
        chance = n / (2 * total - n)
        found[f"{size:.0%}"] = {"all": stability(list(circuits.values())).iou, "chance": chance, **groups}
    return found


def in_common(one: ew.Circuit, other: ew.Circuit) -> dict[str, int]:
    """Components that write an actual edge: in each of two circuits, and in both."""
    writers = [set(each.graph.edge_writer[each.actual].tolist()) for each in (one, other)]
    return {"first": len(writers[0]), "both": len(writers[0] & writers[1])}


@torch.no_grad()
def behaviour(
    engine: ew.Engine, task: ew.tasks.Task, circuits: dict[str, ew.Circuit], values: dict[str, Any]
) -> dict[str, Any]:
    """How alike circuits are to each other, beside how alike each is to the model: KL of one from another, whether they
    name the same likeliest token, and the correlation over examples of how far each is from the model.
    """
    kl = metric_function("kl")
    rows: dict[tuple[str, str], list[np.ndarray]] = {}
    same: dict[tuple[str, str], list[np.ndarray]] = {}
    for batch in task.batches("test", 32):
        masks = {name: each.kept.float()[None, None] for name, each in circuits.items()}
        logits = {"model": engine.full(batch)} | {name: engine.run(batch, mask)[0] for name, mask in masks.items()}
        for one, of in logits.items():
            against = batch.with_full_logits(of)
            for other, own in logits.items():
                if one != other:
                    rows.setdefault((one, other), []).append(reduce(kl(own[None], against), batch)[0].numpy())
                    alike = (of.argmax(-1) == own.argmax(-1)).float()
                    same.setdefault((one, other), []).append(reduce(alike[None], batch)[0].numpy())
    far = {key: float(np.concatenate(each).mean()) for key, each in rows.items()}
    alike = {key: float(np.concatenate(each).mean()) for key, each in same.items()}

    def summary(pairs: list[tuple[str, str]]) -> dict[str, float]:
        found = {"kl": mean(far[pair] for pair in pairs), "same token": mean(alike[pair] for pair in pairs)}
        if all("model" not in pair for pair in pairs):
            x = [np.corrcoef(values[a]["kl"], values[b]["kl"])[0, 1] for a, b in pairs]
            found["correlation of the distance from the model"] = float(np.mean(x))
        return found

    return {
        "the model and each of those that work": summary([("model", name) for name in circuits]),
        "each two of those that work": summary([(a, b) for a in circuits for b in circuits if a != b]),
    }


def tables(found: dict[str, Any]) -> str:
    """All of them."""
    edges = found["edges"]
    lines = [
        "",
        f"`{TASK}` on {MODEL}, interchange ablation, hard masks. Rankings of {found['steps']} steps, {found['train']}",
        f"training pairs each; {found['n']} test pairs; means with 95 % bootstrap intervals over the examples.",
    ]

    def row(who: str, shown: str, *more: str) -> str:
        cells = " | ".join(str(Interval(*found["judged"][who][name])) for name in HEADLINE)
        return f"| {' | '.join((shown, *more))} | {cells} |"

    head = " | ".join(("KL", "logit difference", "accuracy", "exact match"))
    lines += ["", "## The twelve", "", f"| circuit | start | seconds | edges | {head} |", "|---" * 8 + "|"]
    for number in range(RUNS):
        name = str(number)
        seconds, size = f"{found['seconds'][name]:.0f}", f"{edges[name]:,}"
        lines.append(row(name, str(number + 1), start_of(number), seconds, size))
    seconds, n_able = sum(found["seconds"][name] for name in found["able"]), len(found["able"])
    for name, shown in (("fused", "the ensemble"), ("vote", "the edges with most votes")):
        lines.append(row(name, f"{shown} of the {n_able} that work", "", f"{seconds:.0f}", f"{edges[name]:,}"))
    lines.append(row("no edge", "no edge", "", "", "0"))
    groups = list(next(iter(found["agreement"].values())))[2:]
    lines += ["", f"## Overlap of the {n_able} that work (IoU of actual edges, mean of every two)", ""]
    lines += [f"| sparsity | all | by chance | {' | '.join(groups)} |", "|---" * (3 + len(groups)) + "|"]
    for size, each in found["agreement"].items():
        own = " | ".join(f"{each[group]:.3f}" for group in groups)
        lines.append(f"| {size} | {Interval(*each['all'])} | {each['chance']:.3f} | {own} |")
    lines += ["", "## What several have in common", ""]
    lines += ["| edges in at least | edges | KL | the ensemble's, as many | the first's, as many |", "|---" * 5 + "|"]
    for share in SHARES:
        whose = (f"core {share}", f"fused {share}", f"first {share}")
        cells = " | ".join(str(Interval(*found["judged"][who]["kl"])) for who in whose)
        lines.append(f"| {max(1, round(share * n_able))} of {n_able} | {edges[f'core {share}']:,} | {cells} |")
    lines += ["", "## Circuits without the first one's edges", ""]
    lines += [f"| circuit | edges | shared with the first | nodes shared | {head} |", "|---" * 8 + "|"]
    lines.append(row("0", "the first of the twelve", f"{edges['0']:,}", "", ""))
    for name, shown in (("second", "without the first's"), ("third", "without the first's and that one's")):
        nodes = found["nodes"][name]
        lines.append(
            row(name, shown, f"{edges[name]:,}", str(found["shared"][name]), f"{nodes['both']} of {nodes['first']}")
        )
    nodes = found["nodes"]["1"]
    lines += ["", f"Of the first circuit's {nodes['first']} nodes the second of the twelve has {nodes['both']}."]
    lines += ["", "## Do they do the same?", ""]
    columns = list(found["behaviour"]["each two of those that work"])
    lines += [f"| between | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for what, each in found["behaviour"].items():
        lines.append(f"| {what} | {' | '.join(f'{each[name]:.3f}' if name in each else '' for name in columns)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Find and judge what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/several"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--train", type=int, default=200, help="training pairs of each ranking")
    parser.add_argument("--test", type=int, default=256)
    parser.add_argument("--try", dest="tiny", action="store_true", help="tiny sizes")
    parser.add_argument("--write", action="store_true", help="write the page from what there is")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tiny and args.write:
        parser.error("--try --write: tiny figures are not for the page; leave one of the two out")
    if args.tiny:
        args.steps, args.train, args.test, args.out = 2, 8, 8, args.out / "try"
    if args.one:
        find(args.one, args)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    for name in [*map(str, range(RUNS)), "second", "third"] if not args.write else []:
        if not is_found(name, args):
            sizes = ("--steps", str(args.steps), "--train", str(args.train), "--test", str(args.test))
            subprocess.run([sys.executable, __file__, "--out", args.out, "--one", name, *sizes], check=True)
            print(f"{name}: found", flush=True)
    results = args.out / "results.json"
    if not args.write and not results.is_file():
        write_atomically(results, json.dumps(judged(args), indent=1))
    found = json.loads(results.read_text())
    if not args.write:
        held_to(results, found, {"steps": args.steps, "train": args.train, "n": args.test})
    if args.write:
        write_page("several-circuits", "Several circuits", "several_circuits", tables(found))
    print(tables(found))


if __name__ == "__main__":
    main()
