"""Changes of nodes: what is asked for, and where.

An edit makes a node's value v into `scale · v + offset`; to set, scale, add and ablate are its cases. v is read in the
run under way, where earlier edits have had their effect, and `(scale − 1) · v + offset` times the node's decoder row is
added to what the MLP writes. The MLP's own output stays, so what transcoders get wrong does too (as in circuit-tracer).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.runs import finest

Action = Literal["set", "scale", "add", "ablate"]
Positions = int | slice | Sequence[int] | None

_NODE = re.compile(r"m(\d+)\.(?:([nf])(\d+)|error)(?:@(.+))?")
_KINDS = {"n": "neuron", "f": "feature"}


@dataclass(frozen=True)
class Edit:
    """One change of a node.

    Edit("m12.f410@7"), Edit("m12.n3", "set", 2.5, positions=slice(4, None)), Edit("m3.error@2", "scale", 0.5)
    """

    node: str
    """A neuron, a feature or a layer's error, as graphs name them. Without `@…` it is meant wherever `positions` says;
    `@7`, `@4:6`, `@4:` and `@1,4` say it too."""
    action: Action = "ablate"
    """`set` its value to the amount, `scale` it by that, `add` that to it, or `ablate`: set it to 0."""
    amount: float | None = None
    """None for `ablate` alone."""
    positions: Positions = None
    """A position, several, or a slice, whose end may be open: tokens still to be generated count on. From 0, the
    prompt's first token, padding left out. None: every position."""

    def __post_init__(self) -> None:
        """Check all of it. Raises `InputError`."""
        found = _NODE.fullmatch(self.node)
        if found is None:
            raise InputError(f"edit {self.node!r}: names no node; write such as m12.n410, m12.f410@7 or m12.error")
        if self.action not in ("set", "scale", "add", "ablate"):
            raise InputError(f"edit {self.node}: there is no {self.action!r}; set, scale, add or ablate it")
        if (self.amount is None) != (self.action == "ablate"):
            takes = "an" if self.amount is None else "no"
            raise InputError(f"edit {self.node}: to {self.action} it takes {takes} amount")
        if self.amount is not None and not math.isfinite(self.amount):
            raise InputError(f"edit {self.node}: {self.action} {self.amount}: give a finite amount")
        if found[4] is not None and self.positions is not None:
            raise InputError(
                f"edit {self.node}: its positions are given twice, in the name and as positions=; give them once"
            )
        if self.kind == "error" and self.action in ("set", "add"):
            raise InputError(f"edit {self.node}: an error is a vector; scale or ablate it")
        _check_positions(self.node, self.where)

    @cached_property
    def _parts(self) -> tuple[int, str, int, str | None]:
        found = _NODE.fullmatch(self.node)
        assert found is not None
        return int(found[1]), _KINDS.get(found[2], "error"), int(found[3] or -1), found[4]

    @property
    def layer(self) -> int:
        """Its node's layer."""
        return self._parts[0]

    @property
    def kind(self) -> str:
        """`neuron`, `feature` or `error`."""
        return self._parts[1]

    @property
    def index(self) -> int:
        """Which neuron or feature; −1 of an error."""
        return self._parts[2]

    @cached_property
    def where(self) -> Positions:
        """Its positions, from its name if they are there."""
        text = self._parts[3]
        if text is None:
            return self.positions
        try:
            if ":" in text:
                start, stop = text.split(":")
                return slice(int(start or 0), int(stop) if stop else None)
            return [int(each) for each in text.split(",")]
        except ValueError as error:
            raise InputError(f"edit {self.node}: {text!r} is no position; write 7, 4:6, 4: or 1,4") from error

    @property
    def scale(self) -> float:
        """By which the value is multiplied."""
        return {"set": 0.0, "ablate": 0.0, "add": 1.0}.get(self.action, self.amount or 0.0)

    @property
    def offset(self) -> float:
        """What is added to it then."""
        return self.amount or 0.0 if self.action in ("set", "add") else 0.0

    def holds(self, position: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
        """At which of some positions it is meant; negative ones are padding."""
        where = self.where
        if where is None:
            return position >= 0
        if isinstance(where, slice):
            after = position >= (where.start or 0)
            return after if where.stop is None else after & (position < where.stop)
        return torch.isin(position, torch.tensor(where, device=position.device))

    def check_length(self, length: int) -> None:
        """Refuse a position after a prompt's end. Raises `InputError`."""
        where = self.where
        if isinstance(where, slice):
            last = where.start or 0
        else:
            last = 0 if where is None else where if isinstance(where, int) else max(where)
        if last >= length:
            raise InputError(f"edit {self.node}: position {last}; the prompt has {length} tokens, 0 to {length - 1}")


def _check_positions(node: str, where: Positions) -> None:
    if isinstance(where, slice):
        if where.step not in (None, 1):
            raise InputError(f"edit {node}: a slice in steps of {where.step}; give one without")
        given = [each for each in (where.start, where.stop) if each is not None]
    else:
        given = [] if where is None else [where] if isinstance(where, int) else list(where)
    if wrong := [each for each in given if not isinstance(each, int) or each < 0]:
        raise InputError(f"edit {node}: position {wrong[0]!r}; they count from 0, the prompt's first token")
    ends = isinstance(where, slice) and where.stop is not None and where.stop <= (where.start or 0)
    if ends or (not given and not isinstance(where, slice | None)):
        raise InputError(f"edit {node}: no positions; give some, or None for all")


class Table(NamedTuple):
    """What becomes of a layer's nodes: C of them, at R tokens of a flattened batch."""

    rows: Int[Tensor, " R"]
    nodes: Int[Tensor, " C"]
    """Which neurons or features."""
    scale: Float[Tensor, "R C"]
    offset: Float[Tensor, "R C"]

    def change(self, value: Float[Tensor, "R C"]) -> Float[Tensor, "R C"]:
        """By which values change."""
        return (self.scale - 1).to(value) * value + self.offset.to(value)

    @staticmethod
    def of(
        edits: Sequence[Sequence[Edit]], layer: int, position: Int[Tensor, " N"], owner: Int[Tensor, " N"]
    ) -> "Table | None":
        """A layer's; None where nothing changes.

        Args:
            edits: of each owner, in the order in which they are made.
            layer: which one.
            position: of each token in its prompt; negative: padding.
            owner: whose edits are made at each token.
        """
        own = [pair for pair in _of_layer(edits, layer) if pair[1].kind != "error"]
        column = {number: i for i, number in enumerate(sorted({each.index for _, each in own}))}
        scale = torch.ones(len(position), len(column), dtype=finest(position.device), device=position.device)
        offset, touched = torch.zeros_like(scale), torch.zeros_like(position, dtype=torch.bool)
        for whose, each in own:
            here = each.holds(position) & (owner == whose)
            touched |= here
            at = column[each.index]
            scale[here, at] *= each.scale
            offset[here, at] = each.scale * offset[here, at] + each.offset
        rows = touched.nonzero()[:, 0]
        index = torch.tensor(list(column), dtype=torch.long, device=position.device)
        return Table(rows, index, scale[rows], offset[rows]) if len(rows) else None


def error_factors(
    edits: Sequence[Sequence[Edit]], layer: int, position: Int[Tensor, " N"], owner: Int[Tensor, " N"]
) -> Float[Tensor, " N"] | None:
    """By how much of itself a layer's error changes at each token (see `Table.of`); None where none does."""
    own = [pair for pair in _of_layer(edits, layer) if pair[1].kind == "error"]
    if not own:
        return None
    scale = torch.ones(len(position), dtype=finest(position.device), device=position.device)
    for whose, each in own:
        scale[each.holds(position) & (owner == whose)] *= each.scale
    return scale - 1


def _of_layer(edits: Sequence[Sequence[Edit]], layer: int) -> list[tuple[int, Edit]]:
    """A layer's edits, each with its owner."""
    return [(i, each) for i, some in enumerate(edits) for each in some if each.layer == layer]
