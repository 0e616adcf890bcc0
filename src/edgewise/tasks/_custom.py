"""A user's own pairs, from dicts or from wherever else records come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from math import isclose
from typing import TYPE_CHECKING, Any, TypeAlias

from edgewise._errors import InputError
from edgewise.tasks._draw import generator, sample
from edgewise.tasks._encode import Encoder
from edgewise.tasks._marks import REST
from edgewise.tasks._metric import Score
from edgewise.tasks._pairs import Pair
from edgewise.tasks._record import asked_split, pair_of
from edgewise.tasks._splits import SPLITS, Split
from edgewise.tasks._store import PairStore
from edgewise.tasks._task import Task, pairs_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Placed: TypeAlias = "tuple[str, Any]"
"""A record, or the refusal that stands for it, with the words that name its place in a message."""

PROPORTIONS = (0.6, 0.2, 0.2)


def from_records(
    records: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase | None,
    name: str = "records",
    *,
    proportions: Sequence[float] = PROPORTIONS,
    seed: int = 0,
    skip: bool = False,
    bos: bool | None = None,
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

    Or prompts and answers are token ids: `{"clean": [5, 7], "corrupted": [5, 8], "answer": 9}`, `"wrong_answer"` and
    `"positions": "all"` as above. For these there need be no tokenizer; they are run as they are, unless `bos` is True.

    Each record may have a `"split"`: "train", "validation" (or "val") or "test", the same for records with the same
    clean prompt. Where none has, they are dealt out at random, records with the same clean prompt to the same split.
    Other keys are ignored, unless they look like a misspelling.

    Args:
        records: the pairs.
        tokenizer: the model's; None where all are token ids.
        name: what the task is called, also in messages.
        proportions: of train, validation and test, where no record has a split.
        seed: of that dealing.
        skip: leave out the records that cannot be used (`provenance["skipped"]` counts them), in place of refusing all.
        bos: put the BOS token before every prompt, or nothing; None for what the tokenizer does by itself. One that a
            text begins with, as a chat template writes it, is not doubled.
        loss: see `Task`.
        metric: see `Task`; by default "logit_diff" if every pair has a wrong answer, else "log_prob".

    Raises:
        InputError: there is no record, or one of them cannot be used; the message names the first such.
    """
    placed = ((f"{name}[{number}]", record) for number, record in enumerate(records))
    options = {"proportions": proportions, "seed": seed, "skip": skip, "bos": bos, "loss": loss, "metric": metric}
    return build_task(name, placed, tokenizer, {"task": "records"}, **options)


def build_task(
    name: str,
    placed: Iterable[Placed],
    tokenizer: PreTrainedTokenizerBase | None,
    made_by: dict[str, Any],
    *,
    proportions: Sequence[float],
    seed: int,
    loss: str | Score,
    metric: str | Score | None,
    skip: bool = False,
    bos: bool | None = None,
    longest: int | None = None,
    shown: str | None = None,
    finish: Callable[[], dict[str, Any]] = dict,
) -> Task:
    """A task of records that come one by one, as `from_records` makes it; what it holds of them in memory does not grow
    with their texts. In messages it is called `shown`; its provenance is `made_by` and what `finish` gives after the
    last record.
    """
    if tokenizer is None and bos:
        raise InputError(f"{name}: bos=True, and no tokenizer that has such a token; write its id into the prompts")
    found = Gathered(Encoder(None) if tokenizer is None else Encoder.of(tokenizer, bos), longest)
    splits, skipped = _splits(shown or name, placed, found, proportions, seed, skip)
    sizes = {split: len(pairs) for split, pairs in splits.items()}
    provenance = {**made_by, **finish(), "name": name, "sizes": sizes, "bos": found.encoder.bos and found.begun}
    provenance["sha256"] = pairs_hash(*splits.values())
    if skip:
        provenance["skipped"] = skipped
        if skipped and longest is not None:  # it may have decided which pairs there are
            provenance["arguments"] = {**provenance["arguments"], "longest": longest}
    span_names = tuple(found.names) if len(found.names) > 1 else ()
    task = Task(
        name, *splits.values(), loss=loss, metric=metric or "log_prob", span_names=span_names, provenance=provenance
    )
    if metric is None and task.contrastive:
        return replace(task, metric="logit_diff")
    if "logit_diff" in (loss, metric) and not task.contrastive:
        raise InputError(
            f'{name}: a logit difference needs a "wrong_answer" in every pair; add them, or use "log_prob"'
        )
    return task


