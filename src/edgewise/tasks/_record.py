"""One record of a user's pairs: from texts to aligned tokens and targets, or to a refusal that says why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, NamedTuple

from edgewise._errors import InputError
from edgewise.tasks._encode import Encoder, Ids, Opening, check_prompt, quote
from edgewise.tasks._marks import REST, Mark, groups, of_tokens, partners, unmarked
from edgewise.tasks._pairs import Pair, Target
from edgewise.tasks._splits import Split

_KEYS = ("clean", "corrupted", "answer", "wrong_answer", "positions", "split")
_OF_OTHERS = {
    **dict.fromkeys(("correct_idx", "incorrect_idx", "corrupt", "answers", "wrong_answers"), "a file of that tool's"),
    **dict.fromkeys(("label", "answerKey", "choices", "answers_idx", "corrupted_answers_idx"), '"answer"'),
    **dict.fromkeys(("clean_answer", "patch_answer", "patch_prefix", "clean_label", "corrupted_label"), '"answer"'),
}
"""Columns of other tools that name answers; beside ours they would be passed over."""
SPLIT_NAMES: dict[str, Split] = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_OPEN, _CLOSE = "<predict>", "</predict>"
_NO_ANSWERS = '"positions": "all" judges every next token; leave out the answers and <predict> spans'


def pair_of(record: Mapping[str, Any], encoder: Encoder, names: dict[str, int] | None = None) -> Pair:
    """The pair that a record describes, in one of the forms of `from_records`; `names` are the numbers of the named
    spans, and gets those of new names. Raises `InputError`, which does not say where the record stands.
    """
    _check_keys(record)
    if isinstance(record.get("clean"), (list, tuple)):
        return _given_as_tokens(record, encoder)
    clean, clean_marks = unmarked(_text(record, "clean"), "clean")
    corrupted, corrupted_marks = unmarked(_text(record, "corrupted"), "corrupted")
    pair = _pair_of(record, clean, corrupted, bool(clean_marks or corrupted_marks), encoder)
    if not clean_marks and not corrupted_marks:
        return pair
    here, there = (
        of_tokens([_moved(mark, text) for mark in marks], plain, ids, key, encoder)
        for marks, text, plain, ids, key in (
            (clean_marks, clean, pair.clean_text, pair.clean, "clean"),
            (corrupted_marks, corrupted, pair.corrupted_text, pair.corrupted, "corrupted"),
        )
    )
    align = partners(here, there, len(pair.clean), len(pair.corrupted))
    spans = groups(here, len(pair.clean), {REST: 0} if names is None else names)
    return replace(pair, spans=spans, align=align)


def _given_as_tokens(record: Mapping[str, Any], encoder: Encoder) -> Pair:
    """The pair of prompts that are token ids already, judged after the last one or, for `positions`, everywhere."""
    clean, corrupted, right, wrong = (
        _numbers(record, key, encoder) for key in ("clean", "corrupted", "answer", "wrong_answer")
    )
    everywhere = _everywhere(record)
    if not clean or not (right or everywhere):
        raise InputError('of token ids, give "clean", "corrupted", and the id of an "answer" or "positions": "all"')
    if everywhere and (right or wrong):
        raise InputError(_NO_ANSWERS)
    clean, corrupted = encoder.given(clean), encoder.given(corrupted)
    if clean == corrupted:
        raise InputError("clean and corrupted are the same tokens; change what the behaviour rests on")
    targets = [Target(place, (token,)) for place, token in enumerate(clean[1:])]
    if right:
        targets = [Target(len(clean) - 1, *(tuple(dict.fromkeys(each)) for each in (right, wrong)))]
    if _same_before(targets, clean, corrupted):
        raise InputError("clean and corrupted are the same up to the last prediction; change an earlier token")
    shown = [" ".join(map(str, ids)) for ids in (clean, corrupted)]
    return Pair(clean, corrupted, tuple(targets), shown[0], shown[1])


def _numbers(record: Mapping[str, Any], key: str, encoder: Encoder) -> Ids:
    """None, one or several token ids."""
    value = record.get(key)
    numbers = () if value is None else tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise InputError(f'"{key}" is {quote(str(value))}; where "clean" is a list of token ids, give ids there too')
    return tuple(encoder.known(number, key) for number in numbers)


def _pair_of(record: Mapping[str, Any], clean: str, corrupted: str, unequal: bool, encoder: Encoder) -> Pair:
    """The pair, before its marked spans are looked at; `unequal` if these may explain unequal lengths."""
    if any(_is_token(record.get(key)) for key in ("answer", "wrong_answer")):
        return _judged_by_tokens(record, clean, corrupted, unequal, encoder)
    answers, wrong = _texts(record, "answer"), _texts(record, "wrong_answer")
    clean_span, corrupted_span = _span(clean, "clean"), _span(corrupted, "corrupted")
    if _everywhere(record):
        if answers or wrong or clean_span or corrupted_span:
            raise InputError(_NO_ANSWERS)
        return _every_position(clean, corrupted, encoder)
    if clean_span:
        if answers:
            raise InputError('clean has a <predict> span and the record an "answer" too; keep one')
        return _marked(clean_span, corrupted, corrupted_span, wrong, encoder)
    if corrupted_span:
        raise InputError("corrupted has a <predict> span and clean has none; mark the clean one")
    if not answers:
        raise InputError('nothing to predict; give an "answer", a <predict> span in clean, or "positions": "all"')
    return _answered(clean, corrupted, answers, wrong, unequal, encoder)


def _everywhere(record: Mapping[str, Any]) -> bool:
    """Whether the prediction of every next token is judged."""
    asked = record.get("positions")
    if asked not in (None, "all"):
        raise InputError(f'"positions" is {quote(str(asked))}; the only choice is "all"')
    return asked is not None


def _is_token(value: Any) -> bool:
    """Whether an answer is a token, or a list of several."""
    several = value if isinstance(value, (list, tuple)) else [value]
    return bool(several) and all(type(each) is int or isinstance(each, Opening) for each in several)


def _judged_by_tokens(record: Mapping[str, Any], clean: str, corrupted: str, unequal: bool, encoder: Encoder) -> Pair:
    """The pair of two prompts whose answers are tokens by their numbers, judged after the prompts' last tokens."""
    given = record.get("answer"), record.get("wrong_answer")
    if not _is_token(given[0]) or not (given[1] is None or _is_token(given[1])) or record.get("positions") is not None:
        raise InputError('where one of "answer" and "wrong_answer" is the number of a token, give both so, alone')
    if any(_OPEN in text or _CLOSE in text for text in (clean, corrupted)):
        raise InputError('has a <predict> span and an "answer" too; keep one')
    several = [() if each is None else tuple(each) if isinstance(each, (list, tuple)) else (each,) for each in given]
    right, wrong = (tuple(dict.fromkeys(encoder.token(each) for each in tokens)) for tokens in several)
    if shared := set(right) & set(wrong):
        raise InputError(f"token {min(shared)} is an answer and a wrong answer; give others")
    prompt, other = encoder.many([clean, corrupted])
    check_prompt(prompt)
    return _pair(prompt, other, [Target(len(prompt) - 1, right, wrong)], clean, corrupted, encoder, unequal)


