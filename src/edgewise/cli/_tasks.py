"""The commands about tasks: what there is, what a model is given, how well it does, and whether a file can be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Exit, Option, Typer

import edgewise as ew
from edgewise.cli import _options as options
from edgewise.cli import _show
from edgewise.cli._common import as_typed, check_task, is_drawn, load, refuse_drawing
from edgewise.cli._print import flat, line, styled, visible

app = Typer(no_args_is_help=True, help="List and show tasks, score a model on them, and check your own files.")


@app.command("list")
def list_tasks() -> None:
    """List the built-in tasks, with a line about each."""
    for name, build in ew.tasks.TASKS.items():
        line(f"{name}: {(build.__doc__ or '').split('.')[0].replace(chr(10), ' ')}.")


@app.command()
def show(
    task: Annotated[str, Argument(help="A built-in task, or a file of pairs or of templates.")],
    model: options.ModelName = "smollm2-135m",
    n: Annotated[int, Option("-n", help="How many pairs.")] = 5,
    split: options.SplitName = "train",
    seed: options.DrawnSeed = None,
    as_json: options.AsJson = False,
) -> None:
    """Print pairs as the model is given them: tokens, what is predicted, right and wrong answers."""
    if n < 1:
        raise ew.InputError(f"-n {n}: use at least 1")
    _check(task)
    refuse_drawing(task, {"--seed": seed})
    tokenizer = ew.models.load_tokenizer(model)
    made = _made(task, tokenizer, split, n, seed or 0)
    made.check_examples(split)
    for number, pair in enumerate(made.split(split)[:n]):
        _show.result(asdict(pair), as_json, _print_pair, number, pair, made, tokenizer)


@app.command()
def score(
    tasks: Annotated[list[str] | None, Argument(help="Tasks or files. Default: all built-in tasks.")] = None,
    model: options.ModelName = "smollm2-135m",
    split: options.SplitName = "test",
    n: Annotated[int | None, Option("-n", help="Examples of a built-in task, or of templates; or 256.")] = None,
    seed: options.DrawnSeed = None,
    batch_size: options.BatchSize = 32,
    device: options.Device = "cpu",
    out: Annotated[Path | None, Option(help="Also write the table to this Markdown file.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure the full model on tasks, beside the corrupted prompts and chance."""
    names = tasks or list(ew.tasks.BUILT_IN)
    for name in names:
        _check(name)
    if not any(map(is_drawn, names)):
        refuse_drawing(names[0], {"-n": n, "--seed": seed})
    n, seed = 256 if n is None else n, seed or 0
    if n < 1:
        raise ew.InputError(f"-n {n}: use at least 1")
    if out is not None:
        ew.runs.check_file(out)
    loaded = load(model, device)
    variants = [(name, variant) for name in names for variant in _VARIANTS.get(name, ({},))]
    # All are made before any is scored, so that a wrong file is refused before the work.
    longest = loaded.parts.n_positions
    made = [_made(name, loaded.tokenizer, split, n, seed, longest, **variant) for name, variant in variants]
    for task in made:
        task.batch(split, (0,))  # refuses an empty split
    rows = []
    for task, (_, variant) in zip(made, variants, strict=True):
        ability = ew.evaluation.score(loaded, task, split=split, batch_size=batch_size)
        row = {"task": task.name, "options": variant, **asdict(ability), "complaint": ability.complaint}
        _show.result(row, as_json, line, f"{_title(row)}: {_line(row)}")
        rows.append(row)
    if out is not None:
        given: dict[str, tuple[Any, Any]] = {"--split": (split, "test"), "-n": (n, 256), "--seed": (seed, 0)}
        given |= {"--batch-size": (batch_size, 32), "--device": (device, "cpu")}
        command = as_typed("tasks", "score", *tasks or (), "--model", model, given=given, last=("--out", out))
        ew.runs.write_atomically(out, _markdown(rows, loaded.identity, command, split, seed))


@app.command()
def check(
    file: Annotated[
        str, Argument(help="A .jsonl, .json, .csv or .parquet file of pairs, a .yaml file of templates, or hf:NAME.")
    ],
    model: options.ModelName = "smollm2-135m",
    limit: Annotated[int, Option(help="Print at most so many refusals. All are counted.")] = 20,
    as_json: options.AsJson = False,
) -> None:
    """Say whether `find` takes a file of pairs or of templates with a model's tokenizer, and every reason if not."""
    check_task(file, "file", ())
    if limit < 0:
        raise ew.InputError(f"--limit {limit}: use at least 0")
    result = ew.tasks.check_file(file, ew.models.load_tokenizer(model), longest=ew.models.longest_prompt(model))
    if as_json:
        print(_show.to_json(asdict(result)))
    else:
        for refusal in result.refusals[:limit]:
            line(refusal)
        if len(result.refusals) > limit:
            line(f"… and {len(result.refusals) - limit} more; --limit shows them")
        for problem in result.problems:
            line(problem)
        line(f"{file}: {result.usable} of {result.usable + len(result.refusals)} pairs can be used")
        for note in result.notes:
            line(f"note: {note}")
    if result.refused:
        raise Exit(1)


