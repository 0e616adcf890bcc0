"""The command line: every command on a tiny model, and what a user can get wrong."""

import errno
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils import logging

from edgewise.circuit import Circuit
from edgewise.cli import main
from edgewise.cli._methods import LEARNED, METHODS

WORDS = ["a", "cat", "dog", "ran", "sat", "on", "the", "to", "mat", "rug", "Mary", "Ann", "Lee", "Sue", "John"]
NAMES = ["Mary", "Ann", "Lee", "Sue", "John"]
PNG = b"\x89PNG\r\n\x1a\n"


class Ran(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


class Cli:
    """The command line in this process."""

    def __init__(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capfd, self.monkeypatch = capfd, monkeypatch

    def __call__(self, *arguments: Any) -> Ran:
        self.monkeypatch.setattr(sys, "argv", ["edgewise", *map(str, arguments)])
        self.capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self.capfd.readouterr()
        assert ended.value.code is None or isinstance(ended.value.code, int)
        return Ran(ended.value.code or 0, out, err)

    def refused(self, *arguments: Any) -> str:
        """The one line with which a command is refused."""
        ran = self(*arguments)
        assert ran.status == 2, ran
        # A random model does no task, of which find warns before it runs.
        lines = [line for line in ran.err.splitlines() if not line.startswith("warning: on ")]
        assert len(lines) == 1 and lines[0].startswith("edgewise: "), ran.err
        assert "Traceback" not in ran.out
        return lines[0]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    logging.enable_progress_bar()  # as in a new process; a command of an earlier test may have left it off
    return Cli(capfd, monkeypatch)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 with a tokenizer of whole words, as `save_pretrained` leaves them."""
    folder = tmp_path_factory.mktemp("model")
    vocabulary = {word: number for number, word in enumerate(["[UNK]", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    shape: dict[str, Any] = {"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    config = GPT2Config(vocab_size=len(vocabulary), bos_token_id=0, eos_token_id=0, **shape)
    module = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    module.save_pretrained(folder)
    return folder


@pytest.fixture
def shallow(model: Path, tmp_path: Path) -> Path:
    """A model of one layer less, with the same tokenizer."""
    shape: dict[str, Any] = {"n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    config = GPT2Config(vocab_size=len(WORDS) + 1, bos_token_id=0, eos_token_id=0, **shape)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    return tmp_path


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("task") / "pairs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in _records()))
    return path


def _records() -> Iterator[dict[str, str]]:
    for i, one in enumerate(NAMES):
        for other in NAMES[:i]:
            clean, corrupted = (f"{a} ran to the {b} sat on the" for a, b in ((one, other), (other, one)))
            yield {"clean": clean, "corrupted": corrupted, "answer": " mat", "wrong_answer": " rug"}


@pytest.fixture(scope="session")
def found(model: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A circuit, found once for all tests that only read it."""
    out = tmp_path_factory.mktemp("found")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["edgewise", *map(str, find(model, pairs, out, "--method", "eap"))])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    return out / "circuit.safetensors"


def find(model: Path, pairs: Path, out: Path, *others: Any) -> list[Any]:
    options = {"--model": model, "--task": pairs, "--out": out, "--sparsity": 0.6}
    return ["find", *(x for option in options.items() if option[0] not in others for x in option), *others]


# ------------------------------------------------------------------------------------------------------- what works


@pytest.mark.parametrize("method", [method for method in METHODS if method != "acdc"])
def test_find_writes_a_circuit_of_at_most_the_size_asked_for(cli: Cli, model: Path, pairs: Path, tmp_path, method: str):
    learned = ["--steps", 3, "--batch-size", 4] if method in LEARNED else ["--points", 2, "--pairs", 2]
    ran = cli(*find(model, pairs, tmp_path, "--method", method, *learned))
    assert ran.status == 0, ran.err
    circuit = Circuit.load(tmp_path / "circuit.safetensors")
    assert 0 < circuit.n_actual <= 0.4 * circuit.graph.n_edges
    assert circuit.provenance["method"]["name"] == ("eap-ig-inputs" if method == "eap-ig" else method)
    assert method == "ensemble" or {"examples", "seconds"} < circuit.provenance["cost"].keys()
    assert circuit.provenance["model"]["id"] == str(model) and circuit.provenance["task"]["name"] == "pairs"
    assert f"{circuit.n_edges:,} edges, {circuit.n_actual:,} actual" in ran.out
    # What the user is told has a line each, with the path in one piece, so that it can be copied.
    assert str(tmp_path / "circuit.safetensors") in ran.out
    assert {path.name for path in tmp_path.iterdir()} <= {"circuit.safetensors", "checkpoint.safetensors"}


def test_find_by_acdc_is_as_large_as_its_threshold_makes_it(cli: Cli, model: Path, pairs: Path, tmp_path):
    sizes = []
    for threshold in (0.0001, 0.5):
        out = tmp_path / str(threshold)
        assert cli(*find(model, pairs, out, "--method", "acdc", "--threshold", threshold, "--pairs", 3)).status == 0
        circuit = Circuit.load(out / "circuit.safetensors")
        sizes.append(circuit.n_edges)
        assert circuit.provenance["method"]["threshold"] == threshold and circuit.provenance["cost"]["examples"] == 3
    assert sizes[0] > sizes[1]


def test_a_circuit_with_learned_constants_is_judged_with_them(cli: Cli, model: Path, pairs: Path, tmp_path):
    learned = ("--method", "ranking", "--ablation", "optimal", "--steps", 3, "--batch-size", 4)
    assert cli(*find(model, pairs, tmp_path, *learned)).status == 0
    assert (tmp_path / "constants.safetensors").is_file()
    ran = cli("evaluate", tmp_path / "circuit.safetensors", "--json")
    assert ran.status == 0, ran.err
    assert json.loads(ran.out)["conditions"]["ablation"]["kind"] == "learned"
    (tmp_path / "constants.safetensors").unlink()
    assert "constants" in cli.refused("evaluate", tmp_path / "circuit.safetensors")


def test_find_takes_the_graph_and_ablation_asked_for(cli: Cli, model: Path, pairs: Path, tmp_path):
    choices = ("--embeddings", "split", "--ablation", "zero", "--seed", 3)
    assert cli(*find(model, pairs, tmp_path, "--method", "eap", *choices)).status == 0
    circuit = Circuit.load(tmp_path / "circuit.safetensors")
    assert circuit.graph.spec.embeddings == "split" and circuit.provenance["ablation"]["kind"] == "zero"
    assert circuit.provenance["task"]["arguments"]["seed"] == 3


def test_find_run_again_does_not_repeat_the_work_and_finds_the_same(cli: Cli, model: Path, pairs: Path, tmp_path):
    command = find(model, pairs, tmp_path, "--method", "ranking", "--steps", 3, "--batch-size", 4)
    circuits = []
    for _ in range(2):
        assert cli(*command).status == 0
        circuits.append(Circuit.load(tmp_path / "circuit.safetensors"))
    assert torch.equal(circuits[0].kept, circuits[1].kept)
    scores = [circuit.scores for circuit in circuits]
    assert scores[0] is not None and scores[1] is not None and torch.equal(scores[0], scores[1])
    assert "settings" in cli.refused(*command, "--seed", 1)  # a checkpoint of another run


def test_evaluate_prints_json_and_nothing_else(cli: Cli, found: Path):
    ran = cli("evaluate", found, "--json")
    assert ran.status == 0 and ran.err == ""
    result = json.loads(ran.out)
    circuit = Circuit.load(found)
    assert (result["edges"], result["actual_edges"]) == (circuit.n_edges, circuit.n_actual)
    assert result["total_edges"] == circuit.graph.n_edges and result["n"] == 2
    assert set(result["metrics"]["kl"]) >= {"value", "low", "high", "full", "empty", "random", "eap"}
    assert result["metrics"]["logit_diff"]["random"] is not None
    assert json.loads((found.parent / "evaluation.json").read_text()) == result


def test_evaluate_prints_a_table(cli: Cli, found: Path, pairs: Path, model: Path):
    choices = ("--task", pairs, "--model", model, "--split", "train", "--baselines", "none")
    ran = cli("evaluate", found, *choices)
    assert ran.status == 0 and ran.err == ""
    assert "kl" in ran.out and "logit_diff" in ran.out and "split train" in ran.out


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_draw_draws(cli: Cli, found: Path, tmp_path, suffix: str):
    path = tmp_path / f"circuit.{suffix}"
    ran = cli("draw", found, path)
    assert ran.status == 0, ran.err
    data = path.read_bytes()
    assert data.startswith(PNG) if suffix == "png" else b"<svg" in data
    assert str(path) in ran.out


def test_curve_judges_every_size_and_draws(cli: Cli, found: Path, tmp_path):
    ran = cli("curve", found, tmp_path / "c.png", "--sparsities", "0.3,0.8", "--split", "validation", "--json")
    assert ran.status == 0
    row = json.loads(ran.out)
    large, small = row["points"]
    assert large["edges"] > small["edges"] > 0 and row["conditions"]["split"] == "validation"
    assert (tmp_path / "c.png").read_bytes().startswith(PNG)
    assert json.loads((tmp_path / "c.json").read_text()) == row
    assert "actual edges" in cli("curve", found, tmp_path / "c.svg").out


@pytest.mark.parametrize("sizes", ["", "0.9;0.8", "1", "nan", "0.5,2"])
def test_sizes_that_are_none_are_refused(cli: Cli, found: Path, tmp_path, sizes: str):
    assert "between 0 and 1" in cli.refused("curve", found, tmp_path / "c.png", "--sparsities", sizes)


def test_a_curve_that_cannot_be_drawn_is_refused(cli: Cli, found: Path, tmp_path):
    assert "choose .png" in cli.refused("curve", found, tmp_path / "c.txt")
    bare = tmp_path / "bare.safetensors"
    circuit = Circuit.load(found)
    Circuit(circuit.graph, circuit.kept, None, circuit.provenance).save(bare)
    assert "no scores" in cli.refused("curve", bare, tmp_path / "c.png")


def test_models_check_prints_json_and_nothing_else(cli: Cli, model: Path):
    ran = cli("models", "check", model, "--json")
    assert ran.status == 0 and ran.err == ""
    row = json.loads(ran.out)
    assert row["passed"] is True and row["model"] == str(model) and row["family"] == "gpt2"
    assert row["full_mask_error"] < 1e-4 and row["empty_mask_error"] < 1e-4 and row["edges"] > 0


def test_models_check_prints_a_line(cli: Cli, model: Path):
    ran = cli("models", "check", model)
    assert ran.status == 0 and "accepted" in ran.out and len(ran.out.splitlines()) == 1


def test_models_list_names_them(cli: Cli):
    ran = cli("models", "list")
    assert ran.status == 0 and "smollm2-135m" in ran.out and "gpt2" in ran.out


# ------------------------------------------------------------------------------------------- what a user can get wrong


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--sparsity", "1.5", "1.5"),
        ("--sparsity", "-0.1", "-0.1"),
        ("--sparsity", "nan", "nan"),
        ("--method", "magic", "edge-pruning"),
        ("--points", "0", "points"),
        ("--quadrature", "simpson", "gauss-legendre"),
        ("--of", "eap,magic", "magic"),
        ("--pairs", "0", "pairs"),
        ("--task", "magic", "ioi-t1"),
        ("--task", "missing.jsonl", "missing.jsonl"),
        ("--preset", "magic", "paper"),
        ("--ablation", "magic", "magic"),
        ("--ablation", "mean", "mean"),
        ("--embeddings", "magic", "magic"),
        ("--kv", "magic", "magic"),
        ("--device", "magic", "magic"),
        ("--steps", "0", "0"),
        ("--batch-size", "0", "0"),
        ("--log", "magic", "tensorboard"),
    ],
)
def test_a_wrong_option_of_find_is_refused(
    cli: Cli, model: Path, pairs: Path, tmp_path, option: str, value: str, said: str
):
    out = tmp_path / "out"
    assert said in cli.refused(*find(model, pairs, out, option, value))
    assert _files(tmp_path) == []


