"""What `edgewise transcoder` prints."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgewise.models import Model
from edgewise.runs import progress
from edgewise.transcoders import TokenRows, Transcoder, held_out
from edgewise.transcoders.formats import FORMATS
from edgewise.transcoders.judging import Loss, TranscoderEvaluation
from edgewise.transcoders.training import Sweep, Trained, TrainingConfig

_console = Console(highlight=False)
_errors = Console(stderr=True, highlight=False)


def training(model: Model, rows: TokenRows, config: TrainingConfig) -> None:
    """What is about to be trained."""
    source, parts = model.identity, model.parts
    note = f" ({source['note']})" if source["note"] else ""
    print_line(f"model    {source['id']}{note}, {source['dtype']}, weights {source['weights_hash'][:12]}")
    passes = config.steps * config.batch_tokens / rows.n_tokens
    print_line(f"text     {', '.join(rows.source.get('text', []))}: {rows.n_tokens:,} tokens, seen {passes:.2g} times")
    names = config.names
    shown = ", ".join(names[:4]) + (f", … ({len(names)} in all)" if len(names) > 4 else "")
    sizes = f"{config.jobs(parts.d_model)[0].specs[0].n_features:,} features each"
    print_line(
        f"training {shown}; {sizes}; {config.steps:,} steps of {config.batch_tokens:,} tokens; {config.precision}"
    )


def trained(result: Trained, out: Path, config: TrainingConfig) -> None:
    """What a run made."""
    long = result.steps * config.batch_tokens >= config.dead_after  # before that no feature counts as dead
    if result.stopped:
        _console.print(
            f"[bold]stopped:[/] {escape(result.stopped)}; the same command goes on from there", soft_wrap=True
        )
    if not result.metrics:
        print_line(f"done before: {result.steps:,} steps, {result.seconds:,.0f} s; nothing was left to do")
    table = Table(
        title=f"after {result.steps:,} steps, {result.seconds:,.0f} s",
        caption="of the last training batch; explained: 1 − squared error / variance; active: features per token",
        caption_justify="left",
    )
    for name in ("transcoder", "loss", "explained", "active", "dead"):
        table.add_column(name, justify="left" if name == "transcoder" else "right")
    for name, values in result.metrics.items():
        table.add_row(
            escape(name),
            f"{values['loss']:.4g}",
            f"{values['explained']:.4f}",
            f"{values['active']:.1f}",
            f"{values['dead']:.1%}" if long else "–",
        )
    if result.metrics:
        _console.print(table)
    print_line(f"written to {out}")


def transcoders(result: TranscoderEvaluation) -> None:
    """An evaluation as tables."""
    features = Table(title="features", caption="explained: 1 − squared error / variance about the mean")
    for name in ("transcoder", "reads", "activation", "active", "explained", "live"):
        features.add_column(name, justify="left" if name in ("transcoder", "reads", "activation") else "right")
    losses = Table(
        title=f"loss with one MLP replaced; {result.tokens:,} tokens; the model's own is {result.original.loss:.4f}",
        caption=f"nats per next token; added to the model's own, with the 95 % bootstrap interval over rows;\n"
        f"KL(model ‖ changed model); replaced at "
        f"{result.conditions['replaced_positions']}; zero, mean: the layer's MLP output ablated",
        caption_justify="left",
    )
    for name in ("transcoder", "loss", "added", "95 % interval", "KL", "zero", "mean"):
        losses.add_column(name, justify="left" if name == "transcoder" else "right")
    for each in result.transcoders:
        layer = int(each.writes[0].split()[1])
        live = f"{each.live:,} of {each.n_features:,}"
        name = escape(each.name)
        features.add_row(name, escape(each.reads), each.activation, f"{each.active:.1f}", f"{each.explained:.4f}", live)
        cells = () if each.replaced is None else _cells(each.replaced)
        ablated = (f"{result.zero[layer].loss:.4f}", f"{result.mean[layer].loss:.4f}")
        if each.replaced is not None:
            losses.add_row(name, *cells, *ablated)
    _console.print(features)
    if losses.rows:  # a cross-layer set has none
        _console.print(losses)
    if result.all:
        together = Table(title="all of these MLPs changed at once")
        for name in ("", "loss", "added", "95 % interval", "KL"):
            together.add_column(name, justify="right" if name else "left")
        for name, loss in result.all.items():
            together.add_row(name, *_cells(loss))
        _console.print(together)


def swept(result: Sweep, layers: tuple[int, ...], out: Path) -> None:
    """A sweep as a table and, where matplotlib is installed, pictures."""
    table = Table(title=f"held-out loss; the model's own is {result.original.loss:.4f} nats")
    for name in ("trained", "active", "explained", "loss", "added", "95 % interval", "KL"):
        table.add_column(name, justify="left" if name == "trained" else "right")
    for name, each in result.jobs.items():
        assert each.replaced is not None
        table.add_row(escape(name), f"{each.active:.1f}", f"{each.explained:.4f}", *_cells(each.replaced))
    _console.print(table)
    draw_sweep(result, layers, out)


def draw_sweep(result: Sweep, layers: tuple[int, ...], out: Path) -> None:
    """A picture for each layer: `sweep-layer8.png`."""
    from edgewise.report import Tradeoff, tradeoff

    seen, text = result.config["tokens_seen"], result.conditions["text"]
    for layer in layers:
        points = [Tradeoff(kind, active, x.added, x.low, x.high) for kind, active, x in result.points(layer)]
        path = out / f"sweep-layer{layer}.png"
        caption = (
            f"{result.conditions['model']['id']}, trained on {seen:,} tokens of {', '.join(text['text'])}; judged on "
            f"{text['rows']} rows held out; replaced at {result.conditions['replaced_positions']}; bands: "
            f"{result.conditions['interval']}. The model's own loss: {result.original.loss:.3f}."
        )
        tradeoff(
            points,
            path,
            references=[("mean ablation", result.mean[layer].added), ("zero ablation", result.zero[layer].added)],
            title=f"Layer {layer}: loss that replacing its MLP adds, by active features",
            caption=caption,
        )
        print_line(f"drawn to {path}")


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Progress on the error stream, from the first call on of what it yields: with the number done and that of all."""
    with progress(what) as shown:
        yield lambda done, total: shown.update(done, total=total)


