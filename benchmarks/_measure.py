"""Time and memory, measured the same way everywhere."""

import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Wall time of one call, and what it gave."""
    start = time.perf_counter()
    result = run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def processor_seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Processor time of one call, which other work on the machine does not lengthen, and what it gave."""
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def median_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median wall time of a call, after one that is not counted."""
    run()
    return statistics.median([seconds(run)[0] for _ in range(repeats)])


def beside(run: Callable[[int], Any], other: Callable[[], Any], n: int) -> tuple[list[float], list[float]]:
    """Wall times of n calls of each, in turns, so that both see the same machine; `run` is told which call it is."""
    times = [(seconds(lambda number=number: run(number))[0], seconds(other)[0]) for number in range(n)]
    return [own for own, _ in times], [others for _, others in times]


def peak_tensor_bytes(run: Callable[[], Any]) -> int:
    """The most bytes of tensors alive at once that the call itself allocated."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    kineto: Any = profiler.profiler  # of a profile that has ended it is set; its events' sizes have no stubs
    events = kineto.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def rss_bytes() -> int:
    """The most memory that the process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def rss_now() -> int:
    """The memory that the process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
