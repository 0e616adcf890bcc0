"""A bench: what its table says, and that neither kills nor other processes change it."""

import json
import platform
import random
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgewise as ew
from edgewise import InputError
from edgewise.bench import BenchConfig, BenchTable, _cell, gather, run_bench
from edgewise.bench._methods import Job, find_parts
from edgewise.bench._run import Resources, give_back_memory, one_process, prepare
from edgewise.bench._settings import config_of, method_spec
from edgewise.circuit import Circuit
from edgewise.discovery import EdgePruningConfig
from edgewise.evaluation import judge
from edgewise.runs import bootstrap
from tests.bench.toys import METHODS, bench_file
from tests.discovery.toys import stop

pytest.importorskip("pyarrow")


def quietly(path: Path, out: Path, **choices: Any) -> BenchTable:
    table, found = run_bench(path, out, say=lambda _: None, **choices)
    assert not found.failed
    return BenchTable.load(table)


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BenchTable]:
    """A bench that ran undisturbed: its folder and its table."""
    out = tmp_path_factory.mktemp("whole")
    return out, quietly(bench_file(folder, out / "bench.yaml"), out)


@pytest.fixture(scope="module")
def server() -> ForkServerContext:
    """New processes in a moment: they are forked from one that has everything imported."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["edgewise.bench", "edgewise.models", "transformers"])
    return context


def timeless(table: BenchTable) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in table.rows]


# --------------------------------------------------------------------------------------------------------- the table


def test_every_row_is_its_circuit_judged_alone(folder: Path, whole: tuple[Path, BenchTable]):
    out, table = whole
    config = BenchConfig.load(out / "bench.yaml")
    engine, task = prepare(config, config.models[0])["names"]
    tests = [row for row in table.rows if row["split"] == "test"]
    assert {row["method"] for row in tests} == {"empty", "random", "eap", "mask-ig", "acdc", "ours", "edge-pruning"}
    for row in tests:
        place = out / next(each.name for each in out.iterdir() if each.name.endswith("model")) / "names"
        circuit = Circuit.load(place / row["method"] / f"seed-{row['seed']}" / f"chosen {row['size']:g}.safetensors")
        values = judge(engine, {"it": circuit}, task, "test", names=(row["metric"],))
        assert row["values"] == pytest.approx(values["it"][row["metric"]].tolist(), abs=1e-6)
        assert (row["value"], row["low"], row["high"]) == pytest.approx(bootstrap(np.array(row["values"])))
        assert row["full"] == pytest.approx(values["full"][row["metric"]].mean())
        assert row["actual_edges"] == circuit.n_actual and row["total_edges"] == engine.graph.n_edges
        assert row["n"] == len(task.test) and row["distance"] == (row["metric"] == "kl")


def test_circuits_have_the_size_asked_for_and_the_sign_that_validation_prefers(whole: tuple[Path, BenchTable]):
    rows = whole[1].rows
    for row in rows:
        if row["method"] in ("eap", "mask-ig", "ours", "random", "acdc"):
            assert row["actual_edges"] <= (1 - row["size"]) * row["total_edges"] + 1e-6
    tried = [row for row in rows if row["split"] == "validation" and row["metric"] == "kl"]
    assert {row["method"] for row in tried} == {"eap", "mask-ig"}
    for method, size in {(row["method"], row["size"]) for row in tried}:
        here = {row["selection"]: row["value"] for row in tried if (row["method"], row["size"]) == (method, size)}
        assert set(here) == {"signed", "absolute"}
        test = [row for row in rows if (row["method"], row["size"], row["split"]) == (method, size, "test")]
        assert {row["selection"] for row in test} == {min(here, key=lambda sign: here[sign])}
    best = whole[1].best_attribution(*whole[1].panels()[0])
    assert [point.size for point in best] == [0.4, 0.7, 0.9]
    for point in best:
        assert min(row["value"] for row in tried if row["size"] == point.size) == min(
            row["value"] for row in tried if (row["size"], row["method"]) == (point.size, point.method)
        )


def test_costs_are_what_the_methods_spent(whole: tuple[Path, BenchTable]):
    cost = {row["method"]: (row["examples"], row["forwards"], row["backwards"]) for row in whole[1].rows}
    n = cost["eap"][0]  # all training pairs, once clean and once corrupted
    assert cost["random"] == (0, 0, 0) and cost["eap"] == (n, 2 * n, n) and cost["mask-ig"] == (n, 3 * n, 2 * n)
    assert cost["ours"][2] == 6 * 4 + 5 * n, "steps, and the attribution that it starts from"
    assert cost["edge-pruning"][2] == 12 * 4
    assert cost["acdc"][0] == 4 and cost["acdc"][1] > 4
    assert 0 < whole[1].about["judging"] < 600, "seconds, of all cells"


def test_necessity_is_the_model_without_the_circuit_and_is_added_to_what_was_judged(folder: Path, tmp_path: Path):
    asked: dict[str, Any] = {"methods": ["eap"], "seeds": [0], "sparsities": [0.4, 0.9], "metrics": ["kl"]}
    before = quietly(bench_file(folder, tmp_path / "bench.yaml", **asked), tmp_path / "out")
    table = quietly(bench_file(folder, tmp_path / "bench.yaml", necessity=True, **asked), tmp_path / "out")
    removed = [row for row in table.rows if row["metric"] == "removed kl"]
    assert timeless(before) == [row for row in timeless(table) if row["metric"] == "kl"]
    assert len(removed) == 2 and not any(row["distance"] or row["lower_is_better"] for row in removed)
    engine, task = prepare(BenchConfig.load(tmp_path / "bench.yaml"), str(removed[0]["model"]))["names"]
    for row in removed:
        circuit = Circuit.load(next((tmp_path / "out").rglob(f"eap/seed-0/chosen {row['size']:g}.safetensors")))
        without = replace(circuit, kept=~circuit.actual)
        values = judge(engine, {"it": without}, task, "test", names=("kl",))["it"]["kl"]
        assert row["values"] == pytest.approx(values.tolist(), abs=1e-6) and row["split"] == "test"
    assert [point.metric for point in table.points(*table.panels()[0], "removed kl")] == ["removed kl"] * 2
    assert len(table.points(*table.panels()[0])) == 3  # the distances of EAP and of the empty circuit, as ever
    with pytest.raises(InputError, match="necessity: 'often'; write true or false"):
        BenchConfig.load(bench_file(folder, tmp_path / "bench.yaml", necessity="often", **asked))


def test_an_attribution_may_be_given_fewer_pairs(whole: tuple[Path, BenchTable], tmp_path: Path):
    engine, task = prepare(BenchConfig.load(whole[0] / "bench.yaml"), str(whole[1].rows[0]["model"]))["names"]
    few = replace(task, train=task.train[:3])
    for name, settings in (("eap", {}), ("mask-ig", {"points": 2})):
        settings = settings | {"explains": "log_prob"}
        spec = method_spec({"method": name, "pairs": 3, **settings}, (0.5,), (0,))
        (tmp_path / name).mkdir()
        scores = find_parts(Job(engine, task, 0, spec, tmp_path / name))["scores"]
        settings.pop("explains")
        few = replace(few, metric="log_prob")
        expected = {"eap": ew.eap, "mask-ig": ew.mask_ig}[name](engine, few, **settings).values
        assert isinstance(scores, ew.Scores) and torch.equal(scores.values, expected)


def test_a_method_may_find_with_faster_products_and_is_judged_with_exact_ones(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    judged = []
    monkeypatch.setattr(
        _cell, "judge", lambda engine, *rest, **named: judged.append(engine) or judge(engine, *rest, **named)
    )
    fast = {"name": "fast", "method": "ranking", "steps": 2, "batch_size": 4, "matmul": "medium"}
    path = bench_file(folder, tmp_path / "bench.yaml", methods=[fast], seeds=[0])
    quietly(path, tmp_path / "out", cache_bytes=12345)
    scores = ew.Scores.load(next((tmp_path / "out").rglob("fast/seed-0/scores.safetensors")))
    assert scores.provenance["engine"]["matmul"] == "medium"
    assert judged and {(engine.execution.matmul, engine.execution.cache_bytes) for engine in judged} == {
        ("highest", 12345)
    }
    with pytest.raises(InputError, match="found with other settings"):
        run_bench(bench_file(folder, path, methods=[fast | {"matmul": "highest"}], seeds=[0]), tmp_path / "out")


def test_more_sizes_and_metrics_are_added_without_finding_anything_again(folder: Path, whole: tuple[Path, BenchTable]):
    out, table = whole
    before = {path: path.stat().st_mtime_ns for path in out.rglob("scores.safetensors")}
    more = {"sparsities": [0.4, 0.7, 0.8, 0.9], "metrics": ["kl", "logit_diff", "accuracy", "exact_match"]}
    added = quietly(bench_file(folder, out / "more.yaml", **more), out)
    assert before and before == {path: path.stat().st_mtime_ns for path in out.rglob("scores.safetensors")}
    assert {row["size"] for row in added.rows if row["method"] == "ours"} == {0.4, 0.7, 0.8, 0.9}
    assert "exact_match" in {row["metric"] for row in added.rows if row["method"] == "ours"}
    quietly(out / "bench.yaml", out)  # and asked for fewer, it says what it said
    known = {
        (row["method"], row["seed"], row["size"], row["metric"], row["selection"], row["split"]) for row in table.rows
    }
    again = BenchTable.load(gather(BenchConfig.load(out / "bench.yaml"), out))
    assert timeless(again) == timeless(table) and len(known) == len(table.rows)
    fewer = quietly(bench_file(folder, out / "fewer.yaml", metrics=["kl"], sparsities=[0.4, 0.6, 0.7, 0.9]), out)
    assert {row["metric"] for row in fewer.rows} == {"kl"} and 0.6 in {row["size"] for row in fewer.rows}
    quietly(out / "bench.yaml", out)


def test_what_was_judged_once_is_kept_whatever_is_asked_for_later(folder: Path, tmp_path: Path):
    def asked(metrics: list[str], sparsities: list[float]) -> set[tuple[float, str]]:
        path = bench_file(folder, tmp_path / "b.yaml", methods=["eap"], metrics=metrics, sparsities=sparsities)
        return {(row["size"], row["metric"]) for row in quietly(path, tmp_path / "out").rows if row["method"] == "eap"}

    asked(["kl", "accuracy"], [0.4])
    asked(["kl", "js"], [0.4, 0.6])
    assert asked(["kl", "accuracy"], [0.4, 0.6]) == {(size, name) for size in (0.4, 0.6) for name in ("kl", "accuracy")}
    assert {name for _, name in asked(["kl", "js", "accuracy"], [0.4])} == {"kl", "js", "accuracy"}


# ------------------------------------------------------------------------------------------------- kills and company


def test_killed_ten_times_at_random_it_ends_with_the_same_table(
    folder: Path, whole: tuple[Path, BenchTable], server: ForkServerContext, tmp_path: Path
):
    path, random_ = bench_file(folder, tmp_path / "bench.yaml"), random.Random(0)
    killed, amid = 0, set()
    while killed < 10 or (killed < 50 and not amid):  # how far a process gets depends on what else the machine does
        before = files(tmp_path)
        process = server.Process(
            target=run_bench, args=(path, tmp_path), kwargs={"checkpoint_seconds": 0.0, "threads": 1}
        )
        process.start()
        while process.is_alive() and files(tmp_path) == before:  # until it is at work
            time.sleep(0.005)
        time.sleep(random_.uniform(0, 0.3))
        process.kill()
        process.join()
        killed += process.exitcode == -9
        amid |= {cell.parent for cell in tmp_path.rglob("settings.json") if not (cell.parent / "test.json").is_file()}
        if process.exitcode == 0:  # it got to its end: take some of its work away, so that there is some to kill
            next(tmp_path.rglob("test.json")).unlink()
    assert amid, "none of 50 kills came in the middle of a cell"
    assert not list(tmp_path.rglob("failed.json"))
    assert timeless(quietly(path, tmp_path)) == timeless(whole[1])


def files(folder: Path) -> set[tuple[Path, int]]:
    """What is there, and since when."""
    found = set()
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a temporary file
            found.add((path, path.stat().st_mtime_ns))
    return found


def test_two_processes_on_one_folder_share_the_cells(
    folder: Path, whole: tuple[Path, BenchTable], server: ForkServerContext, tmp_path: Path
):
    config = BenchConfig.load(bench_file(folder, tmp_path / "bench.yaml"))
    with ProcessPoolExecutor(2, server) as pool:
        one, other = pool.map(one_process, [config] * 2, [tmp_path / "out"] * 2, [Resources(threads=1)] * 2)
    assert not one.failed and not other.failed
    assert not set(one.done) & set(other.done), "a cell was done twice"
    assert len(one.done) + len(other.done) == 9
    assert timeless(BenchTable.load(gather(config, tmp_path / "out"))) == timeless(whole[1])


# --------------------------------------------------------------------------------------------------- what goes wrong


def test_a_cell_that_fails_does_not_stop_the_others_and_is_tried_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = bench_file(folder, tmp_path / "bench.yaml", methods=["random", "eap"])
    with monkeypatch.context() as patch:
        patch.setattr("edgewise.discovery._attribution._mask_gradient", lambda *_: 1 / 0)
        table, found = run_bench(path, tmp_path, say=lambda _: None)
    assert len(found.failed) == 1 and "eap" in found.failed[0] and "ZeroDivisionError" in found.failed[0]
    assert {row["method"] for row in BenchTable.load(table).rows} == {"empty", "random"}
    assert {row["method"] for row in quietly(path, tmp_path).rows} == {"empty", "random", "eap"}
    assert not list(tmp_path.rglob("failed.json"))


def test_an_interrupt_leaves_the_cell_to_be_gone_on_with(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = bench_file(folder, tmp_path / "bench.yaml", methods=METHODS[4:5], seeds=[0])
    with monkeypatch.context() as patch:
        stop(patch, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run_bench(path, tmp_path, say=lambda _: None)
    assert not list(tmp_path.rglob("failed.json")) and not list(tmp_path.rglob("ours/*/found.json"))
    assert list(tmp_path.rglob("checkpoint.safetensors")), "what it had learned is kept"
    assert {row["method"] for row in quietly(path, tmp_path).rows} == {"empty", "ours"}


def test_what_was_found_with_other_settings_is_refused_before_any_work(
    folder: Path, whole: tuple[Path, BenchTable], tmp_path: Path
):
    out, _ = whole
    longer = [{"name": "ours", "method": "ranking", "steps": 7}]
    with pytest.raises(InputError, match=r"ours.seed-0: found with other settings \(settings\)"):
        run_bench(bench_file(folder, tmp_path / "bench.yaml", methods=longer), out)
    for path in out.rglob("ours/*/found.json"):  # as if it had been killed before its last size was found
        path.rename(tmp_path / path.parent.name)
    with pytest.raises(InputError, match="found with other settings"):
        run_bench(tmp_path / "bench.yaml", out)
    for path in out.rglob("ours/seed-*"):
        (tmp_path / path.name).rename(path / "found.json")
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:-3]))
    other = {"name": "names", "task": str(tmp_path / "pairs.jsonl")}
    with pytest.raises(InputError, match="found with other settings"):
        run_bench(bench_file(folder, tmp_path / "other.yaml", tasks=other), out)


def test_a_search_whose_order_is_drawn_runs_with_every_seed(folder: Path, tmp_path: Path):
    methods = ["acdc", {"name": "drawn", "method": "acdc", "order": "random"}]
    config = BenchConfig.load(bench_file(folder, tmp_path / "b.yaml", methods=methods, seeds=[0, 1]))
    assert [method.seeds for method in config.methods[-2:]] == [(0,), (0, 1)]


def test_a_size_is_refined_from_a_ranking_that_is_found_once(folder: Path, tmp_path: Path):
    refined = {"method": "refine", "steps": 3, "batch_size": 4, "start": {"method": "ranking", "steps": 4}}
    changes = {"methods": [refined], "seeds": [0, 1], "sparsities": [0.5, 0.7]}
    table = quietly(bench_file(folder, tmp_path / "bench.yaml", **changes), tmp_path / "out")
    assert {(row["method"], row["seed"]) for row in table.rows} == {("empty", 0), ("refine", 0), ("refine", 1)}
    (cell,) = (tmp_path / "out").rglob("refine/seed-1")
    start = ew.Scores.load(cell / "start.safetensors")
    assert start.provenance["method"]["name"] == "ranking" and start.provenance["method"]["config"]["seed"] == 1
    for size in (0.5, 0.7):
        said = Circuit.load(cell / f"{size:g}.safetensors").provenance["method"]
        assert said["start"]["config"]["seed"] == 1 and said["config"]["seed"] == 1001
        assert said["config"]["largest"] == pytest.approx(1 - size)
    quietly(tmp_path / "bench.yaml", tmp_path / "out")


@pytest.mark.parametrize("ablation", ["mean", "mean-positional"])
def test_means_are_over_each_task_s_training_prompts(folder: Path, tmp_path: Path, ablation: str):
    path = bench_file(folder, tmp_path / "bench.yaml", methods=["eap"], ablation=ablation, sparsities=[0.5])
    table = quietly(path, tmp_path / "out")
    assert {row["ablation"] for row in table.rows} == {ablation}
    (found,) = (tmp_path / "out").rglob("eap/seed-0/scores.safetensors")
    said = ew.Scores.load(found).provenance["ablation"]
    assert said["kind"] == ablation and said["source"] == "means over pairs train, clean"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["beauty"]}, "'beauty' is unknown"),
        ({"methods": []}, "methods is missing"),
        ({"methods": [{"method": "ranking", "stepz": 3}]}, "no setting 'stepz'"),
        ({"methods": [{"method": "ranking", "steps": 0}]}, "steps 0; give at least 1"),
        ({"methods": [{"method": "ranking", "matmul": "low"}]}, "ranking: matmul 'low'; choose highest, high, medium"),
        ({"methods": [{"method": "eap-ig", "dots": 3}]}, "no setting 'dots'"),
        ({"methods": [{"method": "acdc", "thresholds": 3}]}, "give a list"),
        ({"methods": [{"method": "acdc", "thresholds": [0.1, float("nan")]}]}, "give a list of different numbers"),
        ({"methods": [{"method": "acdc", "thresholds": [0.1, 0.1]}]}, "give a list of different numbers"),
        ({"methods": [{"method": "acdc", "threshold": 0.05}]}, "give a bench's own thresholds"),
        ({"methods": [{"method": "empty", "stepz": 3}]}, "empty circuit has no setting 'stepz'"),
        ({"methods": [{"method": "refine", "start": {"method": "ranking", "seeds": [3]}}]}, "a start has no seeds"),
        ({"methods": [{"method": "refine", "start": {"method": "eap", "matmul": "high"}}]}, "a start has no matmul"),
        ({"methods": [{"method": "refine", "start": {"method": "eap", "sparsities": 0.5}}]}, "has no sparsities"),
        ({"methods": [{"method": "eap", "explains": "beauty"}]}, "beauty"),
        ({"methods": [{"method": "eap", "pairs": 0}]}, "pairs 0; give at least 1"),
        ({"methods": [{"method": "ranking", "pairs": 3}]}, "no setting 'pairs'"),
        ({"methods": [{"method": "edge-pruning", "preset": "rough"}]}, "choose default, paper"),
        ({"methods": ["eap", "eap"]}, "two are called 'eap'"),
        ({"methods": [{"method": "eap", "start": "ranking"}]}, "takes no scores to start from"),
        ({"methods": [{"method": "refine", "start": "acdc"}]}, "gives no scores"),
        ({"methods": [{"method": "ranking", "seed": 3}]}, "give a bench's own seeds"),
        ({"ablation": "optimal"}, "'optimal' is unknown; choose interchange, zero, mean"),
        ({"tasks": "beauty"}, "'beauty' is unknown"),
        ({"sparsities": [1.5]}, "between 0 and 1"),
        ({"sparsities": [0.98, 0.9, 0.98]}, "different numbers between 0 and 1"),
        ({"seeds": [0, 0]}, "different whole numbers"),
        ({"seeds": [True]}, "different whole numbers"),
        ({"metrics": ["beauty"]}, "'beauty' is unknown"),
        ({"pairs": {"trains": 3}}, "no 'trains'"),
        ({"modles": "x"}, "no 'modles'"),
    ],
)
def test_a_file_that_is_wrong_is_refused_in_one_line(folder: Path, tmp_path: Path, changes: dict, message: str):
    with pytest.raises(InputError, match=message) as caught:
        BenchConfig.load(bench_file(folder, tmp_path / "bench.yaml", **changes))
    assert "\n" not in str(caught.value) and "bench.yaml" in str(caught.value)


def test_steps_keep_the_paper_s_proportions():
    def made(**settings: Any) -> EdgePruningConfig:
        spec = method_spec({"method": "edge-pruning", "preset": "paper", **settings}, (0.98,), (1,))
        config = config_of(spec, sparsity=0.98, seed=1)
        assert isinstance(config, EdgePruningConfig)
        return config

    config = made(steps=300)
    assert (config.lr_warmup, config.sparsity_warmup, config.seed) == (20, 250, 1)
    assert made(steps=300, lr_warmup=7).lr_warmup == 7
    assert METHODS[-1]["preset"] == "paper"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no malloc_trim")
def test_memory_that_a_cell_needed_is_given_back():
    def held() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    blocks = [bytearray(b"x" * 100_000) for _ in range(2_000)]  # below malloc's threshold for pages of their own
    full = held()
    del blocks[:-1]  # the last one keeps the heap from shrinking by itself
    give_back_memory()
    assert held() < full - 150_000_000
