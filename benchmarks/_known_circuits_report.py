"""The page of `known_circuits.py`: truths, recovery, what went wrong and why, and a picture per program."""

import json
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _page import RESULTS, write_page

import edgewise as ew
from edgewise.models import SHIPPED, CompiledTransformer
from edgewise.models import load as load_module
from edgewise.runs import write_atomically
from edgewise.tasks import loss_function, reduce
from edgewise.tracr import LIBRARY, Truth

METHODS = (
    "ranking",
    "ranking + elimination",
    "edge pruning",
    "edge pruning, published",
    "acdc",
    "exact",
    "eap-ig",
    "mask-ig",
    "eap",
    "random",
    "random + elimination",
)
TIMED = ("ranking", "ranking + elimination", "edge pruning", "acdc", "exact", "eap-ig")
LEARNED = ("ranking", "edge pruning")
DRAWN = "ranking"

Row = dict[str, Any]
Key = tuple[str, str]
"""Program and ablation."""


def write(out: Path) -> None:
    """Write `docs/results/tracr.md`, `tracr.json` and the pictures."""
    rows = [
        json.loads(line) for path in sorted((out / "runs").glob("*.json")) for line in path.read_text().splitlines()
    ]
    truths = {path.stem: Truth.load(path) for path in sorted((out / "truth").glob("*.json"))}
    names = [name for name in LIBRARY if f"{name}-zero-joint-decoded" in truths]
    models = {name: _model(name, out) for name in names}
    lines = ["", *_programs(models), *_truths(names, truths), *_recovery(names, rows, truths)]
    lines += _seconds(names, rows)
    lines += [*_failures(names, models, rows, truths, out), *_pictures(names, truths, rows, out)]
    write_page("tracr", "Known circuits: programs compiled with Tracr", "known_circuits", "\n".join(lines) + "\n")
    counted = ("missing", "extra")  # a random circuit's are thousands of names
    kept = [{key: len(row[key]) if key in counted else row[key] for key in row if key != "settings"} for row in rows]
    runs = ",\n".join(json.dumps(row) for row in kept)
    known = ",\n".join(f"{json.dumps(name)}: {json.dumps(truth.to_dict())}" for name, truth in truths.items())
    write_atomically(RESULTS / "tracr.json", f'{{"runs": [\n{runs}\n],\n"truths": {{\n{known}\n}}}}\n')


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 118)


def _model(name: str, out: Path) -> ew.Model:
    place = f"tracr:{name}" if f"tracr:{name}" in SHIPPED else out / "models" / f"{name}.safetensors"
    return load_module(place)


def _programs(models: dict[str, ew.Model]) -> Iterable[str]:
    yield "## Programs"
    yield ""
    yield from _wrapped(
        "Outputs equal Tracr's own on every input listed, to the difference given; the study's inputs are all "
        "sequences of 1 to *longest* symbols on which the program is defined, and under interchange all pairs of "
        "equally long ones."
    )
    yield ""
    yield "| program | symbols | longest | inputs | layers × heads | edges joint / split | off Tracr by |"
    yield "|---|---|---|---|---|---|---|"
    for name, model in models.items():
        assert isinstance(model.module, CompiledTransformer)
        program, config = model.module.program, model.module.config
        symbols = " ".join(map(str, program.origin["vocabulary"]))
        edges = f"{model.graph('joint').n_edges:,} / {model.graph('split').n_edges:,}"
        undefined = program.origin["undefined_inputs"]
        inputs = f"{len(program.inputs)}" + (f" ({undefined} undefined)" if undefined else "")
        off = f"{program.origin['largest_difference_from_tracr']:.0e}"
        longest = program.origin["longest_listed"]
        size = f"{config.n_layers} × {config.n_heads}"
        yield f"| {name} | `{symbols}` | {longest} | {inputs} | {size} | {edges} | {off} |"
    yield ""


def _truths(names: list[str], truths: dict[str, Truth]) -> Iterable[str]:
    yield "## Truths"
    yield ""
    yield from _wrapped(
        "Sizes of the minimal sets that are enough (several: not unique). *live*: edges that can carry anything; "
        "*necessary*: edges whose removal alone changes some output. *all*: every circuit of live edges was tried, "
        "so there is no other minimal set; otherwise deletion in random orders, then all single and double "
        "removals."
    )
    yield ""
    yield "| program | ablation | live | necessary | minimal | tried | raw | split: necessary, minimal | inputs |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name in names:
        for ablation in ("zero", "interchange"):
            cells = [
                truths.get(f"{name}-{ablation}-{rest}") for rest in ("joint-decoded", "joint-raw", "split-decoded")
            ]
            joint, raw, split = cells
            if joint is None:
                continue
            tried = f"all {joint.circuits:,}" if joint.exhaustive else f"{joint.circuits:,}"
            same = "" if raw is None else "the same" if torch.equal(raw.edges, joint.edges) else f"{_sizes(raw)}"
            own = (
                ""
                if split is None
                else f"{int(split.necessary.sum())}, {_sizes(split)}" + ("" if split.exhaustive else " *")
            )
            yield (
                f"| {name} | {ablation} | {int(joint.live.sum())} | {int(joint.necessary.sum())} | {_sizes(joint)} | "
                f"{tried} | {same} | {own} | {joint.inputs:,} |"
            )
    yield ""
    yield "\\* not every circuit was tried."
    yield ""
    for stem, truth in truths.items():
        if not truth.unique or not torch.equal(truth.necessary, truth.edges):
            yield from _not_unique(stem, truth)


