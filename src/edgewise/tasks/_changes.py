"""Position groups for a task that marks none: where its prompts differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from edgewise._errors import InputError
from edgewise.tasks._marks import REST
from edgewise.tasks._pairs import Pair
from edgewise.tasks._splits import SPLITS
from edgewise.tasks._store import stored
from edgewise.tasks._task import Task

LAST = "last"
"""The group of the tokens that are predicted from, where the prompts do not differ there."""


def grouped_by_changes(task: Task) -> Task:
    """The same task with its positions grouped by where clean and corrupted prompts differ.

    Each run of tokens that differ is a group, numbered from the left ("change 1", "change 2", …); the tokens whose
    prediction is judged are "last", and all others "rest". On `ioi` the changes are the first name, the second, and the
    one that comes again.

    Raises:
        InputError: the task's pairs have groups already.
    """
    if task.span_names:
        raise InputError(f"{task.name}: its positions are grouped already, into {', '.join(task.span_names)}")
    most = max((_runs(pair)[-1] for split in SPLITS for pair in task.split(split)), default=0)
    names = (REST, LAST, *(f"change {number + 1}" for number in range(most)))
    splits = {split: stored(_grouped(task.split(split))) for split in SPLITS}
    return replace(task, **splits, span_names=names, provenance={**task.provenance, "spans": "changes"})


def _grouped(pairs: Sequence[Pair]) -> Iterator[Pair]:
    for pair in pairs:
        judged = {target.position for target in pair.targets}
        *runs, _ = _runs(pair)
        groups = (run + 1 if run else int(place in judged) for place, run in enumerate(runs))
        yield replace(pair, spans=tuple(groups))


def _runs(pair: Pair) -> list[int]:
    """For each token the number of its run of changes, from 1, or 0; and at the end how many runs there are."""
    numbers, runs, before = [], 0, False
    for clean, corrupted in zip(pair.clean, pair.corrupted, strict=True):
        runs += clean != corrupted and not before
        before = clean != corrupted
        numbers.append(runs if before else 0)
    return [*numbers, runs]
