"""Reading: from the stack of differences to every reader's projection, and back, one chunk of tokens at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from edgewise.engine._group import LayerGroup
from edgewise.engine._packing import Packing
from edgewise.engine._plan import AlikeReaders
from edgewise.engine._stack import Stack
from edgewise.models.folded import FoldedHeads


@runtime_checkable
class ReadPlan(Protocol):
    """How readers get their inputs: a layer's attention (`LayerPlan`), or its features or neurons (`NodePlan`)."""

    @property
    def rows(self) -> tuple[tuple[AlikeReaders, ...], ...]: ...
    @property
    def n_writers(self) -> int: ...


class ReadRun(NamedTuple):
    """What the backward needs of a block of readers."""

    projected: Float[Tensor, "n N k"]
    inverse: Float[Tensor, "n N"]
    """The norm's 1 / root mean square."""
    shared: Float[Tensor, "N D"] | None
    """The input of readers whose masks are all 1."""


@dataclass
class BlockRead:
    """A block of readers, and what it reads."""

    projections: FoldedHeads
    """Of the running readers."""
    plan: ReadPlan
    """How each gets its input."""
    packing: Packing
    stack: Stack
    """The differences written so far; gradients are added to it."""
    base: Float[Tensor, "M D"]
    """What the readers get with all edges ablated."""
    group: LayerGroup | None = None
    """The layer's, if it has one; it has mixed what was written before it."""

    def forward(self) -> tuple[ReadRun, Float[Tensor, "N D"]]:
        """The projections of every running reader's input, and the MLP's input from the writers before the layer (base
        included; undefined where its masks are all 0 or all 1).
        """
        stack, (n, _, width) = self.stack, self.projections.weight.shape
        projected = stack.like.new_empty(n, self.packing.n_tokens, width, dtype=self.projections.weight.dtype)
        inverses = stack.like.new_empty(n, self.packing.n_tokens)
        mlp_sum = stack.like.new_empty(self.packing.n_tokens, stack.d_model)
        shares = any(alike.kind == "ones" and len(alike.readers) for row in self.plan.rows for alike in row)
        shared = self.base + stack.total if shares else None
        for part in self._parts(all_edges=False):
            for tokens in part.chunks:
                x = self._inputs(part, shared, tokens)  # (m, T, D)
                if part.alike.kind == "mix" and part.alike.with_mlp:
                    mlp_sum[tokens], x = x[-1], x[:-1]
                if not len(part.alike.readers):
                    continue
                y, inverse = part.projections.project(x)  # (n, T, k), (n or 1, T)
                inverses[part.readers, tokens] = inverse
                projected[part.readers, tokens] = y.to(projected.dtype)
        return ReadRun(projected, inverses, shared), mlp_sum

    def backward(
        self,
        run: ReadRun,
        gradient: Float[Tensor, "n N k"],
        mlp_gradient: Float[Tensor, "N D"] | None = None,
        *,
        all_edges: bool,
        passed: Float[Tensor, "N D"] | None = None,
    ) -> Float[Tensor, "CP m w"]:
        """Carry the gradients of the projections (and of the MLP's input) back to the masks and to the differences.

        The result is ∂loss/∂mask for each row of masks, running reader (the MLP last, if it runs) and live writer;
        those of the writers before the group are left to the group, which gets the readers' gradients. Masks at exactly
        0 and 1 get theirs with `all_edges` alone. To `passed`, Σ_r g_r, these readers' is added.
        """
        stack, n, n_writers = self.stack, len(gradient), self.plan.n_writers
        masks = stack.like.new_zeros(len(self.plan.rows), n + (mlp_gradient is not None), n_writers)
        for part in self._parts(all_edges):
            alike, separate = part.alike, part.alike.kind == "mix" or all_edges
            if alike.kind == "zeros" and not separate and passed is None:
                continue  # its input does not depend on anything that is differentiated
            for tokens in part.chunks:
                x = self._inputs(part, run.shared, tokens)
                g_x = _room(part, x, tokens, separate)
                if m := len(alike.readers):
                    y, inverse = run.projected[part.readers, tokens], run.inverse[part.readers, tokens]
                    out = g_x[:m] if separate else g_x
                    part.projections.back(gradient[part.readers, tokens], y, inverse, x, out)
                    if alike.kind == "ones":
                        stack.shared[tokens] += g_x[:m].sum(0)
                    if passed is not None:
                        passed[tokens] += g_x[:m].sum(0)
                if alike.with_mlp and separate:
                    assert mlp_gradient is not None
                    g_x[m] = mlp_gradient[tokens]
                if separate and part.first < n_writers:  # the writers before that are left to the group
                    flat = g_x.flatten(1)
                    per_edge = stack.mask_gradients(flat, n_writers, tokens, part.first)  # (m, w)
                    masks[part.row, part.readers, part.first :] += per_edge[:m]
                    if alike.with_mlp:
                        masks[part.row, n, part.first :] += per_edge[m]
                    if alike.mask is not None:
                        stack.add_gradient(alike.mask[:, part.first :], flat, tokens, part.first)
        return masks

    def _parts(self, all_edges: bool) -> "Iterator[_Part]":
        """The readers, those that are alike together."""
        group, (n, d_model, width) = self.group, self.projections.weight.shape
        for start, stop, row in self.packing.segments:
            for alike in self.plan.rows[row]:
                # A slice where all readers are alike, since indexing with a tensor would copy the weights.
                readers = slice(0, n) if len(alike.readers) == n else alike.readers
                first, ahead = (0, None) if group is None else (group.n_writers, group.rows_of(row, alike))
                per_token = len(alike.readers) * width + d_model
                if alike.mask is not None or all_edges:  # the stack, and an input or its gradient for each reader
                    per_token += (alike.height + self.plan.n_writers - first) * d_model
                weights = len(alike.readers) * d_model * width
                chunks = self.stack.chunks(start, stop, per_token, weights)
                yield _Part(row, alike, readers, self.projections.take(readers), chunks, first, ahead)

    def _inputs(self, part: "_Part", shared: Float[Tensor, "N D"] | None, tokens: slice) -> Float[Tensor, "m T D"]:
        """Some readers' inputs at some tokens, the MLP's last; the one that they share for `ones` and `zeros`."""
        mask, stack = part.alike.mask, self.stack
        if part.alike.kind == "ones" and shared is not None:
            return shared[None, tokens]
        base = self.base.expand(stack.n_tokens, -1)[tokens]
        if mask is None:
            return base[None]
        # A group's rows are added to in place: nobody else reads them.
        x = base.expand(len(mask), *base.shape).clone() if part.ahead is None else part.ahead[:, tokens]
        stack.mix(x.flatten(1), mask[:, part.first :], tokens, part.first)
        return x


class _Part(NamedTuple):
    """Readers that are alike, over a run of tokens with one row of masks."""

    row: int
    alike: AlikeReaders
    readers: Int[Tensor, " n"] | slice
    projections: FoldedHeads
    chunks: list[slice]
    first: int
    """Their first writer that is not left to the group."""
    ahead: Float[Tensor, "m N D"] | None
    """Their rows of the group."""


def _room(part: _Part, x: Tensor, tokens: slice, separate: bool) -> Float[Tensor, "m T D"]:
    """Where the gradients of some inputs go: in place of the inputs if each reader has its own, else into the group's
    rows, if the readers have some; one row if they share a gradient too.
    """
    if part.alike.mask is not None:
        return x
    if separate and part.ahead is not None:
        return part.ahead[:, tokens]
    return x.new_empty(part.alike.height if separate else 1, *x.shape[1:])
