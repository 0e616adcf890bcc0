"""The commands that judge and draw a circuit that was found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import edgewise as ew
from edgewise.cli import _features, _show
from edgewise.cli import _options as options
from edgewise.cli._common import (
    check_task,
    engine_of,
    load_circuit,
    load_for,
    parse_sparsities,
    scores_of,
    task_of,
    torch_type,
)
from edgewise.report import check_path
from edgewise.runs import check_writable
from edgewise.tasks import metric_function


def evaluate(
    circuit: options.CircuitFile,
    model: options.OwnModel = None,
    task: Annotated[
        str | None, typer.Option(help="Another task or .jsonl file; the circuit's own if not given.")
    ] = None,
    split: options.SplitName = "test",
    test: options.TestPairs = 256,
    seed: options.PairsSeed = 0,
    batch_size: options.BatchSize = 32,
    baselines: Annotated[str, typer.Option(help="Any of random,eap; none for none.")] = "random,eap",
    transcoders: _features.Sources = None,
    metrics: Annotated[
        str | None, typer.Option(help="Which, such as kl,reverse_kl,js,kendall_tau; the task's own if not given.")
    ] = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    memory: options.Memory = "default",
    as_json: options.AsJson = False,
) -> None:
    """Judge a circuit on examples it was not found on; also writes evaluation.json beside it (evaluation-TASK.json on
    another task).
    """
    if task is not None:
        check_task(task)
    asked = None if metrics is None else tuple(metrics.split(","))
    for name in asked or ():
        metric_function(name)
    loaded_circuit = load_circuit(circuit)
    features = _features.for_circuit(loaded_circuit, transcoders)
    loaded = load_for(loaded_circuit, model, device, dtype)
    engine = engine_of(circuit, loaded_circuit, loaded, memory=memory, dtype=torch_type(dtype), transcoders=features)
    pairs = task_of(loaded_circuit, loaded.tokenizer, task, test, seed)
    wanted = tuple(name for name in baselines.split(",") if name and name != "none")
    with _show.working("judging the circuit, the full model and the baselines"):
        result = ew.evaluate(
            engine, loaded_circuit, pairs, split=split, batch_size=batch_size, baselines=wanted, metrics=asked
        )
    other = "" if _show.compare_weights(loaded_circuit, loaded) else "-other-weights"
    stem = "evaluation" + (f"-{Path(task).stem}" if task else "") + other
    result.save(circuit.parent / f"{stem}.json")
    if as_json:
        print(result.to_json())
    else:
        _show.evaluation(result)


def draw(circuit: options.CircuitFile, out: options.Picture) -> None:
    """Draw a circuit."""
    check_path(out)
    found = load_circuit(circuit)
    ew.draw(found, out, signed=False)
    print(f"drawn to {out}")


def curve(
    circuit: Annotated[
        Path, typer.Argument(help="The circuit.safetensors that find wrote; its scores give the sizes.")
    ],
    out: Annotated[Path, typer.Argument(help="Where to draw it: .png, .svg or .pdf; the numbers go beside it.")],
    sparsities: options.Sparsities = "0.9,0.95,0.98,0.99,0.995",
    split: options.SplitName = "test",
    model: options.OwnModel = None,
    transcoders: _features.Sources = None,
    device: options.Device = "cpu",
    as_json: options.AsJson = False,
) -> None:
    """Judge and draw the circuits of every size that one run's scores give: KL(full ‖ circuit) against edges."""
    sizes = parse_sparsities(sparsities)
    check_path(out)
    check_writable(out.parent)
    loaded_circuit = load_circuit(circuit)
    scores = scores_of(circuit, loaded_circuit)
    features = _features.for_circuit(loaded_circuit, transcoders)
    method = loaded_circuit.provenance.get("method", {})
    absolute = loaded_circuit.selection == "absolute"
    circuits = [scores.at(size, actual=True, absolute=absolute) for size in sizes]
    loaded = load_for(loaded_circuit, model, device)
    _show.compare_weights(loaded_circuit, loaded)
    engine = engine_of(circuit, loaded_circuit, loaded, transcoders=features)
    pairs = task_of(loaded_circuit, loaded.tokenizer)
    name = str(method.get("name", "circuit"))
    with _show.working("judging the circuits"):
        found = ew.size_curve(engine, {name: circuits}, pairs, split=split)
    found.save(out.with_suffix(".json"))
    ew.draw_curve(found, out)
    if as_json:
        print(found.to_json())
    else:
        _show.size_curve(found)
        print(f"drawn to {out}")
