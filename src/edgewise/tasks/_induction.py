"""Induction: in "lamp coin kite … lamp" comes " coin" again.

The behaviour of induction heads (Olsson et al. 2022, "In-context learning and induction heads").
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from edgewise.tasks._draw import choice, sample
from edgewise.tasks._encode import Encoder
from edgewise.tasks._generate import Draft, Draws, Pieces, built_in, contrasted, single_tokens
from edgewise.tasks._splits import Split, words_of
from edgewise.tasks._words import OBJECTS, PLACES, templates

_HEADS = templates("induction")
_SHORTEST, _LONGEST = 4, 10  # words before they come again


@built_in("induction")
def induction(encoder: Encoder) -> Draws:
    """A list of different nouns, and then a part of it again: the next noun of the list follows.

    In the corrupted prompt the answer and another noun of the list have changed places, so that this one follows, the
    wrong answer. Both prompts hold the same words equally often: to repeat just any word of the prompt is no answer.
    Lists have 4 to 10 nouns (fewer if the tokenizer has few as single tokens), of which at least one comes again. No
    noun and no opening phrase is in two splits.
    """

    def draws(split: Split, random: Random) -> Iterator[Draft]:
        words = words_of(OBJECTS, split) + words_of(PLACES, split)
        tokens = single_tokens("induction", f"{split} noun", words, encoder, _SHORTEST)
        longest = min(_LONGEST, len(tokens))
        while True:
            length = _SHORTEST + int(random.random() * (longest - _SHORTEST + 1))
            listed = sample(random, tuple(tokens), length)
            start, stop = sorted(sample(random, range(length), 2))  # what comes again, up to the answer
            others = [*listed[:start], *listed[stop + 1 :]]
            if not others:
                continue
            answer, other = listed[stop], choice(random, others)
            swapped = {answer: other, other: answer}
            pieces: Pieces = [choice(random, _HEADS[split])]
            for word in listed:
                pieces += [" ", (word, swapped[word]) if word in swapped else word]
            pieces += [f" {word}" for word in listed[start:stop]]
            yield contrasted(pieces, tokens, answer, other)

    return draws
