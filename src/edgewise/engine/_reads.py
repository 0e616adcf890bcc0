"""Reading: from the stack of differences to every reader's projection, and back, one chunk of tokens at a time."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise.engine._packing import Packing
from edgewise.engine._plan import BlockPlan, Rows
from edgewise.engine._stack import Stack
from edgewise.models import Attention, Mlp, Norm

CHUNK_BYTES = {"cpu": 2 << 20, "cuda": 1 << 30}
"""How much one chunk of readers' inputs may take: about the second-level cache on a CPU (measured:
docs/performance.md)."""


class Read(NamedTuple):
    """A block's running readers: one projection each, with the norm's gain and bias folded in."""

    norm: Norm
    weight: Float[Tensor, "n D k"]
    bias: Float[Tensor, "n k"] | None

    @staticmethod
    def of_attention(
        attention: Attention,
        repeats: int,
        heads: Int[Tensor, " h"] | None,
        keys: Int[Tensor, " j"] | None,
        dtype: torch.dtype,
    ) -> "Read":
        """Queries, keys and values of the running heads (None: all), keys and values given `repeats` times each."""
        projections = [attention.query, attention.key.repeated(repeats), attention.value.repeated(repeats)]
        chosen = [heads, keys, keys]
        weight = [p.weight if i is None else p.weight[i] for p, i in zip(projections, chosen, strict=True)]
        bias = [p.bias if p.bias is None or i is None else p.bias[i] for p, i in zip(projections, chosen, strict=True)]
        biases = [b for b in bias if b is not None]  # all three have one, or none has
        return _folded(attention.norm, torch.cat(weight), torch.cat(biases) if biases else None, dtype)

    @staticmethod
    def of_mlp(mlp: Mlp, dtype: torch.dtype) -> "Read":
        """One reader, whose projection is the gate's and the up matrix side by side."""
        if mlp.gate is None:
            return _folded(mlp.norm, mlp.up[None], None if mlp.up_bias is None else mlp.up_bias[None], dtype)
        bias = None if mlp.up_bias is None or mlp.gate_bias is None else torch.cat([mlp.gate_bias, mlp.up_bias])[None]
        return _folded(mlp.norm, torch.cat([mlp.gate, mlp.up], 1)[None], bias, dtype)


class Saved(NamedTuple):
    """What the backward needs of a block."""

    projected: Float[Tensor, "n N k"]
    scale: Float[Tensor, "n N"]
    """The norm's 1 / root mean square."""
    shared: Float[Tensor, "N D"] | None
    """The input of readers whose masks are all 1."""


