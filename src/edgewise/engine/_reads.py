"""Reading: from the stack of differences to every reader's projection, and back, one chunk of tokens at a time."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise.engine._group import LayerGroup
from edgewise.engine._packing import Packing
from edgewise.engine._plan import Rows
from edgewise.engine._stack import Stack
from edgewise.models.block import FoldedHeads


@runtime_checkable
class ReadPlan(Protocol):
    """How a block of readers gets its inputs: a layer's attention (`LayerPlan`), or its features (`FeaturePlan`)."""

    @property
    def rows(self) -> tuple[tuple[Rows, ...], ...]: ...
    @property
    def n_writers(self) -> int: ...


class Saved(NamedTuple):
    """What the backward needs of a block of readers."""

    projected: Float[Tensor, "n N k"]
    scale: Float[Tensor, "n N"]
    """The norm's 1 / root mean square."""
    shared: Float[Tensor, "N D"] | None
    """The input of readers whose masks are all 1."""


def read_forward(
    read: FoldedHeads,
    plan: ReadPlan,
    packing: Packing,
    stack: Stack,
    base: Float[Tensor, "M D"],
    group: LayerGroup | None = None,
) -> tuple[Saved, Float[Tensor, "N D"]]:
    """Project every running attention reader's input, and sum the MLP's over the writers before the layer.

    Args:
        read: the projections.
        plan: which readers run, and how each gets its input.
        packing: the batch.
        stack: the differences written so far.
        base: what the attention readers get with all edges ablated.
        group: the layer's, if it has one; it has mixed what was written before it.

    Returns:
        The projections, and the MLP's sum (base included; undefined where its masks are all 0 or all 1).
    """
    n, _, width = read.weight.shape
    projected = stack.like.new_empty(n, packing.n_tokens, width, dtype=read.weight.dtype)
    scale = stack.like.new_empty(n, packing.n_tokens)
    rider = stack.like.new_empty(packing.n_tokens, stack.d_model)
    shares = any(rows.kind == "ones" and len(rows.readers) for row in plan.rows for rows in row)
    shared = base + stack.total if shares else None
    for piece in _pieces(read, plan, packing, stack, group, all_edges=False):
        for tokens in piece.chunks:
            x = _inputs(piece, plan, stack, base, shared, tokens)  # (m, T, D)
            if piece.rows.kind == "mix" and piece.rows.rider:
                rider[tokens], x = x[-1], x[:-1]
            if not len(piece.rows.readers):
                continue
            y, inverse = piece.read.project(x)  # (n, T, k), (n or 1, T)
            scale[piece.readers, tokens] = inverse
            projected[piece.readers, tokens] = y.to(projected.dtype)
    return Saved(projected, scale, shared), rider


def read_backward(
    read: FoldedHeads,
    plan: ReadPlan,
    packing: Packing,
    stack: Stack,
    base: Float[Tensor, "M D"],
    saved: Saved,
    gradient: Float[Tensor, "n N k"],
    mlp_gradient: Float[Tensor, "N D"] | None,
    all_edges: bool,
    passed: Float[Tensor, "N D"] | None,
    group: LayerGroup | None = None,
) -> Float[Tensor, "CP m w"]:
    """Carry the gradients of the projections back to the masks and to the differences.

    Args:
        read: the projections.
        plan: which readers run, and how each gets its input.
        packing: the batch.
        stack: the differences; their gradients are added to it.
        base: what the attention readers get with all edges ablated.
        saved: what `read_forward` gave.
        gradient: ∂loss/∂(the projections).
        mlp_gradient: ∂loss/∂(the MLP's input), if it runs.
        all_edges: give the gradients of masks at exactly 0 and 1 too.
        passed: Σ_r g_r, to which the attention readers' is added if given.
        group: the layer's, if it has one.

    Returns:
        ∂loss/∂mask for each row of masks, running attention reader (the MLP last, if it runs) and live writer; those of
        the writers before the group are left to the group, which gets the readers' gradients.
    """
    n = len(gradient)
    masks = stack.like.new_zeros(len(plan.rows), n + (mlp_gradient is not None), plan.n_writers)
    for piece in _pieces(read, plan, packing, stack, group, all_edges):
        rows, separate = piece.rows, piece.rows.kind == "mix" or all_edges
        if rows.kind == "zeros" and not separate and passed is None:
            continue  # its input does not depend on anything that is differentiated
        for tokens in piece.chunks:
            x = _inputs(piece, plan, stack, base, saved.shared, tokens)
            g_x = _room(piece, x, tokens, separate)
            if m := len(rows.readers):
                y, inverse = saved.projected[piece.readers, tokens], saved.scale[piece.readers, tokens]
                piece.read.back(gradient[piece.readers, tokens], y, inverse, x, out=g_x[:m] if separate else g_x)
                if rows.kind == "ones":
                    stack.shared[tokens] += g_x[:m].sum(0)
                if passed is not None:
                    passed[tokens] += g_x[:m].sum(0)
            if rows.rider and separate:
                assert mlp_gradient is not None
                g_x[m] = mlp_gradient[tokens]
            if separate and piece.first < plan.n_writers:  # the writers before that are left to the group
                flat = g_x.flatten(1)
                per_edge = flat @ stack.differences(plan.n_writers, tokens, piece.first).T  # (m, w)
                masks[piece.row, piece.readers, piece.first :] += per_edge[:m]
                if rows.rider:
                    masks[piece.row, n, piece.first :] += per_edge[m]
                if rows.mask is not None:
                    stack.add_gradient(rows.mask[:, piece.first :], flat, tokens, piece.first)
    return masks


