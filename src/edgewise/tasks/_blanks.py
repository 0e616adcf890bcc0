"""Templates with blanks, and the lists of words that fill them: read, checked, and dealt out to the splits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any, NamedTuple, TypeAlias

from edgewise._errors import InputError
from edgewise.tasks._encode import quote
from edgewise.tasks._record import SPLIT_NAMES
from edgewise.tasks._splits import FEWEST, SPLITS, Split, words_of

Row: TypeAlias = dict[str, str]
"""One entry of a list of words: its values by field, or the one word under the field `""`."""
Dealt: TypeAlias = "dict[Split, tuple[Row, ...]]"
TEXTS = ("clean", "corrupted", "answer", "wrong_answer")
"""The texts of a template."""
_BLANK = re.compile(r"([^\W\d]\w*)(?:\.(\w+))?")


class Blank(NamedTuple):
    """`{name}` or `{name.field}`."""

    name: str
    field: str = ""

    def __str__(self) -> str:
        return f"{{{self.name}.{self.field}}}" if self.field else f"{{{self.name}}}"


Text: TypeAlias = "tuple[str | Blank, ...]"
"""A text in pieces."""


@dataclass(frozen=True)
class Template:
    """One template, parsed."""

    where: str
    """What it is called in messages."""
    texts: Mapping[str, tuple[Text, ...]]
    """By key; several texts where an answer is a set."""
    blanks: Mapping[str, tuple[str, ...]]
    """The blanks that each list of words fills, each with another word."""
    listed: frozenset[str]
    """The keys whose texts were given as a list."""

    def filled(self, rows: Mapping[str, Row]) -> dict[str, Any]:
        """The record of these words."""
        texts = {key: [fill(text, rows) for text in each] for key, each in self.texts.items()}
        return {key: each if key in self.listed else each[0] for key, each in texts.items()}

    @property
    def clean(self) -> str:
        """The clean prompt as it was written."""
        return "".join(map(str, self.texts["clean"][0]))

    @property
    def aligned(self) -> bool:
        """Whether clean and corrupted are the same but for their blanks, and mark no spans."""
        (clean,), (corrupted,) = self.texts["clean"], self.texts["corrupted"]
        here, there = ([each if isinstance(each, str) else None for each in text] for text in (clean, corrupted))
        return here == there and not any("<" in each for each in here if each)


def fill(text: Text, rows: Mapping[str, Row]) -> str:
    """A text with its blanks filled."""
    return "".join(piece if isinstance(piece, str) else rows[piece.name][piece.field] for piece in text)


def templates_by_split(
    given: Any, defaults: Mapping[str, Any], words: Mapping[str, Dealt]
) -> dict[Split, tuple[Template, ...]]:
    """The templates of each split, parsed; one alone is shared by all. Raises `InputError`."""
    given = [given] if isinstance(given, str) else given
    if isinstance(given, Mapping) and "clean" not in given:
        found: dict[Split, tuple[Template, ...]] = {
            split: tuple(
                _template(f"{split} template {n}", each, defaults, words) for n, each in _numbered(split, part)
            )
            for split, part in _explicit("templates", given).items()
        }
        _refuse_again("templates", [each.clean for part in found.values() for each in part])
        return found
    given = [given] if isinstance(given, Mapping) else given
    every = tuple(_template(f"template {n}", each, defaults, words) for n, each in _numbered("templates", given))
    _refuse_again("templates", [each.clean for each in every])
    if len(every) == 1:
        return dict.fromkeys(SPLITS, every)
    if len(every) < FEWEST:
        raise InputError(
            f"templates: {len(every)} are too few to be dealt out to three splits; give one, which the splits then "
            f"share, or at least {FEWEST}, or say which are for train, validation and test"
        )
    return {split: words_of(every, split) for split in SPLITS}


def word_lists(given: Any, shared: Sequence[str]) -> dict[str, Dealt]:
    """The words of each list and split. Raises `InputError`."""
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise InputError(f"words: {quote(str(given))}; give lists of words by name")
    if wrong := [name for name in shared if not isinstance(name, str)]:
        raise InputError(f"shared: {quote(str(wrong[0]))} is no text; give the names of lists of words")
    if unknown := [name for name in shared if name not in given]:
        raise InputError(f"shared: there is no list {quote(str(unknown[0]))}; words has {', '.join(given)}")
    lists = {name: _dealt(name, each, name in shared) for name, each in given.items()}
    homes: dict[str, str] = {}
    for name, dealt in lists.items():
        for row in dict.fromkeys(next(iter(row.values())) for split in SPLITS for row in dealt[split]):
            if (home := homes.setdefault(row, name)) != name:
                raise InputError(f"words: {quote(row)} is in the lists {home} and {name}; keep it in one")
    return lists


def _dealt(name: str, given: Any, shared: bool) -> Dealt:
    where = f"words, {name}"
    by_split = isinstance(given, Mapping)
    if by_split and shared:
        raise InputError(f"{where}: is given by split and is shared; choose one")
    parts: dict[Any, Any] = dict(_explicit(where, given)) if by_split else {"": given}
    rows = {part: _rows(where, each) for part, each in parts.items()}
    every = [row for each in rows.values() for row in each]
    _refuse_again(where, [next(iter(row.values())) for row in every])
    if odd := [row for row in every if row.keys() != every[0].keys()]:
        raise InputError(f"{where}: {_shown(odd[0])} has other fields than {_shown(every[0])}; give all the same")
    if by_split:
        return {split: rows[split] for split in SPLITS}
    if shared:
        return dict.fromkeys(SPLITS, rows[""])
    if len(every) < FEWEST:
        raise InputError(
            f"{where}: {len(every)} are too few to be dealt out to three splits; give at least {FEWEST}, or name the "
            "list under shared"
        )
    return {split: words_of(rows[""], split) for split in SPLITS}


def _rows(where: str, given: Any) -> tuple[Row, ...]:
    given = given.split() if isinstance(given, str) else given
    if not isinstance(given, (list, tuple)) or not given:
        raise InputError(f"{where}: {quote(str(given))}; give a list of words")
    rows = []
    for each in given:
        row = each if isinstance(each, Mapping) else {"": each}
        for field, value in row.items():
            if not isinstance(field, str) or not isinstance(value, str):
                raise InputError(f"{where}: {quote(str(value))} is no text; write words as text")
            if not value or value != value.strip():
                raise InputError(f"{where}: {quote(value)} is empty or has a space around it; write the word alone")
        if not row:
            raise InputError(f"{where}: an entry has no fields; give some, such as country and capital")
        rows.append(dict(row))
    return tuple(rows)


def _explicit(where: str, given: Mapping[Any, Any]) -> dict[Split, Any]:
    """What is given by split."""
    named: dict[Split, Any] = {SPLIT_NAMES[key]: value for key, value in given.items() if key in SPLIT_NAMES}
    if named.keys() != {*SPLITS} or len(named) < len(given):
        keys = quote(", ".join(map(str, given)))
        raise InputError(f"{where}: has {keys}; give a list, or one for each of {', '.join(SPLITS)}")
    return named


def _numbered(where: str, given: Any) -> Iterator[tuple[int, Any]]:
    if not isinstance(given, (list, tuple)) or not given:
        raise InputError(f"{where}: {quote(str(given))}; give templates, such as The capital of {{place1.country}} is")
    yield from enumerate(given, 1)


def _refuse_again(where: str, items: Iterable[str]) -> None:
    seen: set[str] = set()
    for each in items:
        if each in seen:
            raise InputError(f"{where}: {quote(each)} is there twice; keep one")
        seen.add(each)


def _template(where: str, given: Any, defaults: Mapping[str, Any], words: Mapping[str, Dealt]) -> Template:
    """One template with what all share put in. Raises `InputError`."""
    own = {"clean": given} if isinstance(given, str) else given
    if not isinstance(own, Mapping) or "clean" not in own:
        raise InputError(f"{where}: {quote(str(given))}; give the clean prompt, or an object with {', '.join(TEXTS)}")
    if unknown := [key for key in own if key not in TEXTS]:
        raise InputError(f"{where}: there is no {quote(str(unknown[0]))}; use {', '.join(TEXTS)}")
    given = {key: value for key, value in {**defaults, **own}.items() if value is not None}
    if "corrupted" not in given:
        raise InputError(f"{where}: has no corrupted prompt; give its text, or which blanks change, as place1: place2")
    swaps = given.pop("corrupted") if isinstance(given["corrupted"], Mapping) else None
    texts = {key: _texts(f"{where}, {key}", value, words) for key, value in given.items()}
    if swaps is not None:
        texts["corrupted"] = (_swapped(where, texts["clean"][0], swaps, words),)
    names = [piece.name for each in texts.values() for text in each for piece in text if isinstance(piece, Blank)]
    blanks: dict[str, tuple[str, ...]] = {}
    for blank in dict.fromkeys(names):
        kind = list_of(blank, words)
        blanks[kind] = (*blanks.get(kind, ()), blank)
    for kind, wanted in blanks.items():
        sizes = {split: len(words[kind][split]) for split in SPLITS}
        if short := [f"{split} has {size}" for split, size in sizes.items() if size < len(wanted)]:
            raise InputError(f"{where}: needs {len(wanted)} different words of {kind}, and {short[0]}; give more")
    listed = frozenset(key for key, value in given.items() if not isinstance(value, str))
    return Template(where, texts, blanks, listed)


def _texts(where: str, value: Any, words: Mapping[str, Dealt]) -> tuple[Text, ...]:
    several = [value] if isinstance(value, str) else value
    many = where.endswith("answer")
    if not isinstance(several, (list, tuple)) or not several or not all(isinstance(each, str) for each in several):
        raise InputError(f"{where}: {quote(str(value))}; give a text{' or a list of texts' if many else ''}")
    if not many and not isinstance(value, str):
        raise InputError(f"{where}: is a list; give one text")
    return tuple(_parsed(where, each, words) for each in several)


def _parsed(where: str, text: str, words: Mapping[str, Dealt]) -> Text:
    """A text cut at its blanks, each of which some list can fill."""
    pieces: list[str | Blank] = []
    try:
        for literal, name, spec, conversion in Formatter().parse(text):
            pieces += [literal] if literal else []
            if name is None:
                continue
            found = _BLANK.fullmatch(name)
            if not found or spec or conversion:
                raise InputError(f"{where}: {quote(f'{{{name}}}')} is no blank; write {{name}} or {{name.field}}")
            blank = Blank(found[1], found[2] or "")
            _check_blank(where, blank, words)
            pieces.append(blank)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: {quote(text)} has a brace alone; write {{{{ or }}}} for one that is text") from None
    return tuple(pieces)


def _check_blank(where: str, blank: Blank, words: Mapping[str, Dealt]) -> None:
    """Refuse a blank that no list of words fills."""
    kind = list_of(blank.name, words)
    if kind not in words:
        lists = ", ".join(words) or "none"
        raise InputError(f"{where}: no list of words for {blank}; the lists are {lists}")
    fields = words[kind][SPLITS[0]][0]
    if blank.field not in fields:
        known = ", ".join(f"{{{blank.name}.{field}}}" if field else f"{{{blank.name}}}" for field in fields)
        raise InputError(f"{where}: {blank} is no field of {kind}; use {known}")


def list_of(blank: str, words: Mapping[str, Any]) -> str:
    """The list that fills a blank: the one of its name, or of its name without the number at its end."""
    return blank if blank in words else blank.rstrip("0123456789")


def _swapped(where: str, clean: Text, swaps: Mapping[Any, Any], words: Mapping[str, Dealt]) -> Text:
    """The clean text with other blanks in place of some."""
    there = {piece.name for piece in clean if isinstance(piece, Blank)}
    for old, new in swaps.items():
        if old not in there:
            raise InputError(f"{where}: corrupted changes {quote(str(old))}, and clean has no such blank")
        if not isinstance(new, str) or not _BLANK.fullmatch(new):
            raise InputError(f"{where}: corrupted has {quote(str(new))} for {old}; name a blank, such as place2")
    swapped = tuple(
        piece._replace(name=swaps.get(piece.name, piece.name)) if isinstance(piece, Blank) else piece for piece in clean
    )
    for piece in swapped:
        if isinstance(piece, Blank):
            _check_blank(f"{where}, corrupted", piece, words)
    return swapped


def _shown(row: Row) -> str:
    return quote(", ".join(f"{field}: {value}" if field else value for field, value in row.items()))
