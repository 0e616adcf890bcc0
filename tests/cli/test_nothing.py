"""What is said of circuits that do nothing, of one example alone, and of options that would do nothing."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from edgewise.circuit import Circuit
from edgewise.cli._show_transcoder import _cells
from edgewise.graph import EMBED, Ablation
from edgewise.transcoders import Loss
from tests.cli.commands import WORDS, Cli, files, find


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def without_biases(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose components write nothing where they read nothing."""
    folder = tmp_path_factory.mktemp("llama")
    shape: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(WORDS) + 1, bos_token_id=0, eos_token_id=0, initializer_range=0.3, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((model / name).read_bytes())
    return folder


def test_an_empty_circuit_is_said_to_be_one_and_what_to_give(cli: Cli, model: Path, pairs: Path, tmp_path: Path):
    out, method = tmp_path / "eap", ("--method", "eap")
    ran = cli(*find(model, pairs, out, *method, size=0.9999))
    assert ran.status == 0 and "0 edges" in ran.out
    said = re.search(r"no edge is kept, so this is the empty circuit; give --sparsity (0\.\d+) or less", words(ran.out))
    assert said is not None
    for size, some in ((float(said[1]), True), (float(said[1]) + 0.02, False)):
        ran = cli(*find(model, pairs, out, *method, size=size))
        assert bool(Circuit.load(out / "circuit.safetensors").n_actual) == some == ("empty circuit" not in ran.out)
    refused = cli.refused("curve", out / "circuit.safetensors", tmp_path / "c.png", "--sparsities", "0.999,0.9999")
    assert "no circuit of these sizes has an edge that can carry signal" in refused and f"at {said[1]};" in refused
    assert not (tmp_path / "c.png").exists() and not (tmp_path / "c.json").exists()
    acdc = ("--method", "acdc", "--threshold", 1e6, "--pairs", 2)
    ran = cli(*find(model, pairs, tmp_path / "acdc", *acdc, size=None))
    assert ran.status == 0 and "give a lower --threshold" in words(ran.out)


def test_edges_that_carry_zeros_alone_are_told_of(
    cli: Cli, model: Path, without_biases: Path, pairs: Path, tmp_path: Path
):
    """Under zero ablation, where nothing comes from the embedding: with biases the circuit does something."""
    for folder, said in ((without_biases, True), (model, False)):
        out = tmp_path / folder.name
        assert cli(*find(folder, pairs, out, "--method", "eap", "--ablation", "zero")).status == 0
        path = out / "circuit.safetensors"
        circuit = Circuit.load(path)
        assert "embedding" not in words(cli("evaluate", path, "--baselines", "none").out)
        inner = circuit.graph.writer_kind[circuit.graph.edge_writer.long()] != EMBED
        Circuit(circuit.graph, inner, None, circuit.provenance, Ablation("zero")).save(path)
        ran = cli("evaluate", path, "--baselines", "none")
        assert ("none of the kept edges comes from an embedding" in words(ran.out)) == said
        row = json.loads(cli("evaluate", path, "--baselines", "none", "--json").out)
        assert row["actual_edges"] > 0
        assert (row["metrics"]["kl"]["value"] == row["metrics"]["kl"]["empty"]) == said


