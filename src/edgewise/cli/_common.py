"""What several commands do: load, make the task, refuse what is wrong before any of that."""

from __future__ import annotations

import atexit
import math
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import edgewise as ew
from edgewise.cli._options import DtypeName
from edgewise.runs import record_of

CONSTANTS = "constants.safetensors"
"""Beside a circuit, what its removed edges carry under an ablation by means or learned constants."""


def load(
    model: str, device: str, dtype: DtypeName | None = None, offload: Literal["cpu", "disk"] | None = None
) -> ew.Model:
    """Load a model, quietly where nobody watches; on this process's own GPU, under `torchrun`."""
    quiet()
    asked = model, own_device(device), torch_type(dtype, device), offload
    held = {} if _kept is None else _kept
    if asked not in held:
        held[asked] = ew.load_model(model, device=asked[1], dtype=asked[2], offload=offload)
    return held[asked]


_kept: dict[tuple[Any, ...], ew.Model] | None = None


@contextmanager
def kept_models() -> Iterator[None]:
    """Load each model once, for several commands in a row."""
    global _kept
    _kept = {}
    try:
        yield
    finally:
        _kept = None


def own_device(device: str) -> str:
    """This process's own GPU of several, as `torchrun` numbers them; any other device as it is."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device


def ranks_of(device: str) -> Any:
    """The processes that `torchrun` started, joined until the program ends, or this one alone; see
    `edgewise.runs.Ranks`. Of several the first alone prints.
    """
    import torch

    where = ew.models.usable_device(own_device(device))
    if where.type == "cuda" and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(where)
    joined = ExitStack()
    atexit.register(joined.close)
    ranks = joined.enter_context(ew.runs.processes(where))
    if ranks.rank:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the program ends)
    return ranks


def torch_type(name: DtypeName | None, device: str = "cpu") -> Any:
    """PyTorch's type of that name; `auto` is bfloat16 where the device has instructions for it, otherwise None."""
    import torch

    if name == "auto":
        where = torch.device(own_device(device))
        return torch.bfloat16 if ew.runs.fastest_precision(where) == "bfloat16" else None
    return None if name is None else {"float32": torch.float32, "bf16": torch.bfloat16}[name]


def quiet() -> None:
    """Show no bar of loaded weights where nobody watches."""
    if not sys.stderr.isatty():  # it would only clutter a log
        from transformers.utils import logging

        logging.disable_progress_bar()


def make_task(
    name: str,
    tokenizer: Any,
    sizes: Mapping[str, int | None] | None = None,
    seed: int = 0,
    bos: bool | None = None,
    longest: int | None = None,
) -> ew.tasks.Task:
    """The built-in task of that name, or that of a file of templates or of pairs; with a BOS token before its prompts,
    or nothing, if told. A file's prompts are `longest` tokens long at most; `sizes`, by split, are of pairs to draw.
    """
    told: dict[str, Any] = {} if bos is None else {"bos": bos}
    drawn = {split: n for split, n in (sizes or {}).items() if n is not None}
    for split, n in drawn.items():
        if n < 0:
            raise ew.InputError(f"--{split} {n}: use at least 0")
    compiled = isinstance(tokenizer, ew.models.ProgramTokenizer)
    if compiled and name != "program":
        raise ew.InputError(
            f"--task {name!r}: the model is a compiled program, which has a task of its own; use program"
        )
    if compiled and bos is not None:
        raise ew.InputError("--bos, --no-bos: a compiled program's inputs have a BOS token of their own; leave it out")
    if name in ew.tasks.TASK_NAMES:
        return ew.tasks.ALL_TASKS[name](tokenizer, **drawn, seed=seed, **told)
    if name.endswith(ew.tasks.TEMPLATE_SUFFIXES):
        return ew.tasks.from_template_file(name, tokenizer, **drawn, seed=seed, bos=bos, longest=longest)
    # A file's pairs go to the same splits whatever the seed, or a second run's circuit would be judged on pairs that
    # the first one's was found on.
    return ew.tasks.from_file(name, tokenizer, bos=bos, longest=longest)


def is_drawn(name: str) -> bool:
    """Whether a task's pairs are drawn, as those of a file of pairs are not."""
    return name in ew.tasks.TASK_NAMES or name.endswith(ew.tasks.TEMPLATE_SUFFIXES)


def refuse_drawing(name: str, options: Mapping[str, int | None]) -> None:
    """Refuse options about the pairs to draw of what is a file of pairs. Raises `InputError`."""
    given = [option for option, value in options.items() if value is not None]
    if given and not is_drawn(name):
        raise ew.InputError(f"{given[0]}: {name} is a file of pairs, of which none are drawn; leave it out")


def task_of(
    circuit: ew.Circuit,
    tokenizer: Any,
    name: str | None = None,
    test: int | None = None,
    seed: int | None = None,
    bos: bool | None = None,
    longest: int | None = None,
) -> ew.tasks.Task:
    """The task that a circuit was found on, or another by name; see `make_task`. Raises `InputError`."""
    options: dict[str, int | None] = {"--seed": seed, "--test": test}
    if name is not None:
        made = make_task(name, tokenizer, {"test": test}, seed or 0, bos, longest)
        return in_groups(made, circuit, name)
    if drawn := [option for option, value in options.items() if value is not None]:
        raise ew.InputError(f"{drawn[0]}: a circuit's own task keeps its pairs; give --task to draw others")
    return ew.tasks.from_provenance(record_of(circuit.provenance, "task"), tokenizer, bos=bos)


