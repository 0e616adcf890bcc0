"""Tasks from files and from Hugging Face data sets, and what is wrong with such a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewise._errors import InputError
from edgewise.tasks._custom import PROPORTIONS, Gathered, Placed, build_task
from edgewise.tasks._encode import Encoder, quote
from edgewise.tasks._foreign_rows import kind_of, translated
from edgewise.tasks._metric import Score
from edgewise.tasks._mib import is_mib, record_of
from edgewise.tasks._names import HUB, TEMPLATE_SUFFIXES
from edgewise.tasks._record import SPLIT_NAMES
from edgewise.tasks._rows import READERS
from edgewise.tasks._splits import SPLITS
from edgewise.tasks._task import Task
from edgewise.tasks._template_file import from_template_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def from_file(
    path: str | os.PathLike[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    proportions: Sequence[float] = PROPORTIONS,
    seed: int = 0,
    counterfactual: str | None = None,
    skip: bool = False,
    bos: bool | None = None,
    longest: int | None = None,
    loss: str | Score = "kl",
    metric: str | Score | None = None,
) -> Task:
    """A task of the pairs in a JSONL, CSV or Parquet file, or in a data set of the hub (`hf:NAME[:CONFIGURATION]`).

    Rows are records as `from_records` takes them, or have the columns of the MIB benchmark (`prompt`, `choices` and
    `answerKey` or `label`, and `…_counterfactual`). Only what the task keeps stays in memory, whatever the file's size.

    Args:
        path: the file; its suffix says which kind it is.
        tokenizer: the model's.
        proportions: see `from_records`.
        seed: see `from_records`.
        counterfactual: which counterfactual of MIB's rows is the corrupted prompt; by default the one MIB uses.
        skip: leave out the pairs that cannot be used (`provenance["skipped"]` counts them), in place of refusing all.
        bos: see `from_records`.
        longest: how many tokens a prompt may have: a model's `parts.n_positions`.
        loss: see `Task`.
        metric: see `from_records`.

    Raises:
        InputError: the file cannot be read, or a pair cannot be used; the message names the place.
    """
    shown = str(path)
    digest = hashlib.sha256()
    arguments = {"path": shown, "proportions": list(proportions), "seed": seed}
    arguments |= {"counterfactual": counterfactual, "skip": skip} | ({} if bos is None else {"bos": bos})
    return build_task(
        Path(shown.removeprefix(HUB)).stem,
        _translated(_rows(shown, digest), counterfactual),
        tokenizer,
        {"task": "file", "arguments": arguments},
        proportions=proportions,
        seed=seed,
        loss=loss,
        metric=metric,
        skip=skip,
        bos=bos,
        longest=longest,
        shown=shown,
        finish=lambda: {} if shown.startswith(HUB) else {"file_sha256": digest.hexdigest()},
    )


def from_dataset(
    dataset: Any,
    tokenizer: PreTrainedTokenizerBase,
    name: str = "dataset",
    *,
    proportions: Sequence[float] = PROPORTIONS,
    seed: int = 0,
    counterfactual: str | None = None,
    skip: bool = False,
    bos: bool | None = None,
    loss: str | Score = "kl",
    metric: str | Score | None = None,
) -> Task:
    """A task of a Hugging Face `datasets` object, streamed or not: its rows are those of `from_file`.

    Args:
        dataset: a `Dataset` or `IterableDataset`, or several by split as `load_dataset` gives them (train, validation
            or val, test; others are left out).
        tokenizer: the model's.
        name: what the task is called, also in messages.
        proportions: see `from_records`; used where the data set is not split.
        seed: see `from_records`.
        counterfactual: see `from_file`.
        skip: see `from_file`.
        bos: see `from_records`.
        loss: see `Task`.
        metric: see `from_records`.

    Raises:
        InputError: it has no rows, or one of them cannot be used.
    """
    options: dict[str, Any] = {"proportions": proportions, "seed": seed, "loss": loss, "metric": metric}
    options |= {"skip": skip, "bos": bos}
    placed = _translated(_rows_of(dataset, name), counterfactual)
    return build_task(name, placed, tokenizer, {"task": "records"}, **options)


_FEW = 20  # test pairs, with which a share's 95 % interval is up to 0.4 wide


@dataclass(frozen=True)
class FileCheck:
    """What of a file can be used."""

    usable: int
    """Pairs."""
    refusals: tuple[str, ...]
    """For each other row one line: its place, what is wrong, what would be right."""
    problems: tuple[str, ...]
    """Why the usable pairs make no task together, a line each; none if they do."""
    notes: tuple[str, ...]
    """What is allowed but may not be meant."""

    @property
    def refused(self) -> bool:
        """Whether `find` refuses the file."""
        return bool(self.refusals or self.problems)


def check_file(
    path: str, tokenizer: PreTrainedTokenizerBase, *, counterfactual: str | None = None, longest: int | None = None
) -> FileCheck:
    """Look at every row of a file or data set, and say which cannot be used and why; and what is wrong with them all.
    Arguments are those of `from_file`. Of a file of templates, say how many pairs each split gets.

    Raises:
        InputError: it cannot be read at all.
    """
    if path.endswith(TEMPLATE_SUFFIXES):
        return _check_templates(path, tokenizer, longest)
    found = Gathered(Encoder.of(tokenizer), longest)
    refusals: list[str] = []
    problems: dict[str, str] = {}  # each is said once, of the first row that shows it
    contrasted = 0
    rows = _translated(_rows(path, hashlib.sha256()), counterfactual)
    try:
        for where, taken in found.take(rows):
            if isinstance(taken, InputError):
                refusals.append(f"{where}: {taken}")
                continue
            if problem := found.mixed():
                problems.setdefault(problem, f"{where}: {problem}")
            contrasted += any(target.wrong for target in taken.targets)
    except InputError as error:  # nothing can be read after it
        refusals.append(str(error))
    count, notes = len(found.splits), []
    try:
        dealt = list(found.dealt(path, PROPORTIONS, 0)) if count and not problems else []
        splits = {*dealt} or {*SPLITS}
        if dealt:
            notes.append(f"{', '.join(f'{split} {dealt.count(split)}' for split in SPLITS)} pairs")
        if 0 < dealt.count("test") < _FEW:
            notes.append(f"fewer than {_FEW} test pairs: intervals will be wide; give more pairs of other words")
        if "train" not in splits:
            problems["train"] = f"{path}: no pair is in the split train, to find a circuit on; give some"
        if missing := [split for split in SPLITS[1:] if split not in splits]:
            notes.append(f"no pair is in the split {' or '.join(missing)}")
    except InputError as error:
        problems["dealt"] = str(error)
    if not count and not refusals:
        problems["none"] = f"{path}: holds no pairs; give at least one pair"
    if 0 < contrasted < count:
        notes.append("some pairs have wrong answers and some have none, so that there is no logit difference")
    return FileCheck(count, tuple(refusals), tuple(problems.values()), tuple(notes))


def _check_templates(path: str, tokenizer: PreTrainedTokenizerBase, longest: int | None) -> FileCheck:
    """Whether templates make a task, and how much of what was drawn the tokenizer cannot use."""
    try:
        made = from_template_file(path, tokenizer, longest=longest).provenance
    except InputError as error:
        return FileCheck(0, (str(error),), (), ())
    notes = [", ".join(f"{split} {count}" for split, count in made["sizes"].items()) + " pairs"]
    if made["left_out"]:
        notes.append(f"{made['left_out']} pairs were left out; the first: {made['first_left_out']}")
    return FileCheck(sum(made["sizes"].values()), (), (), tuple(notes))


def _rows(path: str, digest: Any) -> Iterator[Placed]:
    """The rows of a file or of a data set of the hub."""
    if path.startswith(HUB):
        return _rows_of(_from_hub(path.removeprefix(HUB)), path)
    suffix = Path(path).suffix
    if suffix not in READERS:
        if suffix in TEMPLATE_SUFFIXES:
            raise InputError(f"{quote(path)}: is a file of templates; use from_template_file")
        raise InputError(f"{quote(path)}: the suffix {quote(suffix)} is not known; use {', '.join(READERS)} or hf:NAME")
    return READERS[suffix](path, digest.update)


def _from_hub(name: str) -> Any:
    place, _, configuration = name.partition(":")
    if not place:
        raise InputError("hf: names no data set; give hf:NAME")
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports] (optional)
    except ImportError as error:
        raise InputError(f"hf:{name}: this needs datasets; pip install 'edgewise[data]'") from error
    try:
        return load_dataset(place, configuration or None, streaming=True)
    except Exception as error:  # the hub client raises many kinds; the user needs one line
        reason = quote(" ".join(str(error).split()))[1:-1]
        raise InputError(f"hf:{name}: could not be loaded ({reason}); check the name and the connection") from error


def _rows_of(dataset: Any, name: str) -> Iterator[Placed]:
    """The rows of a data set, with the name of its split where it has several."""
    if not isinstance(dataset, Mapping):
        yield from _numbered(dataset, name)
        return
    if not any(split in SPLIT_NAMES for split in dataset):
        raise InputError(
            f"{name}: has the splits {', '.join(map(str, dataset))}; give one of them, or name them {', '.join(SPLITS)}"
        )
    for split, part in dataset.items():
        if split in SPLIT_NAMES:
            for where, row in _numbered(part, f"{name}:{split}"):
                yield where, {**row, "split": SPLIT_NAMES[split]} if isinstance(row, Mapping) else row


def _numbered(rows: Iterable[Any], name: str) -> Iterator[Placed]:
    if isinstance(rows, (str, bytes)) or not isinstance(rows, Iterable):
        raise InputError(f"{name}: a {type(rows).__name__} is no data set; give one of the datasets library, or rows")
    for number, row in enumerate(_read(rows, name) if name.startswith(HUB) else rows):
        present = {key: value for key, value in row.items() if value is not None} if isinstance(row, Mapping) else row
        yield f"{name}[{number}]", present


def _read(rows: Iterable[Any], name: str) -> Iterator[Any]:
    """Rows that come over the network as they are asked for. Raises `InputError` where one does not."""
    coming = iter(rows)
    while True:
        try:
            row = next(coming)
        except StopIteration:
            return
        except Exception as error:  # of many kinds; the user needs one line
            reason = quote(" ".join(str(error).split()))[1:-1]
            raise InputError(
                f"{name}: its rows could not be read ({reason}); check the connection and its files"
            ) from error
        yield row


def _translated(placed: Iterator[Placed], counterfactual: str | None) -> Iterator[Placed]:
    """Other tools' rows as records of ours, others as they are; a file has those of one kind."""
    first: str | None = None
    for where, row in placed:
        theirs = _kind(row)
        if theirs is not None:
            first = first or theirs
            if theirs != first:
                yield where, InputError(f"has {theirs}, but rows before it have {first}; put them into two files")
                continue
        if theirs in (None, _OURS):
            yield where, row
            continue
        try:
            yield where, record_of(row, counterfactual) if theirs == _MIBS else translated(row)
        except InputError as error:
            yield where, error


_OURS, _MIBS = '"clean"', "MIB's columns"


def _kind(row: Any) -> str | None:
    """Whose columns a row has, if anybody's."""
    if not isinstance(row, Mapping):
        return None
    return _MIBS if is_mib(row) else kind_of(row) or (_OURS if "clean" in row else None)
