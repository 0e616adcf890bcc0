"""`find`, `evaluate` and `plan` with neurons, and what a user can get wrong."""

import json
from pathlib import Path

from edgewise.circuit import Circuit
from tests.cli.commands import Cli


def test_find_and_judge_a_circuit_of_neurons(cli: Cli, model: Path, pairs: Path, tmp_path: Path):
    run = ("find", "--model", model, "--task", pairs, "--method", "eap", "--sparsity", 0.8, "--out", tmp_path)
    ran = cli(*run, "--neurons", 3)
    assert ran.status == 0 and "neurons  6 in 2 layers, and the rest of each MLP" in ran.out, ran
    path = tmp_path / "circuit.safetensors"
    circuit = Circuit.load(path)
    assert [len(groups) for _, groups in circuit.graph.spec.neurons] == [3, 3]
    record = circuit.provenance["candidates"]["neurons"]
    assert record["n"] == 3 and record["split"] == "train" and record["cost"]["backwards_per_example"] == 1
    ran = cli("evaluate", path, "--json", "--baselines", "none")
    assert ran.status == 0, ran
    assert json.loads(ran.out)["actual_edges"] == circuit.n_actual
    assert cli("compare", path, path).status != 0  # the same circuit twice
    assert "does not run features or neurons" in cli.refused(*run[:-2], "--neurons", 3, "--method", "relevance")
    assert "use at least 0" in cli.refused(*run, "--neurons", -1)
    assert "the MLPs have" in cli.refused(*run, "--neurons", 10**6)
    assert "of --transcoders, and none are given" in cli.refused(*run, "--neurons", 3, "--error", "kept")
    assert "interchange or zero, not mean" in cli.refused(*run, "--neurons", 3, "--ablation", "mean")


def test_plan_counts_neurons_and_features(cli: Cli, model: Path):
    sizes = {}
    for options in ((), ("--neurons", 5), ("--features", 5)):
        ran = cli("plan", "--config", model / "config.json", "--json", *options)
        assert ran.status == 0, ran
        sizes[options] = json.loads(ran.out)
    plain, neurons, features = sizes.values()
    assert plain["edges"] < features["edges"] < neurons["edges"]
    bytes_of = [each["modes"]["lean"]["bytes"]["features and neurons kept"] for each in (plain, features, neurons)]
    assert bytes_of[0] == 0 < bytes_of[1] <= bytes_of[2]
