"""Whether a BOS token, or what stands for it, comes before prompts: asked for, recorded, and not doubled."""

import json
from copy import deepcopy
from pathlib import Path

import pytest

from edgewise._errors import InputError
from edgewise.models import load_tokenizer
from edgewise.tasks import Encoder, from_file, from_provenance, from_records, ioi

from .conftest import CAT


@pytest.mark.parametrize("bos", [None, True, False])
def test_a_bos_token_is_an_option_and_recorded(bos: bool | None):
    smollm2 = load_tokenizer("smollm2-135m")  # has one, and puts nothing before a text
    first = smollm2.bos_token_id
    made = ioi(smollm2, train=2, validation=1, test=1, bos=bos)
    starts = {ids[0] == first for pair in made.train for ids in (pair.clean, pair.corrupted)}
    assert starts == {bool(bos)} and made.provenance["bos"] is bool(bos)
    assert from_provenance(made.provenance, smollm2) == made
    plain = ioi(smollm2, train=2, validation=1, test=1)
    assert made.train[0].clean[bool(bos) :] == plain.train[0].clean
    assert (
        from_provenance(plain.provenance, smollm2, bos=True).train
        == ioi(smollm2, train=2, validation=1, test=1, bos=True).train
    )
    record = {"clean": "Paris is in", "corrupted": "Rome is in", "answer": " France", "split": "train"}
    written = {**record, "clean": f"{smollm2.bos_token}Paris is in", "corrupted": f"{smollm2.bos_token}Rome is in"}
    for each in (record, written):  # one that the text has is not doubled
        task = from_records([each], smollm2, bos=bos)
        assert task.train[0].clean.count(first) == (1 if each is written else bool(bos))
        assert task.provenance["bos"] is bool(bos)


def test_eos_stands_for_it_where_there_is_none(toy):
    """As in TransformerLens, so that EAP-IG's and MIB's prompts of Qwen's models begin with it; or PAD."""
    tokenizer = deepcopy(toy)
    tokenizer.eos_token = "sat"
    end = tokenizer.convert_tokens_to_ids("sat")
    orders = (("eos",), ("pad", "eos"))
    assert [Encoder.of(tokenizer, True, each).prefix for each in orders] == [(end,), (end,)]
    tokenizer.pad_token = "on"
    assert [Encoder.of(tokenizer, True, each).prefix for each in orders] == [(end,), (tokenizer.pad_token_id,)]
    assert Encoder.of(tokenizer).prefix == Encoder.of(tokenizer, False).prefix == ()
    task = from_records([CAT], tokenizer, bos=True)
    assert task.train[0].clean[0] == end and task.provenance["bos"] is True
    assert from_records([CAT], tokenizer).provenance["bos"] is False


def test_a_tokenizer_without_one_is_refused(toy):
    with pytest.raises(
        InputError, match="bos=True: this tokenizer has no BOS token, and none to stand for it; use bos=False"
    ):
        from_records([CAT], toy, bos=True)


@pytest.mark.parametrize("bos", [None, True, False])
def test_token_ids_are_as_they_are_unless_a_bos_token_is_asked_for(bos: bool | None, tmp_path: Path):
    tokenizer = load_tokenizer("smollm2-135m")
    first, path = tokenizer.bos_token_id, tmp_path / "ids.jsonl"
    given = {"clean": [5, 7], "corrupted": [5, 8], "answer": 9, "split": "train"}
    begun = {"clean": [first, 6, 7], "corrupted": [first, 4, 7], "positions": "all", "split": "train"}
    path.write_text("\n".join(map(json.dumps, (given, begun))))
    task = from_file(path, tokenizer, bos=bos)
    before = (first,) if bos else ()
    assert [pair.clean for pair in task.train] == [(*before, 5, 7), (first, 6, 7)]
    assert [pair.corrupted for pair in task.train] == [(*before, 5, 8), (first, 4, 7)]
    assert [[(t.position, t.answers) for t in pair.targets] for pair in task.train] == [
        [(len(before) + 1, (9,))],
        [(0, (6,)), (1, (7,))],
    ]
    assert task.provenance["bos"] is bool(bos)
    assert from_provenance(task.provenance, tokenizer).train == task.train
    assert from_provenance(task.provenance, tokenizer, bos=True).train == from_file(path, tokenizer, bos=True).train


def test_a_tokenizer_that_begins_with_bos_leaves_token_ids_alone_and_says_so(unigram):
    given = {"clean": [5, 7], "corrupted": [5, 8], "answer": 9, "split": "train"}
    text = {"clean": "The cat", "corrupted": "The toy", "answer": " ran", "split": "train"}
    for some, begun in (([given], False), ([text], True), ([text, given], False)):
        task = from_records(some, unigram)
        assert task.provenance["bos"] is begun
        assert task.train[-1].clean == (5, 7) or begun
    assert from_records([text, given], unigram, bos=True).train[1].clean == (unigram.bos_token_id, 5, 7)
    with pytest.raises(InputError, match="bos=True, and no tokenizer that has such a token; write its id into"):
        from_records([given], None, bos=True)
