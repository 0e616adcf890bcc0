"""A user's own pairs, from dicts or from a JSONL file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from math import isclose
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edgewise._errors import InputError
from edgewise.tasks._draw import generator, sample
from edgewise.tasks._encode import Encoder, Ids, quote
from edgewise.tasks._metrics import Score
from edgewise.tasks._pairs import Pair
from edgewise.tasks._record import pair_of, split_of
from edgewise.tasks._splits import SPLITS, Split
from edgewise.tasks._task import Task, pairs_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_LINE_BYTES = 1 << 20  # a pair of prompts is a few hundred; a longer line is some other kind of file
_PROPORTIONS = (0.6, 0.2, 0.2)


def from_records(
    records: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    name: str = "records",
    *,
    proportions: Sequence[float] = _PROPORTIONS,
    seed: int = 0,
    loss: str | Score = "kl",
    metric: str | Score | None = None,
) -> Task:
    """A task of the user's own pairs.

    A record is in one of three forms, which may be mixed; prompts are text, and clean and corrupted must have equally
    many tokens.

    * `{"clean", "corrupted", "answer"}`, with `"wrong_answer"` or without. The answer is the text that continues the
      clean prompt, its space included (`" Mary"`). Several tokens are judged one by one, each after the right ones
      before it (the corrupted prompt is given the same ones). A list of answers is a set: any is right, and each must
      be a single token. A wrong answer (or each of a list) counts where its tokens first leave the answer's, and
      there alone.
    * `{"clean": "… <predict>Mary</predict> …", "corrupted": "…"}`, the form of the Edge Pruning code: the tokens of the
      span are judged, and text after it is kept. The corrupted text has a span of its own, as many tokens long and at
      the same place; or has none, and then is as long as the whole clean text or, with nothing after the clean span,
      as what stands before it. `"wrong_answer"` is allowed here too, and is what would stand in the span.
    * `{"clean", "corrupted", "positions": "all"}`: the prediction of every next token of the clean text is judged.

    Each record may have a `"split"`: "train", "validation" (or "val") or "test". Where none has, they are dealt out
    at random, records with the same clean prompt to the same split. Other keys are ignored, unless they look like a
    misspelling.

    Args:
        records: the pairs.
        tokenizer: the model's.
        name: what the task is called, also in messages.
        proportions: of train, validation and test, where no record has a split.
        seed: of that dealing.
        loss: see `Task`.
        metric: see `Task`; by default "logit_diff" if every pair has a wrong answer, else "log_prob".

    Raises:
        InputError: there is no record, or one of them cannot be used; the message names the first such.
    """
    placed = ((f"{name}[{number}]", record) for number, record in enumerate(records))
    splits = _splits(name, placed, Encoder.of(tokenizer), proportions, seed)
    return _task(name, splits, loss, metric, {"task": "records"})


def from_jsonl(
    path: str | os.PathLike[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    proportions: Sequence[float] = _PROPORTIONS,
    seed: int = 0,
    loss: str | Score = "kl",
    metric: str | Score | None = None,
) -> Task:
    """A task of the pairs in a JSONL file: UTF-8 text, on each line a JSON object as `from_records` takes it.

    The task is called after the file. Empty lines are skipped.

    Raises:
        InputError: the file cannot be read, holds no pair, or one of its lines cannot be used; the message names it.
    """
    shown = str(path)
    digest = hashlib.sha256()
    splits = _splits(shown, _records_in(shown, digest.update), Encoder.of(tokenizer), proportions, seed)
    arguments = {"path": shown, "proportions": list(proportions), "seed": seed}
    made_by = {"task": "jsonl", "arguments": arguments, "file_sha256": digest.hexdigest()}
    return _task(Path(shown).stem, splits, loss, metric, made_by)


def _task(
    name: str,
    splits: dict[Split, tuple[Pair, ...]],
    loss: str | Score,
    metric: str | Score | None,
    made_by: dict[str, Any],
) -> Task:
    sizes = {split: len(pairs) for split, pairs in splits.items()}
    provenance = {**made_by, "name": name, "sizes": sizes, "sha256": pairs_hash(*splits.values())}
    task = Task(name, *splits.values(), loss=loss, metric=metric or "log_prob", provenance=provenance)
    if metric is None and task.contrastive:
        return replace(task, metric="logit_diff")
    if "logit_diff" in (loss, metric) and not task.contrastive:
        raise InputError(
            f'{name}: a logit difference needs a "wrong_answer" in every pair; add them, or use "log_prob"'
        )
    return task


def _splits(
    name: str, placed: Iterable[tuple[str, Any]], encoder: Encoder, proportions: Sequence[float], seed: int
) -> dict[Split, tuple[Pair, ...]]:
    """The pairs of the records, each of which comes with the words that name it in a message."""
    pairs: list[Pair] = []
    asked: list[Split | None] = []
    for where, record in placed:
        try:
            if not isinstance(record, Mapping):
                raise InputError(f"is a {type(record).__name__}; each pair must be an object of named values")
            pairs.append(pair_of(record, encoder))
            asked.append(split_of(record))
            if (asked[-1] is None) != (asked[0] is None):
                raise InputError('some pairs have a "split" and some have none; give one to all of them, or to none')
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    if not pairs:
        raise InputError(f"{name}: holds no pairs; give at least one")
    splits = _dealt(name, pairs, proportions, seed) if asked[0] is None else asked
    return {split: tuple(pair for pair, its in zip(pairs, splits, strict=True) if its == split) for split in SPLITS}


def _dealt(name: str, pairs: Sequence[Pair], proportions: Sequence[float], seed: int) -> list[Split]:
    """A split for each pair, the same for pairs with the same clean prompt, so that none leaks into another."""
    if len(proportions) != 3 or min(proportions) < 0 or not proportions[0] > 0 or not isclose(sum(proportions), 1):
        raise InputError(
            f"{name}: proportions {proportions} must be three, for train, validation and test, that sum to 1"
        )
    prompts = list(dict.fromkeys(pair.clean for pair in pairs))
    validation, test = (max(1, round(len(prompts) * share)) if share else 0 for share in proportions[1:])
    train = len(prompts) - validation - test
    if train < 1:
        raise InputError(
            f'{name}: {len(prompts)} different prompts are too few for three splits; add some, or give each a "split"'
        )
    shuffled = sample(generator("split", seed), prompts, len(prompts))
    split_of_prompt: dict[Ids, Split] = {}
    for place, prompt in enumerate(shuffled):
        split_of_prompt[prompt] = "train" if place < train else "validation" if place < train + validation else "test"
    return [split_of_prompt[pair.clean] for pair in pairs]


def _records_in(path: str, seen: Callable[[bytes], object]) -> Iterator[tuple[str, Any]]:
    """Each record of a JSONL file with the place it stands at; `seen` is given the file's bytes on the way."""
    with _opened(path) as file:
        for number in count(1):
            line = file.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            seen(line)
            try:
                text = _decoded(line, first=number == 1)
                if text.strip():
                    yield f"{path}:{number}", _parsed(text)
            except InputError as error:
                raise InputError(f"{path}:{number}: {error}") from None


def _opened(path: str) -> BinaryIO:
    try:
        return open(path, "rb")
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{quote(path)}: cannot be read ({reason}); give a JSONL file of pairs") from None


def _decoded(line: bytes, first: bool) -> str:
    if len(line) > MAX_LINE_BYTES:
        raise InputError(f"the line is longer than {MAX_LINE_BYTES} bytes; put one pair of prompts on each line")
    try:
        return line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8 text") from None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except InputError:
        raise
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON ({error.msg}, column {error.colno}); put one object on each line") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in thousands
        raise InputError(f"not JSON of ours ({str(error)[:80]}); put one object of texts on each line") from None


def _without_duplicates(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in items:
        if key in found:
            raise InputError(f"{quote(key)} is given twice; keep one")
        found[key] = value
    return found