def _sizes(truth: Truth) -> str:
    return " or ".join(str(int(edges.sum())) for edges in truth.minimal)


def _not_unique(stem: str, truth: Truth) -> Iterable[str]:
    yield f"`{stem}`: {_counted(truth.minimal)}. Beside the {int(truth.necessary.sum())} necessary edges:"
    yield ""
    for edges in truth.minimal:
        names = truth.graph.edge_names
        without, more = (names(some.nonzero()[:, 0]) for some in (truth.necessary & ~edges, edges & ~truth.necessary))
        size, lacks, has = int(edges.sum()), ", ".join(without) or "none of them", ", ".join(more) or "no other"
        yield f"* {size} edges, without {lacks}; with {has}"
    yield ""


def _counted(minimal: Sequence[object]) -> str:
    return "1 minimal set" if len(minimal) == 1 else f"{len(minimal)} minimal sets"


def _recovery(names: list[str], rows: list[Row], truths: dict[str, Truth]) -> Iterable[str]:
    yield "## Recovery"
    yield ""
    yield from _wrapped(
        "Runs that found exactly the true edges, of all runs; then mean precision, recall and AUROC (over all edges"
        " of the graph; – where the truth is no edge). A ranking's circuit is the smallest of its own that gives "
        "the model's output on every input: the truth is never looked at. ACDC's is as its threshold (1e-4 of the "
        "squared distance) leaves it; exact patching is of that distance too. \\*: not every circuit was tried for the "
        "truth, so another minimal set could exist."
    )
    yield ""
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]
    yield "| program | ablation | " + " | ".join(methods) + " |"
    yield "|---|---|" + "---|" * len(methods)
    for name in names:
        for ablation in ("zero", "interchange"):
            own = [row for row in rows if (row["program"], row["ablation"]) == (name, ablation)]
            if own:
                cells = [_cell([row for row in own if row["method"] == method]) for method in methods]
                mark = "" if truths[f"{name}-{ablation}-joint-decoded"].exhaustive else " \\*"
                yield f"| {name} | {ablation}{mark} | " + " | ".join(cells) + " |"
    yield ""
    ended = [row["edges"] == 0 for row in rows if row["method"] == "edge pruning, published"]
    yield from _wrapped(
        "Exact in most seeds, of the settings whose truth has any edge, and of the programs in both ablations. An "
        f"empty circuit has precision 1: so {sum(ended)} of {len(ended)} runs with published settings ended. "
        "Elimination asks the same question as the truth does, edge by edge; where there is one minimal set it comes "
        "to it from any order, so what a ranking is worth is said by its own column."
    )
    yield ""
    empty = {(row["program"], row["ablation"]) for row in rows if row["auroc"] is None}
    for label, chosen in [*((m, (m,)) for m in methods), ("", ("ranking", "edge pruning"))]:
        best: dict[Key, float] = {}
        for method in chosen:
            done: dict[Key, list[bool]] = {}
            for row in rows:
                if row["method"] == method:
                    done.setdefault((row["program"], row["ablation"]), []).append(row["exact"])
            for key, each in done.items():
                best[key] = max(best.get(key, 0.0), float(np.mean(each)))
        good = sum(share > 0.5 for key, share in best.items() if key not in empty)
        both = sum(all(best.get((name, a), 0.0) > 0.5 for a in ("zero", "interchange")) for name in names)
        said = label if len(chosen) == 1 else f"{' or '.join(chosen)}, whichever is better"
        yield f"* {said}: {good} of {len(best.keys() - empty)} settings, {both} programs"
    yield ""


def _seconds(names: list[str], rows: list[Row]) -> Iterable[str]:
    yield "Mean seconds of a run, both ablations, from the pairs to the circuit: one thread, on a machine in other use."
    yield ""
    timed = [method for method in TIMED if any(row["method"] == method for row in rows)]
    yield "| program | " + " | ".join(timed) + " |"
    yield "|---|" + "---|" * len(timed)
    for name in names:
        cells = []
        for method in timed:
            seconds = [row["seconds"] for row in rows if (row["program"], row["method"]) == (name, method)]
            cells.append(f"{np.mean(seconds):.0f}" if seconds else "")
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""


