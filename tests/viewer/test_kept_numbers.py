"""A page shows numbers as they were measured, of this circuit and its weights, or refuses them in one line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise import InputError
from edgewise.circuit import Circuit
from edgewise.runs import of_other_weights
from edgewise.transcoders import DashboardConfig
from edgewise.viewer import Evidence, read, read_dashboards
from edgewise.viewer._pack import Packer
from tests.viewer.conftest import measured, run

MODEL = {"id": "a/model", "weights_hash": "ab12", "dtype": "float32"}


def kept(folder: Path, model: dict[str, Any]) -> Circuit:
    """A circuit with an evaluation, a curve and evidence that are said to be of a model."""
    shown = run("run")
    circuit = replace(shown.circuit, provenance={"model": MODEL})
    circuit.save(folder / "circuit.safetensors")
    judged = measured(circuit)
    replace(judged, conditions=judged.conditions | {"model": model}).save(folder / "evaluation.json")
    replace(judged, conditions=judged.conditions | {"model": model}).save(folder / "evaluation-other-weights.json")
    assert shown.curve is not None
    replace(shown.curve, conditions=shown.curve.conditions | {"model": model}).save(folder / "curve.json")
    sizes = circuit.n_actual, circuit.graph.n_edges
    Evidence(*sizes, "logit_diff", "test", 1, (), (), model=model).save(folder / "evidence.json")
    return circuit


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        (MODEL, True),
        ({}, True),  # of an earlier version
        (MODEL | {"weights_hash": "cd34", "dtype": "bfloat16"}, True),  # of the same ones, maybe
        (MODEL | {"weights_hash": "cd34"}, False),
    ],
    ids=["its own", "unsaid", "another type", "others"],
)
def test_what_was_measured_on_other_weights_is_left_out(tmp_path: Path, model: dict[str, Any], shown: bool):
    kept(tmp_path, model)
    found = read(tmp_path)
    assert (found.curve is not None, found.evidence is not None, "" in found.evaluations) == (shown,) * 3
    assert "other-weights" in found.evaluations, "its name says so"
    assert [note.split(" is of ")[0] for note in found.notes] == (
        [] if shown else ["evaluation.json", "curve.json", "evidence.json"]
    )
    assert of_other_weights(MODEL, model) is not shown and not of_other_weights({}, model)


def test_evidence_of_earlier_versions_is_read(tmp_path: Path):
    kept(tmp_path, MODEL)
    row = json.loads((tmp_path / "evidence.json").read_text())
    del row["model"]
    (tmp_path / "evidence.json").write_text(json.dumps(row))
    assert Evidence.load(tmp_path / "evidence.json").model == {}


def test_numbers_that_fit_no_float_are_refused_in_evidence(tmp_path: Path):
    kept(tmp_path, MODEL)
    path = tmp_path / "evidence.json"
    prediction = '{"number": 1e999, "clean": [], "corrupted": [], "answers": [], "model": [], "circuit": []}'
    path.write_text(path.read_text().replace('"predictions": []', f'"predictions": [{prediction}]'))
    with pytest.raises(InputError, match="not what `edgewise view --evidence` wrote"):
        Evidence.load(path)


def test_numbers_that_fit_no_float_are_none_in_dashboards(tmp_path: Path):
    huge, long = 10**400, "9" * 5000
    row = {"frac_nonzero": huge, "activations": [{"tokens": ["a", "b"], "values": [huge, 1]}], "feature_index": 3}
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "all.json").write_text(json.dumps({"features": [row, row | {"feature_index": long}]}))
    found = read_dashboards(tmp_path)
    assert set(found) == {(12, 3)}
    assert found[12, 3]["density"] is None and found[12, 3]["contexts"][0]["values"] == [0.0, 1.0]
    (tmp_path / "named.json").write_text(json.dumps({f"m{long}.f1": row, "m1.f2": row}))
    assert set(read_dashboards(tmp_path / "named.json")) == {(1, 2)}


@pytest.mark.parametrize(
    ("values", "kind"), [([0, 256], "u1"), ([-1], "u4"), ([2**31], "i4"), ([np.nan, 1], "u2"), ([-40_000], "i2")]
)
def test_a_number_that_a_page_cannot_hold_is_refused(values: list[float], kind: str):
    with pytest.raises(InputError, match="page: its bins"):
        Packer().add("bins", np.array(values), kind)


def test_the_ends_of_each_kind_are_held():
    packer = Packer()
    for kind in ("u1", "u2", "u4", "i2", "i4"):
        packer.add(kind, np.array([np.iinfo(kind).min, np.iinfo(kind).max]), kind)
    packer.add("none", np.zeros(0), "u1")


def test_bins_are_as_many_as_a_byte_numbers():
    DashboardConfig(quantiles=255)
    with pytest.raises(InputError, match="quantiles 256; give 1 to 255"):
        DashboardConfig(quantiles=256)
