"""Products with mostly-zero feature activations: the work grows with the active features, not with all of them.

Everything is said with two of PyTorch's own kernels, `embedding_bag` (a weighted sum of a table's rows) and
`sampled_addmm` (chosen entries of a matrix product), so that no `[N, k, D]` tensor is ever built.
"""

import warnings
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

DENSE_SHARE = 1 / 16
"""The share of active entries above which a dense product is sooner done: measured for a whole step on one core, at
B = 2,048, d = 576, F = 18,432, where the two take the same time at some 1,100 active features."""
_GATHER_ELEMENTS = 1 << 22  # how much of a gathered table a chunk may hold where there is no sampled product


class Codes(NamedTuple):
    """The active features of `N` tokens, token after token, and their values."""

    offsets: Int[Tensor, " N+1"]
    """Where each token's entries begin, and at last how many there are in all."""
    feature: Int[Tensor, " A"]
    """The feature of each entry."""
    value: Float[Tensor, " A"]
    """Its activation."""

    def with_values(self, value: Float[Tensor, " A"]) -> "Codes":
        """The same entries with other values."""
        return Codes(self.offsets, self.feature, value)

    @property
    def tokens(self) -> Int[Tensor, " A"]:
        """The token of each entry."""
        counts = self.offsets.diff()
        return torch.repeat_interleave(counts, output_size=len(self.feature))

    def dense(self, n_features: int) -> Float[Tensor, "N F"]:
        """As a matrix with its zeros."""
        out = self.value.new_zeros(len(self.offsets) - 1, n_features)
        return out.index_put_((self.tokens, self.feature), self.value)

    @staticmethod
    def of(dense: Float[Tensor, "N F"]) -> "Codes":
        """The entries of a matrix that are not 0."""
        tokens, index = dense.nonzero(as_tuple=True)
        return Codes(_offsets(tokens, len(dense)), index, dense[tokens, index])


def decode(codes: Codes, table: Float[Tensor, "F E"]) -> Float[Tensor, "N E"]:
    """`z W` for sparse activations z; differentiable in the values and the table."""
    return functional.embedding_bag(
        codes.feature, table, codes.offsets[:-1], mode="sum", per_sample_weights=codes.value.to(table.dtype)
    )


def products(codes: Codes, rows: Float[Tensor, "N D"], table: Float[Tensor, "F D"]) -> Float[Tensor, " A"]:
    """The entries of `rows tableᵀ` where the codes have entries."""
    if not len(codes.feature):
        return rows.new_zeros(0)
    if rows.is_cpu and rows.dtype in (torch.float32, torch.float64):  # sampled_addmm has no other types there
        shape = (len(rows), len(table))
        pattern = torch.sparse_csr_tensor(
            codes.offsets, codes.feature, rows.new_zeros(len(codes.feature)), shape, check_invariants=False
        )
        return torch.sparse.sampled_addmm(pattern, rows, table.T, beta=0.0).values()
    tokens, size = codes.tokens, max(1, _GATHER_ELEMENTS // rows.shape[1])
    pairs = zip(tokens.split(size), codes.feature.split(size), strict=True)
    return torch.cat([torch.linalg.vecdot(rows[t], table[f]) for t, f in pairs])


class Products:
    """The three products of a batch's entries with a table or with the tokens' rows, each done the cheaper way: sparse
    where few entries are there, dense where many are.
    """

    def __init__(self, codes: Codes, n_features: int) -> None:
        """Set up for codes (their values do not matter)."""
        self.codes, self.n_features = codes, n_features
        self.is_dense = len(codes.feature) > (len(codes.offsets) - 1) * n_features * DENSE_SHARE

    def decode(self, value: Float[Tensor, " A"], table: Float[Tensor, "F E"]) -> Float[Tensor, "N E"]:
        """`z W`."""
        codes = self.codes.with_values(value)
        return codes.dense(self.n_features) @ table if self.is_dense else decode(codes, table)

    def inner(self, rows: Float[Tensor, "N D"], table: Float[Tensor, "F D"]) -> Float[Tensor, " A"]:
        """The entries of `rows Wᵀ`."""
        if self.is_dense:
            return (rows @ table.T)[self.codes.tokens, self.codes.feature]
        return products(self.codes, rows, table)

    def pull(self, value: Float[Tensor, " A"], rows: Float[Tensor, "N E"]) -> Float[Tensor, "F E"]:
        """`zᵀ rows`."""
        if self.is_dense:
            return self.codes.with_values(value).dense(self.n_features).T @ rows
        offsets, tokens, order = self._by_feature
        weights = value[order].to(rows.dtype)
        return functional.embedding_bag(tokens, rows, offsets, mode="sum", per_sample_weights=weights)

    @cached_property
    def _by_feature(self) -> tuple[Int[Tensor, " F"], Int[Tensor, " A"], Int[Tensor, " A"]]:
        """The entries feature after feature: where each one's begin, their tokens, and their places in the codes."""
        order = self.codes.feature.argsort(stable=True)
        return _offsets(self.codes.feature[order], self.n_features)[:-1], self.codes.tokens[order], order

    def sums(self, value: Float[Tensor, " A"]) -> Float[Tensor, " F"]:
        """The sum of each feature's values."""
        return value.new_zeros(self.n_features).index_add_(0, self.codes.feature, value)


def _offsets(sorted_index: Int[Tensor, " A"], n: int) -> Int[Tensor, " {n}+1"]:
    counts = torch.bincount(sorted_index, minlength=n)
    return functional.pad(counts.cumsum(0), (1, 0))


def _use_sparse_tensors_once() -> None:
    # PyTorch announces once in a process that sparse row tensors are in beta; where warnings are errors, the first
    # product would fail.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.zeros(0, dtype=torch.long), torch.zeros(0), (1, 1))


_use_sparse_tensors_once()
