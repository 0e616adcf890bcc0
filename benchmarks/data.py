"""What a large training set costs: memory, and seconds a step, beside a small one.

    python benchmarks/data.py --shape gpt2 --examples 100000 --batch 32 [--small 200] [--steps 16] [--json]
    python benchmarks/data.py --shape tiny --processes 2 --small 1000 --examples 10000 100000

Each size runs in a process of its own, or with `--processes` in several that share each step's examples, as `torchrun`
starts them (memory is then the largest one's): it makes `induction` pairs for a tokenizer of whole words, then takes
steps of Edge Pruning. `small` examples' constants (the corrupted run, the full model's logits) are cached and seen
again; of `examples` they are computed anew in each step. The small size and the largest are held against each other by

* `extra_plain`: the large step less the small one, in plain forwards + backwards, to be at most 1. Two of the three
  forwards of a large step are its excess, the corrupted prompts' and the full model's;
* `bytes_per_example`: how much more memory making the large task takes at its peak, per example. (It comes before the
  model is loaded, whose own peak would hide it.)

Steps and plain passes take turns, and each process's steps are counted in its own plain passes, so that a machine that
is busier in one of the two does not decide the difference.
"""

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import replace
from typing import Any

import torch
from _measure import beside, rss_bytes, seconds
from _shapes import SHAPES, random_weights
from step import plain_step
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from edgewise.discovery import EdgePruningConfig
from edgewise.discovery._edge_pruning import EdgePruningLearner
from edgewise.engine import Engine
from edgewise.models import load
from edgewise.runs import Ranks, processes
from edgewise.tasks import induction
from edgewise.tasks._induction import _HEADS
from edgewise.tasks._words import OBJECTS, PLACES


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A token for every word of the task."""
    heads = " ".join(head for heads in _HEADS.values() for head in heads).replace(":", " :").split()
    words = dict.fromkeys(["[UNK]", "the", "is", *heads, *OBJECTS, *PLACES])
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def measure(args: argparse.Namespace, examples: int, ranks: Ranks) -> dict[str, Any]:
    """One size: seconds to make the task and a step, and what is resident after each, in the largest process."""
    tokenizer = word_tokenizer()
    induction(tokenizer, 2048, 1, 1)  # what tokenising some at a time takes is no matter of size
    before = rss_bytes()
    make_s, task = seconds(lambda: induction(tokenizer, examples, 1, 1))
    made = rss_bytes()
    model = load(random_weights(SHAPES[args.shape](), device=args.device))
    settings = replace(
        EdgePruningConfig(),
        steps=args.steps,
        sparsity_warmup=int(args.steps * 0.7),
        lr_warmup=1,
        batch_size=args.batch,
    )
    learner = EdgePruningLearner(Engine(model, ranks=ranks), task, settings)
    prepare_s, _ = seconds(learner.prepare)
    plain = plain_step(model, task, args.batch)
    plain()
    step_s, plain_s = map(statistics.median, beside(learner.step, plain, args.steps))
    resident, of_task = ranks.gather(torch.tensor([[rss_bytes(), made - before]])).amax(0).tolist()
    return {
        "examples": examples,
        "make_s": make_s,
        "make_bytes": of_task,
        "prepare_s": prepare_s,
        "step_s": step_s,
        "plain_s": plain_s,
        "rss_bytes": resident,
    }


def main() -> None:
    """Parse, measure each size in its own process, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="gpt2")
    parser.add_argument("--small", type=int, default=200)
    parser.add_argument("--examples", type=int, nargs="+", default=[100_000])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # one size, in this process
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.only is not None:
        with processes(torch.device(args.device)) as ranks:
            row = measure(args, args.only, ranks)
            if ranks.rank == 0:
                print(json.dumps(row))
        return
    sizes = [_in_process(args, size) for size in (args.small, *args.examples)]
    small, large = sizes[0], sizes[-1]
    row = {"shape": args.shape, "batch": args.batch, "processes": args.processes, "sizes": sizes}
    row["extra_plain"] = large["step_s"] / large["plain_s"] - small["step_s"] / small["plain_s"]
    row["bytes_per_example"] = (large["make_bytes"] - small["make_bytes"]) / (large["examples"] - small["examples"])
    if args.json:
        print(json.dumps(row))
        return
    for name in small:
        print(f"{name:12} " + " ".join(f"{size[name]:>18,.3f}" for size in sizes))
    print(f"extra_plain {row['extra_plain']:.2f}, bytes_per_example {row['bytes_per_example']:.0f}")


def _in_process(args: argparse.Namespace, examples: int) -> dict[str, Any]:
    options = [f"--{name}={getattr(args, name)}" for name in ("shape", "batch", "steps", "device")]
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={args.processes}"]
    launch = [sys.executable, *(several if args.processes > 1 else [])]
    ended = subprocess.run([*launch, __file__, f"--only={examples}", *options], capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(ended.stderr)
    return json.loads(ended.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
