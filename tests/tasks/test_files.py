"""Pairs from CSV, Parquet, data sets and MIB's columns, and what `check_file` says of a file."""

import csv
import io
import json

import pytest

from edgewise._errors import InputError
from edgewise.tasks import Task, check_file, from_dataset, from_file, from_provenance, from_records
from edgewise.tasks._rows import _value
from edgewise.tasks._splits import SPLITS

from .conftest import CAT, ROWS, lines, records, text

IOI = {
    "prompt": "Mary and Ann ran to the mat , Mary ran to",
    "template": "{name_A} and {name_B} ran",
    "metadata": {"indirect_object": "Ann", "subject": "Mary", "random_c": "Sue"},
    "choices": ["Ann", "Mary"],
    "answerKey": 0,
    "abc_counterfactual": {
        "prompt": "Lee and Sue ran to the mat , John ran to", "choices": ["Sue", "Lee"], "answerKey": 0,
    },
    "s2_io_flip_counterfactual": {
        "prompt": "Mary and Ann ran to the mat , Ann ran to", "choices": ["Mary", "Ann"], "answerKey": 0,
    },
}  # fmt: skip
CHOICES = {
    "prompt": "the cat sat . 1 . cat 2 . dog to",
    "choices": {"label": ["1", "2"], "text": ["cat", "dog"]},
    "answerKey": 0,
    "symbol_counterfactual": {
        "prompt": "the cat sat . 3 . cat 4 . dog to",
        "choices": {"label": ["3", "4"], "text": ["cat", "dog"]},
        "answerKey": 0,
    },
}
SUM = {
    "prompt": "1 + 2 = ",
    "label": "3",
    "operator": "+",
    "random_counterfactual": {"prompt": "2 + 4 = ", "label": "6"},
}


def csv_of(*rows: dict[str, str]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[f'"{row.get(key, "")}"' for key in keys] for row in rows]
    return "\r\n".join(",".join(row) for row in [keys, *cells]) + "\r\n"


def parquet(path, rows) -> str:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as writer  # pyright: ignore[reportMissingImports] (optional)

    writer.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


def same(task: Task, other: Task) -> bool:
    return [task.split(split) for split in SPLITS] == [other.split(split) for split in SPLITS]


# Kinds of files


def test_csv_and_jsonl_are_the_same_pairs(toy, write):
    expected = from_file(write(lines(*ROWS)), toy)
    for data in (csv_of(*ROWS), "\ufeff" + csv_of(*ROWS), csv_of(*ROWS).replace("\r\n", "\n\n")):
        task = from_file(write(data, "pairs.csv"), toy)
        assert same(task, expected) and task.metric == "logit_diff" and task.name == "pairs"
        assert from_provenance(task.provenance, toy) == task


def test_parquet_holds_the_same_pairs_and_sets_of_answers(toy, tmp_path):
    path = parquet(tmp_path / "pairs.parquet", ROWS)
    task = from_file(path, toy)
    assert same(task, from_records(ROWS, toy)) and from_provenance(task.provenance, toy) == task
    several = parquet(tmp_path / "sets.parquet", [{**ROWS[0], "answer": [" Mary", " Sue"]}])
    assert len(from_file(several, toy).train[0].targets[0].answers) == 2


def test_a_changed_file_is_noticed(toy, write):
    provenance = from_file(write(csv_of(*ROWS), "pairs.csv"), toy).provenance
    write(csv_of(*ROWS[:2]), "pairs.csv")
    with pytest.raises(InputError, match="the file has changed"):
        from_provenance(provenance, toy)


@pytest.mark.parametrize("stream", [False, True])
def test_data_sets_streamed_or_not(toy, tmp_path, stream):
    datasets = pytest.importorskip("datasets")
    by_split = {}
    for row in ROWS:
        name = "val" if row["split"] == "validation" else row["split"]
        by_split[name] = str(tmp_path / f"{name}.jsonl")
        (tmp_path / f"{name}.jsonl").write_text(lines({key: value for key, value in row.items() if key != "split"}))
    loaded = datasets.load_dataset("json", data_files=by_split, streaming=stream, cache_dir=str(tmp_path / "cache"))
    assert same(from_dataset(loaded, toy), from_records(ROWS, toy))
    only = from_dataset(loaded["train"], toy, proportions=(1, 0, 0))
    assert only.train == from_records(ROWS, toy).train


