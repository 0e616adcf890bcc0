"""Text of every kind becomes rows; what is no text is refused."""

import json
import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from edgewise.transcoders import TokenRows, read_tokens
from edgewise.transcoders._text import held_out
from tests.tiny import refused

WORDS = ["<s>", "</s>", "[UNK]", "a", "b", "c", "d"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", bos_token="<s>", eos_token="</s>", model_max_length=4
    )


def test_documents_are_packed_with_a_bos_a_row_and_an_eos_a_document(tmp_path, tokenizer):
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in ("a b c", "d d", "a a a")))
    rows = read_tokens(tmp_path / "x.jsonl", tokenizer, context=5)
    words = [[WORDS[i] for i in row] for row in rows.ids.tolist()]
    assert words == [["<s>", "a", "b", "c", "</s>"], ["<s>", "d", "d", "</s>", "a"]]
    assert rows.source["tokens"] == 10 and rows.source["text"] == ["x.jsonl"]


def test_files_and_folders_and_limits(tmp_path, tokenizer):
    for name in ("1.txt", "2.md", "3.unknown"):
        (tmp_path / name).write_text("a b c d " * 20)
    assert len(read_tokens(tmp_path, tokenizer, context=5)) == 40  # two files of 81 tokens, 4 a row
    assert len(read_tokens([tmp_path / "1.txt", tmp_path / "2.md"], tokenizer, context=5, limit=33)) == 6


def test_an_array_is_taken_as_it_is(tmp_path, monkeypatch):
    np.save(tmp_path / "t.npy", np.arange(25, dtype=np.uint16))
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = read_tokens("~/t.npy", None, context=8, vocabulary=25)
    assert torch.equal(rows.ids, torch.arange(24).view(3, 8))
    assert "the model has 20" in refused(lambda: read_tokens(tmp_path / "t.npy", None, context=8, vocabulary=20))
    np.save(tmp_path / "f.npy", np.zeros(30))
    assert "give integers" in refused(lambda: read_tokens(tmp_path / "f.npy", None, context=8))
    (tmp_path / "n.npy").write_bytes(b"no")
    assert "numpy.save" in refused(lambda: read_tokens(tmp_path / "n.npy", None, context=8))


def test_the_built_in_corpus_is_there_without_any_file(tokenizer):
    assert len(read_tokens("builtin", tokenizer, context=64, limit=6400)) == 100


def test_rows_are_held_out_at_the_end(tmp_path, tokenizer):
    (tmp_path / "1.txt").write_text("a b c d " * 100)
    rows = read_tokens(tmp_path / "1.txt", tokenizer, context=5)
    first, last = rows.split(0.1)
    assert torch.equal(torch.cat([first.ids, last.ids]), rows.ids) and len(last) == 10
    assert first.digest != last.digest
    for share in (0, 1, -0.5, math.nan):
        assert "between 0 and 1" in refused(lambda share=share: rows.split(share))


def test_whether_rows_were_held_out_is_known_or_not(tmp_path, tokenizer):
    for name in ("1.txt", "2.txt"):
        (tmp_path / name).write_text("a b c d " * 100)
    rows = read_tokens(tmp_path / "1.txt", tokenizer, context=5)
    first, last = rows.split(0.1)
    assert held_out(last.source, first.source) and held_out(rows.split(0.05)[1].source, first.source)
    assert not held_out(rows.split(0.2)[1].source, first.source) and not held_out(rows.source, first.source)
    assert not held_out(last.source, rows.source) and not held_out(first.source, first.source)
    shorter = read_tokens(tmp_path / "1.txt", tokenizer, context=5, limit=100)
    assert not held_out(shorter.split(0.1)[1].source, first.source)
    other = read_tokens(tmp_path / "2.txt", tokenizer, context=4)
    assert held_out(other.source, first.source)


def test_a_folders_files_and_a_split_left_out_are_texts_of_the_same_name(tmp_path, tokenizer):
    (tmp_path / "corpus").mkdir()
    for place in ("corpus/a.txt", "b.txt"):
        (tmp_path / place).write_text("a b c d " * 100)
    whole, part, other = (read_tokens(tmp_path / place, tokenizer, context=5, limit=limit) for place, limit in
                          (("corpus", None), ("corpus/a.txt", 50), ("b.txt", 50)))  # fmt: skip
    assert whole.source["files"] == ["a.txt"] and "files" not in part.source
    assert not held_out(part.source, whole.source) and not held_out(whole.source, part.source)
    assert held_out(other.source, whole.source) and held_out(whole.source, other.source)
    hub = {name: {"text": [name]} for name in ("hf:a/b", "hf:a/b::train", "hf:a/b::test", "hf:a/b:c")}
    assert not held_out(hub["hf:a/b::train"], hub["hf:a/b"]) and not held_out(hub["hf:a/b"], hub["hf:a/b::train"])
    assert held_out(hub["hf:a/b::test"], hub["hf:a/b"]) and held_out(hub["hf:a/b:c"], hub["hf:a/b"])


