"""The commands."""

import re
import sys
import warnings
from pathlib import Path
from typing import Annotated

from typer import Abort, Exit, Option, Typer
from typer.exceptions import TyperException

import edgewise
from edgewise._errors import InputError
from edgewise._plugins import use_plugins
from edgewise.cli import _dashboard, _feature, _models, _options, _rules, _show, _tasks, _tracr, _transcoder
from edgewise.cli._attribute import attribute
from edgewise.cli._bench import bench, plot
from edgewise.cli._common import kept_models
from edgewise.cli._compare import compare
from edgewise.cli._doctor import doctor
from edgewise.cli._exchange import export_circuit, import_circuit, mib_submission, pull, push
from edgewise.cli._find import find, methods
from edgewise.cli._generate import generate
from edgewise.cli._judge import curve, draw, evaluate
from edgewise.cli._mib import mib
from edgewise.cli._print import line
from edgewise.cli._view import view

app = Typer(no_args_is_help=True, pretty_exceptions_enable=False)
for name, group in {"models": _models, "tasks": _tasks, "tracr": _tracr, "transcoder": _transcoder}.items():
    app.add_typer(group.app, name=name)
for command in (_feature.show, _feature.paths, _dashboard.dashboard, _dashboard.weights, _rules.score):
    _transcoder.app.command()(command)
for command in (find, attribute, methods, evaluate, generate, view, draw, curve):
    app.command()(command)
for command in (_models.plan, bench, plot, mib, compare, doctor):
    app.command()(command)
for command in (push, pull, mib_submission):
    app.command()(command)
app.command("import")(import_circuit)
app.command("export")(export_circuit)

DEMO_TEST = 96  # pairs to judge on: a demonstration is to take some minutes
DEMO_EVIDENCE = 24  # edges whose effects are measured, in a quarter of a minute
LONGEST_NAME = 200  # characters of a file's name that are shown
_CHOICES = re.compile(r": ('[^']*') is not one of (.*?)\.?$", re.DOTALL)
_INVALID = re.compile(r"Invalid value for '?([^']*?)'?: (?:Value error, )?")


def main() -> None:
    """Run the command line; what the user got wrong is one line and exit status 2, a machine too small one and 1."""
    warnings.showwarning = _warn
    try:
        sys.exit(app(prog_name="edgewise", standalone_mode=False))
    except InputError as error:
        sys.exit(_show.refusal(error))
    except TyperException as error:
        message = _INVALID.sub(r"\1: ", error.format_message())
        if (choices := _CHOICES.search(message)) is not None:
            message = f"{message[: choices.start()]} {choices[1]}: choose {choices[2].replace(chr(39), '')}"
        sys.exit(_show.refusal(message) if message else 2)  # none where help is shown, as nothing was asked for
    except Abort:
        sys.exit(130)
    except (RuntimeError, MemoryError, ImportError, OSError) as error:
        if _show.rank_lost(error) or _show.out_of_memory(error):
            sys.exit(1)
        if not isinstance(error, OSError) or error.filename is None:
            raise
        name = str(error.filename)  # too long, on a disk that fails: what no command has words of its own for
        name = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
        sys.exit(_show.refusal(f"{name}: {error.strerror}; give one that can be used"))


def _warn(message: Warning | str, *_: object) -> None:
    """A warning as one line, without where in the code it comes from."""
    line(f"warning: {' '.join(str(message).split())}", errors=True)


def _version(asked: bool) -> bool:
    if asked:
        line(f"edgewise {edgewise.__version__}")
        raise Exit
    return asked


@app.callback()
def commands(
    version: Annotated[
        bool, Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
    plugin: Annotated[
        list[str] | None,
        Option(help="A Python file that adds families, methods, metrics or formats; may be repeated."),
    ] = None,
) -> None:
    """Find circuits in transformers: the few edges between components that carry one behaviour."""
    use_plugins(plugin or ())


@app.command()
def demo(out: _options.Out = Path("runs/demo")) -> None:
    """Find, judge and draw the indirect-object circuit of SmolLM2-135M at 98 % sparsity, then the curve over sizes
    and a page that says why its strongest edges are there. The seed decides everything.
    """
    edgewise.report.check_path(out / "curve.png")  # before the minutes of work, not after them
    with kept_models():
        find(out=out, preset="quick", test=DEMO_TEST, dtype="auto")
        evaluate(out / "circuit.safetensors")
        curve(out / "circuit.safetensors", out / "curve.png")
        for suffix in ("png", "svg"):
            draw(out / "circuit.safetensors", out / f"circuit.{suffix}")
        view([out], evidence=DEMO_EVIDENCE, show=False)
