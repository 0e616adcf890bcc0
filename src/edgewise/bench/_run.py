"""Running a bench: what is done is skipped, what is missing is done by whichever process gets to it first."""

import ctypes
import gc
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from edgewise._errors import InputError
from edgewise._load import load_model
from edgewise.bench._cell import FAILED, Cell, cell_settings, cells, complete, file_settings
from edgewise.bench._config import BenchConfig, TaskSpec
from edgewise.bench._methods import Interrupted
from edgewise.bench._table import require_pyarrow, write_table
from edgewise.discovery import engine_under
from edgewise.engine import CACHE_BYTES, Engine
from edgewise.models import Model
from edgewise.runs import check_writable, write_atomically
from edgewise.tasks import ALL_TASKS, TEMPLATE_SUFFIXES, Task, from_file, from_template_file

TABLE = "bench.parquet"
_WAIT = 1.0  # seconds between looks at what another process is working on


@dataclass(frozen=True)
class Pass:
    """What one process did, or several."""

    done: tuple[str, ...]
    """Cells that it found or judged; of several processes, those that were done meanwhile."""
    failed: tuple[str, ...]
    """Cells that it could not do, each with the reason."""


@dataclass(frozen=True)
class Resources:
    """What each process may use; it decides no number, but for the last bits of learned runs (`cache_bytes`)."""

    threads: int | None = None
    device: str | None = None
    cache_bytes: int = CACHE_BYTES
    checkpoint_seconds: float = 30.0


