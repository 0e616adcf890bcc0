"""The task of a compiled program: equally long inputs in pairs, judged at every position."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from edgewise._errors import InputError
from edgewise.models import Program, ProgramTokenizer
from edgewise.tasks._draw import generator, sample
from edgewise.tasks._generate import check_sizes
from edgewise.tasks._pairs import Pair, Target
from edgewise.tasks._splits import SPLITS
from edgewise.tasks._task import Task, pairs_hash

if TYPE_CHECKING:
    from random import Random


def program(tokenizer: Any, train: int = 200, validation: int = 200, test: int = 256, seed: int = 0) -> Task:
    """Pairs of different, equally long inputs of a compiled program; every position after the first is judged.

    The splits share no pair (an input may be in several). Each takes pairs of all lengths in turn, as long as there are
    any, since the few short ones would hardly be drawn otherwise.

    Args:
        tokenizer: of a compiled model (`edgewise.load_model("tracr:reverse").tokenizer`).
        train: pairs to train on; of a program with fewer pairs than are asked for in all, each split gets its share.
        validation: pairs to choose on.
        test: pairs to judge on.
        seed: of the pairs.

    Returns:
        The task, with the squared distance to the full model's outputs as loss and metric.

    Raises:
        InputError: the model is no compiled program, or a size is impossible.
    """
    if not isinstance(tokenizer, ProgramTokenizer):
        raise InputError("program: this task is that of a compiled model, such as tracr:reverse; load one of those")
    sizes = {"train": train, "validation": validation, "test": test}
    arguments = {**sizes, "seed": seed}
    check_sizes("program", arguments)
    known = tokenizer.program
    drawn = _drawn(known, sum(sizes.values()), generator("program", known.name, seed))
    share = min(1.0, len(drawn) / max(1, sum(sizes.values())))
    splits, start = [], 0
    for split in SPLITS:
        size = int(sizes[split] * share)
        splits.append(tuple(_pair(known, *rows) for rows in drawn[start : start + size]))
        start += size
    provenance = {"task": "program", "arguments": arguments, "sha256": pairs_hash(*splits)}
    metrics = ("l2", "close") if known.outputs is None else ("l2", "exact_match", "accuracy")
    return Task(known.name, *splits, loss="l2", metric="l2", provenance=provenance, metrics=metrics)


def _drawn(known: Program, count: int, random: Random) -> list[tuple[int, int]]:
    """Up to `count` different pairs of inputs by number, of each length in turn."""
    by_length = []
    for length in known.lengths.unique().tolist():
        rows = (known.lengths == length).nonzero()[:, 0].tolist()
        n = len(rows)
        chosen = sample(random, range(n * (n - 1)), min(count, n * (n - 1)))
        # Number i stands for the i-th ordered pair of two different rows.
        by_length.append([(rows[i // (n - 1)], rows[i % (n - 1) + (i % (n - 1) >= i // (n - 1))]) for i in chosen])
    longest = max(map(len, by_length))
    turns = (each[turn] for turn in range(longest) for each in by_length if turn < len(each))
    return list(islice(turns, count))


def _pair(known: Program, clean: int, corrupted: int) -> Pair:
    length = int(known.lengths[clean])
    ids, other = (tuple(known.inputs[row, :length].tolist()) for row in (clean, corrupted))
    said = known.expected[clean, :length]
    # A numerical program has one output, and so no answers among several: its one stands for itself.
    answers = torch.zeros_like(said) if known.outputs is None else said
    targets = tuple(Target(position, (int(answers[position]),)) for position in range(1, length))
    return Pair(ids, other, targets, known.text(ids), known.text(other))
