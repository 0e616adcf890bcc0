"""What a visit of ACDC costs against one plain forward, and five points of EAP-IG against one EAP.

    python benchmarks/methods.py
    python benchmarks/methods.py --visits 0      # ACDC to its end, at all thresholds

The default model on `ioi`, 16 pairs. ACDC begins at the logits, where a visit runs little of the model, so that its
first visits are its cheapest: the table says how far it came. Its time includes the runs on which a guess proved wrong.
"""

import argparse
import json
import statistics
from typing import Any

import torch
from _measure import seconds

import edgewise as ew
from edgewise.discovery._acdc import AcdcLearner
from edgewise.discovery._search import Search
from edgewise.tasks import loss_function


def plain_forward(engine: ew.Engine, batch: Any) -> float:
    """Median seconds of the user's own module on the pairs' clean prompts, unembedding at the answers alone."""

    @torch.no_grad()
    def run() -> None:
        ew.Engine(engine.model, cache_bytes=0).full(batch)

    run()
    return statistics.median(seconds(run)[0] for _ in range(5))


def acdc(engine: ew.Engine, task: ew.tasks.Task, thresholds: list[float], visits: int, plain: float) -> list[dict]:
    """One row per threshold: seconds per visit over its first visits (all if 0)."""
    rows = []
    for threshold in thresholds:
        search = Search(engine, task, "train", len(task.train), 16, loss_function("kl"))
        learner = AcdcLearner(search, [threshold], False, "descending", 0)

        def run(learner: AcdcLearner = learner) -> int:
            learner.prepare()
            learner.begin()
            step, last = 0, engine.graph.n_readers
            while step < last and (not visits or int(learner.visits[0]) < visits):
                learner.step(step)
                step += 1
            return step

        taken, readers = seconds(run)
        n = int(learner.visits[0])
        rows.append(
            {
                "threshold": threshold,
                "visits": n,
                "readers_done": f"{readers} of {engine.graph.n_readers}",
                "edges_kept": int(learner.kept.sum()),
                "s": taken,
                "ms_per_visit": 1000 * taken / n,
                "plain_forwards_per_visit": taken / n / plain,
                "times_faster": plain * n / taken,
            }
        )
    return rows


def attribution(model: ew.Model, task: ew.tasks.Task, repeats: int) -> dict[str, float]:
    """Median seconds of EAP and of EAP-IG with five points, taken in turn, each from nothing."""
    n = len(task.train)
    pairs = [
        (
            seconds(lambda: ew.eap(ew.Engine(model), task, batch_size=n))[0],
            seconds(lambda: ew.eap_ig(ew.Engine(model), task, points=5, batch_size=n))[0],
            seconds(lambda: ew.relevance(ew.Engine(model), task, batch_size=n))[0],
        )
        for _ in range(repeats + 1)
    ][1:]
    eap_s, ig_s, relevance_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"eap_s": eap_s, "eap_ig_5_s": ig_s, "relevance_s": relevance_s, "eap_ig_5_of_eap": ig_s / eap_s}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--visits", type=int, default=2000, help="per threshold; 0 for all")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.0005, 0.005, 0.05])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    model = ew.load_model(args.model)
    task = ew.tasks.ioi(model.tokenizer, train=args.pairs, validation=1, test=1, seed=0)
    engine = ew.Engine(model)
    batch = task.batch("train", range(args.pairs))
    plain = plain_forward(engine, batch)
    result = {
        "pairs": args.pairs,
        "tokens": int(batch.clean.mask.sum()),
        "threads": torch.get_num_threads(),
        "plain_forward_s": plain,
        **attribution(model, task, args.repeats),
        "acdc": acdc(engine, task, args.thresholds, args.visits, plain),
    }
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
