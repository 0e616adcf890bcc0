"""The loop that every learned method runs in: progress, checkpoints, resume, and a clean stop whatever happens."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgewise._errors import InputError
from edgewise.runs._files import atomic_path, check_writable
from edgewise.runs._progress import progress

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class RunOptions:
    """How a run behaves, as opposed to what it computes."""

    out: Path | None = None
    """Folder for checkpoints and logs; None keeps nothing on disk."""
    checkpoint_seconds: float = 30.0
    """How much work a kill may cost."""
    resume: bool = True
    """Continue from a checkpoint of the same configuration if the folder has one."""
    progress: bool = True
    """Show a progress bar (it goes to the error stream)."""
    log: tuple[str, ...] = ()
    """Also write the metrics to `tensorboard` or `wandb`, if installed."""

    def __post_init__(self) -> None:
        """Take a path or a single log given as text."""
        if self.out is not None:
            object.__setattr__(self, "out", Path(self.out))
        if isinstance(self.log, str):
            object.__setattr__(self, "log", (self.log,))


class Learner(Protocol):
    """What a learned method gives the loop."""

    def prepare(self) -> None:
        """Do what every run needs first, fresh or resumed."""
        ...

    def begin(self) -> None:
        """Do what only a fresh run needs, such as the attribution that it starts from."""
        ...

    def step(self, step: int) -> dict[str, Tensor | float]:
        """Do one step and return its metrics, `loss` among them.

        Raises:
            NotFiniteError: a number is not finite; raised before anything is changed.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs."""
        ...

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up the state that `tensors` gave."""
        ...


class NotFiniteError(Exception):
    """A loss or gradient is NaN or infinite; the learner's state is still that of the last good step."""


class NothingToGainError(Exception):
    """More steps would not help: the run is over; raised before anything but the learner's tally is changed."""


@dataclass(frozen=True)
class RunReport:
    """How a run went."""

    steps: int
    """Steps done in all, earlier runs of a resumed one included."""
    seconds: float
    """Seconds spent in all."""
    stopped: str | None
    """Why it ended early, or None."""


