"""docs/foreign-files.md says of each key of other tools' files what the readers do with it."""

import json
import re
from pathlib import Path

import pytest

from edgewise import InputError
from edgewise.attribution.formats import _file_keys
from edgewise.exchange import _mib, _tables
from edgewise.runs import Keys
from edgewise.tasks import from_dataset, from_records
from edgewise.transcoders import read_tokens
from edgewise.transcoders.formats import (
    _authors,
    _circuit_tracer,
    _dictionary_learning,
    _gemma_scope,
    _saelens,
    _sparsify,
)
from tests.tasks.conftest import byte_bpe as byte_bpe  # fixtures
from tests.tasks.conftest import toy as toy
from tests.tasks.test_foreign_rows import CHOICE, NAMES, SUM

PAGE = (Path(__file__).parents[1] / "docs" / "foreign-files.md").read_text("utf-8")
MODULES = (
    *(_saelens, _circuit_tracer, _sparsify, _dictionary_learning, _gemma_scope, _authors),
    *(_mib, _tables, _file_keys),
)
TABLES = [each for module in MODULES for each in vars(module).values() if isinstance(each, Keys)]


@pytest.mark.parametrize("keys", TABLES, ids=lambda keys: keys.title)
def test_the_page_has_what_the_reader_does(keys: Keys):
    assert f"### {keys.title}\n\n{keys.table()}\n" in PAGE, keys.table()
    known = [*keys.honoured, *(key for each in keys.irrelevant.values() for key in each)]
    assert len(known) == len(set(known)), "a key stands twice"


@pytest.mark.parametrize("keys", TABLES, ids=lambda keys: keys.title)
def test_what_the_table_refuses_is_refused_and_what_it_does_not_have_is_warned_of(keys: Keys):
    for key, only in keys.refused.items():
        keys.check("x", {key: None} | ({key: only.values[0]} if only.values else {}))
        with pytest.raises(InputError, match=f"^x: {key} is 'another'; "):
            keys.check("x", {key: "another"})
    with pytest.warns(UserWarning, match="^x: 'of_tomorrow' is not known here"):
        keys.check("x", {"of_tomorrow": 1})


def _rows(section: str) -> list[tuple[str, str]]:
    text = PAGE.split(f"### {section}\n")[1].split("\n### ")[0]
    return re.findall(r"^\| (.+?) \| (honoured|refused|irrelevant) \|", text, re.MULTILINE)


def _taken(record: dict, toy) -> list:
    """The pairs of a record, by split; or what is said of it."""
    try:
        read = from_dataset({"train": [record]}, toy)
    except InputError as error:
        return [str(error)]
    return [read.train, read.validation, read.test]


RECORDS: list[dict] = [
    {"clean": "a cat sat", "corrupted": "a dog sat", "answer": " on", "wrong_answer": " ran"},
    {"clean": "a cat sat", "corrupted": "a dog sat", "positions": "all"},
    {"clean": "a cat sat", "corrupted": "a dog sat", "correct_idx": 3, "incorrect_idx": 4},
    {"clean": "a cat sat", "corrupt": "a dog sat", "answers": [" on"], "wrong_answers": [" ran"]},
    {"clean_prefix": "a cat", "patch_prefix": "a dog", "clean_answer": " sat", "patch_answer": " ran"},
    CHOICE,
    SUM,
    NAMES,
]
"""In everybody's columns."""


def test_each_column_of_pairs_decides_what_comes_of_a_row(toy, byte_bpe):
    """Without a column that the page says is honoured another pair comes of the row, or a refusal; without another
    the same."""
    decides = set[str]()
    for record in RECORDS:
        tokenizer = byte_bpe if "prompt" in record else toy
        whole = _taken(record, tokenizer)
        assert len(whole) == 3, whole
        for key in record:
            if _taken({name: value for name, value in record.items() if name != key}, tokenizer) != whole:
                decides.add("…_counterfactual" if key.endswith("_counterfactual") else key)
        assert _taken(record | {"note": "for people", "id": 7}, tokenizer) == whole
    apart = [RECORDS[0] | {"clean": clean, "split": "train"} for clean in ("a cat sat", "a cat ran", "the cat sat")]
    assert len(from_records(apart, toy).train) == 3
    decides.add("split")
    rows = _rows("Pairs")
    honoured = {key for keys, what in rows if what == "honoured" for key in re.findall(r"`([…\w]+)`", keys)}
    assert honoured == decides
    assert [keys for keys, what in rows if what == "irrelevant"] == ["any other"]


def test_of_a_text_only_the_text_is_read(tmp_path, toy):
    assert _rows("Text (`--text`)") == [("`text`", "honoured"), ("any other", "irrelevant")]
    path = tmp_path / "t.jsonl"

    def read(**record):
        path.write_text(json.dumps(record) + "\n")
        return read_tokens(path, toy, context=4, vocabulary=len(toy)).ids.tolist()

    text = "a cat sat on the mat, a dog sat on the rug"
    assert read(text=text) == read(text=text, messages=[{"content": "a dog"}], label=3) != read(text=text[::-1])
    for record in ({"text": None}, {"text": [text]}, {"messages": [{"role": "user", "content": text}]}):
        with pytest.raises(InputError, match="text"):
            read(**record)


def test_pairs_refuse_what_the_page_says(toy):
    rows = _rows("Pairs")
    refused = [key for keys, what in rows if what == "refused" for key in re.findall(r"`(\w+)`", keys)]
    assert {"label", "answerKey", "choices", "answers_idx"} <= set(refused)
    for key in refused:
        with pytest.raises(InputError, match=key):
            from_records([{"clean": "a cat", "corrupted": "a dog", key: 3}], toy)
