"""`edgewise transcoder`: train, judge, compare, cache and convert."""

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Exit, Option, Typer

import edgewise as ew
from edgewise.cli import _options as options
from edgewise.cli import _show
from edgewise.cli import _show_transcoder as show
from edgewise.cli._common import check_free, load
from edgewise.cli._configuration import configurable
from edgewise.cli._print import line, stopping
from edgewise.cli._transcoder_inputs import Context, Files, Limit, OwnModel, Text, model_of, read, text_rows

_SEVERAL = {
    "default": ("topk:8", "topk:16", "topk:32", "topk:64"),
    "paper": ("relu@3.5e-5", "relu@7e-5", "relu@1.4e-4", "relu@2.8e-4"),
}
"""The sparsities of a sweep, by preset."""
app = Typer(no_args_is_help=True, help="Train, judge and convert transcoders, and read their features.")

Layers = Annotated[str, Option("--layers", help="The layers, such as 8,12 or 4-9, or all.")]
Reads = Annotated[
    str | None,
    Option("--reads", help="The vector that features read: mlp_in (the default), mlp_normalized or resid_mid."),
]
Precision = Annotated[
    Literal["bfloat16", "float32"] | None,
    Option(
        help="bfloat16 (for proposals and the language model) or float32. Default: the faster one on this processor."
    ),
]
HoldOut = Annotated[
    float, Option("--hold-out", help="Share of the rows, at the end of the text, that is kept for judging.")
]


@dataclass(frozen=True)
class _Given:
    """What `train` and `sweep` are given alike."""

    model: Any
    layers: tuple[int, ...]
    preset: str
    changes: dict[str, Any]
    """Of the preset's settings."""
    objective: dict[str, Any]
    """Of its loss."""
    rows: Callable[[], Any]
    """Reads the text: the rows to train on, and those held out."""
    options: Any
    """How the run behaves."""

    def config(self, **others: Any) -> Any:
        """The settings, with other changes where they are not None, and `--set` before all."""
        config = ew.transcoders.TrainingConfig(self.layers)
        if self.preset == "paper":  # whose centred outputs are a model's own only where every norm takes the mean off
            config = config.paper(self.layers, centred=ew.transcoders.reads_no_mean(self.model))
        changes = {name: value for name, value in others.items() if value is not None} | self.changes
        config = replace(config, objective=replace(config.objective, **self.objective), **changes)
        return config.on(self.model.device)


def _given(
    text: Text,
    model: options.ModelName = "smollm2-135m",
    layers: Layers = "all",
    features: Annotated[
        str | None,
        Option(help="How many features: 8x (times the model's width, the default), or a number such as 4608."),
    ] = None,
    activation: Annotated[
        str | None,
        Option(help="Activations, such as topk:16,topk:32, batch_topk:32, relu@1e-4, jumprelu@1e-3. Default: topk:32."),
    ] = None,
    preset: Annotated[
        Literal["default", "paper"], Option(help="Named settings; paper is the published recipe.")
    ] = "default",
    settings: Annotated[
        list[str] | None,
        Option("--set", help="A setting of `TrainingConfig`, name=value or objective.NAME=value; may be repeated."),
    ] = None,
    tokens: Annotated[
        int | None, Option(help="Tokens to train on. The text is repeated as needed. Default: a million.")
    ] = None,
    batch_tokens: Annotated[int | None, Option(help="Tokens per step. Default: 2,048.")] = None,
    pool_tokens: Annotated[int | None, Option(help="How many tokens to keep in memory and shuffle together.")] = None,
    learning_rate: Annotated[
        float | None, Option(help="Adam's learning rate. Default: depends on the number of features.")
    ] = None,
    precision: Precision = None,
    context: Context = 128,
    limit: Limit = None,
    hold_out: HoldOut = 0.05,
    checkpoint_seconds: Annotated[float, Option(help="Seconds between checkpoints.")] = 300.0,
    seed: Annotated[int, Option()] = 0,
    device: options.Device = "cpu",
    out: options.Out = Path("runs/transcoders"),
) -> _Given:
    changes: dict[str, Any] = {"seed": seed, "tokens": tokens, "batch_tokens": batch_tokens, "precision": precision}
    changes |= {"pool_tokens": pool_tokens, "learning_rate": learning_rate, **_features(features)}
    if activation is not None:
        changes["activations"] = tuple(part.strip() for part in activation.split(","))
    own = [each for each in settings or () if not each.startswith("objective.")]
    of_loss = [each.removeprefix("objective.") for each in settings or () if each not in own]
    changes = {name: value for name, value in changes.items() if value is not None}
    changes |= ew.runs.parse_settings("--set", ew.transcoders.TrainingConfig, own)
    if "objective" in changes:
        raise ew.InputError("--set objective: set its own fields, such as objective.auxiliary=0")
    objective = ew.runs.parse_settings("--set objective", ew.transcoders.TranscoderLoss, of_loss)
    loaded = load(model, device)
    chosen = changes.pop("layers", None) or _layers(loaded, layers)

    def rows() -> Any:
        ew.runs.check_writable(out)
        return _rows(loaded, text, context, limit, hold_out)

    return _Given(loaded, chosen, preset, changes, objective, rows, ew.RunOptions(out, checkpoint_seconds))


