"""The stack of differences Δ_w = z_w − z̃_w, written once, and the stack of their gradients.

Two forms with one interface: `Stack` keeps every writer at full width D, `LeanStack` keeps heads at their own width and
takes them through W_O whenever a chunk of tokens is read.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 1 << 30}
"""How much one chunk of readers' inputs and of the stack takes in float32, unless its weights take more (on a CPU 2 to
48 MB measure the same: docs/performance.md)."""
_NUMBER = 4  # bytes of a float32


def chunk_tokens(per_token: int, per_chunk: int, device: str, longer: int = 1) -> int:
    """How many tokens a chunk has: so few that `per_token` numbers for each stay in the processor's cache, but not so
    few that they are less than the `per_chunk` numbers of weights that are read once for each chunk.
    """
    return max(1, max(CHUNK_BYTES[device] * longer // _NUMBER, per_chunk) // per_token)


class HeadSlots(NamedTuple):
    """The running heads of one layer among the live writers, and what takes them to the residual."""

    slots: slice
    output: Float[Tensor, "h v D"]
    share: Float[Tensor, " D"] | None
    """Each head's share of b_O where it has one."""


class Workspace:
    """Large buffers that one run leaves for the next: to be given fresh memory costs more than to fill it.

    The largest that were needed stay as long as the engine; runs on two CUDA streams must not share one.
    """

    def __init__(self) -> None:
        """Start with nothing to hand on."""
        self.spare: dict[str, Tensor] = {}

    def take(self, name: str, n: int, like: Tensor, dtype: torch.dtype) -> Float[Tensor, " m"]:
        """At least `n` numbers of any content, on the device of `like`."""
        buffer = self.spare.pop(name, None)
        usable = (
            buffer is not None
            and len(buffer) >= n
            and buffer.dtype == dtype
            and buffer.device == like.device
            and buffer.is_inference() == torch.is_inference_mode_enabled()  # neither may write to the other's
        )
        if buffer is not None and usable:
            return buffer
        del buffer  # so that the old one is freed before the new one is made
        return like.new_empty(n, dtype=dtype)


