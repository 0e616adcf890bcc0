"""What several commands do: load, make the task, refuse what is wrong before any of that."""

import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from edgewise._errors import InputError
from edgewise.runs import check_writable


def load(model: str, device: str, dtype: torch.dtype | None = None) -> Any:
    """Load a model, quietly where nobody watches."""
    import edgewise as ew

    quiet()
    return ew.load_model(model, device=device, dtype=dtype)


def quiet() -> None:
    """Show no bar of loaded weights where nobody watches."""
    if not sys.stderr.isatty():  # it would only clutter a log
        from transformers.utils import logging

        logging.disable_progress_bar()


def make_task(name: str, tokenizer: Any, train: int, validation: int, test: int, seed: int) -> Any:
    """The built-in task of that name, or that of a file."""
    from edgewise import tasks
    from edgewise.models import ProgramTokenizer

    compiled = isinstance(tokenizer, ProgramTokenizer)  # in a name, or the type checker takes no other tokenizer
    if compiled and name != "program":
        raise InputError(f"--task {name!r}: the model is a compiled program, which has a task of its own; use program")
    if name in tasks.ALL_TASKS:
        return tasks.ALL_TASKS[name](tokenizer, train=train, validation=validation, test=test, seed=seed)
    # A file's pairs go to the same splits whatever the seed, or a second run's circuit would be judged on pairs that
    # the first one's was found on.
    return tasks.from_file(name, tokenizer)


def check_page(write: Path | None) -> None:
    """Refuse a page that could not be written in the end, before there is any work."""
    if write is None:
        return
    if write.suffix != ".md":
        raise InputError(f"--write {write}: give a .md file")
    check_writable(write.parent)


def check_task(name: str, what: str = "--task", built_in: Iterable[str] | None = None) -> None:
    """Refuse what is neither a built-in task nor a file of pairs that is there, before a model is loaded.

    Args:
        name: what the user gave.
        what: what it was given as.
        built_in: the tasks to choose from; all of them if None.
    """
    from edgewise import tasks

    known = list(tasks.ALL_TASKS if built_in is None else built_in)
    if name in known or name.startswith("hf:"):
        return
    if not name.endswith(tasks.SUFFIXES):
        choices = f"choose {', '.join(known)}, or " if known else ""
        raise InputError(f"{what} {name!r}: {choices}give a file ({', '.join(tasks.SUFFIXES)}) or hf:NAME")
    if not Path(name).is_file():
        raise InputError(f"{what} {name!r}: no such file; give a file of pairs")


def cache_size(gib: float) -> int:
    """`--cache` in bytes. Raises `InputError`."""
    if not 0 <= gib < math.inf:
        raise InputError(f"--cache {gib}: give GiB, 0 or more")
    return int(gib * 2**30)


def parse_sparsities(text: str) -> list[float]:
    """Numbers between commas. Raises `InputError`."""
    try:
        sizes = [float(part) for part in text.split(",")]
    except ValueError:
        sizes = [math.nan]
    if not all(0 < size < 1 for size in sizes):
        raise InputError(f"--sparsities {text!r}: give numbers between 0 and 1, such as 0.9,0.98")
    return sizes


def one_of(option: str, value: str | None, known: tuple[str | None, ...]) -> None:
    """Refuse a value that an option does not know. Raises `InputError`."""
    if value not in known:
        raise InputError(f"{option} {value!r}: choose {', '.join(filter(None, known))}")
