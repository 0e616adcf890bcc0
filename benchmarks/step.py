"""One training step of Edge Pruning, beside a plain forward and backward of the same model on the same batch.

    python benchmarks/step.py --shape gpt2 --batch 32 --length 20 [--memory default|lean] [--steps 16] [--dense]
    [--json]

`step_s` is the median over a whole schedule shortened to `--steps` (masks from all kept to 2 %), on 64 pairs seen in
turn, the examples' constants computed on the way and cached. `plain_s` is forward + backward of the user's own module:
SDPA, frozen parameters, gradient to the input embeddings alone, unembedding at the answers alone. `dense_*` is
`_dense.py`.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace

import torch
from _dense import dense_logits
from _measure import median_seconds, peak_tensor_bytes, rss_bytes
from _shapes import SHAPES, random_weights

from edgewise.discovery import EdgePruningConfig, eap
from edgewise.discovery._edge_pruning import EdgePruningLearner
from edgewise.engine import Engine
from edgewise.engine._packing import pack
from edgewise.engine._writes import trace
from edgewise.models import Model, load
from edgewise.tasks import Pair, Target, Task


def random_task(vocabulary: int, n: int, length: int) -> Task:
    """Pairs of random tokens, judged at the last one."""
    ids = torch.randint(vocabulary, (n, 2, length), generator=torch.Generator().manual_seed(0)).tolist()
    target = (Target(length - 1, (1,), (2,)),)
    pairs = [Pair(tuple(clean), tuple(corrupted), target, "", "") for clean, corrupted in ids]
    return Task("random", pairs, pairs[:1], pairs[:1])


def plain_step(model: Model, task: Task, batch_size: int):
    """Forward and backward of the user's module, nothing saved that need not be."""
    batch = task.batch("train", range(batch_size)).to(model.device)
    embed, head = model.module.get_input_embeddings(), model.module.lm_head
    full = Engine(model).full(batch).log_softmax(-1)

    def run() -> None:
        x = embed(batch.clean.ids).detach().requires_grad_()
        hidden = model.module.base_model(inputs_embeds=x, use_cache=False).last_hidden_state[batch.row, batch.position]
        log_probs = head(hidden).log_softmax(-1)
        torch.autograd.grad((full.exp() * (full - log_probs)).sum(-1).mean(), x)

    return run


def dense_step(model: Model, task: Task, batch_size: int):
    """A step of the straightforward formulation, its corrupted run and reference included as constants."""
    engine = Engine(model)
    batch = task.batch("train", range(batch_size)).to(model.device)
    packing = pack(batch.clean)
    ablated = trace(model.parts, engine.graph, pack(batch.corrupted))
    full, targets = engine.full(batch).log_softmax(-1), packing.where(batch.row, batch.position)
    mask = torch.rand(engine.graph.n_edges, device=model.device, requires_grad=True)

    def run() -> None:
        logits = dense_logits(model.parts, engine.graph, packing, mask, ablated, targets).log_softmax(-1)
        torch.autograd.grad((full.exp() * (full - logits)).sum(-1).mean(), mask)

    return run


def floor(model: Model, batch: int, length: int) -> dict[str, float]:
    """Operations that no arrangement avoids with dense fractional masks: plain forward + backward, and three products
    of masks and stack (mixing, mask gradients, writers' gradients); and the bytes of the two stacks."""
    graph, parts, tokens = Engine(model).graph, model.parts, batch * length
    linear = sum(
        sum(x.weight.numel() for x in (layer.attention.query, layer.attention.key, layer.attention.value))
        + layer.attention.output.numel()
        + layer.mlp.up.numel()
        + layer.mlp.down.numel()
        + (0 if layer.mlp.gate is None else layer.mlp.gate.numel())
        for layer in parts.layers
    )
    plain = 2 * 2 * linear * tokens
    return {
        "plain_gflop": plain / 1e9,
        "masks_gflop": 3 * 2 * graph.n_edges * tokens * parts.d_model / 1e9,
        "stacks_bytes": 2 * 4 * graph.n_writers * tokens * parts.d_model,
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="gpt2")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--dense", action="store_true", help="also measure the straightforward formulation (slow, large)"
    )
    parser.add_argument("--memory", choices=["default", "lean"], default="default")
    parser.add_argument("--eap", action="store_true", help="also measure EAP over one batch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()

    model = load(random_weights(args.shape, device=args.device))
    task = random_task(900, max(64, args.batch), args.length)
    plain = plain_step(model, task, args.batch)
    plain_s = median_seconds(plain, args.repeats)
    config = replace(
        EdgePruningConfig(), steps=args.steps, sparsity_warmup=int(args.steps * 0.7), lr_warmup=1, batch_size=args.batch
    )
    times: list[float] = []

    def schedule(n_steps: int) -> None:
        learner = EdgePruningLearner(Engine(model, memory=args.memory), task, config)
        learner.prepare()
        for step in range(n_steps):
            start = time.perf_counter()
            learner.step(step)
            if args.device != "cpu":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)

    schedule(args.steps)
    plain_again = median_seconds(plain, args.repeats)
    plain_s = statistics.median([plain_s, plain_again])
    step_s, mean_s = statistics.median(times), statistics.mean(times)
    row = {
        "shape": args.shape,
        "batch": args.batch,
        "length": args.length,
        "memory": args.memory,
        "step_s": step_s,
        "step_mean_s": mean_s,
        "first_steps_s": times[:3],
        "plain_s": plain_s,
        "ratio": step_s / plain_s,
        "ratio_mean": mean_s / plain_s,
        "tensor_bytes_above_weights": peak_tensor_bytes(lambda: schedule(3)),
        "rss_bytes": rss_bytes(),
        "floor": floor(model, args.batch, args.length),
        "threads": torch.get_num_threads(),
    }
    if args.eap:
        single = replace(task, train=task.train[: args.batch])
        row["eap_s"] = median_seconds(lambda: eap(Engine(model), single, batch_size=args.batch), args.repeats)
        row["eap_ratio"] = row["eap_s"] / plain_s
    if args.dense:
        dense = dense_step(model, task, args.batch)
        row["dense_step_s"] = median_seconds(dense, 1, warmup=0)
        row["dense_bytes"] = peak_tensor_bytes(dense)
    print(json.dumps(row) if args.json else "\n".join(f"{name:28} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
