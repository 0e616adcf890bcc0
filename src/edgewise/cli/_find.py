"""`edgewise find`, and the methods that it can run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Exit, Option

import edgewise as ew
from edgewise.cli import _complete, _nothing, _show
from edgewise.cli import _options as options
from edgewise.cli import _transcoder_inputs as inputs
from edgewise.cli._common import (
    CONSTANTS,
    cache_size,
    check_task,
    load,
    load_circuit,
    load_scores,
    make_task,
    ranks_of,
    refuse_drawing,
    torch_type,
)
from edgewise.cli._configuration import configurable
from edgewise.cli._print import line
from edgewise.cli._tasks import warn_if_unable
from edgewise.runs import record_of

_DEFAULT = "the method's own by default"
_OF_METHOD = ("sparsity", "seed", "preset", "settings", "steps", "batch_size", "points", "quadrature", "threshold")
_OF_METHOD += ("pairs", "methods")  # the options that become a method's settings
AblationName = Literal["interchange", "zero", "mean", "mean-positional", "optimal"]


@configurable(lambda method_name, **options: _settings(method_name, **{name: options[name] for name in _OF_METHOD}))
def find(
    model: options.ModelName = "smollm2-135m",
    task: options.TaskName = "ioi",
    method_name: Annotated[
        str,
        Option("--method", help="The method; `edgewise methods` lists them all.", autocompletion=_complete.methods),
    ] = "ranking",
    sparsity: Annotated[
        float | None, Option(help="1 − kept edges / all edges. Default: 0.98, which keeps 2 %.")
    ] = None,
    out: options.Out = Path("runs/circuit"),
    settings: Annotated[
        list[str] | None,
        Option(
            "--set", help="A setting of the method, name=value; may be repeated. `edgewise methods NAME` lists them."
        ),
    ] = None,
    preset: Annotated[
        str,
        Option(
            help="Named settings: default; for ranking also quick and mib, for edge-pruning paper, the published ones."
        ),
    ] = "default",
    start: Annotated[
        Path | None,
        Option(help="Start from these scores: a circuit.safetensors of `find`, or a file of `Scores.save`."),
    ] = None,
    steps: Annotated[int | None, Option(help=f"Steps of a learned method; {_DEFAULT}.")] = None,
    batch_size: Annotated[int | None, Option(help=f"Examples at a time; {_DEFAULT}.")] = None,
    points: Annotated[int | None, Option(help="Quadrature points of a method that integrates gradients.")] = None,
    quadrature: Annotated[str | None, Option(help="Where these points lie: gauss-legendre, left, right, …")] = None,
    threshold: Annotated[
        float | None, Option(help="For acdc: remove an edge if the loss rises by less than this. It decides the size.")
    ] = None,
    pairs: Annotated[int | None, Option(help="Use only the first so many training pairs.")] = None,
    methods: Annotated[str | None, Option(help="For ensemble: the methods to combine, between commas.")] = None,
    train: options.TrainPairs = None,
    validation: options.ValidationPairs = None,
    test: options.TestPairs = None,
    seed: Annotated[int, Option(help="Seed of the method, and of the pairs of a built-in task or templates.")] = 0,
    ablation: Annotated[
        AblationName,
        Option(
            help="What removed edges carry. Means are taken over the training prompts; optimal constants are learned "
            "with the masks."
        ),
    ] = "interchange",
    embeddings: options.Embeddings = "joint",
    kv: options.KeyValue = "physical",
    bos: options.Bos = None,
    positions: Annotated[bool, Option("--positions", help="Give each span of the prompts its own edges.")] = False,
    transcoders: inputs.Sources = None,
    exclude_special: inputs.ExcludeSpecial = None,
    features_per_layer: Annotated[
        int | None,
        Option(
            help="With --transcoders: how many features of each to use; 32 if none. Those with the largest effects are "
            "taken."
        ),
    ] = None,
    neurons: inputs.Neurons = 0,
    error: inputs.ErrorPolicy = "scored",
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    memory: options.Memory = "default",
    matmul: options.Matmul = "highest",
    cache: options.Cache = 1.0,
    offload: options.Offload = None,
    share: options.Share = "examples",
    log: options.Log = None,
    force: Annotated[
        bool, Option("--force", help="Start anew, in the place of another run's circuit and checkpoint in OUT.")
    ] = False,
) -> None:
    """Find a circuit and write it to OUT/circuit.safetensors; under torchrun, on all its processes."""
    record = ew.discovery.method(method_name, "--method")
    given: dict[str, Any] = {"steps": steps, "batch_size": batch_size, "points": points, "quadrature": quadrature}
    given |= {"threshold": threshold, "pairs": pairs, "methods": methods}
    config = _settings(method_name, sparsity=sparsity, seed=seed, preset=preset, settings=settings, **given)
    _check_able(record, config, positions, ablation, start)
    _check_share(record, share)
    cache_bytes = cache_size(cache)
    apart = inputs.Apart(transcoders, features_per_layer, neurons, error)
    apart.check(record, config, ablation)
    check_task(task)
    refuse_drawing(task, {"--train": train, "--validation": validation, "--test": test})
    ew.runs.check_writable(out)
    held = None if force else _held(out / "circuit.safetensors")
    begin = None if start is None else load_scores(start)
    ranks = ranks_of(device)
    features = inputs.read(transcoders, exclude_special)  # the engine moves what it needs of them
    loaded = load(model, device, dtype, offload)
    longest, sizes = loaded.parts.n_positions, {"train": train, "validation": validation, "test": test}
    examples = make_task(task, loaded.tokenizer, sizes, seed, bos, longest)
    if not len(examples.train):
        raise ew.InputError(f"--task {task!r}: no pair is in the split train, to find a circuit on; give some")
    if positions and not examples.span_names:
        examples = ew.tasks.grouped_by_changes(examples)
    chosen, choice = apart.choose(loaded, examples, features, ablation)
    graph = loaded.graph(embeddings, kv, examples.span_names if positions else (), **chosen)
    choices: dict[str, Any] = {"memory": memory, "dtype": torch_type(dtype, device), "matmul": matmul}
    choices |= {"transcoders": features, "cache_bytes": cache_bytes, "ranks": ranks, "share": share}
    engine = ew.discovery.engine_under(loaded, examples, ablation, graph, **choices)
    _show.header(loaded, engine, examples)
    asked = ew.discovery.method_record(record.name, config)
    if held is not None:
        wanted = ew.discovery.provenance(engine, examples, {}) | {"asked": asked}
        _check_same(out / "circuit.safetensors", held, wanted)
    warn_if_unable(engine, examples)
    run = ew.RunOptions(out=out, resume=not force, log=tuple(each.value for each in log or ()))
    found = ew.discovery.run_method(record, engine, examples, config, options=run, start=begin)
    scores = found if isinstance(found, ew.Scores) else None
    if isinstance(found, ew.Scores):
        found = found.at(size_of(sparsity), actual=True, absolute=record.absolute)
    if choice:
        found = replace(found, provenance=found.provenance | {"candidates": choice})
    found = replace(found, provenance=found.provenance | {"asked": asked})
    carried = engine.constants if engine.ablation.takes_constants else None
    if carried is not None:  # as they are now, if they were learned
        found = replace(found, provenance=found.provenance | {"constants": ew.runs.tensor_hash(*carried.tensors())})
    if ranks.rank == 0:
        if carried is not None:
            ew.save_constants(engine, out / CONSTANTS)
        found.save(out / "circuit.safetensors")
    _show.found(found, out / "circuit.safetensors")
    _show.notes(_nothing.no_edges(found, scores, record) + _nothing.like_the_empty(engine, found, examples, "train"))
    if run.log and ranks.rank == 0:
        _log_picture(found, out, run.log)
    if "stopped" in found.provenance["method"]:
        raise Exit(130)  # what follows in a script should not go on with half a circuit


def _log_picture(found: ew.Circuit, out: Path, logs: tuple[str, ...]) -> None:
    """Show the circuit in the logs of its run; the result is there by now, so that nothing may fail here."""
    try:
        ew.draw(found, out / "circuit.png")
        ew.runs.log_pictures(logs, out, {"circuit": out / "circuit.png"})
    except ew.InputError as error:
        _show.notes([f"note: no picture in the log: {error}"])


def _held(path: Path) -> ew.Circuit | None:
    """The circuit that is there already. Raises `InputError` for another file of that name."""
    return load_circuit(path) if path.exists() else None


def _check_same(path: Path, held: ew.Circuit, wanted: dict[str, Any]) -> None:
    """Refuse to write over the circuit of another run: of another model, task, graph, ablation, method or of other
    settings; another size of the same scores is the same run. Raises `InputError`.
    """
    there, new = _told_apart(held.provenance), _told_apart(json.loads(json.dumps(wanted)))
    older = {"precision"} if there["precision"] is None else set()  # which 0.1 did not record
    if other := [name for name in new if name not in older and there[name] != new[name]]:
        raise ew.InputError(
            f"{path}: a circuit of another run is there ({there['method'] or '?'}; other {', '.join(other)}); choose "
            "another --out, or --force to replace it"
        )


def _told_apart(said: dict[str, Any]) -> dict[str, Any]:
    """What tells runs apart, of a circuit's provenance: the method as it was asked for, since some methods fill in
    settings by themselves and explain another metric than the task's.
    """
    asked, task, engine = (record_of(said, name) for name in ("asked", "task", "engine"))
    model = record_of(said, "model")
    return {
        "model": model.get("weights_hash"),
        "precision": [model.get("dtype"), engine.get("dtype"), engine.get("matmul")] if engine else None,
        "task": {name: value for name, value in task.items() if name not in ("loss", "metric")},
        "graph": said.get("graph"),
        "ablation": record_of(said, "ablation").get("kind"),
        "method": asked.get("name", record_of(said, "method").get("name")),
        "settings": asked.get("config"),
    }


def _check_able(
    record: ew.Method, config: ew.discovery.MethodConfig, positions: bool, ablation: str, start: Path | None
) -> None:
    """Refuse options that a method has no use for, or a missing one that it needs. Raises `InputError`."""
    if positions:
        ew.discovery.check_able(record, config, "positions", "--positions")
    if ablation == "optimal" and not record.optimal:
        able = ", ".join(name for name, each in ew.discovery.methods().items() if each.optimal)
        raise ew.InputError(f"--ablation optimal: constants are learned with masks, by {able}")
    if start is None and record.start == "must":
        raise ew.InputError(f"--method {record.name}: it starts from scores; give the ranking's circuit as --start")
    if start is not None and record.start == "no":
        raise ew.InputError(f"--start: {record.name} takes no scores to start from; leave it out")


def _check_share(record: ew.Method, share: str) -> None:
    """Refuse to share tokens where a method does not run under masks alone. Raises `InputError`."""
    if share == "tokens" and not record.learns:
        able = ", ".join(name for name, each in ew.discovery.methods().items() if each.learns)
        raise ew.InputError(f"--share tokens: {record.name} shares out examples or candidates; tokens are for {able}")


def _settings(
    method_name: str,
    *,
    sparsity: float | None,
    seed: int,
    preset: str,
    settings: list[str] | None,
    methods: str | None,
    **given: Any,
) -> ew.discovery.MethodConfig:
    """A method's settings from `find`'s options, checked before anything is loaded. Raises `InputError`."""
    given["methods"] = None if methods is None else tuple(methods.split(","))
    changes = {name: value for name, value in given.items() if value is not None}
    record = ew.discovery.method(method_name, "--method")
    return configure(record, changes, sparsity=sparsity, seed=seed, preset=preset, texts=settings or [])


def configure(
    record: ew.Method, changes: dict[str, Any], *, sparsity: float | None, seed: int, preset: str, texts: list[str]
) -> ew.discovery.MethodConfig:
    """A method's settings from the options that were given, checked before anything is loaded. Raises `InputError`."""
    if record.sized and sparsity is not None:
        changes = {**changes, "sparsity": sparsity}
    elif record.ladder is not None and sparsity is not None:
        raise ew.InputError(
            f"--sparsity: {record.name} has a {record.ladder.setting}, which decides the size; give that"
        )
    elif not record.sized:
        size_of(sparsity)
    if "seed" in ew.runs.settings_of(record.config):
        changes = {**changes, "seed": seed}
    config = record.configure(changes, preset=preset, texts=texts)
    ew.discovery.members(config)
    return config


def size_of(sparsity: float | None) -> float:
    """`--sparsity` of a method whose scores give circuits of any size. Raises `InputError`."""
    size = 0.98 if sparsity is None else sparsity
    if not 0 < size < 1:
        raise ew.InputError(f"--sparsity {size}: it is 1 − kept edges / all edges, so between 0 and 1; 0.98 keeps 2 %")
    return size


def methods(
    name: Annotated[
        str | None, Argument(help="Show the settings of this method.", autocompletion=_complete.methods)
    ] = None,
    markdown: Annotated[bool, Option("--markdown", help="Print the table of docs/methods.md.")] = False,
) -> None:
    """List the methods that find circuits, or show the settings of one."""
    if markdown:
        line(ew.discovery.methods_table())
    elif name is None:
        for each in ew.discovery.methods().values():
            line(f"{each.name}: {each.summary}")
    else:
        _show.method(ew.discovery.method(name))
