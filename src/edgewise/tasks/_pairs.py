"""Pairs of prompts, and batches of them as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.models import Tokens

PadSide: TypeAlias = Literal["left", "right"]


@dataclass(frozen=True)
class Target:
    """One prediction that is judged."""

    position: int
    """Index of the prompt token whose next-token prediction it is."""
    answers: tuple[int, ...]
    """The right next tokens: any of them is right."""
    wrong: tuple[int, ...] = ()
    """The tokens it must not be confused with; empty where there are none."""

    def __post_init__(self) -> None:
        if not self.answers:
            raise InputError("a target without an answer; name at least one token")
        if shared := set(self.answers) & set(self.wrong):
            raise InputError(f"token {min(shared)} is both an answer and a wrong answer; make it one of them")
        for tokens in (self.answers, self.wrong):
            if len(set(tokens)) < len(tokens):  # its probability would count as often
                again = next(token for token in tokens if tokens.count(token) > 1)
                raise InputError(f"token {again} is named twice among the answers of a target; name it once")


@dataclass(frozen=True)
class Pair:
    """A clean prompt and its corrupted twin, aligned token by token."""

    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    targets: tuple[Target, ...]
    clean_text: str
    corrupted_text: str
    spans: tuple[int, ...] | None = None
    """The number of the position group that each token is in; None where positions are not grouped."""
    align: tuple[int, ...] | None = None
    """For each clean token, the corrupted token that stands for it; None where they go token by token. Only with it
    may the two prompts have different lengths."""

    def __post_init__(self) -> None:
        if self.align is not None and not all(0 <= place < len(self.corrupted) for place in self.align):
            raise InputError(f"a pair is aligned with tokens outside its {len(self.corrupted)} corrupted ones")
        lengths = {
            "corrupted": len(self.corrupted if self.align is None else self.align),
            "spans": len(self.clean if self.spans is None else self.spans),
        }
        for name, length in lengths.items():
            if length != len(self.clean):
                raise InputError(f"a pair's clean has {len(self.clean)} tokens and its {name} {length}; align them")
        if not self.targets:
            raise InputError("a pair without targets; name at least one position to judge")
        if any(not 0 <= target.position < len(self.clean) for target in self.targets):
            raise InputError(f"a target's position lies outside its prompt of {len(self.clean)} tokens")


@dataclass(frozen=True)
class Batch:
    """`B` pairs padded to `S` positions, with `A` targets among them (several of one example if it has several)."""

    clean: Tokens
    corrupted: Tokens
    """Same shape and same mask as `clean`, unless `align` says which token belongs to which."""
    row: Int[Tensor, " A"]
    """The example that each target belongs to, ascending."""
    position: Int[Tensor, " A"]
    """Its column in `clean.ids`, padding counted."""
    answers: Int[Tensor, "A K"]
    """Its right next tokens; -1 fills up."""
    wrong: Int[Tensor, "A K2"]
    """Its wrong next tokens; -1 fills up. No columns where no target of the batch has any."""
    weight: Float[Tensor, " A"]
    """1 / number of targets of its example, so that examples weigh the same."""
    index: Int[Tensor, " B"]
    """The number of each example in its split."""
    span_id: Int[Tensor, "B S"] | None = None
    """The position group of each token; 0 at padding."""
    align: Int[Tensor, "B S"] | None = None
    """For each clean token, the column in `corrupted.ids` of the token that stands for it; 0 at padding. None where
    they go column by column."""
    full_logits: Float[Tensor, "A V"] | None = None
    """What the full model says at the targets; the losses and metrics that compare with it need it."""

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, (Tensor, Tokens))}
        return replace(self, **tensors)

    def with_full_logits(self, full_logits: Float[Tensor, "A V"]) -> Batch:
        """The same batch, knowing what the full model says."""
        return replace(self, full_logits=full_logits)

    def with_circuits(self, circuit: Int[Tensor, " B"], n_groups: int) -> Batch:
        """Give each example the position groups of its own circuit: group g of `n_groups` becomes `circuit * n_groups +
        g`. One mask with the groups of several circuits, one circuit after the other, then runs all of them at once.

        Raises `InputError` where a token is in none of the groups.
        """
        first = (circuit.to(self.clean.ids.device) * n_groups)[:, None]
        if n_groups == 1:
            return replace(self, span_id=first.expand_as(self.clean.ids))
        if self.span_id is None or not 0 <= int(self.span_id.min()) <= int(self.span_id.max()) < n_groups:
            found = "there is none" if self.span_id is None else f"it has 0 to {int(self.span_id.max())}"
            raise InputError(f"span_id: groups must lie in 0 to {n_groups - 1}, as many as the mask has; {found}")
        return replace(self, span_id=self.span_id + first)


def collate(pairs: Sequence[Pair], index: Sequence[int], pad_side: PadSide = "right") -> Batch:
    """Lay `B` pairs of any lengths, each with its number in the split, out as tensors on the CPU; `S` is the longest
    prompt's length. Padding is token 0, masked; a model must not let it reach a real token, whatever its side. Raises
    `InputError`.
    """
    if not pairs:
        raise InputError("a batch of no pairs; ask for at least one")
    if pad_side not in ("left", "right"):
        raise InputError(f"pad_side: {pad_side!r} is no side; use 'left' or 'right'")
    clean, before = _grid([pair.clean for pair in pairs], pad_side)
    corrupted, shifts = _grid([pair.corrupted for pair in pairs], pad_side)
    targets = [(row, target, len(pair.targets)) for row, pair in enumerate(pairs) for target in pair.targets]
    return Batch(
        clean=clean,
        corrupted=corrupted,
        row=_on_cpu([row for row, _, _ in targets]),
        position=_on_cpu([before[row] + target.position for row, target, _ in targets]),
        answers=_ragged([target.answers for _, target, _ in targets]),
        wrong=_ragged([target.wrong for _, target, _ in targets]),
        weight=torch.tensor([1 / count for _, _, count in targets], dtype=torch.float32, device="cpu"),
        index=_on_cpu(list(index)),
        span_id=_span_id(pairs, pad_side),
        align=_align(pairs, shifts, pad_side),
    )


def _grid(rows: Sequence[Sequence[int]], pad_side: PadSide) -> tuple[Tokens, list[int]]:
    """Rows of different lengths as one grid, and how many columns of padding stand before each."""
    width = max(map(len, rows))
    before = [width - len(row) if pad_side == "left" else 0 for row in rows]
    mask = _ragged([[1] * len(row) for row in rows], 0, pad_side).bool()
    return Tokens(_ragged(rows, 0, pad_side), mask), before


def _span_id(pairs: Sequence[Pair], pad_side: PadSide) -> Int[Tensor, "B S"] | None:
    spans = [pair.spans for pair in pairs if pair.spans is not None]
    if spans and len(spans) < len(pairs):
        raise InputError("only some of the pairs group their positions into spans; let all of them, or none")
    return _grid(spans, pad_side)[0].ids if spans else None


def _align(pairs: Sequence[Pair], shifts: Sequence[int], pad_side: PadSide) -> Int[Tensor, "B S"] | None:
    if all(pair.align is None for pair in pairs):
        return None
    places = [range(len(pair.clean)) if pair.align is None else pair.align for pair in pairs]
    return _grid([[place + shift for place in row] for row, shift in zip(places, shifts, strict=True)], pad_side)[0].ids


def _ragged(rows: Sequence[Sequence[int]], filler: int = -1, pad_side: PadSide = "right") -> Int[Tensor, "A K"]:
    width = max(map(len, rows), default=0)
    fillers = [[filler] * (width - len(row)) for row in rows]
    both = zip(rows, fillers, strict=True) if pad_side == "right" else zip(fillers, rows, strict=True)
    return _on_cpu([[*first, *second] for first, second in both]).view(len(rows), width)


def _on_cpu(numbers: Sequence[Any]) -> Int[Tensor, "*shape"]:
    """Whole numbers, whatever PyTorch's default device is."""
    return torch.tensor(numbers, dtype=torch.long, device="cpu")
