"""What edgewise runs on: the processor, memory, GPUs and the cache."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

import edgewise as ew

_PLACE = re.compile(r"^physical id\s*: (\d+)$.*?^core id\s*: (\d+)$", re.MULTILINE | re.DOTALL)
_SIDE, _SECONDS = 768, 0.15  # of the matrices that are multiplied, and for how long


@dataclass(frozen=True)
class Machine:
    """A processor, memory and GPUs; sizes in bytes, None where the system does not say."""

    processor: str
    cores: int
    """Those that this process may use."""
    threads: int
    """Those that PyTorch uses."""
    bfloat16: bool
    """Whether the processor has instructions for it."""
    speed: dict[str, float]
    """Of matrix products, by type, in 10⁹ operations a second, just now."""
    memory: int | None
    free_memory: int | None
    gpus: tuple[str, ...]
    """Those that PyTorch can use, as `cuda:0` or `mps` with name and memory."""
    driver: bool
    """Whether a program of NVIDIA's driver is there."""


@dataclass(frozen=True)
class Cache:
    """The folder of converted models; sizes in bytes."""

    folder: Path
    size: int
    free: int | None
    """On its disk."""
    writable: bool


def machine() -> Machine:
    """This machine, its products timed for less than a second."""
    cpu = torch.device("cpu")
    memory, free = _memory()
    return Machine(
        processor=f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}",
        cores=_cores(),
        threads=torch.get_num_threads(),
        bfloat16=ew.runs.fastest_precision(cpu) == "bfloat16",
        speed={str(dtype).removeprefix("torch."): _speed(dtype) for dtype in (torch.float32, torch.bfloat16)},
        memory=memory,
        free_memory=free,
        gpus=tuple(_gpus()),
        driver=shutil.which("nvidia-smi") is not None,
    )


def cache() -> Cache:
    """The folder of converted models, whether it is there yet or not."""
    folder = ew.models.cache_folder()
    there = next((each for each in (folder, *folder.parents) if each.exists()), None)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if there is None:
        return Cache(folder, size, None, False)
    return Cache(folder, size, shutil.disk_usage(there).free, there.is_dir() and os.access(there, os.W_OK))


def _cores() -> int:
    may_use = getattr(os, "sched_getaffinity", None)  # on Linux; a container's or a scheduler's share
    cores = (os.cpu_count() or 1) if may_use is None else len(may_use(0))
    # Of two threads of one core each gets half of it.
    places = _PLACE.findall(_read("/proc/cpuinfo"))
    cores = min(cores, len(set(places)) or cores)
    quota = re.match(r"(\d+) (\d+)", _read("/sys/fs/cgroup/cpu.max"))  # microseconds of each period
    return cores if quota is None else max(1, min(cores, int(quota[1]) // int(quota[2])))


def _memory() -> tuple[int | None, int | None]:
    """In all and free. Of Linux and macOS; a container's limit counts where it is lower."""
    lines = dict(re.findall(r"^(\w+): +(\d+) kB$", _read("/proc/meminfo"), re.MULTILINE))
    found = [int(lines[name]) * 1024 if name in lines else None for name in ("MemTotal", "MemAvailable")]
    if found[0] is None and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        found[0] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit, used = (_read(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        shares = int(limit), int(limit) - int(used)
        found = [share if of is None else min(of, share) for of, share in zip(found, shares, strict=True)]
    return found[0], found[1]


def _processor() -> str:
    named = re.search(r"^model name\s*: (.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine() or "unknown"


def _speed(dtype: torch.dtype) -> float:
    one, other = (torch.randn(_SIDE, _SIDE, generator=torch.Generator().manual_seed(seed)).to(dtype) for seed in (0, 1))
    best, begin = float("inf"), time.monotonic()
    torch.mm(one, other)  # the first brings up threads
    while True:
        start = time.perf_counter()
        torch.mm(one, other)
        best = min(best, time.perf_counter() - start)
        if time.monotonic() - begin > _SECONDS:
            return 2 * _SIDE**3 / best / 1e9


def _gpus() -> Iterable[str]:
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(number)
        yield f"cuda:{number}, {about.name}, {about.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        yield "mps"


def _read(path: str) -> str:
    """A small file of the system's; empty where there is none."""
    try:
        return Path(path).read_text("utf-8", errors="replace") if sys.platform == "linux" else ""
    except OSError:
        return ""
