"""Circuits of features, of neurons and of components: edges and nodes against KL on unseen templates.

    python benchmarks/feature_circuits.py --out runs/feature-circuits --transcoders runs/set
    python benchmarks/feature_circuits.py --out runs/coder --model FILE.gguf --nodes components,neurons
    python benchmarks/feature_circuits.py --write          # docs/results/feature-circuits.md and .json
    python benchmarks/feature_circuits.py --try              # a few minutes, tiny sizes, in a folder `try` under --out

For each task, kind of nodes, method and seed: find scores on the training pairs, take circuits of the same numbers of
actual edges, and judge them on the test split, whose templates are in no other: KL, the behaviour, and both without the
circuit. Methods are the learned ranking (and the joint one), first-order selection (EAP, as FAP has it), the merged
attribution graph of the same nodes, and random edges; candidates are of the largest first-order effects, or random
(`random-neurons`, `random-features`), and their cost stands in the circuits. What is done is not done again; the
command may be stopped, and goes on. Cells that were found with other settings end it. (A cell whose file is taken out
of `cells/` is judged again, by the scores that it had.)
"""

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import _feature_circuits_report as report
import torch
from _page import held_to, model_name

import edgewise as ew
from edgewise.evaluation import both_curves
from edgewise.graph import ERROR, FEATURE, FEATURE_IN, NEURON, NEURON_IN
from edgewise.runs import RunOptions, uniform, write_atomically

TASKS = ("ioi", "greater-than", "capital-country")
NODES = ("components", "neurons", "features", "features-only", "random-neurons", "random-features")
"""`features-only`: error terms write their ablated value, so that of an MLP nothing is left but its features."""
METHODS = {
    "ranking": ("ranking", {}, True),
    "ranking of small circuits": ("ranking", {"smallest": 2e-4}, True),
    "joint": ("ranking", {"joint": 0.5}, True),
    "first order": ("eap", {}, False),
    "attribution graph": ("attribution-graph", {}, False),
    "random": ("random", {}, True),
}
"""By name: the catalogue's, settings, and whether it has seeds."""
LARGE = ("ranking of small circuits",)
"""Methods for `features-only` alone: with 64 features a layer a ranking's smallest budget, 0.4 %, is 1,727 edges."""
EDGES = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
"""Sizes in actual edges, the same for all kinds of nodes, whose graphs differ in size."""
CHECKED_IN = tuple(("smollm2-135m", "greater-than", nodes, "ranking", 0) for nodes in ("components", "neurons"))
"""Cells whose circuit of 1,000 edges stands in the repository: anybody can judge it, for it needs no transcoders."""


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    pairs: tuple[int, int, int] = (200, 64, 128)
    """Of training, validation and test."""
    per_layer: int = 32
    """Candidates of each layer."""
    steps: int = 300
    """Of a ranking."""
    seeds: tuple[int, ...] = (0, 1, 2)
    edges: tuple[int, ...] = EDGES
    prompts: int = 16
    """Attribution graphs that are merged."""
    rows: int = 500
    """Rows of each."""
    tasks: tuple[str, ...] = TASKS


TRY = Size((16, 8, 8), 2, 4, (0,), (200, 1000), 2, 20, ("ioi",))


@dataclass(frozen=True)
class Cell:
    """One thing to find and judge."""

    task: str
    nodes: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.task} · {self.nodes} · {self.method} · {self.seed}"


def settings_of(cell: Cell, size: Size, args: argparse.Namespace) -> dict[str, Any]:
    """What a cell's figures depend on beside its name."""
    used = {"ranking": ("steps",), "attribution-graph": ("prompts", "rows")}.get(METHODS[cell.method][0], ())
    found: dict[str, Any] = {name: getattr(size, name) for name in ("pairs", "edges", *used)}
    if cell.nodes != "components":
        found["per_layer"] = size.per_layer
    if "features" in cell.nodes:
        found["transcoders"] = Path(args.transcoders).name
        found["error"] = "corrupted" if cell.nodes == "features-only" else args.error
    return found | {"model": model_name(args.model)}


