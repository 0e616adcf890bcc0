"""Several processes of one thread beside one process: seconds and memory of a training step of Edge Pruning.

    python benchmarks/ranks.py --shape gpt2 --batch 32 --length 20 [--processes 2] [--steps 16] [--rounds 3] [--json]
    python benchmarks/ranks.py --ways "one thread" tokens --rounds 1 --steps 1    # memory alone, on a busy machine

Four ways, each in processes of its own, as `torchrun` starts them, and in turns, `--rounds` times: one process of one
thread; one of as many threads as there are `--processes`; so many processes of one thread that share a step's examples;
and the same that share its tokens. The step is the median of the first `--steps` of a schedule of 16, over all rounds.
Tensors are the most that one process held above the weights over three steps, what depends on the examples included
(`_measure.py`); of several processes, that of the one that held the most. *Alone* are those of one run and its
backward with all masks fractional, which takes the most, without what is kept of the examples.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from typing import Any

import torch
from _cases import random_task
from _measure import peak_tensor_bytes, seconds
from _shapes import SHAPES, random_weights

from edgewise.discovery import EdgePruningConfig
from edgewise.discovery._edge_pruning import EdgePruningLearner
from edgewise.engine import Engine, Placement, footprint
from edgewise.models import load
from edgewise.runs import processes

STEPS = 16
"""Of the schedule; the first ones have nearly all masks open."""
WAYS = ("one thread", "threads", "examples", "tokens")


def measure(args: argparse.Namespace) -> None:
    """One way, in one of its processes; the first prints."""
    torch.set_num_threads(args.threads)
    model = load(random_weights(SHAPES[args.shape]()))
    task = random_task(900, args.examples or max(64, args.batch), args.length)
    changes = {"steps": STEPS, "sparsity_warmup": int(STEPS * 0.7), "lr_warmup": 1, "batch_size": args.batch}
    settings = replace(EdgePruningConfig(), warm_start=0.0, **changes)
    share: Any = "tokens" if args.only == "tokens" else "examples"
    with processes(torch.device("cpu")) as ranks:

        def begin() -> EdgePruningLearner:
            engine = Engine(model, memory=args.memory, ranks=ranks, share=share)
            learner = EdgePruningLearner(engine, task, settings)
            learner.prepare()
            return learner

        def steps(learner: EdgePruningLearner, n: int) -> None:
            for step in range(n):
                learner.step(step)

        def fullest(learner: EdgePruningLearner) -> None:
            mask = torch.rand(learner.engine.graph.n_edges, generator=torch.Generator().manual_seed(0))
            learner.losses(0, mask.requires_grad_()).sum().backward()

        learner = begin()
        times = [seconds(lambda step=step: learner.step(step))[0] for step in range(args.steps)]
        learner = begin()  # its engine has no buffers yet
        alone = ranks.gather(torch.tensor([peak_tensor_bytes(lambda: fullest(learner))]))
        del learner
        held = ranks.gather(torch.tensor([peak_tensor_bytes(lambda: steps(begin(), 3))]))
        sizes = args.batch, args.length
        options: dict[str, Any] = {"examples": len(task.train), "memory": args.memory}
        placement = Placement(ranks=ranks.size, share=share)
        plan = footprint(model, model.graph(), *sizes, placement=placement, **options)
        if ranks.rank == 0:
            tensors = {"tensors": int(held.max()), "alone": int(alone.max())}
            print(json.dumps({"s": times, **tensors, "planned": plan.bytes_above_weights}))


def started(args: argparse.Namespace, way: str) -> dict[str, Any]:
    """What one way's first process printed."""
    n = args.processes if way in ("examples", "tokens") else 1
    threads = args.processes if way == "threads" else 1
    names = ("shape", "batch", "length", "steps", "memory", "examples")
    options = [f"--{name}={getattr(args, name)}" for name in names]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    command = [*launch, __file__, "--only", way, "--threads", str(threads), *options]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    if ended.returncode:
        raise SystemExit(ended.stderr)
    return json.loads(ended.stdout.splitlines()[-1])


def table(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each way."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in args.ways}
    for _ in range(args.rounds):
        for way in args.ways:
            found[way].append(started(args, way))
    rows = []
    for way, rounds in found.items():
        s = statistics.median(time for each in rounds for time in each["s"])
        largest = {name: max(each[name] for each in rounds) for name in ("tensors", "alone", "planned")}
        rows.append({"way": way, "s": s, **largest})
    by_way = {row["way"]: row for row in rows}
    for row in rows:
        row["s_of_threads"] = row["s"] / by_way.get("threads", {"s": math.nan})["s"]
        for name in ("tensors", "alone"):
            row[f"{name}_of_one"] = row[name] / by_way.get("one thread", {name: math.nan})[name]
    return rows


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="gpt2")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--examples", type=int, default=0, help="training pairs; as many as in step.py if 0")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"how many of {STEPS} to time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--memory", choices=["default", "lean"], default="default")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)  # in one of a way's processes
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only is not None:
        measure(args)
        return
    rows = table(args)
    if args.json:
        print("\n".join(json.dumps(row) for row in rows))
        return
    heads = f"{'way':12} {'s a step':>9} {'of threads':>11} {'tensors, MB':>12} {'of one':>7} {'planned':>8}"
    print(f"{heads} {'alone, MB':>10} {'of one':>7}")
    for row in rows:
        memory = f"{row['tensors'] / 1e6:12,.0f} {row['tensors_of_one']:7.2f} {row['planned'] / 1e6:8,.0f}"
        memory += f" {row['alone'] / 1e6:10,.0f} {row['alone_of_one']:7.3f}"
        print(f"{row['way']:12} {row['s']:9.3f} {row['s_of_threads']:11.2f} {memory}")


if __name__ == "__main__":
    main()