@dataclass
class Gathered:
    """Pairs that came one by one, and what of the earlier ones decides whether the next may stand beside them."""

    encoder: Encoder
    longest: int | None = None
    """How many tokens a prompt may have."""
    names: dict[str, int] = field(default_factory=lambda: {REST: 0})
    """The numbers of the named spans."""
    store: PairStore = field(default_factory=PairStore)
    splits: list[Split | None] = field(default_factory=list)
    """What each pair asks for."""
    prompts: list[bytes] = field(default_factory=list)
    """What tells clean prompts apart, where they are yet to be dealt out."""
    homes: dict[bytes, tuple[Split, str]] = field(default_factory=dict)
    """The split of each clean prompt, and where it first stands, where pairs ask for a split."""
    kinds: set[tuple[bool, bool]] = field(default_factory=set)
    """Whether pairs ask for a split, and whether they mark spans: every combination seen."""
    begun: bool = True
    """Whether all prompts begin with the encoder's prefix, which those given as token ids need not."""

    def take(self, placed: Iterable[Placed]) -> Iterator[tuple[str, Pair | InputError]]:
        """Take the pairs of records one by one: where each stands, and its pair or why it has none."""
        for where, record in placed:
            try:
                yield where, self._add(where, record)
            except InputError as error:
                yield where, error

    def _add(self, where: str, record: Any) -> Pair:
        if isinstance(record, InputError):
            raise record
        if not isinstance(record, Mapping):
            raise InputError(f"is a {type(record).__name__}; each pair must be an object of named values")
        split = asked_split(record)
        names = dict(self.names)  # a copy: what is refused must not leave the name of a span
        pair = pair_of(record, self.encoder, names)
        if self.longest is not None and (length := max(len(pair.clean), len(pair.corrupted))) > self.longest:
            raise InputError(f"a prompt has {length} tokens, and the model has {self.longest} positions; shorten it")
        key = prompt_key(pair)
        if split is None:
            self.prompts.append(key)
        elif (home := self.homes.setdefault(key, (split, where)))[0] != split:
            raise InputError(
                f"its clean prompt is also in the split {home[0]} ({home[1]}), so pairs that are learned from would "
                "leak into pairs that are judged; keep it in one split, or give no pair a split"
            )
        self.names = names
        self.begun &= self.encoder.begun(pair.clean) and self.encoder.begun(pair.corrupted)
        self.store.append(pair)
        self.splits.append(split)
        self.kinds.add((split is not None, pair.spans is not None))
        return pair

    def mixed(self) -> str | None:
        """What some of the pairs have and some have not, where that must not be."""
        having = [len({kind[what] for kind in self.kinds}) > 1 for what in range(2)]
        if having[0]:
            return 'some pairs have a "split" and others do not; give every pair one, or none'
        return "some pairs mark spans and others do not; mark spans in all pairs or in none" if having[1] else None

    def dealt(self, name: str, proportions: Sequence[float], seed: int) -> Sequence[Split | None]:
        """The split of each pair.

        Raises:
            InputError: they are too few to deal out.
        """
        return self.splits if not self.prompts else _dealt(name, self.prompts, proportions, seed)


def _splits(
    name: str, placed: Iterable[Placed], found: Gathered, proportions: Sequence[float], seed: int, skip: bool
) -> tuple[dict[Split, Sequence[Pair]], int]:
    """The pairs of the records by split, and how many records were left out."""
    skipped = 0
    for where, taken in found.take(placed):
        if isinstance(taken, Pair):
            if problem := found.mixed():
                raise InputError(f"{where}: {problem}")
        elif skip:
            skipped += 1
        else:
            raise InputError(f"{where}: {taken}") from None
    if not found.splits:
        raise InputError(f"{name}: holds no pairs{' that can be used' if skipped else ''}; give at least one pair")
    splits = found.dealt(name, proportions, seed)
    numbers = {split: [number for number, its in enumerate(splits) if its == split] for split in SPLITS}
    return {split: found.store.select(numbers[split]) for split in SPLITS}, skipped


def prompt_key(pair: Pair) -> bytes:
    """What tells clean prompts apart: the tokens before the first answer, whichever answers follow; all of them where
    every token is judged.
    """
    first = pair.targets[0].position
    return sha256(repr(pair.clean[: first + 1] if first else pair.clean).encode()).digest()[:16]


def _dealt(name: str, prompts: Sequence[bytes], proportions: Sequence[float], seed: int) -> list[Split]:
    """A split for each pair, the same for pairs with the same clean prompt, so that none leaks into another."""
    if len(proportions) != 3 or min(proportions) < 0 or not proportions[0] > 0 or not isclose(sum(proportions), 1):
        raise InputError(
            f"{name}: proportions {proportions} must be three, for train, validation and test, that sum to 1"
        )
    different = list(dict.fromkeys(prompts))
    validation, test = (max(1, round(len(different) * share)) if share else 0 for share in proportions[1:])
    train = len(different) - validation - test
    if train < 1:
        raise InputError(
            f'{name}: {len(different)} different prompts are too few for three splits; add some, or give each a "split"'
        )
    shuffled = sample(generator("split", seed), different, len(different))
    split_of_prompt: dict[bytes, Split] = {}
    for place, prompt in enumerate(shuffled):
        split_of_prompt[prompt] = "train" if place < train else "validation" if place < train + validation else "test"
    return [split_of_prompt[prompt] for prompt in prompts]
