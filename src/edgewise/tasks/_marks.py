"""Named spans marked in a text, `<span:subject>Mary Ann</span>`: position groups, and what aligns unequal lengths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from edgewise._errors import InputError
from edgewise.tasks._encode import Encoder, Ids, quote

REST = "rest"
"""The group of all tokens that are in no marked span."""
_TAG = re.compile(r"<span:([^<>]*)>|</span>")


class Mark(NamedTuple):
    """A named stretch of characters or of tokens."""

    name: str
    start: int
    stop: int


def unmarked(text: str, key: str) -> tuple[str, tuple[Mark, ...]]:
    """A text without its marks, and where these were. Raises `InputError`."""
    plain, marks, opened, done = "", [], None, 0
    for tag in _TAG.finditer(text):
        plain += text[done : tag.start()]
        done = tag.end()
        name = tag[1]
        bad = name is not None and (name != name.strip() or not name.isprintable() or name in ("", REST))
        if (name is None) == (opened is None) or bad:
            raise InputError(
                f"{key}: {quote(tag[0])} stands where it cannot; write <span:name>text</span>, side by side"
            )
        if name is not None:
            opened = Mark(name, len(plain), len(plain))
        elif opened is not None:
            if opened.start == len(plain):
                raise InputError(f"{key}: the span {quote(opened.name)} is empty; put text into it")
            marks.append(opened._replace(stop=len(plain)))
            opened = None
    if opened is not None:
        raise InputError(f"{key}: the span {quote(opened.name)} is not closed; write </span> after it")
    return plain + text[done:], tuple(marks)


def of_tokens(marks: Sequence[Mark], text: str, ids: Ids, key: str, encoder: Encoder) -> tuple[Mark, ...]:
    """Marks of a text's characters as marks of its tokens, as far as these are read. Raises `InputError`."""
    found = []
    for mark in marks:
        start, stop = (_tokens_before(text, place, ids, encoder) for place in (mark.start, mark.stop))
        if start is None or stop is None:
            raise InputError(
                f"{key}: the span {quote(mark.name)} begins or ends within a token; mark whole words; "
                + encoder.contrast("up to it", encoder(text[: mark.start if start is None else mark.stop]), key, ids)
            )
        found.append(Mark(mark.name, start, stop))
    return tuple(found)


def _tokens_before(text: str, place: int, ids: Ids, encoder: Encoder) -> int | None:
    """How many tokens stand before a character; a space before it may belong to either side."""
    for head in (encoder(text[:place]), encoder(text[:place].rstrip(" "))):
        if head[: len(ids)] == ids[: len(head)]:
            return min(len(head), len(ids))
    return None


def groups(marks: Sequence[Mark], length: int, names: dict[str, int]) -> tuple[int, ...]:
    """The number of each token's span; `names` gives the numbers and gets the new ones."""
    numbers = [names[REST]] * length
    for mark in marks:
        number = names.setdefault(mark.name, len(names))
        numbers[mark.start : mark.stop] = [number] * (mark.stop - mark.start)
    return tuple(numbers)


def partners(clean: Sequence[Mark], corrupted: Sequence[Mark], length: int, other: int) -> tuple[int, ...] | None:
    """For each of a clean prompt's tokens the corrupted one that stands for it; None where they go one by one.

    Outside of the spans the two must have equally many tokens. Within a span the last tokens stand for each other, and
    so on to the left; what is left over on the clean side has the corrupted span's first token. The prompts have
    `length` and `other` tokens. Raises `InputError`.
    """
    names = [[mark.name for mark in each] for each in (clean, corrupted)]
    if names[0] != names[1]:
        here, there = (quote(", ".join(each)) for each in names)
        raise InputError(f"clean marks the spans {here} and corrupted {there}; mark the same ones in the same order")
    places: list[int] = []
    done = 0
    for mine, its in zip(
        (*clean, Mark("the end", length, length)), (*corrupted, Mark("the end", other, other)), strict=True
    ):
        between, there = mine.start - len(places), its.start - done
        if between != there:
            raise InputError(
                f"{between} tokens of clean and {there} of corrupted stand unmarked before {quote(mine.name)}; "
                "make them equally many, or mark what differs"
            )
        places += range(done, its.start)
        count = mine.stop - mine.start
        if count and its.start == its.stop and mine.start < length:
            raise InputError(f"the span {quote(mine.name)} has no token in corrupted; put text into it")
        places += (max(its.start, its.stop - count + number) for number in range(count))
        done = its.stop
    return None if places == list(range(other)) else tuple(places)
