"""What every command shares: version, completion, colours, exit statuses, options from a file, results in the way."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

import edgewise
from edgewise.circuit import Circuit
from edgewise.cli import _complete, _print
from edgewise.cli._app import app, main
from edgewise.cli._print import escape, styled
from edgewise.discovery import methods
from edgewise.tasks import TASK_NAMES
from tests.cli.commands import Cli, files, find

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"


def test_the_version(cli: Cli):
    assert cli("--version") == (0, f"edgewise {edgewise.__version__}\n", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(cli: Cli, monkeypatch: pytest.MonkeyPatch, shell: str):
    monkeypatch.setenv("SHELL", f"/bin/{shell}")
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell)
    ran = cli("--show-completion")
    assert ran.status == 0 and "_EDGEWISE_COMPLETE" in ran.out


def test_a_shell_is_offered_methods_and_tasks(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("_EDGEWISE_COMPLETE", "complete_bash")
    for words, wanted in {
        "edgewise fi": ["find"],
        "edgewise find --method rank": ["ranking", "ranking-ensemble"],
        "edgewise methods ac": ["acdc"],
        "edgewise find --sparsi": ["--sparsity"],
    }.items():
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        assert cli().out.split() == wanted, words
    assert _complete.methods("") == list(methods()) and set(TASK_NAMES) <= set(_complete.tasks(""))


def test_files_of_pairs_are_offered_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("my pairs.jsonl", "my[1].csv", "my.png"):
        (tmp_path / name).touch()
    (tmp_path / "my folder").mkdir()
    monkeypatch.chdir(tmp_path)
    assert _complete.tasks("my") == ["my folder", "my pairs.jsonl", "my[1].csv"]
    assert _complete.tasks("my[") == ["my[1].csv"]


def test_no_color_takes_colours_away():
    coloured = re.compile(r"\x1b\[[\d;]*3\dm")
    said = {}
    for own in ({}, {"NO_COLOR": "1"}):
        environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        environment |= {"FORCE_COLOR": "1", "TERM": "xterm-256color", **own}
        command = [sys.executable, "-m", "edgewise", "find", "--help"]
        said[len(own)] = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert coloured.search(said[0]) and not coloured.search(said[1])


# ------------------------------------------------------------------------------------------------------ exit statuses


def ended(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("edgewise.cli._app.app", fail)
    with pytest.raises(SystemExit) as found:
        main()
    return found.value.code


def test_the_page_names_the_statuses_that_there_are(cli: Cli, monkeypatch: pytest.MonkeyPatch):
    said = {int(number) for number in re.findall(r"^\| (\d+) \|", PAGE.read_text("utf-8"), re.MULTILINE)}
    assert cli("tasks", "list").status == 0
    statuses = {0, ended(monkeypatch, MemoryError()), ended(monkeypatch, edgewise.InputError("wrong"))}
    # What Ctrl-C does before a run has begun, and after: `test_resume` and `tests/runs/test_loop.py` hold the result.
    monkeypatch.undo()
    monkeypatch.setattr("edgewise.discovery.methods", _interrupted)
    statuses.add(cli("methods").status)
    assert statuses == said


def _interrupted() -> None:
    raise KeyboardInterrupt


# ------------------------------------------------------------------------------------------------- options from a file


def shown(cli: Cli, *command: Any) -> str:
    ran = cli(*command, "--show-config")
    assert ran.status == 0 and ran.err == "", ran
    return ran.out


def test_options_that_were_shown_are_taken_back(cli: Cli, tmp_path: Path):
    given = ["find", "--method", "ranking", "--task", "ioi-t1", "--set", "learning_rate=0.1", "--no-bos", "--seed", 3]
    text = shown(cli, *given, "--out", tmp_path / "out", "--transcoders", "a", "--transcoders", "b")
    options = yaml.safe_load(text)
    assert (options["method"], options["task"], options["seed"]) == ("ranking", "ioi-t1", 3)
    assert (options["bos"], options["set"], options["transcoders"]) == (False, ["learning_rate=0.1"], ["a", "b"])
    assert "#   learning_rate: 0.1" in text and "#   seed: 3" in text  # what the options make of the method's settings
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert shown(cli, "find", "--config", path) == text
    assert yaml.safe_load(shown(cli, "find", "--config", path, "--seed", 4, "--bos"))["seed"] == 4
    assert files(tmp_path) == [path]


@pytest.mark.parametrize(
    "command",
    [
        ["attribute", "a prompt: # 1", "--contrast", " a", " b", "--set", "max_nodes=7", "--target", "x"],
        ["evaluate", "circuit.safetensors", "--metrics", "kl", "--json"],
        ["transcoder", "train", "--text", "builtin", "--layers", "1-2", "--skip", "--log", "wandb"],
        ["transcoder", "sweep", "--text", "a.txt", "--text", "b.txt"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_other_commands_show_and_take_their_options(cli: Cli, tmp_path: Path, command: list[str]):
    text, path = shown(cli, *command), tmp_path / "run.yaml"
    path.write_text(text)
    n_words = 2 if command[0] == "transcoder" else 1
    assert shown(cli, *command[:n_words], "--config", path) == text


def test_a_run_from_a_file_is_that_of_the_command_line(cli: Cli, model: Path, pairs: Path, tmp_path: Path):
    path, out = tmp_path / "run.yaml", tmp_path / "out"
    given = {
        "model": str(model),
        "task": str(pairs),
        "out": str(out),
        "method": "eap",
        "sparsity": 0.6,
        "set": ["pairs=3"],
    }
    path.write_text(json.dumps(given))  # JSON is YAML
    ran = cli("find", "--config", path, "--sparsity", 0.5)
    assert ran.status == 0, ran
    circuit = Circuit.load(out / "circuit.safetensors")
    assert circuit.provenance["method"]["config"]["pairs"] == 3
    assert 0.4 < circuit.n_actual / circuit.graph.n_edges <= 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sparsety: 0.9", "no option 'sparsety'; use sparsity"),
        ("config: a.yaml", "no option 'config'"),
        ("show-config: true", "no option 'show-config'"),
        ("[1]", "give a mapping"),
        ("a: [", "no YAML"),
        ("seed: true", "no true or false"),
        ("positions: 1", "true or false"),
        ("seed: [1]", "one value"),
        ("set: pairs=3", "a list"),
        ("set: [[a]]", "a list"),
        ("seed: {a: 1}", "one value"),
        ("seed: many", "seed"),
        ("steps: 1.5", "steps"),
        ("method: magic", "magic"),
        ("[" * 1000, "no YAML"),
    ],
    ids=lambda text: text[:20],
)
def test_a_file_that_holds_no_options_is_refused(cli: Cli, tmp_path: Path, text: str, said: str):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert said in cli.refused("find", "--config", path, "--out", tmp_path / "out")
    assert files(tmp_path) == [path]


def test_a_file_that_is_not_there_is_refused(cli: Cli, tmp_path: Path):
    assert "missing.yaml" in cli.refused("find", "--config", tmp_path / "missing.yaml")


# ----------------------------------------------------------------------------------------------- results in the way


@pytest.mark.parametrize(
    ("others", "differs"),
    [
        (("--method", "mask-ig", "--points", 2), "method"),
        (("--set", "pairs=3"), "settings"),
        (("--embeddings", "off"), "graph"),
        (("--ablation", "zero"), "ablation"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_find_does_not_replace_another_runs_circuit(
    cli: Cli, model: Path, pairs: Path, found: Path, tmp_path: Path, others: tuple[Any, ...], differs: str
):
    path = tmp_path / "circuit.safetensors"
    path.write_bytes(found.read_bytes())
    command = find(model, pairs, tmp_path, "--method", "eap", *others)
    said = cli.refused(*command)
    assert str(path) in said and differs in said.split("; other ")[1].split(")")[0] and "--force" in said
    assert path.read_bytes() == found.read_bytes()
    assert cli(*command, "--force").status == 0
    assert path.read_bytes() != found.read_bytes()


def test_another_model_or_task_is_another_run(
    cli: Cli, model: Path, pairs: Path, found: Path, other_weights: Path, tmp_path: Path
):
    (tmp_path / "circuit.safetensors").write_bytes(found.read_bytes())
    other_pairs = tmp_path / "others.jsonl"
    other_pairs.write_text("".join(reversed(pairs.read_text().splitlines(keepends=True))))
    assert "other model" in cli.refused(*find(other_weights, pairs, tmp_path, "--method", "eap"))
    assert "other task" in cli.refused(*find(model, other_pairs, tmp_path, "--method", "eap"))


def test_force_starts_anew_where_a_checkpoint_of_other_settings_is(cli: Cli, model: Path, pairs: Path, tmp_path: Path):
    command = find(model, pairs, tmp_path, "--batch-size", 4, "--steps")
    assert cli(*command, 2).status == 0
    assert "settings" in cli.refused(*command, 3)
    (tmp_path / "circuit.safetensors").unlink()
    assert "checkpoint" in cli.refused(*command, 3)
    assert cli(*command, 3, "--force").status == 0
    assert Circuit.load(tmp_path / "circuit.safetensors").provenance["method"]["steps"] == 3


def test_import_and_export_write_over_nothing_unless_told(cli: Cli, found: Path, model: Path, tmp_path: Path):
    out = tmp_path / "edges.json"
    assert cli("export", found, out).status == 0
    assert "--force" in cli.refused("export", found, out)
    assert cli("export", found, out, "--force").status == 0
    command = ["import", out, "--model", model, "--out", tmp_path / "in", "--task", "copy-colors"]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "circuit.safetensors").write_bytes(b"mine")
    assert "--force" in cli.refused(*command)
    assert (tmp_path / "in" / "circuit.safetensors").read_bytes() == b"mine"


# ----------------------------------------------------------------------------------------------- text from others


def test_what_a_terminal_would_obey_is_shown_instead(cli: Cli, model: Path):
    deceit = "a\x1b]0;title\x07b\rc\x9bd\u202ee"
    shown = r"a\x1b]0;title\x07b\rc\x9bd\u202ee"
    for errors in (False, True):
        _print.line(f"{deceit}\n\tç→", errors=errors)
    said = cli.capfd.readouterr()
    assert said.out == said.err == f"{shown}\n\tç→\n"
    assert _print.escape(deceit) == shown
    assert r"no\x1b[31msuch" in cli.refused("find", "--task", "no\x1b[31msuch", "--model", model)


def test_commands_print_through_what_escapes():
    """But for JSON, which escapes by itself."""
    folder = Path(_print.__file__).parent
    lines = [(path.name, each) for path in folder.glob("*.py") for each in path.read_text("utf-8").splitlines()]
    bare = [(name, each) for name, each in lines if re.match(r"\s*print\(", each) and "json" not in each]
    assert [name for name, _ in bare] == ["_print.py"]


def test_no_default_of_a_command_contradicts_its_type():
    """Python 3.10 reads `None` as "this may be left out" into the type, which typer then does not know."""
    apps: list[Any] = [app, *(found.typer_instance for found in app.registered_groups)]
    commands = [each.callback for some in apps for each in some.registered_commands]
    assert len(commands) > 20
    for command in commands:
        names = {parameter.name for parameter in inspect.signature(command).parameters.values()}
        code = command.__code__
        positional = code.co_varnames[: code.co_argcount]
        given = dict(zip(positional[::-1], (command.__defaults__ or ())[::-1], strict=False))
        for name, default in {**given, **(command.__kwdefaults__ or {})}.items():
            if default is None and name in names:
                said = get_type_hints(command)[name]
                assert type(None) in get_args(said), f"{command.__name__}: {name}"


def test_users_words_are_no_emoji(capsys: pytest.CaptureFixture[str]):
    styled(escape("GET /users/:id: x[a:b:c]"))
    assert capsys.readouterr().out == "GET /users/:id: x[a:b:c]\n"
