"""Arithmetic on two two-digit numbers: after "The sum of 23 and 45 is" comes " 68".

The task of the MIB benchmark (Mueller et al. 2025, arXiv 2504.13151), in our own words.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Literal, TypeAlias

from edgewise._errors import InputError
from edgewise.tasks._draw import choice
from edgewise.tasks._encode import Encoder
from edgewise.tasks._generate import Draft, Draws, built_in, check_enough, contrasted, filled
from edgewise.tasks._splits import Split, split_of
from edgewise.tasks._words import templates

Operation: TypeAlias = Literal["addition", "subtraction"]

_NAME = "arithmetic"
_TEMPLATES: dict[Operation, dict[Split, tuple[str, ...]]] = {
    "addition": templates("addition"),
    "subtraction": templates("subtraction"),
}
_LEAST, _MOST = 10, 99
_NEEDED = 20  # results that the tokenizer can begin


@built_in(_NAME)
def arithmetic(encoder: Encoder, operation: Operation = "addition") -> Draws:
    """The sum or the difference of two numbers, all three from 10 to 99.

    The answer is judged by its first token: the number itself where the tokenizer has it, its first digit where it
    splits numbers into digits. The corrupted prompt has two other numbers, neither of them in the clean one, and the
    wrong answer is their result, which begins with another token. No template and no pair of numbers, in either order,
    is in two splits; single numbers are.

    Args:
        encoder: the tokenizer's.
        operation: "addition", or "subtraction" of the smaller number from the larger.
    """
    if operation not in _TEMPLATES:
        raise InputError(f"{_NAME}: there is no operation {operation!r}; use {' or '.join(_TEMPLATES)}")
    results = [str(number) for number in range(_LEAST, _MOST + 1)]
    gap = encoder.gap("7")
    tokens = encoder.openings(results, gap)
    check_enough(_NAME, "result", results, tokens, "known numbers", _NEEDED)

    def draws(split: Split, random: Random) -> Iterator[Draft]:
        while True:
            (a, b), other = (_numbers(split, operation, random) for _ in range(2))
            answer, wrong = (str(_result(operation, *each)) for each in ((a, b), other))
            if {a, b} & {*other} or not {answer, wrong} <= tokens.keys() or tokens[answer] == tokens[wrong]:
                continue
            template = choice(random, _TEMPLATES[operation][split]) + gap
            clean, corrupted = ({"a": str(x), "b": str(y)} for x, y in ((a, b), other))
            pieces = filled(template, clean, corrupted)
            yield contrasted(pieces, tokens, answer, wrong, space="" if gap else " ")

    return draws


def _numbers(split: Split, operation: Operation, random: Random) -> tuple[int, int]:
    """Two numbers whose pair belongs to the split; of a difference, the larger first."""
    while True:
        a, b = (_LEAST + int(random.random() * (_MOST - _LEAST + 1)) for _ in range(2))
        if operation == "subtraction":
            a, b = max(a, b), min(a, b)
        if _LEAST <= _result(operation, a, b) <= _MOST and split_of(_NAME, min(a, b), max(a, b)) == split:
            return a, b


def _result(operation: Operation, a: int, b: int) -> int:
    return a + b if operation == "addition" else a - b
