"""How the built-in tasks make their pairs: texts drawn from a seed, kept where the tokenizer aligns them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from random import Random
from string import Formatter
from typing import Any, NamedTuple, TypeVar

from edgewise._errors import InputError
from edgewise.tasks._draw import generator
from edgewise.tasks._encode import Encoder, Ids
from edgewise.tasks._pairs import Pair, Target
from edgewise.tasks._splits import SPLITS, Split
from edgewise.tasks._store import stored
from edgewise.tasks._task import Task, pairs_hash

T = TypeVar("T")
Pieces = list["str | tuple[str, str]"]
"""A prompt cut into what clean and corrupted share, and what each of them has in its place."""

MOST_PAIRS = 1_000_000
"""In a split. A task is meant to have up to a tenth of it; far beyond, making it would seem never to end."""
_AT_ONCE = 1024  # drafts tokenised together: memory does not grow with the task
_WINDOW = 20 * _AT_ONCE  # of so many drafts one in a hundred must be new


class Draft(NamedTuple):
    """A pair still as text."""

    texts: tuple[str, ...]
    """The clean prompt, changed into the corrupted one a place at a time: each step must keep the token count."""
    answers: tuple[int, ...]
    """The right next tokens."""
    wrong: tuple[int, ...]
    continuations: tuple[tuple[str, int], ...]
    """Texts that may follow the clean prompt, with the token that must then be the next; checked pair by pair."""


class Sizes(NamedTuple):
    """How many pairs each split has."""

    train: int
    validation: int
    test: int


def generated(
    name: str,
    draws: Callable[[Split, Random], Iterator[Draft]],
    encoder: Encoder,
    sizes: Sizes,
    seed: int,
    options: Mapping[str, Any],
    metric: str = "logit_diff",
    identity: Callable[[Pair], str] | None = None,
) -> Task:
    """A built-in task.

    Args:
        name: its name.
        draws: random drafts of a split without end; called once per split, each with a generator of its own.
        encoder: of the model's tokenizer.
        sizes: of the splits.
        seed: another seed draws other pairs.
        options: the task's own arguments, for its provenance.
        metric: what attribution explains.
        identity: what makes two pairs the same; both prompts if None.

    Raises:
        InputError: a size or the seed is no whole number, or there are too few pairs that the tokenizer aligns.
    """
    check_sizes(name, sizes, seed)
    splits = []
    for split, size in zip(SPLITS, sizes, strict=True):
        drafts = draws(split, generator(name, seed, split)) if size else iter(())
        make = partial(_pairs, encoder=encoder)
        splits.append(collect(f"{name}: {split}", drafts, size, make, identity or _texts_of))
    arguments = {**sizes._asdict(), "seed": seed, **options}
    provenance = {"task": name, "arguments": arguments, "sha256": pairs_hash(*splits)}
    return Task(name, *splits, loss="kl", metric=metric, provenance=provenance)


def check_sizes(name: str, sizes: Sizes, seed: int) -> None:
    """Refuse sizes and seeds that are no whole numbers, and sizes beyond reason."""
    for argument, value in {**sizes._asdict(), "seed": seed}.items():
        if type(value) is not int or value < 0:
            raise InputError(f"{name}: {argument}={value!r} is no whole number from 0; give one")
    if (largest := max(sizes)) > MOST_PAIRS:
        raise InputError(f"{name}: {largest} pairs in a split are too many; ask for at most {MOST_PAIRS}")


def collect(
    where: str,
    drawn: Iterator[T],
    size: int,
    make: Callable[[list[T]], list[Pair | None]],
    identity: Callable[[Pair], str],
) -> Sequence[Pair]:
    """The first `size` different pairs that the tokenizer keeps aligned.

    Args:
        where: the task and split, for a message.
        drawn: drafts without end.
        size: how many pairs.
        make: from some drafts to their pairs, None for one that cannot be used.
        identity: what makes two pairs the same.

    Raises:
        InputError: the drafts hold too few different pairs.
    """
    return stored(_distinct(where, drawn, size, make, identity))


def _distinct(
    where: str,
    drawn: Iterator[T],
    size: int,
    make: Callable[[list[T]], list[Pair | None]],
    identity: Callable[[Pair], str],
) -> Iterator[Pair]:
    seen: set[bytes] = set()
    drafts, most, checked, known = 0, 20 * size + 200, 0, 0
    while (missing := size - len(seen)) > 0:
        dry = False
        if drafts - checked >= _WINDOW:
            dry = 100 * (len(seen) - known) < drafts - checked
            checked, known = drafts, len(seen)
        if dry or drafts >= most:
            raise InputError(
                f"{where}: only {len(seen)} different pairs found that this tokenizer aligns; ask for fewer"
            )
        some = [next(drawn) for _ in range(min(missing, _AT_ONCE))]
        drafts += len(some)
        for pair in make(some):
            if pair is None:
                continue
            key = hashlib.sha256(identity(pair).encode()).digest()[:16]
            if key not in seen:
                seen.add(key)
                yield pair


def single_tokens(name: str, kind: str, words: Sequence[str], encoder: Encoder, needed: int) -> dict[str, int]:
    """The words that are one token after a space, with the token of each; refused where they are fewer than needed."""
    usable = encoder.single_tokens(words)
    check_enough(name, kind, words, usable, "single tokens", needed)
    return usable


def check_enough(name: str, kind: str, words: Collection[str], usable: Collection[str], what: str, needed: int) -> None:
    """Refuse a tokenizer that has too few of a task's words in the form that the task needs."""
    if len(usable) < needed:
        raise InputError(
            f"{name}: of our {len(words)} {kind}s this tokenizer has {len(usable)} as {what} and "
            f"{needed} are needed; use another tokenizer, or pairs of your own (from_file)"
        )


