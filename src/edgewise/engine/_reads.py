"""Reading: from the stack of differences to every reader's projection, and back, one chunk of tokens at a time."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise.engine._group import LayerGroup
from edgewise.engine._packing import Packing
from edgewise.engine._plan import Rows
from edgewise.engine._stack import Stack
from edgewise.models import Attention, Mlp, Norm


class ReadPlan(Protocol):
    """How a block of readers gets its inputs: a layer's attention (`LayerPlan`), or its features (`FeaturePlan`)."""

    @property
    def rows(self) -> tuple[tuple[Rows, ...], ...]: ...
    @property
    def n_writers(self) -> int: ...


class Read(NamedTuple):
    """A block of readers, such as a layer's queries, keys and values: one projection each."""

    norm: Norm
    weight: Float[Tensor, "n D k"]
    """With the norm's gain folded in."""
    bias: Float[Tensor, "n k"] | None
    """Of the projection, with the norm's bias carried through it."""

    @staticmethod
    def of(attention: Attention, repeats: int, dtype: torch.dtype) -> "Read":
        """Queries, keys and values, keys and values given `repeats` times each."""
        projections = [attention.query, attention.key.repeated(repeats), attention.value.repeated(repeats)]
        weight = torch.cat([p.weight for p in projections]).to(dtype)
        biases = [p.bias for p in projections if p.bias is not None]  # all three have one, or none has
        bias = _bias(attention.norm, weight, torch.cat(biases) if biases else None)
        if attention.norm.gain is not None:
            weight *= attention.norm.gain.to(dtype)[:, None]
        return Read(attention.norm, weight, bias)

    def take(self, readers: Int[Tensor, " m"] | slice) -> "Read":
        """Some of the readers."""
        return Read(self.norm, self.weight[readers], None if self.bias is None else self.bias[readers])

    def project(self, x: Float[Tensor, "m T D"]) -> Float[Tensor, "n T k"]:
        """The projections of the readers' inputs, or of one shared input, before norm and bias."""
        return torch.matmul(x.to(self.weight.dtype), self.weight).to(x.dtype)