def in_groups(task: ew.tasks.Task, circuit: ew.Circuit, name: str) -> ew.tasks.Task:
    """Another task with the position groups of a circuit whose edges carry positions; grouped by changes, as `find
    --positions` groups it, where the circuit's own task was. Raises `InputError` where it has other groups.
    """
    wanted = circuit.graph.spec.spans
    if not wanted:
        return task
    if not task.span_names and record_of(circuit.provenance, "task").get("spans") == "changes":
        task = ew.tasks.grouped_by_changes(task)
        if wanted[: len(task.span_names)] == task.span_names:  # it may have fewer changes; those groups are empty
            task = replace(task, span_names=wanted)
    if task.span_names != wanted:
        own = f"the position groups {', '.join(task.span_names)}" if task.span_names else "no position groups"
        raise ew.InputError(
            f"--task {name}: its prompts have {own}, and the circuit's edges carry {', '.join(wanted)}; mark the same "
            "spans in its prompts (docs/tasks.md), or find a circuit on it"
        )
    return task


def load_circuit(path: Path) -> ew.Circuit:
    """A saved circuit; a file that is not there is refused before PyTorch is imported."""
    _check_there(path)
    return ew.Circuit.load(path)


def load_scores(path: Path) -> ew.Scores:
    """Saved scores, or a saved circuit's; a file that is not there is refused before PyTorch is imported."""
    _check_there(path)
    return ew.Scores.load(path)


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise ew.InputError(f"{path}: no such file; give a circuit.safetensors that `edgewise find` wrote")


def load_for(
    circuit: ew.Circuit,
    model: str | None,
    device: str,
    dtype: DtypeName | None = None,
    offload: Literal["cpu", "disk"] | None = None,
) -> ew.Model:
    """A model to judge a circuit on, its own if none is named."""
    return load(model or str(record_of(circuit.provenance, "model").get("id", "")), device, dtype, offload)


def scores_of(path: Path, circuit: ew.Circuit) -> ew.Scores:
    """A circuit's scores. Raises `InputError` where it has none."""
    if circuit.scores is None:
        raise ew.InputError(f"{path}: this circuit has no scores, so there is no other size of it")
    return ew.Scores.of(circuit)


def engine_of(path: Path, circuit: ew.Circuit, model: ew.Model, **choices: Any) -> ew.Engine:
    """The engine that a saved circuit is judged on; means and learned constants lie beside it. Raises `InputError` for
    others than it records.
    """
    ablation = circuit.stated_ablation
    if ablation is None or not ablation.takes_constants:
        return ew.Engine(model, circuit.graph, ablation, **choices)
    engine = ew.load_constants(model, path.parent / CONSTANTS, **choices)
    if circuit.provenance.get("constants") not in (None, engine.constants_hash):
        raise ew.InputError(
            f"{path.parent / CONSTANTS}: not the constants that {path.name} was found with; put those of its run "
            "beside it, or find it again"
        )
    return engine


def check_free(path: Path, force: bool) -> None:
    """Refuse to write over a file, or into a folder with files, before there is any work. Raises `InputError`."""
    if not force and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ew.InputError(f"{path}: is there already; choose another place, or --force to write over it")


def check_page(write: Path | None) -> None:
    """Refuse a page that could not be written in the end, before there is any work."""
    if write is None:
        return
    if write.suffix != ".md":
        raise ew.InputError(f"--write {write}: give a .md file")
    ew.report.check_path(write.with_suffix(".png"))
    ew.runs.check_writable(write.parent)


def as_typed(*words: object, given: Mapping[str, tuple[Any, Any]], last: Sequence[object] = ()) -> str:
    """A command as it was given, for a page that it wrote: `words`, then of the options, each with its value and its
    default, those that have another value, then `last`.
    """
    changed = [x for name, (value, unset) in given.items() if value != unset for x in (name, value)]
    texts = (f"{each:g}" if isinstance(each, float) else str(each) for each in (*words, *changed, *last))
    return shlex.join(["edgewise", *texts])


def check_task(name: str, what: str = "--task", built_in: Iterable[str] | None = None) -> None:
    """Refuse what is neither a built-in task nor a file that is there, of pairs or of templates, before a model is
    loaded; `what`: what it was given as.
    """
    known = list(ew.tasks.TASK_NAMES if built_in is None else built_in)
    if name in known or name.startswith(ew.tasks.HUB):
        return
    suffixes = ew.tasks.SUFFIXES + ew.tasks.TEMPLATE_SUFFIXES
    if not name.endswith(suffixes):
        choices = f"choose {', '.join(known)}, or " if known else ""
        raise ew.InputError(f"{what} {name!r}: {choices}give a file ({', '.join(suffixes)}) or hf:NAME")
    if not Path(name).is_file():
        raise ew.InputError(f"{what} {name!r}: no such file; give a file of pairs or of templates")


def cache_size(gib: float) -> int:
    """`--cache` in bytes. Raises `InputError`."""
    if not 0 <= gib < math.inf:
        raise ew.InputError(f"--cache {gib}: give GiB, 0 or more")
    return int(gib * 2**30)


def parse_sparsities(text: str) -> list[float]:
    """Numbers between commas. Raises `InputError`."""
    try:
        sizes = [float(part) for part in text.split(",")]
    except ValueError:
        sizes = [math.nan]
    if not all(0 < size < 1 for size in sizes):
        raise ew.InputError(f"--sparsities {text!r}: give numbers between 0 and 1, such as 0.9,0.98")
    return sizes
