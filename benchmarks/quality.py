"""How faithful circuits are: methods × sizes × seeds on SmolLM2-135M, judged on unseen examples with hard masks.

    python benchmarks/quality.py --out runs/quality [--tasks ioi ioi-t1] [--methods …] [--seeds 0 1 2]
    python benchmarks/quality.py --out runs/quality --write      # the tables and pictures in docs/results

Every circuit, and every circuit's judgement, is a file under `--out`; what is there is not done again, so the study may
be stopped and taken up at will. Everything is chosen on the validation split (attribution's method and sign, per size);
the test split is only judged. Circuits are compared at the same actual size. A folder is taken for done by its name:
after a change of a method's settings, remove it.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _quality_report import SPARSITIES, write
from safetensors.torch import load_file

import edgewise as ew
from edgewise.discovery import _hard_concrete as hard_concrete
from edgewise.discovery._scores import edges_at
from edgewise.evaluation import judge
from edgewise.runs import write_atomically

ATTRIBUTION = {"best attribution": ("eap", "eap-ig", "mask-ig"), "attribution of KL": ("mask-ig, KL",)}
"""Of the logit difference, as the literature has it; and of the very distance that circuits are judged by, which no
gradient at the full model has."""
ATTRIBUTIONS = tuple(name for names in ATTRIBUTION.values() for name in names)
SPLITS = {"train": 2000, "validation": 200, "test": 256}
ATTRIBUTED = 200
"""Training pairs of attribution: five points of mask-path IG over all 2,000 take longer than a ranking."""
STEPS = 900
"""Of a ranking, the default when this study was made."""
IN_TIME = 550
"""Steps of a ranking that is to be done, with all that it prepares, in twenty minutes on two cores."""
SIZE = 0.98
"""Of the methods that find one circuit a run."""

COMPARED = ("ranking", "ranking + polish")
"""Which of these is worth its time is decided on validation."""
SHORT = 300
"""Steps of Edge Pruning with the published settings that cost what a ranking does; its warm-ups are cut likewise."""

Found = tuple[dict[str, ew.Circuit], dict[str, Any]]
"""Circuits by name (sparsity, and for attribution the sign), and what they cost."""


def random_circuits(engine: ew.Engine, task: ew.tasks.Task, seed: int, out: Path) -> Found:
    """Random orders."""
    scores = ew.random_scores(engine, task, seed=seed)
    return {f"{s}": scores.at(s, actual=True) for s in SPARSITIES}, {"examples": 0, "passes": 0}


def attribution(method: Callable[..., ew.Scores], metric: str, passes: int) -> Callable[..., Found]:
    """EAP, EAP-IG or mask-path IG of a metric over the first training pairs, by signed and by absolute score."""

    def find(engine: ew.Engine, task: ew.tasks.Task, seed: int, out: Path) -> Found:
        task = replace(task, train=task.train[:ATTRIBUTED], metric=metric)
        scores = method(engine, task)
        circuits = {
            f"{s} {kind}": scores.at(s, actual=True, absolute=kind == "absolute")
            for s in SPARSITIES
            for kind in ("signed", "absolute")
        }
        return circuits, {"examples": len(task.train), "passes": len(task.train) * passes}

    return find


def ranking(engine: ew.Engine, task: ew.tasks.Task, seed: int, out: Path) -> Found:
    """The learned ranking: one run for all sizes."""
    scores = _ranking(engine, task, seed, out)
    config = ew.RankingConfig(steps=STEPS)
    seen = config.steps * config.batch_size
    seconds = scores.provenance["method"]["seconds"]  # over all parts of a run that was resumed
    cost = {"examples": seen, "passes": seen + 5 * config.warm_examples, "seconds": seconds}
    return {f"{s}": scores.at(s, actual=True) for s in SPARSITIES}, cost


def ranking_in_time(engine: ew.Engine, task: ew.tasks.Task, seed: int, out: Path) -> Found:
    """Fewer steps, with what depends on the pairs alone kept and faster products: twenty minutes on two quiet cores."""
    fast = ew.Engine(engine.model, matmul="medium", cache_bytes=10 * 2**30)
    config = ew.RankingConfig(steps=IN_TIME, seed=seed)
    scores = ew.learn_ranking(fast, task, config, options=ew.RunOptions(out=out))
    seen = config.steps * config.batch_size
    cost = {"examples": seen, "passes": seen + 5 * config.warm_examples}
    return {f"{s}": scores.at(s, actual=True) for s in SPARSITIES}, cost


def polished(engine: ew.Engine, task: ew.tasks.Task, seed: int, out: Path) -> Found:
    """The ranking of the same seed, polished at one size."""
    scores = _ranking(engine, task, seed, out.parent / f"ranking-{seed}")
    settings = ew.RefineConfig(sparsity=SIZE, seed=seed + 1000)
    circuit = ew.refine_at_size(engine, task, settings, start=scores, options=ew.RunOptions(out=out))
    return {str(SIZE): circuit}, _cost(circuit) | {"beside": "the ranking's"}


def pruned(preset: Callable[..., ew.EdgePruningConfig], **settings: Any) -> Callable[..., Found]:
    """Edge Pruning, whose larger batches gain from faster float32 products."""

    def find(engine: ew.Engine, task: ew.tasks.Task, seed: int, out: Path) -> Found:
        config = preset(sparsity=SIZE, seed=seed, **settings)
        fast = ew.Engine(engine.model, matmul="medium", cache_bytes=engine.execution.cache_bytes)
        circuit = ew.edge_pruning(fast, task, config, options=ew.RunOptions(out=out))
        return {str(SIZE): circuit}, _cost(circuit)

    return find


METHODS: dict[str, Callable[..., Found]] = {
    "random": random_circuits,
    "eap": attribution(ew.eap, "logit_diff", 1),
    "eap-ig": attribution(ew.eap_ig, "logit_diff", 5),
    "mask-ig": attribution(ew.mask_ig, "logit_diff", 5),
    "mask-ig, KL": attribution(ew.mask_ig, "kl", 5),
    "ranking": ranking,
    "ranking, 550 steps": ranking_in_time,
    "ranking + polish": polished,
    "edge pruning": pruned(ew.EdgePruningConfig),
    "edge pruning, paper": pruned(ew.EdgePruningConfig.paper),
    "edge pruning, paper in short": pruned(
        ew.EdgePruningConfig.paper, steps=SHORT, lr_warmup=SHORT // 15, sparsity_warmup=SHORT * 5 // 6
    ),
}


def _cost(circuit: ew.Circuit) -> dict[str, Any]:
    method = circuit.provenance["method"]
    return {"examples": method["examples_seen"], "passes": method["examples_seen"], "seconds": method["seconds"]}


def _ranking(engine: ew.Engine, task: ew.tasks.Task, seed: int, out: Path) -> ew.Scores:
    return ew.learn_ranking(engine, task, steps=STEPS, seed=seed, options=ew.RunOptions(out=out))


def find_all(engine: ew.Engine, task: ew.tasks.Task, method: str, seed: int, folder: Path) -> None:
    """Find a method's circuits, unless they are there. A run that was cut short is not taken for a whole one."""
    done = folder / "found.json"
    if done.is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    circuits, cost = METHODS[method](engine, task, seed, folder)
    for circuit in circuits.values():
        record = circuit.provenance["method"]
        if stopped := record.get("stopped") or record.get("start", {}).get("stopped"):
            raise SystemExit(f"{folder}: {stopped}; the same command goes on from there")
    for name, circuit in circuits.items():
        circuit.save(folder / f"{name}.safetensors")
    cost["threads"] = torch.get_num_threads()
    cost.setdefault("seconds", round(time.perf_counter() - start, 1))
    write_atomically(done, json.dumps({"circuits": list(circuits), **cost}) + "\n")