class MlpRead(NamedTuple):
    """A layer's MLP as a reader: the user's own matrices, which are not copied; its input is scaled instead."""

    norm: Norm
    weights: tuple[Float[Tensor, "D F"], ...]
    """Of the gate, if there is one, and of what it gates."""
    biases: tuple[Float[Tensor, " F"] | None, ...]
    """Theirs, with the norm's bias carried through."""
    gain: Float[Tensor, " D"] | None
    """The norm's."""

    @staticmethod
    def of(mlp: Mlp, dtype: torch.dtype) -> "MlpRead":
        """The reader of an MLP."""
        matrices = [(mlp.up, mlp.up_bias)] if mlp.gate is None else [(mlp.gate, mlp.gate_bias), (mlp.up, mlp.up_bias)]
        weights = tuple(weight.to(dtype) for weight, _ in matrices)
        biases = tuple(_bias(mlp.norm, weight, bias) for weight, (_, bias) in zip(weights, matrices, strict=True))
        return MlpRead(mlp.norm, weights, biases, None if mlp.norm.gain is None else mlp.norm.gain.to(dtype))

    def project(self, x: Float[Tensor, "N D"], scale: Float[Tensor, " N"]) -> tuple[Float[Tensor, "N F"], ...]:
        """The pre-activations of the input times the norm's `scale`."""
        x = self._gained(x * scale[:, None]).to(self.weights[0].dtype)
        pairs = zip(self.weights, self.biases, strict=True)
        return tuple(x @ weight if bias is None else torch.addmm(bias, x, weight) for weight, bias in pairs)

    def back(
        self,
        gradient: tuple[Float[Tensor, "N F"], ...],
        projected: tuple[Float[Tensor, "N F"], ...],
        x: Float[Tensor, "N D"],
        scale: Float[Tensor, " N"],
    ) -> Float[Tensor, "N D"]:
        """From the gradient of `project`'s results to that of its input; see `read_backward`."""
        total = gradient[0] @ self.weights[0].T
        for g_y, weight in zip(gradient[1:], self.weights[1:], strict=True):
            total = total.addmm_(g_y, weight.T)
        g_x = self._gained(total.to(x.dtype).mul_(scale[:, None]))
        if self.norm.kind == "none":
            return g_x
        triples = zip(gradient, projected, self.biases, strict=True)
        along = torch.stack([_along(g_y, y, bias, scale, x.shape[-1]) for g_y, y, bias in triples]).sum(0)
        return g_x.addcmul_(x, along[:, None])

    def _gained(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        return x if self.gain is None else x.mul_(self.gain)


class Saved(NamedTuple):
    """What the backward needs of a block of readers."""

    projected: Float[Tensor, "n N k"]
    scale: Float[Tensor, "n N"]
    """The norm's 1 / root mean square."""
    shared: Float[Tensor, "N D"] | None
    """The input of readers whose masks are all 1."""


def _bias(norm: Norm, weight: Float[Tensor, "*n D k"], bias: Float[Tensor, "*n k"] | None) -> Tensor | None:
    bias = None if bias is None else bias.to(weight.dtype)
    if norm.bias is None:
        return bias
    carried = norm.bias.to(weight.dtype) @ weight
    return carried if bias is None else carried + bias


def centre(x: Tensor) -> Tensor:
    """Subtract the mean over the last axis."""
    return x - x.mean(-1, keepdim=True)


def inverse_rms(norm: Norm, x: Float[Tensor, "*n D"]) -> Float[Tensor, "*n"]:
    """1 / root mean square, as the norm has it; 1 for no norm."""
    if norm.kind == "none":
        return x.new_ones(x.shape[:-1])
    mean_square = torch.linalg.vector_norm(x, dim=-1).square_().div_(x.shape[-1])
    return mean_square.add_(norm.eps).rsqrt_()


def _along(g_y: Tensor, y: Tensor, bias: Tensor | None, inverse: Tensor, d_model: int) -> Float[Tensor, "*n T"]:
    """The coefficient of x in ∂loss/∂x: `−⟨g_y, y⟩ / (D rms²)` for y = (x W) / rms."""
    y = y if bias is None else y - bias
    return torch.linalg.vecdot(g_y, y).to(inverse.dtype).mul_(inverse.square()).div_(-d_model)


def read_forward(
    read: Read,
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
            inverse = inverse_rms(read.norm, x)  # (n or 1, T)
            y = piece.read.project(x).mul_(inverse[..., None])  # (n, T, k)
            scale[piece.readers, tokens] = inverse
            y = y if piece.read.bias is None else y.add_(piece.read.bias[:, None])
            projected[piece.readers, tokens] = y.to(projected.dtype)
    return Saved(projected, scale, shared), rider


def read_backward(
    read: Read,
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

    With y = (x W) / rms(x) and g_y = ∂loss/∂y, a reader's input gets
    `g_x = (g_y Wᵀ) / rms − x ⟨g_y, y⟩ / (D rms²)`; the mean that a layer norm would subtract here is left to the
    writers, which are centred, so nothing along it is ever used.

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
                _input_gradient(piece, tokens, x, saved, gradient, out=g_x[:m] if separate else g_x)
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


def _input_gradient(piece: "_Piece", tokens: slice, x: Tensor, saved: Saved, gradient: Tensor, out: Tensor) -> None:
    """Write ∂loss/∂x of the piece's readers to `out` (which may be `x` itself): one each, or their sum in one row."""
    read, y = piece.read, saved.projected[piece.readers, tokens]
    g_y, inverse = gradient[piece.readers, tokens], saved.scale[piece.readers, tokens]  # (n, T, k), (n, T)
    back = read.weight.transpose(1, 2)  # (n, k, D)
    scaled = (g_y * inverse[..., None]).to(back.dtype)
    if len(out) < len(scaled):
        scaled, back = scaled.transpose(0, 1).flatten(1)[None], back.flatten(0, 1)[None]
    if read.norm.kind == "none":
        out.zero_()
    else:
        bias = None if read.bias is None else read.bias[:, None]
        along = _along(g_y, y, bias, inverse, x.shape[-1])
        along = along if len(out) == len(along) else along.sum(0, keepdim=True)
        torch.mul(x[: len(out)], along[..., None], out=out)  # x is used up here: from now on it may be overwritten
    if out.dtype == back.dtype:
        out.baddbmm_(scaled, back)
    else:
        out += torch.bmm(scaled, back)


class _Piece(NamedTuple):
    """Readers of one kind over a run of tokens with one row of masks."""

    row: int
    rows: Rows
    readers: Int[Tensor, " n"] | slice
    read: Read
    chunks: list[slice]
    first: int
    """Their first writer that is not left to the group."""
    ahead: Float[Tensor, "m N D"] | None
    """Their rows of the group."""


def _pieces(
    read: Read, plan: ReadPlan, packing: Packing, stack: Stack, group: LayerGroup | None, all_edges: bool
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
