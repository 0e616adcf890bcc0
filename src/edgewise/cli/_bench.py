"""Studies: a bench, and the picture of its table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Exit, Option

import edgewise as ew
from edgewise.cli import _options as options
from edgewise.cli import _show
from edgewise.cli._common import as_typed, cache_size, check_page, own_device, quiet
from edgewise.cli._print import line


def bench(
    config: Annotated[Path, Argument(help="A .yaml file of models, tasks, methods, sizes and seeds.")],
    out: Annotated[Path, Option(help="Folder of all results. What is already done there is skipped.")] = Path(
        "runs/bench"
    ),
    jobs: Annotated[int, Option(help="How many processes to run, each with its own model.")] = 1,
    threads: Annotated[int | None, Option(help="Threads of each process. Default: the cores are shared out.")] = None,
    device: options.Device = "cpu",
    cache: options.Cache = 1.0,
    write: Annotated[Path | None, Option(help="Also write a page (.md) with tables and the figure.")] = None,
    table_only: Annotated[bool, Option("--table-only", help="Run nothing; only gather the results so far.")] = False,
) -> None:
    """Find and judge circuits for many methods, tasks and seeds. Goes on where an earlier run stopped."""
    check_page(write)
    cache_bytes = cache_size(cache)
    asked = ew.bench.BenchConfig.load(config)
    quiet()
    failed: tuple[str, ...] = ()
    if table_only:
        table = ew.bench.gather(asked, out)
    else:
        try:
            table, found = ew.bench.run_bench(
                asked, out, jobs=jobs, threads=threads, device=own_device(device), cache_bytes=cache_bytes
            )
        except KeyboardInterrupt:
            line("interrupted; the same command goes on from there", errors=True)
            raise Exit(130) from None
        failed = found.failed
    line(f"table -> {table}")
    # A bench whose every cell failed has said so, and no page to write.
    empty = (table_only or write is not None) and not ew.bench.BenchTable.load(table).rows
    if empty and not failed:
        _show.notes([f"note: no cell of {config} is done in {out}; give the folder that it ran in, or wait"])
        if write is not None:
            raise ew.InputError(f"{write}: there is nothing to write, since no cell is done")
    if write is not None and not empty:
        given: dict[str, tuple[Any, Any]] = {"--jobs": (jobs, 1), "--threads": (threads, None), "--cache": (cache, 1.0)}
        given["--device"] = (device, "cpu")
        command = as_typed("bench", config, "--out", out, given=given, last=("--write", write))
        ew.report.write_bench(ew.bench.BenchTable.load(table), write, command=command)
        line(f"page -> {write}, {write.with_suffix('.png')}")
    if failed:
        _show.notes([f"failed: {each}" for each in failed])
        sys.exit(1)


def plot(
    table: Annotated[Path, Argument(help="The bench.parquet that bench wrote, or the .json that curve wrote.")],
    out: Annotated[Path, Option(help="The picture to write: .png, .svg or .pdf.")],
    metric: Annotated[str | None, Option(help="The metric to draw. Default: the distance to the model (KL).")] = None,
    linear: Annotated[bool, Option("--linear", help="Use a linear vertical axis.")] = False,
) -> None:
    """Draw faithfulness against size with intervals: one line per method, one panel per task."""
    ew.report.check_path(out)
    if not table.is_file():
        what = "not a curve that `edgewise curve` wrote (no such file)" if table.suffix == ".json" else "no such file"
        raise ew.InputError(f"{table}: {what}; give the bench.parquet that bench wrote, or the .json of curve")
    ew.runs.check_file(out)
    if table.suffix == ".json":
        found = ew.evaluation.SizeCurve.load(table)
        if metric not in (None, found.metric):
            raise ew.InputError(f"--metric {metric}: {table} holds {found.metric} alone")
        ew.draw_curve(found, out, log=not linear and all(point.value > 0 for point in found.points))
    else:
        ew.report.draw_bench(ew.bench.BenchTable.load(table), out, metric=metric, log=not linear)
    line(f"drawn to {out}")
