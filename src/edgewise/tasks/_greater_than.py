"""Greater-than: after "The war lasted from the year 1732 to the year 17" comes a number above 32.

The behaviour that Hanna, Liu & Variengien 2023 (arXiv 2305.00586) explained in GPT-2 small.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

from edgewise._errors import InputError
from edgewise.tasks._draw import choice
from edgewise.tasks._encode import Encoder
from edgewise.tasks._generate import Draft, Draws, built_in, filled, steps
from edgewise.tasks._splits import Split, words_of
from edgewise.tasks._words import templates, word_list

_TEMPLATES = templates("greater-than")
NOUNS = word_list("nouns")
CENTURIES = tuple(range(11, 20))
_YEARS = tuple(f"{year:02d}" for year in range(2, 99))  # room for a year above and one below


@built_in("greater-than", metric="prob_diff")
def greater_than(encoder: Encoder) -> Draws:
    """A year above the first one must follow its century.

    What is judged is the token after the century: right if a number above the start year's last two digits `YY` begins
    with it, else wrong. Where the tokenizer has the hundred two-digit tokens, those above `YY` are right, and `YY` and
    those below are wrong (as in Hanna et al., with the prompt's own year as the pivot). Where it splits numbers digit
    by digit, tens digits from the start year's own on are right, its own not if `YY` ends in 9. Answers and wrong ones
    stand nearest first. The corrupted prompt starts in another year of the same century, with other answers.

    No template, noun or last two digits `YY` is in two splits; the centuries are shared.
    """
    numerals = _numerals(encoder)

    def draws(split: Split, random: Random) -> Iterator[Draft]:
        nouns, years = words_of(NOUNS, split), numerals.usable(words_of(_YEARS, split))
        while True:
            noun, century = choice(random, nouns), str(choice(random, CENTURIES))
            year, other = choice(random, years), choice(random, years)
            if numerals.least(year) == numerals.least(other):
                continue
            clean, corrupted = ({"noun": noun, "century": century, "start": century + each} for each in (year, other))
            yield numerals.draft(steps(filled(choice(random, _TEMPLATES[split]), clean, corrupted)), year)

    return draws


class _Numerals(NamedTuple):
    """How a tokenizer writes what follows a century."""

    width: int
    """Digits a token: 2 or 1."""
    tokens: tuple[int, ...]
    """Of "00" to "99", or of "0" to "9"."""

    def least(self, year: str) -> int:
        """The least of the tokens' numbers with which a number above a year's last two digits begins."""
        return (int(year) + 1) // 10 ** (2 - self.width)

    def usable(self, years: tuple[str, ...]) -> tuple[str, ...]:
        """Those with both right and wrong answers."""
        return tuple(year for year in years if 0 < self.least(year) < len(self.tokens))

    def draft(self, texts: tuple[str, ...], year: str) -> Draft:
        """The pair, judged by its start year's last two digits."""
        least = self.least(year)
        above, below = range(least, len(self.tokens)), range(least - 1, -1, -1)
        answers, wrong = (tuple(self.tokens[number] for number in side) for side in (above, below))
        checked = tuple((f"{number:0{self.width}d}", self.tokens[number]) for number in (least, least - 1))
        return Draft(texts, answers, wrong, checked)


def _numerals(encoder: Encoder) -> _Numerals:
    for width in (2, 1):
        tokens = [_numeral(encoder, f"{number:0{width}d}") for number in range(10**width)]
        known = tuple(token for token in tokens if token is not None)
        if len(set(known)) == 10**width:
            return _Numerals(width, known)
    shown = encoder.contrast("1732", encoder("in 1732"), "17", encoder("in 17"))
    raise InputError(
        f"greater-than: this tokenizer splits years neither after the century nor digit by digit; {shown}; "
        "use another tokenizer, or pairs of your own (from_file)"
    )


def _numeral(encoder: Encoder, digits: str) -> int | None:
    """The token that these digits are after a century, whichever century shows it."""
    ids = encoder.many([f"in {century}{more}" for century in CENTURIES for more in ("", digits)])
    for head, whole in zip(ids[::2], ids[1::2], strict=True):
        if whole[:-1] == head:
            return whole[-1]
    return None
