"""What a run left behind: its circuit, what it was judged to be, and the measured curve over sizes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.evaluation import Evaluation, Measured, SizeCurve, WorstExample
from edgewise.runs import check_record, of_other_weights, reading_record, record_of
from edgewise.viewer._evidence import Evidence

CIRCUIT, CURVE, EVIDENCE = "circuit.safetensors", "curve.json", "evidence.json"


@dataclass(frozen=True)
class Viewed:
    """A circuit, and what is known of it."""

    circuit: Circuit
    label: str = "circuit"
    """What it is called beside others."""
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    """By task; the circuit's own first."""
    curve: SizeCurve | None = None
    """What its other sizes were measured to be."""
    evidence: Evidence | None = None
    """Exact effects of its edges, and its predictions (`gather`)."""
    notes: tuple[str, ...] = ()
    """What was left out, and why."""


def read(path: str | Path) -> Viewed:
    """A run's folder, or one circuit's file; what lies beside the circuit is read too.

    Raises:
        InputError: there is no circuit, or a file beside it is something else.
    """
    path = Path(path)
    file = path / CIRCUIT if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{path}: no {CIRCUIT} there; give the folder that `edgewise find` wrote to")
    circuit, folder, notes = Circuit.load(file), file.parent, list[str]()

    def fits(name: str, other: str, same: bool, model: Any) -> bool:
        """Whether what a file says was measured of this circuit, on its weights; a note where it was not."""
        elsewhere = of_other_weights(record_of(circuit.provenance, "model"), model)
        if not same or elsewhere:
            notes.append(f"{name} is of {'other weights of the model' if same else other}, so it is not shown.")
        return same and not elsewhere

    evaluations = {}
    # By stem, so that the circuit's own is first: among whole names `evaluation-…` comes before `evaluation.json`.
    for each in sorted(folder.glob("evaluation*.json"), key=lambda file: file.stem):
        result, name = read_evaluation(each), each.stem.removeprefix("evaluation").removeprefix("-")
        told = {} if name.endswith("other-weights") else record_of(result.conditions, "model")
        if fits(each.name, f"another circuit, of {result.actual_edges:,} edges", result.is_of(circuit), told):
            evaluations[name] = result
    curve = SizeCurve.load(folder / CURVE) if (folder / CURVE).is_file() else None
    if curve is not None:
        other, model = f"other scores, of {curve.total_edges:,} edges", record_of(curve.conditions, "model")
        curve = curve if fits(CURVE, other, curve.is_of(circuit), model) else None
    if curve is not None and len({point.method for point in curve.points}) > 1:  # at one size others have other values
        own = record_of(circuit.provenance, "method").get("name")
        points = tuple(point for point in curve.points if point.method == own)
        curve = replace(curve, points=points) if points else None
        notes.append(
            f"{CURVE} is of several methods; "
            + (f"only {own} is shown." if points else f"none is {own}, so it is not shown.")
        )
    evidence = Evidence.load(folder / EVIDENCE) if (folder / EVIDENCE).is_file() else None
    if evidence is not None:
        other = f"another circuit, of {evidence.actual_edges:,} edges"
        evidence = evidence if fits(EVIDENCE, other, evidence.is_of(circuit), evidence.model) else None
    label = file.resolve().parent.name if file.name == CIRCUIT else file.stem
    return Viewed(circuit, label, evaluations, curve, evidence, tuple(notes))


def read_evaluation(path: str | Path) -> Evaluation:
    """What `edgewise evaluate` wrote. Raises `InputError` for another file."""
    with reading_record(path, "what `edgewise evaluate` wrote", "move it away") as row:
        metrics, removed = (
            {name: Measured(**each) for name, each in rows.items()} for rows in (row["metrics"], row.get("removed", {}))
        )
        worst = tuple(WorstExample(**each) for each in row.get("worst", ()))
        found = Evaluation(**row | {"metrics": metrics, "worst": worst, "removed": removed})
        check_record(found)
        return found
