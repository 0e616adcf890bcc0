"""Cells of a bench: what is asked for later, what is told apart, and what is run once for all of a task."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import edgewise as ew
from edgewise import InputError
from edgewise.bench import BenchConfig, BenchTable, _cell, _run, gather, run_bench
from edgewise.bench._methods import Job, _from_ladder, find_parts
from edgewise.bench._settings import method_spec, size_name
from edgewise.circuit import Circuit
from edgewise.discovery import Scores
from edgewise.engine import Engine
from edgewise.evaluation import judge
from tests.bench.test_bench import quietly
from tests.bench.toys import bench_file
from tests.discovery.toys import SMALLEST


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


def test_faster_products_give_their_memory_back_before_judging(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    finders = list[Engine]()

    def held(engine: Engine) -> bool:
        return any(store.pinned or store.recent for store in (engine._store, engine._hidden))

    def finds(job: Job) -> Any:
        parts = find_parts(job)
        if job.spec.name == "fast":
            finders.append(job.engine)
            assert held(job.engine)
        return parts

    def judges(engine: Engine, *rest: Any, **named: Any) -> Any:
        assert engine not in finders and not any(map(held, finders))
        return judge(engine, *rest, **named)

    monkeypatch.setattr(_cell, "find_parts", finds)
    monkeypatch.setattr(_cell, "judge", judges)
    fast = {"name": "fast", "method": "ranking", "steps": 1, "batch_size": 4, "matmul": "medium"}
    quietly(bench_file(folder, tmp_path / "b.yaml", methods=[fast], seeds=[0], sparsities=[0.5]), tmp_path / "out")
    assert len(finders) == 1


def refused(path: Path, out: Path, what: str) -> None:
    """Neither is anything found beside what is there, nor is that put into a table."""
    with pytest.raises(InputError, match=f"found with other settings .*{what}"):
        run_bench(path, out)
    with pytest.raises(InputError, match=f"found with other settings .*{what}"):
        gather(BenchConfig.load(path), out)


def test_a_task_s_file_that_was_changed_in_place_is_refused(folder: Path, tmp_path: Path):
    lines = (folder / "pairs.jsonl").read_text().splitlines(keepends=True)
    pairs, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    pairs.write_text("".join(lines))
    asked: dict[str, Any] = {"tasks": {"name": "names", "task": str(pairs)}, "sparsities": [0.5]}
    one, two = (
        bench_file(
            folder, tmp_path / f"{names}.yaml", methods=[{"name": n, "method": "random"} for n in names], **asked
        )
        for names in ("X", "XY")
    )
    quietly(one, out)
    pairs.write_text("".join(lines[:-3]))
    refused(one, out, r"\(task file\)")
    for path in out.rglob("settings.json"):  # as earlier versions wrote it: what the file was, they did not say
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "task file"}))
    quietly(one, out)  # nothing is to be done, and nothing to be told
    with pytest.raises(InputError, match=r"found with other settings \(pairs\)"):
        run_bench(two, out)
    assert not list(out.rglob("Y/*/found.json")), "nothing of other pairs is found beside it"


def test_a_table_is_of_the_methods_that_ran(folder: Path, tmp_path: Path):
    def asked(**line: Any) -> Path:
        return bench_file(folder, tmp_path / "b.yaml", methods=[{"name": "X"} | line], seeds=[0], sparsities=[0.5])

    refined = {"method": "edge-pruning", "steps": 2, "batch_size": 4, "warm_start": 1.0}
    started = refined | {"start": {"method": "random"}}
    for now, later, what in (
        (refined, started, "start"),
        (started, refined, "start"),
        (refined, {"method": "eap"}, ""),
    ):
        out = tmp_path / f"{len(now)} {what}"
        table = quietly(asked(**now), out)
        given = next(json.loads(row["settings"]) for row in table.rows if row["method"] == "X")
        assert given == {key: x for key, x in now.items() if key not in ("method", "start")} | (
            {"start": {"method": "random"}} if "start" in now else {}
        )
        refused(asked(**later), out, what)


def test_several_processes_say_what_they_did(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Here:
        """A process that is none."""

        exitcode = 0

        def __init__(self, target: Any, args: Any, daemon: bool) -> None:
            self.start = lambda: target(*args)

        def join(self) -> None: ...

    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(_run, "get_context", lambda kind: SimpleNamespace(Process=Here))
    asked: dict[str, Any] = {"seeds": [0], "sparsities": [0.5]}
    for methods, done in ((["random"], ["empty", "random"]), (["random", "eap"], ["eap"]), (["random", "eap"], [])):
        path = bench_file(folder, tmp_path / "b.yaml", methods=methods, **asked)
        _, found = run_bench(path, tmp_path / "out", jobs=2, threads=1)
        assert [name.split(" · ")[2] for name in found.done] == done and not found.failed


def test_sizes_that_are_nearly_alike_have_files_of_their_own():
    spec = method_spec({"method": "refine"}, (0.98, 0.9800001, 0.9999999), (0,))
    assert [size_name(size) for size in spec.sparsities] == ["0.98", "0.9800001", "0.9999999"]
    assert [size_name(size) for size in (1.0, 0.5, 1e-5, 3)] == ["1", "0.5", "1e-05", "3"]


@pytest.mark.parametrize("absolute", [False, True])
def test_a_search_s_circuit_loses_the_edges_of_least_change_as_the_search_compared_them(absolute: bool):
    graph = SMALLEST
    change = torch.tensor([0.5, 0.1, -0.9, 0.2, 0.3, -0.6, 0.7, 0.8])
    said = {"method": {"name": "acdc", "config": {"absolute": absolute}}}
    circuit = Circuit(graph, torch.ones(8, dtype=torch.bool), change, said)
    left = _from_ladder([circuit], 0.2).kept  # two of eight go, but for what then carries no signal
    expected = Scores(graph, change.abs() if absolute else change).top_actual(6).kept
    assert torch.equal(left, expected) and bool(left[2]) == absolute


def test_a_file_of_a_cell_that_is_no_object_is_one_line(folder: Path, tmp_path: Path):
    cell = _cell.cells(BenchConfig.load(bench_file(folder, tmp_path / "b.yaml", methods=["random"])), tmp_path)[0]
    cell.folder.mkdir(parents=True)
    for content in ("[1]", "3", "null", "{"):
        (cell.folder / "settings.json").write_text(content)
        with pytest.raises(InputError, match=r"settings.json: cannot be read .*remove it"):
            cell.check({"a": 1})


def test_a_page_counts_the_pairs_that_there_are(folder: Path, tmp_path: Path):
    """A compiled program has fewer than are asked for."""
    asked = {"tasks": ["program"], "methods": ["random"], "seeds": [0], "models": ["tracr:reverse"]}
    path = bench_file(folder, tmp_path / "b.yaml", pairs={"train": 2000, "validation": 3, "test": 5}, **asked)
    file, found = run_bench(path, tmp_path / "out", say=lambda _: None)
    assert not found.failed
    table, task = BenchTable.load(file), ew.tasks.program(ew.load_model("tracr:reverse").tokenizer, 2000, 3, 5)
    assert table.about["pairs"] == {"program": {split: len(task.split(split)) for split in ew.tasks.SPLITS}}
    assert table.about["pairs"]["program"]["train"] < 2000
