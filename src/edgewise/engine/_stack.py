"""The stack of differences Δ_w = z_w − z̃_w, written once, and the stack of their gradients."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class HeadSlots(NamedTuple):
    """The running heads of one layer among the live writers, and the matrices that take them to the residual."""

    slots: slice
    output: Float[Tensor, "h v D"]


class Stack:
    """Differences at full width: the fastest form, `W N D` numbers for the values and as many for the gradients."""

    def __init__(self, n_writers: int, n_tokens: int, d_model: int, like: Tensor) -> None:
        """Make an empty stack.

        Args:
            n_writers: W, how many live writers will write.
            n_tokens: N.
            d_model: D.
            like: a tensor of the type and on the device wanted.
        """
        self.n_tokens, self.d_model = n_tokens, d_model
        self.values = like.new_empty(n_writers, n_tokens, d_model)
        self.total = like.new_zeros(n_tokens, d_model)  # Σ_w Δ_w so far: readers whose masks are all 1 share it

    def write(self, slot: int, difference: Float[Tensor, "N D"]) -> None:
        """Store the difference of a writer that writes at full width (an embedding, an MLP)."""
        self.values[slot] = difference
        self.total += difference

    def write_heads(
        self, heads: HeadSlots, difference: Float[Tensor, "h N v"], share: Float[Tensor, " D"] | None
    ) -> None:
        """Store the differences of a layer's heads, given before W_O, and with each head's share of b_O where it has
        one.
        """
        torch.bmm(difference, heads.output, out=self.values[heads.slots])
        if share is not None:
            self.values[heads.slots] += share
        self.total += self.values[heads.slots].sum(0)

    def differences(self, n_writers: int, tokens: slice) -> Float[Tensor, "w TD"]:
        """The first `n_writers` differences at some tokens, as a matrix."""
        return self._matrix(self.values, n_writers, tokens)

    def at(self, tokens: Int[Tensor, " A"]) -> Float[Tensor, "W A D"]:
        """All differences at scattered tokens."""
        return self.values[:, tokens]

    # -------------------------------------------------------------------------------------------------------------
    # gradients

    def start_backward(self) -> None:
        """Make room for gradients."""
        self.gradients = torch.zeros_like(self.values)
        self.shared = self.values.new_zeros(self.n_tokens, self.d_model)

    def add_gradient(self, mask: Float[Tensor, "n w"], gradient: Float[Tensor, "n TD"], tokens: slice) -> None:
        """`∂loss/∂Δ_w += Σ_r m_rw g_r` for the first `w` writers."""
        self._matrix(self.gradients, mask.shape[1], tokens).addmm_(mask.T, gradient)

    def add_gradient_at(self, gradient: Float[Tensor, "W A D"], tokens: Int[Tensor, " A"]) -> None:
        """The same at scattered tokens."""
        self.gradients.index_add_(1, tokens, gradient)

    def gradient(self, slots: slice | int) -> Float[Tensor, "*n N D"]:
        """∂loss/∂Δ of writers at full width, complete once every later reader has been walked."""
        return self.gradients[slots] + self.shared

    def gradient_heads(self, heads: HeadSlots) -> Float[Tensor, "h N v"]:
        """∂loss/∂Δ of a layer's heads, before W_O."""
        return torch.bmm(self.gradients[heads.slots] + self.shared, heads.output.transpose(1, 2))

    def _matrix(self, stack: Tensor, n_writers: int, tokens: slice) -> Float[Tensor, "w TD"]:
        # A view: rows of the stack lie N * D apart, and BLAS takes any distance between rows.
        return stack.view(len(stack), -1)[:n_writers, tokens.start * self.d_model : tokens.stop * self.d_model]
