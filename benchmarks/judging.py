"""What judging a circuit with all its baselines costs, beside what cannot be avoided (docs/performance.md).

    python benchmarks/judging.py [CIRCUIT] [--test 256] [--rounds 3] [--json]

*Floor*: the full model's pass over the clean and over the corrupted prompts of the test split, and four circuits:
this one, a random one, EAP's and the empty one, EAP's scores at hand. *Evaluate*: `edgewise.evaluate` with its default
baselines, which also scores EAP, chooses its sign on validation, and draws three random circuits, which take the
examples in turn. Both are timed in turn, in seconds and in the processor's.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _cases import Spent, now, shared

import edgewise as ew
from edgewise.circuit import empty_circuit
from edgewise.discovery import uniform_scores
from edgewise.evaluation import judge

CIRCUIT = Path(__file__).parents[1] / "docs" / "results" / "circuits" / "ioi-ranking.safetensors"


def spent(run: Callable[[], Any]) -> Spent:
    """What a call takes."""
    since = now()
    run()
    return shared(since, now(), 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("circuit", type=Path, nargs="?", default=CIRCUIT)
    parser.add_argument("--test", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    circuit, model = ew.Circuit.load(args.circuit), ew.load_model("smollm2-135m")
    task = ew.tasks.TASKS["ioi"](model.tokenizer, test=args.test, seed=0)
    engine = ew.Engine(model, circuit.graph)
    scores = ew.eap(engine, task, batch_size=32)
    four = {
        "circuit": circuit,
        "random": uniform_scores(engine.graph, 0, engine.ablation.kind).top_actual(circuit.n_actual),
        "eap": scores.top_actual(circuit.n_actual, absolute=True),
        "empty": empty_circuit(circuit),
    }
    rounds = [
        (*spent(lambda: judge(engine, four, task, "test")), *spent(lambda: ew.evaluate(engine, circuit, task)))
        for _ in range(args.rounds)
    ]
    floor_s, floor_cpu, s, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
    row = {"test": args.test, "floor_s": floor_s, "evaluate_s": s, "ratio": s / floor_s}
    row |= {"floor_cpu_s": floor_cpu, "evaluate_cpu_s": cpu, "cpu_ratio": cpu / floor_cpu}
    print(json.dumps(row) if args.json else "\n".join(f"{name:16} {value:.4g}" for name, value in row.items()))


if __name__ == "__main__":
    main()
