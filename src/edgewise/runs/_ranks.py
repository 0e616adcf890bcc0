"""The processes that share a run: each takes its part of the batch, and sums go over all of them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
import torch.distributed as distributed
from torch import Tensor

from edgewise._errors import InputError


@runtime_checkable
class Ranks(Protocol):
    """Sums and collections over all processes, in every process the same."""

    size: int
    """How many processes there are; each holds the same number of examples."""
    rank: int
    """Which one this is; the first alone writes and shows progress."""

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes."""
        ...

    def gather(self, tensor: Tensor) -> Tensor:
        """All processes' tensors, one after the other along the first axis."""
        ...


class _OneProcess:
    """One process."""

    size, rank = 1, 0

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor


ONE_PROCESS = _OneProcess()
"""The ranks of a run in one process."""


class _Group:
    """All processes that `torchrun` started."""

    def __init__(self, device: torch.device) -> None:
        self.size, self.rank = distributed.get_world_size(), distributed.get_rank()
        self.device = device

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.to(self.device, copy=True)
        distributed.all_reduce(total)
        return total.to(tensor.device)

    def gather(self, tensor: Tensor) -> Tensor:
        own = tensor.to(self.device).contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(parts, own)
        return torch.cat(parts).to(tensor.device)


@contextmanager
def processes(device: torch.device) -> Iterator[Ranks]:
    """The processes of this run: those that `torchrun` started, or this one alone.

    Args:
        device: where this process's model lies; NCCL carries the sums on a GPU, gloo on a CPU.

    Raises:
        InputError: the processes cannot find each other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ONE_PROCESS
        return
    begun = not distributed.is_initialized()
    try:
        if begun:
            distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise InputError(f"torchrun: the processes cannot find each other ({error})") from error
    try:
        yield _Group(device)
    finally:
        if begun:
            distributed.destroy_process_group()
