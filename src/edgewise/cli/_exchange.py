"""Circuits from and to the files of others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

import edgewise as ew
from edgewise.cli import _options as options
from edgewise.cli import _show
from edgewise.cli._common import CONSTANTS, check_free, check_task, load, load_circuit, make_task
from edgewise.cli._print import line
from edgewise.runs import record_of


def import_circuit(
    file: Annotated[
        Path,
        Argument(help="EAP-IG's or MIB's .json or .pt, Edge Pruning's edges.json, ioi-wang, or greater-than-hanna."),
    ],
    model: Annotated[str, Option(help="The circuit's model: smollm2-135m, a hub id, or a folder.")],
    out: Annotated[Path, Option(help="Folder for circuit.safetensors.")] = Path("runs/imported"),
    task: Annotated[str, Option(help="The circuit's task. It is recorded, and evaluate uses it.")] = "ioi",
    ablation: Annotated[Literal["interchange", "zero"], Option(help="What removed edges carry.")] = "interchange",
    sparsity: Annotated[
        float | None, Option(help="Choose the edges again, by the file's scores: 1 − kept actual edges / all edges.")
    ] = None,
    absolute: Annotated[bool, Option(help="With --sparsity: choose by absolute score.")] = False,
    bos: options.Bos = None,
    force: options.Force = False,
) -> None:
    """Read another tool's circuit onto the model's own graph. Writes OUT/circuit.safetensors."""
    if absolute and sparsity is None:
        raise ew.InputError("--absolute: it says how --sparsity chooses edges; give that too, or leave it out")
    check_task(task)
    check_free(out / "circuit.safetensors", force)
    ew.runs.check_writable(out)
    loaded = load(model, "cpu")
    circuit = foreign_circuit(file, loaded, model)
    if sparsity is not None:
        if circuit.scores is None:
            raise ew.InputError(f"{file}: has no scores to choose edges by; leave out --sparsity")
        circuit = ew.Scores.of(circuit).at(sparsity, actual=True, absolute=absolute)
    pairs = make_task(task, loaded.tokenizer, bos=bos, longest=loaded.parts.n_positions)
    provenance = circuit.provenance | {
        "model": loaded.identity,
        "ablation": ew.Ablation(ablation).to_dict(),
        "task": dict(pairs.provenance) | {"name": pairs.name},
    }
    circuit = replace(circuit, provenance=provenance, ablation=ew.Ablation(ablation))  # pyright: ignore[reportArgumentType]
    circuit.save(out / "circuit.safetensors")
    spec = circuit.graph.spec
    _show.notes([f"graph: embeddings {spec.embeddings}, keys and values {spec.kv}, as the file has them"])
    _show.notes(under_zero(circuit, loaded))
    _show.found(circuit, out / "circuit.safetensors")


def export_circuit(
    circuit: options.CircuitFile,
    out: Annotated[Path, Argument(help="A .pt or .json file for EAP-IG and MIB, or a file named edges.json.")],
    d_model: Annotated[int, Option(help="Width of the model. EAP-IG's and MIB's files state it.")] = 0,
    force: options.Force = False,
) -> None:
    """Write a circuit for another tool, and say what had to change."""
    check_free(out, force)
    ew.runs.check_file(out)
    loaded = load_circuit(circuit)
    if out.name == "edges.json":
        changed = ew.exchange.write_edges(loaded, out)
    elif d_model < 1:
        raise ew.InputError("--d-model: EAP-IG's and MIB's files name the width of the model; give it")
    else:
        changed = ew.exchange.write_mib(loaded, out, d_model)
        changed += ew.exchange.differs_under_zero() if _is_zero(loaded) else []
    _show.notes([*changed, f"written to {out}"])


def mib_submission(
    cells: Annotated[list[str], Argument(help="CELL=FILE each, as in ioi_gpt2=runs/ioi/circuit.safetensors.")],
    out: Annotated[Path, Option(help="The folder to write, a folder for each cell in it.")],
    format: Annotated[
        Literal["json", "pt"], Option(help="What each is written as; pt is some four times smaller.")
    ] = "json",
    force: options.Force = False,
) -> None:
    """Write a submission to MIB's circuit track: importances of all edges, for at least two tasks and two models."""
    check_free(out, force)
    files = {cell: file for cell, _, file in (each.partition("=") for each in cells)}
    if without := [cell for cell, file in files.items() if not file]:
        raise ew.InputError(f"{without[0]}: give CELL=FILE, as in ioi_gpt2=runs/ioi/circuit.safetensors")
    if len(files) < len(cells):
        raise ew.InputError(f"{len(cells)} circuits of {len(files)} cells; give each cell one circuit")
    circuits = {cell: load_circuit(Path(file)) for cell, file in files.items()}
    suffix = ".json" if format == "json" else ".pt"
    _show.notes([*ew.exchange.write_mib_submission(circuits, out, suffix=suffix), f"written to {out}"])


