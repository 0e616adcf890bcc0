"""The commands."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from edgewise._errors import InputError
from edgewise.cli import _features, _show, _study, _tasks, _tracr, _transcoder
from edgewise.cli._bench import bench, plot
from edgewise.cli._common import cache_size, check_task, load, make_task, one_of, parse_sparsities, quiet
from edgewise.cli._compare import compare
from edgewise.cli._exchange import export_circuit, import_circuit
from edgewise.cli._methods import LEARNED, METHODS, Settings, check_positions, engine_of, find_circuit, make_engine
from edgewise.cli._mib import mib
from edgewise.runs import check_writable

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
models_app = typer.Typer(
    no_args_is_help=True, help="Models: which are supported, and whether the engine reproduces one."
)
app.add_typer(models_app, name="models")
app.add_typer(_study.app, name="study")
app.add_typer(_tasks.app, name="tasks")
app.add_typer(_tracr.app, name="tracr")
app.add_typer(_transcoder.app, name="transcoder")
app.command()(bench)
app.command()(plot)
app.command()(mib)
app.command()(compare)
app.command("import")(import_circuit)
app.command("export")(export_circuit)

ModelName = Annotated[str, typer.Option("--model", help="smollm2-135m, a hub id, a local directory, or tracr:reverse.")]
TaskName = Annotated[
    str, typer.Option("--task", help="A built-in task (see `edgewise tasks list`) or a file of pairs.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the results; a run that was cut short resumes from it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
DEMO_STEPS, DEMO_TEST = 100, 128  # of the ranking, and pairs to judge on: a demonstration is to take five minutes


def main() -> None:
    """Run the command line; what the user got wrong is one line and exit status 2, a machine too small one and 1."""
    try:
        app()
    except InputError as error:
        sys.exit(_show.refusal(error))
    except (RuntimeError, MemoryError) as error:
        if not _show.out_of_memory(error):
            raise
        sys.exit(1)


@app.command()
def find(
    model: ModelName = "smollm2-135m",
    task: TaskName = "ioi",
    method: Annotated[str, typer.Option(help=f"{', '.join(METHODS)} (docs/methods.md).")] = "ranking",
    sparsity: Annotated[float, typer.Option(help="1 − kept edges / all edges; 0.98 keeps 2 %.")] = 0.98,
    out: Out = Path("runs/circuit"),
    preset: Annotated[str, typer.Option(help="edge-pruning: default, or paper (the published settings).")] = "default",
    steps: Annotated[int | None, typer.Option(help="Of a learned method; its own if not given.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples per step; the preset's if not given.")] = None,
    train: Annotated[int, typer.Option(help="Training pairs of a built-in task.")] = 200,
    validation: Annotated[int, typer.Option(help="Validation pairs of a built-in task.")] = 200,
    test: Annotated[int, typer.Option(help="Test pairs of a built-in task.")] = 256,
    seed: Annotated[int, typer.Option(help="Of the method, and of a built-in task's pairs.")] = 0,
    points: Annotated[int, typer.Option(help="Quadrature points of a method that integrates gradients.")] = 5,
    quadrature: Annotated[
        str, typer.Option(help="gauss-legendre, left, right, midpoint or trapezoid.")
    ] = "gauss-legendre",
    threshold: Annotated[float, typer.Option(help="acdc: cut what raises the loss by less; decides the size.")] = 0.01,
    pairs: Annotated[int, typer.Option(help="acdc and exact: use this many training pairs.")] = 16,
    of: Annotated[str, typer.Option(help="ensemble: of which methods' ranks.")] = "eap-ig,mask-ig,relevance",
    ablation: Annotated[
        str,
        typer.Option(
            help="What removed edges carry: interchange, zero, or optimal (constants learned with the masks)."
        ),
    ] = "interchange",
    embeddings: Annotated[str, typer.Option(help="joint, split, or off (embeddings are not writers).")] = "joint",
    kv: Annotated[str, typer.Option(help="Key and value readers: physical, or expanded to query heads.")] = "physical",
    positions: Annotated[
        bool, typer.Option("--positions", help="Give each span of the prompts edges of its own.")
    ] = False,
    transcoders: _features.Sources = None,
    features_per_layer: Annotated[
        int, typer.Option(help="With --transcoders: how many features of each, those with the largest effects.")
    ] = 32,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
    dtype: Annotated[
        str | None,
        typer.Option(help="float32 or bf16, of weights and stack; unset: weights as stored, stack float32."),
    ] = None,
    memory: Annotated[str, typer.Option(help="default, or lean: less memory, more time.")] = "default",
    matmul: Annotated[
        str, typer.Option(help="highest; or medium: float32 products as fast as the machine can, maybe in bfloat16.")
    ] = "highest",
    cache: Annotated[
        float, typer.Option(help="GiB kept of what depends on the pairs alone: faster where many are seen again.")
    ] = 1.0,
    log: Annotated[list[str] | None, typer.Option(help="Also log to tensorboard or wandb (if installed).")] = None,
) -> None:
    """Find a circuit and write it to OUT/circuit.safetensors."""
    import edgewise as ew

    settings = Settings(method, sparsity, preset, steps, batch_size, seed, points, quadrature, threshold, pairs, of)
    if positions:
        check_positions(settings)
    one_of("--ablation", ablation, ("interchange", "zero", "optimal"))
    if ablation == "optimal" and method not in LEARNED:
        raise InputError(f"--ablation optimal: constants are learned with masks, by {', '.join(LEARNED)}")
    one_of("--embeddings", embeddings, ("joint", "split", "off"))
    one_of("--kv", kv, ("physical", "expanded"))
    one_of("--memory", memory, ("default", "lean"))
    one_of("--matmul", matmul, ("highest", "high", "medium"))
    one_of("--dtype", dtype, (None, *_DTYPES))
    cache_bytes = cache_size(cache)
    _features.check(transcoders, features_per_layer, method, of, ablation)
    check_task(task)
    check_writable(out)
    type_ = None if dtype is None else _DTYPES[dtype]
    features = _features.read(transcoders)
    loaded = load(model, device, type_)
    examples = make_task(task, loaded.tokenizer, train, validation, test, seed)
    if not len(examples.train):
        raise InputError(f"--task {task!r}: no pair is in the split train, to find a circuit on; give some")
    if positions and not examples.span_names:
        examples = ew.tasks.grouped_by_changes(examples)
    chosen = _features.choose(loaded, examples, features, features_per_layer, ablation)
    graph = loaded.graph(embeddings, kv, examples.span_names if positions else (), chosen)  # pyright: ignore[reportArgumentType] (checked there)
    choices: dict[str, Any] = {"memory": memory, "dtype": type_, "matmul": matmul, "transcoders": features}
    choices["cache_bytes"] = cache_bytes
    engine = make_engine(loaded, graph, ablation, examples, **choices)
    _show.header(loaded, engine, examples)
    _tasks.warn_if_unable(engine, examples)
    options = ew.RunOptions(out=out, log=tuple(log or ()))
    circuit = find_circuit(engine, examples, settings, options)
    if ablation == "optimal":
        ew.save_constants(engine, out / "constants.safetensors")
    circuit.save(out / "circuit.safetensors")
    _show.found(circuit, out / "circuit.safetensors")
    if "stopped" in circuit.provenance["method"]:
        raise typer.Exit(130)  # what follows in a script should not go on with half a circuit


@app.command()
def evaluate(
    circuit: Annotated[Path, typer.Argument(help="The circuit.safetensors that find wrote.")],
    model: Annotated[str | None, typer.Option(help="The model; the circuit's own if not given.")] = None,
    task: Annotated[
        str | None, typer.Option(help="Another task or .jsonl file; the circuit's own if not given.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    test: Annotated[int, typer.Option(help="Test pairs, if --task names a built-in task.")] = 256,
    seed: Annotated[int, typer.Option(help="Of the pairs, if --task names a built-in task.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Examples at a time; it does not change the numbers.")] = 32,
    baselines: Annotated[str, typer.Option(help="Any of random,eap; none for none.")] = "random,eap",
    transcoders: _features.Sources = None,
    metrics: Annotated[
        str | None, typer.Option(help="Which, such as kl,reverse_kl,js,kendall_tau; the task's own if not given.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
    dtype: Annotated[str | None, typer.Option(help="Of the weights: float32 or bf16; as stored if unset.")] = None,
    memory: Annotated[str, typer.Option(help="default, or lean: less memory, more time.")] = "default",
    as_json: AsJson = False,
) -> None:
    """Judge a circuit on examples it was not found on; also writes evaluation.json beside it (evaluation-TASK.json on
    another task).
    """
    import edgewise as ew
    from edgewise.tasks import metric_function

    one_of("--split", split, ("train", "validation", "test"))
    one_of("--memory", memory, ("default", "lean"))
    one_of("--dtype", dtype, (None, *_DTYPES))
    if task is not None:
        check_task(task)
    asked = None if metrics is None else tuple(metrics.split(","))
    for name in asked or ():
        metric_function(name)
    loaded_circuit = ew.Circuit.load(circuit)
    features = _features.for_circuit(loaded_circuit, transcoders)
    source = loaded_circuit.provenance.get("model", {})
    type_ = None if dtype is None else _DTYPES[dtype]
    loaded = load(model or str(source.get("id", "")), device, type_)
    engine = engine_of(circuit, loaded_circuit, loaded, memory=memory, dtype=type_, transcoders=features)
    if task is None:
        pairs = ew.tasks.from_provenance(loaded_circuit.provenance.get("task", {}), loaded.tokenizer)
    else:
        pairs = make_task(task, loaded.tokenizer, 200, 200, test, seed)
    wanted = tuple(name for name in baselines.split(",") if name and name != "none")
    with _show.working("judging the circuit, the full model and the baselines"):
        result = ew.evaluate(
            engine, loaded_circuit, pairs, split=split, batch_size=batch_size, baselines=wanted, metrics=asked
        )
    other = source.get("weights_hash") != loaded.identity["weights_hash"]
    stem = "evaluation" + (f"-{Path(task).stem}" if task else "") + ("-other-weights" if other else "")
    result.save(circuit.parent / f"{stem}.json")
    _show.compare_weights(source, loaded.identity)
    if as_json:
        print(result.to_json())
    else:
        _show.evaluation(result)


@app.command()
def draw(
    circuit: Annotated[Path, typer.Argument(help="The circuit.safetensors that find wrote.")],
    out: Annotated[Path, typer.Argument(help="Where to draw it: .png, .svg or .pdf.")],
) -> None:
    """Draw a circuit."""
    import edgewise as ew

    ew.draw(ew.Circuit.load(circuit), out, signed=False)
    print(f"drawn to {out}")


@app.command()
def curve(
    circuit: Annotated[
        Path, typer.Argument(help="The circuit.safetensors that find wrote; its scores give the sizes.")
    ],
    out: Annotated[Path, typer.Argument(help="Where to draw it: .png, .svg or .pdf; the numbers go beside it.")],
    sparsities: Annotated[str, typer.Option(help="The sizes, as actual sparsities.")] = "0.9,0.95,0.98,0.99,0.995",
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    model: Annotated[str | None, typer.Option(help="The model; the circuit's own if not given.")] = None,
    transcoders: _features.Sources = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Judge and draw the circuits of every size that one run's scores give: KL(full ‖ circuit) against edges."""
    import edgewise as ew
    from edgewise.report import check_path

    one_of("--split", split, ("train", "validation", "test"))
    sizes = parse_sparsities(sparsities)
    check_path(out)
    check_writable(out.parent)
    loaded_circuit = ew.Circuit.load(circuit)
    if loaded_circuit.scores is None:
        raise InputError(f"{circuit}: this circuit has no scores, so there is no other size of it")
    features = _features.for_circuit(loaded_circuit, transcoders)
    method = loaded_circuit.provenance.get("method", {})
    absolute = method.get("selection") == "absolute"
    scores = ew.Scores(loaded_circuit.graph, loaded_circuit.scores, loaded_circuit.provenance)
    circuits = [scores.at(size, actual=True, absolute=absolute) for size in sizes]
    source = loaded_circuit.provenance.get("model", {})
    loaded = load(model or str(source.get("id", "")), device)
    _show.compare_weights(source, loaded.identity)
    engine = engine_of(circuit, loaded_circuit, loaded, transcoders=features)
    pairs = ew.tasks.from_provenance(loaded_circuit.provenance.get("task", {}), loaded.tokenizer)
    name = str(method.get("name", "circuit"))
    with _show.working("judging the circuits"):
        found = ew.size_curve(engine, {name: circuits}, pairs, split=split)
    found.save(out.with_suffix(".json"))
    ew.draw_curve(found, out)
    if as_json:
        print(found.to_json())
    else:
        _show.size_curve(found)
        print(f"drawn to {out}")