class Stack:
    """Differences at full width: the fastest form, `W N D` numbers for the values and as many for the gradients."""

    longer_chunks = 1
    """How many times as long as usual the chunks of tokens should be."""

    def __init__(
        self, n_writers: int, n_tokens: int, d_model: int, like: Tensor, dtype: torch.dtype, workspace: Workspace
    ) -> None:
        """An empty stack for W live writers; sums and gradients have the type of `like`, stored differences `dtype`.

        The large buffers come from `workspace`, and go back to it on `release`.
        """
        self.n_writers, self.n_tokens, self.d_model, self.like = n_writers, n_tokens, d_model, like
        self.workspace, self.buffers = workspace, dict[str, Tensor]()
        self.values = self.take("values", (self._n_wide(), n_tokens, d_model), dtype)
        self.total = like.new_zeros(n_tokens, d_model)  # Σ_w Δ_w so far: readers whose masks are all 1 share it
        self.own: Tensor | None = None

    def release(self) -> None:
        """Hand the buffers on to the next run; the stack is of no use after."""
        self.workspace.spare |= self.buffers

    def _n_wide(self) -> int:
        return self.n_writers

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A buffer of any content that is handed on when this stack is released."""
        n = math.prod(shape)
        if name not in self.buffers or len(self.buffers[name]) < n:
            self.buffers.pop(name, None)
            self.buffers[name] = self.workspace.take(name, n, self.like, dtype)
        return self.buffers[name][:n].view(shape)

    def write(self, slot: int, difference: Float[Tensor, "N D"]) -> None:
        """Store the difference of a writer that writes at full width (an embedding, an MLP)."""
        self.values[slot] = difference
        self.total += difference

    def write_heads(self, heads: HeadSlots, difference: Float[Tensor, "h N v"]) -> None:
        """Store the differences of a layer's heads, given before W_O."""
        torch.bmm(difference.to(heads.output.dtype), heads.output, out=self.values[heads.slots])
        if heads.share is not None:
            self.values[heads.slots] += heads.share
        self.total += self.values[heads.slots].sum(0, dtype=self.total.dtype)

    def chunks(self, start: int, stop: int, per_token: int, per_chunk: int = 0) -> list[slice]:
        """Runs of tokens, see `chunk_tokens`."""
        step = chunk_tokens(per_token, per_chunk, "cuda" if self.like.is_cuda else "cpu", self.longer_chunks)
        return [slice(first, min(first + step, stop)) for first in range(start, stop, step)]

    def differences(self, n_writers: int, tokens: slice, first: int = 0) -> Float[Tensor, "w TD"]:
        """The differences of writers `first` to before `n_writers` at some tokens, as a matrix of the stack's type."""
        return self._matrix(self.values, n_writers, tokens)[first:]

    def mix(self, into: Float[Tensor, "m TD"], mask: Float[Tensor, "m w"], tokens: slice, first: int = 0) -> None:
        """`into += Σ_w m_w Δ_w` for `w` writers from `first` on."""
        _add_product(into, mask, self.differences(first + mask.shape[1], tokens, first))

    def mask_gradients(
        self, gradient: Float[Tensor, "m TD"], n_writers: int, tokens: slice, first: int = 0
    ) -> Float[Tensor, "m w"]:
        """`⟨g_r, Δ_w⟩` of each reader with writers `first` to before `n_writers`."""
        differences = self.differences(n_writers, tokens, first)
        return (gradient.to(differences.dtype) @ differences.T).to(gradient.dtype)

    def mix_heads(self, heads: HeadSlots, mask: Float[Tensor, " h"], tokens: slice) -> Float[Tensor, "T D"]:
        """`Σ_w m_w Δ_w` over one layer's heads."""
        values = self._heads(self.values, heads, tokens).to(mask.dtype)
        return (mask @ values).view(-1, self.d_model)

    def at(self, tokens: Int[Tensor, " A"]) -> Float[Tensor, "W A D"]:
        """All differences at scattered tokens."""
        return self.values[:, tokens].to(self.like.dtype)

    # ------------------------------------------------------------------------------------------------------ gradients

    def start_backward(self) -> None:
        """Make room for gradients: what all writers share, and, once it is needed, each writer's own."""
        self.shared = torch.zeros_like(self.total)

    @property
    def gradients(self) -> Float[Tensor, "W N D"]:
        """Each writer's own part, made when it is first added to: where all masks are 1 (attribution), never."""
        if self.own is None:
            self.own = self.take("gradients", tuple(self.values.shape), self.like.dtype).zero_()
        return self.own

    def add_gradient(
        self, mask: Float[Tensor, "n w"], gradient: Float[Tensor, "n TD"], tokens: slice, first: int = 0
    ) -> None:
        """`∂loss/∂Δ_w += Σ_r m_rw g_r` for `w` writers from `first` on."""
        into = self._matrix(self.gradients, first + mask.shape[1], tokens)[first:]
        _add_product(into, mask.T, gradient.to(self.values.dtype))

    def add_gradient_at(
        self, mask: Float[Tensor, "A w"] | None, gradient: Float[Tensor, "A D"], tokens: Int[Tensor, " A"]
    ) -> None:
        """The same for all writers at scattered tokens; no mask stands for all 1."""
        if mask is None:
            self.shared.index_add_(0, tokens, gradient)
        else:
            self.gradients.index_add_(1, tokens, mask.T[..., None] * gradient)

    def mix_heads_backward(
        self, heads: HeadSlots, mask: Float[Tensor, " h"] | None, gradient: Float[Tensor, "T D"], tokens: slice
    ) -> Float[Tensor, " h"]:
        """Add `m_w g` to one layer's heads' gradients (nothing without a mask); return `⟨g, Δ_w⟩` for each."""
        flat = gradient.flatten()
        if mask is not None:
            self._heads(self.gradients, heads, tokens).addr_(mask, flat)
        return self._heads(self.values, heads, tokens).to(flat.dtype) @ flat

    def gradient(self, slot: int) -> Float[Tensor, "N D"]:
        """∂loss/∂Δ of a writer at full width, complete once every later reader has been walked."""
        return self.shared if self.own is None else self.own[slot] + self.shared

    def gradient_heads(self, heads: HeadSlots) -> Float[Tensor, "h N v"]:
        """∂loss/∂Δ of a layer's heads, before W_O."""
        shared = self._back(heads, self.shared).transpose(0, 1)
        if self.own is None:
            return shared
        return _through(self.own[heads.slots], heads.output.transpose(1, 2)).add_(shared)

    def _back(self, heads: HeadSlots, gradient: Float[Tensor, "T D"]) -> Float[Tensor, "T h v"]:
        """A gradient that all of a layer's heads share, before W_O."""
        n, width, _ = heads.output.shape
        back = gradient.to(heads.output.dtype) @ heads.output.flatten(0, 1).T
        return back.view(-1, n, width).to(self.like.dtype)

    def _heads(self, stack: Tensor, heads: HeadSlots, tokens: slice) -> Float[Tensor, "h TD"]:
        return self._matrix(stack, heads.slots.stop, tokens)[heads.slots.start :]

    def _matrix(self, stack: Tensor, n_writers: int, tokens: slice) -> Float[Tensor, "w TD"]:
        # A view: rows of the stack lie N * D apart, and BLAS takes any distance between rows.
        return stack.view(len(stack), self.n_tokens * self.d_model)[
            :n_writers, tokens.start * self.d_model : tokens.stop * self.d_model
        ]


