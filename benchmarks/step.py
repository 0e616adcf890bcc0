"""One training step of Edge Pruning, beside a plain forward and backward of the same model on the same batch.

    python benchmarks/step.py --shape gpt2 --batch 32 --length 20 [--memory default|lean] [--matmul highest|medium]
    [--dtype float32|bf16] [--preset default|paper] [--steps 16] [--eap] [--together 64] [--json]
    python benchmarks/step.py --shape smollm2 --ranking docs/results/circuits/ioi-ranking.safetensors [--shared 0.7]
    python benchmarks/step.py --shape gpt2 --growth          # tables over batch, length and layers
    python benchmarks/step.py --shape gpt2 --all             # the cases of compare.py: EAP, ACDC …

`step_s` is the median over a whole schedule shortened to `--steps` (masks from all kept to 2 %), on 64 pairs seen in
turn; `step_mean_s` is the mean, the examples' constants (computed beforehand) included once. `plain_s` is the median of
plain passes made after every step, so that both see the same machine: forward + backward of the user's own module,
SDPA, frozen parameters, gradient to the input embeddings alone, unembedding at the answers alone.

With `--ranking` the steps are a learned ranking's, from the scores of a file (or `start`: from its own attribution),
by its whole schedule of budgets and temperatures shortened to `--steps`. `--shared` is the share of a prompt's tokens
that both prompts of a pair begin with.
"""

import argparse
import json
import statistics
from dataclasses import replace
from typing import Any

import torch
from _cases import CASES, VISITED, case_bytes, case_seconds, random_task
from _measure import beside, peak_tensor_bytes, rss_bytes, seconds
from _shapes import SHAPES, random_weights
from transformers import PretrainedConfig

from edgewise import Circuit
from edgewise.discovery import EdgePruningConfig, RankingConfig, Scores, eap
from edgewise.discovery._edge_pruning import EdgePruningLearner
from edgewise.discovery._learning import GradientLearner
from edgewise.discovery._ranking import RankingLearner
from edgewise.engine import Engine, Execution, _group, footprint
from edgewise.models import Model, load
from edgewise.tasks import Task

SAID = ("shape", "batch", "length", "memory", "matmul", "dtype", "preset", "ranking", "shared")
"""The arguments that a row repeats."""


def plain_step(model: Model, task: Task, batch_size: int):
    """Forward and backward of the user's module, nothing saved that need not be."""
    batch = task.batch("train", range(batch_size)).to(model.device)
    module: Any = model.module
    embed, head = module.get_input_embeddings(), module.lm_head
    full = Engine(model).full(batch).log_softmax(-1)

    def run() -> None:
        x = embed(batch.clean.ids).detach().requires_grad_()
        hidden = module.base_model(inputs_embeds=x, use_cache=False).last_hidden_state[batch.row, batch.position]
        log_probs = head(hidden).log_softmax(-1)
        torch.autograd.grad((full.exp() * (full - log_probs)).sum(-1).mean(), x)

    return run


def floor(model: Model, batch: int, length: int) -> dict[str, float]:
    """What no arrangement of dense fractional masks avoids.

    The operations of plain forward + backward and of three products of masks and stack (mixing, mask gradients,
    writers' gradients), and the bytes of the two stacks, with heads at full width and at their own.
    """
    graph = model.graph()
    full, lean = (footprint(model, graph, batch, length, memory=memory) for memory in ("default", "lean"))
    return {
        "plain_gflop": (full.operations["model forward"] + full.operations["model backward"]) / 1e9,
        "masks_gflop": 3 * full.operations["masks' gradients"] / 1e9,
        "stacks_bytes": full.bytes["stack of differences"] + full.bytes["stack of gradients"],
        "lean_stacks_bytes": lean.bytes["stack of differences"] + lean.bytes["stack of gradients"],
    }


def measure(args: argparse.Namespace, config: PretrainedConfig | None = None) -> dict[str, Any]:
    """One row."""
    dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    model = load(random_weights(config or SHAPES[args.shape](), dtype, args.device))
    execution = Execution(memory=args.memory, matmul=args.matmul, dtype=dtype)
    task = random_task(900, max(64, args.batch), args.length, args.shared)
    plain = plain_step(model, task, args.batch)
    learner_of = _ranking if args.ranking else _edge_pruning

    def begin() -> GradientLearner[Any]:
        learner = learner_of(args, Engine(model, execution=execution), task)
        learner.prepare()
        learner.begin()
        return learner

    def steps(n: int) -> None:
        learner = begin()
        for step in range(n):
            learner.step(step)

    prepare_s, learner = seconds(begin)
    plain()
    times, plain_times = beside(learner.step, plain, args.steps)
    step_s, plain_s = statistics.median(times), statistics.median(plain_times)
    mean_s = (prepare_s + sum(times)) / args.steps
    del learner
    row = {name: getattr(args, name) for name in SAID} | {
        "step_s": step_s,
        "plain_s": plain_s,
        "ratio": step_s / plain_s,
        "step_mean_s": mean_s,
        "ratio_mean": mean_s / plain_s,
        "rss_bytes": rss_bytes(),
        "tensor_bytes_above_weights": peak_tensor_bytes(lambda: steps(3)),
        "planned_bytes_above_weights": footprint(
            model, model.graph(), args.batch, args.length, execution=execution, examples=len(task.train)
        ).bytes_above_weights,
        "floor": floor(model, args.batch, args.length),
        "threads": torch.get_num_threads(),
    }
    if args.eap:
        single = replace(task, train=task.train[: args.batch])

        def attribute(_: int) -> None:
            eap(Engine(model, execution=execution), single, batch_size=args.batch)

        row["eap_s"], eap_plain_s = map(statistics.median, beside(attribute, plain, args.repeats))
        row["eap_ratio"] = row["eap_s"] / eap_plain_s
    return row


