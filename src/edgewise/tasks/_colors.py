"""Copied colours: a multiple-choice question whose answer stands in the prompt.

The task of the MIB benchmark (Mueller et al. 2025, arXiv 2504.13151) with its symbol counterfactual, in our own words.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from string import ascii_uppercase

from edgewise.tasks._chat import check_chat, in_chat
from edgewise.tasks._draw import choice, sample
from edgewise.tasks._encode import Encoder
from edgewise.tasks._generate import Draft, Draws, Pieces, built_in, check_enough, contrasted
from edgewise.tasks._splits import Split, words_of
from edgewise.tasks._words import OBJECTS, templates, word_list

_NAME = "copy-colors"
_TEMPLATES = templates("copy-colors")
COLORS = word_list("colors")
_CHOICES = 4


@built_in(_NAME)
def copy_colors(encoder: Encoder, chat: bool = False) -> Draws:
    """The letter of the choice that names the colour; the corrupted prompt letters the same choices differently.

    Clean choices are A to D, corrupted ones four other letters. The wrong answers are the other three clean letters, so
    that guessing among the choices is right in a quarter. No template, object or colour is in two splits; the letters
    are shared.

    Args:
        encoder: the tokenizer's.
        chat: put the question into the tokenizer's chat template, with "Answer:" after it.
    """
    check_chat(_NAME, chat)
    tokens = encoder.openings(ascii_uppercase)
    letters, others = ascii_uppercase[:_CHOICES], ascii_uppercase[_CHOICES:]
    for part in (letters, others):
        check_enough(_NAME, "letter", part, [each for each in part if each in tokens], "known letters", len(part))

    def draws(split: Split, random: Random) -> Iterator[Draft]:
        while True:
            colors = sample(random, words_of(COLORS, split), _CHOICES)
            right = int(random.random() * _CHOICES)
            words = {"object": choice(random, words_of(OBJECTS, split)), "color": colors[right]}
            question: Pieces = [choice(random, _TEMPLATES[split]).format(**words)]
            for letter, other, color in zip(letters, sample(random, others, _CHOICES), colors, strict=True):
                question += [(letter, other), f". {color}\n"]
            pieces = [*in_chat(question, encoder), "Answer:"] if chat else [*question, "Answer:"]
            wrong = (letter for letter in letters if letter != letters[right])
            yield contrasted(pieces, tokens, letters[right], *wrong)

    return draws
