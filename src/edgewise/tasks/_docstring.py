"""Docstrings: the next parameter that a Python docstring must describe is the next one of the signature.

The behaviour that Heimersheim & Janiak 2023 ("A circuit for Python docstrings in a 4-layer attention-only transformer")
found; wordings and names are our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from edgewise.tasks._draw import choice, sample
from edgewise.tasks._encode import Encoder
from edgewise.tasks._generate import Draft, Draws, built_in, contrasted, filled, single_tokens
from edgewise.tasks._splits import Split, words_of
from edgewise.tasks._words import OBJECTS, PLACES, templates, word_list

_NAME = "docstring"
_TEMPLATES = templates("docstring")
PARAMETERS = word_list("parameters")
_FUNCTIONS = word_list("functions")
_NEEDED = 8  # four names in the clean signature and four others in the corrupted one


@built_in(_NAME)
def docstring(encoder: Encoder) -> Draws:
    """The third parameter's name, after two have been described in the order of the signature.

    The corrupted prompt has other names, in signature and docstring alike, all different; wrong answers are the other
    three names of the clean signature. No layout of the docstring, name or describing noun is in two splits, and no
    noun is also a name; the names of functions are shared.
    """

    def draws(split: Split, random: Random) -> Iterator[Draft]:
        tokens = single_tokens(_NAME, f"{split} parameter", words_of(PARAMETERS, split), encoder, _NEEDED)
        nouns = _nouns(split)
        while True:
            chosen = sample(random, tuple(tokens), _NEEDED)
            words = dict(zip("xyzw", sample(random, nouns, 4), strict=True)) | {"f": choice(random, _FUNCTIONS)}
            clean, corrupted = ({**words, **dict(zip("abcd", each, strict=True))} for each in (chosen[:4], chosen[4:]))
            answer, *wrong = (clean[place] for place in "cabd")
            yield contrasted(filled(choice(random, _TEMPLATES[split]), clean, corrupted), tokens, answer, *wrong)

    return draws


def _nouns(split: Split) -> tuple[str, ...]:
    """The nouns that describe parameters. Those that are names of parameters too, such as "key", are left out: they
    could describe themselves, and their name may belong to another split.
    """
    return tuple(word for word in words_of(OBJECTS, split) + words_of(PLACES, split) if word not in PARAMETERS)
