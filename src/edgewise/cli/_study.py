"""Studies of the literature, in one command each."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from edgewise.cli import _show
from edgewise.cli._common import check_page, quiet
from edgewise.runs import write_atomically

app = typer.Typer(no_args_is_help=True, help="Studies of the literature, in one command each.")


@app.callback()
def studies() -> None:
    """Studies of the literature, in one command each."""


@app.command()
def prompting(
    model: Annotated[str, typer.Option(help="smollm2-135m, a hub id, or a local directory.")] = "smollm2-135m",
    out: Annotated[Path, typer.Option(help="Folder of all results; a study cut short goes on there.")] = Path(
        "runs/prompting"
    ),
    behaviour: Annotated[str, typer.Option(help="capitals, or boolean-expressions (the paper's).")] = "capitals",
    sparsity: Annotated[float, typer.Option(help="Of both circuits: 1 − kept actual edges / all edges.")] = 0.98,
    method: Annotated[str, typer.Option(help="A method of `edgewise bench` (docs/bench.md).")] = "ranking",
    steps: Annotated[int | None, typer.Option(help="Of a learned method; its own if not given.")] = None,
    train: Annotated[int, typer.Option(help="Training pairs of each form, at most.")] = 200,
    validation: Annotated[int, typer.Option(help="Validation pairs, at most.")] = 100,
    test: Annotated[int, typer.Option(help="Test pairs, at most.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the pairs and of the method.")] = 0,
    jobs: Annotated[int, typer.Option(help="Processes, each with a model of its own.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads of each; the cores shared out if not given.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, …")] = "cpu",
    write: Annotated[Path | None, typer.Option(help="Also write a page (.md).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """One behaviour by instruction and by examples: two circuits, what they share, each on the other's prompts."""
    from edgewise.bench import prompting_page, study_prompting

    check_page(write)
    quiet()
    settings = {"method": method} | ({} if steps is None else {"steps": steps})
    found = study_prompting(
        model,
        out,
        behaviour=behaviour,
        sparsity=sparsity,
        method=settings,
        sizes=(train, validation, test),
        seed=seed,
        jobs=jobs,
        threads=threads,
        device=device,
        say=lambda line: print(line, file=sys.stderr),
    )
    if write is not None:
        given = [each for each in sys.argv[1:] if each != "--json"]
        write_atomically(write, prompting_page(found, command=shlex.join(["edgewise", *given])))
    if as_json:
        print(found.to_json())
        return
    for form, ability in found.ability.items():
        if ability.complaint:
            _show.notes([f"warning: {form}: {ability.complaint}"])
    _show.comparison(found.comparison)
    print(f"study -> {out / 'study.json'}")