@pytest.mark.parametrize("method", ["eap", "mask-ig"])
@pytest.mark.parametrize("size", [0, -1])
def test_a_wrong_batch_size_of_attribution_is_refused(
    cli: Cli, model: Path, pairs: Path, tmp_path, method: str, size: int
):
    cli.refused(*find(model, pairs, tmp_path / "out", "--method", method, "--batch-size", size))
    assert _files(tmp_path) == []


def test_a_refusal_after_the_model_is_loaded_is_one_line_too(cli: Cli, model: Path, tmp_path):
    cli.refused(*find(model, tmp_path / "missing.jsonl", tmp_path / "out"))


def test_a_folder_that_is_no_model_is_refused(cli: Cli, pairs: Path, tmp_path):
    for folder in (tmp_path / "missing", tmp_path):
        for command in (find(folder, pairs, tmp_path / "out"), ["models", "check", folder]):
            assert str(folder) in cli.refused(*command)
    assert _files(tmp_path) == []


def test_a_model_that_cannot_be_reached_is_refused(cli: Cli):
    assert "no-such/model" in cli.refused("models", "check", "no-such/model")


@pytest.mark.parametrize("content", ["", "\n\n", "{", "[]\n", '{"clean": "a"}\n'], ids=repr)
def test_a_data_set_that_is_none_is_refused(cli: Cli, model: Path, tmp_path, content: str):
    path = tmp_path / "pairs.jsonl"
    path.write_text(content)
    assert str(path) in cli.refused(*find(model, path, tmp_path / "out"))
    assert _files(tmp_path) == [path]


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(cli: Cli, model: Path, pairs: Path, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    for out in (blocked, blocked / "below"):
        assert "cannot be written" in cli.refused(*find(model, pairs, out))
    assert _files(tmp_path) == [blocked] and blocked.read_text() == "in the way"


@pytest.mark.parametrize("command", ["evaluate", "draw"])
@pytest.mark.parametrize("content", [None, b"", b"\xff" * 300, b"{}"], ids=repr)
def test_a_file_that_is_no_circuit_is_refused(cli: Cli, tmp_path, command: str, content: bytes | None):
    path = tmp_path / "circuit.safetensors"
    if content is not None:
        path.write_bytes(content)
    picture = [tmp_path / "circuit.png"] if command == "draw" else []
    assert str(path) in cli.refused(command, path, *picture)
    assert _files(tmp_path) == ([] if content is None else [path])


def test_a_cut_off_circuit_is_refused(cli: Cli, found: Path, tmp_path):
    path = tmp_path / "circuit.safetensors"
    path.write_bytes(found.read_bytes()[:-10])
    assert str(path) in cli.refused("evaluate", path)


def test_a_circuit_of_another_model_is_refused(cli: Cli, found: Path, shallow: Path, pairs: Path):
    before = _files(found.parent)
    ran = cli("evaluate", found, "--model", shallow, "--task", pairs, "--json")
    assert ran.status == 2 and ran.out == ""
    assert len(ran.err.splitlines()) == 1 and "n_layers=2" in ran.err and "n_layers=1" in ran.err
    assert _files(found.parent) == before


def test_a_circuit_of_another_model_is_refused_in_one_line(cli: Cli, found: Path, shallow: Path, pairs: Path):
    cli.refused("evaluate", found, "--model", shallow, "--task", pairs)


def test_a_circuit_that_names_no_model_or_task_is_refused(cli: Cli, found: Path, model: Path, tmp_path):
    circuit, path = Circuit.load(found), tmp_path / "circuit.safetensors"
    Circuit(circuit.graph, circuit.kept).save(path)
    assert "model" in cli.refused("evaluate", path)
    assert "task" in cli.refused("evaluate", path, "--model", model, "--json")
    assert _files(tmp_path) == [path]


@pytest.mark.parametrize(
    ("option", "value"), [("--split", "magic"), ("--baselines", "magic"), ("--batch-size", "0"), ("--task", "magic")]
)
def test_a_wrong_option_of_evaluate_is_refused(cli: Cli, found: Path, tmp_path, option: str, value: str):
    copy = tmp_path / "circuit.safetensors"
    copy.write_bytes(found.read_bytes())
    assert value in cli.refused("evaluate", copy, option, value)
    assert _files(tmp_path) == [copy]


def test_a_picture_that_cannot_be_drawn_is_refused(cli: Cli, found: Path, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    for out in (tmp_path / "circuit.txt", blocked / "circuit.png"):
        assert out.name in cli.refused("draw", found, out)
    assert _files(tmp_path) == [blocked]


def test_a_circuit_that_a_full_disk_cuts_short_leaves_nothing(
    cli: Cli, model: Path, pairs: Path, tmp_path, monkeypatch
):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("edgewise.circuit.save_file", full)
    assert "circuit.safetensors" in cli.refused(*find(model, pairs, tmp_path, "--method", "eap"))
    assert _files(tmp_path) == []


def _files(folder: Path) -> list[Path]:
    """Every file below a folder, hidden ones too; an empty folder is no harm."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_plan(cli: Cli, tmp_path: Path):
    GPT2Config(n_layer=2, n_head=4, n_embd=32).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    row = json.loads(cli("plan", "--config", config, "--batch", 4, "--length", 7, "--dtype", "bf16", "--json").out)
    assert row["edges"] == 110 and (row["batch"], row["length"], row["dtype"]) == (4, 7, "bf16")
    for mode in row["modes"].values():
        assert mode["total_bytes"] == sum(mode["bytes"].values())
        assert mode["bytes_above_weights"] == mode["total_bytes"] - mode["bytes"]["weights"]
        assert mode["total_operations"] == sum(mode["operations"].values())
    shown = cli("plan", "--config", config).out
    assert "110 edges" in shown and "lean" in shown and "stack of gradients" in shown


def test_plan_refusals(cli: Cli, tmp_path: Path):
    config = tmp_path / "config.json"
    assert "no such file" in cli.refused("plan", "--config", config)
    config.write_text("{}")
    assert "not a configuration" in cli.refused("plan", "--config", config)
    assert "--batch 0" in cli.refused("plan", "--config", config, "--batch", 0)
    assert "choose float32, bf16" in cli.refused("plan", "--config", config, "--dtype", "int8")


# ----------------------------------------------------------------------------------------------------------- exchange


@pytest.mark.parametrize("name", ["circuit.json", "circuit.pt", "edges.json"])
def test_a_circuit_goes_out_and_comes_back(cli: Cli, found: Path, model: Path, pairs: Path, tmp_path, name: str):
    ran = cli("export", found, tmp_path / name, "--d-model", 16)
    assert ran.status == 0 and f"written to {tmp_path / name}" in ran.out.replace("\n", "")
    ran = cli("import", tmp_path / name, "--model", model, "--task", pairs, "--out", tmp_path / "back")
    assert ran.status == 0, ran
    before, after = Circuit.load(found), Circuit.load(tmp_path / "back" / "circuit.safetensors")
    assert after.edge_names() == before.edge_names()
    judged = [
        json.loads(cli("evaluate", path, "--json").out) for path in (found, tmp_path / "back" / "circuit.safetensors")
    ]
    assert judged[0]["metrics"] == judged[1]["metrics"]


def test_another_size_is_chosen_by_the_files_scores(cli: Cli, found: Path, model: Path, pairs: Path, tmp_path):
    cli("export", found, tmp_path / "c.json", "--d-model", 16)
    choices = ("--model", model, "--task", pairs, "--out", tmp_path, "--sparsity", 0.3, "--absolute")
    assert cli("import", tmp_path / "c.json", *choices).status == 0
    assert 0 < Circuit.load(tmp_path / "circuit.safetensors").n_actual <= 32
    cli("export", found, tmp_path / "edges.json")
    assert "no scores" in cli.refused("import", tmp_path / "edges.json", *choices)


def test_wrong_exchanges_are_refused(cli: Cli, found: Path, model: Path, shallow: Path, pairs: Path, tmp_path):
    assert "--d-model" in cli.refused("export", found, tmp_path / "c.json")
    assert ".json or .pt" in cli.refused("export", found, tmp_path / "c.csv", "--d-model", 16)
    cli("export", found, tmp_path / "c.json", "--d-model", 16)
    assert "is of a model of" in cli.refused("import", tmp_path / "c.json", "--model", shallow, "--task", pairs)
    assert "--task" in cli.refused("import", tmp_path / "c.json", "--model", model, "--task", "no")
    assert "--ablation" in cli.refused("import", tmp_path / "c.json", "--model", model, "--ablation", "none")


# ------------------------------------------------------------------------------------------------------------ compare


def test_compare_prints_what_circuits_share(cli: Cli, found: Path, model: Path, pairs: Path, tmp_path):
    choices = ("--model", model, "--task", pairs, "--method", "eap", "--sparsity", 0.3, "--out", tmp_path / "eap")
    assert cli("find", *choices).status == 0
    other = tmp_path / "eap" / "circuit.safetensors"
    ran = cli("compare", found, other, "--out", tmp_path / "c.json", "--json")
    assert ran.status == 0 and ran.err == "", ran
    row = json.loads(ran.out)
    assert row["pairs"][0]["other"] == "eap" and row == json.loads((tmp_path / "c.json").read_text())
    assert set(row["judged"]["pairs"]) == {"full", found.parent.name, "eap", "intersection", "union"}
    table = cli("compare", found, other, "--task", pairs).out
    assert "IoU" in table and "intersection" in table
    assert "given twice" in cli.refused("compare", found, found)
    assert "at least two" in cli.refused("compare", found)
