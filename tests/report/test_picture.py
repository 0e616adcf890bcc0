import subprocess
import sys
import time
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch

from edgewise._errors import InputError
from edgewise.graph import GraphSpec
from edgewise.report import check_path, draw
from edgewise.report._caption import conditions, heading
from edgewise.report._strokes import strokes

SVG = "{http://www.w3.org/2000/svg}"


def drawn_edges(path):
    """Number of edges in an SVG: each is its casing and its line."""
    group = next(g for g in ElementTree.parse(path).getroot().iter(f"{SVG}g") if g.get("id") == "edges")
    elements = [*group.iter(f"{SVG}use")] or [*group.iter(f"{SVG}path")]
    return len(elements) / 2


def words(path):
    """The texts of an SVG, which stand as comments above their outlines."""
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG\r\n\x1a\n"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")]
)
def test_suffix_chooses_the_format(small, tmp_path, suffix, start):
    path = tmp_path / f"circuit.{suffix}"
    draw(small, path, dpi=50)
    assert path.read_bytes().startswith(start)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_equal_circuits_give_equal_bytes(small, tmp_path, suffix):
    first, second = tmp_path / f"first.{suffix}", tmp_path / f"second.{suffix}"
    draw(small, first, dpi=50)
    draw(small, second, dpi=50)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    "spec",
    [
        GraphSpec(4, 3, 3),
        GraphSpec(4, 4, 2),
        GraphSpec(3, 4, 1, "split"),
        GraphSpec(3, 4, 2, "off", "expanded"),
        GraphSpec(3, 2, 2, parallel=True),
        GraphSpec(1, 1, 1),
        GraphSpec(3, 4, 2, features=((0, (5,)), (2, (0, 3, 4)))),
        GraphSpec(3, 2, 2, features=((0, (1, 3)), (2, ())), cross_layer=((0, (2,)),), error="kept"),
        GraphSpec(3, 3, 3, "split", neurons=((1, ((1,), (2, 7))),)),
    ],
    ids=str,
)
@pytest.mark.parametrize("scores", [True, False])
def test_every_actual_edge_is_drawn_and_no_other(circuit, tmp_path, spec, scores):
    made = circuit(spec, 0.25, scores=scores)
    draw(made, tmp_path / "circuit.svg")
    assert drawn_edges(tmp_path / "circuit.svg") == made.n_actual


def test_actual_depends_on_the_ablation_in_the_provenance(circuit, tmp_path):
    made = circuit(GraphSpec(5, 4, 4), 0.05, provenance={"ablation": {"kind": "zero"}})
    assert made.n_actual > int(made.graph.prune(made.kept, "interchange").sum())
    draw(made, tmp_path / "circuit.svg")
    assert drawn_edges(tmp_path / "circuit.svg") == made.n_actual


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize("features", [(), ((1, (3, 4)),)])
def test_empty_and_full_circuits(circuit, tmp_path, share, scores, features):
    made = circuit(GraphSpec(3, 2, 2, features=features), share, scores=scores)
    draw(made, tmp_path / "circuit.svg")
    assert drawn_edges(tmp_path / "circuit.svg") == (made.graph.n_edges if share else 0)


def test_features_and_neurons_in_use_are_named(circuit, tmp_path):
    spec = GraphSpec(3, 2, 2, features=((0, (41, 3)), (2, ())), cross_layer=((0, (2,)),), neurons=((1, ((7,),)),))
    made = circuit(spec, 1.0)
    draw(made, tmp_path / "circuit.svg", signed=False)
    text = words(tmp_path / "circuit.svg")
    for part in ("<!-- f41 -->", "<!-- m0.f41 -->", "<!-- n7 -->", "<!-- rest -->", "<!-- error -->"):
        assert part in text
    said = "2 features in 2 layers, those in use drawn · 1 neuron in 1 layer, those in use drawn · error terms scored"
    assert conditions({}, spec).endswith(said)
    for part in ("into a feature", "into a neuron", "one of layer 3, writing here"):
        assert part in text
    kept = torch.zeros(made.graph.n_edges, dtype=torch.bool)
    kept[[made.graph.edge_id(each) for each in ("embed -> m0.f3", "m0.f3>2 -> logits")]] = True
    draw(replace(made, kept=kept), tmp_path / "few.svg")
    text = words(tmp_path / "few.svg")
    assert "<!-- m0.f3 -->" in text and "<!-- f3 -->" in text and "<!-- f41 -->" not in text


def test_caption_counts_kept_actual_and_all_edges(circuit, tmp_path):
    made = circuit(GraphSpec(8, 6, 6), 0.03)
    draw(made, tmp_path / "circuit.svg")
    text = words(tmp_path / "circuit.svg")
    kept, total = made.n_edges, made.graph.n_edges
    assert made.n_actual < kept
    for part in (f"{kept:,} of {total:,} edges kept", f"{made.n_actual:,} of them able to carry signal"):
        assert part in text
    for part in ("ioi in smollm2-135m", "edge-pruning", "interchange (corrupted twin)", "Q4_1 weights"):
        assert part in text


@pytest.mark.parametrize(
    ("provenance", "expected"),
    [
        ({}, "Circuit"),
        ({"task": None, "model": {}}, "Circuit"),
        ({"task": "ioi"}, "ioi"),
        ({"model": {"id": "gpt2", "dtype": "float32"}}, "gpt2"),
        ({"model": "/home/someone/models/mine", "task": "./pairs.jsonl"}, "pairs.jsonl in mine"),
        ({"model": "org/model"}, "org/model"),
    ],
)
def test_missing_provenance_is_left_out(circuit, tmp_path, provenance, expected):
    assert heading(provenance) == expected
    draw(circuit(GraphSpec(2, 2, 2), 0.5, provenance=provenance), tmp_path / "circuit.png", dpi=50)


