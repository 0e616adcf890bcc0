"""`edgewise attribute`, and what a user can get wrong."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgewise.attribution import AttributionConfig, AttributionGraph, MergedGraph, attribute
from edgewise.attribution._grow import Growth
from edgewise.cli import _attribute
from edgewise.runs import RunOptions
from tests.attribution.test_resume import interrupt_at
from tests.cli.commands import Cli, files
from tests.tiny import tiny

PROMPT = "Mary ran to the mat and Ann sat on the"


def test_a_graph_of_neurons(cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shown, step = [], Growth.step
    monkeypatch.setattr(Growth, "step", lambda *given: shown.append(step(*given)) or shown[-1])
    ran = cli("attribute", PROMPT, "--model", model, "--target", " mat", "--out", tmp_path)
    assert ran.status == 0, ran
    assert "residual" in ran.out and "into mat" in ran.out, ran
    graph = AttributionGraph.load(tmp_path / "graph.safetensors")
    assert graph.ledger.worst < 1e-5
    shares = [each["influence without rows"] for each in shown]  # which is no loss
    assert shares and 1 > shares[0] > 0 and shares == sorted(shares, reverse=True)
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
    assert (merged.settings["node_threshold"], merged.settings["edge_threshold"]) == (0.8, 0.98)
    assert json.loads((out / "validation.json").read_text())
    graph = AttributionGraph.load(out / "0001" / "graph.safetensors")
    assert cli("attribute", rows[1]["prompt"], *given[:-5], "--out", tmp_path / "alone", *given[-2:]).status == 0
    alone = AttributionGraph.load(tmp_path / "alone" / "graph.safetensors")  # whatever else its file holds
    assert alone.names == graph.names and alone.weight.tolist() == graph.weight.tolist()


def test_prompts_with_other_numbers_of_roots_are_validated_and_not_merged(cli: Cli, model: Path, tmp_path: Path):
    path, out = tmp_path / "prompts.jsonl", tmp_path / "out"
    rows = [{"prompt": PROMPT, "target": [" mat"]}, {"prompt": PROMPT, "target": [" mat", " rug"]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = cli("attribute", path, "--model", model, "--out", out, "--validate", "--max-nodes", 40)
    assert ran.status == 0 and "not merged: the prompts have different numbers of roots" in ran.out
    assert (out / "validation.json").is_file() and not (out / "merged.safetensors").exists()


@pytest.mark.parametrize(("steps", "at"), [(1, 0), (2, 0)])
def test_an_interrupt_ends_the_command_and_not_one_graph_of_many(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, at: int
):
    path, out = tmp_path / "prompts.txt", tmp_path / "out"
    path.write_text(f"{PROMPT}\n{PROMPT.replace('Mary', 'Lee')}\n")
    given = ("attribute", path, "--model", model, "--contrast", " mat", " rug", "--out", out, "--max-nodes", 40)
    given += ("--set", f"batch={40 // steps}")
    with monkeypatch.context() as patch:
        interrupt_at(patch, at)
        ran = cli(*given)
    assert ran.status == 130 and "stopped: interrupted after step 1" in ran.out and "goes on from there" in ran.out
    assert not (out / "0001").exists() and (out / "0000" / "graph.safetensors").exists() == (steps > 1)
    assert cli(*given).status == 0
    graphs = [AttributionGraph.load(out / each / "graph.safetensors") for each in ("0000", "0001")]
    assert [int(each.nodes.is_kind("neuron").sum()) for each in graphs] == [40, 40]
    assert all("stopped" not in each.provenance["run"] for each in graphs)


def test_roots_of_one_text_are_told_apart(capsys: pytest.CaptureFixture[str]):
    """Tokens that are parts of letters all decode to one."""
    config, quiet = AttributionConfig(max_nodes=20), RunOptions(progress=False)
    graph = replace(attribute(tiny("gpt2"), [1, 2, 3], target=[3, 4], config=config, options=quiet), roots=("�", "�"))
    _attribute._show("abc", graph, graph, graph, Path("out"))
    assert "into �#0" in capsys.readouterr().out


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path: Path):
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\n\na dog\n", "utf-8-sig")
    found = _attribute._read(str(path), None, None)
    assert [each.prompt for each in found] == ["a cat", "a dog"] and found[1].where == f"{path}, line 3: "


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((PROMPT, "--target", " giraffe house"), "tokens; give one"),
        ((PROMPT, "--target", " mat", "--contrast", " mat", " rug"), "leave --target out"),
        ((PROMPT, "--contrast", " mat", " mat"), "is given twice"),
        ((PROMPT, "--target", " mat", "--target", " mat"), "is given twice"),
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
        ('{"prompt": "a b", "target": " mat", "contrast": [" mat", " rug"]}', "both target and contrast"),
        ('{"prompt": "a b", "target": " giraffe house"}', "target ' giraffe house': 2 tokens"),
        ('{"prompt": "a b", "target": []}', "target: an empty list"),
        ('{"prompt": "a b", "contrast": " mat"}', "contrast: of 1 tokens"),
        ('{"prompt": "a"}', "prompt: 1 token"),
    ],
)
def test_files_that_are_no_prompts(cli: Cli, model: Path, tmp_path: Path, line: str, said: str):
    path, out = tmp_path / "prompts.jsonl", tmp_path / "out"
    path.write_text('{"prompt": "a b"}\n' + line + "\n")
    assert f"line 2: {said}" in cli.refused("attribute", path, "--model", model, "--out", out)
    assert not files(out)  # before the first line's graph is made
