"""One of two processes of a run killed at any moment: the other ends with a line, and any number of processes goes on.

    python benchmarks/kill_ranks.py --kills 10 --json runs/kill-ranks.json

`edgewise find` learns a ranking on a tiny model in two processes, which know of each other as under `torchrun` but have
no `torchrun` above them to end them; a checkpoint is written after every step. Once undisturbed; then, `--kills` times,
one of the two (drawn) is killed with `kill -9` at a moment drawn evenly over the run, from when they have found each
other (before that one waits for the other, and only `torchrun` would end it). The other must end within 30 s: with the
run's result, or with one line. Then the same command goes on, in turn in two, one and four processes, and must
end with the undisturbed run's numbers: to the bit in two, to rounding otherwise, since examples are cut into other
shares. Odd kills share examples out, even ones tokens.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as distributed
from _forked import Outcome, alone, command
from safetensors.torch import load_file

import edgewise as ew
from edgewise.runs import RunOptions, write_atomically

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.bench.toys import save_model, save_pairs

PATIENCE = 30.0
"""Seconds that the other process may take to end."""
WHOLE = 600.0
"""Seconds that an undisturbed run may take, on a busy machine."""


class Process(NamedTuple):
    """One process of a run."""

    pid: int
    errors: int
    """Where its error stream can be read."""


class Ended(NamedTuple):
    """How it ended."""

    outcome: Outcome
    after: float
    """When, in `time.monotonic`'s seconds."""


def find(here: Path, out: Path, share: str) -> None:
    """The command, with a checkpoint after every step."""
    ew.RunOptions = lambda **given: RunOptions(checkpoint_seconds=0.0, **given)
    join = distributed.init_process_group

    def joining(*given: Any) -> None:
        join(*given)
        Path(f"{out}.{distributed.get_rank()}").touch()

    distributed.init_process_group = joining
    find = ["find", "--model", here / "model", "--task", here / "pairs.jsonl", "--steps", "20", "--batch-size", "4"]
    command(*find, "--share", share, "--out", out)


def begin(n: int, here: Path, out: Path, share: str) -> list[Process]:
    """Start it in processes that know of each other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(n)}
    return [_forked(lambda: find(here, out, share), shared | {"RANK": str(rank)}) for rank in range(n)]


def _forked(call: Any, environment: dict[str, str]) -> Process:
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.environ.update(environment)
        try:
            alone(call, send)
        finally:
            os._exit(71)  # whatever happened, it must not go on as this process
    os.close(send)
    return Process(child, receive)


def end(processes: list[Process], patience: float) -> list[Ended | None]:
    """Wait for processes; None for one that did not end in time, and was killed."""
    found: list[Ended | None] = [None] * len(processes)

    def wait(i: int) -> None:
        with os.fdopen(processes[i].errors, "rb") as errors:
            said = errors.read().decode(errors="replace")
        status = os.waitstatus_to_exitcode(os.waitpid(processes[i].pid, 0)[1])
        if not late.is_set():
            found[i] = Ended(Outcome(status, said), time.monotonic())

    late, threads = threading.Event(), [threading.Thread(target=wait, args=(i,)) for i in range(len(processes))]
    for thread in threads:
        thread.start()
    until = time.monotonic() + patience
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    late.set()
    for thread, process in zip(threads, processes, strict=True):
        if thread.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            thread.join()
    return found


def failure(processes: list[Ended | None]) -> str:
    """What went wrong in a run that should have worked, or nothing."""
    for ended in processes:
        if ended is None or ended.outcome.status:
            said = "" if ended is None else ended.outcome.said[-1500:]
            return f"one of {len(processes)} processes does not end well: {said}"
    return ""


def wait_until_joined(out: Path) -> None:
    """Wait until both processes have found each other."""
    while not all(Path(f"{out}.{rank}").exists() for rank in range(2)):
        time.sleep(0.001)


def scores_in(out: Path) -> torch.Tensor:
    """What a run found."""
    return load_file(out / "circuit.safetensors")["scores"]


class Trial:
    """The undisturbed run, and kills beside it."""

    def __init__(self, here: Path, share: str) -> None:
        """Run it whole."""
        self.here, self.share, out = here, share, here / share
        processes = begin(2, here, out, share)
        wait_until_joined(out)
        begun = time.monotonic()
        if wrong := failure(end(processes, WHOLE)):
            raise SystemExit(wrong)
        self.seconds, self.right = time.monotonic() - begun, scores_in(out)

    def kill(self, draw: random.Random, number: int) -> dict[str, Any]:
        """Kill one, wait for the other, let the run go on; the row of the table."""
        out, victim = self.here / f"{self.share}-{number}", draw.randrange(2)
        after, n = draw.uniform(0, self.seconds), (2, 1, 4)[number % 3]
        processes = begin(2, self.here, out, self.share)
        wait_until_joined(out)
        time.sleep(after)
        killed = time.monotonic()
        os.kill(processes[victim].pid, signal.SIGKILL)
        survivor = end(processes, PATIENCE)[1 - victim]
        row: dict[str, Any] = {"share": self.share, "killed": victim, "after_s": round(after, 2), "went_on_in": n}
        row |= {"checkpoint": (out / "checkpoint.safetensors").exists(), "failures": []}
        if survivor is None:
            row["failures"].append(f"the other did not end within {PATIENCE:.0f} s")
        else:
            row |= {"ended_s": round(survivor.after - killed, 2), "status": survivor.outcome.status}
            if not survivor.outcome.clean:
                row["failures"].append(survivor.outcome.said[-1500:])
        if wrong := failure(end(begin(n, self.here, out, self.share), WHOLE)):
            row["failures"].append(wrong)
        else:
            row["apart"] = float((scores_in(out) - self.right).abs().max() / self.right.abs().max())
            if row["apart"] > (0 if n == 2 else 1e-4):
                row["failures"].append(f"goes on to other numbers, {row['apart']:.1e} apart")
        shutil.rmtree(out, ignore_errors=True)
        return row


def main() -> None:
    """Kill, print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the table there")
    args = parser.parse_args()
    here, draw = Path(tempfile.mkdtemp(prefix="edgewise-kill-")), random.Random(args.seed)
    table: list[dict[str, Any]] = []
    try:
        save_model(here / "model")
        save_pairs(here / "pairs.jsonl")
        os.environ["EDGEWISE_CACHE"] = str(here / "cache")
        trials = [Trial(here, share) for share in ("examples", "tokens")]
        for number in range(args.kills):
            table.append(trials[number % 2].kill(draw, number))
            print(json.dumps(table[-1]), flush=True)
    finally:
        shutil.rmtree(here, ignore_errors=True)
    if args.json:
        write_atomically(args.json, json.dumps(table, indent=2) + "\n")
    sys.exit(any(row["failures"] for row in table))


if __name__ == "__main__":
    main()