def judge_all(engine: ew.Engine, task: ew.tasks.Task, folder: Path, split: str, names: list[str] | None = None) -> None:
    """Judge circuits on a split, unless they are: one file of KL and logit difference per example each."""
    names = names or list(json.loads((folder / "found.json").read_text())["circuits"])
    missing = [name for name in names if not (folder / f"{name} {split}.json").is_file()]
    if not missing:
        return
    circuits = {name: ew.Circuit.load(folder / f"{name}.safetensors") for name in missing}
    values = judge(engine, circuits, task, split, names=("kl", "logit_diff", "accuracy"))
    for name, circuit in circuits.items():
        row = {"actual": circuit.n_actual, **{metric: x.tolist() for metric, x in values[name].items()}}
        write_atomically(folder / f"{name} {split}.json", json.dumps(row) + "\n")


def match_sizes(engine: ew.Engine, task: ew.tasks.Task, folder: Path, rankings: dict[str, Path]) -> None:
    """Where a run decided its circuit's size itself: judge the rankings at that size beside it, and its own circuit cut
    to the size that was asked for, if it is larger.
    """
    found = ew.Circuit.load(folder / f"{SIZE}.safetensors")
    circuits = {name: _scored(ew.Circuit.load(file)).top_actual(found.n_actual) for name, file in rankings.items()}
    learned = load_file(folder / "checkpoint.safetensors")
    scale = hard_concrete.EVALUATION_FACTOR / hard_concrete.TEMPERATURE  # as in the masks that evaluation has
    edges, writers = (torch.nn.functional.logsigmoid(scale * learned[name]) for name in ("edges", "nodes"))
    product = edges + writers[found.graph.edge_writer.long()]  # a mask is the edge's times its writer's
    ordered = ew.Scores(found.graph, product.where(found.kept, -torch.inf), found.provenance)
    circuits["cut"] = ordered.top_actual(min(found.n_actual, edges_at(found.graph, SIZE)))
    for name, circuit in circuits.items():
        circuit.save(folder / f"{name}.safetensors")
    judge_all(engine, task, folder, "test", list(circuits))


