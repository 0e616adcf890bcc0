"""What a user of the command line can get wrong: one line each, and nothing is written."""

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from edgewise.circuit import Circuit
from edgewise.cli._show import out_of_memory
from tests.cli.commands import Cli, files, find


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--sparsity", "1.5", "1.5"),
        ("--sparsity", "-0.1", "-0.1"),
        ("--sparsity", "nan", "nan"),
        ("--method", "magic", "edge-pruning"),
        ("--points", "0", "points"),
        ("--pairs", "0", "pairs"),
        ("--task", "magic", "ioi-t1"),
        ("--task", "missing.jsonl", "missing.jsonl"),
        ("--preset", "magic", "default"),
        ("--ablation", "magic", "magic"),
        ("--embeddings", "magic", "magic"),
        ("--kv", "magic", "magic"),
        ("--device", "magic", "magic"),
        ("--steps", "0", "0"),
        ("--batch-size", "0", "0"),
        ("--log", "magic", "tensorboard"),
        ("--set", "magic=1", "no setting 'magic'"),
        ("--set", "magic", "name=value"),
        ("--set", "decay=maybe", "True or False"),
        ("--threshold", "0.1", "ranking: there is no setting 'threshold'; it has steps"),
        ("--start", "missing.safetensors", "no such file"),
    ],
)
def test_a_wrong_option_of_find_is_refused(
    cli: Cli, model: Path, pairs: Path, tmp_path, option: str, value: str, said: str
):
    out = tmp_path / "out"
    assert said in cli.refused(*find(model, pairs, out, option, value))
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("method", "option", "value", "said"),
    [
        ("mask-ig", "--points", "0", "points"),
        ("eap-ig", "--quadrature", "simpson", "gauss-legendre"),
        ("ensemble", "--methods", "eap,magic", "magic"),
        ("ensemble", "--methods", "eap,ranking", "ranking"),
        ("exact-patching", "--pairs", "0", "pairs"),
        ("edge-pruning", "--preset", "magic", "paper"),
        ("eap", "--ablation", "optimal", "by ranking, edge-pruning"),
        ("ranking-ensemble", "--ablation", "optimal", "by ranking, edge-pruning"),
        ("eap", "--start", "circuit.safetensors", "takes no scores"),
        ("eap", "--share", "tokens", "tokens are for ranking"),
        ("refine", "--steps", "3", "give the ranking's circuit as --start"),
        ("acdc", "--sparsity", "0.5", "threshold, which decides the size"),
        ("eap", "--set", "qk_fix=maybe", "True or False"),
        ("mask-ig", "--set", "explains=beauty", "beauty"),
    ],
)
def test_an_option_that_a_method_does_not_have_or_take_is_refused(
    cli: Cli, model: Path, pairs: Path, tmp_path, method: str, option: str, value: str, said: str
):
    command = find(model, pairs, tmp_path / "out", "--method", method, option, value, size=None)
    assert said in cli.refused(*command)
    assert files(tmp_path) == []


@pytest.mark.parametrize("method", ["eap", "mask-ig"])
@pytest.mark.parametrize("size", [0, -1])
def test_a_wrong_batch_size_of_attribution_is_refused(
    cli: Cli, model: Path, pairs: Path, tmp_path, method: str, size: int
):
    cli.refused(*find(model, pairs, tmp_path / "out", "--method", method, "--batch-size", size))
    assert files(tmp_path) == []


def test_a_refusal_after_the_model_is_loaded_is_one_line_too(cli: Cli, model: Path, tmp_path):
    cli.refused(*find(model, tmp_path / "missing.jsonl", tmp_path / "out"))


def test_a_folder_that_is_no_model_is_refused(cli: Cli, pairs: Path, tmp_path):
    for folder in (tmp_path / "missing", tmp_path):
        for command in (find(folder, pairs, tmp_path / "out"), ["models", "check", folder]):
            assert str(folder) in cli.refused(*command)
    assert files(tmp_path) == []


def test_a_model_that_cannot_be_reached_is_refused(cli: Cli):
    assert "no-such/model" in cli.refused("models", "check", "no-such/model")


