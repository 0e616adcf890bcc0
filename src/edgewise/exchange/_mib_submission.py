"""A submission to MIB's circuit track: one folder of importance scores for each task and model."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from edgewise._errors import InputError
from edgewise.circuit import Circuit, ranked
from edgewise.discovery import methods
from edgewise.exchange._convert import as_format_has_it
from edgewise.exchange._mib import write_mib
from edgewise.runs import check_writable, record_of


class _Shape(NamedTuple):
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int


_SHAPES = {
    "gpt2": _Shape(12, 12, 12, 768),
    "qwen2.5": _Shape(24, 14, 2, 896),
    "gemma2": _Shape(26, 8, 4, 2304),
    "llama3": _Shape(32, 32, 8, 4096),
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
    scores. The track chooses the circuits of its sizes itself, for CPR by the highest scores, for CMD by the largest in
    size. So scores of methods that rank by sign alone, as learned ones, are written as ranks.

    Args:
        circuits: by cell, one of `MIB_CELLS`; each has scores and is of that model's shape.
        out: the folder, which is uploaded to the Hugging Face hub as it is.
        suffix: `.json`, or `.pt`, some four times smaller.

    Returns:
        What had to be changed in which cell, a line each.

    Raises:
        edgewise.InputError: a cell is unknown, its circuit is of another shape than that model, has no scores, or was
            found under another ablation than the track's, interchange; edges without a score stand beside negative
            ones, so that no score is last both ways; fewer than two tasks or two models; the folder has other cells or
            files in another format, which would be uploaded too. Nothing is written then.
    """
    out = Path(out)
    if suffix not in (".json", ".pt"):
        raise InputError(f"suffix: {suffix!r}; MIB's track takes .json and .pt")
    for cell, circuit in circuits.items():
        _check(cell, circuit)
    for place, what in enumerate(("task", "model")):
        if len(names := {cell.split("_")[place] for cell in circuits}) < _AT_LEAST:
            raise InputError(
                "MIB's track takes circuits of at least two tasks and two models; these are of "
                f"{f'one {what}, {names.pop()}' if names else 'none'}"
            )
    check_writable(out)
    files = {cell: out / cell / f"importances{suffix}" for cell in circuits}
    there = {path for cell in MIB_CELLS for path in (out / cell).glob("*")}
    if others := sorted(there - set(files.values())):
        raise InputError(f"{others[0]}: is of another submission, and would be uploaded with this one; remove it")
    notes = list[str]()
    for cell, circuit in circuits.items():
        circuit, shifted = _by_size_too(circuit)
        changed = write_mib(circuit, files[cell], _SHAPES[cell.split("_")[1]].d_model)
        notes += [f"{cell}: {change}" for change in (*shifted, *changed)]
    return notes


def _by_size_too(circuit: Circuit) -> tuple[Circuit, list[str]]:
    """The circuit with scores that order edges by size as by sign, where its method ranks by sign alone."""
    method = _ranks_by_sign_alone(circuit)
    if circuit.scores is None or method is None:
        return circuit, []
    if circuit.scores.isfinite().all() and not (circuit.scores < 0).any():
        return circuit, []
    ranks = ranked(circuit.scores, absolute=False).argsort(stable=True).argsort() + 1
    return replace(circuit, scores=ranks.float()), [f"scores: {method}'s became their ranks, since CMD goes by size"]


def _ranks_by_sign_alone(circuit: Circuit) -> str | None:
    """The name of its method, if the size of its scores means nothing."""
    known = methods().get(str(record_of(circuit.provenance, "method").get("name")))
    return None if known is None or "absolute" in known.signs else known.name


def _check(cell: str, circuit: Circuit) -> None:
    """Refuse what the track would, or would misjudge. Raises `InputError`."""
    if cell not in MIB_CELLS:
        raise InputError(f"{cell}: no cell of MIB's track; choose {', '.join(MIB_CELLS)}")
    scores = torch.zeros(0) if circuit.scores is None else ranked(circuit.scores, absolute=False)
    known = scores[scores > -torch.inf]
    if len(known.unique()) < 2:
        raise InputError(f"{cell}: its circuit has no scores to rank edges by; give one that a method scored")
    missing = len(circuit.kept) - len(known)
    if missing and bool((known < 0).any()) and _ranks_by_sign_alone(circuit) is None:
        raise InputError(
            f"{cell}: {missing:,} of its edges have no score and others a negative one; the track ranks by sign and by "
            "size, and no score is last both ways: score every edge, or give those without one a score, such as 0"
        )
    if circuit.ablation_kind != "interchange":
        raise InputError(
            f"{cell}: found under {circuit.ablation_kind} ablation; the track judges under interchange, from its "
            "counterfactual prompts"
        )
    as_format_has_it(circuit, "MIB's track")  # which refuses features and neurons
    model, spec = cell.split("_")[1], circuit.graph.spec
    wanted = _SHAPES[model]._asdict() | {"parallel": False}
    del wanted["d_model"]  # which a circuit does not say
    if spec.kv == "expanded":  # nor, where each query head has keys and values, how many the model has
        del wanted["n_kv_heads"]
    for name, value in wanted.items():
        if getattr(spec, name) != value:
            raise InputError(f"{cell}: its circuit's graph has {name}={getattr(spec, name)}; {model} has {value}")
