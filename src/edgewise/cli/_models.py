"""`edgewise models` and `edgewise plan`: which models there are, whether the engine reproduces one, what one needs."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict, replace
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
    dtype: Annotated[Literal["float32", "bf16"], Option(help="Type of the weights and the stack.")] = "float32",
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
    offload: options.Offload = None,
    ranks: Annotated[int, Option(help="Processes that share the batch, under torchrun.")] = 1,
    share: options.Share = "examples",
    fit: Annotated[
        str | None, Option(help="Propose what fits into so much memory of each process, such as 80GB.")
    ] = None,
    measure: Annotated[
        bool, Option("--measure", help="Also say seconds, from rates measured here (a few seconds).")
    ] = (False),
    as_json: options.AsJson = False,
) -> None:
    """Say how much memory and how many operations a training step of a model would take."""
    for option, value in (("--batch", batch), ("--length", length), ("--examples", examples), ("--ranks", ranks)):
        if value is not None and value < 1:
            raise ew.InputError(f"{option} {value}: use at least 1")
    for option, value in (("--neurons", neurons), ("--features", features)):
        if value < 0:
            raise ew.InputError(f"{option} {value}: use at least 0")
    room = None if fit is None else _bytes(fit)
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
    sizes: dict[str, Any] = {"dtype": type_, "examples": examples}
    placement = ew.engine.Placement(device, offload, ranks, share)
    modes = [
        ew.engine.footprint(model, graph, batch, length, placement=placement, memory=memory, **sizes)
        for memory in ("default", "lean")
    ]
    row: dict[str, Any] = {"config": str(config), "edges": graph.n_edges, "batch": batch, "length": length}
    row |= {"dtype": dtype, "offload": offload, "ranks": ranks, "share": share}
    amounts = ("bytes", "total_bytes", "bytes_above_weights", "operations", "total_operations", "traffic")
    by_mode = {mode.memory: {name: getattr(mode, name) for name in amounts} for mode in modes}
    if measure:
        execution = ew.engine.Execution(dtype=type_)
        each = -(-batch // ranks)
        rates = ew.engine.measured_rates(model, graph, each, length, device=device, execution=execution)
        for mode in modes:
            by_mode[mode.memory]["seconds"] = rates.seconds(mode)
    if room is not None:
        row["fit"] = _fitting(model, graph, batch, length, room, replace(placement, offload=None), sizes)
    _show.result(row | {"modes": by_mode}, as_json, _show.footprints, row, modes, by_mode)


def _bytes(text: str) -> int:
    """`80GB` or `24GiB` in bytes. Raises `InputError`."""
    found = re.fullmatch(r"([\d.]+) *(GB|GiB)", text, re.IGNORECASE)
    unit = {"gb": 10**9, "gib": 2**30}
    try:
        size = 0 if found is None else int(float(found[1]) * unit[found[2].lower()])
    except ValueError:
        size = 0
    if not size:
        raise ew.InputError(f"--fit {text!r}: give memory such as 80GB or 24GiB")
    return size


def _fitting(
    model: ew.Model,
    graph: ew.Graph,
    batch: int,
    length: int,
    room: int,
    placement: ew.engine.Placement,
    sizes: dict[str, Any],
) -> dict[str, Any] | None:
    """The first setting that fits, from the fastest on: without offloading, in `default`, then `lean` memory, at the
    batch asked for; then with layers offloaded; then with smaller batches. None if nothing does.
    """
    where: Any = "disk" if placement.device == "cpu" else "cpu"
    each = batch
    while each:
        for offload in (None, where):
            for memory in ("default", "lean"):
                own = replace(placement, offload=offload)
                mode = ew.engine.footprint(model, graph, each, length, placement=own, memory=memory, **sizes)
                if mode.total_bytes <= room:
                    found = {"memory": memory, "offload": offload, "batch": each, "ranks": placement.ranks}
                    return found | {"total_bytes": mode.total_bytes}
        each //= 2
    return None
