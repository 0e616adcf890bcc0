"""`edgewise attribute`, and what a user can get wrong."""

import json
from pathlib import Path

import pytest

from edgewise.attribution import AttributionGraph, MergedGraph
from tests.cli.commands import Cli, files

PROMPT = "Mary ran to the mat and Ann sat on the"


def test_a_graph_of_neurons(cli: Cli, model: Path, tmp_path: Path):
    ran = cli("attribute", PROMPT, "--model", model, "--target", " mat", "--out", tmp_path)
    assert ran.status == 0, ran
    assert "residual" in ran.out and "into mat" in ran.out, ran
    graph = AttributionGraph.load(tmp_path / "graph.safetensors")
    assert graph.ledger.worst < 1e-5
    assert AttributionGraph.load(tmp_path / "pruned.safetensors").n_edges < graph.n_edges


def test_many_prompts_and_a_contrast(cli: Cli, model: Path, tmp_path: Path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": PROMPT}, {"prompt": PROMPT.replace("Mary", "Lee")}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    given = ("--model", model, "--contrast", " mat", " rug", "--out", out, "--validate", "--max-nodes", 40)
    ran = cli("attribute", path, *given)
    assert ran.status == 0, ran
    merged = MergedGraph.load(out / "merged.safetensors")
    assert merged.n_prompts == 2
    assert json.loads((out / "validation.json").read_text())
    assert (out / "0001" / "graph.safetensors").is_file()


def test_prompts_with_other_numbers_of_roots_are_validated_and_not_merged(cli: Cli, model: Path, tmp_path: Path):
    path, out = tmp_path / "prompts.jsonl", tmp_path / "out"
    rows = [{"prompt": PROMPT, "target": [" mat"]}, {"prompt": PROMPT, "target": [" mat", " rug"]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = cli("attribute", path, "--model", model, "--out", out, "--validate", "--max-nodes", 40)
    assert ran.status == 0 and "not merged: the prompts have different numbers of roots" in ran.out
    assert (out / "validation.json").is_file() and not (out / "merged.safetensors").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((PROMPT, "--target", " giraffe house"), "tokens; give one"),
        ((PROMPT, "--target", " mat", "--contrast", " mat", " rug"), "leave --target out"),
        ((PROMPT, "--contrast", " mat", " mat"), "two different"),
        ((PROMPT, "--target", "m9.n1@1"), "the model has 2 layers"),
        (("Mary",), "needs two at least"),
        ((" ".join(["Mary"] * 40),), "the model has 32 positions"),
        (("prompts.txt",), "no such file"),
        ((PROMPT, "--set", "keep=2"), "at most 1"),
        ((PROMPT, "--set", "gate=none"), "half"),
        ((PROMPT, "--max-nodes", "0"), "at least 1"),
        ((PROMPT, "--bos"), "has no BOS token"),
        ((PROMPT, "--node-threshold", "7"), "0 to 1"),
    ],
)
def test_wrong_choices_are_refused(cli: Cli, model: Path, tmp_path: Path, given: tuple[str, ...], said: str):
    assert said in cli.refused("attribute", *given, "--model", model, "--out", tmp_path)
    assert not files(tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "a b", "targets": " mat"}', "there is no key 'targets'"),
        ("{", "not JSON"),
        ("[]", "no prompt"),
        ('{"prompt": "a b", "target": 3}', "target and contrast are a text"),
    ],
)
def test_files_that_are_no_prompts(cli: Cli, model: Path, tmp_path: Path, line: str, said: str):
    path = tmp_path / "prompts.jsonl"
    path.write_text(line + "\n")
    assert f"line 1: {said}" in cli.refused("attribute", path, "--model", model, "--out", tmp_path / "out")