def filled(template: str, clean: Mapping[str, str], corrupted: Mapping[str, str]) -> Pieces:
    """A template's pieces, its `{blanks}` filled with the clean and the corrupted words."""
    pieces: Pieces = []
    for literal, blank, _, _ in Formatter().parse(template):
        pieces.append(literal)
        if blank is not None:
            pieces.append(clean[blank] if clean[blank] == corrupted[blank] else (clean[blank], corrupted[blank]))
    return pieces


def steps(pieces: Pieces) -> tuple[str, ...]:
    """The clean text, changed into the corrupted one piece by piece from the left."""
    places = [place for place, piece in enumerate(pieces) if isinstance(piece, tuple)]
    return tuple(
        "".join(
            piece if isinstance(piece, str) else piece[place in places[:done]] for place, piece in enumerate(pieces)
        )
        for done in range(len(places) + 1)
    )


def _texts_of(pair: Pair) -> str:
    return f"{pair.clean_text}\0{pair.corrupted_text}"


def _pairs(drafts: list[Draft], encoder: Encoder) -> list[Pair | None]:
    ids = iter(
        encoder.many(
            [
                text
                for draft in drafts
                for text in (*draft.texts, *(draft.texts[0] + more for more, _ in draft.continuations))
            ]
        )
    )
    return [_pair(draft, [next(ids) for _ in range(len(draft.texts) + len(draft.continuations))]) for draft in drafts]


def _pair(draft: Draft, ids: list[Ids]) -> Pair | None:
    """The pair, if each change keeps the token count and each continuation goes on with its token."""
    texts, continued = ids[: len(draft.texts)], ids[len(draft.texts) :]
    clean, corrupted = texts[0], texts[-1]
    if len({len(each) for each in texts}) > 1 or clean == corrupted:
        return None
    for (_, token), whole in zip(draft.continuations, continued, strict=True):
        if whole[: len(clean) + 1] != (*clean, token):
            return None
    target = Target(len(clean) - 1, draft.answers, draft.wrong)
    return Pair(clean, corrupted, (target,), draft.texts[0], draft.texts[-1])
