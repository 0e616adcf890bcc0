"""The fuzzer: a process forked from one that has everything imported takes input after input; one that hangs or dies is
ended, its input noted, and another goes on behind it.
"""

import contextlib
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from edgewise._errors import InputError
from tests.fuzz import commands
from tests.fuzz.mutate import changed
from tests.fuzz.targets import Target, targets

SECONDS = 10
"""Of the processor's time that an input may take."""
PATIENCE = 90
"""Seconds until a process that says nothing is looked at: it hangs, or other work keeps the processor from it."""
GIGABYTES = 4
"""That it may take beyond what the process has."""


@dataclass(frozen=True)
class Failure:
    """An input, by its number, with which something went wrong."""

    number: int
    target: str
    what: str


class _TooLong(BaseException):
    pass


class Fuzzer:
    """All targets with their samples, made once and inherited by every process."""

    def __init__(self, seed: int = 0, only: str | None = None) -> None:
        self.seed = seed
        self.folder = Path(tempfile.mkdtemp(prefix="edgewise-fuzz-"))
        self.targets = [each for each in targets() if only is None or only in each.name]
        self.places = commands.made_places(self.folder) if only is None or only in ("commands", "settings") else {}
        extra = [("commands", 12), ("settings", 20)] if self.places else []
        self.names = [*self.targets, *(name for name, _ in extra if only in (None, name))]
        self.weights = [each.weight for each in self.targets] + [n for name, n in extra if only in (None, name)]

    def one(self, number: int, work: Path) -> tuple[str, str | None]:
        """Make and try an input: its target, and what went wrong or None."""
        draw = random.Random(f"{self.seed} {number}")
        target = draw.choices(self.names, self.weights)[0]
        name = target if isinstance(target, str) else target.name
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if isinstance(target, Target):
                    _try(target, draw, work)
                elif target == "settings":
                    commands.settings_of_a_method(draw)
                else:
                    commands.check(commands.line_of(self.places, draw))
        except InputError as error:
            said = str(error)
            return name, f"{len(said.splitlines())} lines: {said[:300]}" if len(said.splitlines()) != 1 else None
        except _TooLong:
            return name, f"hung: {_where()}"
        except MemoryError:
            return name, f"memory: {_where()}"
        except Exception:
            return name, traceback.format_exc()[-3000:]
        return name, None

    def run(self, n: int, first: int = 0, report: Any = None) -> list[Failure]:
        """Try so many inputs, from a number on."""
        failures, number, context = list[Failure](), first, get_context("fork")
        try:
            while number < first + n:
                receive, send = context.Pipe(False)
                process = context.Process(target=self._work, args=(number, first + n, send), daemon=True)
                process.start()
                send.close()
                number = self._watch(process, receive, number, failures, report)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        return failures

    def _watch(self, process: Any, receive: Connection, number: int, failures: list[Failure], report: Any) -> int:
        """Follow a process to its end; the number to go on from."""
        name = "?"
        while True:
            try:
                message = receive.recv() if _speaks(process.pid, receive) else None
            except EOFError:
                process.join()
                if process.exitcode:
                    failures.append(Failure(number, name, f"died: exit code {process.exitcode}"))
                    return number + 1
                return number
            if message is None:
                process.kill()
                process.join()
                failures.append(Failure(number, name, "hung beyond the reach of a signal"))
                return number + 1
            number, name, what, took = message
            if what is not None:
                failures.append(Failure(number, name, what))
            if report is not None:
                report(number, name, what, took)
            number += 1

    def _work(self, first: int, end: int, send: Connection) -> None:
        disable_progress_bar()
        os.environ["EDGEWISE_CACHE"] = str(self.folder / "cache")
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_virtual() + (GIGABYTES << 30), hard))
        signal.signal(signal.SIGPROF, _alarm)
        for number in range(first, end):
            work = Path(tempfile.mkdtemp(dir=self.folder))
            os.chdir(work)
            begun = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                name, what = self.one(number, work)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                os.chdir("/")
                shutil.rmtree(work, ignore_errors=True)
            send.send((number, name, what, time.process_time() - begun))
        send.close()
        os._exit(0)


def _try(target: Target, draw: random.Random, work: Path) -> None:
    name, files = draw.choice(target.samples)
    wrong = {draw.choice(list(files))} if draw.random() < 0.97 else set()
    place = work / "in"
    for file, data in files.items():
        path = place / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(changed(file, data, draw) if file in wrong else data)
    found = target.read(place / name)
    again = work / "again"
    again.mkdir()
    target.check(found, again)


def _alarm(*_: Any) -> None:
    raise _TooLong


def _where() -> str:
    lines = traceback.format_exc().splitlines()
    return "\n".join(lines[-14:])


def _speaks(process: int, receive: Connection) -> bool:
    """Wait until a process says something. False if it sleeps, or says nothing although it gets the processor."""
    first: float | None = None
    while not receive.poll(PATIENCE):
        now = _processor_seconds(process)
        if now is None or (first is not None and now - first > 2 * SECONDS):
            return False
        first = now if first is None else first
    return True


def _processor_seconds(process: int) -> float | None:
    """What a process has used; None if it is not one that would run if it could."""
    with contextlib.suppress(OSError), open(f"/proc/{process}/stat") as file:
        state, *numbers = file.read().rpartition(")")[2].split()
        if state in "RTD":
            return (int(numbers[10]) + int(numbers[11])) / os.sysconf("SC_CLK_TCK")
    return None


def _virtual() -> int:
    """Bytes of address space that the process has."""
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return 8 << 30


def main(n: int, seed: int, only: str | None, first: int = 0) -> int:
    """Try so many inputs, print what failed and how fast it went; how many failed."""
    fuzzer, begun, shown = Fuzzer(seed, only), time.monotonic(), [time.monotonic()]
    counts: dict[str, tuple[int, float]] = {}

    def report(number: int, name: str, what: str | None, took: float) -> None:
        times, seconds = counts.get(name, (0, 0.0))
        counts[name] = times + 1, seconds + took
        if what is not None:
            print(f"--- input {number} of seed {seed}: {name}\n{what}", flush=True)
        if time.monotonic() - shown[0] > 60:
            shown[0] = time.monotonic()
            print(f"{number - first + 1:,} inputs in {time.monotonic() - begun:.0f} s", flush=True)

    failures = fuzzer.run(n, first, report)
    for each in failures:
        if each.what.startswith(("died", "hung beyond")):
            print(f"--- input {each.number} of seed {seed}: {each.target}\n{each.what}")
    for name, (times, seconds) in sorted(counts.items(), key=lambda each: -each[1][1]):
        print(f"{name:40} {times:9,} inputs {1000 * seconds / times:8.1f} ms")
    print(f"{n:,} inputs of seed {seed} from {first:,} on, {len(counts)} targets, {len(failures)} failures, "
          f"{time.monotonic() - begun:.0f} s")  # fmt: skip
    return len(failures)