@pytest.mark.parametrize("content", ["", "\n\n", "{", "[]\n", '{"clean": "a"}\n'], ids=repr)
def test_a_data_set_that_is_none_is_refused(cli: Cli, model: Path, tmp_path, content: str):
    path = tmp_path / "pairs.jsonl"
    path.write_text(content)
    assert str(path) in cli.refused(*find(model, path, tmp_path / "out"))
    assert files(tmp_path) == [path]


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(cli: Cli, model: Path, pairs: Path, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    for out in (blocked, blocked / "below"):
        assert "cannot be written" in cli.refused(*find(model, pairs, out))
    assert files(tmp_path) == [blocked] and blocked.read_text() == "in the way"


@pytest.mark.parametrize("command", ["evaluate", "draw"])
@pytest.mark.parametrize("content", [None, b"", b"\xff" * 300, b"{}"], ids=repr)
def test_a_file_that_is_no_circuit_is_refused(cli: Cli, tmp_path, command: str, content: bytes | None):
    path = tmp_path / "circuit.safetensors"
    if content is not None:
        path.write_bytes(content)
    picture = [tmp_path / "circuit.png"] if command == "draw" else []
    assert str(path) in cli.refused(command, path, *picture)
    assert files(tmp_path) == ([] if content is None else [path])


def test_a_cut_off_circuit_is_refused(cli: Cli, found: Path, tmp_path):
    path = tmp_path / "circuit.safetensors"
    path.write_bytes(found.read_bytes()[:-10])
    assert str(path) in cli.refused("evaluate", path)


def test_a_circuit_of_another_model_is_refused(cli: Cli, found: Path, shallow: Path, pairs: Path):
    before = files(found.parent)
    ran = cli("evaluate", found, "--model", shallow, "--task", pairs, "--json")
    assert ran.status == 2 and ran.out == ""
    assert len(ran.err.splitlines()) == 1 and "n_layers 2, not 1" in ran.err
    assert files(found.parent) == before


def test_a_circuit_of_another_model_is_refused_in_one_line(cli: Cli, found: Path, shallow: Path, pairs: Path):
    cli.refused("evaluate", found, "--model", shallow, "--task", pairs)


def test_a_circuit_that_names_no_model_or_task_is_refused(cli: Cli, found: Path, model: Path, tmp_path):
    circuit, path = Circuit.load(found), tmp_path / "circuit.safetensors"
    Circuit(circuit.graph, circuit.kept).save(path)
    assert "model" in cli.refused("evaluate", path)
    assert "task" in cli.refused("evaluate", path, "--model", model, "--json")
    assert files(tmp_path) == [path]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--split", "magic", "magic"),
        ("--baselines", "magic", "magic"),
        ("--batch-size", "0", "0"),
        ("--task", "magic", "magic"),
        ("--metrics", "value", "has no outputs"),
        ("--test", "10", "give --task to draw others"),
        ("--seed", "1", "give --task to draw others"),
    ],
)
def test_a_wrong_option_of_evaluate_is_refused(cli: Cli, found: Path, tmp_path, option: str, value: str, said: str):
    copy = tmp_path / "circuit.safetensors"
    copy.write_bytes(found.read_bytes())
    assert said in cli.refused("evaluate", copy, option, value)
    assert files(tmp_path) == [copy]


def test_a_picture_that_cannot_be_drawn_is_refused(cli: Cli, found: Path, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    for out in (tmp_path / "circuit.txt", blocked / "circuit.png"):
        assert out.name in cli.refused("draw", found, out)
    assert files(tmp_path) == [blocked]


def test_pictures_without_matplotlib_are_refused_before_the_work(cli: Cli, found: Path, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("edgewise.cli._app.find", lambda **_: pytest.fail("demo began"))
    for command in (("curve", found, tmp_path / "c.png"), ("demo", "--out", tmp_path / "demo")):
        assert "needs matplotlib" in cli.refused(*command)
    assert files(tmp_path) == []


def test_a_circuit_that_a_full_disk_cuts_short_leaves_nothing(
    cli: Cli, model: Path, pairs: Path, tmp_path, monkeypatch
):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("edgewise.runs._tensors.save_file", full)
    assert "circuit.safetensors" in cli.refused(*find(model, pairs, tmp_path, "--method", "eap"))
    assert files(tmp_path) == []


@pytest.mark.parametrize("command", [["plot"], ["show"], ["evaluate"], ["view"], ["transcoder", "show"]])
def test_a_name_longer_than_files_may_have_is_refused(command: list[str], cli: Cli):
    said = cli.refused(*command, "a" * 5000)
    assert len(said) < 600


@pytest.mark.parametrize(
    "command", ["train", "tune", "evaluate", "sweep", "cache", "show", "score", "dashboard", "weights"]
)
def test_a_text_is_not_read_to_its_token_0(command: str, cli: Cli):
    given = [] if command in ("train", "sweep", "cache") else ["missing"]
    assert "--limit: " in cli.refused("transcoder", command, *given, "--text", "builtin", "--limit", 0)


@pytest.mark.parametrize(
    ("error", "so"),
    [
        (MemoryError(), True),
        (ImportError("x.so: failed to map segment from shared object"), True),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), True),
        (RuntimeError("can't start new thread"), True),
        (ImportError("No module named 'x'"), False),
    ],
)
def test_no_memory_is_one_line_whoever_says_it(error: Exception, so: bool, capsys: Any):
    assert out_of_memory(error) is so
    said = capsys.readouterr().err
    assert said.count("\n") == so and ("out of memory" in said) is so