def run_bench(
    config: BenchConfig | str | Path,
    out: str | Path,
    *,
    jobs: int = 1,
    threads: int | None = None,
    device: str | None = None,
    cache_bytes: int = CACHE_BYTES,
    checkpoint_seconds: float = 30.0,
    say: Callable[[str], None] = print,
) -> tuple[Path, Pass]:
    """Run a bench, or what is left of it, and write its table.

    Args:
        config: the bench, or its `.yaml` file.
        out: the folder; what is in it is not done again. Other processes may work on it at the same time.
        jobs: how many processes; each loads a model for itself.
        threads: of each process; the machine's cores shared out if None.
        device: where the models go.
        cache_bytes: how much memory each process may fill with what depends on a task's pairs alone (see `Engine`).
        checkpoint_seconds: how much work of a learned method a kill may cost.
        say: told a line per cell (of this process alone).

    Returns:
        The table's path, and what this call did. A cell that fails does not stop the others; it is tried again the next
        time.

    Raises:
        InputError: something in the file is wrong, or a folder was made with other settings.
        KeyboardInterrupt: it was told to stop; the same call goes on from there.
    """
    config = config if isinstance(config, BenchConfig) else BenchConfig.load(config)
    out = Path(out)
    if jobs < 1 or (threads is not None and threads < 1):
        raise InputError(f"bench: {jobs} jobs of {threads} threads; use at least 1")
    require_pyarrow()
    check_writable(out)
    if jobs > 1:
        threads = threads or max(1, torch.get_num_threads() // jobs)
    resources = Resources(threads, device, cache_bytes, checkpoint_seconds)
    found = one_process(config, out, resources, say) if jobs == 1 else _processes(config, out, jobs, resources)
    return gather(config, out), found


def gather(config: BenchConfig, out: str | Path) -> Path:
    """Write the table of what is done so far, and give its path.

    Raises:
        InputError: a cell was found with other settings than the bench's, or the folder cannot be written.
    """
    table, every = Path(out) / TABLE, _checked(config, Path(out))
    check_writable(out)
    with FileLock(Path(out) / "table.lock"):
        write_table(every, config, table)
    return table


def one_process(
    config: BenchConfig,
    out: Path,
    resources: Resources,
    say: Callable[[str], None] = print,
) -> Pass:
    """Work until every cell is done, by this process or by another, or has failed."""
    if resources.threads is not None:
        torch.set_num_threads(resources.threads)
    # Of other passes; by what the files are and not by the clock, which may be set back meanwhile.
    earlier = {cell.name: _failure(cell) for cell in cells(config, out)}
    done, failed = list[str](), list[str]()
    every = _checked(config, out)
    for name in config.models:
        own = [cell for cell in every if cell.model == name]
        if any(not cell.done(config) for cell in own):
            found = _one_model(config, name, own, resources, earlier, say)
            done, failed = [*done, *found.done], [*failed, *found.failed]
            give_back_memory()  # before the next model is there too
    return Pass(tuple(done), tuple(failed))


def _one_model(
    config: BenchConfig,
    name: str,
    own: list[Cell],
    resources: Resources,
    earlier: dict[str, tuple[int, int] | None],
    say: Callable[[str], None],
) -> Pass:
    """Work until every cell of a model is done, by this process or by another, or has failed."""
    done, failed = list[str](), list[str]()
    prepared = prepare(config, name, resources.device, resources.cache_bytes)
    for cell in own:  # what is done too: it stands beside what is found now
        cell.check(cell_settings(cell, config, *prepared[cell.task.name]))
    pending = [cell for cell in own if not cell.done(config)]
    while pending:
        waiting, at_work = [], ""
        for cell in pending:
            if cell.task.name != at_work:
                at_work = cell.task.name
                for engine, _ in prepared.values():
                    engine.prepare(())  # forget the last task's pairs
            ended = _try(cell, config, *prepared[cell.task.name], resources.checkpoint_seconds, earlier)
            if ended:
                give_back_memory()
            if ended is None:
                waiting.append(cell)
            elif ended:
                done.append(cell.name) if ended == "done" else failed.append(f"{cell.name}: {ended}")
                say(f"{cell.name}: {ended}")
        if len(waiting) == len(pending):
            time.sleep(_WAIT)
        pending = waiting
    return Pass(tuple(done), tuple(failed))


def _checked(config: BenchConfig, out: Path) -> list[Cell]:
    """All cells. Raises `InputError` if one was found with other settings, as far as the bench's file says them."""
    every = cells(config, out)
    for cell in every:
        cell.check(file_settings(cell, config))
    return every


def prepare(
    config: BenchConfig, model: str, device: str | None = None, cache_bytes: int = CACHE_BYTES
) -> dict[str, tuple[Engine, Task]]:
    """All tasks for a model, each with its engine, so that what is wrong with one shows before any long work. An engine
    is shared, unless its ablation is made of a task's prompts.
    """
    loaded = load_model(model, device=device)
    tasks = {spec.name: make_task(spec, loaded) for spec in config.tasks}
    for task in tasks.values():
        task.check_examples("test")
    graph = loaded.graph(config.embeddings, config.kv)  # pyright: ignore[reportArgumentType] (checked with the file)
    engines: dict[str, Engine] = {}
    for name, task in tasks.items():
        own = name if config.ablation.startswith("mean") else ""
        if own not in engines:
            engines[own] = engine_under(loaded, task, config.ablation, graph, cache_bytes=cache_bytes)
    return {name: (engines.get(name) or engines[""], task) for name, task in tasks.items()}


def make_task(spec: TaskSpec, model: Model) -> Task:
    """A task for a model's tokenizer. Raises `InputError`."""
    try:
        if spec.task in ALL_TASKS:
            return ALL_TASKS[spec.task](model.tokenizer, **spec.options)
        read = from_template_file if spec.task.endswith(TEMPLATE_SUFFIXES) else from_file
        return read(spec.task, model.tokenizer, longest=model.parts.n_positions, **spec.options)
    except TypeError as error:
        raise InputError(f"tasks: {spec.name} does not take these settings ({error})") from error


def give_back_memory() -> None:
    """Give freed memory back to the system: a process that waits for the others' cells must not hold on to what its own
    last one needed, which may be most of the machine.
    """
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # not every C library has it
            ctypes.CDLL(None).malloc_trim(0)


def _try(
    cell: Cell,
    config: BenchConfig,
    engine: Engine,
    task: Task,
    checkpoint_seconds: float,
    earlier: dict[str, tuple[int, int] | None],
) -> str | None:
    """Do a cell: `done`, empty if another process has done it, None if one is at it, or why it failed."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    failure = cell.folder / FAILED
    try:
        with FileLock(cell.lock, timeout=0):
            if cell.done(config) or _failure(cell) not in (None, earlier[cell.name]):
                return ""  # another process's, in this pass
            try:
                complete(cell, config, engine, task, checkpoint_seconds)
            except Interrupted as error:
                raise KeyboardInterrupt(str(error)) from None
            except Exception as error:  # one bad cell must not cost a night's work: it is reported, with its traceback
                reason = f"failed ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
                cell.write(FAILED, {"error": reason, "traceback": traceback.format_exc()})
                return reason
            failure.unlink(missing_ok=True)
            return "done"
    except Timeout:
        return None


def _failure(cell: Cell) -> tuple[int, int] | None:
    """Which file says that a cell failed; None if none does. Each failure writes a new one."""
    try:
        found = (cell.folder / FAILED).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _processes(config: BenchConfig, out: Path, jobs: int, resources: Resources) -> Pass:
    context = get_context("spawn")  # a fork of a process whose PyTorch has threads may hang
    folder = out / "jobs"
    folder.mkdir(exist_ok=True)
    before = [cell.name for cell in cells(config, out) if not cell.done(config)]
    arguments = (config, out, resources)
    workers: list[Any] = [
        context.Process(target=_worker, args=(folder / f"{number}.txt", arguments), daemon=True)
        for number in range(jobs)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    left = {cell.name: cell for cell in cells(config, out) if not cell.done(config)}
    failed = [f"{name}: {cell.read(FAILED).get('error', 'not done')}" for name, cell in left.items()]
    if any(worker.exitcode for worker in workers):
        reasons = [(folder / f"{number}.txt").read_text() for number, w in enumerate(workers) if w.exitcode]
        raise InputError(f"bench: {len(reasons)} of {jobs} processes stopped early: {' '.join(reasons[0].split())}")
    return Pass(tuple(name for name in before if name not in left), tuple(failed))


def _worker(report: Path, arguments: tuple[Any, ...]) -> None:
    """One of several processes; what it could not say to its parent stands in a file."""
    write_atomically(report, "killed")
    try:
        one_process(*arguments)
        write_atomically(report, "done")
    except KeyboardInterrupt:
        sys.exit(130)  # the parent was told too
    except BaseException as error:
        write_atomically(report, f"{type(error).__name__}: {error}")
        raise
