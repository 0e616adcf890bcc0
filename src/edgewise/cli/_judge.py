"""The commands that judge and draw a circuit that was found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

import edgewise as ew
from edgewise.cli import _common, _nothing, _show
from edgewise.cli import _options as options
from edgewise.cli import _transcoder_inputs as inputs
from edgewise.cli._configuration import configurable
from edgewise.cli._exchange import under_zero
from edgewise.cli._print import line
from edgewise.runs import record_of


@configurable()
def evaluate(
    circuit: options.CircuitFile,
    model: options.OwnModel = None,
    task: Annotated[
        str | None, Option(help="Another task, or a file of pairs or templates. Default: the circuit's own.")
    ] = None,
    split: options.SplitName = "test",
    test: options.JudgedPairs = None,
    seed: options.JudgedSeed = None,
    bos: options.Bos = None,
    batch_size: options.BatchSize = 32,
    baselines: Annotated[
        str, Option(help="Circuits to compare with: random,eap or one of them, or none.")
    ] = "random,eap",
    transcoders: inputs.Sources = None,
    metrics: Annotated[
        str | None,
        Option(help="Metrics between commas, such as kl,reverse_kl,js,kendall_tau. Default: the task's own."),
    ] = None,
    necessity: Annotated[
        bool, Option("--necessity", help="Also judge the model without the circuit; it may double the time.")
    ] = False,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    memory: options.Memory = "default",
    offload: options.Offload = None,
    as_json: options.AsJson = False,
) -> None:
    """Judge a circuit on examples that it was not found on. Also writes evaluation.json beside it, or
    evaluation-TASK.json for another task. Under torchrun, on all its processes.
    """
    if task is not None:
        _common.check_task(task)
        _common.refuse_drawing(task, {"--test": test, "--seed": seed})
    asked = None if metrics is None else tuple(metrics.split(","))
    for name in asked or ():
        ew.tasks.metric_function(name)
    loaded_circuit = _common.load_circuit(circuit)
    ew.runs.check_writable(circuit.parent)
    features = inputs.for_circuit(loaded_circuit, transcoders)
    ranks = _common.ranks_of(device)
    loaded = _common.load_for(loaded_circuit, model, device, dtype, offload)
    choices = {"memory": memory, "dtype": _common.torch_type(dtype, device), "transcoders": features, "ranks": ranks}
    engine = _common.engine_of(circuit, loaded_circuit, loaded, **choices)
    pairs = _common.task_of(loaded_circuit, loaded.tokenizer, task, test, seed, bos, longest=loaded.parts.n_positions)
    wanted = tuple(name for name in baselines.split(",") if name and name != "none")
    with _show.working("judging the circuit, the full model and the baselines"):
        choices: dict[str, Any] = {"batch_size": batch_size, "metrics": asked, "necessity": necessity}
        result = ew.evaluate(engine, loaded_circuit, pairs, split=split, baselines=wanted, **choices)
    idle = _nothing.like_the_empty(engine, loaded_circuit, pairs, split)
    other = "-other-weights" if _show.compare_weights(loaded_circuit, loaded) else ""
    told = "" if bos is None else "-bos" if bos else "-no-bos"
    stem = "evaluation" + (f"-{Path(task).stem}" if task else "") + told + other
    if ranks.rank == 0:
        result.save(circuit.parent / f"{stem}.json")
    _show.result(result, as_json, _show.evaluation)
    if not as_json:
        _show.notes(under_zero(loaded_circuit, loaded) + idle)


def draw(circuit: options.CircuitFile, out: options.Picture) -> None:
    """Draw a circuit."""
    ew.report.check_path(out)
    found = _common.load_circuit(circuit)
    ew.draw(found, out)
    line(f"drawn to {out}")


def curve(
    circuit: Annotated[
        Path, Argument(help="The circuit.safetensors that find wrote. Its scores give circuits of every size.")
    ],
    out: Annotated[Path, Argument(help="The picture to write: .png, .svg or .pdf. The numbers are written beside it.")],
    sparsities: options.Sparsities = "0.9,0.95,0.98,0.99,0.995",
    split: options.SplitName = "test",
    model: options.OwnModel = None,
    transcoders: inputs.Sources = None,
    device: options.Device = "cpu",
    offload: options.Offload = None,
    as_json: options.AsJson = False,
) -> None:
    """Judge circuits of several sizes, all from one run's scores, and draw their distance from the model (KL; of
    numbers l2) against edges. Of a model with other weights both files are called NAME-other-weights. Under torchrun,
    on all its processes.
    """
    sizes = _common.parse_sparsities(sparsities)
    ew.report.check_path(out)
    ew.runs.check_file(out)
    loaded_circuit = _common.load_circuit(circuit)
    scores = _common.scores_of(circuit, loaded_circuit)
    features = inputs.for_circuit(loaded_circuit, transcoders)
    method = record_of(loaded_circuit.provenance, "method")
    absolute = loaded_circuit.selection == "absolute"
    circuits = [scores.at(size, actual=True, absolute=absolute) for size in sizes]
    _nothing.check_some(circuits, scores, absolute, sparsities)
    ranks = _common.ranks_of(device)
    loaded = _common.load_for(loaded_circuit, model, device, offload=offload)
    if _show.compare_weights(loaded_circuit, loaded):
        out = out.with_stem(f"{out.stem}-other-weights")
    engine = _common.engine_of(circuit, loaded_circuit, loaded, transcoders=features, ranks=ranks)
    pairs = _common.task_of(loaded_circuit, loaded.tokenizer)
    name = str(method.get("name", "circuit"))
    with _show.working("judging the circuits"):
        found = ew.size_curve(engine, {name: circuits}, pairs, split=split)
    if ranks.rank == 0:
        found.save(out.with_suffix(".json"))
        ew.draw_curve(found, out)
    _show.result(found, as_json, _show.size_curve)
    if not as_json:
        line(f"drawn to {out}")