def compare_weights(transcoders: Sequence[Transcoder], model: Model) -> None:
    """Say so if a transcoder was trained on other weights."""
    now = model.identity["weights_hash"]
    for each in transcoders:
        before = each.provenance.get("model", {}).get("weights_hash", now)
        if before != now:
            _errors.print(f"note: {each.spec.reads} was trained on weights {before[:12]}, this model's are {now[:12]}")


def passed_over(source: str) -> None:
    """Say so if a folder holds sets in folders of their own, which are not judged with its files."""
    ours = FORMATS["edgewise"].finds  # other tools' sets are folders of folders, which are read as one
    if not (Path(source).is_dir() and ours(Path(source))):
        return
    if sets := [escape(each.name) for each in sorted(Path(source).iterdir()) if each.is_dir() and ours(each)]:
        _errors.print(f"note: {escape(source)} also holds {', '.join(sets)}, not judged here; give such a folder")


def seen(transcoders: Sequence[Transcoder], rows: TokenRows) -> None:
    """Say so if the rows may be among those that a transcoder was trained on."""
    for each in transcoders:
        text = each.provenance.get("method", {}).get("text")
        if text and not held_out(rows.source, text):
            _errors.print(
                f"note: {each.spec.reads} was trained on another cut of this text: these rows may be among those it "
                "was trained on; give the text, --context, --limit and --hold-out of the training"
            )
            return


def print_line(text: str) -> None:
    """A line of plain text, never wrapped."""
    _console.print(escape(text), soft_wrap=True)


def _cells(loss: Loss) -> tuple[str, str, str, str]:
    return f"{loss.loss:.4f}", f"{loss.added:.4f}", f"{loss.low:.4f} to {loss.high:.4f}", f"{loss.kl:.4f}"