def waiting(wanted: list[Cell], size: Size, args: argparse.Namespace) -> list[Cell]:
    """The cells that are not done. Ends the command where one is there with other settings."""
    files = {cell: args.out / "cells" / f"{cell.name}.json" for cell in wanted}
    for cell, file in files.items():
        if file.is_file():
            row = json.loads(file.read_text())
            held_to(file, row.get("size", {}) | row.get("settings", {}) | row, settings_of(cell, size, args))
    return [cell for cell, file in files.items() if not file.is_file()]


def cells(size: Size, nodes: tuple[str, ...], tasks: tuple[str, ...]) -> Iterator[Cell]:
    """All of the study; random candidates are ranked by the learned ranking alone."""
    for task in tasks:
        for kind in nodes:
            for method, (_, _, seeded) in METHODS.items():
                if method != "ranking" and (kind.startswith("random") or (method in LARGE and kind != "features-only")):
                    continue
                for seed in size.seeds if seeded else size.seeds[:1]:
                    yield Cell(task, kind, method, seed)


def graph_of(
    model: ew.Model, task: ew.tasks.Task, cell: Cell, size: Size, transcoders: list[Any], error: Any
) -> tuple[ew.graph.Graph, dict[str, Any]]:
    """The graph of a kind of nodes, and how its candidates were chosen."""
    if cell.nodes == "components":
        return model.graph(), {}
    drawn = cell.nodes.startswith("random")
    if cell.nodes.endswith("neurons"):
        chosen = ew.choose_neurons(model, task, size.per_layer)
        widths = {layer: len(model.parts.layers[layer].mlp.inputs[0][0].T) for layer in chosen}
    else:
        chosen = ew.choose_features(model, task, transcoders, size.per_layer)
        widths = {each.spec.reads.layer: each.n_features for each in transcoders}
    picked = {
        layer: tuple(sorted(uniform(widths[layer], cell.seed, layer).argsort()[: len(own)].tolist())) if drawn else own
        for layer, own in chosen.items()
    }
    record = {"by": "random"} if drawn else chosen.record
    if cell.nodes.endswith("neurons"):
        return model.graph(neurons=picked), record
    policy = "corrupted" if cell.nodes == "features-only" else error
    return model.graph(features=picked, cross_layer=ew.transcoders.cross_layer(transcoders), error=policy), record


def found(engine: ew.Engine, task: ew.tasks.Task, cell: Cell, size: Size, out: Path) -> ew.Scores:
    """The scores of one cell."""
    name, settings, _ = METHODS[cell.method]
    method, settings = ew.discovery.method(name), dict(settings)
    if name == "ranking":
        settings |= {"steps": size.steps, "seed": cell.seed}
    elif name == "random":
        settings |= {"seed": cell.seed}
    elif name == "attribution-graph":
        settings |= {"pairs": size.prompts, "max_nodes": size.rows}
    options = RunOptions(out / "checkpoints" / cell.name, progress=False)
    scores = ew.discovery.run_method(method, engine, task, method.configure(settings), options=options)
    assert isinstance(scores, ew.Scores)
    if stopped := scores.provenance["method"].get("stopped"):
        sys.exit(f"{cell.name}: {stopped}; the same command goes on from there")
    return scores