def _room(piece: "_Piece", x: Tensor, tokens: slice, separate: bool) -> Float[Tensor, "m T D"]:
    """Where the gradients of a piece's inputs go: in place of the inputs if each reader has its own, else into the
    group's rows, if the readers have some; one row if they share a gradient too.
    """
    if piece.rows.mask is not None:
        return x
    if separate and piece.ahead is not None:
        return piece.ahead[:, tokens]
    return x.new_empty(len(piece.rows.readers) + piece.rows.rider if separate else 1, *x.shape[1:])


class _Piece(NamedTuple):
    """Readers of one kind over a run of tokens with one row of masks."""

    row: int
    rows: Rows
    readers: Int[Tensor, " n"] | slice
    read: FoldedHeads
    chunks: list[slice]
    first: int
    """Their first writer that is not left to the group."""
    ahead: Float[Tensor, "m N D"] | None
    """Their rows of the group."""


def _pieces(
    read: FoldedHeads, plan: ReadPlan, packing: Packing, stack: Stack, group: LayerGroup | None, all_edges: bool
) -> Iterator[_Piece]:
    n, d_model, width = read.weight.shape
    for start, stop, row in packing.segments:
        for rows in plan.rows[row]:
            # A slice where all readers are alike, since indexing with a tensor would copy the weights.
            readers = slice(0, n) if len(rows.readers) == n else rows.readers
            first, ahead = (0, None) if group is None else (group.n_writers, group.rows_of(row, rows))
            per_token = len(rows.readers) * width + d_model
            if rows.mask is not None or all_edges:  # the stack, and an input or its gradient for each reader
                per_token += (len(rows.readers) + rows.rider + plan.n_writers - first) * d_model
            chunks = stack.chunks(start, stop, per_token)
            yield _Piece(row, rows, readers, read.take(readers), chunks, first, ahead)


def _inputs(
    piece: _Piece,
    plan: ReadPlan,
    stack: Stack,
    base: Float[Tensor, "M D"],
    shared: Float[Tensor, "N D"] | None,
    tokens: slice,
) -> Float[Tensor, "m T D"]:
    """The inputs of some readers at some tokens (the MLP's last); the one that they share for `ones` and `zeros`."""
    rows, first = piece.rows, piece.first
    if rows.kind == "ones" and shared is not None:
        return shared[None, tokens]
    if rows.mask is None:
        return base.expand(stack.n_tokens, -1)[None, tokens]
    differences = stack.differences(plan.n_writers, tokens, first)
    if piece.ahead is not None:  # in place: nobody else reads these rows
        x = piece.ahead[:, tokens]
        x.flatten(1).addmm_(rows.mask[:, first:], differences)
        return x
    x = torch.addmm(base.expand(stack.n_tokens, -1)[tokens].reshape(1, -1), rows.mask, differences)
    return x.view(-1, tokens.stop - tokens.start, stack.d_model)
