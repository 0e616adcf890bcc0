"""What lies beside a result is the result's own: constants, evidence, curves, merged graphs; pages name the commands
that wrote them.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from edgewise.circuit import Circuit
from edgewise.cli._show import compare_weights
from edgewise.engine import Check
from edgewise.runs import reading_tensors, tensor_hash, write_tensors
from edgewise.viewer import Evidence, read
from tests.cli.commands import Cli, files, find
from tests.tiny import tiny

PROMPT = "Mary ran to the mat and Ann sat on the"


@pytest.fixture
def run(found: Path, tmp_path: Path) -> Path:
    """A run of one's own, to write beside."""
    (tmp_path / "run").mkdir()
    return Path(shutil.copy(found, tmp_path / "run" / "circuit.safetensors"))


# ---------------------------------------------------------------------------------------------------------- constants


def constants(path: Path) -> list[torch.Tensor]:
    with reading_tensors(path, "constants", "") as (_, tensors):
        return [tensors[f"constant.{number}"] for number in range(len(tensors))]


@pytest.mark.parametrize("how", [("eap", "mean"), ("ranking", "optimal")], ids=" ".join)
def test_a_circuit_is_judged_with_its_own_constants_alone(
    cli: Cli, model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: tuple[str, str]
):
    method, ablation = how
    short = ("--steps", 2, "--batch-size", 4) if method == "ranking" else ()
    command = find(model, pairs, tmp_path / "run", "--method", method, "--ablation", ablation, *short)
    assert cli(*command).status == 0
    path, beside = tmp_path / "run" / "circuit.safetensors", tmp_path / "run" / "constants.safetensors"
    own, bytes_ = constants(beside), beside.read_bytes()
    assert Circuit.load(path).provenance["constants"] == tensor_hash(*own)
    judge = ("evaluate", path, "--baselines", "none")
    assert cli(*judge).status == 0
    # The same task's name and sizes, from other pairs or another seed.
    with reading_tensors(beside, "constants", "") as (header, _):
        write_tensors(beside, {f"constant.{number}": each + 1 for number, each in enumerate(own)}, header)
    pushed = list[Path]()
    monkeypatch.setattr("edgewise.exchange.push", lambda *_, constants, **__: pushed.append(constants))
    assert "not the constants that circuit.safetensors was found with" in cli.refused(*judge)
    beside.write_bytes(bytes_)
    assert cli("push", path, "me/ioi").status == 0 and pushed == [beside]


def test_pull_brings_constants_along(
    cli: Cli, model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert cli(*find(model, pairs, tmp_path / "hub", "--method", "eap", "--ablation", "mean")).status == 0
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda _, name, **__: str(tmp_path / "hub" / name))
    assert cli("pull", "me/ioi", "--out", tmp_path / "in").status == 0
    assert cli("evaluate", tmp_path / "in" / "circuit.safetensors", "--baselines", "none").status == 0
    (tmp_path / "in" / "circuit.safetensors").unlink()
    assert "constants.safetensors: is there already" in cli.refused("pull", "me/ioi", "--out", tmp_path / "in")
    assert cli("pull", "me/ioi", "--out", tmp_path / "in", "--force").status == 0


# -------------------------------------------------------------------------------------------------------- other weights


def test_evidence_and_curves_of_other_weights_do_not_take_the_place_of_its_own(
    cli: Cli, run: Path, other_weights: Path, monkeypatch: pytest.MonkeyPatch
):
    picture, sizes = run.with_name("curve.png"), ("--sparsities", "0.5")
    assert cli("curve", run, picture, *sizes).status == 0
    before = run.with_name("curve.json").read_bytes()
    assert cli("curve", run, picture, *sizes, "--model", other_weights).status == 0
    assert run.with_name("curve.json").read_bytes() == before
    elsewhere = run.with_name("curve-other-weights.json")
    assert elsewhere.is_file() and elsewhere.with_suffix(".png").is_file()
    monkeypatch.setattr("edgewise.viewer.gather", lambda *_, **__: pytest.fail("edges were patched"))
    said = cli.refused("view", run.parent, "--no-open", "--evidence", 2, "--model", other_weights)
    assert "was found on other weights than the model has" in said
    shutil.copy(elsewhere, run.with_name("curve.json"))  # as versions before this one wrote it
    shown = read(run.parent)
    assert shown.curve is None and shown.notes == ("curve.json is of other weights of the model, so it is not shown.",)


# ------------------------------------------------------------------------------------------- before the work, not after


@pytest.mark.parametrize(
    "command",
    [
        lambda run: ("evaluate", run),
        lambda run: ("view", run.parent, "--no-open", "--evidence", 2),
        lambda run: ("view", run.parent, "--no-open", "--evidence", 2, "--out", run.parents[1] / "page.html"),
        lambda run: ("tracr", "truth", "tracr:reverse", "--out", run.parent / "truth.json"),
    ],
    ids=["evaluate", "view", "view elsewhere", "tracr truth"],
)
def test_a_folder_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[[Path], tuple[Any, ...]]
):
    make = tempfile.mkstemp

    def read_only(**given: Any) -> tuple[int, str]:  # to root no folder is read-only
        if Path(given["dir"]) == run.parent:
            raise PermissionError(13, "Permission denied")
        return make(**given)

    for place in ("edgewise.load_model", "edgewise.cli._common.load"):
        monkeypatch.setattr(place, lambda *_, **__: pytest.fail("the model was loaded"))
    monkeypatch.setattr("edgewise.runs._files.tempfile.mkstemp", read_only)
    assert "cannot be written" in cli.refused(*command(run))