def _cell(rows: list[Row]) -> str:
    if not rows:
        return ""
    areas = [row["auroc"] for row in rows if row["auroc"] is not None]
    means = [float(np.mean([row[key] for row in rows])) for key in ("precision", "recall")]
    area = f"{np.mean(areas):.2f}" if areas else "–"
    return f"**{sum(row['exact'] for row in rows)}/{len(rows)}** {means[0]:.2f} {means[1]:.2f} {area}"


def _failures(
    names: list[str], models: dict[str, ew.Model], rows: list[Row], truths: dict[str, Truth], out: Path
) -> Iterable[str]:
    """For each failed run of the learned methods: which edges are too many, and which true edge ranks last."""
    shown = [row for row in rows if not row["exact"] and row["method"] in LEARNED and row["program"] in names]
    missing = "nothing is ever missing" if all(row["recall"] == 1 for row in shown) else "some also lack true edges"
    yield "## Failures"
    yield ""
    yield from _wrapped(
        "Runs of the ranking (without elimination) and of Edge Pruning with our settings that were not exact, and "
        f"what they found too much; {missing}. *Inert* extra edges carry nothing in any circuit, so to"
        " keep them is a failure of the optimisation alone; *redundant* ones carry something that no output needs. "
        "Both are kept since a true edge ranks below them, the lowest of which is named, with its rank and the "
        "number of true edges. Why a ranking puts it low: it is fitted to all sizes, and at a size too small for "
        "the whole circuit it does best without the edge that costs least there. That explains the runs of a "
        "ranking in which no other edge is *cheaper*, and no others. The last columns are the loss (mismatch, which"
        " both lower) of the true circuit without that edge, how many of its other edges would cost less, and the "
        "loss of the empty circuit."
    )
    yield ""
    columns = "program ablation method seed inert redundant lowest rank true without cheaper empty"
    yield f"| {' | '.join(columns.split())} |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for row in shown:
        truth = truths[f"{row['program']}-{row['ablation']}-joint-decoded"]
        extra = [truth.graph.edge_id(name) for name in row["extra"]]
        redundant = sum(bool(truth.live[edge]) for edge in extra)
        file = f"{row['program']}-{row['ablation']}-{row['method'].replace(' ', '_')}-{row['seed']}.safetensors"
        scores = ew.Circuit.load(out / "runs" / file).scores
        assert scores is not None
        place = scores.argsort(descending=True, stable=True).argsort()
        lowest = max(truth.edges.nonzero()[:, 0].tolist(), key=lambda edge: int(place[edge]))
        costs, empty = _costs(models[row["program"]], truth)
        own = costs[truth.edges.nonzero()[:, 0].tolist().index(lowest)]
        yield (
            f"| {row['program']} | {row['ablation']} | {row['method']} | {row['seed']} | {len(extra) - redundant} | "
            f"{redundant} | `{truth.graph.edge_name(lowest)}` | {int(place[lowest]) + 1} | {len(costs)} | {own:.3f} | "
            f"{int((costs < own - 1e-6).sum())} | {empty:.3f} |"
        )
    yield ""


@torch.no_grad()
def _costs(model: ew.Model, truth: Truth) -> tuple[torch.Tensor, float]:
    """The loss of the true circuit without each of its edges, `[n]`, and that of the empty one."""
    engine = ew.Engine(model, truth.graph, ew.Ablation(truth.ablation))  # pyright: ignore[reportArgumentType] (a truth's own)
    task = ew.tasks.program(model.tokenizer)
    batch = task.batch("test", range(len(task.test)))
    batch = batch.with_full_logits(engine.full(batch))
    edges = truth.edges.nonzero()[:, 0]
    masks = truth.edges.float().repeat(len(edges) + 1, 1)
    masks[torch.arange(len(edges)), edges] = 0
    masks[-1] = 0
    logits = engine.run(batch, masks[:, None])
    distances = reduce(loss_function("mismatch")(logits, batch), batch).mean(-1)
    return distances[:-1], float(distances[-1])


def _pictures(names: list[str], truths: dict[str, Truth], rows: list[Row], out: Path) -> Iterable[str]:
    yield "## Pictures"
    yield ""
    yield f"The first seed of {DRAWN} under zero ablation beside the truth."
    yield ""
    for name in names:
        files = sorted((out / "runs").glob(f"{name}-zero-{DRAWN}-[0-9]*.safetensors"))
        if files:
            circuit, truth = ew.Circuit.load(files[0]), truths[f"{name}-zero-joint-decoded"]
            picture = RESULTS / "tracr" / f"{name}.png"
            ew.draw_recovery(circuit, truth.edges, picture, title=f"{name}: found beside true", dpi=80)
            yield f"![{name}](tracr/{name}.png)"
            yield ""
