"""The processes that share a run: each takes its part of the work, and sums go over all of them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Protocol, TypeVar, runtime_checkable

import torch
import torch.distributed as distributed
from torch import Tensor

from edgewise._errors import InputError

Item = TypeVar("Item")
_AXES = 8  # more than anything has that is shared out


class RankLostError(RuntimeError):
    """Another process of the run has ended, so there is nobody to add up with."""


@runtime_checkable
class Ranks(Protocol):
    """Sums and collections over all processes, in every process the same."""

    size: int
    """How many processes there are."""
    rank: int
    """Which one this is; the first alone writes and shows progress."""
    shares: int
    """Into how many parts a step's examples are cut, as many to each process: it decides the last bits, and the number
    of processes does not."""

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes."""
        ...

    def gather(self, tensor: Tensor) -> Tensor:
        """All processes' tensors, one after the other along the first axis; all of one shape."""
        ...


class OneProcess:
    """One process, which takes all shares."""

    def __init__(self, shares: int = 1) -> None:
        """Cut the examples of a step into so many shares."""
        self.size: int = 1
        self.rank: int = 0
        self.shares: int = shares

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor


ONE_PROCESS = OneProcess()
"""The ranks of a run in one process."""


class _Group:
    """All processes that `torchrun` started."""

    def __init__(self, device: torch.device, shares: int | None) -> None:
        self.size, self.rank = distributed.get_world_size(), distributed.get_rank()
        self.shares, self.device = shares or self.size, device

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.to(self.device, copy=True)
        with _together():
            distributed.all_reduce(total)
        return total.to(tensor.device)

    def gather(self, tensor: Tensor) -> Tensor:
        own = tensor.to(self.device).contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        with _together():
            distributed.all_gather(parts, own)
        return torch.cat(parts).to(tensor.device)


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RankLostError(
            f"another process of the run has ended ({' '.join(str(error).split())[:120]}); what it said stands in its "
            "own output, and the same command goes on from the last checkpoint"
        ) from error


# ---------------------------------------------------------------------------------------------------------- sharing out


def share(n: int, ranks: Ranks) -> range:
    """Which of `n` things in a row are this process's: as many for each, or one more."""
    return range(n * ranks.rank // ranks.size, n * (ranks.rank + 1) // ranks.size)


def own_shares(items: Sequence[Item], ranks: Ranks) -> list[Sequence[Item]]:
    """This process's shares of some examples, in order; some may be empty."""
    n, each = ranks.shares, ranks.shares // ranks.size
    mine = range(each * ranks.rank, each * (ranks.rank + 1))
    return [items[len(items) * s // n : len(items) * (s + 1) // n] for s in mine]


def sum_in_order(own: Tensor, ranks: Ranks) -> Tensor:
    """The sum of all shares' rows, one after the other from the first, so that it is the same to the bit."""
    first, *rest = ranks.gather(own)
    total = first.clone()
    for each in rest:
        total += each
    return total


def joined(own: Tensor, ranks: Ranks) -> Tensor:
    """All processes' tensors along the first axis, of which each may have its own length."""
    if ranks.size == 1:
        return own
    lengths = ranks.gather(torch.tensor([len(own)])).tolist()
    padded = own.new_zeros(max(lengths), *own.shape[1:])
    padded[: len(own)] = own
    return torch.cat([x[:n] for x, n in zip(ranks.gather(padded).split(max(lengths)), lengths, strict=True)])


def in_turn(items: Iterable[Item], run: Callable[[Item], Tensor], ranks: Ranks = ONE_PROCESS) -> Iterator[Tensor]:
    """What `run` gives of each item, in their order; each process runs one of as many as there are processes.

    All that it gives has one shape and is in float64, on the CPU.
    """
    rest = iter(items)
    while several := list(islice(rest, ranks.size)):
        own = run(several[ranks.rank]) if ranks.rank < len(several) else None
        if ranks.size == 1:
            assert own is not None
            yield own
            continue
        sizes = torch.zeros(1, _AXES, dtype=torch.long)
        if own is not None:
            sizes[0, : own.ndim] = torch.tensor(own.shape)
        shape = [n for n in ranks.gather(sizes)[0].tolist() if n]  # a process without an item does not know it
        own = torch.zeros(shape, dtype=torch.float64) if own is None else own
        yield from ranks.gather(own[None])[: len(several)]


# --------------------------------------------------------------------------------------------------------------- begin


@contextmanager
def processes(device: torch.device, shares: int | None = None) -> Iterator[Ranks]:
    """The processes of this run: those that `torchrun` started, or this one alone.

    Args:
        device: where this process's model lies; NCCL carries the sums on a GPU, gloo on a CPU.
        shares: see `Ranks`; one for each process if None.

    Raises:
        InputError: the processes cannot find each other, or the shares cannot be dealt out evenly.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield OneProcess(shares or 1)
        return
    if shares and shares % size:  # before they meet: one that has left already is not found by the others
        raise InputError(f"shares={shares}: {size} processes take as many each; give a multiple")
    begun = not distributed.is_initialized()
    try:
        if begun:
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise InputError(f"torchrun: the processes cannot find each other ({error})") from error
    try:
        yield _Group(device, shares)
    finally:
        if begun:
            distributed.destroy_process_group()
