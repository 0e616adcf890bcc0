"""Processes of their own in a moment: they are forked from one that has everything imported."""

import os
import socket
import time
from collections.abc import Callable
from functools import cache
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch


@cache
def server() -> ForkServerContext:
    """The process that others are forked from."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["edgewise.bench", "tests.discovery.toys", "tests.transcoders.toys"])
    return context


def _process(
    function: Callable[..., Any], arguments: tuple[Any, ...], choices: dict[str, Any], **environment: str
) -> Any:
    process = server().Process(target=_alone, args=(environment, function, arguments, choices))
    process.start()
    return process


def killed_once_there_is(file: Path, function: Callable[..., Any], *arguments: Any, **choices: Any) -> int | None:
    """Call the function in a process that is killed as soon as there is this file; how it ended."""
    process = _process(function, arguments, choices)
    while process.is_alive() and not file.exists():
        time.sleep(0.001)
    process.kill()
    process.join()
    return process.exitcode


def side_by_side(n: int, function: Callable[..., Any], *arguments: Any, **choices: Any) -> None:
    """Call the function in processes that know of each other, and wait for them."""
    processes = begin_side_by_side(n, function, *arguments, **choices)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * n


def begin_side_by_side(n: int, function: Callable[..., Any], *arguments: Any, **choices: Any) -> list[Any]:
    """Call the function in processes that know of each other, as `torchrun` starts them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(n)}
    return [_process(function, arguments, choices, RANK=str(i), LOCAL_RANK=str(i), **shared) for i in range(n)]


def _alone(
    environment: dict[str, str], function: Callable[..., Any], arguments: tuple[Any, ...], choices: dict[str, Any]
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    function(*arguments, **choices)
