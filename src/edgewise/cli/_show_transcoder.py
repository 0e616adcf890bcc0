"""What `edgewise transcoder` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import edgewise as ew
from edgewise.cli._print import line, stopped, table
from edgewise.cli._show import between, model_line, told_apart

_LOSSES = ("loss", "added", "95 % interval", "KL")
"""The columns of `_cells`."""


def training(model: ew.Model, rows: ew.transcoders.TokenRows, config: ew.transcoders.TrainingConfig) -> None:
    """What is about to be trained."""
    model_line(model)
    passes = config.steps * config.batch_tokens / rows.n_tokens
    line(f"text     {', '.join(rows.source.get('text', []))}: {rows.n_tokens:,} tokens, seen {passes:.2g} times")
    names = config.names
    shown = ", ".join(names[:4]) + (f", … ({len(names)} in all)" if len(names) > 4 else "")
    sizes = f"{config.jobs(model.parts.d_model)[0].specs[0].n_features:,} features each"
    line(f"training {shown}; {sizes}; {config.steps:,} steps of {config.batch_tokens:,} tokens; {config.precision}")


def trained(result: ew.transcoders.Trained, out: Path, config: ew.transcoders.TrainingConfig) -> None:
    """What a run made."""
    long = result.steps * config.batch_tokens >= config.dead_after  # before that no feature counts as dead
    if result.stopped:
        stopped(result.stopped)
    if not result.metrics:
        line(f"done before: {result.steps:,} steps, {result.seconds:,.0f} s; nothing was left to do")
    rows = []
    for name, values in result.metrics.items():
        dead = f"{values['dead']:.1%}" if long else "–"
        rows.append((name, f"{values['loss']:.4g}", f"{values['explained']:.4f}", f"{values['active']:.1f}", dead))
    if rows:
        said = "of the last training batch; explained: 1 − squared error / variance; active: features per token"
        columns = ("transcoder", "loss", "explained", "active", "dead")
        table(f"after {result.steps:,} steps, {result.seconds:,.0f} s", columns, rows, said)
    line(f"written to {out}")


def tuned(result: ew.transcoders.Tuned, out: Path) -> None:
    """What a tuning made."""
    if result.stopped:
        stopped(result.stopped)
    last = "nothing was left to do" if result.kl is None else f"KL of the last batch {result.kl:.4f} nats per token"
    line(f"after {result.steps:,} steps, {result.seconds:,.0f} s: {last}")
    line(f"written to {out}")


def transcoders(result: ew.transcoders.TranscoderEvaluation) -> None:
    """An evaluation as tables."""
    features, losses = [], []
    for each in result.transcoders:
        layer = int(each.writes[0].split()[1])
        live = f"{each.live:,} of {each.n_features:,}"
        features.append((each.name, each.reads, each.activation, f"{each.active:.1f}", _explained(each), live))
        ablated = [f"{each[layer].loss:.4f}" if each else "–" for each in (result.zero, result.mean)]
        if each.replaced is not None:
            losses.append((each.name, *_cells(each.replaced), *ablated))
    columns = ("transcoder", "reads", "activation", "active", "explained", "live")
    table("features", columns, features, "explained: 1 − squared error / variance about the mean", left=3)
    if losses:  # a cross-layer set has none
        said = (
            f"nats per next token; added to the model's own, {_over(result.original)};\n"
            f"KL(model ‖ changed model); replaced at {result.conditions['replaced_positions']}; zero, mean: the "
            "layer's MLP output ablated"
        )
        own = f"{result.tokens:,} tokens; the model's own is {result.original.loss:.4f}"
        table(f"loss with one MLP replaced; {own}", ("transcoder", *_LOSSES, "zero", "mean"), losses, said)
    if result.all:
        rows = [(name, *_cells(loss)) for name, loss in result.all.items()]
        table("all of these MLPs changed at once", ("", *_LOSSES), rows)


def swept(result: ew.transcoders.Sweep, layers: tuple[int, ...], out: Path) -> None:
    """A sweep as a table and, where matplotlib is installed, pictures."""
    rows = []
    for name, each in result.jobs.items():
        assert each.replaced is not None
        rows.append((name, f"{each.active:.1f}", _explained(each), *_cells(each.replaced)))
    title = f"held-out loss; the model's own is {result.original.loss:.4f} nats"
    table(title, ("trained", "active", "explained", *_LOSSES), rows)
    try:
        ew.report.check_path(out / "sweep.png")
    except ew.InputError as error:
        line(f"note: no pictures: {error}", errors=True)
    else:
        draw_sweep(result, layers, out)


def draw_sweep(result: ew.transcoders.Sweep, layers: tuple[int, ...], out: Path) -> None:
    """A picture for each layer: `sweep-layer8.png`."""
    seen, text = result.config["tokens_seen"], result.conditions["text"]
    for layer in layers:
        points = [ew.report.Tradeoff(kind, active, x.added, x.low, x.high) for kind, active, x in result.points(layer)]
        path = out / f"sweep-layer{layer}.png"
        caption = (
            f"{result.conditions['model']['id']}, trained on {seen:,} tokens of {', '.join(text['text'])}; judged on "
            f"{text['rows']} rows held out; replaced at {result.conditions['replaced_positions']}; bands: "
            f"{result.conditions['interval']}. The model's own loss: {result.original.loss:.3f}."
        )
        ew.report.tradeoff(
            points,
            path,
            references=[("mean ablation", result.mean[layer].added), ("zero ablation", result.zero[layer].added)],
            title=f"Layer {layer}: loss that replacing its MLP adds, by active features",
            caption=caption,
        )
        line(f"drawn to {path}")


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Progress on the error stream, from the first call on of what it yields: with the number done and that of all."""
    with ew.runs.progress(what) as shown:
        yield lambda done, total: shown.update(done, total=total)