def _edge_pruning(args: argparse.Namespace, engine: Engine, task: Task) -> EdgePruningLearner:
    preset = EdgePruningConfig.paper() if args.preset == "paper" else EdgePruningConfig()
    changes = {"steps": args.steps, "sparsity_warmup": int(args.steps * 0.7), "lr_warmup": 1, "batch_size": args.batch}
    changes |= {"initial": 2.0} if args.preset == "paper" else {}  # at 10 no mask would move in so few steps
    return EdgePruningLearner(engine, task, replace(preset, **changes))


def _ranking(args: argparse.Namespace, engine: Engine, task: Task) -> RankingLearner:
    start = None if args.ranking == "start" else Scores.of(Circuit.load(args.ranking))
    return RankingLearner(engine, task, RankingConfig(steps=args.steps, batch_size=args.batch), start)


def growth(args: argparse.Namespace) -> list[dict[str, Any]]:
    """How a step grows with batch, length and layers, one at a time."""
    rows = []
    for name, values in (("batch", (8, 16, 32, 64)), ("length", (10, 20, 40, 80)), ("layers", (3, 6, 12, 24))):
        for value in values:
            config = SHAPES[args.shape]()
            if name == "layers":
                config.num_hidden_layers = value
            sizes = {"batch": 16, "length": 20} | ({} if name == "layers" else {name: value})
            row = measure(argparse.Namespace(**(vars(args) | sizes)), config)
            rows.append({"grows": name, "layers": config.num_hidden_layers, **row})
    return rows


def all_cases(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The shape's cases: steps of both batches and memories, EAP, EAP-IG, and a visit of ACDC (`_cases.py`)."""
    rows = []
    for name, case in CASES.items():
        if case.shape == args.shape:
            times = [case_seconds(name, args.steps).seconds for _ in range(args.repeats)]
            row = {"case": name, "s": statistics.median(times), "bytes": case_bytes(name)}
            rows.append(row | ({"visits": 2 * VISITED} if case.kind == "acdc" else {}))
    return rows


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="gpt2")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5, help="of EAP and of --all")
    parser.add_argument("--memory", choices=["default", "lean"], default="default")
    parser.add_argument("--matmul", choices=["highest", "high", "medium"], default="highest")
    parser.add_argument("--dtype", choices=["float32", "bf16"], default="float32", help="of both sides")
    parser.add_argument("--preset", choices=["default", "paper"], default="default")
    parser.add_argument("--ranking", help="a circuit with scores, or start: steps of a ranking")
    parser.add_argument("--shared", type=float, default=0.0, help="share of its tokens that a pair begins with alike")
    parser.add_argument("--eap", action="store_true", help="also EAP over one batch")
    parser.add_argument("--growth", action="store_true", help="tables over batch, length and layers instead")
    parser.add_argument("--all", action="store_true", help="the shape's cases of compare.py instead")
    parser.add_argument("--together", type=int, help="readers that layers are read together for (1: each layer alone)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.together is not None:
        _group.ROWS = args.together
    rows = growth(args) if args.growth else all_cases(args) if args.all else [measure(args)]
    if args.json:
        print("\n".join(json.dumps(row) for row in rows))
    elif args.growth:
        print(f"{'grows':8} {'batch':>6} {'length':>7} {'layers':>7} {'step s':>8} {'ratio':>6} {'GB':>6}")
        for row in rows:
            sizes = f"{row['grows']:8} {row['batch']:6} {row['length']:7} {row['layers']:7}"
            print(f"{sizes} {row['step_s']:8.3f} {row['ratio']:6.2f} {row['tensor_bytes_above_weights'] / 1e9:6.3f}")
    elif args.all:
        print("\n".join(f"{row['case']:24} {row['s']:10.4g} s {row['bytes'] / 1e6:10,.1f} MB" for row in rows))
    else:
        print("\n".join(f"{name:28} {value}" for name, value in rows[0].items()))


if __name__ == "__main__":
    main()
