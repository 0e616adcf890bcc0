"""`edgewise models` and `edgewise plan`: which models there are, whether the engine reproduces one, what one needs."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option, Typer

import edgewise as ew
from edgewise.cli import _options as options
from edgewise.cli import _show
from edgewise.cli._common import quiet, torch_type
from edgewise.cli._print import line

app = Typer(no_args_is_help=True, help="List supported models, and check that the engine reproduces one.")


@app.command("check")
def check_model(
    model: Annotated[str, Argument(help="smollm2-135m, a hub id, a directory, or a GGUF file.")],
    device: options.Device = "cpu",
    as_json: options.AsJson = False,
) -> None:
    """Compare the engine with the model's own module, with all edges kept and with none."""
    quiet()
    loaded = ew.models.load(model, device=device)
    result = ew.engine.check(loaded, own=True)
    row: dict[str, Any] = {"model": model, "family": loaded.family, **asdict(result)}
    row |= {"allowed": result.allowed, "passed": result.passed}
    _show.result(row, as_json, _show.check)
    if not result.passed:
        sys.exit(1)


@app.command("list")
def list_models() -> None:
    """List the models that need no hub, and the supported families."""
    for name, description in (ew.models.DEFAULT_MODELS | ew.models.SHIPPED).items():
        line(f"{name}: {description}")
    line(f"families: {', '.join(ew.models.supported())}")


def plan(
    config: Annotated[Path, Option(help="A model's config.json; no weights are needed.")],
    batch: Annotated[int, Option(help="Pairs per step.")] = 32,
    length: Annotated[int, Option(help="Tokens per prompt.")] = 20,
    dtype: Annotated[options.DtypeName, Option(help="Type of the weights and the stack.")] = "float32",
    device: Annotated[
        Literal["cpu", "cuda"], Option(help="Where the step would run. Chunks of tokens are longer on a GPU.")
    ] = "cpu",
    embeddings: options.Embeddings = "joint",
    kv: options.KeyValue = "physical",
    neurons: Annotated[int, Option(help="So many neurons of each MLP in its place; 0 for none.")] = 0,
    features: Annotated[int, Option(help="So many features of a transcoder in each MLP's place; 0 for none.")] = 0,
    examples: Annotated[
        int | None, Option(help="For how many training examples constants are kept. Default: those of the batch.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Say how much memory and how many operations a training step of a model would take."""
    for option, value in (("--batch", batch), ("--length", length), ("--examples", examples)):
        if value is not None and value < 1:
            raise ew.InputError(f"{option} {value}: use at least 1")
    for option, value in (("--neurons", neurons), ("--features", features)):
        if value < 0:
            raise ew.InputError(f"{option} {value}: use at least 0")
    if not config.exists():
        raise ew.InputError(f"--config {config}: no such file; give a model's config.json")
    quiet()
    type_ = torch_type(dtype)
    model = ew.models.from_config(config, type_)
    longest = int(getattr(getattr(model.module, "config", None), "max_position_embeddings", length))
    if length > longest:
        raise ew.InputError(f"--length {length}: the model has {longest} positions")
    layers = range(len(model.parts.layers))
    in_each = (dict.fromkeys(layers, range(n)) if n else None for n in (features, neurons))
    graph = model.graph(embeddings, kv, (), *in_each)
    modes = [
        ew.engine.footprint(model, graph, batch, length, memory=memory, dtype=type_, device=device, examples=examples)
        for memory in ("default", "lean")
    ]
    row = {"config": str(config), "edges": graph.n_edges, "batch": batch, "length": length, "dtype": dtype}
    amounts = ("bytes", "total_bytes", "bytes_above_weights", "operations", "total_operations")
    by_mode = {mode.memory: {name: getattr(mode, name) for name in amounts} for mode in modes}
    _show.result(row | {"modes": by_mode}, as_json, _show.footprints, row, modes)
