"""The examples of docs/extending.md that are no family and no file format: they stand on the page, and they work."""

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import edgewise as ew
from edgewise import _plugins
from edgewise.discovery import example_scores, methods, methods_table
from edgewise.tasks import metric_function, reduce
from tests.cli.commands import Cli, find
from tests.discovery.toys import random_task, toy_engine

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "extending.md"
EXAMPLES = {
    "Add a method": TESTS / "discovery" / "own_method.py",
    "Add a metric": TESTS / "tasks" / "own_metric.py",
    "Add a command": TESTS / "cli" / "own_command.py",
}


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test registers is gone after it."""
    monkeypatch.setattr("edgewise.discovery._catalogue._METHODS", dict(methods()))
    monkeypatch.setattr("edgewise.tasks._metric._METRICS", dict(sys.modules["edgewise.tasks._metric"]._METRICS))
    monkeypatch.setattr(_plugins, "_done", set())
    monkeypatch.setenv(_plugins.VARIABLE, "")


@pytest.mark.parametrize("section", EXAMPLES)
def test_the_page_shows_the_file(section: str):
    text = PAGE.read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    shown = [line.removeprefix("    ").rstrip() for line in text.splitlines() if line.startswith("    ")]
    code = [line.rstrip() for line in EXAMPLES[section].read_text().splitlines()[2:] if line.strip()]
    assert [line for line in shown if line][: len(code)] == code


def test_the_method_gives_the_mean_squared_gradient():
    fisher = runpy.run_path(str(EXAMPLES["Add a method"]))["fisher"]
    engine, task = toy_engine(), random_task(3)
    expected = torch.zeros(engine.graph.n_edges)
    for i in range(3):
        one = ew.eap(engine, replace(task, train=task.train[i : i + 1]))  # the mask gradient of one example
        expected += one.values.float().square() / 3
    found = fisher(engine, task)
    torch.testing.assert_close(found.values.float(), expected, rtol=1e-4, atol=1e-8)
    rooted = fisher(engine, task, root=True)
    torch.testing.assert_close(rooted.values, found.values.sqrt())
    assert found.provenance["cost"]["examples"] == 3
    assert "| [fisher](#fisher) | `fisher` | 2 F + B |" in methods_table()


def test_the_method_is_a_plugin_of_the_shell(cli: Cli, model: Path, pairs: Path, tmp_path: Path):
    plugin = ("--plugin", EXAMPLES["Add a method"])
    ran = cli(*plugin, *find(model, pairs, tmp_path, "--method", "fisher", "--set", "root=true"))
    assert ran.status == 0, ran
    circuit = ew.Circuit.load(tmp_path / "circuit.safetensors")
    assert circuit.provenance["method"]["name"] == "fisher" and circuit.provenance["method"]["config"]["root"] is True
    assert "Give the square root" in cli(*plugin, "methods", "fisher").out


def test_the_metric_serves_by_its_name():
    runpy.run_path(str(EXAMPLES["Add a metric"]))
    engine, task = toy_engine(), random_task(4)
    batch = task.batch("train", range(4))
    mask = torch.ones(engine.graph.n_edges)
    values = example_scores(engine, batch, mask, metric_function("confidence"))
    expected = reduce(engine.full(batch).softmax(-1).amax(-1), batch)
    torch.testing.assert_close(values, expected.to(values), rtol=1e-4, atol=1e-5)
    judged = ew.evaluate(
        engine, ew.eap(engine, task).top(5), task, split="train", metrics=("confidence",), baselines=()
    )
    assert 0 < judged.metrics["confidence"].value <= 1


def test_the_command_prints_the_heads_of_a_circuit(
    found: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    from edgewise.cli import _app

    monkeypatch.setattr(_app.app, "registered_commands", list(_app.app.registered_commands))
    _app.app.command()(runpy.run_path(str(EXAMPLES["Add a command"]))["heads"])
    ran = Cli(capfd, monkeypatch)("heads", found, "--most", 2)
    assert ran.status == 0 and [line.split(":")[0][0] for line in ran.out.splitlines()] == ["a", "a"], ran
