"""Calls in processes of their own, forked from one that has everything imported: how they end, and what they say."""

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import torch

import edgewise as ew
from edgewise.cli import main as cli

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


class Outcome(NamedTuple):
    """How a process ended."""

    status: int
    """Exit status; negative: the signal."""
    said: str
    """On the error stream."""

    @property
    def clean(self) -> bool:
        """It worked, or said in one line why not."""
        lines = [line for line in self.said.strip().splitlines() if line.startswith("edgewise: ")]
        return self.status == 0 or ("Traceback" not in self.said and self.status in (1, 2) and len(lines) == 1)


def command(*words: Any) -> None:
    """The command line in this process."""
    sys.argv = ["edgewise", *map(str, words)]
    cli()


def forked(call: Callable[[], None], kill_after: float | None = None, beside: int = 1) -> list[Outcome]:
    """Call it in a process of its own, or in several at once; how they ended, in the order of their starts."""
    started = []
    for _ in range(beside):
        receive, send = os.pipe()  # and no file, which may not be written where files may not grow
        child = os.fork()
        if child == 0:
            try:
                alone(call, send)
            finally:
                os._exit(71)  # whatever happened, it must not go on as this process
        os.close(send)
        started.append((child, receive))
    if kill_after is not None:
        time.sleep(kill_after)
        for child, _ in started:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    found = []
    for child, receive in started:
        with os.fdopen(receive, "rb") as errors:
            said = errors.read().decode(errors="replace")
        found.append(Outcome(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said))
    return found


def alone(call: Callable[[], None], errors: int) -> None:
    """Call it as this process, which then ends; what it says goes to the file `errors`."""
    status = 70
    try:
        os.dup2(errors, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stdout, sys.stderr = (open(n, "w", closefd=False, encoding="utf-8") for n in (1, 2))  # noqa: SIM115
        torch.set_num_threads(1)
        call()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0
    except ew.InputError as error:  # of a job that is no command: the command line would print it so
        print(f"edgewise: {error}", file=sys.stderr)
        status = 2
    except MemoryError:
        print("edgewise: out of memory", file=sys.stderr)
        status = 1
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status)


def side_by_side(n: int, call: Callable[[], None]) -> None:
    """Call it in processes that know of each other, as `torchrun` starts them; they die with this one, and if one
    fails, the others are ended, as `torchrun` does.

    Raises:
        SystemExit: one of them failed, with its status.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(n)}
    children = []
    for rank in range(n):
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            try:
                alone(call, 2)
            finally:
                os._exit(71)
        children.append(child)
    while children:
        ended, status = os.wait()
        children.remove(ended)
        if status := os.waitstatus_to_exitcode(status):
            for child in children:
                os.kill(child, signal.SIGKILL)
            raise SystemExit(status)