def _folded(norm: Norm, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Read:
    weight = weight.to(dtype)
    if norm.bias is not None:
        from_norm = norm.bias.to(dtype) @ weight  # (n, k)
        bias = from_norm if bias is None else bias + from_norm
    if norm.gain is not None:
        weight = weight * norm.gain.to(dtype)[:, None]
    return Read(norm, weight, None if bias is None else bias.to(dtype))


def centre(x: Tensor) -> Tensor:
    """Subtract the mean over the last axis."""
    return x - x.mean(-1, keepdim=True)


def read_forward(read: Read, plan: BlockPlan, packing: Packing, stack: Stack, base: Float[Tensor, "M D"]) -> Saved:
    """Project every running reader's input.

    Args:
        read: the projections.
        plan: which readers run, and how each gets its input.
        packing: the batch.
        stack: the differences written so far.
        base: what the block's readers get with all edges ablated.
    """
    n, _, width = read.weight.shape
    projected = base.new_empty(n, packing.n_tokens, width, dtype=read.weight.dtype)
    scale = projected.new_ones(n, packing.n_tokens)
    shared = base + stack.total if plan.shares("ones") else None
    for piece in _pieces(read, plan, packing):
        for tokens in piece.chunks:
            x = _inputs(piece, plan, stack, base, shared, tokens)  # (n or 1, T, D)
            y = torch.matmul(x, piece.weight)  # (n, T, k)
            if read.norm.kind != "none":
                mean_square = torch.linalg.vector_norm(x, dim=-1).square_().div_(x.shape[-1])
                inverse = mean_square.add_(read.norm.eps).rsqrt_()  # (n or 1, T)
                scale[piece.readers, tokens] = inverse
                y *= inverse[..., None]
            projected[piece.readers, tokens] = y if piece.bias is None else y.add_(piece.bias)
    return Saved(projected, scale, shared)


def read_backward(
    read: Read,
    plan: BlockPlan,
    packing: Packing,
    stack: Stack,
    base: Float[Tensor, "M D"],
    saved: Saved,
    gradient: Float[Tensor, "n N k"],
    all_edges: bool,
    passed: Float[Tensor, "N D"] | None,
) -> Float[Tensor, "CP n w"]:
    """Carry the gradients of the projections back to the masks and to the differences.

    With y = (x W) / rms(x) and g_y = ∂loss/∂y, the reader's input gets
    `g_x = (g_y Wᵀ) / rms − x ⟨g_y, y⟩ / (D rms²)`; the mean that a layer norm would subtract here is left to the
    writers, which are centred, so nothing along it is ever used.

    Args:
        read: the projections.
        plan: which readers run, and how each gets its input.
        packing: the batch.
        stack: the differences; their gradients are added to it.
        base: what the block's readers get with all edges ablated.
        saved: what `read_forward` gave.
        gradient: ∂loss/∂(the projections).
        all_edges: give the gradients of masks at exactly 0 and 1 too.
        passed: Σ_r g_r, added to if given.

    Returns:
        ∂loss/∂mask for each row of masks, running reader and live writer.
    """
    masks = gradient.new_zeros(len(plan.rows), len(read.weight), plan.n_writers)
    for piece in _pieces(read, plan, packing):
        mixed = piece.rows.kind == "mix"
        if piece.rows.kind == "zeros" and not all_edges and passed is None:
            continue  # its input does not depend on anything that is differentiated
        for tokens in piece.chunks:
            x = _inputs(piece, plan, stack, base, saved.shared, tokens)  # (n or 1, T, D)
            g_y, inverse = gradient[piece.readers, tokens], saved.scale[piece.readers, tokens]  # (n, T, k), (n, T)
            y = saved.projected[piece.readers, tokens]
            along = torch.linalg.vecdot(g_y, y if piece.bias is None else y - piece.bias)  # (n, T)
            along.mul_(inverse.square()).div_(-x.shape[-1])
            g_y = g_y * inverse[..., None]
            if mixed or all_edges:
                g_x = torch.matmul(g_y, piece.weight.transpose(1, 2))  # (n, T, D)
            else:  # readers that share an input, and whose masks need no gradient: their sum is enough
                g_x = (g_y.transpose(0, 1).flatten(1) @ piece.weight.transpose(1, 2).flatten(0, 1))[None]
                along = along.sum(0, keepdim=True)
            if read.norm.kind != "none":
                g_x = torch.addcmul(g_x, x, along[..., None])
            if mixed or all_edges:
                masks[piece.row, piece.readers] += g_x.flatten(1) @ stack.differences(plan.n_writers, tokens).T
            if mixed:
                assert piece.rows.mask is not None
                stack.add_gradient(piece.rows.mask, g_x.flatten(1), tokens)
            elif piece.rows.kind == "ones":
                stack.shared[tokens] += g_x.sum(0)
            if passed is not None:
                passed[tokens] += g_x.sum(0)
    return masks


class _Piece(NamedTuple):
    """Readers of one kind over a run of tokens with one row of masks."""

    row: int
    rows: Rows
    readers: Int[Tensor, " n"] | slice
    weight: Float[Tensor, "n D k"]
    bias: Float[Tensor, "n 1 k"] | None
    chunks: list[slice]


def _pieces(read: Read, plan: BlockPlan, packing: Packing) -> Iterator[_Piece]:
    n, d_model, width = read.weight.shape
    for start, stop, row in packing.segments:
        for rows in plan.rows[row]:
            # A slice where all readers are alike, since indexing with a tensor would copy the weights.
            readers = slice(None) if len(rows.readers) == n else rows.readers
            bias = None if read.bias is None else read.bias[readers, None]
            widest = max(len(rows.readers) * d_model if rows.kind == "mix" else d_model, len(rows.readers) * width)
            n_bytes = CHUNK_BYTES["cuda" if read.weight.is_cuda else "cpu"]
            step = max(1, n_bytes // (widest * read.weight.element_size()))
            chunks = [slice(first, min(first + step, stop)) for first in range(start, stop, step)]
            yield _Piece(row, rows, readers, read.weight[readers], bias, chunks)


def _inputs(
    piece: _Piece,
    plan: BlockPlan,
    stack: Stack,
    base: Float[Tensor, "M D"],
    shared: Float[Tensor, "N D"] | None,
    tokens: slice,
) -> Float[Tensor, "n T D"]:
    """The inputs of some readers at some tokens; the one that they share for `ones` and `zeros`."""
    if piece.rows.kind == "ones":
        assert shared is not None
        return shared[None, tokens]
    base = base.expand(stack.n_tokens, -1)[tokens].to(piece.weight.dtype)
    if piece.rows.kind == "zeros":
        return base[None]
    assert piece.rows.mask is not None
    x = torch.addmm(base.reshape(1, -1), piece.rows.mask, stack.differences(plan.n_writers, tokens))
    return x.view(-1, *base.shape)