class LeanStack(Stack):
    """Differences with heads at their own width: D numbers per layer and token instead of H D.

    Every read takes earlier heads through W_O again, chunk by chunk: all of them for a layer that stands alone, those
    of its own group otherwise, and those before the group once for the group (`footprint` counts them).
    """

    longer_chunks = 3  # a head's product with W_O has few rows as it is

    def __init__(
        self,
        n_writers: int,
        n_tokens: int,
        d_model: int,
        like: Tensor,
        dtype: torch.dtype,
        workspace: Workspace,
        wide: list[int],
    ) -> None:
        """See `Stack`; `wide` are the slots of the writers at full width, in order."""
        self.slots, self.wide = wide, torch.tensor(wide, dtype=torch.long, device=like.device)
        super().__init__(n_writers, n_tokens, d_model, like, dtype, workspace)
        self.blocks: dict[int, tuple[HeadSlots, Float[Tensor, "h N v"]]] = {}  # by the first slot
        self.expanded: tuple[tuple[slice, int, int], Tensor] | None = None

    def _n_wide(self) -> int:
        return len(self.slots)

    def write(self, slot: int, difference: Float[Tensor, "N D"]) -> None:
        """See `Stack`."""
        self.values[self.slots.index(slot)] = difference
        self.total += difference

    def write_heads(self, heads: HeadSlots, difference: Float[Tensor, "h N v"]) -> None:
        """See `Stack`."""
        self.blocks[heads.slots.start] = heads, difference.to(self.values.dtype)
        self.total += self.mix_heads(heads, self.like.new_ones(len(difference)), slice(0, self.n_tokens))

    def differences(self, n_writers: int, tokens: slice, first: int = 0) -> Float[Tensor, "w TD"]:
        """See `Stack`; the last chunk is kept, since the backward asks for it twice."""
        asked, n = (tokens, first, n_writers), n_writers - first
        if self.expanded is None or self.expanded[0] != asked:
            self.expanded = None
            length = tokens.stop - tokens.start
            matrix = self.take("expanded", (n, length, self.d_model), self.values.dtype)
            self._expand(matrix, first, n_writers, lambda values: values[:, tokens])
            self.expanded = asked, matrix.view(n, length * self.d_model)
        return self.expanded[1]

    def mix_heads(self, heads: HeadSlots, mask: Float[Tensor, " h"], tokens: slice) -> Float[Tensor, "T D"]:
        """See `Stack`. Masks commute with W_O, so this costs no more than W_O itself."""
        values = self._values_of(heads)[:, tokens]
        scaled = (values * mask[:, None, None]).to(heads.output.dtype)
        mixed = (scaled.transpose(0, 1).flatten(1) @ heads.output.flatten(0, 1)).to(self.like.dtype)
        return mixed if heads.share is None else mixed + mask.sum() * heads.share

    def at(self, tokens: Int[Tensor, " A"]) -> Float[Tensor, "W A D"]:
        """See `Stack`."""
        matrix = self.like.new_empty(self.n_writers, len(tokens), self.d_model)
        self._expand(matrix, 0, self.n_writers, lambda values: values[:, tokens])
        return matrix

    def start_backward(self) -> None:
        """See `Stack`."""
        super().start_backward()
        self.head_gradients = {
            heads.slots.start: torch.zeros_like(values, dtype=self.like.dtype) for heads, values in self.blocks.values()
        }

    def add_gradient(
        self, mask: Float[Tensor, "n w"], gradient: Float[Tensor, "n TD"], tokens: slice, first: int = 0
    ) -> None:
        """See `Stack`."""
        end = first + mask.shape[1]
        low, high = bisect_left(self.slots, first), bisect_left(self.slots, end)
        wide = self._matrix(self.gradients, high, tokens)[low:]
        gradient = gradient.to(self.values.dtype)
        _add_product(wide, mask[:, self.wide[low:high] - first].T, gradient)
        for heads, _ in self.blocks.values():
            if first <= heads.slots.start and heads.slots.stop <= end:
                own = mask[:, heads.slots.start - first : heads.slots.stop - first]
                block = (own.T.to(gradient.dtype) @ gradient).view(-1, tokens.stop - tokens.start, self.d_model)
                self._add_heads(heads, block, tokens)

    def add_gradient_at(
        self, mask: Float[Tensor, "A w"] | None, gradient: Float[Tensor, "A D"], tokens: Int[Tensor, " A"]
    ) -> None:
        """See `Stack`."""
        if mask is None:
            self.shared.index_add_(0, tokens, gradient)
            return
        self.gradients.index_add_(1, tokens, mask.T[self.wide, :, None] * gradient)
        for heads, _ in self.blocks.values():
            back = self._back(heads, gradient).transpose(0, 1) * mask.T[heads.slots, :, None]
            self.head_gradients[heads.slots.start].index_add_(1, tokens, back)

    def mix_heads_backward(
        self, heads: HeadSlots, mask: Float[Tensor, " h"] | None, gradient: Float[Tensor, "T D"], tokens: slice
    ) -> Float[Tensor, " h"]:
        """See `Stack`."""
        back = self._back(heads, gradient)  # (T, h, v)
        if mask is not None:
            self.head_gradients[heads.slots.start][:, tokens] += (back * mask[:, None]).transpose(0, 1)
        values = self._values_of(heads)[:, tokens].to(back.dtype)
        products = torch.einsum("nhv,hnv->h", back, values)
        return products if heads.share is None else products + (gradient @ heads.share).sum()

    def gradient(self, slot: int) -> Float[Tensor, "N D"]:
        """See `Stack`."""
        return super().gradient(self.slots.index(slot))

    def gradient_heads(self, heads: HeadSlots) -> Float[Tensor, "h N v"]:
        """See `Stack`."""
        return self.head_gradients[heads.slots.start] + self._back(heads, self.shared).transpose(0, 1)

    def _values_of(self, heads: HeadSlots) -> Float[Tensor, "h N v"]:
        return self.blocks[heads.slots.start][1]

    def _expand(self, into: Float[Tensor, "w T D"], first: int, end: int, take: Callable[[Tensor], Tensor]) -> None:
        """Write the differences of writers `first` to before `end` at some tokens, which `take` picks."""
        low, high = bisect_left(self.slots, first), bisect_left(self.slots, end)
        into[self.wide[low:high] - first] = take(self.values)[low:high].to(into.dtype)
        for heads, values in self.blocks.values():
            if first <= heads.slots.start and heads.slots.stop <= end:
                own = into[heads.slots.start - first : heads.slots.stop - first]
                _through(take(values), heads.output, out=own)
                if heads.share is not None:
                    own += heads.share

    def _add_heads(self, heads: HeadSlots, gradient: Float[Tensor, "h T D"], tokens: slice) -> None:
        into, back = self.head_gradients[heads.slots.start][:, tokens], heads.output.transpose(1, 2)
        if into.dtype == gradient.dtype == back.dtype:
            into.baddbmm_(gradient, back)
        else:
            into += _through(gradient, back)


def _add_product(into: Float[Tensor, "m n"], mask: Float[Tensor, "m w"], factor: Float[Tensor, "w n"]) -> None:
    """`into += mask @ factor`, multiplied in the type of `factor` and added in that of `into`."""
    if into.dtype == factor.dtype:
        into.addmm_(mask, factor)
    else:
        into += mask.to(factor.dtype) @ factor


def _through(x: Tensor, matrices: Tensor, out: Tensor | None = None) -> Tensor:
    """One matrix each, in the matrices' own type; into `out`, or given in the type of `x`."""
    if out is not None and out.dtype == matrices.dtype:
        return torch.bmm(x.to(matrices.dtype), matrices, out=out)
    product = torch.bmm(x.to(matrices.dtype), matrices)
    return product.to(x.dtype) if out is None else out.copy_(product)
