"""A submission to MIB's circuit track: one folder of importance scores for each task and model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.exchange._convert import as_format_has_it
from edgewise.exchange._mib import write_mib
from edgewise.runs import check_writable


class _Shape(NamedTuple):
    n_layers: int
    n_heads: int
    d_model: int


_SHAPES = {
    "gpt2": _Shape(12, 12, 768),
    "qwen2.5": _Shape(24, 14, 896),
    "gemma2": _Shape(26, 8, 2304),
    "llama3": _Shape(32, 32, 4096),
}
"""The track's models: GPT-2 small, Qwen2.5-0.5B, Gemma-2-2B, Llama-3.1-8B."""
MIB_CELLS = (
    *(f"ioi_{model}" for model in _SHAPES),
    *(f"mcqa_{model}" for model in ("qwen2.5", "gemma2", "llama3")),
    "arithmetic-addition_llama3",
    "arithmetic-subtraction_llama3",
    *(f"arc-easy_{model}" for model in ("gemma2", "llama3")),
    "arc-challenge_llama3",
)
"""Its tasks on its models, as the folders of a submission are called (README of github.com/hannamw/MIB-circuit-track).
"""
_AT_LEAST = 2  # models and tasks that a submission must have


def write_mib_submission(
    circuits: Mapping[str, Circuit], out: str | Path, *, suffix: Literal[".json", ".pt"] = ".json"
) -> list[str]:
    """Write what MIB's circuit track takes: `OUT/TASK_MODEL/importances.json` for each cell, all edges with their
    scores. The track chooses the circuits of its sizes itself, for CPR by the highest scores.

    Args:
        circuits: by cell, one of `MIB_CELLS`; each has scores and is of that model's shape.
        out: the folder, which is uploaded to the Hugging Face hub as it is.
        suffix: `.json`, or `.pt`, a tenth as large.

    Returns:
        What had to be changed in which cell, a line each.

    Raises:
        edgewise.InputError: a cell is unknown, its circuit is of another model, has no scores, or was found under
            another ablation than the track's, interchange; fewer than two tasks or two models; nothing is written then.
    """
    out = Path(out)
    for cell, circuit in circuits.items():
        _check(cell, circuit)
    for place, what in enumerate(("task", "model")):
        if len(names := {cell.split("_")[place] for cell in circuits}) < _AT_LEAST:
            raise InputError(
                "MIB's track takes circuits of at least two tasks and two models; these are of "
                f"{f'one {what}, {names.pop()}' if names else 'none'}"
            )
    check_writable(out)
    notes = list[str]()
    for cell, circuit in circuits.items():
        folder = out / cell
        folder.mkdir(parents=True, exist_ok=True)
        changed = write_mib(circuit, folder / f"importances{suffix}", _SHAPES[cell.split("_")[1]].d_model)
        notes += [f"{cell}: {change}" for change in changed]
    return notes


def _check(cell: str, circuit: Circuit) -> None:
    """Refuse what the track would, or would misjudge. Raises `InputError`."""
    if cell not in MIB_CELLS:
        raise InputError(f"{cell}: no cell of MIB's track; choose {', '.join(MIB_CELLS)}")
    if circuit.scores is None or bool((circuit.scores == circuit.scores[0]).all()):
        raise InputError(f"{cell}: its circuit has no scores to rank edges by; give one that a method scored")
    if circuit.ablation_kind != "interchange":
        raise InputError(
            f"{cell}: found under {circuit.ablation_kind} ablation; the track judges under interchange, from its "
            "counterfactual prompts"
        )
    as_format_has_it(circuit, "MIB's track")  # which refuses features and neurons
    model, spec = cell.split("_")[1], circuit.graph.spec
    shape = _SHAPES[model]
    if (spec.n_layers, spec.n_heads) != shape[:2] or spec.parallel:
        raise InputError(
            f"{cell}: its circuit is of {spec.n_layers} layers of {spec.n_heads} heads; {model} has {shape.n_layers} "
            f"of {shape.n_heads}"
        )