@pytest.mark.unchecked
def test_rows_of_any_kind_may_stand_for_a_data_set(toy):
    assert same(from_dataset(iter(ROWS), toy), from_records(ROWS, toy))
    split = {split: [{**row, "split": None} for row in ROWS if row["split"] == split] for split in SPLITS}
    assert same(from_dataset({**split, "extra": [{}]}, toy), from_records(ROWS, toy))
    with pytest.raises(InputError, match=r"dataset: has the splits dev; give one of them, or name them train"):
        from_dataset({"dev": ROWS}, toy)
    with pytest.raises(InputError, match="dataset: a int is no data set"):
        from_dataset(3, toy)


def test_a_csv_cell_may_hold_a_list_of_answers(toy, write):
    rows = [{**ROWS[0], "answer": [" Mary", " Sue"], "wrong_answer": [" John"]}, *ROWS[1:]]
    cells = [{key: json.dumps(x) if isinstance(x, list) else x for key, x in row.items()} for row in rows]
    sheet = io.StringIO()
    writer = csv.DictWriter(sheet, list(ROWS[0]))
    writer.writeheader()
    writer.writerows(cells)
    task = from_file(write(sheet.getvalue(), "pairs.csv"), toy)
    assert same(task, from_records(rows, toy)) and len(task.train[0].targets[0].answers) == 2


@pytest.mark.parametrize("text", ["[a]", "[0]", "a, [b]", "['a'] b"])
def test_other_brackets_in_a_csv_cell_are_text(text):
    assert _value("answer", text) == text and _value("clean", "['a']") == "['a']"


def test_csv_rows_of_commas_alone_are_no_records(toy, write):
    data = csv_of(*ROWS).replace("\r\n", "\r\n,,,,\r\n")
    assert same(from_file(write(",,,,\r\n" + data, "pairs.csv"), toy), from_records(ROWS, toy))


def test_a_csv_record_stands_where_it_begins(toy, write):
    data = 'clean,corrupted,answer\n\n"a\ncat",a dog ran,"\n\nmat"\n,a dog, mat\n"a\n\ncat"x,y,z\n'
    path = write(data, "pairs.csv")
    result = check_file(path, toy)
    assert [each.split(": ")[0] for each in result.refusals] == [f"{path}:{n}" for n in (3, 7, 8)]


# MIB's columns


@pytest.mark.parametrize(
    ("row", "counterfactual", "corrupted", "answer", "wrong"),
    [
        (IOI, None, "Mary and Ann ran to the mat , Ann ran to", "Ann", "Mary"),
        (IOI, "abc", "Lee and Sue ran to the mat , John ran to", "Ann", "Mary"),
        (CHOICES, None, "the cat sat . 3 . cat 4 . dog to", "1", "3"),
        (SUM, None, "2 + 4 =", "3", "6"),
    ],
    ids=["ioi", "ioi abc", "choices", "sum"],
)
def test_mib_rows(toy, write, row, counterfactual, corrupted, answer, wrong):
    (pair,) = from_dataset({"train": [row]}, toy, counterfactual=counterfactual).train
    (target,) = pair.targets
    assert pair.corrupted_text.strip() == corrupted
    assert (text(toy, target.answers), text(toy, target.wrong)) == (answer, wrong)
    path = write(lines({**row, "split": "train"}))
    assert from_file(path, toy, counterfactual=counterfactual).train == (pair,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"s2_io_flip_counterfactual": None}, "abc"),
        (
            {"s2_io_flip_counterfactual": "text"},
            '"prompt" of the row and of its s2_io_flip_counterfactual must be text',
        ),
        ({"prompt": 3}, "must be text"),
        ({"metadata": None, "answerKey": 7}, 'has neither a "label" nor "choices" that its "answerKey" numbers'),
        ({"metadata": None, "choices": "Ann"}, 'has neither a "label" nor "choices"'),
    ],
)
def test_mib_rows_that_cannot_be_used(toy, change, message):
    row = {**IOI, **change}
    if message == "abc":
        assert from_dataset([row], toy, proportions=(1, 0, 0)).train[0].corrupted_text.startswith("Lee")
        with pytest.raises(
            InputError, match=r'dataset\[0\]: has no counterfactual "s2_io_flip_counterfactual"; it has'
        ):
            from_dataset([row], toy, counterfactual="s2_io_flip")
    else:
        with pytest.raises(InputError, match="dataset.0.: .*" + message):
            from_dataset([row], toy)


@pytest.mark.parametrize("order", [1, -1])
def test_rows_of_two_kinds_in_one_file_are_refused(toy, write, order):
    path = write(lines(*[{**SUM, "split": "train"}, *ROWS][::order]))
    here, there = ('"clean"', "MIB's columns")[::order]
    line = 2 if order == 1 else 4
    expected = f"{path}:{line}: has {here}, but rows before it have {there}; put them into two files"
    with pytest.raises(InputError) as refusal:
        from_file(path, toy)
    assert str(refusal.value) == expected == check_file(path, toy).refusals[0]


