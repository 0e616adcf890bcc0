"""A user's own contrast pairs from templates with blanks and lists of words, in splits that share none of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, TypeAlias

from edgewise._errors import InputError
from edgewise.tasks._blanks import Blank, Dealt, Row, Template, fill, list_of, templates_by_split, word_lists
from edgewise.tasks._custom import prompt_key
from edgewise.tasks._draw import choice, generator, sample
from edgewise.tasks._encode import Encoder, quote
from edgewise.tasks._generate import check_sizes, steps
from edgewise.tasks._marks import REST, unmarked
from edgewise.tasks._metric import Score
from edgewise.tasks._pairs import Pair
from edgewise.tasks._record import pair_of
from edgewise.tasks._splits import SPLITS, Split
from edgewise.tasks._store import stored
from edgewise.tasks._task import Task, pairs_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Templates: TypeAlias = "str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]"

# Drafts in a row, and three for each known one, without a new one: there are no more. As many before the first that can
# be used, and 20 for each pair that is wanted: the words do not suit the tokenizer.
_PATIENCE = 1000


def from_template(
    templates: Templates,
    words: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    name: str = "template",
    *,
    corrupted: str | Mapping[str, str] | None = None,
    answer: str | Sequence[str] | None = None,
    wrong_answer: str | Sequence[str] | None = None,
    shared: Sequence[str] = (),
    both_ways: bool = False,
    multi_token: bool = False,
    train: int = 200,
    validation: int = 200,
    test: int = 256,
    seed: int = 0,
    bos: bool | None = None,
    longest: int | None = None,
    loss: str | Score = "kl",
    metric: str | Score | None = None,
) -> Task:
    """A task of pairs drawn from templates with blanks, as `"The capital of {place1.country} is"`.

    A template is a record of `from_records` with blanks in its texts: `{"clean", "corrupted", "answer"}`, with
    `"wrong_answer"` or without. What all templates share may be given once, as `answer=` and so on; a template is then
    the clean prompt alone. In place of the corrupted prompt, `{"place1": "place2"}` says which blanks change.

    A blank is filled from the list of words that has its name, or its name without the number at its end: `{place1}`
    and `{place2}` are two different words of the list `place`. The same blank is the same word in all texts of a pair.
    Where a list's entries have fields, `{place1.country}` and `{place1.capital}` belong to one entry.

    Templates and words are dealt out by their places in their lists: of each five, three to train and one each to
    validation and test, whatever the seed. So append to a list, and never reorder it. Or give `{"train": [...],
    "validation": [...], "test": [...]}` in place of a list. One template alone is shared by the splits.

    A pair is kept if every blank that changes keeps the number of tokens, and if each answer is one token and no wrong
    answer too. Where the templates and words give fewer pairs than asked for, a split has as many as there are.

    Args:
        templates: one, a list of them (at least five), or a list for each split.
        words: lists of words by name (at least five each), or a list for each split. A list of words without spaces may
            be one text. An entry may be an object of fields; the first must be different in each entry, others may
            come again (`{"name": "Mary", "pronoun": "she"}`).
        tokenizer: the model's.
        name: what the task is called, also in messages.
        corrupted: the corrupted prompt of templates that have none of their own, or which blanks change in it.
        answer: the answer of templates that have none of their own, its space included.
        wrong_answer: likewise.
        shared: the lists that all splits share: closed sets, such as digits.
        both_ways: turn every other pair round: clean and corrupted change places, and so do the answers. For templates
            whose wrong answer is the right one after the corrupted prompt.
        multi_token: allow answers of several tokens, which are judged one by one.
        train: how many pairs to train on, at most.
        validation: how many to choose by, at most.
        test: how many to judge on, at most.
        seed: another seed draws other pairs, from the same words and templates of each split.
        bos: see `from_records`.
        longest: how many tokens a prompt may have: a model's `parts.n_positions`.
        loss: see `Task`.
        metric: see `from_records`.

    Raises:
        InputError: a template, a blank or a list is wrong, or a split has no pair that the tokenizer can use.
    """
    sizes = {"train": train, "validation": validation, "test": test}
    arguments: dict[str, Any] = {"templates": templates, "words": words, "name": name, "corrupted": corrupted}
    arguments |= {"answer": answer, "wrong_answer": wrong_answer, "shared": list(shared), "both_ways": both_ways}
    arguments |= {"multi_token": multi_token, **sizes, "seed": seed} | ({} if bos is None else {"bos": bos})
    check_sizes(name, arguments)
    try:
        lists = word_lists(words, shared)
        defaults = {"corrupted": corrupted, "answer": answer, "wrong_answer": wrong_answer}
        by_split = templates_by_split(templates, defaults, lists)
        _check_dealt(by_split, shared, lists, both_ways)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    contrastive = all("wrong_answer" in each.texts for part in by_split.values() for each in part)
    if "logit_diff" in (loss, metric) and not contrastive:
        raise InputError(
            f'{name}: a logit difference needs a wrong_answer in every template; add it, or use "log_prob"'
        )
    found = _Found(Encoder.of(tokenizer, bos), multi_token, longest)
    splits: list[Sequence[Pair]] = []
    for split in SPLITS:
        drafts = _drafts(by_split[split], lists, split, both_ways, generator("template", name, seed, split))
        splits.append(stored(_pairs(name, split, sizes[split], drafts, found)))
    made: dict[str, Any] = {"sizes": dict(zip(SPLITS, map(len, splits), strict=True))}
    if longest is not None and found.refusals:  # it may have decided which pairs there are
        arguments["longest"] = longest
    made |= {"left_out": len(found.refusals)} | ({"first_left_out": found.refusals[0]} if found.refusals else {})
    provenance = {"task": "template", "arguments": arguments, "bos": found.encoder.bos, **made}
    span_names = tuple(found.names) if len(found.names) > 1 else ()
    return Task(
        name,
        *splits,
        loss=loss,
        metric=metric or ("logit_diff" if contrastive else "log_prob"),
        span_names=span_names,
        provenance=provenance | {"sha256": pairs_hash(*splits)},
    )


@dataclass
class _Found:
    """How drafts become pairs, and what of the earlier ones decides whether the next may stand beside them."""

    encoder: Encoder
    multi_token: bool
    longest: int | None
    names: dict[str, int] = field(default_factory=lambda: {REST: 0})
    """The numbers of the named spans."""
    homes: dict[bytes, Split] = field(default_factory=dict)
    """The split of each clean prompt."""
    refusals: list[str] = field(default_factory=list)
    """Why drafts cannot be used, one for each."""

    def pair(self, split: Split, record: Mapping[str, Any], texts: Sequence[str]) -> Pair:
        """The pair of a draft; `texts` lead from clean to corrupted a blank at a time. Raises `InputError`."""
        lengths = [len(ids) for ids in self.encoder.many(texts)] if texts else []
        for number, length in enumerate(lengths[1:], 1):
            if length != lengths[0]:
                one, other = texts[number - 1 : number + 1]
                raise InputError(f"{quote(one)} has {lengths[0]} tokens and {quote(other)} has {length}")
        names = dict(self.names)
        pair = pair_of(record, self.encoder, names)
        if self.longest is not None and (length := max(len(pair.clean), len(pair.corrupted))) > self.longest:
            raise InputError(
                f"{quote(pair.clean_text)} has {length} tokens, and the model has {self.longest} positions"
            )
        if not self.multi_token:
            self._check_single(record, pair)
        if self.homes.setdefault(prompt_key(pair), split) != split:
            raise InputError(f"the clean prompt {quote(pair.clean_text)} is in another split too")
        self.names = names
        return pair

    def _check_single(self, record: Mapping[str, Any], pair: Pair) -> None:
        if len(pair.targets) > 1:
            raise InputError(f"the answer {quote(str(record.get('answer')))} is {len(pair.targets)} tokens, not one")
        prompt = unmarked(record["clean"], "clean")[0].partition("<predict>")[0]
        wrong = record.get("wrong_answer") or ()
        for text in [wrong] if isinstance(wrong, str) else wrong:
            if (count := len(self.encoder.continuation(prompt, text)[1])) > 1:
                raise InputError(f"the wrong answer {quote(text)} is {count} tokens, not one")


Draft = tuple[dict[str, Any], tuple[str, ...]]
"""A record, and the texts that lead from its clean prompt to the corrupted one."""


def _drafts(
    templates: Sequence[Template], lists: Mapping[str, Dealt], split: Split, both_ways: bool, random: Random
) -> Iterator[Draft]:
    """Random drafts of a split, without end."""
    turned = False
    while True:
        template = choice(random, templates)
        rows: dict[str, Row] = {}
        for kind, blanks in template.blanks.items():
            rows |= zip(blanks, sample(random, lists[kind][split], len(blanks)), strict=True)
        record = template.filled(rows)
        texts = _steps(template, rows) if template.aligned else ()
        if turned:
            pairs = (("clean", "corrupted"), ("answer", "wrong_answer"))
            record = {new: record[old] for one, other in pairs for new, old in ((one, other), (other, one))}
            texts = texts[::-1]
        yield record, texts
        turned = both_ways and not turned


def _steps(template: Template, rows: Mapping[str, Row]) -> tuple[str, ...]:
    """The clean prompt, changed into the corrupted one a blank at a time."""
    clean, corrupted = (template.texts[key][0] for key in ("clean", "corrupted"))
    both = [(fill((one,), rows), fill((other,), rows)) for one, other in zip(clean, corrupted, strict=True)]
    return steps([one if one == other else (one, other) for one, other in both])


def _pairs(name: str, split: Split, size: int, drafts: Iterator[Draft], found: _Found) -> Iterator[Pair]:
    """The first `size` different pairs that the tokenizer can use, or as many as there are. Raises `InputError` if
    there is none.
    """
    seen: set[bytes] = set()
    made, idle = 0, 0
    while made < size and idle < _PATIENCE + 3 * len(seen) and len(seen) < (20 * size if made else 0) + _PATIENCE:
        record, texts = next(drafts)
        key = hashlib.sha256(f"{record['clean']}\0{record['corrupted']}".encode()).digest()[:16]
        idle = idle + 1 if key in seen else 0
        if idle:
            continue
        seen.add(key)
        try:
            pair = found.pair(split, record, texts)
        except InputError as error:
            found.refusals.append(str(error))
            continue
        made += 1
        yield pair
    if size and not made:
        reason = found.refusals[-len(seen)]
        raise InputError(f"{name}: {split}: none of {len(seen)} pairs can be used; the first: {reason}")


def _check_dealt(
    templates: Mapping[Split, Sequence[Template]],
    shared: Sequence[str],
    lists: Mapping[str, Dealt],
    both_ways: bool,
) -> None:
    """Refuse templates whose splits nothing keeps apart, and such as cannot be turned round. Raises `InputError`."""
    one_for_all = templates["train"] == templates["test"]
    for each in [each for split in SPLITS for each in templates[split]]:
        if both_ways and not {"answer", "wrong_answer"} <= each.texts.keys():
            raise InputError(f"{each.where}: both_ways turns answers round; give an answer and a wrong_answer")
        kinds = {list_of(piece.name, lists) for piece in each.texts["clean"][0] if isinstance(piece, Blank)}
        if one_for_all and kinds <= {*shared}:
            raise InputError(
                f"{each.where}: all splits share it and its words, so that nothing keeps them apart; give at least "
                "five templates, or blanks of a list that is not shared"
            )
