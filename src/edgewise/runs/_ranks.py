"""The processes that share a batch: what each must know of the others' tokens."""

from typing import Protocol

from torch import Tensor


class Ranks(Protocol):
    """Sums and collections over all processes, in every process the same."""

    size: int
    """How many processes there are; each holds the same number of tokens."""
    rank: int
    """Which one this is."""

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes."""
        ...

    def gather(self, tensor: Tensor) -> Tensor:
        """All processes' tensors, one after the other along the first axis."""
        ...


class Alone:
    """One process."""

    size, rank = 1, 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor


ALONE = Alone()
