"""Circuits side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

import edgewise as ew
from edgewise.cli import _options as options
from edgewise.cli import _show
from edgewise.cli import _transcoder_inputs as inputs
from edgewise.cli._common import check_task, engine_of, load_circuit, load_for, task_of
from edgewise.runs import record_of


def compare(
    circuits: Annotated[list[Path], Argument(help="Two or more circuits.")],
    task: Annotated[
        list[str] | None, Option(help="Judge them on this task or file; may be repeated. Default: their own tasks.")
    ] = None,
    model: Annotated[str | None, Option(help="The model. Default: the first circuit's own.")] = None,
    split: options.SplitName = "test",
    transcoders: inputs.Sources = None,
    out: Annotated[Path | None, Option(help="Also write the numbers to this .json file.")] = None,
    device: options.Device = "cpu",
    as_json: options.AsJson = False,
) -> None:
    """Count the edges and nodes that circuits share, and judge each, their intersection and their union on each task.
    Graphs may differ in their features or neurons; there is then no intersection and no union.
    """
    for name in task or []:
        check_task(name)
    if len(circuits) < 2:
        raise ew.InputError(f"compare: {len(circuits)} circuit; give at least two")
    if out is not None:
        ew.runs.check_file(out)
    found = [load_circuit(path) for path in circuits]
    features = inputs.for_circuits(found, transcoders)
    loaded = load_for(found[0], model, device)
    if task:
        tasks = [task_of(found[0], loaded.tokenizer, name, longest=loaded.parts.n_positions) for name in task]
    else:
        sources = {str(record_of(each.provenance, "task")): record_of(each.provenance, "task") for each in found}
        tasks = [ew.tasks.from_provenance(source, loaded.tokenizer) for source in sources.values()]
    tasks = _told_apart(tasks)
    for each in found:
        _show.compare_weights(each, loaded)
    with _show.working("judging the circuits"):
        named = dict(zip(_names(circuits), found, strict=True))
        result = ew.compare(_judge_of(circuits, found, loaded), named, tasks, transcoders=features, split=split)
    if out is not None:
        result.save(out)
    _show.result(result, as_json, _show.comparison)


def _judge_of(paths: list[Path], circuits: list[ew.Circuit], model: ew.Model) -> ew.Model | ew.Engine:
    """The model, or an engine with the constants that lie beside all circuits alike. Raises `InputError`."""
    if any(each.ablation_kind in ("interchange", "zero", "mixed") for each in circuits):
        return model
    engine = engine_of(paths[0], circuits[0], model)
    for path, circuit in zip(paths[1:], circuits[1:], strict=True):
        both = [one.constants for one in (engine, engine_of(path, circuit, model))]
        mine, other = (() if each is None else each.tensors() for each in both)
        if len(mine) != len(other) or not all(a.equal(b) for a, b in zip(mine, other, strict=True)):
            raise ew.InputError(
                f"{path}: its constants are not those of {paths[0]}, so the two cannot be judged alike; give circuits "
                "that were found with the same"
            )
    return engine


def _told_apart(tasks: list[ew.tasks.Task]) -> list[ew.tasks.Task]:
    """Tasks with names of their own: by their seeds where those differ (two runs' pairs), else by number."""
    keys = [(task.name, task.provenance.get("arguments", {}).get("seed")) for task in tasks]
    names = [name for name, _ in keys]
    marks = [f"seed {key[1]}" if keys.count(key) == 1 else f"number {i + 1}" for i, key in enumerate(keys)]
    return [
        replace(task, name=f"{name} ({mark})") if names.count(name) > 1 else task
        for task, name, mark in zip(tasks, names, marks, strict=True)
    ]


def _names(paths: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [path.with_suffix("").parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            shared = {part[-1] for part in parts} if length > 1 else set()
            return ["/".join(part[-length:-1]) or part[-1] for part in parts] if len(shared) == 1 else names
    raise ew.InputError(f"compare: {paths[0]} is given twice; give different circuits")
