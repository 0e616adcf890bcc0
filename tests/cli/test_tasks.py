"""`edgewise tasks`: list, show, score and check, and the warning of `find`."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgewise.circuit import Circuit
from edgewise.cli._tasks import _print_pair
from edgewise.tasks import TASKS, Pair, Target, Task
from tests.cli.commands import Cli, find


def test_list_names_every_task(cli: Cli):
    lines = cli("tasks", "list").out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(TASKS)
    assert all(len(line) > len(name) + 20 for line, name in zip(lines, TASKS, strict=True))


def test_show_prints_tokens_and_answers(cli: Cli, model: Path, pairs: Path):
    out = cli("tasks", "show", pairs, "--model", model, "-n", 2).out
    assert "clean" in out and "|ran|to|the|" in out and "predicts 'mat', not 'rug'" in out
    assert out.count("corrupted") == 2
    rows = [
        json.loads(line) for line in cli("tasks", "show", pairs, "--model", model, "-n", 3, "--json").out.splitlines()
    ]
    assert len(rows) == 3 and rows[0]["targets"][0]["answers"]


def test_show_prints_built_in_pairs_and_their_chosen_split(cli: Cli):
    out = cli("tasks", "show", "greater-than", "-n", 1, "--split", "test").out
    assert "predicts '" in out and "not '" in out


def test_show_names_spans(cli: Cli, model: Path, tmp_path: Path):
    path = tmp_path / "spans.jsonl"
    record = {
        "clean": "<span:who>Mary Ann</span> ran to the",
        "corrupted": "<span:who>John</span> ran to the",
        "answer": " mat",
    }
    path.write_text(json.dumps({**record, "split": "train"}) + "\n")
    out = cli("tasks", "show", path, "--model", model).out
    assert "spans      who who rest rest rest" in out and "John|ran|to|the" in out


def test_score_says_what_chance_is_and_writes_a_page(cli: Cli, model: Path, pairs: Path, tmp_path: Path):
    page = tmp_path / "tasks.md"
    out = cli("tasks", "score", pairs, "--model", model, "--split", "train", "--out", page).out
    assert "pairs: accuracy" in out and "choice" in out and "(chance 0.500)" in out
    written = page.read_text()
    assert written.startswith(f"# How well {model} does") and "| pairs | 6 |" in written
    row = json.loads(cli("tasks", "score", pairs, "--model", model, "--split", "train", "--json").out)
    assert row["n"] == 6 and set(row["metrics"]) == {"accuracy", "choice", "logit_diff", "prob_diff", "log_prob"}


@pytest.mark.parametrize("record", [{"clean": "a cat"}, {"clean": "a", "corrupted": "on", "answer": " mat"}], ids=str)
def test_score_refuses_a_file_before_it_scores_others(
    cli: Cli, model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: dict[str, str]
):
    """One that cannot be read, and one without pairs in the split."""
    monkeypatch.setattr("edgewise.evaluation.score", lambda *_, **others: pytest.fail("a task was scored"))
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(record | {"split": "train"}) + "\n")
    page = tmp_path / "tasks.md"
    assert "bad" in cli.refused("tasks", "score", pairs, bad, "--model", model, "--out", page)


def test_check_explains_every_refusal(cli: Cli, model: Path, pairs: Path, tmp_path: Path):
    good = cli("tasks", "check", pairs, "--model", model)
    assert good.status == 0 and "10 of 10 pairs can be used" in good.out
    assert "note: train 6, validation 2, test 2 pairs" in good.out and "intervals will be wide" in good.out
    bad = tmp_path / "bad.jsonl"
    bad.write_text(pairs.read_text() + '{"clean": "a cat", "corrupted": "a dog sat", "answer": " mat"}\n{\n')
    ran = cli("tasks", "check", bad, "--model", model)
    assert ran.status == 1 and f"{bad}:11: clean and corrupted have 2 and 3 tokens" in ran.out
    assert f"{bad}:12: not JSON" in ran.out and "10 of 12 pairs can be used" in ran.out
    few = cli("tasks", "check", bad, "--model", model, "--limit", 1)
    assert "… and 1 more; --limit shows them" in few.out
    assert len(json.loads(cli("tasks", "check", bad, "--model", model, "--json").out)["refusals"]) == 2


def test_check_refuses_what_find_refuses(cli: Cli, model: Path, pairs: Path, tmp_path: Path):
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    files = {
        "few": rows[:2],
        "mixed": [rows[0] | {"split": "train"}, *rows[1:]],
        "leak": [rows[0] | {"split": "train"}, rows[0] | {"split": "test"}],
        "no train": [row | {"split": "test"} for row in rows],
    }
    for name, records in files.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        checked = cli("tasks", "check", path, "--model", model)
        assert checked.status == 1, name
        refused = cli.refused(*find(model, path, tmp_path / "out"))
        if name != "no train":  # that task can be made, so `find` says it of its option
            assert refused.removeprefix("edgewise: ").strip() in checked.out, name


def test_find_warns_where_the_model_does_not_do_the_task(cli: Cli, model: Path, tmp_path: Path):
    path = tmp_path / "nonsense.jsonl"
    names = ["Mary", "Ann", "Lee", "Sue", "John"]
    rows = [(a, b) for a in names for b in names if a != b]
    keys = ("clean", "corrupted", "answer", "wrong_answer")
    values = [(f"{a} ran to", f"{b} ran to", f" {c}", f" {d}") for a, b in rows for c, d in ((a, b), (b, a))]
    path.write_text("".join(json.dumps(dict(zip(keys, each, strict=True))) + "\n" for each in values))
    ran = cli(*find(model, path, tmp_path / "out", "--method", "eap"))
    assert ran.status == 0 and "warning: on " in ran.err and "it does not do this task" in ran.err


def test_templates_serve_wherever_pairs_do(cli: Cli, model: Path, tmp_path: Path):
    path = tmp_path / "own.yaml"
    text = "templates: '{who1} ran to {who2} to the'\ncorrupted: {who1: who3}\nanswer: ' mat'\nwrong_answer: ' rug'\n"
    names = "{train: Mary Ann Lee, validation: Sue John a, test: cat dog on}"
    path.write_text(f"{text}words: {{who: {names}}}\n")
    assert cli("tasks", "show", path, "--model", model, "-n", 2).out.count("corrupted") == 2
    checked = cli("tasks", "check", path, "--model", model)
    assert checked.status == 0 and "note: train 6, validation 6, test 6 pairs" in checked.out
    assert "own: accuracy" in cli("tasks", "score", path, "--model", model, "-n", 3).out
    out = tmp_path / "out"
    ran = cli(*find(model, path, out, "--method", "eap", "--train", 4))
    assert ran.status == 0, ran.err
    judged = json.loads(cli("evaluate", out / "circuit.safetensors", "--baselines", "none", "--json").out)
    assert judged["n"] == 6
    path.write_text(text.replace("who3", "whom3") + f"words: {{who: {names}}}\n")
    assert "no list of words for {whom3}" in cli.refused(*find(model, path, out))
    assert "no list of words for {whom3}" in cli("tasks", "check", path, "--model", model).out


def test_find_gives_spans_edges_of_their_own(cli: Cli, model: Path, pairs: Path, tmp_path: Path):
    ran = cli(*find(model, pairs, tmp_path, "--method", "eap", "--positions"))
    assert ran.status == 0, ran.err
    circuit = Circuit.load(tmp_path / "circuit.safetensors")
    assert circuit.graph.spec.spans == ("rest", "last", "change 1", "change 2")
    assert {name.rpartition(" @ ")[2] for name in circuit.edge_names()} <= set(circuit.graph.spec.spans)
    judged = json.loads(cli("evaluate", tmp_path / "circuit.safetensors", "--baselines", "none", "--json").out)
    assert judged["total_edges"] == circuit.graph.n_edges


def test_score_refuses_a_prompt_that_is_too_long_with_its_line_before_any_is_scored(
    cli: Cli, model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("edgewise.evaluation.score", lambda *_, **__: pytest.fail("a task was scored"))
    long = tmp_path / "long.jsonl"
    record = json.loads(pairs.read_text().splitlines()[0]) | {"split": "train"}
    longer = record | {key: " ".join(["the"] * 40 + [record[key]]) for key in ("clean", "corrupted")}
    long.write_text("".join(json.dumps(each) + "\n" for each in (record, longer)))
    said = cli.refused("tasks", "score", pairs, long, "--model", model, "--split", "train")
    assert f"{long}:2: " in said, said


def test_a_token_that_ends_in_backslashes_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]):
    words = ["a\\", "[b]", "c\\\\\\", ":id:"]
    tokenizer = SimpleNamespace(decode=lambda ids: words[ids[0]])
    pair = Pair((0, 1, 2), (3, 1, 2), (Target(2, (0,)),), "", "")
    _print_pair(1, pair, Task("toy", [pair], [], []), tokenizer)
    clean, corrupted, _ = capsys.readouterr().out.splitlines()
    assert clean == "1  clean      a\\|[b]|c\\\\\\" and corrupted == "   corrupted  :id:|[b]|c\\\\\\"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tasks", "show", "nothing"), "choose ioi, ioi-t1, greater-than"),
        (("tasks", "show", "absent.csv"), "no such file; give a file of pairs or of templates"),
        (("tasks", "show", "ioi", "-n", 0), "-n 0: use at least 1"),
        (("tasks", "show", "ioi", "--split", "dev"), "--split 'dev': choose train, validation, test"),
        (("tasks", "score", "ioi", "--split", "dev"), "--split 'dev'"),
        (("tasks", "score", "nothing"), "choose ioi"),
        (("tasks", "check", "ioi"), "file 'ioi': give a file (.jsonl, .json, .csv, .parquet, .yaml, .yml) or hf:NAME"),
        (("tasks", "check", "hf:"), "hf: names no data set"),
        (("tasks", "check", "hf:x", "--limit", -1), "--limit -1: use at least 0"),
        (("tasks", "show", "program"), "task 'program': its pairs are a compiled program's inputs"),
        (("tasks", "score", "program"), "task 'program': its pairs are a compiled program's inputs"),
        (("tasks", "score", "ioi", "-n", 0), "-n 0: use at least 1"),
        (("tasks", "score", "ioi", "--out", "/dev/null/x.md"), "/dev/null"),
        (("find", "--method", "acdc", "--positions"), "--positions: acdc does not tell positions apart; choose"),
        (("tasks", "check", "pairs.xlsx"), "give a file (.jsonl, .json, .csv, .parquet, .yaml, .yml) or hf:NAME"),
        (("tasks", "show", "ioi", "--model", "./absent"), "its tokenizer could not be loaded"),
    ],
)
def test_refusals(cli: Cli, arguments, message):
    assert message in cli.refused(*arguments)