def judged(model: ew.Model, cell: Cell, size: Size, args: argparse.Namespace, transcoders: list[Any]) -> dict[str, Any]:
    """Find and judge one cell; its scores are kept beside the record, and serve where it is judged again."""
    n_train, n_validation, n_test = size.pairs
    task = ew.tasks.TASKS[cell.task](model.tokenizer, train=n_train, validation=n_validation, test=n_test, seed=0)
    file, settings = Path(args.out) / "scores" / f"{cell.name}.safetensors", settings_of(cell, size, args)
    scores = ew.Scores.load(file) if file.is_file() else None
    if scores is not None:  # whose circuits may be of other sizes than those that were judged before
        record = scores.provenance
        pairs = [record["task"]["arguments"][split] for split in ("train", "validation", "test")]
        known = record["method"].get("config", {}) | {"pairs": pairs} | record.get("asked", {})
        held_to(file, known, {name: value for name, value in settings.items() if name != "edges"})
    graph, candidates = (
        graph_of(model, task, cell, size, transcoders, args.error)
        if scores is None
        else (scores.graph, scores.provenance["candidates"])
    )
    engine = ew.Engine(model, graph, transcoders=transcoders if graph.spec.features else (), memory=args.memory)
    if scores is None:
        scores = found(engine, task, cell, size, args.out)
        scores = replace(scores, provenance=scores.provenance | {"candidates": candidates, "asked": settings})
        scores.save(file)
    asked = [n for n in size.edges if n < graph.n_edges]
    circuits = [top(scores, cell, n) for n in asked]
    curves = both_curves(engine, circuits, task, shares=[n / graph.n_edges for n in asked])
    writers = [int(graph.edge_writer[circuit.actual].unique().numel()) for circuit in circuits]
    points = [
        {"edges": n, "actual": point.actual, "writers": number}
        | {how: getattr(point, f"{how}_distance") for how in ("kept", "removed")}
        for n, number, point in zip(asked, writers, curves.points, strict=True)
    ]
    areas = {"sufficiency": curves.sufficiency, "necessity": curves.necessity}
    about: dict[str, Any] = {"total_edges": graph.n_edges, "error": graph.spec.error}
    about |= {"settings": scores.provenance["method"].get("config", {})} | settings
    return (
        asdict(cell) | about | areas | {"points": points, "cost": scores.provenance["cost"], "candidates": candidates}
    )


def agreement(out: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each method, by size in actual edges: the mean IoU of every two seeds' circuits, and that of its first seed's
    with the learned ranking's. Random nodes have none: each seed has its own.
    """
    found, groups = [], dict[tuple[str, ...], list[dict[str, Any]]]()
    for row in rows:
        if not row["nodes"].startswith("random"):
            groups.setdefault(tuple(row[name] for name in report.KEY[:4]), []).append(row)
    circuits = {group: [circuits_of(out, row) for row in own] for group, own in groups.items()}
    for group, own in circuits.items():
        reference = circuits.get((*group[:3], "ranking"), [{}])[0] if group[3] != "ranking" else {}
        shared = {
            "seeds": {n: mean(a[n].iou(b[n]) for a, b in combinations(own, 2)) for n in common(own) if len(own) > 1},
            "ranking": {n: own[0][n].iou(reference[n]) for n in own[0] if n in reference},
        }
        inside = {n: parts(circuit) for n, circuit in own[0].items()}
        found.append(dict(zip(report.KEY[:4], group, strict=True)) | {"iou": shared, "inside": inside})
    return found


def parts(circuit: ew.Circuit) -> tuple[int, int, int]:
    """How many of a circuit's edges touch a feature or neuron, join two of them, and begin at an error term."""
    graph, edges = circuit.graph, circuit.actual.nonzero().flatten()
    writer = graph.writer_kind[graph.edge_writer[edges].long()]
    reader = graph.reader_kind[graph.edge_reader[edges].long()]
    begins = (writer == FEATURE) | (writer == NEURON)
    ends = (reader == FEATURE_IN) | (reader == NEURON_IN)
    return int((begins | ends).sum()), int((begins & ends).sum()), int((writer == ERROR).sum())


def common(circuits: list[dict[str, ew.Circuit]]) -> list[str]:
    """The sizes that all of them have."""
    return [n for n in circuits[0] if all(n in each for each in circuits)]


def circuits_of(out: Path, row: dict[str, Any]) -> dict[str, ew.Circuit]:
    """A judged cell's circuits, by how many edges were asked for."""
    cell = Cell(row["task"], row["nodes"], row["method"], row["seed"])
    scores = ew.Scores.load(out / "scores" / f"{cell.name}.safetensors")
    return {str(point["edges"]): top(scores, cell, point["edges"]) for point in row["points"]}


def top(scores: ew.Scores, cell: Cell, n: int) -> ew.Circuit:
    """A circuit of so many actual edges, of the sign that its method names first."""
    return scores.top_actual(n, absolute=ew.discovery.method(METHODS[cell.method][0]).absolute)


def sizes_of(args: argparse.Namespace) -> Size:
    """How large everything is, as the command line says."""
    size = TRY if args.small else Size()
    for name in ("pairs", "seeds", "edges"):
        if (given := getattr(args, name)) is not None:
            size = replace(size, **{name: tuple(map(int, given.split(",")))})
    for name in ("per_layer", "steps", "prompts", "rows"):
        if (given := getattr(args, name)) is not None:
            size = replace(size, **{name: given})
    return size if args.tasks is None else replace(size, tasks=tuple(args.tasks.split(",")))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/feature-circuits", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--transcoders", help="a folder with a transcoder for each of some layers")
    for name, choices in (("nodes", NODES), ("tasks", TASKS), ("methods", METHODS)):
        parser.add_argument(f"--{name}", default=None if name == "tasks" else ",".join(choices))
    parser.add_argument("--error", default="scored", choices=("scored", "kept", "corrupted"))
    parser.add_argument("--memory", default="lean", choices=("default", "lean"))
    for name in ("per-layer", "steps", "prompts", "rows"):
        parser.add_argument(f"--{name}", type=int, help=f"default: {getattr(Size(), name.replace('-', '_'))}")
    for name in ("pairs", "seeds", "edges"):
        default = ",".join(map(str, getattr(Size(), name)))
        parser.add_argument(f"--{name}", help=f"between commas; default: {default}")
    parser.add_argument("--write", action="store_true", help="put what the folder holds into the page and its figures")
    parser.add_argument("--try", dest="small", action="store_true", help="tiny sizes, to see that it runs, in OUT/try")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    for name, known in (("nodes", NODES), ("methods", METHODS), ("tasks", ew.tasks.TASKS)):
        for given in (getattr(args, name) or "").split(","):
            if given and given not in known:
                parser.error(f"--{name} {given}: choose {', '.join(known)}")
    if args.small and args.write:
        parser.error("--try --write: tiny figures are not for the page; leave one of the two out")
    if args.small:
        args.out = args.out / "try"
    return args


