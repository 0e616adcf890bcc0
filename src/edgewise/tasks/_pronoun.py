"""Gendered pronouns: after "So Mary went to the market yesterday, didn't" comes " she".

The behaviour of Mathwin et al. 2023 ("Identifying a preliminary circuit for predicting gendered pronouns in GPT-2
small"), as used by Bhaskar et al. 2024 (arXiv 2406.16778).
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from edgewise.tasks._draw import choice
from edgewise.tasks._encode import Encoder
from edgewise.tasks._generate import Draft, Draws, built_in, contrasted, filled, single_tokens
from edgewise.tasks._splits import Split, words_of
from edgewise.tasks._words import FEMALE_NAMES, MALE_NAMES, OBJECTS, PLACES, templates, word_list

_NAME = "gendered-pronoun"
_FILLERS = {"object": OBJECTS, "place": PLACES}
_TEMPLATES = templates("gendered-pronoun")
_EITHER = word_list("names of either")


@built_in(_NAME)
def gendered_pronoun(encoder: Encoder) -> Draws:
    """The pronoun of a named person in a tag question; the corrupted prompt names one of the other gender.

    Women and men take turns, so that guessing is right half the time. Names that both bear are left out. No template,
    name, object or place is in two splits; the two answers are shared.
    """
    pronouns = single_tokens(_NAME, "pronoun", ("she", "he"), encoder, 2)

    def draws(split: Split, random: Random) -> Iterator[Draft]:
        names = {
            pronoun: tuple(single_tokens(_NAME, f"{split} name", tuple(_clear(each, split)), encoder, 1))
            for pronoun, each in (("she", FEMALE_NAMES), ("he", MALE_NAMES))
        }
        answer, wrong = "she", "he"
        while True:
            words = {kind: choice(random, words_of(each, split)) for kind, each in _FILLERS.items()}
            clean, corrupted = ({**words, "name": choice(random, names[each])} for each in (answer, wrong))
            yield contrasted(filled(choice(random, _TEMPLATES[split]), clean, corrupted), pronouns, answer, wrong)
            answer, wrong = wrong, answer

    return draws


def _clear(names: tuple[str, ...], split: Split) -> list[str]:
    return [name for name in words_of(names, split) if name not in _EITHER]
