"""The built-in tasks by name, and tasks made again from their provenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgewise import tasks
from edgewise._errors import InputError
from edgewise.tasks._changes import grouped_by_changes
from edgewise.tasks._files import from_file
from edgewise.tasks._metric import Kind, metric_names
from edgewise.tasks._names import BUILT_IN
from edgewise.tasks._task import Task
from edgewise.tasks._template import from_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TASKS: dict[str, Callable[..., Task]] = {name: getattr(tasks, builder) for name, builder in BUILT_IN.items()}
"""The built-in tasks: name -> builder of (tokenizer, train, validation, test, seed, and options of its own)."""
ALL_TASKS: dict[str, Callable[..., Task]] = {**TASKS, "program": tasks.program}
"""Those, and the task of compiled programs, which takes no other model's tokenizer."""


def from_provenance(
    provenance: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, *, bos: bool | None = None
) -> Task:
    """Make a task again from its `provenance`, as a saved circuit carries it.

    The loss and the metric are those recorded, if they go by a name of ours, and otherwise the task's defaults: a
    function of the user's is recorded by its name alone.

    Args:
        provenance: of a built-in task, of templates, or of a file, which must be where it was.
        tokenizer: the one that the task was made with.
        bos: the same texts with the BOS token before them, or with nothing, whatever was recorded.

    Raises:
        InputError: it is no such provenance, or what it makes now are not the same pairs.
    """
    kind, arguments = provenance.get("task"), provenance.get("arguments")
    if kind == "records":
        raise InputError("the task was made of Python records and cannot be made again; pass the task itself")
    builder = {**ALL_TASKS, "file": from_file, "template": from_template}.get(str(kind))
    if builder is None or not isinstance(arguments, Mapping):
        raise InputError(f"the provenance names no task that is known ({kind!r}); pass the task itself")
    other = bos is not None and arguments.get("bos") != bos
    arguments = {**arguments, "bos": bos} if other else arguments
    try:
        task = builder(tokenizer=tokenizer, **arguments)
    except TypeError as error:
        raise InputError(f"{kind}: the provenance has arguments that the task does not take ({error})") from None
    for what, changed in (("file_sha256", "the file has changed"), ("sha256", "the tokenizer or the version differs")):
        if provenance.get(what) != task.provenance.get(what) and not (other and what == "sha256"):
            raise InputError(f"{task.name}: these are not the pairs that were recorded, as {changed} (by {what})")
    if provenance.get("spans") == "changes":
        task = grouped_by_changes(task)
    kinds: tuple[Kind, ...] = ("loss", "metric")
    scores = {kind: provenance[kind] for kind in kinds if provenance.get(kind) in metric_names(kind)}
    made = {name: task.provenance.get(name) for name in ("arguments", "bos", "sha256")} if other else {}
    return replace(task, provenance={**provenance, **made}, **scores)
