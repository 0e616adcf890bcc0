"""Checkpoints: a learner's state in one file, with how far its run is and the settings that make it that run's."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from edgewise._errors import InputError
from edgewise.runs._learner import Learner
from edgewise.runs._tensors import reading_tensors, write_tensors

CHECKPOINT = "checkpoint.safetensors"
"""The file in a run's folder from which it goes on."""

Stop = Literal["interrupted", "not finite"]
"""Why a run ended early: Ctrl-C, or a loss or gradient that is NaN or infinite."""


@dataclass(frozen=True)
class RunReport:
    """How a run went, or stands."""

    steps: int
    """Steps done in all, earlier runs of a resumed one included."""
    seconds: float
    """Seconds spent in all."""
    stopped: Stop | None = None
    """Why it ended early, or None."""
    reason: str = ""
    """What was not finite."""
    interrupted: bool = False
    """Whether Ctrl-C came. Where it came in the last step the run is whole, and has not `stopped` early; what was to
    follow should not begin."""

    @property
    def message(self) -> str | None:
        """Why and where it ended early, in words; None if it did not."""
        if self.stopped == "not finite":
            return f"step {self.steps + 1}: {self.reason}"
        return None if self.stopped is None else f"interrupted after step {self.steps}"

    def record(self) -> dict[str, Any]:
        """As a result's provenance has it."""
        found: dict[str, Any] = {"steps": self.steps, "seconds": round(self.seconds, 1)}
        return found if self.stopped is None else found | {"stop": self.stopped, "stopped": self.message}


def save_checkpoint(learner: Learner, report: RunReport, settings: Mapping[str, Any], folder: Path) -> None:
    """Write a learner's state, whole or not at all. Raises `InputError` if it cannot be written."""
    header = {"step": report.steps, "seconds": report.seconds, "config": settings}
    write_tensors(folder / CHECKPOINT, learner.tensors(), header)


def resume(learner: Learner, settings: Mapping[str, Any], folder: Path) -> RunReport | None:
    """Take up the checkpoint in a folder; None if there is none. Raises `InputError` for one of other settings, or that
    cannot be read.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    with reading_tensors(path, "a checkpoint of edgewise", "remove it to start anew") as (header, tensors):
        report = RunReport(int(header["step"]), float(header["seconds"]))
        found, wanted = header["config"], json.loads(json.dumps(settings))
        if found != wanted:
            different = sorted(key for key in wanted.keys() | found.keys() if found.get(key) != wanted.get(key))
            raise InputError(
                f"{path}: belongs to a run with other settings ({', '.join(different)}); remove it or choose another "
                "folder"
            )
        stored = any(name.startswith("optimizer.") for name in tensors)
        if report.steps and hasattr(learner, "optimizer") and not stored:
            raise KeyError("optimizer")
        learner.restore(tensors)
    return report


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as named tensors."""
    states = [optimizer.state[p] for group in optimizer.param_groups for p in group["params"]]
    return {f"optimizer.{i}.{name}": value for i, state in enumerate(states) for name, value in state.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    counts_there = bool(optimizer.defaults.get("fused"))  # steps on the parameters' device; the others on the CPU
    optimizer.state.clear()
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, field = name.split(".")
            parameter = parameters[int(index)]
            if field == "step":
                optimizer.state[parameter][field] = value.to(parameter.device) if counts_there else value
            else:
                optimizer.state[parameter][field] = value.to(parameter)
