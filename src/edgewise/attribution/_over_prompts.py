"""Numbers that each of several prompts has or has not: their mean, how often they are there, how sure the mean is."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor

from edgewise.attribution._file_checks import check_columns, check_rows
from edgewise.runs import resampled_means

_RESAMPLES, _LEVEL = 1000, 0.95
_ENDS = (1 - _LEVEL) / 2, (1 + _LEVEL) / 2
_AT_ONCE = 512  # items resampled together: 4 MB for a thousand resamples


@dataclass(frozen=True, eq=False)
class OverPrompts:
    """One number for each item and prompt, where the prompt has the item; kept sparse."""

    offsets: Int[Tensor, " offsets"]
    """Where each item's numbers begin, and at last how many there are."""
    prompts: Int[Tensor, " m"]
    """Of each number."""
    values: Float[Tensor, " m"]
    n_prompts: int

    @staticmethod
    def of(matrix: csr_array, n_prompts: int) -> "OverPrompts":
        """Of a matrix, items by prompts; an entry that is 0 is one."""
        matrix.sort_indices()
        offsets, prompts = (torch.from_numpy(each.astype(np.int64)) for each in (matrix.indptr, matrix.indices))
        return OverPrompts(offsets, prompts, torch.from_numpy(matrix.data), n_prompts)

    @cached_property
    def matrix(self) -> csr_array:
        """Items by prompts."""
        content = self.values.numpy(), self.prompts.numpy(), self.offsets.numpy()
        return csr_array(content, shape=(len(self.offsets) - 1, self.n_prompts))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def count(self) -> Int[Tensor, " n"]:
        """How many prompts have each item."""
        return self.offsets.diff()

    @property
    def share(self) -> Float[Tensor, " n"]:
        """The share of the prompts that have it."""
        return self.count.double() / self.n_prompts

    @cached_property
    def mean(self) -> Float[Tensor, " n"]:
        """Over all prompts, 0 where one has it not."""
        return self._summed(self.values) / self.n_prompts

    @property
    def agreement(self) -> Float[Tensor, " n"]:
        """Of the prompts that have it, the share whose number has the sign that most have."""
        positive, negative = self._summed((self.values > 0).double()), self._summed((self.values < 0).double())
        return torch.maximum(positive, negative) / self.count.clamp(min=1)

    def _summed(self, numbers: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
        items = torch.repeat_interleave(self.count, output_size=len(numbers))
        return torch.zeros(len(self), dtype=torch.float64).index_add_(0, items, numbers.double())

    def intervals(self, resamples: int = _RESAMPLES) -> Float[Tensor, "n 2"]:
        """The mean's 95 % percentile bootstrap interval, from the same resampled prompts for all items; NaN of one
        prompt, which does not show what another would change.

        Args:
            resamples: how many times the prompts are drawn.
        """
        found = np.full((len(self), 2), np.nan)
        if self.n_prompts == 1:
            return torch.from_numpy(found)
        # Where one prompt alone has an item, its mean is in proportion to how often that prompt is drawn.
        once = (self.count == 1).numpy()
        drawn = resampled_means(np.eye(self.n_prompts), resamples=resamples)
        of_prompt = np.quantile(drawn, _ENDS, axis=0).T  # (prompts, 2)
        place = self.offsets[:-1][torch.from_numpy(once)]
        found[once] = np.sort(of_prompt[self.prompts[place].numpy()] * self.values[place].numpy()[:, None], axis=1)
        often = np.flatnonzero(~once)
        for these in np.split(often, range(_AT_ONCE, len(often), _AT_ONCE)):
            means = resampled_means(self.matrix[these].toarray().T, resamples=resamples)
            found[these] = np.quantile(means, _ENDS, axis=0).T
        return torch.from_numpy(found)

    def take(self, chosen: Int[Tensor, " k"]) -> "OverPrompts":
        """Some of the items."""
        return OverPrompts.of(self.matrix[chosen.numpy()], self.n_prompts)

    def spread(self, where: np.ndarray, n: int) -> "OverPrompts":
        """The same items at some places of n."""
        items = np.repeat(where, self.count.numpy())
        matrix = csr_array((self.values.numpy(), (items, self.prompts.numpy())), shape=(n, self.n_prompts))
        return OverPrompts.of(matrix, self.n_prompts)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """For a file."""
        return {f"{name}.{each}": getattr(self, each) for each in ("offsets", "prompts", "values")}

    @staticmethod
    def read(name: str, tensors: Mapping[str, Tensor], n_prompts: int) -> "OverPrompts":
        """The inverse of `tensors`. Raises `ValueError` for what is none."""
        offsets, prompts, values = (tensors[f"{name}.{each}"] for each in ("offsets", "prompts", "values"))
        if type(n_prompts) is not int or not 0 < n_prompts < 1 << 31:
            raise ValueError(f"{n_prompts!r:.20} prompts")
        check_rows(offsets, prompts, len(offsets) - 1, n_prompts)
        check_columns({f"{name} of prompts": values}, len(prompts), whole=False)
        return OverPrompts(offsets, prompts, values, n_prompts)


def unpaired_intervals(first: OverPrompts, second: OverPrompts) -> Float[Tensor, "n 2"]:
    """95 % intervals of the difference of two means over prompts that have nothing to do with each other; NaN where
    one is of a single prompt.

    Args:
        first: over some prompts.
        second: the same items over others; its mean is taken off.
    """
    found = np.full((len(first), 2), np.nan)
    if 1 in (first.n_prompts, second.n_prompts):
        return torch.from_numpy(found)
    for start in range(0, len(first), _AT_ONCE):
        these = slice(start, start + _AT_ONCE)
        drawn = (
            resampled_means(each.matrix[these].toarray().T, resamples=_RESAMPLES, seed=i)
            for i, each in enumerate((first, second))
        )
        means = next(drawn) - next(drawn)
        found[these] = np.quantile(means, _ENDS, axis=0).T
    return torch.from_numpy(found)