def compare_weights(transcoders: Sequence[ew.transcoders.Transcoder], model: ew.Model) -> None:
    """Say so if a transcoder was trained on other weights."""
    for each in transcoders:
        told_apart(f"{each.spec.reads} was trained", each.provenance, model)


def passed_over(source: str) -> None:
    """Say so if a folder holds sets in folders of their own, which are not judged with its files."""
    ours = ew.transcoders.FORMATS["edgewise"].finds  # other tools' sets are folders of folders, which are read as one
    if not (Path(source).is_dir() and ours(Path(source))):
        return
    if sets := [each.name for each in sorted(Path(source).iterdir()) if each.is_dir() and ours(each)]:
        line(f"note: {source} also holds {', '.join(sets)}, not judged here; give such a folder", errors=True)


def seen(transcoders: Sequence[ew.transcoders.Transcoder], rows: ew.transcoders.TokenRows) -> None:
    """Say so if the rows may be among those that a transcoder was trained or tuned on."""
    for each in transcoders:
        texts = ew.transcoders.texts_seen(each)
        if any(text and not ew.transcoders.held_out(rows.source, text) for text in texts):
            line(
                f"note: {each.spec.reads} was trained or tuned on another cut of this text: these rows may be among "
                "those that it has seen; give the text, --context, --limit and --hold-out of its training",
                errors=True,
            )
            return


def _explained(judged: ew.transcoders.Judged) -> str:
    return "–" if judged.explained is None else f"{judged.explained:.4f}"


def _over(loss: ew.transcoders.Loss) -> str:
    return "of one row: no interval" if len(loss.rows) == 1 else "with the 95 % bootstrap interval over rows"


def _cells(loss: ew.transcoders.Loss) -> tuple[str, str, str, str]:
    return f"{loss.loss:.4f}", f"{loss.added:.4f}", between(loss.low, loss.high, 4), f"{loss.kl:.4f}"