def run_steps(learner: Learner, n_steps: int, config: dict[str, Any], options: RunOptions, title: str) -> RunReport:
    """Run a learner for `n_steps` steps.

    Args:
        learner: the method.
        n_steps: how many.
        config: what decides the run's numbers, as plain values; a checkpoint of another configuration is refused.
        options: how to behave.
        title: what the progress bar says.

    Returns:
        The report. An interrupt (Ctrl-C) or a number that is not finite ends the run early; the learner then holds the
        last good state.

    Raises:
        InputError: the folder holds a checkpoint of another configuration, or one that cannot be read; or nothing is
            finite at the very first step.
        KeyboardInterrupt: interrupted before the first step: there is nothing to give.
    """
    if options.out is not None:
        check_writable(options.out)
    write, close = open_loggers(options)
    step, before, fresh = resume(learner, config, options)
    begin = saved = time.monotonic()
    stopped = None
    good, begun = (step, learner.tensors()), not fresh
    with progress(show=options.progress) as bars:
        bar = bars.add_task(title, total=n_steps, completed=step, note="starting" if fresh else "going on")
        try:
            if step < n_steps:
                learner.prepare()
            if fresh:
                learner.begin()
                begun = True
                if options.out is not None:  # what a run begins with may be the longest part of a short one
                    save_checkpoint(learner, 0, time.monotonic() - begin, config, options.out)
            while step < n_steps:
                good = (step, {name: tensor.detach().clone() for name, tensor in learner.tensors().items()})
                metrics = learner.step(step)
                step += 1
                if write or options.progress:
                    values = {name: float(value) for name, value in metrics.items()}
                    for each in write:
                        each(values, step)
                    note = " ".join(f"{name} {value:.3g}" for name, value in values.items())
                    bars.update(bar, completed=step, note=note)
                if options.out is not None and time.monotonic() - saved > options.checkpoint_seconds:
                    save_checkpoint(learner, step, before + time.monotonic() - begin, config, options.out)
                    saved = time.monotonic()
        except NothingToGainError:
            pass
        except KeyboardInterrupt:
            if not begun:
                raise  # what the run begins with is not there yet: there is nothing to give
            step = good[0]  # an interrupt may come in the middle of an update, or just after it
            learner.restore(good[1])
            stopped = f"interrupted after step {step}"
        except NotFiniteError as error:
            if not step:
                raise InputError(f"{title}: at the first step {error}; check the task's loss and the start") from error
            stopped = f"step {step + 1}: {error}"
    close()
    report = RunReport(step, before + time.monotonic() - begin, stopped)
    if options.out is not None and begun:
        save_checkpoint(learner, step, report.seconds, config, options.out)
    return report


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as named tensors."""
    states = [optimizer.state[p] for group in optimizer.param_groups for p in group["params"]]
    return {f"optimizer.{i}.{name}": value for i, state in enumerate(states) for name, value in state.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.state.clear()
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, field = name.split(".")
            parameter = parameters[int(index)]
            optimizer.state[parameter][field] = value if field == "step" else value.to(parameter)


def resume(learner: Learner, config: dict[str, Any], options: RunOptions) -> tuple[int, float, bool]:
    """Take up a checkpoint if there is one: steps done, seconds spent, whether the run is a fresh one."""
    path = None if options.out is None else options.out / CHECKPOINT
    if path is None or not options.resume or not path.is_file():
        return 0, 0.0, True
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["edgewise"])
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        step, seconds, settings = int(header["step"]), float(header["seconds"]), header["config"]
        wanted = json.loads(json.dumps(config))
        if settings != wanted:
            different = sorted(key for key in wanted.keys() | settings.keys() if settings.get(key) != wanted.get(key))
            raise InputError(
                f"{path}: belongs to a run with other settings ({', '.join(different)}); remove it or choose another "
                "folder"
            )
        if step and hasattr(learner, "optimizer") and not any(name.startswith("optimizer.") for name in tensors):
            raise KeyError("optimizer")
        learner.restore(tensors)
    except InputError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a checkpoint of edgewise ({reason[:120]}); remove it to start anew") from error
    return step, seconds, False


def save_checkpoint(learner: Learner, step: int, seconds: float, config: dict[str, Any], out: Path) -> None:
    header = {"step": step, "seconds": seconds, "config": config}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in learner.tensors().items()}
    with atomic_path(out / CHECKPOINT) as temporary:
        save_file(tensors, temporary, metadata={"edgewise": json.dumps(header)})


def open_loggers(options: RunOptions) -> tuple[list[Callable[[dict[str, float], int], None]], Callable[[], None]]:
    """The writers asked for, and what closes them."""
    write: list[Callable[[dict[str, float], int], None]] = []
    closers: list[Callable[[], Any]] = []
    for name in options.log:
        if name not in _LOGGERS:
            raise InputError(f"log={name!r}: choose {' or '.join(_LOGGERS)}")
        try:
            each, close = _LOGGERS[name](options)
        except ImportError as error:
            raise InputError(f"log={name!r}: it is not installed; pip install {name}") from error
        write.append(each)
        closers.append(close)

    def close_all() -> None:
        for close in closers:
            close()

    return write, close_all


def _tensorboard(options: RunOptions) -> tuple[Callable[[dict[str, float], int], None], Callable[[], Any]]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(options.out or "runs"))

    def write(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return write, writer.close


def _wandb(options: RunOptions) -> tuple[Callable[[dict[str, float], int], None], Callable[[], Any]]:
    import wandb  # pyright: ignore[reportMissingImports] (optional)

    run = wandb.init(project="edgewise", dir=options.out)
    return lambda values, step: run.log(values, step=step), run.finish


_LOGGERS = {"tensorboard": _tensorboard, "wandb": _wandb}
