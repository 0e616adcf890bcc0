"""Data parallel training under `torchrun`: each process takes its lanes of the batch; sums go over all of them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as distributed
from torch import Tensor

from edgewise._errors import InputError
from edgewise.transcoders import ALONE, Ranks


class _Group:
    """All processes that `torchrun` started."""

    def __init__(self) -> None:
        self.size, self.rank = distributed.get_world_size(), distributed.get_rank()

    def sum(self, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    def gather(self, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)


@contextmanager
def processes() -> Iterator[Ranks]:
    """The processes of this run: those that `torchrun` started, or this one alone.

    Raises:
        InputError: the processes cannot find each other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    begun = not distributed.is_initialized()
    try:
        if begun:
            distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    except (RuntimeError, ValueError) as error:
        raise InputError(f"torchrun: the processes cannot find each other ({error})") from error
    try:
        yield _Group()
    finally:
        if begun:
            distributed.destroy_process_group()