def asked_split(record: Mapping[str, Any]) -> Split | None:
    """The split that a record asks for, if any."""
    asked = record.get("split")
    if asked is None:
        return None
    if not isinstance(asked, str) or asked not in SPLIT_NAMES:
        raise InputError(f'"split" is {quote(str(asked))}; use {", ".join(SPLIT_NAMES)}')
    return SPLIT_NAMES[asked]


class _Span(NamedTuple):
    before: str
    marked: str
    after: str

    @property
    def text(self) -> str:
        return "".join(self)


def _check_keys(record: Mapping[str, Any]) -> None:
    answered = record.get("answer") is not None or record.get("positions") is not None
    for key in record:
        if key in _OF_OTHERS and not answered and _OPEN not in str(record.get("clean")):
            raise InputError(f"{quote(key)} is another tool's column, which is not read here; give {_OF_OTHERS[key]}")
        if key not in _KEYS and (meant := _meant(str(key))):
            raise InputError(f'there is no key {quote(str(key))}; did you mean "{meant}"?')


def _meant(key: str) -> str | None:
    """The key that another looks like: nearly the same, or its first letters ("wrong")."""
    plain = key.strip().lower().replace(" ", "_").replace("-", "_")
    begun = [each for each in _KEYS if len(plain) > 3 and each.startswith(plain)]
    return next(iter(begun or get_close_matches(plain, _KEYS, n=1, cutoff=0.85)), None)


def _text(record: Mapping[str, Any], key: str) -> str:
    if key not in record:
        raise InputError(f'has no "{key}"; a pair needs "clean" and "corrupted"')
    return _checked(record[key], key)