@app.command()
def plan(
    config: Annotated[Path, typer.Option("--config", help="A model's config.json; no weights are needed.")],
    batch: Annotated[int, typer.Option("--batch", help="Pairs per step.")] = 32,
    length: Annotated[int, typer.Option("--length", help="Tokens per prompt.")] = 20,
    dtype: Annotated[str, typer.Option(help="Of the weights and the stack: float32 or bf16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda; chunks of tokens are longer on a GPU.")] = "cpu",
    embeddings: Annotated[str, typer.Option(help="joint, split, or off (embeddings are not writers).")] = "joint",
    kv: Annotated[str, typer.Option(help="Key and value readers: physical, or expanded to query heads.")] = "physical",
    examples: Annotated[
        int | None, typer.Option(help="Training examples whose constants are kept; the batch's if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a training step of a model would need, in memory and operations, before there is any."""
    from edgewise.engine import footprint
    from edgewise.models import from_config

    one_of("--dtype", dtype, tuple(_DTYPES))
    one_of("--device", device, ("cpu", "cuda"))
    one_of("--embeddings", embeddings, ("joint", "split", "off"))
    one_of("--kv", kv, ("physical", "expanded"))
    for option, value in (("--batch", batch), ("--length", length), ("--examples", examples)):
        if value is not None and value < 1:
            raise InputError(f"{option} {value}: use at least 1")
    type_ = _DTYPES[dtype]
    quiet()
    model = from_config(config, type_)
    longest = int(getattr(model.module.config, "max_position_embeddings", length))  # pyright: ignore[reportAttributeAccessIssue] (untyped)
    if length > longest:
        raise InputError(f"--length {length}: the model has {longest} positions")
    graph = model.graph(embeddings, kv)  # pyright: ignore[reportArgumentType] (checked there)
    modes = [
        footprint(model, graph, batch, length, memory=memory, dtype=type_, device=device, examples=examples)  # pyright: ignore[reportArgumentType] (checked there)
        for memory in ("default", "lean")
    ]
    row = {"config": str(config), "edges": graph.n_edges, "batch": batch, "length": length, "dtype": dtype}
    if as_json:
        row["modes"] = {
            mode.memory: {
                "bytes": mode.bytes,
                "total_bytes": mode.total_bytes,
                "bytes_above_weights": mode.bytes_above_weights,
                "operations": mode.operations,
                "total_operations": mode.total_operations,
            }
            for mode in modes
        }
        print(json.dumps(row))
    else:
        _show.footprints(row, modes)


@app.command()
def demo(out: Out = Path("runs/demo")) -> None:
    """Find, judge and draw the indirect-object circuit of SmolLM2-135M at 98 % sparsity, and the curve over sizes;
    everything from the seed.
    """
    find(out=out, steps=DEMO_STEPS, test=DEMO_TEST)
    evaluate(out / "circuit.safetensors")
    curve(out / "circuit.safetensors", out / "curve.png")
    for suffix in ("png", "svg"):
        draw(out / "circuit.safetensors", out / f"circuit.{suffix}")


@models_app.command("check")
def check_model(
    model: Annotated[str, typer.Argument(help="smollm2-135m, a hub id, or a local directory.")],
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Compare the engine with the model's own module, with all masks 1 and with all masks 0."""
    from edgewise.engine import check
    from edgewise.models import load as load_unchecked

    quiet()
    loaded = load_unchecked(model, device=device)
    result = check(loaded)
    row: dict[str, Any] = {"model": model, "family": loaded.family, **asdict(result), "passed": result.passed}
    if as_json:
        print(json.dumps(row))
    else:
        _show.check(row)
    if not result.passed:
        sys.exit(1)


@models_app.command("list")
def list_models() -> None:
    """The models that need no hub, and the supported families."""
    from edgewise.models import DEFAULT_MODELS, SHIPPED, supported

    for name, description in (DEFAULT_MODELS | SHIPPED).items():
        print(f"{name}: {description}")
    print(f"families: {', '.join(supported())}")