def _scored(circuit: ew.Circuit) -> ew.Scores:
    assert circuit.scores is not None
    return ew.Scores(circuit.graph, circuit.scores, circuit.provenance)


def best_attribution(root: Path, sparsity: float) -> dict[str, tuple[str, Path]]:
    """Of each kind of attribution the method and sign of lowest KL on validation, and its test judgement."""
    best = {}
    for label, methods in ATTRIBUTION.items():
        candidates = {}
        for method, sign in product(methods, ("signed", "absolute")):
            file = root / f"{method}-0" / f"{sparsity} {sign} validation.json"
            if file.is_file():
                candidates[method, sign] = float(np.mean(json.loads(file.read_text())["kl"]))
        if candidates:
            method, sign = min(candidates, key=lambda key: candidates[key])
            best[label] = f"{method}, {sign}", root / f"{method}-0" / f"{sparsity} {sign} test.json"
    return best


def study(args: argparse.Namespace) -> None:
    """Find and judge what is missing."""
    model = ew.load_model("smollm2-135m")
    engine = ew.Engine(model, cache_bytes=int(args.cache * 2**30))
    for name in args.tasks:
        task, root = ew.tasks.TASKS[name](model.tokenizer, **SPLITS, seed=0), args.out / name
        for method in args.methods:
            for seed in args.seeds[:1] if method in ATTRIBUTIONS else args.seeds:
                folder = root / f"{method}-{seed}"
                find_all(engine, task, method, seed, folder)
                if method in ATTRIBUTIONS:
                    judge_all(engine, task, folder, "validation")
                else:
                    judge_all(engine, task, folder, "test")
                    if "paper" in method:
                        rankings = sorted(root.glob(f"ranking-[0-9]/{SIZE}.safetensors"))
                        match_sizes(engine, task, folder, {file.parent.name: file for file in rankings})
                    if method in COMPARED:
                        judge_all(engine, task, folder, "validation", [str(SIZE)])
                print(f"{name} {method} {seed}: done", flush=True)
        for sparsity in SPARSITIES:
            for _, file in best_attribution(root, sparsity).values():
                judge_all(engine, task, file.parent, "test", [file.name.removesuffix(" test.json")])


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--tasks", nargs="+", choices=["ioi", "ioi-t1"], default=["ioi", "ioi-t1"])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=[m for m in METHODS if "paper" not in m])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cache", type=float, default=1.0, help="GiB kept of what depends on the pairs alone")
    parser.add_argument("--write", action="store_true", help="write the tables and the curve into docs/results")
    args = parser.parse_args()
    if args.write:
        write(args.out, args.tasks, best_attribution)
    else:
        study(args)


if __name__ == "__main__":
    main()
