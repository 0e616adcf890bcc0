"""Where a rule and its feature part: the tokens that the rule missed, and those that it named wrongly."""

from collections import Counter
from heapq import nsmallest
from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from edgewise.runs import random_keys
from edgewise.transcoders import TokenTexts

EXAMPLES = 3
"""Kept of each token's text."""
_BEFORE, _AFTER = 20, 5  # tokens of context


class RuleExample(NamedTuple):
    """A token at which a rule is wrong, in its row."""

    before: str
    """The text before it. The rule sees more of it: from the row's beginning on."""
    token: str
    after: str
    """The text after it, which the rule does not see."""
    activation: float
    """The feature's at the token; 0 where it is off."""


class Misses(NamedTuple):
    """All tokens of one text at which a rule is wrong in one way."""

    token: str
    """Their text."""
    wrong: int
    """How many of them the rule is wrong at,"""
    of: int
    """of so many: at which the feature is on (of those missed), or that the rule names (of those named wrongly)."""
    examples: tuple[RuleExample, ...]
    """Some of those at which it is wrong."""


class Parting:
    """Where one rule and its feature part, over a text."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.missed, self.wrong = _Tally(), _Tally()

    def add(
        self, ids: Int[Tensor, " n"], place: Int[Tensor, "n 2"], value: Float[Tensor, " n"], named: Bool[Tensor, " n"]
    ) -> None:
        """Count tokens.

        Args:
            ids: the tokens.
            place: the row and the position of each.
            value: the feature's activation at each.
            named: which of them the rule names.
        """
        on = value > 0
        self.missed.add(ids, place, value, on, on & ~named, -value)
        order = random_keys((place[:, 0] << 32) + place[:, 1], 0)
        self.wrong.add(ids, place, value, named, named & ~on, order)


class _Tally:
    """Tokens by their number: how many there are, at how many the rule is wrong, and some of those."""

    def __init__(self) -> None:
        self.all, self.wrong = Counter[int](), Counter[int]()
        self.kept: dict[int, list[tuple[float, int, int, float]]] = {}  # order, row, position, activation

    def add(self, ids: Tensor, place: Tensor, value: Tensor, among: Tensor, wrong: Tensor, order: Tensor) -> None:
        """Count those `among` which a token may be wrong, and those that are; the smallest in `order` are kept."""
        self.all.update(ids[among].tolist())
        self.wrong.update(ids[wrong].tolist())
        columns = (ids, order, *place.unbind(1), value)
        for token, *entry in zip(*(column[wrong].tolist() for column in columns), strict=True):
            self.kept[token] = nsmallest(EXAMPLES, [*self.kept.get(token, ()), tuple(entry)])

    def worst(self, rows: Int[Tensor, "R S"], tokenizer: Any, most: int) -> tuple[Misses, ...]:
        """The tokens at which the rule is wrong most often, the most frequent first."""
        texts = TokenTexts(tokenizer)
        return tuple(
            Misses(texts.shown(token), wrong, self.all[token], tuple(self._examples(token, rows, tokenizer, texts)))
            for token, wrong in self.wrong.most_common(most)
        )

    def _examples(self, token: int, rows: Tensor, tokenizer: Any, texts: TokenTexts) -> list[RuleExample]:
        def text(ids: Tensor) -> str:
            return tokenizer.decode(ids.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)

        return [
            RuleExample(
                text(rows[row, max(0, at - _BEFORE) : at]),
                texts.shown(token),
                text(rows[row, at + 1 : at + 1 + _AFTER]),
                value,
            )
            for _, row, at, value in self.kept[token]
        ]
