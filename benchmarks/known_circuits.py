"""Known circuits: every program of Tracr's library, its true edges computed, every method's circuit held against them.

    python benchmarks/known_circuits.py --out runs/tracr [--programs reverse …] [--methods ranking …] [--seeds 10 11 12]
    python benchmarks/known_circuits.py --out runs/tracr --write      # the table and pictures in docs/results

Needs the extra `tracr`, but for the two programs that come with the package. Each model, truth and run is a file under
`--out`; what is there is not done again. All methods have one setting for all programs, except the published ones of
Edge Pruning, which are two.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from _known_circuits_report import write

import edgewise as ew
from edgewise import tracr
from edgewise.models import SHIPPED, save_compiled
from edgewise.runs import write_atomically
from edgewise.tracr import Agreement, Truth, compare, smallest_agreeing

ABLATIONS = ("zero", "interchange")
TRAIN = 200
ACDC_THRESHOLD = 1e-4
SEEDS = (10, 11, 12)
MANY_SEEDS = tuple(range(10, 20))
"""For the two programs of the paper."""
# `erazr_reverse.sh` and `erazr_xproportion.sh` of the official code; what they share with IOI's settings is in `paper`.
PUBLISHED: dict[str, dict[str, Any]] = {
    "reverse": {
        "sparsity": 1.02,
        "steps": 6000,
        "learning_rate": 0.03,
        "lambda_rate": 0.001,
        "lr_warmup": 1500,
        "sparsity_warmup": 5900,
        "batch_size": 16,
    },
    "xproportion": {
        "sparsity": 0.92,
        "node_sparsity": 0.4,
        "steps": 720,
        "learning_rate": 1.0,
        "lambda_rate": 1e-4,
        "lr_warmup": 96,
        "sparsity_warmup": 640,
        "batch_size": 16,
    },
}

Found = tuple[ew.Circuit, bool]
"""A circuit, and whether its edges are ranked by absolute score."""


def _quiet() -> ew.RunOptions:
    return ew.RunOptions(progress=False)


def ranking(engine: ew.Engine, task: ew.tasks.Task, agreement: Agreement, seed: int) -> Found:
    return smallest_agreeing(tracr.rank_program(engine, task, agreement, seed=seed, options=_quiet()), agreement), False


def pruning(engine: ew.Engine, task: ew.tasks.Task, agreement: Agreement, seed: int) -> Found:
    return smallest_agreeing(tracr.prune_program(engine, task, seed=seed, options=_quiet()), agreement), False


def pruning_as_published(engine: ew.Engine, task: ew.tasks.Task, agreement: Agreement, seed: int) -> Found:
    """The masks' own circuit, under the loss L2."""
    settings = PUBLISHED.get(task.name, PUBLISHED["xproportion"])
    return ew.edge_pruning(engine, task, ew.EdgePruningConfig.paper(seed=seed, **settings), options=_quiet()), False


def eap(engine: ew.Engine, task: ew.tasks.Task, agreement: Agreement, seed: int) -> Found:
    scores = ew.eap(engine, replace(task, metric=task.explained))
    return smallest_agreeing(scores, agreement, absolute=True), True


def mask_ig(engine: ew.Engine, task: ew.tasks.Task, agreement: Agreement, seed: int) -> Found:
    return smallest_agreeing(ew.mask_ig(engine, task), agreement, absolute=True), True


def eap_ig(engine: ew.Engine, task: ew.tasks.Task, agreement: Agreement, seed: int) -> Found:
    return smallest_agreeing(ew.eap_ig(engine, replace(task, metric=task.explained)), agreement, absolute=True), True


def exact(engine: ew.Engine, task: ew.tasks.Task, agreement: Agreement, seed: int) -> Found:
    """Of the loss, which an edge that is needed raises when it is cut, in whichever direction outputs then move."""
    scores = ew.exact_patching(engine, replace(task, metric=task.loss), pairs=TRAIN, options=_quiet())
    return smallest_agreeing(scores, agreement, absolute=True), True


def acdc(engine: ew.Engine, task: ew.tasks.Task, agreement: Agreement, seed: int) -> Found:
    """The circuit as it comes, at a threshold below any change that an output shows."""
    return ew.acdc(engine, task, threshold=ACDC_THRESHOLD, pairs=TRAIN, options=_quiet()).pruned(), False


def at_random(engine: ew.Engine, task: ew.tasks.Task, agreement: Agreement, seed: int) -> Found:
    return smallest_agreeing(ew.random_scores(engine, task, seed=seed), agreement), False


