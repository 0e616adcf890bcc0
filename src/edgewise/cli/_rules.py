"""`edgewise transcoder score`: rules that say where features are on, judged on text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

import edgewise as ew
from edgewise.cli import _features, _show
from edgewise.cli import _options as options
from edgewise.cli._common import load
from edgewise.cli._print import table
from edgewise.cli._show_transcoder import compare_weights, counting, seen
from edgewise.runs import Interval, read_json


def score(
    transcoders: Annotated[list[str], Argument(help="Files or folders of any format, or hub ids; then the rules.")],
    text: Annotated[list[str], Option("--text", help="Text that the rules were not made from. As for train.")],
    model: _features.OwnModel = None,
    context: Annotated[int, Option("--context", help="Tokens per row.")] = 128,
    limit: Annotated[int | None, Option("--limit", help="Read at most so many tokens of the text.", min=1)] = None,
    hold_out: Annotated[
        float, Option("--hold-out", help="Judge on this share of the rows, at the end of the text; 0: on all.")
    ] = 0.05,
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
        ew.runs.check_writable(out.parent)
    layers = {int(found[0]) for name in rules if (found := _features.parse(name)) is not None}
    every = [each.to(device) for each in _features.read(transcoders[:-1])]
    found = [each for each in every if each.spec.reads.layer in layers] or every
    loaded = load(_features.model_of(found, model), device)
    compare_weights(found, loaded)
    rows = _features.text_rows(loaded, text, context, limit)
    rows = rows.split(hold_out)[1] if hold_out else rows
    with counting("judging") as progress:
        result = ew.transcoders.score_rules(loaded, found, rules, rows, progress=progress)
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
    """Two tables."""
    counts, rates = [], []
    for each in found.scores:
        share = "–" if each.activation is None else f"{each.activation:.1%}"
        parts = ("–" if number is None else f"{number.value:.1%}" for number in (each.recall, each.precision))
        counts.append((each.feature, f"{each.on:,}", f"{each.named:,}", f"{each.both:,}", *parts, share))
        middle = "–" if each.others is None else f"{each.others.value:.3f}"
        rates.append((each.feature, *_cells(each.balanced), middle, f"{each.better:,} of {each.n_others:,}"))
    said = "on: the feature; named: by the rule; activation: the share of it at named tokens"
    columns = ("feature", "on", "named", "both", "recall", "precision", "activation")
    table(f"rules on {found.tokens:,} tokens", columns, counts, said, whole=True)
    said = (
        "of recall and of the share of other tokens that the rule does not name; 0.5 by chance; intervals over rows.\n"
        "others: the same rule's median for the other features, and for how many it is better"
    )
    columns = ("feature", "balanced", "95 % interval", "others", "better for")
    table("balanced accuracy", columns, rates, said, whole=True)


def _cells(number: Interval | None) -> tuple[str, str]:
    return ("–", "–") if number is None else (f"{number.value:.3f}", f"{number.low:.3f} to {number.high:.3f}")
