"""Induction: in "lamp coin … lamp" comes " coin" again.

The behaviour of induction heads (Olsson et al. 2022, "In-context learning and induction heads").
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING

from edgewise.tasks._draw import choice, sample
from edgewise.tasks._encode import Encoder
from edgewise.tasks._generate import Draft, Pieces, Sizes, generated, single_tokens, steps
from edgewise.tasks._splits import Split, words_of
from edgewise.tasks._task import Task
from edgewise.tasks._words import OBJECTS, PLACES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HEADS: dict[Split, tuple[str, ...]] = {
    "train": ("Words:", "In this order:", "She read aloud:"),
    "validation": ("Please repeat:",),
    "test": ("The list is:",),
}
_SHORTEST, _LONGEST = 4, 10  # words before they come again


def induction(
    tokenizer: PreTrainedTokenizerBase, train: int = 200, validation: int = 200, test: int = 256, seed: int = 0
) -> Task:
    """A list of different nouns, and again its beginning: the next noun of the list follows.

    The corrupted prompt has another noun in the answer's place in the list, and is then followed by that one, the wrong
    answer. Lists have 4 to 10 nouns (fewer if the tokenizer has few as single tokens) and begin again for at least one.
    No noun and no opening phrase is in two splits. Arguments, result and errors as of `greater_than`, with metric
    "logit_diff".
    """
    encoder = Encoder.of(tokenizer)

    def draws(split: Split, random: Random) -> Iterator[Draft]:
        words = words_of(OBJECTS, split) + words_of(PLACES, split)
        tokens = single_tokens("induction", f"{split} noun", words, encoder, _SHORTEST + 1)
        longest = min(_LONGEST, len(tokens) - 1)
        while True:
            length = _SHORTEST + int(random.random() * (longest - _SHORTEST + 1))
            *listed, other = sample(random, tuple(tokens), length + 1)
            again = 1 + int(random.random() * (length - 1))  # the answer is noun number `again`, counted from 0
            answer = listed[again]
            pieces: Pieces = [choice(random, _HEADS[split])]
            for word in listed:
                pieces += [" ", (word, other) if word == answer else word]
            pieces += [f" {word}" for word in listed[:again]]
            answers = tuple((f" {word}", tokens[word]) for word in (answer, other))
            yield Draft(steps(pieces), (tokens[answer],), (tokens[other],), answers)

    return generated("induction", draws, encoder, Sizes(train, validation, test), seed, {})