# Refusals


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "holds no pairs"),
        (
            "clean,answer\na,b\n",
            ':1: the first line must name the columns between commas, "clean" and "corrupted" among them',
        ),
        ("clean,corrupted,clean\n", ':1: the column "clean" is named twice'),
        ("clean,corrupted\na\n", ":2: has 1 cells where the header names 2"),
        ("clean,corrupted\na,b,c\n", ":2: has 3 cells"),
        ('clean,corrupted\n"a"b,c\n', ":2: not CSV"),
        ('clean,corrupted\n"a,b\n', "not CSV"),
        (b"clean,corrupted\n\xff,b\n", ":2: byte 1 of the line is not UTF-8"),
        ("clean,corrupted\n" + "a" * 200_000 + ",b\n", ":2: not CSV (field larger"),
        ("clean,corrupted\n,a cat\n", ':2: has no "clean"'),
        ("clean,corrupted,answr\na,b,c\n", ':2: there is no key "answr"; did you mean "answer"?'),
        ("clean,corrupted\n" + "x" * (1 << 21), "the line is longer than"),
        ('clean,corrupted\na cat, "a dog"\n', ":2: the space between a comma and a quote"),
        ('clean,corrupted\n "a cat",a dog\n', ":2: the space between a comma and a quote"),
        ('clean,corrupted\na cat, "a, dog"\n', ":2: the space between a comma and a quote"),
        ('clean, "corrupted"\na cat,a dog\n', ":1: the space between a comma and a quote"),
        (
            "clean,corrupted,answer\na,b,\"[' mat', ' rug']\"\n",
            ':2: "answer" looks like a list and is not one of texts',
        ),
        ('clean,corrupted,answer\na,b,"["" mat"", 3]"\n', ':2: "answer" looks like a list'),
        ("clean,corrupted,answer\na,b,[]\n", ':2: "answer" is empty'),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_csv_that_cannot_be_used_is_refused(toy, write, data, message):
    path = write(data, "pairs.csv")
    with pytest.raises(InputError) as refusal:
        from_file(path, toy)
    assert message in str(refusal.value) and str(refusal.value).startswith(path)
    assert len(str(refusal.value).splitlines()) == 1
    assert check_file(path, toy).usable == 0


def test_damaged_parquet_is_refused(toy, tmp_path):
    path = tmp_path / "pairs.parquet"
    whole = tmp_path / "whole.parquet"
    parquet(whole, ROWS)
    for data in (b"", b"PAR1", whole.read_bytes()[:-20], whole.read_bytes()[:40] + whole.read_bytes()[60:]):
        path.write_bytes(data)
        with pytest.raises(InputError, match="not a Parquet file that can be read"):
            from_file(path, toy)


def test_unknown_suffixes_and_absent_files_are_refused(toy, tmp_path):
    with pytest.raises(InputError, match="the suffix .* is not known; use .jsonl, .json, .csv, .parquet or hf:NAME"):
        from_file(tmp_path / "pairs.xlsx", toy)
    with pytest.raises(InputError, match="No such file"):
        from_file(tmp_path / "absent.csv", toy)


def test_skipping_leaves_out_what_cannot_be_used_and_counts_it(toy, write):
    bad = {**ROWS[0], "corrupted": "a dog ran to to"}
    path = write(lines(ROWS[0], bad, *ROWS[1:]) + "[1]\n")
    with pytest.raises(InputError, match=":2: clean and corrupted have 4 and 5 tokens"):
        from_file(path, toy)
    task = from_file(path, toy, skip=True)
    assert same(task, from_records(ROWS, toy)) and task.provenance["skipped"] == 2
    assert from_provenance(task.provenance, toy) == task
    with pytest.raises(InputError, match="holds no pairs that can be used"):
        from_file(write(lines(bad)), toy, skip=True)
    rows = from_records([bad, None, *ROWS], toy, skip=True)  # pyright: ignore[reportArgumentType] (a wrong one)
    assert same(rows, task) and rows.provenance["skipped"] == 2


# What a file is like


def _marked(name: str) -> dict[str, str]:
    words = (("clean", "cat"), ("corrupted", "dog"))
    return {key: f"a <span:{name}>{word}</span> ran on the" for key, word in words} | {
        "answer": " mat",
        "split": "train",
    }


