"""Long commands killed at any moment, and starved: the same bits in the end, or one clear line.

    python benchmarks/kill.py --kills 100 --json runs/kill.json
    python benchmarks/kill.py --kills 5 --jobs find view

Each command runs on a tiny model, in a process forked from this one, which has everything imported. First whole; then
killed (`kill -9`) at a moment drawn evenly over its run, after which every file of its own must be whole, and the same
command must end with the same numbers. Then with files that may not grow, on a full disk, in a folder that may not be
written, with little memory, with a clock that is set back, and twice at once on one folder. With little memory a
library (safetensors, PyTorch) may end the process in its own words; that is counted apart.
"""

# ruff: noqa: E402 (the hub is told to be silent first)
import argparse
import ctypes
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"

from _forked import command, forked
from _long_jobs import Job, jobs
from safetensors import safe_open
from safetensors.torch import load_file

from edgewise.runs import write_atomically

_OWN_MOUNTS = 0x20000  # CLONE_NEWNS of Linux
TIMED = ("seconds", "cost", "software", "created", "begun")
"""Names of what differs between two runs of one command."""
ABORTED = (-signal.SIGABRT, 256 - signal.SIGABRT)  # of the process, and of one that passes its child's status on
LAST_WORDS = ("memory allocation of", "terminate called")
"""How a library ends the process for want of memory, in its own words: in Rust (safetensors), in C++ (PyTorch)."""


def numbers(path: Path) -> Any:
    """What a result says, without when and how long."""
    if path.is_dir():
        files = (each for each in sorted(path.rglob("*")) if each.is_file() and not each.name.startswith("."))
        return {str(each.relative_to(path)): numbers(each) for each in files}
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            header = {name: json.loads(text) for name, text in (file.metadata() or {}).items() if text[:1] in "{["}
        return {name: x.numpy().tobytes() for name, x in load_file(path).items()}, untimed(header)
    if path.suffix == ".json":
        return untimed(json.loads(path.read_text()))
    if path.suffix == ".parquet":
        from pyarrow import parquet

        rows = parquet.read_table(path).to_pylist()
        return [untimed({k: v for k, v in row.items() if "second" not in k and k != "settings"}) for row in rows]
    return path.read_bytes()


def untimed(value: Any) -> Any:
    """A JSON value without what differs between two runs."""
    if isinstance(value, dict):
        return {name: untimed(each) for name, each in value.items() if name not in TIMED}
    return [untimed(each) for each in value] if isinstance(value, list) else value


class Trial:
    """One job with its right result, and what came of harming it."""

    def __init__(self, job: Job, here: Path, draw: random.Random) -> None:
        self.job, self.here, self.draw = job, here, draw
        self.failures, self.aborted = list[str](), 0
        begun, whole = time.monotonic(), self.folder()
        (first,) = forked(lambda: job.run(whole))
        self.seconds = time.monotonic() - begun
        if first.status:
            raise SystemExit(f"{job.name}: does not work at all:\n{first.said}")
        self.right = {name: numbers(whole / name) for name in job.leaves}

    def folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self.here)) / "run"  # pages show its name
        folder.mkdir()
        for name in self.job.given:
            shutil.copy(self.here / "given" / name, folder / name)
        return folder

    def kill(self) -> None:
        """Kill it once, look at what it left, and let it go on."""
        folder, after = self.folder(), self.draw.uniform(0, 1.05 * self.seconds)
        forked(lambda: self.job.run(folder), after)
        self.whole(folder, f"killed after {after:.3f} s")
        self.goes_on(folder, f"killed after {after:.3f} s")

    def starve(self, how: str, harm: Callable[[Path], Callable[[], None]]) -> None:
        """Run it under some want; it must work, or say so in one line and leave nothing half-written."""
        folder = self.folder()
        (ended,) = forked(harm(folder))
        os.chmod(folder, 0o755)
        if ended.status in ABORTED and any(words in ended.said for words in LAST_WORDS):
            self.aborted += 1
        elif not ended.clean:
            self.failures.append(f"{self.job.name}, {how}: status {ended.status}\n{ended.said[-1500:]}")
        self.whole(folder, how)
        self.goes_on(folder, how)

    def twice(self) -> None:
        """Two at once on one folder."""
        folder = self.folder()
        for ended in forked(lambda: self.job.run(folder), beside=2):
            if not ended.clean:
                self.failures.append(f"{self.job.name}, two at once: status {ended.status}\n{ended.said[-1500:]}")
        self.whole(folder, "two at once")
        self.goes_on(folder, "two at once")

    def whole(self, folder: Path, how: str) -> None:
        """Every file that has its own name can be read; a page, which a browser reads to any end, is the right one."""
        for path in folder.rglob("*"):
            if path.is_file() and not path.name.startswith("."):
                try:
                    said = numbers(path)
                except Exception as error:
                    self.failures.append(f"{self.job.name}, {how}: {path.name} is half written ({error})")
                    continue
                if path.suffix == ".html" and said != self.right.get(path.name):
                    self.failures.append(f"{self.job.name}, {how}: {path.name} is not the whole page")

    def goes_on(self, folder: Path, how: str) -> None:
        """The same command gives the right result."""
        (ended,) = forked(lambda: self.job.run(folder))
        if ended.status:
            self.failures.append(f"{self.job.name}, {how}: does not go on: {ended.said[-1500:]}")
        elif {name: numbers(folder / name) for name in self.job.leaves} != self.right:
            self.failures.append(f"{self.job.name}, {how}: goes on to other numbers")
        shutil.rmtree(folder.parent, ignore_errors=True)