def test_a_folder_is_no_file_for_the_truth(cli: Cli, tmp_path: Path):
    assert "is a folder" in cli.refused("tracr", "truth", "tracr:reverse", "--out", tmp_path)


def test_edges_that_are_not_patched_are_refused_before_the_model_is_loaded(
    cli: Cli, model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert cli(*find(model, pairs, tmp_path, "--method", "eap", "--positions")).status == 0
    monkeypatch.setattr("edgewise.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    command = ("view", tmp_path, "--no-open", "--evidence", 2)
    assert "its graph has positions, whose edges are not patched" in cli.refused(*command)
    assert "--transcoders: of an attribution graph's" in cli.refused(*command, "--transcoders", "none")


# --------------------------------------------------------------------------------------------------- attribution graphs


def test_a_folder_has_the_graphs_of_one_run_of_attribute(cli: Cli, model: Path, tmp_path: Path):
    several, out = tmp_path / "prompts.txt", tmp_path / "out"
    several.write_text(f"{PROMPT}\n{PROMPT.replace('Mary', 'Lee')}\n")
    given = ("--model", model, "--target", " mat", "--max-nodes", 10, "--out", out)
    assert cli("attribute", PROMPT, *given).status == 0
    assert "is of a run of one prompt" in cli.refused("attribute", several, *given)
    assert not (out / "0000").exists()
    assert cli("attribute", several, *given, "--force").status == 0
    assert {path.name for path in files(out) if path.parent == out} == {"merged.safetensors", "checkpoint.safetensors"}
    assert "is of a run of several prompts" in cli.refused("attribute", PROMPT, *given)
    (out / "validation.json").write_text("{}")
    assert cli("attribute", several, *given).status == 0
    assert (out / "validation.json").is_file(), "of these same graphs"
    rows = [{"prompt": each} for each in several.read_text().splitlines()]
    longer = tmp_path / "prompts.jsonl"
    longer.write_text("".join(f"{json.dumps(row)}\n" for row in (*rows, rows[0] | {"target": [" mat", " rug"]})))
    ran = cli("attribute", longer, *given)
    assert "not merged" in ran.out and not any(
        (out / name).exists() for name in ("merged.safetensors", "validation.json")
    )


# ------------------------------------------------------------------------------------------------------- JSON and pages


def test_json_has_null_for_what_is_no_number(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch):
    broken = Check(4, torch.nan, torch.inf, torch.nan, 1e-5)
    monkeypatch.setattr("edgewise.engine.check", lambda *_, **__: broken)
    row = json.loads(cli("models", "check", model, "--json").out, parse_constant=lambda name: pytest.fail(name))
    assert row["passed"] is False and row["max_logit"] is None and row["full_mask_error"] is None


def test_a_page_of_tasks_names_the_command_that_wrote_it(cli: Cli, model: Path, pairs: Path, tmp_path: Path):
    page = tmp_path / "a page.md"
    command = ("tasks", "score", pairs, "--model", model, "--split", "train", "--batch-size", "5")
    assert cli(*command, "--out", page).status == 0
    assert f"Written by `edgewise {' '.join(map(str, command))} --out '{page}'`." in page.read_text()


def test_a_page_of_a_bench_names_the_device(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written = list[str]()
    monkeypatch.setattr("edgewise.bench.BenchConfig.load", lambda path: path)
    monkeypatch.setattr("edgewise.bench.BenchTable.load", lambda path: SimpleNamespace(rows=[{}]))
    monkeypatch.setattr("edgewise.bench.gather", lambda *_: tmp_path / "bench.parquet")
    monkeypatch.setattr("edgewise.report.write_bench", lambda *_, command: written.append(command))
    options = ("--table-only", "--device", "cuda", "--cache", "2.5", "--write", tmp_path / "page.md")
    assert cli("bench", "b.yaml", "--out", tmp_path, *options).status == 0
    assert written == [f"edgewise bench b.yaml --out {tmp_path} --cache 2.5 --device cuda --write {tmp_path}/page.md"]


def test_evidence_says_which_model_was_run(cli: Cli, run: Path):
    assert cli("view", run.parent, "--no-open", "--evidence", 1).status == 0
    evidence = Evidence.load(run.with_name("evidence.json"))
    assert evidence.model == Circuit.load(run).provenance["model"]


def test_one_model_in_two_types_has_the_same_weights(capsys: pytest.CaptureFixture[str]):
    """`find --dtype bf16` and `evaluate` in float32; the hashes are of bytes, and differ."""
    model = tiny("gpt2", torch.float32)
    for changes, other in (({"dtype": "bfloat16"}, False), ({}, True), ({"weights_hash": None}, False)):
        record = model.identity | {"weights_hash": "0" * 64} | changes
        circuit = Circuit(model.graph(), torch.ones(model.graph().n_edges, dtype=torch.bool), None, {"model": record})
        assert compare_weights(circuit, model) == other
        assert ("found on weights 000000000000" in capsys.readouterr().err) == other