def test_what_has_no_name_is_not_known_to_have_been_held_out(tmp_path, tokenizer):
    (tmp_path / "1.txt").write_text("a b c d " * 100)
    rows = read_tokens(tmp_path / "1.txt", tokenizer, context=5)
    own, other = TokenRows(rows.ids), TokenRows(rows.ids.flip(1))
    assert not held_out(rows.source, {}) and not held_out(own.source, rows.source) and not held_out({}, {})
    assert held_out(own.split(0.1)[1].source, own.split(0.1)[0].source)
    assert not held_out(other.split(0.1)[1].source, own.split(0.1)[0].source)
    first, _ = rows.split(0.2)
    again, last = first.split(0.1)  # last is of what the first split trains on
    assert not held_out(last.source, first.source) and held_out(last.source, again.source)


def test_lines_of_json_may_hold_any_character(tmp_path, tokenizer):
    (tmp_path / "x.jsonl").write_text('{"text": "a b\u2028c\u0085d"}\n\n{"text": "a"}\r\n', encoding="utf-8")
    assert read_tokens(tmp_path / "x.jsonl", tokenizer, context=3).n_tokens >= 3


def test_a_byte_order_mark_is_no_text(tmp_path, tokenizer):
    for name, content in (("x.jsonl", '{"text": "a b c d"}'), ("x.txt", "a b c d")):
        plain, marked = ((tmp_path / f"{i}{name}") for i in range(2))
        plain.write_text(content, encoding="utf-8")
        marked.write_text(content, encoding="utf-8-sig")
        wanted, found = (read_tokens(path, tokenizer, context=5).ids for path in (plain, marked))
        assert torch.equal(wanted, found)


def test_a_stream_refuses_what_a_file_refuses(monkeypatch, tokenizer):
    records = [{"text": "a b c d e f g h"}, {"text": None}]
    module = ModuleType("datasets")
    module.load_dataset = lambda *_given, **_named: iter(records)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "datasets", module)
    for row, says in (({"text": None}, "its \"text\" is 'None'"), ({"text": ["a"]}, "['a']"), ({}, 'with a "text"')):
        records[1] = row
        said = refused(lambda: read_tokens("hf:x", tokenizer, context=8))
        assert "row 1" in said and says in said


def test_what_is_no_text_is_refused(tmp_path, tokenizer):
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"tekst": 1}\n')
    (tmp_path / "null.jsonl").write_text('{"text": null}\n')
    (tmp_path / "latin.jsonl").write_bytes('{"text": "é"}'.encode("latin-1") * 10)
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1") * 10)
    (tmp_path / "short.txt").write_text("a b")
    (tmp_path / "empty").mkdir()
    for name in ("docs.json", "docs.csv", "docs"):
        (tmp_path / name).write_text('[{"text": "a b c d a b c d a b c d"}]' * 9)
    for name, says in (
        ("missing.txt", "no such file"),
        ("bad.jsonl", "line 2"),
        ("null.jsonl", "line 1: its \"text\" is 'None', not a string"),
        ("latin.jsonl", "UTF-8"),
        ("latin.txt", "UTF-8"),
        ("short.txt", "less than one row"),
        ("empty", "holds no"),
        ("docs.json", "no file of text; give builtin, a .txt, .md or .jsonl file"),
        ("docs.csv", "no file of text"),
        ("docs", "no file of text"),
    ):
        assert says in refused(lambda name=name: read_tokens(tmp_path / name, tokenizer, context=8))
    assert "no tokenizer" in refused(lambda: read_tokens(tmp_path / "short.txt", None))
    assert "reads symbols" in refused(lambda: read_tokens(tmp_path / "short.txt", object()))  # a compiled program's
    assert "only source" in refused(lambda: read_tokens(["x.npy", "builtin"], tokenizer))
    assert "at least one" in refused(lambda: read_tokens([], tokenizer))
    assert "limit 0: give at least 1" in refused(lambda: read_tokens("builtin", tokenizer, limit=0))