def _made(
    name: str, tokenizer: Any, split: str, n: int, seed: int, longest: int | None = None, **variant: str
) -> ew.tasks.Task:
    """A built-in task, or one of templates, with so many pairs in one split; or a file's pairs."""
    sizes: dict[str, Any] = {each: n if each == split else 0 for each in ew.tasks.SPLITS}
    if name.endswith(ew.tasks.TEMPLATE_SUFFIXES):
        return ew.tasks.from_template_file(name, tokenizer, **sizes, seed=seed, longest=longest)
    if name not in ew.tasks.TASKS:
        return ew.tasks.from_file(name, tokenizer, longest=longest)  # dealt out as `find` deals them out
    return ew.tasks.TASKS[name](tokenizer, **sizes, seed=seed, **variant)


def _check(task: str) -> None:
    """Refuse what these commands have nothing to say about."""
    if task in ew.tasks.TASK_NAMES and task not in ew.tasks.BUILT_IN:
        raise ew.InputError(
            f"task {task!r}: its pairs are a compiled program's inputs, not texts; see edgewise tracr --help"
        )
    check_task(task, "task", ew.tasks.BUILT_IN)


_VARIANTS: dict[str, Sequence[dict[str, Any]]] = {
    "boolean-expressions": ({"form": "few-shot"}, {"form": "instruction"}, {"form": "zero-shot"}),
    "arithmetic": ({"operation": "addition"}, {"operation": "subtraction"}),
}
"""The forms of a task that are scored each."""


def warn_if_unable(model: ew.Engine, task: ew.tasks.Task) -> None:
    """Say on the error stream that a model does not do a task: a circuit for it would explain nothing."""
    if task.metrics is not None:  # its outputs are no predictions of a next token
        return
    split = "validation" if len(task.validation) else "train"
    if complaint := ew.evaluation.score(model, task, split=split, n=64).complaint:
        line(f"warning: {complaint}", errors=True)


def _print_pair(number: int, pair: ew.tasks.Pair, task: ew.tasks.Task, tokenizer: Any) -> None:
    from rich.text import Text  # not markup, which cannot say a token that ends in backslashes

    def shown(ids: Sequence[int], marked: set[int]) -> Text:
        text = Text()
        for i, token in enumerate(ids):
            text.append("|" if i else "", "dim")
            text.append(visible(flat(tokenizer.decode([token]))), "reverse" if i in marked else "")
        return text

    partners = range(len(pair.clean)) if pair.align is None else pair.align
    changed = {i for i, j in enumerate(partners) if pair.clean[i] != pair.corrupted[j]}
    styled(Text.assemble((str(number), "bold"), "  clean      ", shown(pair.clean, changed)))
    styled(Text.assemble("   corrupted  ", shown(pair.corrupted, {partners[i] for i in changed})))
    if pair.spans is not None:
        names = [task.span_names[span] for span in pair.spans]
        line(f"   spans      {' '.join(names)}")
    for target in pair.targets[:8]:
        right, wrong = (
            ", ".join(repr(tokenizer.decode([token])) for token in each) for each in (target.answers, target.wrong)
        )
        line(f"   token {target.position + 1} predicts {right}{f', not {wrong}' if wrong else ''}")


def _title(row: dict[str, Any]) -> str:
    return " ".join([row["task"], *(str(value) for value in row["options"].values())])


def _line(row: dict[str, Any]) -> str:
    measures = row["metrics"]
    shown = [f"{name} {each['value']:.3f} (chance {each['chance']:.3f})" for name, each in measures.items()]
    warning = "; WARNING: the model is not seen to do this task" if row["complaint"] else ""
    return f"{', '.join(shown)}; n {row['n']}{warning}"


def _markdown(rows: list[dict[str, Any]], identity: dict[str, str], command: str, split: str, seed: int) -> str:
    """The scores as a page that says how they were taken."""
    note = f" ({identity['note']})" if identity["note"] else ""
    which = f"{identity['id']}{note}, {identity['dtype']}, weights {identity['weights_hash'][:12]}"
    page = Path(__file__).with_name("scores.md").read_text(encoding="utf-8")
    lines = [page.format(id=identity["id"], command=command, which=which, split=split, seed=seed)]
    for row in rows:
        cells = [_title(row), str(row["n"]), *_cells(row["metrics"]), "no" if row["complaint"] else "yes"]
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def _cells(metrics: dict[str, dict[str, Any]]) -> list[str]:
    def of(name: str, *others: str) -> list[str]:
        if name not in metrics:
            return [""] * (1 + len(others))
        each = metrics[name]
        bounds = [each["low"], each["high"]]
        interval = "" if None in bounds else f" ({' to '.join(map(_rounded, bounds))})"
        return [f"{_rounded(each['value'])}{interval}", *(_rounded(each[other]) for other in others)]

    return [
        *of("accuracy"),
        *of("choice", "corrupted", "chance"),
        *of("logit_diff", "corrupted", "chance"),
        *of("prob_diff", "corrupted"),
    ]


def _rounded(value: float) -> str:
    """Two digits, and nothing below zero that rounds to it."""
    return f"{value:.2f}".replace("-0.00", "0.00")