def _texts(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """None, one or several texts."""
    value = record.get(key)
    if value is None:
        return ()
    texts = tuple(_checked(text, key) for text in (value if isinstance(value, (list, tuple)) else [value]))
    if not texts or not all(texts):
        raise InputError(f'"{key}" is empty; give the text that continues the prompt')
    return tuple(dict.fromkeys(texts))


def _checked(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise InputError(f'"{key}" is {quote(str(value))}, of type {type(value).__name__}; it must be text')
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f'"{key}" holds half a surrogate pair, which is no character; write the text in UTF-8')
    return value


def _span(text: str, key: str) -> _Span | None:
    if _OPEN not in text and _CLOSE not in text:
        return None
    before, _, rest = text.partition(_OPEN)
    marked, _, after = rest.partition(_CLOSE)
    if text.count(_OPEN) != 1 or text.count(_CLOSE) != 1 or not marked:
        raise InputError(f"{key} must have one <predict>, text to predict, and one </predict>, in this order")
    return _Span(before, marked, after)


def _every_position(clean: str, corrupted: str, encoder: Encoder) -> Pair:
    ids, corrupted_ids = encoder.many([clean, corrupted])
    if len(ids) < 2:
        raise InputError(f"clean {quote(clean)} has no next token to predict; give a longer text")
    targets = [Target(position, (token,)) for position, token in enumerate(ids[1:])]
    return _pair(ids, corrupted_ids, targets, clean, corrupted, encoder)


def _moved(mark: Mark, text: str) -> Mark:
    """A mark of a text as one of the text without its <predict> tags."""

    def place(of: int) -> int:
        tags = ((text.find(tag), len(tag)) for tag in (_OPEN, _CLOSE))
        return of - sum(min(length, of - start) for start, length in tags if 0 <= start < of)

    return Mark(mark.name, place(mark.start), place(mark.stop))


def _answered(
    clean: str, corrupted: str, answers: Sequence[str], wrong: Sequence[str], unequal: bool, encoder: Encoder
) -> Pair:
    prompt, tokens = _continued(encoder, "clean", clean, answers)
    corrupted_prompt, corrupted_tokens = _continued(encoder, "corrupted", corrupted, answers)
    if corrupted_tokens != tokens:
        both = encoder.contrast("clean", prompt + tokens[0], "corrupted", corrupted_prompt + corrupted_tokens[0])
        raise InputError(f"the answer's tokens after clean differ from those after corrupted; {both}")
    for each in wrong:
        _refuse_glued(clean, each)
    forced = tokens[0][:-1]
    right = [tuple(dict.fromkeys(each)) for each in zip(*tokens, strict=True)]
    targets = _targets(prompt, right, _leaving(clean, prompt, right, wrong, encoder))
    return _pair(prompt + forced, corrupted_prompt + forced, targets, clean, corrupted, encoder, unequal)


def _continued(encoder: Encoder, key: str, prompt: str, answers: Sequence[str]) -> tuple[Ids, list[Ids]]:
    """The prompt's tokens, and those of each answer: of one answer any number, of each of several just one."""
    tokens = []
    ids: Ids = ()
    for number, answer in enumerate(answers):
        _refuse_glued(prompt, answer)
        try:
            head, tail = encoder.continuation(prompt, answer)
        except InputError as error:
            raise InputError(f"{key}: {error}") from None
        if len(answers) > 1 and len(tail) > 1:
            raise InputError(
                f"each of several answers must be one token, and {quote(answer)} is {len(tail)}; give it alone"
            )
        if number and head != ids:
            raise InputError(
                f"{key}: some answers take the prompt's last space and some do not; write all answers alike"
            )
        ids = head
        tokens.append(tail)
    return ids, tokens


def _refuse_glued(prompt: str, answer: str) -> None:
    if _glued(prompt, answer):
        end = quote(prompt[-20:])
        raise InputError(f"the answer {quote(answer)} would continue the last word of {end}; start it with a space")


def _glued(prompt: str, answer: str) -> bool:
    """Whether the two meet within a word, in a script that puts spaces between words (such have upper case)."""
    return bool(prompt) and all(letter.lower() != letter.upper() for letter in (prompt[-1], answer[0]))


def _leaving(
    text: str, prompt: Ids, right: Sequence[tuple[int, ...]], wrong: Sequence[str], encoder: Encoder
) -> list[list[int]]:
    """The wrong answers' tokens at each token of the answer: each counts once, where it first leaves the answer."""
    leaving: list[list[int]] = [[] for _ in right]
    for answer in wrong:
        head, tokens = encoder.continuation(text, answer)
        if head != prompt:
            raise InputError(
                f"the wrong answer {quote(answer)} and the answer differ in their first space; write them alike"
            )
        steps = [step for step, (token, rights) in enumerate(zip(tokens, right, strict=False)) if token not in rights]
        if not steps:
            raise InputError(f"the wrong answer {quote(answer)} has the answer's own tokens; give one that differs")
        if tokens[steps[0]] not in leaving[steps[0]]:
            leaving[steps[0]].append(tokens[steps[0]])
    return leaving


def _marked(span: _Span, corrupted: str, corrupted_span: _Span | None, wrong: Sequence[str], encoder: Encoder) -> Pair:
    ids, start, stop = _located(span, "clean", encoder)
    if corrupted_span:
        corrupted_ids, *place = _located(corrupted_span, "corrupted", encoder)
        _check_lengths(ids, corrupted_ids, encoder)
        if place != [start, stop]:
            here, there = f"{start + 1} to {stop}", f"{place[0] + 1} to {place[1]}"
            raise InputError(f"the <predict> span is tokens {here} of clean and {there} of corrupted; align them")
    else:
        corrupted_ids = _unmarked(corrupted, span, ids, start, encoder)
    if not _glued(span.before, span.marked):
        for each in wrong:
            _refuse_glued(span.before, each)
    right = [(token,) for token in ids[start:stop]]
    targets = _targets(ids[:start], right, _leaving(span.before, ids[:start], right, wrong, encoder))
    # Without text after it, the span's last token is predicted but never read, as an answer's is.
    read = len(ids) if span.after else stop - 1
    texts = span.text, corrupted_span.text if corrupted_span else corrupted
    return _pair(ids[:read], corrupted_ids[:read], targets, *texts, encoder)


def _located(span: _Span, key: str, encoder: Encoder) -> tuple[Ids, int, int]:
    """The tokens of the whole text, and where among them the span starts and stops."""
    try:
        prompt, tokens = encoder.continuation(span.before, span.marked)
    except InputError as error:
        raise InputError(f"{key}: {error}") from None
    stop = len(prompt) + len(tokens)
    whole = encoder(span.text) if span.after else prompt + tokens
    if whole[:stop] != prompt + tokens:
        both = encoder.contrast("up to it", prompt + tokens, "whole", whole)
        raise InputError(f"{key}: the text after </predict> changes the tokens before it; {both}")
    return whole, len(prompt), stop


def _unmarked(corrupted: str, span: _Span, ids: Ids, start: int, encoder: Encoder) -> Ids:
    """Tokens of a corrupted text without a span: a whole text, or the prompt alone if clean ends with its span."""
    whole = encoder(corrupted)
    if span.after:
        _check_lengths(ids, whole, encoder)
        return whole
    if len(whole) == len(ids):
        # A misaligned prompt alone can be as long as the whole clean text: then it ends as the clean prompt does.
        if whole[-1] == ids[start - 1] != whole[start - 1] and whole[start:] != ids[start:]:
            both = encoder.contrast("clean", ids, "corrupted", whole)
            raise InputError(
                f"corrupted may be a misaligned prompt or a whole text; mark its <predict> span too; {both}"
            )
        return whole
    # Between prompt and span corrupted gets what clean has there, a space or nothing.
    gap = span.before[len(span.before.rstrip(" ")) :]
    prompt, tokens = encoder.continuation(corrupted.rstrip(" ") + gap, span.marked)
    if len(prompt) != start or tokens != ids[start:]:
        both = encoder.contrast("clean", ids, "corrupted", whole)
        lengths = f"{len(whole)} tokens where clean has {len(ids)}, or {start} before its <predict> span"
        raise InputError(f"corrupted has {lengths}; make them align; {both}")
    return prompt + tokens


def _targets(prompt: Ids, right: Sequence[tuple[int, ...]], wrong: Sequence[Sequence[int]]) -> list[Target]:
    last = len(prompt) - 1
    return [Target(last + step, answers, tuple(wrong[step])) for step, answers in enumerate(right)]


def _pair(
    clean: Ids,
    corrupted: Ids,
    targets: Sequence[Target],
    clean_text: str,
    corrupted_text: str,
    encoder: Encoder,
    unequal: bool | None = None,
) -> Pair:
    if not unequal:
        remedy = "" if unequal is None else ", or mark what differs as <span:name>text</span> in both"
        _check_lengths(clean, corrupted, encoder, remedy)
    if _same_before(targets, clean, corrupted):
        raise InputError(
            "clean and corrupted are the same up to the last prediction; change what the behaviour rests on"
        )
    # A pair of unequal lengths must have partners; the caller replaces these with those of its marked spans.
    align = None if len(clean) == len(corrupted) else (len(corrupted) - 1,) * len(clean)
    return Pair(clean, corrupted, tuple(targets), clean_text, corrupted_text, align=align)


def _same_before(targets: Sequence[Target], clean: Ids, corrupted: Ids) -> bool:
    """Whether all that is judged comes before what differs, so that every circuit would be as near as can be."""
    last = max((each.position + 1 for each in targets), default=len(clean))
    return len(clean) == len(corrupted) and clean[:last] == corrupted[:last]


def _check_lengths(clean: Ids, corrupted: Ids, encoder: Encoder, remedy: str = "") -> None:
    if len(clean) != len(corrupted):
        both = encoder.contrast("clean", clean, "corrupted", corrupted)
        raise InputError(
            f"clean and corrupted have {len(clean)} and {len(corrupted)} tokens; make both equally long{remedy}; {both}"
        )
