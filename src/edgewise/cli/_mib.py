"""What MIB's circuit track would say of scores."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

import edgewise as ew
from edgewise.cli import _options as options
from edgewise.cli import _show
from edgewise.cli import _transcoder_inputs as inputs
from edgewise.cli._common import check_task, engine_of, load, load_for, refuse_drawing, scores_of, task_of
from edgewise.cli._exchange import foreign_circuit


def mib(
    file: Annotated[Path, Argument(help="EAP-IG's or MIB's .json or .pt, or a circuit.safetensors with scores.")],
    model: Annotated[str | None, Option(help="The model. Needed for other tools' files.")] = None,
    task: Annotated[str | None, Option(help="The task. Needed for other tools' files.")] = None,
    metric: Annotated[str, Option(help="The metric; it must rise with the behaviour.")] = "logit_diff",
    split: options.SplitName = "test",
    test: options.JudgedPairs = None,
    transcoders: inputs.Sources = None,
    bos: Annotated[
        bool,
        Option("--bos/--no-bos", help="Put a BOS token before every prompt, as MIB does (EOS where there is none)."),
    ] = True,
    out: Annotated[Path | None, Option(help="Also write the numbers to this .json file.")] = None,
    device: options.Device = "cpu",
    as_json: options.AsJson = False,
) -> None:
    """Judge scores as MIB's circuit track does: faithfulness at ten sizes, CPR (signed) and CMD (absolute)."""
    if out is not None:
        ew.runs.check_file(out)
    if task is not None:
        check_task(task)
        refuse_drawing(task, {"--test": test})
    own = file.suffix == ".safetensors"
    if not own and (model is None or task is None):
        raise ew.InputError(f"{file}: such files name no model and no task; give --model and --task")
    if not file.is_file():
        raise ew.InputError(f"{file}: no such file")
    if own:
        circuit = ew.Circuit.load(file)
        features = inputs.for_circuit(circuit, transcoders)
        loaded = load_for(circuit, model, device)
    else:
        loaded = load(str(model), device)
        circuit = foreign_circuit(file, loaded, str(model))
        features = inputs.for_circuit(circuit, transcoders)
    scores = scores_of(file, circuit)
    can_begin = any(getattr(loaded.tokenizer, f"{name}_token_id", None) is not None for name in ("bos", "eos"))
    longest = loaded.parts.n_positions
    pairs = task_of(circuit, loaded.tokenizer, task, test, bos=bos if can_begin else None, longest=longest)
    if own:  # said once nothing is refused any more
        _show.compare_weights(circuit, loaded)
    with _show.working("judging circuits of ten sizes, signed and absolute"):
        engine = engine_of(file, circuit, loaded, transcoders=features)
        result = ew.evaluation.mib_scores(engine, scores, pairs, metric=metric, split=split)
    ablation = (circuit.stated_ablation or ew.Ablation()).to_dict()
    conditions = {"split": split, "ablation": ablation, "graph": circuit.graph.spec.to_dict()}
    conditions["bos"] = pairs.provenance.get("bos", False)
    row = {"file": str(file), "task": pairs.name, **conditions, "edges": circuit.graph.n_edges, **asdict(result)}
    if out is not None:
        ew.runs.write_atomically(out, _show.to_json(row, 2) + "\n")
    _show.result(row, as_json, _show.mib, result, circuit.graph, conditions)
