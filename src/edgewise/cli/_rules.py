"""`edgewise transcoder score`: rules that say where features are on, judged on text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

import edgewise as ew
from edgewise.cli import _options as options
from edgewise.cli import _show
from edgewise.cli import _transcoder_inputs as inputs
from edgewise.cli._common import load
from edgewise.cli._print import flat, table
from edgewise.cli._show import between
from edgewise.cli._show_transcoder import compare_weights, counting, seen
from edgewise.runs import Interval, read_json

_N_BEST = 3  # other features that the table names; the JSON has more


def score(
    transcoders: Annotated[list[str], Argument(help="Files or folders of any format, or hub ids; then the rules.")],
    text: Annotated[
        list[str],
        Option("--text", help=f"Text that the rules were not made from: {inputs.TEXTS}; may be repeated."),
    ],
    model: inputs.OwnModel = None,
    context: inputs.Context = 128,
    limit: inputs.Limit = None,
    hold_out: Annotated[
        float, Option("--hold-out", help="Judge on this share of the rows, at the end of the text; 0: on all.")
    ] = 0.05,
    misses: Annotated[
        int,
        Option(
            "--misses",
            help="Of each rule, list so many tokens that it missed, and as many that it named wrongly; 0: none.",
            min=0,
        ),
    ] = 0,
    out: Annotated[Path | None, Option(help="Also write JSON to this file.")] = None,
    device: options.Device = "cpu",
    as_json: options.AsJson = False,
) -> None:
    """Judge what you say of features: a JSON file of rules, such as {"m12.f410": " (Mon|Tues|Fri)day"}, regular
    expressions of the text up to and with a token.
    """
    rules = _read(Path(transcoders[-1]))
    if len(transcoders) < 2:
        raise ew.InputError(f"{transcoders[0]}: give transcoders before the rules, such as runs/transcoders rules.json")
    if out is not None:
        ew.runs.check_file(out)
    layers = {int(found[0]) for name in rules if (found := inputs.parse(name)) is not None}
    every = inputs.read(transcoders[:-1], device=device)
    found = [each for each in every if each.spec.reads.layer in layers] or every
    loaded = load(inputs.model_of(found, model), device)
    compare_weights(found, loaded)
    rows = inputs.text_rows(loaded, text, context, limit)
    rows = rows.split(hold_out)[1] if hold_out else rows
    with counting("judging") as progress:
        result = ew.transcoders.score_rules(loaded, found, rules, rows, misses=misses, progress=progress)
    seen(found, rows)
    if out is not None:
        result.save(out)
    _show.result(result, as_json, _scores)


def _read(path: Path) -> dict[str, str]:
    """Rules by name. Raises `InputError`."""
    wanted = 'give a JSON object of features and rules, such as {"m12.f410": " (Mon|Tues|Fri)day"}'
    if path.suffix != ".json":
        raise ew.InputError(f"{path}: the last argument is the rules; {wanted}")
    found = read_json(path)
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise ew.InputError(f"{path}: holds no rules; {wanted}")
    return found


def _scores(found: ew.transcoders.RuleScores) -> None:
    """Two tables, a third where a rule is better for others, and with `--misses` two more of each rule."""
    counts, rates, best = [], [], []
    for each in found.scores:
        share = "–" if each.activation is None else f"{each.activation:.1%}"
        parts = ("–" if number is None else f"{number.value:.1%}" for number in (each.recall, each.precision))
        counts.append((each.feature, f"{each.on:,}", f"{each.named:,}", f"{each.both:,}", *parts, share))
        middle = "–" if each.others is None else f"{each.others.value:.3f}"
        rates.append((each.feature, *_cells(each.balanced), middle, f"{each.better:,} of {each.n_others:,}"))
        if each.best:
            shown = "  ".join(f"{other.feature} {other.balanced:.3f}" for other in each.best[:_N_BEST])
            best.append((each.feature, shown + (" …" if each.better > _N_BEST else "")))
    said = "on: the feature; named: by the rule; activation: the share of it at named tokens"
    columns = ("feature", "on", "named", "both", "recall", "precision", "activation")
    table(f"rules on {found.tokens:,} tokens", columns, counts, said, whole=True)
    said = (
        "of recall and of the share of other tokens that the rule does not name; 0.5 by chance; intervals over rows.\n"
        f"others: {found.conditions['others']}:\nthe same rule's median for them, and for how many it is better"
    )
    columns = ("feature", "balanced", "95 % interval", "others", "better for")
    table("balanced accuracy", columns, rates, said, whole=True)
    if best:
        table("others that a rule is better for, the best first", ("rule of", "features"), best, left=2)
    for each in found.scores:
        _misses(each)


def _misses(found: ew.transcoders.RuleScore) -> None:
    """Where a rule is wrong, by the tokens' texts."""
    for title, word, of, misses in (
        ("missed", "missed", "at which it is on", found.missed),
        ("named wrongly", "wrong", "that the rule names", found.named_wrongly),
    ):
        if misses:
            rows = [
                (repr(each.token), f"{each.wrong:,} of {each.of:,}", _in_context(each.examples[0])) for each in misses
            ]
            said = f"of the tokens with that text {of}"
            table(f"{found.feature}: {title}", ("token", word, "such as"), rows, said, left=3)


def _in_context(found: ew.transcoders.RuleExample) -> str:
    """A token marked in its text, with the activation where the feature is on."""
    value = f" = {found.activation:.3g}" if found.activation else ""
    return flat(f"{found.before}⟦{found.token}{value}⟧{found.after}")


def _cells(number: Interval | None) -> tuple[str, str]:
    return ("–", "–") if number is None else (f"{number.value:.3f}", between(number.low, number.high))
