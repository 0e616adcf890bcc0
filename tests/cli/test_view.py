"""`edgewise view`: a page of runs, with evidence where it is asked for; what is wrong is refused in a line."""

import json
import shutil
from pathlib import Path

import pytest

from edgewise.attribution import AttributionGraph, EdgeReasons, merge
from edgewise.viewer import Evidence
from tests.cli.commands import Cli, files


@pytest.fixture
def folder(found: Path, tmp_path: Path) -> Path:
    """A run of one's own, to write beside."""
    (tmp_path / "run").mkdir()
    shutil.copy(found, tmp_path / "run" / "circuit.safetensors")
    return tmp_path / "run"


def test_a_page_is_written_and_its_path_is_said(cli: Cli, folder: Path):
    ran = cli("view", folder, "--no-open", "--title", "My run")
    assert ran.status == 0 and ran.out.strip() == f"written to {folder / 'circuit.html'}"
    assert "<title>My run</title>" in (folder / "circuit.html").read_text("utf-8")


def test_evidence_is_gathered_and_stays_beside_the_circuit(cli: Cli, folder: Path):
    assert cli("view", folder, "--no-open", "--evidence", 5).status == 0
    evidence = Evidence.load(folder / "evidence.json")
    assert len(evidence.edges) == 5 and evidence.predictions
    later = cli("view", folder, "--no-open", "--out", folder / "later.html")
    assert later.status == 0 and '"evidence":{' in (folder / "later.html").read_text("utf-8")


def test_a_graph_of_another_tool_stands_in_a_page(cli: Cli, tmp_path: Path):
    path = tmp_path / "graph.json"
    path.write_text(json.dumps({"nodes": [], "links": [], "metadata": {}}))
    assert cli("view", path, "--no-open").status == 0 and (tmp_path / "graph.html").is_file()


def test_what_is_wrong_is_refused_and_nothing_is_written(cli: Cli, folder: Path, tmp_path: Path):
    assert "no such file or folder" in cli.refused("view", tmp_path / "missing", "--no-open")
    assert "written as .html" in cli.refused("view", folder, "--no-open", "--out", tmp_path / "x.pdf")
    assert "0 or more" in cli.refused("view", folder, "--no-open", "--evidence", -1)
    (tmp_path / "list.json").write_text("[1]")
    assert "no lists of nodes and links" in cli.refused("view", tmp_path / "list.json", "--no-open")
    (tmp_path / "cut.json").write_text("{")
    assert "no graph in JSON" in cli.refused("view", tmp_path / "cut.json", "--no-open")
    assert not [path for path in files(tmp_path) if path.suffix == ".html"]


def test_an_attribution_graphs_edges_are_split_and_two_graphs_compared(cli: Cli, model: Path, tmp_path: Path):
    prompts = {"mat": "Mary ran to the mat and Ann sat on the", "rug": "Mary ran to the rug and Ann sat on the"}
    for name, prompt in prompts.items():
        given = ("--model", model, "--target", " mat", "--max-nodes", 20, "--out", tmp_path / name)
        assert cli("attribute", prompt, *given).status == 0
    assert cli("view", tmp_path / "mat", "--no-open", "--evidence", 6).status == 0
    assert len(EdgeReasons.load(tmp_path / "mat" / "reasons.safetensors")) == 6
    assert '"reasons":{' in (tmp_path / "mat" / "graph.html").read_text("utf-8")
    ran = cli("view", tmp_path / "mat", tmp_path / "rug", "--difference", "--no-open", "--out", tmp_path / "both.html")
    text = (tmp_path / "both.html").read_text("utf-8")
    assert ran.status == 0 and '"kind":"difference","names":["mat","rug"]' in text
    assert "two attribution graphs" in cli.refused("view", tmp_path / "mat", "--difference", "--no-open")
    graphs = [AttributionGraph.load(tmp_path / name / "graph.safetensors") for name in prompts]
    merge(graphs).save(tmp_path / "merged.safetensors")
    refused = cli.refused("view", tmp_path / "merged.safetensors", "--evidence", 3, "--no-open")
    assert "give one of its prompts'" in refused
