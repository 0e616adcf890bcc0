"""`edgewise transcoder dashboard`: a page of every feature of a transcoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

import edgewise as ew
from edgewise.cli import _options as options
from edgewise.cli import _transcoder_inputs as inputs
from edgewise.cli._common import load
from edgewise.cli._print import line, stopping
from edgewise.cli._show_transcoder import compare_weights, counting
from edgewise.runs import parse_settings


def dashboard(
    transcoders: inputs.Files,
    text: inputs.Text,
    out: options.Out = Path("runs/dashboard"),
    layers: Annotated[
        str | None, Option("--layers", help="Make pages of these alone, such as 8,12; the others are named there.")
    ] = None,
    model: inputs.OwnModel = None,
    context: inputs.Context = 128,
    limit: inputs.Limit = None,
    hold_out: Annotated[
        float, Option("--hold-out", help="Leave this share of the rows, at the end of the text, for `score`.")
    ] = 0.0,
    labels: Annotated[
        Path | None, Option(help="A file of words for features: JSON, or a CSV with columns id,label.")
    ] = None,
    connections: Annotated[
        int, Option("--connections", help="Tokens over which TWERA is computed, of several layers; 0: none.", min=0)
    ] = 50_000,
    neuronpedia: Annotated[
        bool, Option("--neuronpedia", help="Also write the JSON that SAEDashboard writes for Neuronpedia.")
    ] = False,
    details: Annotated[
        bool, Option("--circuit-tracer", help="Also write the feature details that circuit-tracer's viewer reads.")
    ] = False,
    settings: Annotated[list[str] | None, options.of_config("DashboardConfig")] = None,
    device: options.Device = "cpu",
) -> None:
    """One HTML page for each layer, offline: where every feature is on in a text, beside what its weights say."""
    config = ew.transcoders.DashboardConfig(**parse_settings("--set", ew.transcoders.DashboardConfig, settings or ()))
    words = None if labels is None else ew.viewer.read_labels(labels)
    ew.runs.check_writable(out)
    found = inputs.read(transcoders, device=device)
    chosen = _of_layers(found, layers)
    _check_names(chosen)
    loaded = load(inputs.model_of(found, model), device)
    compare_weights(found, loaded)
    rows = inputs.text_rows(loaded, text, context, limit)
    rows = rows.split(hold_out)[0] if hold_out else rows
    with stopping():
        virtual = _connections(loaded, found, chosen, rows, connections, out)
        with counting("weights") as progress:
            sets = ew.transcoders.make_dashboards(
                loaded,
                chosen,
                rows,
                config,
                others=found,
                virtual=virtual,
                options=ew.RunOptions(out, checkpoint_seconds=60.0),
                progress=progress,
            )
    for path in ew.viewer.write_dashboards(sets, out, labels=words):
        line(f"written to {path} ({path.stat().st_size / 1e6:.1f} MB)")
    if neuronpedia:
        n = sum(len(ew.transcoders.write_neuronpedia(each, out / "neuronpedia")) for each in sets)
        line(f"{n} files -> {out / 'neuronpedia'}")
    if details:
        line(f"written to {ew.transcoders.write_feature_details(sets, out / 'circuit-tracer' / 'features')}")


def weights(
    transcoders: inputs.Files,
    text: inputs.Text,
    out: options.Out = Path("runs/virtual"),
    model: inputs.OwnModel = None,
    context: inputs.Context = 128,
    limit: inputs.Limit = 100_000,
    settings: Annotated[list[str] | None, options.of_config("VirtualConfig")] = None,
    device: options.Device = "cpu",
) -> None:
    """Virtual weights between all features of all layers, with ERA and TWERA: the strongest of each, in one file."""
    config = ew.transcoders.VirtualConfig(**parse_settings("--set", ew.transcoders.VirtualConfig, settings or ()))
    ew.runs.check_writable(out)
    found = inputs.read(transcoders, device=device)
    loaded = load(inputs.model_of(found, model), device)
    compare_weights(found, loaded)
    rows = inputs.text_rows(loaded, text, context, limit)
    with stopping():
        run = ew.RunOptions(out, checkpoint_seconds=60.0)
        table = ew.transcoders.virtual_weights(loaded, found, rows, config, options=run)
    table.save(out / _VIRTUAL)
    n = sum(int((each.layer >= 0).sum()) for each in table.inputs.values())
    line(f"{n:,} connections in, over {table.n_tokens:,} tokens -> {out / _VIRTUAL}")


_VIRTUAL = "virtual.safetensors"


def _connections(
    model: ew.Model,
    found: list[ew.transcoders.Transcoder],
    chosen: list[ew.transcoders.Transcoder],
    rows: ew.transcoders.TokenRows,
    tokens: int,
    out: Path,
) -> ew.transcoders.VirtualTable | None:
    """Virtual weights of the pages' layers, over rows from all of the text."""
    if len(found) < 2 or not tokens:
        return None
    every = max(1, rows.n_tokens // tokens)
    some = ew.transcoders.TokenRows(rows.ids[::every].contiguous(), rows.source | {"rows": f"every {every}th"})
    options = ew.RunOptions(out / "connections", checkpoint_seconds=60.0)
    layers = [each.spec.reads.layer for each in chosen]
    return ew.transcoders.virtual_weights(model, found, some, layers=layers, options=options)


def _check_names(chosen: list[ew.transcoders.Transcoder]) -> None:
    """Refuse transcoders whose pages would be one file, before the work. Raises `InputError`."""
    names = [each.name for each in chosen]
    if again := next((name for name in names if name and names.count(name) > 1), None):
        raise ew.InputError(f"dashboard: two transcoders are named {again}, which would be one page; rename a file")


def _of_layers(found: list[ew.transcoders.Transcoder], layers: str | None) -> list[ew.transcoders.Transcoder]:
    """Those of the layers that are asked for. Raises `InputError`."""
    known = sorted({each.spec.reads.layer for each in found})
    try:
        wanted = set(known) if layers is None else {int(part) for part in layers.split(",")}
    except ValueError as error:
        raise ew.InputError(f"--layers {layers!r}: write layers such as 8,12") from error
    if missing := sorted(wanted - set(known)):
        raise ew.InputError(f"--layers {layers}: there is no transcoder of layer {missing[0]}; there are {known}")
    return [each for each in found if each.spec.reads.layer in wanted]
