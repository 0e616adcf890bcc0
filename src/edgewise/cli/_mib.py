"""What MIB's circuit track would say of scores."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from edgewise._errors import InputError
from edgewise.cli import _show
from edgewise.cli._common import check_task, load, make_task, one_of
from edgewise.cli._exchange import foreign_circuit
from edgewise.runs import check_writable, write_atomically


def mib(
    file: Annotated[Path, typer.Argument(help="EAP-IG's or MIB's .json or .pt, or a circuit.safetensors with scores.")],
    model: Annotated[str | None, typer.Option(help="The model; needed for a file of others.")] = None,
    task: Annotated[str | None, typer.Option(help="The task; needed for a file of others.")] = None,
    metric: Annotated[str, typer.Option(help="Higher for a stronger behaviour.")] = "logit_diff",
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    test: Annotated[int, typer.Option(help="Test pairs, if --task names a built-in task.")] = 256,
    out: Annotated[Path | None, typer.Option(help="Also write the numbers to this .json file.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Judge scores as MIB's circuit track does: faithfulness over ten sizes, CPR (signed) and CMD (absolute)."""
    import edgewise as ew
    from edgewise.evaluation import mib_scores, recorded_ablation

    one_of("--split", split, ("train", "validation", "test"))
    if out is not None:
        check_writable(out.parent)
    if task is not None:
        check_task(task)
    own = file.suffix == ".safetensors"
    if not own and (model is None or task is None):
        raise InputError(f"{file}: such files name no model and no task; give --model and --task")
    found = ew.Circuit.load(file) if own else None
    recorded: dict[str, Any] = found.provenance if found is not None else {}
    loaded = load(model or str(recorded.get("model", {}).get("id", "")), device)
    if own:
        _show.compare_weights(recorded.get("model", {}), loaded.identity)
    circuit = found or foreign_circuit(file, loaded, str(model))
    if circuit.scores is None:
        raise InputError(f"{file}: has no scores, so there is no other size of it")
    if task is None:
        pairs = ew.tasks.from_provenance(recorded.get("task", {}), loaded.tokenizer)
    else:
        pairs = make_task(task, loaded.tokenizer, 200, 200, test, 0)
    scores = ew.Scores(circuit.graph, circuit.scores, circuit.provenance)
    with _show.working("judging circuits of ten sizes, signed and absolute"):
        result = mib_scores(loaded, scores, pairs, metric=metric, split=split)
    ablation = (recorded_ablation(circuit) or ew.Ablation()).to_dict()
    conditions = {"split": split, "ablation": ablation, "graph": circuit.graph.spec.to_dict()}
    row = {"file": str(file), "task": pairs.name, **conditions, "edges": circuit.graph.n_edges, **asdict(result)}
    if out is not None:
        write_atomically(out, json.dumps(row, indent=2) + "\n")
    if as_json:
        print(json.dumps(row))
    else:
        _show.mib(result, circuit.graph, conditions)