def main() -> None:
    """Find and judge what is missing, and print."""
    args = parsed()
    size, out = sizes_of(args), args.out
    for folder in ("cells", "scores", "checkpoints"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    kinds = tuple(kind for kind in args.nodes.split(",") if args.transcoders or "features" not in kind)
    wanted = [cell for cell in cells(size, kinds, size.tasks) if cell.method in args.methods.split(",")]
    if not wanted and not args.write:
        sys.exit(
            "--nodes, --methods: nothing to find; features need --transcoders, random nodes have the ranking alone"
        )
    missing = [] if args.write else waiting(wanted, size, args)
    if args.one and missing:
        transcoders = ew.transcoders.read(args.transcoders) if args.transcoders else []
        row = judged(ew.load_model(args.model), missing[0], size, args, transcoders)
        write_atomically(out / "cells" / f"{missing[0].name}.json", json.dumps(row))
        return
    for cell in missing:  # each in a process of its own, with the memory that it needs
        told = {"tasks": cell.task, "nodes": cell.nodes, "methods": cell.method, "seeds": cell.seed}
        one = [*(f"--{name}={value}" for name, value in told.items()), "--one"]
        subprocess.run([sys.executable, *sys.argv, *one], check=True)
        print(cell.name, flush=True)
    rows = [json.loads(path.read_text()) for path in sorted((out / "cells").glob("*.json"))]
    shared = agreement(out, rows)
    if args.write:
        report.keep(rows, shared)
        for row in rows:
            if tuple(row[name] for name in report.KEY) in CHECKED_IN:
                small = replace(circuits_of(out, row)["1000"], scores=None)
                small.save(report.CIRCUITS / f"{row['task']}-{row['nodes']}.safetensors")
    print(report.tables(rows, shared))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        torch.manual_seed(0)
        main()
