"""A page is one file that asks for nothing; a run's folder says what stands in it."""

import base64
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import edgewise as ew
from edgewise import InputError
from edgewise.circuit import Circuit
from edgewise.graph import Graph, GraphSpec
from edgewise.viewer import page, read
from tests.viewer.conftest import HOSTILE, measured, run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder, as `find`, `evaluate` and `curve` leave it."""
    one = run("ioi")
    (tmp_path / "ioi").mkdir()
    one.circuit.save(tmp_path / "ioi/circuit.safetensors")
    one.evaluations[""].save(tmp_path / "ioi/evaluation.json")
    assert one.curve is not None
    one.curve.save(tmp_path / "ioi/curve.json")
    return tmp_path / "ioi"


def test_a_page_lets_only_its_own_script_and_style_run():
    text = page([run(HOSTILE)])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy and policy[1].startswith("default-src 'none'; ")
    assert not re.search(r"unsafe|https?:|\*", policy[1])
    for tag in ("script", "style"):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert content
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[1]
    assert text.count("<script") == text.count("</script>") == 3 and "<img" not in text


def test_equal_runs_give_equal_bytes():
    assert page([run("a")]) == page([run("a")])


def test_a_runs_folder_gives_what_lies_in_it(folder: Path):
    found = read(folder)
    assert found.label == "ioi" and found.curve is not None and not found.notes
    assert found.evaluations[""].metrics["kl"].value == 0.43 and found.evaluations[""].worst[0].number == 3
    assert read(folder / "circuit.safetensors").label == "ioi"


def test_measurements_of_another_circuit_are_left_out_and_named(folder: Path):
    other = replace(measured(run("ioi").circuit), actual_edges=3)
    other.save(folder / "evaluation-other.json")
    found = read(folder)
    assert list(found.evaluations) == [""] and "evaluation-other.json" in found.notes[0]


def test_the_circuits_own_numbers_come_first(folder: Path):
    measured(run("ioi").circuit).save(folder / "evaluation-other.json")
    assert list(read(folder).evaluations) == ["", "other"]


def test_what_was_measured_without_the_circuit_is_read(folder: Path):
    judged = measured(run("ioi").circuit)
    replace(judged, removed=judged.metrics).save(folder / "evaluation.json")
    assert read(folder).evaluations[""].removed == judged.metrics
    (folder / "evaluation.json").write_text(judged.to_json().replace('"removed": {}', '"removed": {"kl": 1}'))
    with pytest.raises(InputError, match="evaluation.json: not what `edgewise evaluate` wrote"):
        read(folder)


def test_a_page_is_written_beside_the_run_or_where_it_is_asked_for(folder: Path, tmp_path: Path):
    assert ew.view(folder, show=False) == folder / "circuit.html"
    assert ew.view(folder, folder, show=False) == folder / "circuits.html"
    assert ew.view(run("x").circuit, out=tmp_path / "x.html", show=False).read_text("utf-8").startswith("<!doctype")


def test_what_is_wrong_is_said_in_a_line_and_nothing_is_written(folder: Path, tmp_path: Path):
    (folder / "evaluation.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="evaluation.json: not what `edgewise evaluate` wrote"):
        ew.view(folder, show=False)
    assert not (folder / "circuit.html").exists()
    for arguments, said in (
        ((), "nothing to look at"),
        ((tmp_path,), "no circuit.safetensors"),
        ((run("x"),), "give out="),
    ):
        with pytest.raises(InputError, match=said):
            ew.view(*arguments, show=False)
    with pytest.raises(InputError, match="a page is written as .html"):
        ew.view(folder, out=tmp_path / "x.pdf", show=False)


def test_a_notebook_shows_a_small_picture_and_holds_the_page():
    circuit = run("x").circuit
    shown = replace(circuit, provenance={"task": {"name": HOSTILE}})._repr_html_()
    assert shown.index("<svg") < shown.index("<iframe")
    assert "<img" not in shown and 'sandbox="allow-scripts allow-downloads"' in shown


def test_the_small_picture_counts_the_inputs_of_a_feature_once():
    """In its own layer, not in those that it writes to as well."""
    spec = GraphSpec(3, 2, 2, features=((0, (1,)), (2, ())), cross_layer=((0, (2,)),))
    graph = Graph(spec)
    kept = torch.zeros(graph.n_edges, dtype=torch.bool)
    names = ("embed -> m0.f1", "a0.h0 -> m0.f1", "m0.f1>2 -> logits", "embed -> a0.h0.v")
    kept[[graph.edge_id(name) for name in names]] = True
    shown = Circuit(graph, kept)._repr_html_()
    assert "<title>m0: 2 edges" in shown and "<title>m2: 1 edges" in shown and "<title>a0.h0: 2 edges" in shown


def test_a_name_that_utf8_cannot_hold_is_no_obstacle():
    """As that of a folder may be."""
    assert "<title>caf?</title>" in page([run("caf\udce9")]).encode().decode()


def test_dashboards_without_a_graph_are_refused(folder: Path, tmp_path: Path):
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "m1.f2.json").write_text('{"top_logits": ["a"]}')
    with pytest.raises(InputError, match="dashboards stand beside a graph's features"):
        ew.view(folder, dashboards=tmp_path / "boards", show=False)
    assert not (folder / "circuit.html").exists()


@pytest.mark.parametrize(
    ("methods", "shown"),
    [(("eap", "ranking"), ["eap"]), (("mask-ig", "ranking"), []), (("ranking",), ["ranking"])],
)
def test_of_a_curve_of_several_methods_the_circuits_own_is_shown(
    folder: Path, methods: tuple[str, ...], shown: list[str]
):
    plain = read(folder)
    curve = plain.curve
    assert curve is not None
    circuit = replace(plain.circuit, provenance=plain.circuit.provenance | {"method": {"name": "eap"}})
    circuit.save(folder / "circuit.safetensors")
    points = tuple(curve.points[0]._replace(method=name) for name in methods)
    replace(curve, points=points).save(folder / "curve.json")
    found = read(folder)
    assert [point.method for point in (found.curve.points if found.curve else ())] == shown
    assert any("several methods" in note for note in found.notes) == (len(methods) > 1)
