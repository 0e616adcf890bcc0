"""The commands for compiled programs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Exit, Option, Typer

import edgewise as ew
from edgewise import tracr
from edgewise.cli import _options as options
from edgewise.cli import _show
from edgewise.cli._common import load_circuit
from edgewise.cli._print import line, stopped
from edgewise.runs import record_of

app = Typer(
    no_args_is_help=True,
    help="Compile programs with Tracr, compute their true circuits, and find them.",
    add_completion=False,
)

Compiled = Annotated[str, Argument(help="tracr:reverse, tracr:xproportion, or what compile wrote.")]
AblationName = Annotated[Literal["interchange", "zero"], Option("--ablation", help="What removed edges carry.")]
EmbeddingsName = Annotated[Literal["joint", "split"], Option("--embeddings")]
OutputName = Annotated[
    Literal["decoded", "raw"], Option("--output", help="What must stay equal: decoded answers, or raw outputs.")
]


@app.command("compile")
def compile_(
    program: Annotated[str, Argument(help="my_rasp.py:program (the file is run), or a program of Tracr's library.")],
    out: Annotated[Path, Option(help="Folder to write program.safetensors in.")],
    vocab: Annotated[str | None, Option(help="The symbols between commas: a,b,c or 1,2,3.")] = None,
    max_len: Annotated[int | None, Option(help="The most symbols that an input may have.")] = None,
    longest: Annotated[int | None, Option(help="The most symbols of an input to study. Default: max-len.")] = None,
    seed: Annotated[int, Option(help="Seed of the sample of inputs, if there are too many.")] = 0,
) -> None:
    """Compile a RASP program to a model. find, evaluate and these commands then take --model OUT."""
    ew.runs.check_writable(out)
    if program in tracr.LIBRARY:
        if vocab is not None or max_len is not None or longest is not None:
            raise ew.InputError(
                f"tracr compile {program}: the library's programs have their own vocabulary and lengths"
            )
        module = tracr.compile_library(program)
    else:
        if vocab is None or max_len is None:
            raise ew.InputError(f"tracr compile {program}: give its --vocab and --max-len")
        symbols = _symbols(vocab)
        name, found = tracr.load_source(program)
        module = tracr.compile_program(found, symbols, max_len, name=name, longest=longest, seed=seed)
    ew.models.save_compiled(module, out)
    _show.compiled(module, out)


@app.command()
def truth(
    model: Compiled,
    ablation: AblationName = "interchange",
    embeddings: EmbeddingsName = "joint",
    output: OutputName = "decoded",
    out: Annotated[Path | None, Option(help="Also write the result as JSON.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Compute which edges the output needs, and which are enough."""
    if out is not None:
        ew.runs.check_file(out)
    engine = _engine(model, ablation, embeddings)
    with _show.working("trying circuits"):
        found = tracr.find_truth(engine, output)
    if out is not None:
        found.save(out)
    _show.result(found.to_dict(), as_json, _show.truth, found)


@app.command()
def find(
    model: Compiled,
    out: Annotated[Path, Option(help="Folder for circuit.safetensors.")] = Path("runs/program"),
    ablation: AblationName = "interchange",
    embeddings: EmbeddingsName = "joint",
    method: Annotated[Literal["ranking", "edge-pruning"], Option()] = "ranking",
    eliminate: Annotated[bool, Option(help="In the end, remove single edges where that changes nothing.")] = True,
    train: Annotated[int, Option(help="Pairs of inputs to train on.")] = 200,
    seed: Annotated[int, Option(help="Seed of the pairs and of the method.")] = 0,
) -> None:
    """Find the smallest circuit that gives the model's output on every input. You need not know its size."""
    if train < 1:
        raise ew.InputError(f"--train {train}: give at least 1")
    ew.runs.check_writable(out)
    path = out / "circuit.safetensors"
    if path.exists() and not (out / ew.runs.CHECKPOINT).is_file():  # which says whether it is the same run's
        raise ew.InputError(f"{path}: is another run's; choose another folder, or remove it")
    engine = _engine(model, ablation, embeddings)
    task = ew.tasks.program(engine.model.tokenizer, train=train, seed=seed)
    _show.header(engine.model, engine, task)
    agreement = tracr.Agreement(engine)
    run = ew.RunOptions(out=out)
    if method == "ranking":
        scores = tracr.rank_program(engine, task, agreement, seed=seed, options=run)
    else:
        scores = tracr.prune_program(engine, task, seed=seed, options=run)
    if reason := scores.provenance["method"].get("stopped"):
        stopped(reason)
        raise Exit(130)
    circuit = tracr.smallest_agreeing(scores, agreement)
    circuit = tracr.eliminate(circuit, agreement) if eliminate else circuit
    circuit.save(path)
    _show.found(circuit, path)


@app.command()
def compare(
    circuit: Annotated[Path, Argument(help="A circuit.safetensors.")],
    truth: Annotated[Path, Argument(help="The file that `edgewise tracr truth --out` wrote.")],
    picture: Annotated[Path | None, Option("--draw", help="Also draw both: .png, .svg or .pdf.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare a circuit with the true one."""
    if picture is not None:
        ew.report.check_path(picture)
    found, true = load_circuit(circuit), tracr.Truth.load(truth)
    if found.ablation_kind != true.ablation:
        raise ew.InputError(f"{circuit}: found under {found.ablation_kind} ablation, the truth is of {true.ablation}")
    program = record_of(found.provenance, "task").get("name", true.program)
    if program != true.program:
        raise ew.InputError(f"{circuit}: found on the task {program!r}, the truth is of {true.program!r}")
    recovery = tracr.compare(found, true)
    if picture is not None:
        ew.draw_recovery(found, true.edges, picture)
    _show.result(asdict(recovery), as_json, _show.recovery, recovery, true)


@app.command("list")
def list_() -> None:
    """List the programs of Tracr's library, and the inputs that each is compiled for here."""
    for name, entry in tracr.LIBRARY.items():
        shipped = f"; comes with edgewise as tracr:{name}" if f"tracr:{name}" in ew.models.SHIPPED else ""
        line(f"{name}: of {' '.join(map(str, entry.vocabulary))}, up to {entry.max_length} symbols{shipped}")


def _engine(model: str, ablation: Literal["interchange", "zero"], embeddings: Literal["joint", "split"]) -> ew.Engine:
    loaded = ew.load_model(model)
    if not isinstance(loaded.module, ew.models.CompiledTransformer):
        raise ew.InputError(f"model {model!r}: not a compiled program; compile one with `edgewise tracr compile`")
    return ew.Engine(loaded, loaded.graph(embeddings), ew.Ablation(ablation))


def _symbols(text: str) -> list[Any]:
    """Numbers if all are, texts otherwise."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ew.InputError(f"--vocab {text!r}: an empty symbol; separate the symbols by single commas")
    for kind in (int, float):
        try:
            return [kind(part) for part in parts]
        except ValueError:
            continue
    return parts