def push(
    circuit: options.CircuitFile,
    repository: Annotated[str, Argument(help="Where to: owner/name on the Hugging Face hub.")],
    file: Annotated[str, Option(help="What to call it there.")] = "circuit.safetensors",
    private: Annotated[bool, Option("--private", help="A new repository is private.")] = False,
) -> None:
    """Upload a circuit, the constants beside it if its removed edges carry some, and a model card with the numbers of
    evaluation.json; a card that somebody wrote stays.
    """
    loaded = load_circuit(circuit)
    judged = _evaluation_of(loaded, circuit.parent / "evaluation.json")
    numbers = None if judged is None else json.loads(judged.to_json())
    constants = circuit.parent / CONSTANTS
    told: dict[str, Any] = {"file": file, "private": private, "evaluation": numbers, "constants": constants}
    line(f"uploaded: {ew.exchange.push(loaded, repository, **told)}")
    if judged is None:
        line("note: no numbers went along, as no evaluation.json of this circuit is beside it; run `edgewise evaluate`")


def _evaluation_of(circuit: ew.Circuit, file: Path) -> ew.Evaluation | None:
    """What a file says of a circuit; None where there is none, or it is of another circuit or other weights."""
    found = ew.viewer.read_evaluation(file) if file.is_file() else None
    if found is None or not found.is_of(circuit):
        return None
    models = (record_of(each, "model") for each in (circuit.provenance, found.conditions))
    return None if ew.runs.of_other_weights(*models) else found


def pull(
    repository: Annotated[str, Argument(help="owner/name on the Hugging Face hub.")],
    out: Annotated[Path, Option(help="Folder for circuit.safetensors.")] = Path("runs/pulled"),
    file: Annotated[str, Option(help="Its name there.")] = "circuit.safetensors",
    revision: Annotated[str | None, Option(help="Branch, tag or commit.")] = None,
    force: options.Force = False,
) -> None:
    """Download a circuit to OUT/circuit.safetensors, and what its removed edges carry to OUT/constants.safetensors."""
    for name in ("circuit.safetensors", CONSTANTS):
        check_free(out / name, force)
    ew.runs.check_writable(out)
    found = ew.exchange.pull(repository, file=file, revision=revision, constants=out / CONSTANTS)
    found.save(out / "circuit.safetensors")
    _show.found(found, out / "circuit.safetensors")


def under_zero(circuit: ew.Circuit, model: ew.Model) -> list[str]:
    """What to know of a circuit of EAP-IG's that is judged under zero ablation."""
    of_eap_ig = record_of(circuit.provenance, "method").get("format") == "EAP-IG"
    return ew.exchange.differs_under_zero(model) if of_eap_ig and _is_zero(circuit) else []


def _is_zero(circuit: ew.Circuit) -> bool:
    return isinstance(circuit.ablation, ew.Ablation) and circuit.ablation.kind == "zero"


def foreign_circuit(file: Path, model: ew.Model, name: str) -> ew.Circuit:
    """A circuit of another tool on the graph that its file counts on; refused if that is of another model."""
    physical = model.graph()
    circuit = _read(file, physical)
    # No tool's file says whether a layer's heads are coupled; the model does.
    own = replace(circuit.graph.spec, coupled_heads=physical.spec.coupled_heads)
    if replace(own, kv="physical") != replace(physical.spec, embeddings=own.embeddings):
        raise ew.InputError(f"{file}: is of a model of {_sizes(own)}; {name} has {_sizes(physical.spec)}")
    return ew.exchange.convert(circuit, ew.Graph(own))


def _read(file: Path, graph: ew.Graph) -> ew.Circuit:
    if str(file) in ew.exchange.PUBLISHED:
        return ew.exchange.PUBLISHED[str(file)](graph)
    if file.suffix == ".json" and isinstance(ew.runs.read_json(file), list):
        return ew.exchange.read_edges(file, graph)
    return ew.exchange.read_mib(file, graph.spec.n_kv_heads)


def _sizes(spec: ew.GraphSpec) -> str:
    """What files say of a model; none says how many heads share keys and values."""
    order = "at once" if spec.parallel else "one after the other"
    return f"{spec.n_layers} layers of {spec.n_heads} heads, attention and MLP {order}"