def test_names_are_shown_literally(circuit, tmp_path):
    name = r"$x^2$ <b>&amp; \frac{1} $ ‖ ünï"
    made = circuit(GraphSpec(2, 2, 2), 0.5, provenance={"task": name, "model": "a\nb\x00\ud800", "method": "$\\bad{"})
    for suffix in ("svg", "png", "pdf"):
        draw(made, tmp_path / f"circuit.{suffix}", dpi=50)
    text = words(tmp_path / "circuit.svg")
    ElementTree.fromstring(text)
    assert r"$x^2$" in text
    assert r"\frac{1} $ ‖ ünï in a b??" in text


def test_a_long_name_is_shortened(circuit, tmp_path):
    made = circuit(GraphSpec(2, 2, 2), 0.5, provenance={"task": "x" * 5000, "method": "y" * 5000})
    draw(made, tmp_path / "circuit.svg")
    assert "x" * 200 not in words(tmp_path / "circuit.svg")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 0.0])
def test_scores_that_are_no_size(small, tmp_path, value):
    small.scores[::2] = value
    draw(small, tmp_path / "circuit.png", dpi=50)
    small.scores[:] = value
    draw(small, tmp_path / "circuit.png", dpi=50)


def test_larger_scores_are_wider_and_darker():
    looks = strokes(torch.tensor([0.1, -2.0, 0.5]).numpy(), torch.tensor([0, 1, 2]).numpy())
    assert list(looks.strength.argsort()) == [0, 2, 1]
    assert looks.strength.max() == 1
    assert [name for name, _ in looks.legend] == ["positive score", "negative score"]


def test_a_ranking_is_weighed_by_value():
    scores, kinds = torch.tensor([-3.0, -1.0, 2.0]).numpy(), torch.tensor([0, 0, 4]).numpy()
    looks = strokes(scores, kinds, signed=False)
    assert list(looks.strength.argsort()) == [0, 1, 2]
    assert [name for name, _ in looks.legend] == ["into q", "into logits"]


@pytest.mark.parametrize("selection", ["absolute", "signed", None])
def test_edges_are_weighed_as_they_were_chosen(small, tmp_path, selection):
    assert (small.scores[small.actual] < 0).any()
    draw(replace(small, selection=selection), tmp_path / "circuit.svg")
    text = words(tmp_path / "circuit.svg")
    assert ("<!-- negative score -->" in text, "<!-- into q -->" in text) == (
        (False, True) if selection == "signed" else (True, False)
    )


def test_colours_told_apart_differ_in_lightness():
    from edgewise.report import _canvas as look

    def lightness(colour):
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    assert abs(lightness(look.POSITIVE) - lightness(look.NEGATIVE)) > 0.25
    inputs = sorted(lightness(colour) for colour in (look.INTO_QUERY, look.INTO_KEY, look.INTO_VALUE))
    assert min(inputs[1] - inputs[0], inputs[2] - inputs[1]) > 0.12


def test_beyond_the_most_only_the_strongest_are_drawn(small, tmp_path):
    draw(small, tmp_path / "circuit.svg", most=5)
    assert drawn_edges(tmp_path / "circuit.svg") == 5
    assert "drawn: 5 of them, the strongest" in words(tmp_path / "circuit.svg")


def test_a_thousand_edges_are_drawn_quickly(circuit, tmp_path):
    made = circuit(GraphSpec(30, 9, 3), 0.024)
    assert 900 < made.n_actual < 1500
    start = time.perf_counter()
    draw(made, tmp_path / "circuit.png")
    assert time.perf_counter() - start < 20  # about 1.5 s on a free core


@pytest.mark.parametrize("name", ["circuit.jpeg", "circuit", "circuit.svgz"])
def test_an_unknown_suffix_is_refused(small, tmp_path, name):
    with pytest.raises(InputError, match=r"choose .png, .svg or .pdf"):
        draw(small, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_missing_matplotlib_is_said_plainly(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(InputError, match=r"pip install edgewise\[plot\]"):
        draw(small, tmp_path / "circuit.png")
    assert not list(tmp_path.iterdir())


def test_missing_matplotlib_is_said_before_there_is_anything_to_draw(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install edgewise\[plot\]"):
        check_path("circuit.png")


def test_a_failure_leaves_the_old_file(small, tmp_path, monkeypatch):
    path = tmp_path / "circuit.png"
    path.write_text("old")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(InputError, match="No space left"):
        draw(small, path)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_the_callers_matplotlib_is_left_alone(small, tmp_path):
    import matplotlib

    matplotlib.rcParams["font.size"] = 31
    try:
        before = dict(matplotlib.rcParams)
        draw(small, tmp_path / "mine.svg")
        assert dict(matplotlib.rcParams) == before
    finally:
        matplotlib.rcdefaults()
    draw(small, tmp_path / "default.svg")
    assert (tmp_path / "mine.svg").read_bytes() == (tmp_path / "default.svg").read_bytes()


def test_matplotlib_is_imported_only_to_draw_and_pyplot_never(tmp_path):
    code = """
import sys
from edgewise.evaluation import Point
from edgewise.report import curve
assert "matplotlib" not in sys.modules
curve([Point("EAP", 10, 1.0)], sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "curve.svg")], check=True)