def short_files(job: Job, folder: Path, n_bytes: int) -> Callable[[], None]:
    """No file may grow beyond so many bytes."""

    def run() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
        job.run(folder)

    return run


def own_mounts() -> None:
    """What is mounted from now on is so for this process alone."""
    ctypes.CDLL(None).unshare(_OWN_MOUNTS)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def full_disk(job: Job, folder: Path, n_bytes: int) -> Callable[[], None]:
    """A disk of so many bytes under the folder, within this process alone."""

    def run() -> None:
        own_mounts()
        small = folder / "small"
        small.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", small], check=True)
        for name in job.given:
            shutil.copy(folder / name, small / name)
        job.run(small)

    return run


def read_only(job: Job, folder: Path) -> Callable[[], None]:
    """A folder that may not be written, by root neither: mounted so, within this process alone."""

    def run() -> None:
        os.chmod(folder, 0o555)
        if os.getuid() == 0:
            own_mounts()
            subprocess.run(["mount", "--bind", folder, folder], check=True)
            subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        job.run(folder)

    return run


def little_memory(job: Job, folder: Path, n_bytes: int) -> Callable[[], None]:
    """So much more than the process has when it begins."""

    def run() -> None:
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (now + n_bytes, now + n_bytes))
        job.run(folder)

    return run


def clock_back(job: Job, folder: Path, after: int) -> Callable[[], None]:
    """The clock is set back by a day after so many looks at it, and all files are of tomorrow."""

    def run() -> None:
        looks, told = [0], time.time

        def shifted() -> float:
            looks[0] += 1
            return told() - (86_400 if looks[0] > after else 0)

        time.time = shifted
        tomorrow = told() + 86_400
        for path in folder.rglob("*"):
            os.utime(path, (tomorrow, tomorrow))
        job.run(folder)

    return run


def harm(trial: Trial, kills: int, starvations: int) -> dict[str, int]:
    """All of it, and how often."""
    job, draw = trial.job, trial.draw
    for _ in range(kills):
        trial.kill()
    done = {"kill": kills}
    for _ in range(starvations):
        n = int(10 ** draw.uniform(0, 5.5))
        trial.starve(f"files of {n} bytes", lambda folder, n=n: short_files(job, folder, n))
        m = int(10 ** draw.uniform(7, 9))
        trial.starve(f"{m >> 20} MiB of memory", lambda folder, m=m: little_memory(job, folder, m))
        k = draw.randrange(4)
        trial.starve("clock set back", lambda folder, k=k: clock_back(job, folder, k))
        trial.twice()
    done |= dict.fromkeys(("short files", "memory", "clock", "two at once"), starvations)
    trial.starve("read-only folder", lambda folder: read_only(job, folder))
    done["read-only"] = 1
    if os.getuid() == 0:
        for n in (4096, 65536):
            trial.starve(f"disk of {n} bytes", lambda folder, n=n: full_disk(job, folder, n))
        done["full disk"] = 2
    return done


def main() -> None:
    """Harm every job, print what failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--starvations", type=int, default=5)
    parser.add_argument("--jobs", nargs="+", help="their names' beginnings; all if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the counts there")
    args = parser.parse_args()
    here = Path(tempfile.mkdtemp(prefix="edgewise-kill-"))
    os.chmod(here, 0o755)
    os.environ["EDGEWISE_CACHE"] = str(here / "cache")
    with suppress(SystemExit), redirect_stderr(io.StringIO()):
        command("view", here / "nothing")  # loads what every command needs
    failures, table = list[str](), list[dict[str, Any]]()
    try:
        for job in jobs(here):
            if args.jobs and not job.name.startswith(tuple(args.jobs)):
                continue
            begun, trial = time.monotonic(), Trial(job, here, random.Random(f"{args.seed} {job.name}"))
            done = harm(trial, args.kills, args.starvations)
            failures += trial.failures
            row = {"command": job.name, "seconds": round(trial.seconds, 2), **done, "failures": len(trial.failures)}
            table.append(row := row | {"aborted by a library": trial.aborted})
            if args.json:
                write_atomically(args.json, json.dumps(table, indent=2) + "\n")
            print(f"{row}, {time.monotonic() - begun:.0f} s", flush=True)
            for each in trial.failures:
                print(f"--- {each}", flush=True)
    finally:
        shutil.rmtree(here, ignore_errors=True)
    sys.exit(len(failures) > 0)


if __name__ == "__main__":
    main()