ELIMINATED = " + elimination"
CONTROLLED = 400
"""Elimination from a random order is run on graphs of fewer edges; the largest take ten minutes a seed."""
METHODS: dict[str, Callable[[ew.Engine, ew.tasks.Task, Agreement, int], Found]] = {
    "ranking": ranking,
    "edge pruning": pruning,
    "edge pruning, published": pruning_as_published,
    "acdc": acdc,
    "exact": exact,
    "eap-ig": eap_ig,
    "mask-ig": mask_ig,
    "eap": eap,
    "random": at_random,
}


def model_of(name: str, out: Path) -> ew.Model:
    """The compiled program, from its file if it has one."""
    shipped = f"tracr:{name}"
    if shipped in SHIPPED:
        return ew.load_model(shipped)
    path = out / "models" / f"{name}.safetensors"
    if not path.is_file():
        save_compiled(tracr.compile_library(name), path)
    return ew.load_model(path)


def _program(model: ew.Model) -> Any:
    """The program that a model was compiled from, which its module keeps."""
    return model.module.program


def truth_of(engine: ew.Engine, output: Any, out: Path) -> Truth:
    """The truth, from its file if it has one."""
    name, embeddings = _program(engine.model).name, engine.graph.spec.embeddings
    path = out / "truth" / f"{name}-{engine.ablation.kind}-{embeddings}-{output}.json"
    if not path.is_file():
        start = time.monotonic()
        tracr.find_truth(engine, output).save(path)
        print(f"{path.stem}: truth in {time.monotonic() - start:.0f} s", flush=True)
    return Truth.load(path)


def study(name: str, methods: list[str], seeds: list[int] | None, out: Path) -> None:
    """All runs of a program."""
    model = model_of(name, out)
    for ablation in ABLATIONS:
        engine = ew.Engine(model, model.graph("joint"), ew.Ablation(ablation))
        truth = truth_of(engine, "decoded", out)
        agreement = Agreement(engine)
        for method in methods:
            for seed in seeds or (MANY_SEEDS if f"tracr:{name}" in SHIPPED else SEEDS):
                run(engine, agreement, truth, method, seed, out / "runs")


def other_truths(name: str, out: Path) -> None:
    """What is true where raw outputs must be equal, or where token and position embeddings are apart."""
    model = model_of(name, out)
    outputs = ("decoded",) if _program(model).outputs is None else ("decoded", "raw")
    for ablation in ABLATIONS:
        for embeddings in ("joint", "split"):
            for output in outputs:
                truth_of(ew.Engine(model, model.graph(embeddings), ew.Ablation(ablation)), output, out)


def run(engine: ew.Engine, agreement: Agreement, truth: Truth, method: str, seed: int, out: Path) -> None:
    """One method, once: its circuit beside the truth, and for a ranking also what elimination leaves of it."""
    path = out / f"{truth.program}-{truth.ablation}-{method.replace(' ', '_')}-{seed}.json"
    if path.is_file():
        return
    task = ew.tasks.program(engine.model.tokenizer, train=TRAIN, seed=seed)
    start = time.monotonic()
    circuit, absolute = METHODS[method](engine, task, agreement, seed)
    rows = [_row(circuit, truth, agreement, method, seed, time.monotonic() - start, absolute)]
    # From a random order too, to tell what elimination owes to the ranking; its many steps take long in large graphs.
    if method == "ranking" or (method == "random" and engine.graph.n_edges < CONTROLLED):
        left = tracr.eliminate(circuit, agreement)
        rows.append(_row(left, truth, agreement, method + ELIMINATED, seed, time.monotonic() - start, absolute))
    circuit.save(path.with_suffix(".safetensors"))
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))


def _row(
    circuit: ew.Circuit, truth: Truth, agreement: Agreement, method: str, seed: int, seconds: float, absolute: bool
) -> dict[str, Any]:
    found = compare(circuit, truth, absolute=absolute)
    row = {"program": truth.program, "ablation": truth.ablation, "method": method, "seed": seed}
    row |= {"seconds": round(seconds, 1), "edges": circuit.n_actual, "agrees": agreement.share(circuit.kept)}
    said = "exact" if found.exact else f"{len(found.missing)} missing, {len(found.extra)} extra"
    print(f"{truth.program} {truth.ablation} {method} {seed}: {said} ({seconds:.0f} s)", flush=True)
    return row | asdict(found) | {"settings": circuit.provenance["method"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--programs", nargs="*", choices=list(tracr.LIBRARY), default=list(tracr.LIBRARY))
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="*", type=int)
    parser.add_argument("--write", action="store_true", help="write docs/results/tracr.md and its pictures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.write:
        write(arguments.out)
        return
    for name in arguments.programs:
        study(name, arguments.methods, arguments.seeds, arguments.out)
    for name in arguments.programs:
        other_truths(name, arguments.out)


if __name__ == "__main__":
    main()
