"""Capitals: after "The capital of Spain is Madrid. The capital of Japan is" comes " Tokyo"."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from edgewise.tasks._draw import choice, sample
from edgewise.tasks._encode import Encoder
from edgewise.tasks._generate import Draft, Draws, Pieces, built_in, check_enough, contrasted, filled
from edgewise.tasks._splits import Split, words_of
from edgewise.tasks._words import templates, word_list

_NAME = "capital-country"
_TEMPLATES = templates("capital-country")
CAPITALS = word_list("capitals")
"""Countries with their capitals, as `France/Paris`."""
_NEEDED = 3  # clean, corrupted and the worked example


@built_in(_NAME)
def capital_country(encoder: Encoder) -> Draws:
    """The capital of a country, after one worked example with the same wording; the corrupted prompt asks for another.

    A capital is judged by its first token; the names of the two countries have equally many. The wrong answer is the
    other country's capital. No template, country or capital is in two splits.
    """

    def draws(split: Split, random: Random) -> Iterator[Draft]:
        capitals = dict(pair.split("/") for pair in words_of(CAPITALS, split))
        gap, tokens = _openings(encoder, tuple(capitals.values()))
        countries = tuple(country for country, capital in capitals.items() if capital in tokens)
        check_enough(_NAME, f"{split} capital", capitals, countries, "known words", _NEEDED)
        while True:
            example, clean, corrupted = sample(random, countries, _NEEDED)
            answer, wrong = (capitals[each] for each in (clean, corrupted))
            if tokens[answer] == tokens[wrong]:
                continue
            template = choice(random, _TEMPLATES[split])
            pieces: Pieces = [f"{template.format(country=example)} {capitals[example]}. "]
            pieces += filled(template + gap, {"country": clean}, {"country": corrupted})
            yield contrasted(pieces, tokens, answer, wrong, space="" if gap else " ")

    return draws


def _openings(encoder: Encoder, capitals: tuple[str, ...]) -> tuple[str, dict[str, int]]:
    """What prompts end with, and the first tokens of the capitals after it; a tokenizer may cut them in two ways."""
    found = {gap: encoder.openings(capitals, gap) for gap in ("", " ")}
    gap = max(found, key=lambda each: len(found[each]))
    return gap, found[gap]
