"""Cells of a bench: what is asked for later, what methods may be, and what is run once for all of a task."""

import json
from pathlib import Path

import pytest

import edgewise as ew
from edgewise.bench import BenchTable, _cell, run_bench
from tests.bench.test_bench import quietly
from tests.bench.toys import bench_file


def test_a_metric_that_the_pairs_forbid_may_be_asked_for_later(folder: Path, tmp_path: Path):
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    task = tmp_path / "no-wrong.jsonl"
    task.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "wrong_answer"}) + "\n" for row in rows))
    asked = {"tasks": {"name": "names", "task": str(task)}, "methods": ["random"], "seeds": [0]}
    for metrics in (["kl"], ["kl", "logit_diff"], ["kl", "logit_diff"]):
        path = bench_file(folder, tmp_path / "b.yaml", metrics=metrics, **asked)
        table, found = run_bench(path, tmp_path / "out", say=lambda _: None)
        assert not found.failed and {row["metric"] for row in BenchTable.load(table).rows} == {"kl"}
    assert found.done == ()


def test_an_ensemble_of_methods_is_a_method_too(folder: Path, tmp_path: Path):
    methods = [{"method": "ensemble", "methods": ["eap", "information-flow"]}]
    table = quietly(bench_file(folder, tmp_path / "b.yaml", methods=methods, seeds=[0]), tmp_path / "out")
    assert {row["method"] for row in table.rows} >= {"ensemble"}


def test_the_full_model_runs_once_for_all_cells_of_a_task(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_cell, "BATCH", 2)  # several batches, of which the last alone would be kept otherwise
    ran, full = list[int](), ew.Engine._full_hidden
    monkeypatch.setattr(ew.Engine, "_full_hidden", lambda engine, packing: ran.append(1) or full(engine, packing))
    for seeds in ([0], [0, 1, 2]):
        path = bench_file(folder, tmp_path / "b.yaml", methods=["random"], seeds=seeds)
        quietly(path, tmp_path / str(len(seeds)))
        ran.append(0)
    first = ran.index(0)
    assert first > 0 and ran == [1] * first + [0] + [1] * first + [0]
