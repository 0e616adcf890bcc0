"""`edgewise view`: a page of runs, with evidence where it is asked for; what is wrong is refused in a line."""

import json
import shutil
from pathlib import Path

import pytest

from edgewise.attribution import AttributionGraph, EdgeReasons, merge
from edgewise.circuit import Circuit
from edgewise.viewer import Evidence, read
from tests.cli.commands import Cli, files, find


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


def test_what_was_measured_of_another_circuit_is_left_out(cli: Cli, model: Path, pairs: Path, tmp_path: Path):
    """`find --force` leaves it there, of a circuit of as many edges."""
    path = tmp_path / "circuit.safetensors"
    assert cli(*find(model, pairs, tmp_path, "--method", "eap")).status == 0
    before = Circuit.load(path)
    assert cli("evaluate", path, "--baselines", "none").status == 0
    assert cli("curve", path, tmp_path / "curve.png").status == 0
    assert cli("view", tmp_path, "--no-open", "--evidence", 2).status == 0
    shown = read(tmp_path)
    assert shown.evaluations and shown.curve and shown.evidence and not shown.notes
    assert cli(*find(model, pairs, tmp_path, "--method", "random", "--force")).status == 0
    assert Circuit.load(path).n_actual == before.n_actual
    shown = read(tmp_path)
    assert not shown.evaluations and shown.curve is None and shown.evidence is None
    assert [note.split()[0] for note in shown.notes] == ["evaluation.json", "curve.json", "evidence.json"]


def test_worst_examples_of_another_split_are_not_looked_up_in_the_test_split(cli: Cli, folder: Path):
    circuit, judged = folder / "circuit.safetensors", folder / "evaluation.json"
    assert cli("evaluate", circuit, "--split", "train", "--baselines", "none").status == 0
    row = json.loads(judged.read_text())
    row["worst"] = [each for each in row["worst"] if each["number"] == 1]
    judged.write_text(json.dumps(row))
    assert cli("view", folder, "--no-open", "--evidence", 2).status == 0
    assert [each.number for each in Evidence.load(folder / "evidence.json").predictions] == [0, 1]
    assert cli("evaluate", circuit, "--baselines", "none").status == 0
    judged.write_text(json.dumps(json.loads(judged.read_text()) | {"worst": row["worst"]}))
    assert cli("view", folder, "--no-open", "--evidence", 2).status == 0
    assert [each.number for each in Evidence.load(folder / "evidence.json").predictions] == [1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--out", "{}/page.pdf"), "written as .html"),
        (("--out", "{}/file/page.html"), "cannot be written"),
        (("--labels", "{}/none.json"), "cannot be read"),
        (("--dashboards", "{}/none"), "no dashboards there"),
        (("--difference",), "two attribution graphs"),
        (("{}/file",), "not a circuit file"),
    ],
)
def test_what_is_wrong_is_refused_before_edges_are_examined(
    cli: Cli, folder: Path, tmp_path: Path, wrong: tuple[str, ...], said: str
):
    (tmp_path / "file").write_text("in the way")
    given = (each.format(tmp_path) for each in wrong)
    assert said in cli.refused("view", folder, *given, "--evidence", 2, "--no-open")
    assert not (folder / "evidence.json").exists()


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
    for option in ("--model", "--transcoders"):
        assert f"{option}: is read with --evidence alone" in cli.refused("view", folder, option, "x", "--no-open")
    empty = json.dumps({"nodes": [], "links": [], "metadata": {}})
    (tmp_path / "graph.json").write_text(empty)
    assert "cannot be examined" in cli.refused("view", tmp_path / "graph.json", "--evidence", 3, "--no-open")
    example = {"tokens": ["up"], "tokens_acts_list": [1.0]}
    (boards := tmp_path / "boards").mkdir()
    (boards / "m1.f2.json").write_text(json.dumps({"examples_quantiles": [{"examples": [example]}]}))
    refused = cli.refused("view", tmp_path / "graph.json", "--dashboards", boards, "--no-open")
    assert "none of the graph's features" in refused
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
    merged = tmp_path / "merged.safetensors"
    refused = cli.refused("view", tmp_path / "rug", merged, "--evidence", 3, "--no-open")
    assert "give one of its prompts'" in refused and not (tmp_path / "rug" / "reasons.safetensors").exists()
