"""What the commands print."""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import edgewise as ew
from edgewise.cli._print import console, escape, line, own_rank, stopped, styled, table
from edgewise.runs import record_of

N_NAMES = 24  # of features and neurons in all circuits that `compare` prints; its JSON has all
N_WORST = 3  # examples that `evaluate` prints; its JSON has more
BOOTSTRAP = "95 % bootstrap intervals over the examples"
ONE = "one example: no interval"
NEAR = 5e-3  # distances that would be printed as 0.00: such examples are not far from the model
_PLANNED = (
    "of one training step under interchange, one answer per prompt, every mask fractional; kept: what the backward "
    "needs; passing: the largest of chunks of tokens, one layer's backward and the logits; constants up to 1 GiB"
)


def refusal(error: Exception | str) -> int:
    """Print one line of what was wrong; the exit status. Of several processes the first speaks for all: another one
    only says what the first did not find, which would have ended all of them within the second.
    """
    rank = own_rank()
    if rank:
        time.sleep(1)
    who = f"rank {rank}: " if rank else ""
    line(f"edgewise: {who}{' '.join(str(error).split())}", errors=True)
    return 2


def rank_lost(error: Exception) -> bool:
    """Say in one line that another process of the run has ended, if that is what happened."""
    ranks = sys.modules.get("edgewise.runs._ranks")
    if ranks is None or not isinstance(error, ranks.RankLostError):
        return False
    return bool(refusal(error))


_NO_MEMORY = (
    "DefaultCPUAllocator",
    "failed to map segment from shared object",
    "Cannot allocate memory",
    "can't start new thread",  # whose stack finds no room
)


def out_of_memory(error: Exception) -> bool:
    """Say in one line that memory ran out, if that is what happened; PyTorch has a type for it on GPUs alone, and the
    system says it in its own words where a library finds no room.
    """
    said, torch = " ".join(str(error).split()), sys.modules.get("torch")
    on_gpu = torch is not None and isinstance(error, torch.OutOfMemoryError)
    if not isinstance(error, MemoryError) and not on_gpu and not any(words in said for words in _NO_MEMORY):
        return False
    asked = re.search(r"tried to allocate ([\d.]+ \w+)", said, re.IGNORECASE)
    size = f" ({asked[1]} were asked for at once)" if asked else ""
    line(
        f"edgewise: out of memory{size}: use smaller batches or fewer features, or --memory lean where a command has "
        "it; `edgewise plan` says beforehand what a step takes",
        errors=True,
    )
    return True


def working(what: str) -> AbstractContextManager[Any]:
    """A spinner on the error stream while something takes long; of several processes the first has it."""
    return nullcontext() if own_rank() else console(errors=True).status(what)


def result(found: Any, as_json: bool, show: Callable[..., None], *shown: Any) -> None:
    """Print what a command found: as JSON, or by `show`, given `shown` where that is not what was found itself."""
    if as_json:
        print(found.to_json() if isinstance(found, ew.runs.SavedAsJson) else to_json(found), flush=True)
    else:
        show(*(shown or (found,)))


