"""Layers in a row whose readers read the writers before all of them together, and give their gradients back together.

One layer may have few readers: products of so few rows are slow, and each walks through the whole stack. So what the
readers of a few layers read of the writers before the first of these layers is one product; a layer alone then only
reads the writers within its group.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.engine._packing import Packing
from edgewise.engine._plan import AlikeReaders, Kind, LayerPlan
from edgewise.engine._stack import Stack

ENOUGH, ROWS, LAYERS = 32, 64, 6
"""Layers of `ENOUGH` readers gain nothing from each other. A group is full with `ROWS` readers (more gain little:
docs/performance.md), or with `LAYERS` layers: the more of them, the more is left to read within the group."""


class RowRange(NamedTuple):
    """Readers of one layer that are treated alike, and where their rows stand."""

    layer: int
    alike: AlikeReaders
    where: slice


class LayerGroup:
    """The readers of a few layers; each has a row of D numbers per token.

    Forwards a row holds what the reader gets from the writers before the group, the base included; backwards it holds
    the same until its layer is walked, and then the gradient of its whole input.
    """

    def __init__(self, plans: Sequence[LayerPlan], packing: Packing, stack: Stack, all_edges: bool) -> None:
        """Give each reader its row; with `all_edges` those too that share an input, as each edge wants a gradient."""
        self.plans, self.packing, self.stack = plans, packing, stack
        self.n_writers = plans[0].n_writers
        self.ranges = [_row_ranges(plans, row, all_edges) for row in range(len(plans[0].rows))]
        self.n_mixed = [sum(own.alike.height for own in _mixed(ranges)) for ranges in self.ranges]
        height = max((ranges[-1].where.stop for ranges in self.ranges if ranges), default=0)
        self.values = stack.take("group", (height, packing.n_tokens, stack.d_model), stack.like.dtype)
        self.mask_gradients: dict[int, Float[Tensor, "CP m w"]] = {}
        """∂loss/∂mask by layer, where they await those of the writers before the group."""

    def rows_of(self, row: int, alike: AlikeReaders) -> Float[Tensor, "m N D"] | None:
        """The rows of some readers under one row of masks (the MLP last, if it is among them), if they have any."""
        where = next((found.where for found in self.ranges[row] if found.alike is alike), None)
        return None if where is None else self.values[where]

    def read(self, bases: Sequence[Float[Tensor, "M D"]]) -> None:
        """Mix what readers with masks of their own get from the writers before the group, on top of their layer's base.

        (Those of MLPs are only needed here; that they are kept for the backward too costs little, since of 17 to 38
        rows one is an MLP's.)
        """
        base = {plan.layer: base for plan, base in zip(self.plans, bases, strict=True)}
        for start, stop, row in self.packing.segments:
            mixed = _mixed(self.ranges[row])
            if not mixed:
                continue
            mask, n_rows = self._mask(mixed), self.n_mixed[row]
            for tokens in self._chunks(start, stop, n_rows):
                for layer, _, where in mixed:
                    self.values[where, tokens] = base[layer].expand(self.packing.n_tokens, -1)[tokens]
                self.stack.mix(self._matrix(n_rows, tokens), mask, tokens)

    def give_back(self) -> None:
        """Complete the gradients of the masks, and add to those of the writers, once every layer has been walked."""
        for start, stop, row in self.packing.segments:
            ranges = self.ranges[row]
            if not ranges or not self.n_writers:
                continue
            n_rows, n_mixed = ranges[-1].where.stop, self.n_mixed[row]
            mixed = _mixed(ranges)
            mask = self._mask(mixed) if mixed else None
            per_edge = self.stack.like.new_zeros(n_rows, self.n_writers)
            for tokens in self._chunks(start, stop, n_rows):
                gradient = self._matrix(n_rows, tokens)
                per_edge += self.stack.mask_gradients(gradient, self.n_writers, tokens)
                if mask is not None:
                    self.stack.add_gradient(mask, gradient[:n_mixed], tokens)
            for layer, alike, where in ranges:
                found, n = per_edge[where], len(alike.readers)
                self.mask_gradients[layer][row, alike.readers, : self.n_writers] += found[:n]
                if alike.with_mlp:
                    self.mask_gradients[layer][row, -1, : self.n_writers] += found[n]

    def _mask(self, ranges: list[RowRange]) -> Float[Tensor, "m w"]:
        return torch.cat([own.alike.mask[:, : self.n_writers] for own in ranges if own.alike.mask is not None])

    def _chunks(self, start: int, stop: int, n_rows: int) -> list[slice]:
        return self.stack.chunks(start, stop, (n_rows + self.n_writers) * self.stack.d_model)

    def _matrix(self, n_rows: int, tokens: slice) -> Float[Tensor, "m TD"]:
        return self.values[:n_rows, tokens].flatten(1)  # a view, as the tokens of a row are contiguous


def layer_groups(plans: Sequence[LayerPlan], all_edges: bool) -> dict[int, tuple[LayerPlan, ...]]:
    """Which layers go together, by layer; those that stand alone are not in it."""
    if not plans or layers_together(len(plans), plans[0].attention.n_readers) == 1:
        return {}
    groups, current, height = [], list[LayerPlan](), 0
    for plan in plans:
        current.append(plan)
        height += max(sum(alike.height for alike in row if all_edges or alike.kind == "mix") for row in plan.rows)
        if height >= ROWS or len(current) == LAYERS:
            groups.append(tuple(current))
            current, height = [], 0
    groups.append(tuple(current))
    return {plan.layer: group for group in groups if len(group) > 1 for plan in group}


def _row_ranges(plans: Sequence[LayerPlan], row: int, all_edges: bool) -> list[RowRange]:
    """The rows that readers get under one row of masks; first those with masks of their own, which are mixed."""
    found, start = list[RowRange](), 0
    kinds: tuple[Kind, ...] = ("mix", "ones", "zeros") if all_edges else ("mix",)
    for kind in kinds:
        for plan in plans:
            for alike in plan.rows[row]:
                if alike.kind == kind:
                    found.append(RowRange(plan.layer, alike, slice(start, start + alike.height)))
                    start += alike.height
    return found


def _mixed(ranges: Sequence[RowRange]) -> list[RowRange]:
    """Those whose readers have masks of their own."""
    return [own for own in ranges if own.alike.kind == "mix"]


def layers_together(n_layers: int, n_readers: int) -> int:
    """How many layers a group has where all masks are fractional and an MLP is among each layer's readers."""
    return 1 if n_readers + 1 >= ENOUGH else min(LAYERS, n_layers, math.ceil(ROWS / (n_readers + 1)))
