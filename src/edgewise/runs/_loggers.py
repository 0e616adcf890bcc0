"""Metrics for TensorBoard or Weights & Biases, where a run is asked for them and they are installed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from edgewise._errors import InputError

Write = Callable[[dict[str, float], int], None]
"""Takes a step's metrics, and how many steps are done."""


@contextmanager
def loggers(names: Sequence[str], folder: Path | None) -> Iterator[list[Write]]:
    """Yield what writes to each of the logs named. Raises `InputError` for one that is unknown or not installed."""
    with ExitStack() as stack:
        opened = []
        for name in names:
            if name not in _OPEN:
                raise InputError(f"log={name!r}: choose {' or '.join(_OPEN)}")
            try:
                write, close = _OPEN[name](folder)
            except ImportError as error:
                raise InputError(f"log={name!r}: it is not installed; pip install {name}") from error
            stack.callback(close)
            opened.append(write)
        yield opened


def _tensorboard(folder: Path | None) -> tuple[Write, Callable[[], Any]]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder or "runs"))

    def write(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return write, writer.close


def _wandb(folder: Path | None) -> tuple[Write, Callable[[], Any]]:
    import wandb  # pyright: ignore[reportMissingImports] (optional)

    run = wandb.init(project="edgewise", dir=folder)
    return lambda values, step: run.log(values, step=step), run.finish


_OPEN = {"tensorboard": _tensorboard, "wandb": _wandb}