def to_json(found: Any, indent: int | None = None) -> str:
    """Plain values as JSON, which has no NaN and no infinity: such numbers become null."""
    return json.dumps(_finite(found), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def model_line(model: ew.Model) -> None:
    """Which model is about to run."""
    source = model.identity
    note = f" ({source['note']})" if source["note"] else ""
    line(f"model    {source['id']}{note}, {source['dtype']}, weights {source['weights_hash'][:12]}")


def header(model: ew.Model, engine: ew.Engine, task: ew.tasks.Task) -> None:
    """What is about to run."""
    model_line(model)
    spec = engine.graph.spec
    convention = f"embeddings {spec.embeddings}, keys and values {spec.kv}"
    line(f"graph    {engine.graph.n_edges:,} edges; {convention}; ablation {engine.ablation.kind}")
    if spec.features:
        n = sum(len(chosen) for _, chosen in spec.features)
        layers = ", ".join(str(layer) for layer, _ in spec.features)
        errors = {"scored": "an error term in each", "kept": "error terms kept", "corrupted": "error terms corrupted"}
        places = f"; {places:,} places in later layers" if (places := _places(spec)) else ""
        line(f"features {n:,} in layers {layers}, and {errors[spec.error]}{places}")
    if spec.neurons:
        n = sum(len(groups) for _, groups in spec.neurons)
        line(f"neurons  {n:,} in {len(spec.neurons)} layers, and the rest of each MLP")
    sizes = f"{len(task.train)} train, {len(task.validation)} validation, {len(task.test)} test"
    sizes += "; BOS before each prompt" if task.provenance.get("bos") else ""
    line(f"task     {task.name}: {sizes}; e.g. {task.train[0].clean_text!r}")


def _places(spec: ew.graph.GraphSpec) -> int:
    """How many writers features have in later layers."""
    return sum(len(spec.places_at(layer)) for layer, _ in spec.features)


def method(each: ew.Method) -> None:
    """A method of the catalogue, with its settings."""
    line(f"{each.name}: {each.summary}")
    for word, said in (("cost", each.cost), ("source", each.source), ("presets", ", ".join(each.presets))):
        if said:
            line(f"{word}: {said}")
    runs = [what for what in ("positions", "features", "resumes") if getattr(each, what)]
    line(f"runs with: {', '.join(runs) or 'neither positions nor features'}; start: {each.start}")
    for setting in ew.runs.settings_of(each.config).values():
        default = ", ".join(setting.default) if isinstance(setting.default, tuple) else setting.default
        styled(f"[bold]{setting.name}[/] = {escape(str(default))}  [dim]({escape(setting.choices)})[/]")
        if setting.doc:
            line(f"    {setting.doc}")


def notes(lines: list[str]) -> None:
    """What a command has to say, a line each."""
    for each in lines:
        line(each)


def found(circuit: ew.Circuit, path: Path) -> None:
    """The circuit that was found."""
    if reason := record_of(circuit.provenance, "method").get("stopped"):
        stopped(reason)
    sizes = f"{circuit.n_edges:,} edges, {circuit.n_actual:,} actual, of {circuit.graph.n_edges:,}"
    line(f"circuit  {sizes} (actual sparsity {circuit.actual_sparsity:.2%}) -> {path}")


def footprints(row: dict[str, Any], modes: list[ew.engine.Footprint], by_mode: dict[str, dict[str, Any]]) -> None:
    """What a step needs, one column per memory mode, and a setting that fits."""
    title = f"{row['config']}: {row['edges']:,} edges; {row['batch']} pairs of {row['length']} tokens, {row['dtype']}"
    title += f"; each of {row['ranks']} processes" if row["ranks"] > 1 else ""

    def amounts(what: str, unit: float) -> list[tuple[str, ...]]:
        each, total = [getattr(mode, what) for mode in modes], [getattr(mode, f"total_{what}") for mode in modes]
        rows = [(name, [x[name] for x in each]) for name in each[0]]
        return [(name, *(f"{x / unit:.3f}" for x in values)) for name, values in (*rows, ("in all", total))]

    rows = [*amounts("bytes", 1e9), (), ("TFLOP",), *amounts("operations", 1e12)]
    if traffic := modes[0].traffic:
        rows += [(), ("GB moved",), *((name, *(f"{n / 1e9:.3f}" for _ in modes)) for name, n in traffic.items())]
    if all("seconds" in each for each in by_mode.values()):
        rows += [(), ("seconds of computing", *(f"{by_mode[mode.memory]['seconds']:.1f}" for mode in modes))]
    table(title, ("GB", *(mode.memory for mode in modes)), rows, _PLANNED)
    if "fit" in row:
        line(_proposal(row["fit"], row["batch"]))


def _proposal(fit: dict[str, Any] | None, asked: int) -> str:
    """What fits, as options of `find`."""
    if fit is None:
        return "nothing fits, not even a pair at a time with layers offloaded"
    words = [f"--memory {fit['memory']}", *([f"--offload {fit['offload']}"] if fit["offload"] else [])]
    words += [f"--batch-size {fit['batch']}"] if fit["batch"] != asked else []
    return f"fits with {' '.join(words)}: {fit['total_bytes'] / 1e9:.1f} GB"


def evaluation(result: ew.Evaluation) -> None:
    """The numbers as a table."""
    title = f"{result.edges:,} edges, {result.actual_edges:,} actual, of {result.total_edges:,}; {result.n} examples"
    rows = []
    for name, row in result.metrics.items():
        others = [f"{x:.3f}" if x is not None else "" for x in (row.full, row.empty, row.random, row.eap)]
        interval = between(row.low, row.high)
        rows.append((f"{name} {'↓' if row.lower_is_better else '↑'}", f"{row.value:.3f}", interval, *others))
    for name, row in result.removed.items():
        others = [f"{row.full:.3f}", f"{row.empty:.3f}", "", ""]
        cells = (f"{row.value:.3f}", between(row.low, row.high), *others)
        rows.append((f"{name}, the model without it", *cells))
    columns = ("metric", "circuit", "95 % interval", "full model", "empty", "random", "EAP")
    table(title, columns, rows, _caption(result))
    for each in result.worst[:N_WORST]:
        if each.distance < NEAR:
            break
        line(f"far from the model ({each.distance:.2f}): {each.clean!r}")


def between(low: float | None, high: float | None, digits: int = 3, to: str = " to ") -> str:
    """An interval; of one example there is none."""
    return "–" if low is None or high is None else f"{low:.{digits}f}{to}{high:.{digits}f}"


def _intervals(n: int) -> str:
    return ONE if n == 1 else BOOTSTRAP


def size_curve(found: ew.evaluation.SizeCurve) -> None:
    """A curve as a table."""
    title = (
        f"{found.metric} by size; {found.n} {found.conditions['split']} examples, {found.total_edges:,} edges in all"
    )
    ends = f"full model {found.full:.3f}, empty circuit {found.empty:.3f}; actual edges; {_intervals(found.n)}"
    rows = []
    for point in found.points:
        sparsity, interval = 1 - point.edges / found.total_edges, between(point.low, point.high)
        rows.append((point.method, f"{point.edges:,}", f"{sparsity:.2%}", f"{point.value:.3f}", interval))
    columns = ("method", "actual edges", "sparsity", found.metric, "95 % interval")
    table(title, columns, rows, f"{ends}\n{_how(found.conditions)}")


def comparison(found: ew.evaluation.Comparison) -> None:
    """Circuits side by side."""
    differ, totals = found.conditions.get("differ"), set(found.total_edges.values())
    total = f", of {totals.pop():,}" if len(totals) == 1 else ""
    shares = [
        (f"{pair.one}, {pair.other}", f"{pair.shared:,}", f"{pair.iou:.3f}", f"{pair.of_one:.1%}",
         f"{pair.of_other:.1%}", f"{pair.shared_nodes:,}", f"{pair.nodes_iou:.3f}")
        for pair in found.pairs
    ]  # fmt: skip
    columns = ("circuits", "shared", "IoU", "of the first", "of the second", "nodes", "IoU")
    table(f"shared edges (nominal{total}) and nodes", columns, shares, "\n".join(_of_shares(found)))
    for task, judged in found.judged.items():
        (distance, *metrics), rows = next(iter(judged.values())), []
        for who, each in judged.items():
            edges = found.actual.get(who, None if differ else next(iter(found.total_edges.values())))
            value, low, high = each[distance]
            shown = [f"{value:.3f}", between(low, high, 2, "–"), *(f"{each[name].value:.3f}" for name in metrics)]
            rows.append(("full model" if who == "full" else who, "" if edges is None else f"{edges:,}", *shown))
        title = f"{task}: {found.n[task]} {found.conditions['split']} examples"
        unit = ew.tasks.metric_function(distance).unit
        caption = f"actual edges; {distance}: {unit}; {_intervals(found.n[task])}\n{_how(found.conditions)}"
        if differ:
            caption += "\neach circuit in its own graph; graphs differ, so there is no intersection and no union"
        columns = ("circuit", "edges", distance, "95 %", *(name.replace("_", " ") for name in metrics))
        table(title, columns, rows, caption, whole=True)


def _of_shares(found: ew.evaluation.Comparison) -> list[str]:
    """What is counted of circuits side by side, their sizes, and the features and neurons that all of them have."""
    lines = [
        f"{who}: {n:,} edges of {found.total_edges[who]:,}, {found.nodes[who]:,} nodes"
        for who, n in found.edges.items()
    ]
    lines.append("nodes: heads, MLPs, features and neurons that write an actual edge")
    if differ := found.conditions.get("differ"):
        lines.append(f"the graphs differ in {', '.join(differ)}; an edge is shared if it joins the same nodes")
    for pair in (each for each in found.pairs if each.name_only):
        both = pair.shared + pair.name_only
        iou = both / (found.edges[pair.one] + found.edges[pair.other] - both)
        lines.append(
            f"{pair.one}, {pair.other}: {pair.name_only:,} more are of the same names, but of an error term, rest or "
            f"group of other candidates (with them, IoU {iou:.3f})"
        )
    if found.in_all or differ:
        more = len(found.in_all) - N_NAMES
        names = ", ".join(found.in_all[:N_NAMES]) + (f" and {more} more (--json)" if more > 0 else "")
        lines.append(f"features and neurons in all: {names or 'none'}")
    return lines


def mib(found: ew.evaluation.MibScores, graph: ew.Graph, conditions: dict[str, Any]) -> None:
    """Faithfulness over sizes, and its areas; `conditions` has the split and the ablation."""
    title = f"faithfulness (of {found.metric}), {found.n} examples, {graph.n_edges:,} edges"
    raw = f"full model {found.full:.3f}, empty circuit {found.empty:.3f}; keys and values {graph.spec.kv}"
    raw += f"; prompts begin with{'' if conditions['bos'] else 'out'} a BOS token"
    said = f"{raw}\n{_how(conditions)}\nCPR is MIB's by signed score, CMD by absolute; of learned"
    said += " scores, whose sizes mean nothing, by signed"
    signed, absolute, rows = found.signed, found.absolute, list[tuple[str, ...]]()
    for place, share in enumerate(signed.shares):
        sides = [(each.faithfulness[place], each.actual[place]) for each in (signed, absolute)]
        cells = [text for value, actual in sides for text in (f"{value:.3f}", f"{actual:,}")]
        rows.append((f"{100 * share:g} %", f"{signed.edges[place]:,}", *cells))
    rows.append(())
    for name in ("cpr", "cmd", "log_cpr", "log_cmd", "actual_cpr", "actual_cmd"):
        label = name.replace("_", "-size ").replace("cpr", "CPR").replace("cmd", "CMD")
        rows.append((label, "", f"{getattr(signed, name):.3f}", "", f"{getattr(absolute, name):.3f}", ""))
    table(title, ("size", "edges", "signed", "actual", "absolute", "actual"), rows, said)


def _caption(result: ew.Evaluation) -> str:
    conditions, units = result.conditions, "kl in nats, full ‖ circuit; logit_diff: answer − wrong answer"
    if "l2" in result.metrics:
        units = "l2: squared distance to the full model's outputs, summed over them"
    lines = [_how(conditions), f"{units}; random and EAP: at most the same actual size; {_intervals(result.n)}"]
    if "eap" in conditions:
        eap = conditions["eap"]
        lines.append(f"EAP's edges by {eap['selection']} score, chosen on {eap['chosen_on']}")
    return "\n".join(lines)


def _how(conditions: dict[str, Any]) -> str:
    """What every judgement says of itself."""
    ablation = " with ".join(filter(None, (conditions["ablation"]["kind"], conditions["ablation"]["source"])))
    return f"split {conditions['split']}; ablation {ablation}; hard masks; at the answers"


def check(row: dict[str, Any]) -> None:
    """One model's check."""
    own = "unknown" if row["own_error"] is None else f"{row['own_error']:.1e}"
    if math.isnan(row["max_logit"]):
        return line(f"{row['model']} ({row['family']}): its own logits are not finite: REFUSED")
    line(
        f"{row['model']} ({row['family']}): {row['edges']:,} edges; full mask off by {row['full_mask_error']:.1e}, "
        f"empty mask by {row['empty_mask_error']:.1e}; the module's own round-off {own}, allowed {row['allowed']:.1e}; "
        f"largest logit {row['max_logit']:.3g}: {'accepted' if row['passed'] else 'REFUSED'}"
    )


def compare_weights(circuit: ew.Circuit, model: ew.Model) -> bool:
    """Whether the circuit was found on other weights than these, and says so."""
    return told_apart("the circuit was found", circuit.provenance, model)


def told_apart(what: str, provenance: Mapping[str, Any], model: ew.Model) -> bool:
    """Whether a result is of other weights than a model's, and says so; `what`: what was done on its own."""
    own = record_of(provenance, "model")
    other = ew.runs.of_other_weights(own, model.identity)
    if other:
        before, now = (str(each["weights_hash"])[:12] for each in (own, model.identity))
        line(f"note: {what} on weights {before}, this model's are {now}", errors=True)
    return other


def compiled(module: ew.models.CompiledTransformer, out: Path) -> None:
    """What was compiled."""
    program, config = module.program, module.config
    inputs = f"{len(program.inputs):,} inputs" + ("" if program.complete else " (a sample)")
    undefined = program.origin.get("undefined_inputs")
    line(
        f"{program.name}: {config.n_layers} layers of {config.n_heads} heads, width {config.d_model}; {inputs}"
        + (f", {undefined:,} more where it is undefined" if undefined else "")
        + f"; off Tracr's own outputs by at most {program.origin['largest_difference_from_tracr']:.1e} -> {out}"
    )


def truth(found: ew.tracr.Truth) -> None:
    """The true circuits of a program."""
    what = "pairs of inputs" if found.ablation == "interchange" else "inputs"
    line(
        f"{found.program}: {found.ablation} ablation, embeddings {found.graph.spec.embeddings}, {found.output} "
        f"output equal on all {found.inputs:,} {what}{'' if found.complete else ' (a sample)'}"
    )
    line(f"{int(found.live.sum())} of {found.graph.n_edges:,} edges can carry anything")
    line(f"{int(found.necessary.sum())} edges are necessary: without any one of them, some output changes")
    tried = f"all {found.circuits:,} circuits tried" if found.exhaustive else f"{found.circuits:,} circuits tried"
    sets = "the only minimal set that is enough" if found.unique else f"{len(found.minimal)} minimal sets are enough"
    line(f"{sets}, {int(found.edges.sum())} edges ({tried}):")
    for name in found.graph.edge_names(found.edges.nonzero()[:, 0]):
        note = "" if found.necessary[found.graph.edge_id(name)] else "  (not necessary by itself)"
        line(f"  {name}{note}")


def recovery(found: ew.tracr.Recovery, true: ew.tracr.Truth) -> None:
    """A circuit beside the true one."""
    area = "" if found.auroc is None else f", AUROC {found.auroc:.3f}"
    line(
        f"{'exactly the true circuit' if found.exact else 'not the true circuit'} of {int(true.edges.sum())} edges: "
        f"precision {found.precision:.3f}, recall {found.recall:.3f}{area}"
    )
    for word, names in (("missing", found.missing), ("extra", found.extra)):
        for name in names:
            line(f"  {word}: {name}")
