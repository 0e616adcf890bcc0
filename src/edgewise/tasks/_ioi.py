"""Indirect object identification: after "When Mary and John met, John gave a drink to" comes " Mary".

The behaviour that Wang et al. 2022 (arXiv 2211.00593) found in GPT-2 small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from string import Formatter
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from edgewise._errors import InputError
from edgewise.tasks._draw import choice, generator, sample
from edgewise.tasks._encode import Encoder, Ids
from edgewise.tasks._generate import Sizes, check_sizes, collect, single_tokens
from edgewise.tasks._pairs import Pair, Target
from edgewise.tasks._splits import SPLITS, Split, words_of
from edgewise.tasks._task import Task, pairs_hash
from edgewise.tasks._templates import IOI_T1_TEMPLATE, IOI_TEMPLATES
from edgewise.tasks._words import FEMALE_NAMES, MALE_NAMES, OBJECTS, PLACES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Counterfactual: TypeAlias = Literal["abc", "s2-flip"]

_COUNTERFACTUALS = ("abc", "s2-flip")
_NAMES_NEEDED = 5  # two in the clean prompt and three others in the corrupted one
_FILLERS = {"object": OBJECTS, "place": PLACES}


def ioi(
    tokenizer: PreTrainedTokenizerBase,
    train: int = 200,
    validation: int = 200,
    test: int = 256,
    seed: int = 0,
    counterfactual: Counterfactual = "abc",
) -> Task:
    """Indirect object identification with 44 templates, each in both orders of the two names.

    No template, name, object or place is in two splits, whatever the seed. The answer is the indirect object's name,
    the wrong answer the subject's, each a single token after a space. All prompts of a split differ.

    Args:
        tokenizer: the model's.
        train: how many pairs to train on.
        validation: how many to choose by.
        test: how many to judge on.
        seed: another seed draws other prompts from the same words and templates.
        counterfactual: "abc" puts three other, different names of the same split in the places of the names (Bhaskar et
            al. 2024, arXiv 2406.16778); "s2-flip" changes only the subject's second mention, into the indirect object,
            so that the answers swap.

    Returns:
        The task, with loss "kl" and metric "logit_diff".

    Raises:
        InputError: an argument is impossible, or the tokenizer has too few of the words as single tokens.
    """
    return _task("ioi", IOI_TEMPLATES, tokenizer, Sizes(train, validation, test), seed, counterfactual)


def ioi_t1(
    tokenizer: PreTrainedTokenizerBase,
    train: int = 200,
    validation: int = 200,
    test: int = 256,
    seed: int = 0,
    counterfactual: Counterfactual = "abc",
) -> Task:
    """Indirect object identification with one fixed template (the paper's set has 50 of each); else as `ioi`.

    The names of a split are in no other.
    """
    templates: dict[Split, tuple[str, ...]] = dict.fromkeys(SPLITS, (IOI_T1_TEMPLATE,))
    return _task("ioi-t1", templates, tokenizer, Sizes(train, validation, test), seed, counterfactual)


@dataclass(frozen=True)
class _Pool:
    """What the prompts of one split are made of."""

    templates: Sequence[str]
    names: dict[str, int]
    """With the token of each."""
    fillers: dict[str, tuple[str, ...]]
    """The words for each further blank of the templates."""


class _Draw(NamedTuple):
    """A pair still as text."""

    clean: str
    corrupted: str
    answer: str
    """The indirect object's name."""
    wrong: str
    """The subject's name."""
    answer_token: int
    wrong_token: int
    changes: tuple[tuple[int, int], ...]
    """(clean, corrupted) token of each changed name, in the order of the text."""


def _task(
    name: str,
    templates: dict[Split, tuple[str, ...]],
    tokenizer: PreTrainedTokenizerBase,
    sizes: Sizes,
    seed: int,
    counterfactual: Counterfactual,
) -> Task:
    check_sizes(name, sizes, seed)
    if counterfactual not in _COUNTERFACTUALS:
        raise InputError(f"{name}: there is no counterfactual {counterfactual!r}; use {' or '.join(_COUNTERFACTUALS)}")
    encoder = Encoder.of(tokenizer)
    splits = []
    for split, size in zip(SPLITS, sizes, strict=True):
        pool = _pool(name, split, templates[split], encoder)
        drawn = _drawn(pool, generator(name, seed, split), flip=counterfactual == "s2-flip")
        make = partial(_pairs, encoder=encoder)
        splits.append(collect(f"{name}: {split}", drawn, size, make, lambda pair: pair.clean_text))
    provenance = {
        "task": name,
        "arguments": {**sizes._asdict(), "seed": seed, "counterfactual": counterfactual},
        "sha256": pairs_hash(*splits),
    }
    return Task(name, *splits, loss="kl", metric="logit_diff", provenance=provenance)


def _pool(name: str, split: Split, templates: tuple[str, ...], encoder: Encoder) -> _Pool:
    def usable(kind: str, words: tuple[str, ...], needed: int) -> dict[str, int]:
        return single_tokens(name, f"{split} {kind}", words, encoder, needed)

    blanks = {field for template in templates for _, field, _, _ in Formatter().parse(template)}
    fillers = {kind: tuple(usable(kind, words_of(_FILLERS[kind], split), 1)) for kind in _FILLERS if kind in blanks}
    names = words_of(FEMALE_NAMES, split) + words_of(MALE_NAMES, split)
    return _Pool(templates, usable("name", names, _NAMES_NEEDED), fillers)


def _drawn(pool: _Pool, random: Random, flip: bool) -> Iterator[_Draw]:
    """Random pairs without end, ABBA and BABA in turn."""
    indirect_object_first = True
    while True:
        template = choice(random, pool.templates)
        wording = {blank: choice(random, words) for blank, words in pool.fillers.items()}
        answer, subject, *others = sample(random, tuple(pool.names), _NAMES_NEEDED)
        first, second = (answer, subject) if indirect_object_first else (subject, answer)
        clean = {"A": first, "B": second, "S": subject}
        corrupted = {**clean, "S": answer} if flip else dict(zip("ABS", others, strict=True))
        yield _Draw(
            clean=template.format(**clean, **wording),
            corrupted=template.format(**corrupted, **wording),
            answer=answer,
            wrong=subject,
            answer_token=pool.names[answer],
            wrong_token=pool.names[subject],
            changes=tuple((pool.names[clean[x]], pool.names[corrupted[x]]) for x in "ABS" if clean[x] != corrupted[x]),
        )
        indirect_object_first = not indirect_object_first


def _pairs(draws: list[_Draw], encoder: Encoder) -> list[Pair | None]:
    texts = [
        text
        for each in draws
        for text in (each.clean, each.corrupted, f"{each.clean} {each.answer}", f"{each.clean} {each.wrong}")
    ]
    ids = encoder.many(texts)
    return [_pair(draw, *ids[4 * number : 4 * number + 4]) for number, draw in enumerate(draws)]


def _pair(draw: _Draw, clean: Ids, corrupted: Ids, with_answer: Ids, with_wrong: Ids) -> Pair | None:
    """The pair, if its prompts differ in the names alone and each name is the one token that may follow the prompt."""
    changes = tuple((a, b) for a, b in zip(clean, corrupted, strict=False) if a != b)
    if len(clean) != len(corrupted) or changes != draw.changes:
        return None
    if with_answer != (*clean, draw.answer_token) or with_wrong != (*clean, draw.wrong_token):
        return None
    target = Target(len(clean) - 1, answers=(draw.answer_token,), wrong=(draw.wrong_token,))
    return Pair(clean, corrupted, (target,), draw.clean, draw.corrupted)
