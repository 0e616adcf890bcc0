"""Benchmarks: what they keep is of the settings asked for, their checks can fail, and pages keep what is by hand."""

import json
from argparse import Namespace
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _scripts_find_each_other(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def given(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    """The command line of a script."""
    monkeypatch.setattr("sys.argv", ["script", *map(str, arguments)])


def test_a_try_has_a_folder_of_its_own_and_is_not_for_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study = import_module("feature_circuits")
    given(monkeypatch, "--out", tmp_path, "--try")
    assert study.parsed().out == tmp_path / "try"
    for script, arguments in (("feature_circuits", ()), ("several_circuits", ("--out", tmp_path))):
        given(monkeypatch, "--try", "--write", *arguments)
        with pytest.raises(SystemExit):
            import_module(script).main()


def test_a_cell_of_other_settings_is_not_taken_for_the_one_asked_for(tmp_path: Path):
    study = import_module("feature_circuits")
    args = Namespace(out=tmp_path, model="models/one.gguf", transcoders="runs/set", error="kept")
    cell = study.Cell("ioi", "features", "ranking", 0)
    assert study.waiting([cell], study.TRY, args) == [cell]
    file = tmp_path / "cells" / f"{cell.name}.json"
    file.parent.mkdir()
    file.write_text(json.dumps(study.settings_of(cell, study.TRY, args)))
    assert study.waiting([cell], replace(study.TRY, prompts=5), args) == []  # which no ranking looks at
    for changes in ({"pairs": (200, 64, 128)}, {"per_layer": 3}, {"steps": 300}, {"edges": (50,)}):
        with pytest.raises(SystemExit, match=f"other settings .{next(iter(changes))} is .*choose another --out"):
            study.waiting([cell], replace(study.TRY, **changes), args)
    for changes in ({"model": "two.gguf"}, {"transcoders": "runs/other"}, {"error": "scored"}):
        with pytest.raises(SystemExit, match=next(iter(changes))):
            study.waiting([cell], study.TRY, Namespace(**vars(args) | changes))
    before = {"pairs": study.TRY.pairs, "settings": {"steps": 4}}  # as cells were kept
    file.write_text(json.dumps(before))
    with pytest.raises(SystemExit, match="steps is 4, not 300"):
        study.waiting([cell], replace(study.TRY, steps=300), args)


def test_scores_of_other_settings_are_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study = import_module("feature_circuits")
    cell = study.Cell("ioi", "components", "ranking", 0)
    file = tmp_path / "scores" / f"{cell.name}.safetensors"
    file.parent.mkdir()
    file.touch()
    arguments = dict(zip(("train", "validation", "test"), study.TRY.pairs, strict=True))
    record = {"task": {"arguments": arguments}, "method": {"config": {"steps": 4}}}
    monkeypatch.setattr(study.ew.Scores, "load", lambda file: SimpleNamespace(provenance=record))
    monkeypatch.setitem(study.ew.tasks.TASKS, "ioi", lambda *_, **__: None)
    args = Namespace(out=tmp_path, model="one")
    for size, said in ((study.Size(), "pairs is .16, 8, 8."), (replace(study.TRY, steps=300), "steps is 4, not 300")):
        with pytest.raises(SystemExit, match=said):
            study.judged(SimpleNamespace(tokenizer=None), cell, size, args, [])


def test_the_page_of_features_does_not_mix_settings():
    report = import_module("_feature_circuits_report")
    published = json.loads(report.FIGURES.read_text())["cells"]
    report.check_alike(published)
    tiny = {name: published[0][name] for name in report.KEY} | {"seed": 7, "steps": 4, "pairs": [16, 8, 8]}
    with pytest.raises(SystemExit, match=r"pairs \[200, 64, 64\] and pairs \[16, 8, 8\]"):
        report.check_alike([*published, tiny])
    of_rankings = next(row for row in published if row["method"] == "ranking")
    short = {name: of_rankings[name] for name in report.KEY} | {"seed": 7, "steps": 4}
    with pytest.raises(SystemExit, match="steps 80 and steps 4"):
        report.check_alike([*published, short])


def test_results_of_other_sizes_end_the_study_of_several_circuits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study = import_module("several_circuits")
    args = Namespace(out=tmp_path, steps=100, train=200)
    assert not study.is_found("3", args)
    study.file_of("3", args).touch()
    record = {"method": {"config": {"steps": 100}}, "task": {"arguments": {"train": 200 * study.RUNS}}}
    monkeypatch.setattr(study.ew.Scores, "load", lambda file: SimpleNamespace(provenance=record))
    assert study.is_found("3", args)
    with pytest.raises(SystemExit, match="train is 200, not 100"):
        study.is_found("3", Namespace(**vars(args) | {"train": 100}))
    (tmp_path / "results.json").write_text(json.dumps({"steps": 100, "train": 200, "n": 256}))
    monkeypatch.setattr(study, "is_found", lambda name, args: True)
    given(monkeypatch, "--out", tmp_path, "--test", 64)
    with pytest.raises(SystemExit, match="n is 256, not 64"):
        study.main()


def test_circuits_that_work_are_told_on_validation(monkeypatch: pytest.MonkeyPatch):
    """What the test split judges is not chosen on it."""
    study = import_module("several_circuits")
    graph = study.ew.load_model("tracr:reverse").graph()
    circuit = study.ew.Circuit(graph, torch.ones(graph.n_edges, dtype=torch.bool))

    class Chosen(Exception):  # noqa: N818 (no error: the end of what is looked at)
        """The split that is judged first."""

    def judge(engine: Any, circuits: Any, task: Any, split: str, names: Any) -> None:
        raise Chosen(split)

    for name in ("task_of", "file_of"):
        monkeypatch.setattr(study, name, lambda *_: None)
    for name in ("Engine", "load_model"):
        monkeypatch.setattr(study.ew, name, lambda _: None)
    monkeypatch.setattr(study.ew.Scores, "load", lambda _: SimpleNamespace(at=lambda *_, **__: circuit))
    monkeypatch.setattr(study, "judge", judge)
    with pytest.raises(Chosen, match="validation"):
        study.judged(Namespace())


def test_half_a_page_is_not_a_whole_one(tmp_path: Path):
    kill = import_module("kill")
    trial = kill.Trial.__new__(kill.Trial)
    trial.job, trial.failures, trial.right = SimpleNamespace(name="view"), [], {"page.html": b"<html></html>"}
    (tmp_path / "page.html").write_bytes(b"<html></html>")
    (tmp_path / "whole.json").write_text("{}")
    trial.whole(tmp_path, "killed")
    assert trial.failures == []
    (tmp_path / "page.html").write_bytes(b"<html></ht")
    (tmp_path / "half.json").write_text("{")
    trial.whole(tmp_path, "killed")
    assert sorted(each.split(": ")[1][:9] for each in trial.failures) == ["half.json", "page.html"]


def test_a_model_that_does_not_fit_is_a_row_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gpu = import_module("gpu")

    def too_large(module: Any) -> None:
        raise torch.OutOfMemoryError("of a device")

    monkeypatch.setattr(gpu, "load", too_large)
    bench = gpu.Bench(tmp_path / "gpu.json", 1.0, {})
    gpu.measure(bench, gpu.TINY[0], Namespace(tiny=True, device="cpu"), "cpu", 0)
    (row,) = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert (row["what"], row["error"]) == ("loading", "OutOfMemoryError: of a device")


def test_few_examples_stand_beside_the_librarys_figures_of_the_same(monkeypatch: pytest.MonkeyPatch):
    parts = import_module("_independent")
    study = parts.Study.__new__(parts.Study)
    pair = SimpleNamespace(clean=(1, 2), targets=(SimpleNamespace(position=1, answers=(3,), wrong=(0, 1)),))
    task = SimpleNamespace(test=[pair], batch=lambda split, numbers: None)
    logits = torch.tensor([0.5, 1.5, 0.0, 13.0])
    study.examples, study.module, study.model, study.task = 1, None, None, lambda name, **sizes: task
    monkeypatch.setattr(parts, "own_logits", lambda module, ids: logits.expand(1, 2, -1))
    monkeypatch.setattr(parts.ew, "Engine", lambda model: SimpleNamespace(full=lambda batch: logits[None]))
    found = list(parts.attribution(study))
    assert {figure.published for figure in found} == {"12.000000"} and all(figure.agrees for figure in found)
    said = {name: SimpleNamespace(value=0.125) for name in ("accuracy", "choice", "logit_diff")}
    monkeypatch.setattr(parts.ew.evaluation, "score", lambda model, task: SimpleNamespace(metrics=said))
    assert next(parts.models(study)).published == "0.125000"


@pytest.mark.parametrize("better", ["neurons", "features"])
def test_what_one_mlp_is_made_of_is_said_by_the_figures(better: str, tmp_path: Path):
    study = import_module("transcoder_studies")
    curves = {
        what: [{"kept": n, "score": score, "low": score, "high": score} for n, score in ((0, 0.5), (2, top))]
        for what, top in (("features", 0.6), ("with the skip connection", 0.6), ("neurons", 0.6))
    }
    curves[better][1] |= {"score": 0.98}
    file = tmp_path / "found.json"
    own = {"value": 0.98, "low": 0.97, "high": 0.99}
    about = {"model": {"id": "one"}, "layer": 3, "prompts": 2, "mean_ablated": {"3": 0.5}}
    file.write_text(json.dumps(about | {"own": own, "curves": curves, "n_features": 8, "on_somewhere": 1}))
    last = study.greater_than_lines(file)[-1]
    other = {"neurons": "features", "features": "neurons"}[better]
    assert f"2 {better} give back what ablation takes" in last
    assert f"No number of {other} gives back what ablation takes**: they come to 0.6000" in last


def test_a_page_keeps_what_is_by_hand_and_is_not_written_without_its_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    page = import_module("_page")
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    page.write_page("study", "A study", "study", "\n| 1 |\n")
    file = tmp_path / "study.md"
    assert file.read_text().startswith("# A study\n\n<!--")
    file.write_text(file.read_text().replace("# A study", "# A study\n\nRead by hand."))
    page.write_page("study", "A study", "study", "\n| 2 |\n")
    assert "Read by hand." in file.read_text() and "| 2 |" in file.read_text() and "| 1 |" not in file.read_text()
    file.write_text("# A study\n\nOld tables.\n")
    with pytest.raises(SystemExit, match="has no line '<!--"):
        page.write_page("study", "A study", "study", "\n| 3 |\n")


def test_sections_whose_runs_are_not_given_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    study, page = import_module("transcoder_studies"), import_module("_page")
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    first, second = study.ORDER[:2]
    before = f"# By hand\n\n## Also by hand\n\n{page.mark_of(study.SCRIPT)}\n\n{second}\n\nkept\n"
    (tmp_path / "transcoders.md").write_text(before)
    monkeypatch.setattr(study, "pareto_lines", lambda folders: [first, "", "fresh"])
    given(monkeypatch, "--pareto", tmp_path)
    study.main()
    kept, mark, tables = (tmp_path / "transcoders.md").read_text().partition(page.mark_of(study.SCRIPT))
    assert (kept, mark) == before.partition(page.mark_of(study.SCRIPT))[:2]
    assert tables == f"\n\n{first}\n\nfresh\n\n{second}\n\nkept\n"
