"""Metrics, settings and pictures for TensorBoard or Weights & Biases, where a run is asked for them and they are
installed.
"""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from edgewise._errors import InputError
from edgewise.runs._files import write_atomically

WANDB_RUN = "wandb-run.txt"
"""The file in a run's folder that names its run there, so that one taken up again goes on in the same curve."""


class Log(NamedTuple):
    """One log that is open."""

    write: Callable[[dict[str, float], int], Any]
    """Takes a step's metrics, and how many steps are done."""
    picture: Callable[[str, Path], Any]
    """Takes a title and a PNG file."""
    close: Callable[[], Any]


@contextmanager
def loggers(
    names: Sequence[str], folder: Path | None, settings: Mapping[str, Any] | None = None, *, resume: bool = True
) -> Iterator[list[Log]]:
    """Yield each of the logs named.

    Args:
        names: `tensorboard` or `wandb`.
        folder: the run's folder; `runs` if None.
        settings: the run's, as plain values, to be shown beside its curves.
        resume: go on in the log of the run that the folder holds.

    Raises:
        InputError: one is unknown, not installed, or does not open, such as wandb where nobody is logged in.
    """
    with ExitStack() as stack:
        opened = []
        for name in names:
            if name not in _OPEN:
                raise InputError(f"log={name!r}: choose {' or '.join(_OPEN)}")
            try:
                log = _OPEN[name](folder, settings, resume)
            except ImportError as error:
                raise InputError(f"log={name!r}: it is not installed; pip install {name}") from error
            except Exception as error:  # of any kind that the tool has
                reason = " ".join(str(error).split())[:160]
                raise InputError(f"log={name!r}: it does not open ({reason}){_ADVICE.get(name, '')}") from error
            stack.callback(log.close)
            opened.append(log)
        yield opened


def log_pictures(names: Sequence[str], folder: Path, pictures: Mapping[str, Path]) -> None:
    """Show PNG files, by title, in the logs of a run that is over. Raises `InputError` as the run would."""
    with loggers(names, folder) as logs:
        for log in logs:
            for title, path in pictures.items():
                log.picture(title, path)


def _tensorboard(folder: Path | None, settings: Mapping[str, Any] | None, resume: bool) -> Log:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder or "runs"))
    if settings is not None:
        writer.add_text("settings", f"```json\n{json.dumps(settings, indent=2)}\n```")

    def write(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    def picture(title: str, path: Path) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            writer.add_image(title, np.asarray(image.convert("RGB")), dataformats="HWC")

    return Log(write, picture, writer.close)


def _wandb(folder: Path | None, settings: Mapping[str, Any] | None, resume: bool) -> Log:
    import wandb  # pyright: ignore[reportMissingImports] (optional)

    known = None if folder is None else folder / WANDB_RUN
    name = known.read_text().strip() if resume and known is not None and known.is_file() else uuid.uuid4().hex[:12]
    config = None if settings is None else dict(settings)
    run = wandb.init(project="edgewise", dir=folder, id=name, resume="allow", config=config)
    if known is not None:
        write_atomically(known, f"{name}\n")
    return Log(
        lambda values, step: run.log(values, step=step),
        lambda title, path: run.log({title: wandb.Image(str(path))}),
        run.finish,
    )


_ADVICE = {"wandb": "; log in, or set WANDB_MODE=offline"}
_OPEN = {"tensorboard": _tensorboard, "wandb": _wandb}
