"""Boolean expressions: after "(True and False) or not False is" comes " True".

The task on which Bhaskar et al. 2024 (arXiv 2406.16778) compared circuits of instructions and of examples, in the
spirit of BIG-Bench Hard (Suzgun et al. 2022).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from random import Random
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from edgewise._errors import InputError
from edgewise.tasks._chat import check_chat, has_chat, in_chat
from edgewise.tasks._draw import choice
from edgewise.tasks._encode import Encoder
from edgewise.tasks._generate import Draft, Draws, Pieces, built_in, contrasted
from edgewise.tasks._splits import Split, split_of

Form: TypeAlias = Literal["few-shot", "instruction", "zero-shot"]

_NAME = "boolean-expressions"
_INSTRUCTION = "Evaluate the following Boolean expression as either True or False. Answer with one word.\n\n"
_SHOTS = (
    "(False or True) and not False is True\n"
    "not (True or False) or False is False\n"
    "(True and not True) or (False or False) is False\n"
)
_SHOWN_SHAPES = ("(x*x)*-x", "-(x*x)*x", "(x*-x)*(x*x)")  # of the worked examples, as `_Node.shape`
_MOST_LITERALS, _DEEPEST, _MOST_NOTS = 6, 3, 2
_SWAPS = {"True": "False", "False": "True", "and": "or", "or": "and"}


@built_in(_NAME, identity=lambda pair: pair.clean_text)
def boolean_expressions(
    encoder: Encoder, form: Form = "few-shot", chat: bool | None = None
) -> tuple[Draws, dict[str, Any]]:
    """The value of an expression of True, False, and, or, not and parentheses.

    The corruption is minimal: one literal is negated or one `and` swapped with an `or`, such that the value changes;
    the wrong answer is the corrupted expression's value. True and False take turns. Expressions have two to six
    literals, nest up to three deep and stand in parentheses but for the outermost operation.

    What may not leak is the shape of an expression, with its literals and operators left blank: no shape is in two
    splits, none that is asked for is that of a worked example, and a pair shares its shape. All clean prompts of a
    split differ.

    Args:
        encoder: the tokenizer's.
        form: "few-shot" puts three fixed, solved expressions before it, the same in clean and corrupted prompts;
            "instruction" says what to do; "zero-shot" is the expression and " is".
        chat: put an instruction into the tokenizer's chat template; by default if there is one. The other forms are
            never put there.
    """
    if form not in (forms := get_args(Form)):
        raise InputError(f"{_NAME}: there is no form {form!r}; use {', '.join(forms)}")
    if chat is not None:
        check_chat(_NAME, chat)
    if chat and form != "instruction":
        raise InputError(f"{_NAME}: chat=True is for form='instruction'; leave it out with {form!r}")
    chat = form == "instruction" and (has_chat(encoder.tokenizer) if chat is None else chat)
    before, after = {"few-shot": (_SHOTS, " is"), "zero-shot": ("", " is")}.get(form, (_INSTRUCTION, "\nAnswer:"))
    space, shown = "" if chat else " ", _SHOWN_SHAPES if form == "few-shot" else ()
    tokens = _answers(encoder, chat)

    def draws(split: Split, random: Random) -> Iterator[Draft]:
        value = True
        while True:
            node = _expression(random, _DEEPEST)
            if node.shape in shown or (pieces := _changed(node, value, split, random)) is None:
                continue
            question: Pieces = [before, *pieces] if chat else [before, *pieces, after]
            question = in_chat(question, encoder) if chat else question
            yield contrasted(question, tokens, str(value), str(not value), space=space)
            value = not value

    return draws, {"chat": chat}


def _answers(encoder: Encoder, chat: bool) -> dict[str, int]:
    """The tokens of True and False as answers: after a space, or at the start of the assistant's turn."""
    if not chat:
        found = encoder.openings(("True", "False"))
    else:
        head = "".join(piece for piece in in_chat(["?"], encoder) if isinstance(piece, str))
        start, *whole = encoder.many([head, f"{head}True", f"{head}False"])
        found = {
            word: ids[len(start)]
            for word, ids in zip(("True", "False"), whole, strict=True)
            if ids[: len(start)] == start and len(ids) > len(start)
        }
    if len(set(found.values())) < 2:
        raise InputError(f"{_NAME}: this tokenizer does not tell True from False by one token; use another tokenizer")
    return found


class _Node(NamedTuple):
    """An expression."""

    words: tuple[str, ...]
    literals: int
    shape: str
    """Its parentheses and `not`s, with blanks for literals and operators."""


def _expression(random: Random, depth: int) -> _Node:
    """A random operation on two random operands."""
    left, right = (_operand(random, depth - 1) for _ in range(2))
    operator = choice(random, ("and", "or"))
    words = (*left.words, operator, *right.words)
    return _Node(words, left.literals + right.literals, f"{left.shape}*{right.shape}")


def _operand(random: Random, depth: int) -> _Node:
    """A literal or an operation in parentheses, perhaps negated."""
    if depth and random.random() < 0.5:
        inner = _expression(random, depth)
        node = _Node(("(", *inner.words, ")"), inner.literals, f"({inner.shape})")
    else:
        node = _Node((choice(random, ("True", "False")),), 1, "x")
    draw = random.random()
    nots = int(draw * draw * (_MOST_NOTS + 1))  # often none; a power may differ in its last bit between machines
    return _Node(("not",) * nots + node.words, node.literals, "-" * nots + node.shape)


def _changed(node: _Node, value: bool, split: Split, random: Random) -> Pieces | None:
    """The expression with one change that turns `value` into its opposite; None if it is none of this split's, of
    another value, or has no such change.
    """
    if node.literals > _MOST_LITERALS or split_of(_NAME, node.shape) != split or _value(node.words) != value:
        return None
    changeable = [place for place, word in enumerate(node.words) if word in _SWAPS]
    turning = [place for place in changeable if _value(_swapped(node.words, place)) != value]
    if not turning:
        return None
    place = choice(random, turning)
    pieces: Pieces = []
    for number, word in enumerate(node.words):
        if number and node.words[number - 1] != "(" and word != ")":
            pieces.append(" ")
        pieces.append((word, _SWAPS[word]) if number == place else word)
    return pieces


def _swapped(words: tuple[str, ...], place: int) -> tuple[str, ...]:
    return (*words[:place], _SWAPS[words[place]], *words[place + 1 :])


def _value(words: tuple[str, ...]) -> bool:
    """The value under the usual precedence, `not` before `and` before `or`: our words are parsed as Python's own."""
    return _valued(ast.parse(" ".join(words), mode="eval").body)


def _valued(node: ast.expr) -> bool:
    if isinstance(node, ast.BoolOp):
        return (all if isinstance(node.op, ast.And) else any)(map(_valued, node.values))
    return not _valued(node.operand) if isinstance(node, ast.UnaryOp) else bool(getattr(node, "value", None))