def test_check_names_every_refusal_and_what_may_not_be_meant(toy, write):
    bad = {**ROWS[0], "corrupted": "a dog ran to to"}
    leak = {**ROWS[0], "split": "test"}
    path = write(lines(*ROWS, bad, leak, {**CAT, "split": "test"}) + "{\n")
    result = check_file(path, toy)
    assert result.usable == 4 and [each.split(": ")[0] for each in result.refusals] == [
        f"{path}:{n}" for n in (4, 5, 7)
    ]
    assert result.refused and result.problems == ()
    assert "some pairs have wrong answers and some have none, so that there is no logit difference" in result.notes


def test_check_of_a_good_file_says_its_splits(toy, write):
    for rows in (ROWS, records(9), records(120)):
        result = check_file(write(lines(*rows)), toy)
        assert (result.usable, result.refusals, result.problems) == (len(rows), (), ()) and not result.refused
        made = from_file(write(lines(*rows)), toy)
        sizes = ", ".join(f"{split} {len(made.split(split))}" for split in ("train", "validation", "test"))
        assert result.notes[0] == f"{sizes} pairs"
        assert any("intervals will be wide" in note for note in result.notes) == (0 < len(made.test) < 20)
    none = ("train 1, validation 0, test 0 pairs", "no pair is in the split validation or test")
    assert check_file(write(lines(ROWS[0])), toy).notes == none


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (lines(), "{path}: holds no pairs"),
        (lines(*records(2)), "{path}: 2 different prompts are too few for three splits"),
        (lines(ROWS[0], *records(4)), '{path}:2: some pairs have a "split" and others do not'),
        (lines(*records(4), ROWS[0], ROWS[1]), '{path}:5: some pairs have a "split" and others do not'),
        (lines(CAT, _marked("who")), "{path}:2: some pairs mark spans and others do not"),
        (lines({**ROWS[0], "split": "test"}), "{path}: no pair is in the split train"),
    ],
    ids=["empty", "few", "split first", "split last", "spans", "no train"],
)
def test_check_refuses_what_makes_no_task(toy, write, data, problem):
    """Whatever `find` refuses, every row of it being fine; and in the same words."""
    path = write(data)
    result = check_file(path, toy)
    assert result.refused and not result.refusals and len(result.problems) == 1
    assert result.problems[0].startswith(problem.format(path=path))
    if "train" not in problem:  # such a task can be made, and judged on
        with pytest.raises(InputError) as refusal:
            from_file(path, toy)
        assert str(refusal.value) == result.problems[0]


# One prompt in two splits


def test_a_clean_prompt_in_two_splits_is_refused(toy, write):
    again = {**ROWS[0], "corrupted": "the dog ran to", "answer": " Sue", "split": "test"}
    path = write(lines(*ROWS, again))
    expected = (
        f"{path}:4: its clean prompt is also in the split train ({path}:1), so pairs that are learned from would leak"
    )
    with pytest.raises(InputError) as refusal:
        from_file(path, toy)
    assert str(refusal.value).startswith(expected)
    assert [each[: len(expected)] for each in check_file(path, toy).refusals] == [expected]
    task = from_file(path, toy, skip=True)
    assert same(task, from_records(ROWS, toy)) and task.provenance["skipped"] == 1
    # In one split a prompt may stand as often as wanted, also as a corrupted one in another.
    fine = [*ROWS, {**again, "split": "train"}, {**ROWS[1], "clean": "a dog sat on the", "corrupted": ROWS[1]["clean"]}]
    assert len(from_records(fine, toy).train) == 2


def test_dealt_out_or_asked_for_no_clean_prompt_is_in_two_splits(toy):
    rows = [{**row, "answer": answer} for row in records(30) for answer in (" the", " mat", " rug")]
    for each in (rows, [{**row, "split": SPLITS[number // 3 % 3]} for number, row in enumerate(rows)]):
        task = from_records(each, toy)
        prompts = [{pair.clean for pair in task.split(split)} for split in SPLITS]
        assert all(prompts) and sum(map(len, prompts)) == len(set().union(*prompts)) == 30


def test_a_prompt_longer_than_the_model_is_refused_with_its_line(write, toy):
    path = write(lines(*ROWS))
    message = f"{path}:2: a prompt has 5 tokens, and the model has 4 positions; shorten it"
    with pytest.raises(InputError) as refusal:
        from_file(path, toy, longest=4)
    assert str(refusal.value) == message == check_file(path, toy, longest=4).refusals[0]
    assert len(from_file(path, toy, longest=5).train) == 1


def test_which_prompts_were_too_long_is_recorded(write, toy):
    path = write(lines(*ROWS))
    some = from_file(path, toy, longest=4, skip=True)
    assert some.provenance["skipped"] and some.provenance["arguments"]["longest"] == 4
    assert from_provenance(some.provenance, toy) == some
    assert "longest" not in from_file(path, toy, longest=5, skip=True).provenance["arguments"]
