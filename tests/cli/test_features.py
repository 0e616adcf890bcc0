"""`find` and `evaluate` with transcoders, and what a user can get wrong."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgewise.circuit import Circuit
from tests.cli.commands import Cli
from tests.cli.test_transcoder import text, trained

__all__ = ["text", "trained"]  # fixtures


@pytest.fixture
def transcoders(trained: Path) -> tuple[Path, ...]:
    """One for each of the two layers."""
    return tuple(trained / f"layer{layer}.transcoder.topk2.safetensors" for layer in (0, 1))


def test_find_and_judge_a_circuit_of_features(
    cli: Cli, model: Path, pairs: Path, transcoders: tuple[Path, ...], trained: Path, tmp_path: Path
):
    given = [part for path in transcoders for part in ("--transcoders", path)]
    ran = cli("find", "--model", model, "--task", pairs, "--method", "eap", "--sparsity", 0.8, "--out", tmp_path,
              "--features-per-layer", 3, *given)  # fmt: skip
    assert ran.status == 0 and "features 6 in layers 0, 1" in ran.out, ran
    path = tmp_path / "circuit.safetensors"
    circuit = Circuit.load(path)
    assert [len(chosen) for _, chosen in circuit.graph.spec.features] == [3, 3]
    ran = cli("evaluate", path, *given, "--json", "--baselines", "none")
    assert ran.status == 0, ran
    found = json.loads(ran.out)
    assert found["actual_edges"] == circuit.n_actual
    assert found["conditions"]["transcoders"] == circuit.provenance["transcoders"]
    ran = cli("curve", path, tmp_path / "curve.png", *given, "--sparsities", "0.5,0.8")
    assert ran.status == 0, ran

    areas = [json.loads(cli("mib", path, "--no-bos", "--json", *each).out) for each in ((), given)]
    assert areas[0] == areas[1] and areas[0]["edges"] == circuit.graph.n_edges

    own = cli("evaluate", path, "--json", "--baselines", "none")  # with those that the circuit says it was found with
    assert own.status == 0 and json.loads(own.out)["metrics"] == found["metrics"]
    silent = {name: value for name, value in circuit.provenance.items() if name != "candidates"}
    replace(circuit, provenance=silent).save(tmp_path / "silent.safetensors")
    refusal = cli.refused("evaluate", tmp_path / "silent.safetensors")
    assert "features of layers 0, 1; give their transcoders with --transcoders" in refusal
    moved = {"candidates": {"features": {"transcoders": ["nobody/transcoders"]}}}
    replace(circuit, provenance=circuit.provenance | moved).save(tmp_path / "moved.safetensors")
    refusal = cli.refused("evaluate", tmp_path / "moved.safetensors")
    assert "its transcoders were at nobody/transcoders; give them with --transcoders" in refusal
    foreign = tmp_path / "t" / "layers.1.mlp"
    assert cli("transcoder", "convert", transcoders[1], foreign, "--to", "sparsify").status == 0
    run = ("find", "--model", model, "--task", pairs, "--method", "eap", "--features-per-layer", 3)
    ran = cli(*run, "--transcoders", foreign, "--exclude-special", "--out", tmp_path / "b")
    assert ran.status == 0, ran
    (said,) = Circuit.load(tmp_path / "b" / "circuit.safetensors").provenance["transcoders"].values()
    assert said["exclude_special"]
    ran = cli("evaluate", tmp_path / "b" / "circuit.safetensors", "--transcoders", foreign, "--baselines", "none")
    assert ran.status == 0, ran
    assert "of --transcoders, and none are given" in cli.refused(*run, "--exclude-special", "--out", tmp_path / "c")

    other = [trained / f"layer{layer}.transcoder.relu@0.01.safetensors" for layer in (0, 1)]
    wrong = [part for each in other for part in ("--transcoders", each)]
    assert "of another transcoder than the engine's" in cli.refused("evaluate", path, *wrong)
    assert cli("draw", path, tmp_path / "circuit.png").status == 0


def test_circuits_of_different_features_are_compared(
    cli: Cli, model: Path, pairs: Path, transcoders: tuple[Path, ...], trained: Path, tmp_path: Path
):
    given = [part for path in transcoders for part in ("--transcoders", path)]
    found = {}
    for name, n, more in (("few", 2, given), ("many", 4, given), ("plain", 0, [])):
        ran = cli("find", "--model", model, "--task", pairs, "--method", "eap", "--sparsity", 0.5, "--out",
                  tmp_path / name, *(["--features-per-layer", n, *more] if more else []))  # fmt: skip
        assert ran.status == 0, ran
        found[name] = tmp_path / name / "circuit.safetensors"
    ran = cli("compare", *found.values(), "--out", tmp_path / "c.json", "--json")
    assert ran.status == 0 and ran.err == "", ran
    row = json.loads(ran.out)
    assert row == json.loads((tmp_path / "c.json").read_text())
    assert set(row["judged"]["pairs"]) == {"full", *found} and row["conditions"]["differ"] == ["features"]
    assert {"shared_nodes", "name_only"} <= set(row["pairs"][0]) and row["in_all"] == []  # one has no features
    for name, path in found.items():
        alone = json.loads(cli("evaluate", path, "--json", "--baselines", "none").out)
        assert row["judged"]["pairs"][name]["kl"]["value"] == pytest.approx(alone["metrics"]["kl"]["value"], rel=1e-5)
    assert json.loads(cli("compare", *found.values(), "--json", *given).out) == row
    table = " ".join(cli("compare", found["few"], found["many"]).out.split())
    assert "the graphs differ in features" in table and "there is no intersection and no union" in table
    assert re.search(r"few, many: \d+ more are of the same names", table)
    assert re.search(r"features and neurons in all: m[01]\.f\d", table)

    relu = ("--features-per-layer", 2, "--transcoders", trained / "layer0.transcoder.relu@0.01.safetensors")
    ran = cli("find", "--model", model, "--task", pairs, "--method", "eap", "--out", tmp_path / "relu", *relu)
    assert ran.status == 0, ran
    other = tmp_path / "relu" / "circuit.safetensors"
    assert "layer 0 are of one transcoder in few and of another in relu" in cli.refused("compare", found["few"], other)
    assert "leave them out" in cli.refused("compare", found["plain"], found["plain"], *given)


def test_wrong_choices_are_refused_before_the_work(
    cli: Cli, model: Path, pairs: Path, transcoders: tuple[Path, ...], trained: Path, tmp_path: Path
):
    run = ("find", "--model", model, "--task", pairs, "--out", tmp_path, "--transcoders", transcoders[0])
    assert "eap-ig does not run features" in cli.refused(*run, "--method", "eap-ig")
    assert "relevance does not run features" in cli.refused(*run, "--method", "ensemble", "--methods", "eap,relevance")
    assert "interchange or zero, not optimal" in cli.refused(*run, "--ablation", "optimal")
    assert "use at least 0" in cli.refused(*run, "--features-per-layer", -1)
    assert "the transcoders have" in cli.refused(*run, "--features-per-layer", 10**6)
    assert "no such file" in cli.refused(*run[:-1], tmp_path / "nothing")
    assert "give one for each of some layers" in cli.refused(*run[:-1], trained)  # two activations of each layer
