"""Capitals asked for in two forms, by an instruction and by examples: the same questions in both."""

from __future__ import annotations

from itertools import permutations
from random import Random
from typing import TYPE_CHECKING

from edgewise._errors import InputError
from edgewise.tasks._capitals import CAPITALS
from edgewise.tasks._chat import has_chat, in_chat
from edgewise.tasks._encode import Encoder
from edgewise.tasks._splits import SPLITS, words_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMS = ("instruction", "few-shot")
_N_SHOTS = 3
_LEAST = 2  # pairs of a split without which there is nothing to learn or judge


def capital_records(
    tokenizer: PreTrainedTokenizerBase, sizes: tuple[int, int, int], seed: int
) -> dict[str, list[dict[str, str]]]:
    """Pairs about capitals in both forms, the same countries in each: the corrupted prompt asks for another country.

    A capital is judged by its first token, and the two countries of a pair have equally many tokens. No country is in
    two splits, and none of those in the examples is asked for.

    Args:
        tokenizer: the model's.
        sizes: training, validation and test pairs, at most.
        seed: of the drawing.

    Raises:
        InputError: the tokenizer leaves too few.
    """
    encoder = Encoder.of(tokenizer)
    shots = [pair.split("/") for pair in CAPITALS[:_N_SHOTS]]
    found: dict[str, list[dict[str, str]]] = {form: [] for form in FORMS}
    for split, size in zip(SPLITS, sizes, strict=True):
        by_length: dict[tuple[int, ...], list[tuple[str, str]]] = {}
        for pair in words_of(CAPITALS, split):
            country, capital = pair.split("/")
            if [country, capital] in shots:
                continue
            if (asked := _askable(encoder, country, capital, shots)) is not None:
                lengths, answer = asked
                by_length.setdefault(lengths, []).append((country, answer))
        pairs = [two for group in by_length.values() for two in permutations(group, 2) if two[0][1] != two[1][1]]
        if len(pairs) < _LEAST:
            raise InputError(
                f"capitals: this tokenizer leaves {len(pairs)} {split} pairs of countries with equally many tokens; "
                "choose boolean-expressions"
            )
        Random(f"{seed} {split}").shuffle(pairs)
        for (country, answer), (other, wrong) in pairs[:size]:
            for form in FORMS:
                clean, corrupted = (_prompt(form, each, shots, encoder) for each in (country, other))
                row = {"clean": clean, "corrupted": corrupted, "answer": answer, "wrong_answer": wrong}
                found[form].append(row | {"split": split})
    return found


def _prompt(form: str, country: str, shots: list[list[str]], encoder: Encoder) -> str:
    if form == "few-shot":
        return "".join(f"{each}: {capital}\n" for each, capital in shots) + f"{country}:"
    question, answer = f"What is the capital of {country}? Answer with one word.", "The capital is"
    if not has_chat(encoder.tokenizer):
        return f"{question}\n{answer}"
    return "".join(str(piece) for piece in in_chat([question], encoder)) + answer


def _askable(
    encoder: Encoder, country: str, capital: str, shots: list[list[str]]
) -> tuple[tuple[int, ...], str] | None:
    """How many tokens the prompts of both forms have, and the first of the answer as text; None if it differs."""
    found = [_first_token(encoder, _prompt(form, country, shots, encoder), f" {capital}") for form in FORMS]
    known = [each for each in found if each is not None]
    if len(known) < len(FORMS) or len({text for _, text in known}) > 1:
        return None
    return tuple(length for length, _ in known), known[0][1]


def _first_token(encoder: Encoder, prompt: str, answer: str) -> tuple[int, str] | None:
    """How many tokens the prompt has, and the text of the answer's first token; None if that text is not one token
    after the prompt.
    """
    try:
        asked, answered = encoder.continuation(prompt, answer)
        text = answer if len(answered) == 1 else str(encoder.tokenizer.decode(list(answered[:1])))
        again = encoder.continuation(prompt, text)
    except InputError:
        return None
    return (len(asked), text) if again == (asked, answered[:1]) else None
