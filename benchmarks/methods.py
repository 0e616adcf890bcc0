"""What a visit of ACDC costs against one plain forward, and five points of EAP-IG against one EAP.

    python benchmarks/methods.py --threads 1
    python benchmarks/methods.py --threads 1 --repeats 0 --visits 0 --thresholds 0.05 --seconds 200 --state runs/whole

The default model on `ioi`, 16 pairs. ACDC begins at the logits, where a visit runs little of the model, so that its
first visits are its cheapest: the table says how far it came, and the second command goes to the end, in as many calls
as it takes. Plain forwards are timed in between, so that both meet the same machine; a visit's time includes the runs
on which a guess proved wrong, and the table counts the candidates that ran.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from _measure import seconds

import edgewise as ew
from edgewise.discovery._acdc import AcdcLearner
from edgewise.discovery._search import Search
from edgewise.tasks import loss_function

PLAIN_EVERY = 5.0
"""Seconds of ACDC between two plain forwards."""


class Counting(Search):
    """A search that counts its candidates."""

    judged = 0

    def judge(self, writers: list[int], removed: torch.Tensor) -> torch.Tensor:
        """As it is, counted."""
        self.judged += len(removed)
        return super().judge(writers, removed)


def plain_forward(engine: ew.Engine, batch: Any) -> float:
    """Seconds of the user's own module on the pairs' clean prompts, unembedding at the answers alone."""
    fresh = ew.Engine(engine.model, cache_bytes=0)  # that has not seen the batch
    with torch.no_grad():
        return seconds(lambda: fresh.full(batch))[0]


def acdc(engine: ew.Engine, task: ew.tasks.Task, threshold: float, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds per visit over a threshold's first visits, or all."""
    batch, n_readers = task.batch("train", range(args.pairs)), engine.graph.n_readers
    search = Counting(engine, task, ew.AcdcConfig(pairs=None), loss_function("kl"))
    learner = AcdcLearner(search, [threshold], False, "descending", 0)
    spent, _ = seconds(learner.prepare)
    learner.begin()
    step, plain = 0, [plain_forward(engine, batch) for _ in range(3)][1:]
    state = Path(args.state) if args.state else None
    if state and state.exists():
        step, spent, plain, search.judged, tensors = torch.load(state)
        learner.restore(tensors)
    start = last = time.perf_counter()
    while step < n_readers and (not args.visits or int(learner.visits[0]) < args.visits):
        if args.seconds and time.perf_counter() - start > args.seconds:
            break
        spent += seconds(lambda: learner.step(step))[0]  # noqa: B023 (called at once)
        step += 1
        if time.perf_counter() - last > PLAIN_EVERY:
            plain.append(plain_forward(engine, batch))
            last = time.perf_counter()
    if state:
        state.parent.mkdir(parents=True, exist_ok=True)
        torch.save((step, spent, plain, search.judged, learner.tensors()), state)
    n, forward = int(learner.visits[0]), statistics.median(plain)
    return {
        "threshold": threshold,
        "visits": n,
        "candidates": search.judged,
        "readers_done": f"{step} of {n_readers}",
        "edges_kept": int(learner.kept.sum()),
        "kl": float(learner.current[0]),
        "s": spent,
        "plain_forward_s": forward,
        "ms_per_visit": 1000 * spent / n,
        "forwards_per_visit": spent / n / forward,
        "times_faster": forward * n / spent,
    }


def attribution(model: ew.Model, task: ew.tasks.Task, repeats: int) -> dict[str, float]:
    """Median seconds of EAP and of EAP-IG with five points, taken in turn, each from nothing."""
    n = len(task.train)
    rows = [
        (
            seconds(lambda: ew.eap(ew.Engine(model), task, batch_size=n))[0],
            seconds(lambda: ew.eap_ig(ew.Engine(model), task, points=5, batch_size=n))[0],
            seconds(lambda: ew.relevance(ew.Engine(model), task, batch_size=n))[0],
        )
        for _ in range(repeats + 1)
    ][1:]
    eap_s, ig_s, relevance_s = (statistics.median(column) for column in zip(*rows, strict=True))
    ratio = statistics.median(ig / eap for eap, ig, _ in rows)
    return {"eap_s": eap_s, "eap_ig_5_s": ig_s, "relevance_s": relevance_s, "eap_ig_5_of_eap": ratio}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--visits", type=int, default=2000, help="per threshold; 0 for all")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.0005, 0.005, 0.05])
    parser.add_argument("--seconds", type=float, default=0, help="stop a threshold after so long; 0 for no limit")
    parser.add_argument("--state", help="one threshold: go on from this file, and write it")
    parser.add_argument("--repeats", type=int, default=3, help="of attribution; 0 to leave it out")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.state and len(args.thresholds) > 1:
        parser.error("--state: give one threshold")
    if args.threads:
        torch.set_num_threads(args.threads)
    model = ew.load_model(args.model)
    task = ew.tasks.ioi(model.tokenizer, train=args.pairs, validation=1, test=1, seed=0)
    engine = ew.Engine(model)
    tokens = int(task.batch("train", range(args.pairs)).clean.mask.sum())
    result: dict[str, Any] = {"pairs": args.pairs, "tokens": tokens, "threads": torch.get_num_threads()}
    if args.repeats:
        result |= attribution(model, task, args.repeats)
    result["acdc"] = [acdc(engine, task, threshold, args) for threshold in args.thresholds]
    if args.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        if name != "acdc":
            print(f"{name:20} {value}")
    columns = list(result["acdc"][0])
    print("  ".join(columns))
    for row in result["acdc"]:
        values = (f"{v:.4g}" if isinstance(v, float) else v for v in row.values())
        print("  ".join(f"{value!s:>{len(name)}}" for name, value in zip(columns, values, strict=True)))


if __name__ == "__main__":
    main()
