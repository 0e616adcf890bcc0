"""Circuits in and out of other tools' files, and side by side, on the command line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgewise.circuit import Circuit
from edgewise.discovery import uniform_scores
from edgewise.graph import Ablation, Graph, GraphSpec
from tests.cli.commands import Cli


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


def test_under_zero_ablation_it_is_said_what_eap_ig_judges_otherwise(
    cli: Cli, found: Path, model: Path, pairs: Path, tmp_path
):
    cli("export", found, tmp_path / "c.json", "--d-model", 16)
    choices = ("--model", model, "--task", pairs, "--out", tmp_path)
    assert "zero ablation" not in cli("import", tmp_path / "c.json", *choices).out
    said = cli("import", tmp_path / "c.json", *choices, "--ablation", "zero", "--force").out
    circuit = tmp_path / "circuit.safetensors"
    for out in (
        said,
        cli("evaluate", circuit, "--baselines", "none").out,
        cli("export", circuit, tmp_path / "z.json", "--d-model", 16).out,
    ):
        words = " ".join(out.split())
        assert all(each in words for each in ("prunes what its `input`", 'embeddings="split"', "value biases")), out


def test_another_size_is_chosen_by_the_files_scores(cli: Cli, found: Path, model: Path, pairs: Path, tmp_path):
    cli("export", found, tmp_path / "c.json", "--d-model", 16)
    choices = ("--model", model, "--task", pairs, "--out", tmp_path, "--sparsity", 0.3, "--absolute")
    assert cli("import", tmp_path / "c.json", *choices).status == 0
    assert 0 < Circuit.load(tmp_path / "circuit.safetensors").n_actual <= 32
    cli("export", found, tmp_path / "edges.json")
    assert "no scores" in cli.refused("import", tmp_path / "edges.json", *choices, "--force")


def test_wrong_exchanges_are_refused(cli: Cli, found: Path, model: Path, shallow: Path, pairs: Path, tmp_path):
    assert "--d-model" in cli.refused("export", found, tmp_path / "c.json")
    assert ".json or .pt" in cli.refused("export", found, tmp_path / "c.csv", "--d-model", 16)
    cli("export", found, tmp_path / "c.json", "--d-model", 16)
    refused = cli.refused("import", tmp_path / "c.json", "--model", shallow, "--task", pairs)
    assert "is of a model of 2 layers of 2 heads, " in refused and "has 1 layers of 2 heads, " in refused
    assert "keys" not in refused  # which the file does not say
    assert "--task" in cli.refused("import", tmp_path / "c.json", "--model", model, "--task", "no")
    assert "--ablation" in cli.refused("import", tmp_path / "c.json", "--model", model, "--ablation", "none")


# --------------------------------------------------------------------------------------------------------------- push


def test_a_card_has_numbers_of_this_circuit_alone(cli: Cli, found: Path, tmp_path, monkeypatch: pytest.MonkeyPatch):
    given = []
    monkeypatch.setattr("edgewise.exchange.push", lambda *_, evaluation, **others: given.append(evaluation))
    path, circuit = tmp_path / "circuit.safetensors", Circuit.load(found)
    circuit.save(path)
    assert cli("evaluate", path, "--baselines", "none").status == 0
    assert "no numbers" not in cli("push", path, "me/ioi").out and given[0]["n"]
    drawn = (uniform_scores(circuit.graph, seed).top_actual(circuit.n_actual) for seed in range(50))
    sizes = circuit.n_edges, circuit.n_actual
    other = next(each for each in drawn if (each.n_edges, each.n_actual) == sizes)
    other.save(path)
    assert "no numbers" in cli("push", path, "me/ioi").out and given[1] is None


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
    whole = Circuit.load(found)
    replace(whole, kept=~whole.kept, scores=None).save(rest := tmp_path / "rest" / "circuit.safetensors")
    rows = cli("compare", found, rest, "--task", pairs).out.replace("│", " ").splitlines()
    assert next(row.split()[1] for row in rows if row.split()[:1] == ["intersection"]) == "0"
    assert "given twice" in cli.refused("compare", found, found)
    assert cli("find", *choices, "--embeddings", "split", "--force").status == 0
    refused = cli.refused("compare", found, other)
    assert "is of another graph than the first (embeddings split, not joint); find both with" in refused
    assert "at least two" in cli.refused("compare", found)


def test_a_submission_to_mib_is_written_or_refused(cli: Cli, tmp_path: Path):
    shapes = {"ioi_gpt2": (12, 12, 12), "mcqa_qwen2.5": (24, 14, 2)}
    for cell, shape in shapes.items():
        graph = Graph(GraphSpec(*shape))
        scores = torch.randn(graph.n_edges, generator=torch.Generator().manual_seed(0))
        Circuit(graph, scores > 1, scores, ablation=Ablation()).save(tmp_path / f"{cell}.safetensors")
    given = [f"{cell}={tmp_path / cell}.safetensors" for cell in shapes]
    ran = cli("mib-submission", *given, "--out", tmp_path / "s", "--format", "pt")
    assert ran.status == 0 and (tmp_path / "s" / "mcqa_qwen2.5" / "importances.pt").is_file(), ran
    assert "kv physical to expanded" in " ".join(ran.out.split())
    assert "--force" in cli.refused("mib-submission", *given, "--out", tmp_path / "s")
    assert "CELL=FILE" in cli.refused("mib-submission", "ioi_gpt2", "--out", tmp_path / "t")
    assert "one circuit" in cli.refused("mib-submission", given[0], given[0], "--out", tmp_path / "t")
    assert "no such file" in cli.refused("mib-submission", "ioi_gpt2=no.safetensors", given[1], "--out", tmp_path / "t")
