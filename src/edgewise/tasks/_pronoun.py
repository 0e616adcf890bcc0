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
from edgewise.tasks._splits import Split, listed, words_of
from edgewise.tasks._words import FEMALE_NAMES, MALE_NAMES, OBJECTS, PLACES

_NAME = "gendered-pronoun"
_FILLERS = {"object": OBJECTS, "place": PLACES}
_TEMPLATES: dict[Split, tuple[str, ...]] = {
    "train": (
        "So {name} went to the {place} yesterday, didn't",
        "So {name} is a really good friend, isn't",
        "So {name} lives quite near the {place}, doesn't",
        "So {name} has bought a {object}, hasn't",
        "So {name} was waiting at the {place}, wasn't",
        "Well, {name} can repair the {object}, can't",
        "Well, {name} will come to the {place}, won't",
        "And {name} has always been kind to us, hasn't",
        "I think {name} lost a {object} near the {place}, didn't",
        "Yes, {name} would like to see the {place}, wouldn't",
        "Of course {name} knows the {place} well, doesn't",
        "I hear that {name} is an excellent cook, isn't",
    ),
    "validation": (
        "So {name} left the {object} at the {place}, didn't",
        "Surely {name} is going to the {place}, isn't",
        "Well, {name} has never liked the {place}, has",
    ),
    "test": (
        "So {name} found a {object} at the {place}, didn't",
        "I believe {name} is a very careful driver, isn't",
        "Right, {name} could see the {place} from here, couldn't",
    ),
}
# Names of our lists that many women and many men bear.
_EITHER = frozenset(
    listed(
        """
        Robin Leslie Dana Tracy Ashley Kelly Shirley Beverly Jesse Lee Alex Sam Chris Charlie Max Francis Terry Willie
        Billy Bobby Joe Logan Wei Mei Yuki Perry Carol Austin Ryan Sidney Nick Ali Andrea Simone Toby Joel Juan Jose
        Mitchell Tyler Evan Dominic Gabriel
        """
    )
)


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
