"""Files that version 0.1 wrote are read, and give the numbers that they gave (see `files-0.1/README.md`)."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import edgewise as ew
from edgewise.bench import BenchTable, run_bench
from edgewise.circuit import Circuit
from edgewise.discovery import Scores
from edgewise.engine import Ablation
from edgewise.evaluation import SizeCurve, judge
from edgewise.runs import CHECKPOINT, reading_tensors
from edgewise.transcoders import Replacement
from edgewise.transcoders.formats import load
from tests.bench.toys import save_model, save_pairs
from tests.discovery.toys import quiet, random_task, toy_engine
from tests.tiny import refused

FILES = Path(__file__).parent / "files-0.1"
DOCS = Path(__file__).parent.parent / "docs/results/circuits"
EXPECTED: dict[str, Any] = json.loads((FILES / "expected.json").read_text())


def judged(engine: Any, circuit: Circuit) -> dict[str, float]:
    found = ew.evaluate(engine, circuit, random_task(), baselines=())
    return {name: row.value for name, row in found.metrics.items()}


def test_a_circuit_has_its_ablation_and_selection():
    circuit, expected = Circuit.load(FILES / "circuit.safetensors"), EXPECTED["circuit"]
    assert circuit.ablation == Ablation("interchange") and circuit.selection == "absolute"
    assert (circuit.n_edges, circuit.n_actual) == (expected["edges"], expected["actual"])
    assert judged(toy_engine("gpt2"), circuit) == pytest.approx(expected["metrics"], abs=1e-6)
    again = Scores.of(circuit).at(0.7, absolute=True)
    assert torch.equal(again.kept, circuit.kept)


def test_a_circuit_of_another_ablation():
    circuit, model = Circuit.load(FILES / "circuit-zero.safetensors"), toy_engine("gpt2").model
    assert circuit.ablation == Ablation("zero") and circuit.selection == "signed"
    assert circuit.n_actual == EXPECTED["zero"]["actual"]
    assert judged(model, circuit) == pytest.approx(EXPECTED["zero"]["metrics"], abs=1e-6)


def test_a_circuit_of_two_ablations():
    circuit = Circuit.load(FILES / "circuit-mixed.safetensors")
    assert circuit.ablation == circuit.ablation_kind == "mixed" and circuit.stated_ablation is None
    assert circuit.n_actual == EXPECTED["mixed"]["actual"]


@pytest.mark.parametrize("name", ["circuit", "circuit-zero", "circuit-mixed"])
def test_a_circuit_written_again_is_the_same(name: str, tmp_path: Path):
    old = Circuit.load(FILES / f"{name}.safetensors")
    old.save(tmp_path / "new.safetensors")
    new = Circuit.load(tmp_path / "new.safetensors")
    assert torch.equal(old.kept, new.kept) and torch.equal(old.actual, new.actual)
    assert (old.ablation, old.selection, old.provenance) == (new.ablation, new.selection, new.provenance)
    bare = replace(new, provenance={})  # what a number depends on is not in there
    assert torch.equal(bare.actual, new.actual) and bare.ablation == new.ablation


def test_constants():
    engine = ew.load_constants(toy_engine("gpt2").model, FILES / "constants.safetensors")
    circuit = replace(Circuit.load(FILES / "circuit.safetensors"), ablation=engine.ablation)
    assert judged(engine, circuit) == pytest.approx(EXPECTED["constants"], abs=1e-6)


def test_a_checkpoint_is_read_and_a_run_with_other_settings_refuses_it(tmp_path: Path):
    with reading_tensors(FILES / CHECKPOINT, "a checkpoint", "") as (header, tensors):
        assert header["step"] == 3 and header["config"]["method"] == "ranking"
        assert {"scores", "optimizer.0.step"} <= set(tensors)
    shutil.copy(FILES / CHECKPOINT, tmp_path)
    config = ew.RankingConfig(steps=3, batch_size=5, warm_examples=4)

    def go_on() -> Scores:
        return ew.learn_ranking(toy_engine("gpt2"), random_task(), replace(config, seed=1), options=quiet(tmp_path))

    assert "belongs to a run with other settings" in refused(go_on)


@pytest.mark.parametrize(("name", "exclude"), [("transcoder", True), ("transcoder-all", False)])
def test_a_transcoder_knows_whether_it_counts_special_tokens(name: str, exclude: bool, tmp_path: Path):
    transcoder, model = load(FILES / f"{name}.safetensors"), toy_engine("gpt2").model
    assert transcoder.spec.exclude_special == exclude
    ids = torch.arange(1, 9)[None] % 50
    ids[0, 3] = 0
    found = Replacement(model, transcoder).logits(ids)[0, -1, :5]
    assert found.tolist() == pytest.approx(EXPECTED[name], abs=1e-6)


def test_a_transcoder_that_lost_its_record_is_refused_until_it_is_said():
    path = FILES / "transcoder-without-record.safetensors"
    assert "nothing says whether its features count special tokens" in refused(lambda: load(path))
    assert load(path, exclude_special=True).spec.exclude_special


def test_an_evaluation_and_a_curve():
    found = ew.evaluate(toy_engine("gpt2"), Circuit.load(FILES / "circuit.safetensors"), random_task(), baselines=())
    old = json.loads((FILES / "evaluation.json").read_text())
    for name, row in found.metrics.items():
        assert row.value == pytest.approx(old["metrics"][name]["value"], abs=1e-6)
    curve = SizeCurve.load(FILES / "curve.json")
    assert curve.metric == "kl" and [point.edges for point in curve.points] == [131, 52]


def test_a_bench_goes_on_from_its_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(FILES / "bench", tmp_path / "bench")
    shutil.copy(FILES / "bench.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy").mkdir()
    save_model(Path("toy/model"))
    save_pairs(Path("toy/pairs.jsonl"))
    before = BenchTable.load(tmp_path / "bench/bench.parquet").rows
    cell = next(tmp_path.rglob("eap/seed-0"))
    (cell / "test.json").unlink()  # to be judged again, from the scores that 0.1 wrote
    path, done = run_bench("bench.yaml", "bench", say=lambda line: None)
    assert not done.failed
    for old, new in zip(before, BenchTable.load(path).rows, strict=True):
        assert old["values"] == pytest.approx(new["values"], abs=1e-6)


@pytest.mark.slow
def test_the_circuits_in_the_documents_have_the_numbers_that_they_had():
    expected = {
        "ioi-polished": {
            "kl": [0.32516047901464773, 0.3708445891615448, 0.09375957146556443],
            "logit_diff": [4.403075172699522, 0.53041108281458, 6.352916260361013],
        },
        "ioi-ranking": {
            "kl": [0.3414848922214651, 0.20308409710651554, 0.0824114661010817],
            "logit_diff": [4.151483023769531, 1.750987615724573, 6.968093699119768],
        },
    }
    model = ew.models.load("smollm2-135m", dtype=torch.float64)  # that the engine reproduces it is tested elsewhere
    circuits = {name: Circuit.load(DOCS / f"{name}.safetensors") for name in expected}
    (record,) = {json.dumps(each.provenance["task"], sort_keys=True) for each in circuits.values()}
    task = ew.tasks.from_provenance(json.loads(record), model.tokenizer)
    for name, metrics in expected.items():
        circuit = circuits[name]
        engine, few = ew.Engine(model, circuit.graph, circuit.stated_ablation), replace(task, test=task.test[:3])
        values = judge(engine, {"it": circuit}, few, "test", names=("kl", "logit_diff"))["it"]
        for metric, numbers in metrics.items():
            assert values[metric].tolist() == pytest.approx(numbers, abs=1e-6)
