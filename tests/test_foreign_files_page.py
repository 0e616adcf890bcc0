"""docs/foreign-files.md says of each key of other tools' files what the readers do with it."""

import re
from pathlib import Path

import pytest

from edgewise import InputError
from edgewise.attribution.formats import _file_keys
from edgewise.exchange import _mib, _tables
from edgewise.runs import Keys
from edgewise.tasks import from_records
from edgewise.transcoders.formats import (
    _authors,
    _circuit_tracer,
    _dictionary_learning,
    _gemma_scope,
    _saelens,
    _sparsify,
)
from tests.tasks.conftest import toy as toy  # a fixture

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


def test_pairs_refuse_what_the_page_says(toy):
    section = PAGE.split("### Pairs\n")[1].split("\n### ")[0]
    rows = re.findall(r"^\| (.+?) \| (honoured|refused|irrelevant) \|", section, re.MULTILINE)
    refused = [key for keys, what in rows if what == "refused" for key in re.findall(r"`(\w+)`", keys)]
    assert {"label", "answerKey", "choices", "answers_idx"} <= set(refused)
    for key in refused:
        with pytest.raises(InputError, match=key):
            from_records([{"clean": "a cat", "corrupted": "a dog", key: 3}], toy)