def _also_given(**defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command with `_given`'s options beside its own, and what that makes of them as its first argument."""
    shared = [p.replace(default=defaults.get(p.name, p.default)) for p in inspect.signature(_given).parameters.values()]

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        every = [*shared, *list(inspect.signature(command).parameters.values())[1:]]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            command(_given(**{p.name: values.pop(p.name) for p in shared}), **values)

        run.__signature__ = inspect.Signature(every)  # pyright: ignore[reportAttributeAccessIssue] (typer reads it)
        run.__annotations__ = {p.name: p.annotation for p in every}
        return run

    return wrap


@app.command()
@configurable()
@_also_given()
def train(
    given: _Given,
    kind: Annotated[str, Option(help="Kinds between commas: transcoder,autoencoder,cross-layer.")] = "transcoder",
    reads: Reads = None,
    skip: Annotated[bool, Option("--skip", help="Add a linear map of the input beside the features.")] = False,
    cache: Annotated[Path | None, Option(help="Read activations from the folder that `cache` wrote.")] = None,
    log: Annotated[list[str] | None, Option(help="Also log to tensorboard or wandb (if installed).")] = None,
) -> None:
    """Train transcoders and write them to OUT. Under torchrun, all processes share the work."""
    first = os.environ.get("RANK", "0") == "0"  # as torchrun sets it; the other processes say nothing
    config = given.config(kinds=tuple(kind.split(",")), reads=reads, skip=skip or None)
    rows, _ = given.rows()
    kept = None if cache is None else ew.transcoders.CachedActivations(cache)
    if first:
        show.training(given.model, rows, config)
    options = replace(given.options, log=tuple(log or ()))
    trained = ew.transcoders.train(given.model, rows, config, cache=kept, options=options)
    if first:
        show.trained(trained, given.options.out, config)
    if trained.stopped or trained.interrupted:
        raise Exit(130)  # what follows in a script should not go on with half a run


@app.command()
def tune(
    transcoders: Files,
    text: Text,
    model: OwnModel = None,
    settings: Annotated[list[str] | None, options.of_config("TuningConfig")] = None,
    tokens: Annotated[int | None, Option(help="To see, the text repeated as needed; 200,000 if none.")] = None,
    learning_rate: Annotated[float | None, Option(help="Of Adam; 1e-4 if none.")] = None,
    context: Context = 128,
    limit: Limit = None,
    hold_out: HoldOut = 0.05,
    checkpoint_seconds: Annotated[float, Option(help="Between checkpoints.")] = 300.0,
    seed: Annotated[int, Option()] = 0,
    device: options.Device = "cpu",
    out: options.Out = Path("runs/tuned"),
) -> None:
    """Tune a set as a whole: all its MLPs replaced at once, towards the model's own predictions."""
    _check_apart(transcoders, out)
    found = read(transcoders, device=device)
    given = {"tokens": tokens, "learning_rate": learning_rate, "seed": seed}
    changes = {name: value for name, value in given.items() if value is not None}
    changes |= ew.runs.parse_settings("--set", ew.transcoders.TuningConfig, settings or ())
    config = ew.transcoders.TuningConfig(**changes)
    loaded = load(model_of(found, model), device)
    ew.runs.check_writable(out)
    rows, _ = _rows(loaded, text, context, limit, hold_out)
    show.compare_weights(found, loaded)
    run = ew.RunOptions(out, checkpoint_seconds)
    tuned = ew.transcoders.tune(loaded, found, rows, config, options=run)
    show.tuned(tuned, out)
    if tuned.stopped or tuned.interrupted:
        raise Exit(130)  # what follows in a script should not go on with half a run


@app.command()
def evaluate(
    transcoders: Annotated[list[str], Argument(help="Files or folders of any format, or hub ids.")],
    text: Text,
    model: OwnModel = None,
    context: Context = 128,
    limit: Limit = None,
    hold_out: HoldOut = 0.05,
    include_special: Annotated[bool, Option(help="Also replace the MLP at special and first tokens.")] = False,
    alone: Annotated[bool, Option(help="Also replace each MLP by itself.")] = True,
    ablations: Annotated[bool, Option(help="Also each MLP's zero and mean ablation: two thirds of the work.")] = True,
    device: options.Device = "cpu",
    out: Annotated[Path | None, Option(help="Also write JSON to this file.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Judge transcoders on the last rows of a text, or with --hold-out 0 on all of it."""
    found = read(transcoders, device=device)
    name = model_of(found, model)
    if out is not None:
        ew.runs.check_file(out)
    loaded = load(name, device)
    others, held_out = _rows(loaded, text, context, limit, hold_out)
    rows = others if held_out is None else held_out
    with show.counting("judging") as progress:
        result = ew.transcoders.evaluate_transcoders(
            loaded,
            found,
            rows,
            exclude_special=not include_special,
            alone=alone,
            ablations=ablations,
            progress=progress,
        )
    show.compare_weights(found, loaded)
    show.seen(found, rows)
    for source in transcoders:
        show.passed_over(source)
    if out is not None:
        result.save(out)
    _show.result(result, as_json, show.transcoders)


@app.command()
@configurable()
@_also_given(layers="8", out=Path("runs/sweep"))
def sweep(given: _Given) -> None:
    """Train transcoders and autoencoders of MLP outputs on the same tokens. Draws loss against active features."""
    config = given.config(kinds=("transcoder", "autoencoder"), activations=_SEVERAL[given.preset])
    training, held_out = given.rows()
    if held_out is None:
        raise ew.InputError("--hold-out 0: a sweep judges on held-out rows; give a share such as 0.05")
    show.training(given.model, training, config)
    with stopping(), show.counting("judging") as progress:
        result = ew.transcoders.sweep(given.model, training, held_out, config, options=given.options, progress=progress)
    result.save(given.options.out / "sweep.json")
    show.swept(result, config.layers, given.options.out)


@app.command()
def cache(
    text: Text,
    out: Annotated[Path, Option(help="The folder to write.")],
    model: options.ModelName = "smollm2-135m",
    layers: Layers = "all",
    reads: Reads = None,
    dtype: Annotated[str, Option(help="Type of the stored values: float32, bfloat16 or float16.")] = "bfloat16",
    precision: Precision = None,
    context: Context = 128,
    limit: Limit = None,
    hold_out: HoldOut = 0.05,
    device: options.Device = "cpu",
) -> None:
    """Run the model once and keep MLP inputs and outputs on disk, for `train --cache`."""
    loaded = load(model, device)
    chosen = _layers(loaded, layers)
    rows, _ = _rows(loaded, text, context, limit, hold_out)
    sites = [ew.transcoders.Site(kind, layer) for layer in chosen for kind in (reads or "mlp_in", "mlp_out")]
    with show.counting("running the model") as progress:
        bf16 = (precision or ew.runs.fastest_precision(loaded.device)) == "bfloat16"
        ew.transcoders.write_cache(loaded, rows, sites, out, dtype=dtype, bf16=bf16, progress=progress)
    line(f"{rows.n_tokens:,} tokens at {len(sites)} sites -> {out}")


@app.command()
def convert(
    source: Annotated[str, Argument(help="A file or folder of any format, or a hub id (org/name\\[/folder]\\[@rev]).")],
    out: Annotated[Path, Argument(help="Where to write it.")],
    to: Annotated[str, Option(help="The format to write; `edgewise transcoder formats` lists them.")],
    origin: Annotated[
        str | None, Option("--from", help="The format to read. Default: recognised from the files.")
    ] = None,
    reads: Annotated[
        str | None,
        Option(help="The site that features read, such as 8.mlp_in, if the files do not say it or are wrong."),
    ] = None,
    writes: Annotated[str | None, Option(help="The site that they write, such as 8.mlp_out, likewise.")] = None,
    exclude_special: Annotated[
        bool | None,
        Option(
            "--exclude-special/--include-special",
            help="Its features are off at special tokens and the first of each row, or count there, whatever the files "
            "say.",
        ),
    ] = None,
    force: options.Force = False,
) -> None:
    """Convert transcoders from one tool's files to another's. With --force, files of another set of the same format
    that lie in the folder are removed: they would be read with what is written.
    """
    check_free(out, force)
    site_read, site_written = (ew.transcoders.Site.parse(key) if key else None for key in (reads, writes))
    found = ew.transcoders.read(source, origin, reads=site_read, writes=site_written, exclude_special=exclude_special)
    ew.transcoders.write(found, out, to, force=force)
    for note in ew.transcoders.round_trip_differences(found, out, to):
        line(f"note: {note}", errors=True)
    sites = ", ".join(str(each.spec.reads) for each in found[:3]) + (", …" if len(found) > 3 else "")
    line(f"{len(found)} transcoder{'s' if len(found) > 1 else ''} ({sites}) -> {out}")


@app.command()
def formats() -> None:
    """List the formats that can be read and written, and the activations of each."""
    for name, each in ew.transcoders.FORMATS.items():
        line(f"{name:20} {each.what}")


def _rows(model: Any, text: list[str], context: int, limit: int | None, hold_out: float) -> tuple[Any, Any]:
    """The text's rows to train on, and those held out; None where none are."""
    rows = text_rows(model, text, context, limit)
    return rows.split(hold_out) if hold_out else (rows, None)


def _check_apart(sources: list[str], out: Path) -> None:
    """Refuse to tune a set into its own folder: its files would be lost, and the run could not be taken up again.

    Raises:
        InputError: a source is the folder `out`, or lies in it.
    """
    for source in sources:
        path = ew.runs.user_path(source)
        if path.exists() and out.resolve() == (path if path.is_dir() else path.parent).resolve():
            raise ew.InputError(f"--out {out}: {source} lies there and would be written over; choose another folder")


def _layers(model: Any, text: str) -> tuple[int, ...]:
    n = len(model.parts.layers)
    if text == "all":
        return tuple(range(n))
    found: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not (high.isdecimal() and int(low) <= int(high))):
            raise ew.InputError(f"--layers {text!r}: write 8,12 or 4-9, or all")
        found += range(int(low), int(high or low) + 1)
    if not found or max(found) >= n:
        raise ew.InputError(f"--layers {text!r}: the model has {n} layers, 0 to {n - 1}")
    return tuple(found)


def _features(text: str | None) -> dict[str, Any]:
    """`8x` (times the model's width) or a number, as settings."""
    if text is None:
        return {}
    try:
        number = text.removesuffix("x")
        return {"features": int(number)} if number == text else {"expansion": float(number)}
    except ValueError as error:
        raise ew.InputError(f"--features {text!r}: write 8x (times the model's width) or a number") from error
