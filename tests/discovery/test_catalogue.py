"""The catalogue: one record of a method is all that the command line, benches and tables need."""

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

import edgewise as ew
from edgewise.bench import BenchConfig, BenchTable, run_bench
from edgewise.circuit import Circuit
from edgewise.cli import main
from edgewise.discovery import (
    AttributionConfig,
    Method,
    MethodConfig,
    asked_of,
    configured,
    method,
    method_record,
    methods,
    methods_table,
    provenance,
    register,
    uniform_scores,
)
from edgewise.engine import Engine
from edgewise.runs import parse_settings, settings_of
from edgewise.tasks import Task
from tests.bench.toys import bench_file, save_model, save_pairs
from tests.tiny import refused

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"

# ----------------------------------------------------------------------------------------- a method in one file, used


@dataclass(frozen=True, kw_only=True)
class LateConfig(AttributionConfig):
    """Settings of a toy."""

    title: ClassVar[str] = "late-edges"
    weight: float = 1.0
    """What later writers count for."""


def late_edges(engine: Engine, task: Task, config: LateConfig | None = None, **changes: Any) -> ew.Scores:
    """Scores of edges by their place."""
    config = configured(LateConfig, config, changes)
    task = asked_of(task, config)
    values = config.weight * engine.graph.edge_writer.float()
    return ew.Scores(
        engine.graph, values, provenance(engine, task, method_record("late-edges", config), ew.discovery.Cost())
    )


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Method:
    monkeypatch.setattr("edgewise.discovery._catalogue._METHODS", dict(methods()))
    return register(
        Method(name="late-edges", summary="later writers first", run=late_edges, config=LateConfig, cost="nothing")
    )


def test_a_registered_method_is_found_with_by_the_command_line(
    toy: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    save_model(tmp_path / "model")
    save_pairs(tmp_path / "pairs.jsonl")
    options = ("--model", tmp_path / "model", "--task", tmp_path / "pairs.jsonl", "--out", tmp_path / "out")

    def run(*arguments: Any) -> str:
        monkeypatch.setattr("sys.argv", ["edgewise", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return f"{ended.value.code or 0} {said.out}{said.err}"

    assert run("find", *options, "--method", "late-edges", "--set", "weight=2", "--sparsity", 0.5).startswith("0")
    found = Circuit.load(tmp_path / "out" / "circuit.safetensors")
    assert found.provenance["method"]["config"]["weight"] == 2.0 and 0 < found.n_actual <= 0.5 * found.graph.n_edges
    assert "late-edges: there is no setting 'wait'; use split" in run(
        "find", *options, "--method", "late-edges", "--set", "wait=2"
    )
    assert "late-edges" in run("find", *options, "--method", "latest")
    assert "What later writers count for" in run("methods", "late-edges")


def test_a_registered_method_is_judged_in_a_bench(toy: Method, tmp_path: Path):
    pytest.importorskip("pyarrow")
    save_model(tmp_path / "model")
    save_pairs(tmp_path / "pairs.jsonl")
    entry = {"method": "late-edges", "weight": 3, "pairs": 4}
    table, found = run_bench(bench_file(tmp_path, tmp_path / "b.yaml", methods=[entry]), tmp_path, say=lambda _: None)
    assert not found.failed
    assert {row["method"] for row in BenchTable.load(table).rows} == {"empty", "late-edges"}
    with pytest.raises(ew.InputError, match="no setting 'wait'"):
        BenchConfig.load(bench_file(tmp_path, tmp_path / "b.yaml", methods=[{"method": "late-edges", "wait": 3}]))


def test_a_registered_method_is_in_the_docs_table(toy: Method):
    assert "| [late-edges](#late-edges) | `late-edges` | nothing |" in methods_table()


def test_a_plugin_s_method_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from edgewise import _plugins

    monkeypatch.setattr("edgewise.discovery._catalogue._METHODS", dict(methods()))
    monkeypatch.setenv(_plugins.VARIABLE, "")
    path = tmp_path / "mine.py"
    path.write_text(
        "from edgewise.discovery import Method, RandomConfig, random_scores, register\n"
        "register(Method(name='mine', summary='random', run=random_scores, config=RandomConfig))\n"
    )
    assert "choose ranking" in refused(lambda: method("mine"))
    _plugins.use_plugins([str(path)])
    assert method("mine").summary == "random"
    assert "no such file" in refused(lambda: _plugins.use_plugins([str(tmp_path / "none.py")]))


@pytest.mark.unchecked
def test_what_is_no_record_is_refused():
    with pytest.raises(ew.InputError, match="derived from MethodConfig"):
        register(Method(name="bad", summary="", run=late_edges, config=dict))  # pyright: ignore[reportArgumentType]


# -------------------------------------------------------------------------------------------------------- our methods


def test_the_docs_table_is_the_catalogue_s():
    assert methods_table() in PAGE.read_text()


@pytest.mark.parametrize("name", methods())
def test_a_method_s_function_takes_what_its_record_says(name: str):
    record = method(name)
    parameters = inspect.signature(record.function()).parameters
    assert list(parameters)[:3] == ["model", "task", "config"] and len(parameters) <= 8
    assert parameters["changes"].kind is inspect.Parameter.VAR_KEYWORD
    assert ("options" in parameters) == record.resumes and ("start" in parameters) == (record.start != "no")
    assert record.summary and record.cost and isinstance(record.configure(), MethodConfig)


@pytest.mark.parametrize("name", methods())
def test_every_setting_is_documented_and_its_default_can_be_written(name: str):
    record = method(name)
    for setting in settings_of(record.config).values():
        assert setting.doc or setting.name == "learning_rate", setting.name
        default = setting.default
        text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        assert parse_settings(name, record.config, [f"{setting.name}={text}"]) == {setting.name: default}


def test_a_setting_has_one_name_everywhere():
    names = {name for each in methods().values() for name in settings_of(each.config)}
    assert not names & {"rule", "batch", "hot", "cold", "cut", "of", "n_points"}
    assert all(re.fullmatch(r"[a-z][a-z_]*", name) for name in names)


@pytest.mark.unchecked
def test_python_refuses_what_the_command_line_refuses():
    engine, task = None, None
    assert "ranking: there is no setting 'stepz'; use steps" in refused(lambda: ew.learn_ranking(engine, task, stepz=3))  # pyright: ignore[reportArgumentType]
    assert "eap-ig: there is no setting 'rule'" in refused(lambda: ew.eap_ig(engine, task, rule="left"))  # pyright: ignore[reportArgumentType]
    wrong = ew.EapConfig()
    assert "config is a EapConfig; give a MaskIgConfig" in refused(lambda: ew.mask_ig(engine, task, wrong))  # pyright: ignore[reportArgumentType]


def test_what_starts_from_scores_says_so():
    from edgewise.discovery import run_method
    from tests.discovery.toys import quiet, random_task, toy_engine

    engine, task = toy_engine(), random_task(3)
    assert "give some" in refused(lambda: run_method(method("refine"), engine, task, method("refine").configure()))
    start = uniform_scores(engine.graph)
    assert "leave them out" in refused(
        lambda: run_method(method("eap"), engine, task, method("eap").configure(), start=start)
    )
    few = method("refine").configure({"steps": 2, "sparsity": 0.5})
    found = run_method(method("refine"), engine, task, few, start=start, options=quiet())
    assert isinstance(found, Circuit) and 0 < found.n_actual <= 0.5 * engine.graph.n_edges