def test_one_example_has_no_interval(cli: Cli, model: Path, pairs: Path, tmp_path: Path):
    records = [json.loads(each) | {"split": "train"} for each in pairs.read_text().splitlines()]
    records[0]["split"] = "test"
    (one := tmp_path / "one.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    assert cli(*find(model, one, tmp_path / "f", "--method", "eap")).status == 0
    path = tmp_path / "f" / "circuit.safetensors"
    for command in (
        ("evaluate", path, "--baselines", "none"),
        ("curve", path, tmp_path / "c.png", "--sparsities", "0.5"),
    ):
        ran = cli(*command)
        assert ran.status == 0 and "one example: no interval" in words(ran.out), ran
        written = json.loads(cli(*command, "--json").out)
        shown = written["metrics"].values() if command[0] == "evaluate" else written["points"]
        assert shown and all(each["value"] is not None and each["low"] is each["high"] is None for each in shown)
        assert not re.search(r"\d to -?\d", ran.out) and "bootstrap" not in ran.out
        assert "bootstrap" in words(cli(*command, "--split", "train").out)


def test_options_that_would_do_nothing_are_refused(cli: Cli, model: Path, found: Path, pairs: Path, tmp_path: Path):
    for option in ("--test", "--seed"):
        assert f"{option}: {pairs} is a file of pairs" in cli.refused("evaluate", found, "--task", pairs, option, 3)
    assert "--test: " in cli.refused("mib", found, "--task", pairs, "--test", 3, "--no-bos")
    for option in ("--train", "--validation", "--test"):
        assert f"{option} -5: use at least 0" in cli.refused(*find(model, "ioi", tmp_path / "out", option, -5))
        refused = cli.refused(*find(model, pairs, tmp_path / "out", option, 5))
        assert f"{option}: {pairs} is a file of pairs, of which none are drawn" in refused
    for command in (("score", "-n", 3), ("score", "--seed", 3), ("show", "--seed", 3)):
        refused = cli.refused("tasks", command[0], pairs, "--model", model, *command[1:])
        assert f"{command[1]}: {pairs} is a file of pairs" in refused
    refused = cli.refused(*find(model, pairs, tmp_path / "out", "--features-per-layer", 5))
    assert "--features-per-layer: of --transcoders, and none are given" in refused
    assert cli("export", found, tmp_path / "c.json", "--d-model", 16).status == 0
    before = files(tmp_path)
    refused = cli.refused("import", tmp_path / "c.json", "--model", model, "--task", pairs, "--absolute",
                          "--out", tmp_path / "back")  # fmt: skip
    assert "--absolute: it says how --sparsity chooses edges" in refused and files(tmp_path) == before


def test_another_task_is_grouped_as_the_circuits_own_was(cli: Cli, model: Path, pairs: Path, tmp_path: Path):
    """Of a circuit with positions: by changes, which may be fewer there; other groups are refused."""
    assert cli(*find(model, pairs, tmp_path / "f", "--method", "eap", "--positions")).status == 0
    path = tmp_path / "f" / "circuit.safetensors"
    assert Circuit.load(path).graph.spec.spans == ("rest", "last", "change 1", "change 2")
    lines = pairs.read_text().splitlines(keepends=True)
    (same := tmp_path / "same.jsonl").write_text("".join(lines))
    records = [json.loads(each) for each in lines]
    for each in records:  # the second name stays: one change
        each["corrupted"] = f"John ran to the {each['clean'].split()[4]} sat on the"
    records = [each for each in records if not each["clean"].startswith("John")]
    (fewer := tmp_path / "fewer.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    mine = json.loads(cli("evaluate", path, "--baselines", "none", "--json").out)
    other = json.loads(cli("evaluate", path, "--baselines", "none", "--json", "--task", same).out)
    assert other["metrics"] == mine["metrics"]
    for command in (("evaluate", path, "--baselines", "none"), ("mib", path, "--no-bos")):
        assert cli(*command, "--task", fewer).status == 0
    for each in records:
        for key in ("clean", "corrupted"):
            first, _, rest = each[key].partition(" ")
            each[key] = f"<span:who>{first}</span> {rest}"
    (marked := tmp_path / "marked.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    refused = cli.refused("evaluate", path, "--task", marked)
    assert "the circuit's edges carry rest, last, change 1, change 2; mark the same spans in its prompts" in refused


def test_one_row_of_text_has_no_interval():
    for ends, rows, interval in (((None, None), (1.5,), "–"), ((0.4, 0.6), (1.0, 2.0), "0.4000 to 0.6000")):
        assert _cells(Loss(1.5, 0.5, *ends, 0.1, rows)) == ("1.5000", "0.5000", interval, "0.1000")
