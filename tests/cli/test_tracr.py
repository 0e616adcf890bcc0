"""The commands for compiled programs."""

import json
from pathlib import Path
from typing import Any

import pytest

from edgewise.tracr import _search
from tests.cli.commands import Cli


def test_truth_find_compare_evaluate(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(_search.RANKING, "steps", 60)
    monkeypatch.setitem(_search.REFINED, "steps", 40)
    ran = cli("tracr", "truth", "tracr:xproportion", "--ablation", "zero", "--out", "truth.json")
    assert ran.status == 0 and "the only minimal set that is enough, 5 edges (all " in ran.out
    assert "5 edges are necessary" in ran.out and "m0 -> a1.h0.v" in ran.out
    plain: dict[str, Any] = json.loads(cli("tracr", "truth", "tracr:xproportion", "--ablation", "zero", "--json").out)
    assert plain == json.loads(Path("truth.json").read_text())
    ran = cli("tracr", "find", "tracr:xproportion", "--ablation", "zero", "--eliminate", "--out", "found")
    assert ran.status == 0 and "5 edges, 5 actual, of 23" in ran.out, ran
    ran = cli("tracr", "compare", "found/circuit.safetensors", "truth.json", "--json", "--draw", "found/both.svg")
    assert json.loads(ran.out)["exact"] and Path("found/both.svg").is_file()
    assert (
        "exactly the true circuit of 5 edges" in cli("tracr", "compare", "found/circuit.safetensors", "truth.json").out
    )
    assert "far from the model" not in cli("evaluate", "found/circuit.safetensors").out
    other = json.loads(Path("truth.json").read_text()) | {"program": "frac"}
    Path("other.json").write_text(json.dumps(other))
    assert "'xproportion', the truth is of 'frac'" in cli.refused(
        "tracr", "compare", "found/circuit.safetensors", "other.json"
    )
    ran = cli("evaluate", "found/circuit.safetensors", "--json")
    metrics = json.loads(ran.out)["metrics"]
    assert set(metrics) == {"l2", "close"} and metrics["close"]["value"] == 1


def test_general_commands_take_programs(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "tracr:reverse" in cli("models", "list").out
    assert "xproportion: of w x y z, up to 5 symbols; comes with edgewise" in cli("tracr", "list").out
    ran = cli(
        "find", "--model", "tracr:reverse", "--task", "program", "--method", "eap", "--out", "eap", "--sparsity", "0.9"
    )
    assert ran.status == 0, ran
    assert "exact_match" in cli("evaluate", "eap/circuit.safetensors").out


def test_what_is_wrong_is_one_line(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("{}")
    refused = cli.refused
    assert "use program" in refused("find", "--model", "tracr:reverse", "--task", "ioi", "--out", "x")
    assert "--ablation 'mean'" in refused("tracr", "truth", "tracr:reverse", "--ablation", "mean")
    assert "--method 'best'" in refused("tracr", "find", "tracr:reverse", "--method", "best")
    assert "give its --vocab" in refused("tracr", "compile", "my.py:program", "--out", "x")
    assert "no such file" in refused("tracr", "compare", "none.safetensors", "bad.json")
    assert "own vocabulary" in refused("tracr", "compile", "sort", "--vocab", "1,2", "--out", "x")
    assert "an empty symbol" in refused(
        "tracr", "compile", "my.py:program", "--vocab", "a,,b", "--max-len", 2, "--out", "x"
    )


def test_a_program_of_the_users_own_is_compiled_and_found(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("tracr", reason="the extra tracr is not installed")
    monkeypatch.chdir(tmp_path)
    Path("my_rasp.py").write_text("from tracr.rasp import rasp\nprogram = rasp.Map(lambda x: x == 'a', rasp.tokens)\n")
    ran = cli("tracr", "compile", "my_rasp.py:program", "--vocab", "a,b,c", "--max-len", "3", "--out", "mine")
    assert ran.status == 0 and "39 inputs" in ran.out, ran
    ran = cli(
        "find", "--model", "mine", "--task", "program", "--sparsity", "0.7", "--method", "mask-ig", "--out", "found"
    )
    assert ran.status == 0, ran
    ran = cli("evaluate", "found/circuit.safetensors", "--json")
    assert json.loads(ran.out)["metrics"]["exact_match"]["value"] == 1, ran


def test_what_a_program_has_no_use_for_is_refused(cli: Cli, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    run = ("find", "--model", "tracr:reverse", "--task", "program", *out)
    assert "a BOS token of their own" in cli.refused(*run, "--bos")
    assert "--train 0: give at least 1" in cli.refused("tracr", "find", "tracr:reverse", "--train", "0", *out)
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "circuit.safetensors").write_bytes(b"another run's")
    assert "is another run's; choose another folder" in cli.refused("tracr", "find", "tracr:reverse", *out)
