"""Files that are wrong, huge, cut short or meant to deceive: never a traceback, never a silent wrong pair.

A thousand cases by default; EDGEWISE_CASES=100000 runs so many.
"""

import csv
import io
import json
import os
import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from edgewise._errors import InputError
from edgewise.tasks import Pair, Task, check_file, from_file
from edgewise.tasks._splits import SPLITS

CASES = int(os.environ.get("EDGEWISE_CASES", "1000"))
SHARES = 10
PIECES = ["a", " cat", " dog", " toy", " ", "  ", "\n", " sat", "s", " 1", "12", "é", " Mary", " Paris", ","]
PIECES += ["\x00", "…", "\u202e", "𐍈", "\r", "\u2028"]
WHO = ["a cat", "a mat", "a dog", "a toy", "Mary", "John ran", "the cat sat"]
TAGS = ["<predict>", "</predict>", "<span:x>", "<span:y>", "</span>", "<span:>", "<span", "</s>", "<|endoftext|>"]
KEYS = ["clean", "corrupted", "answer", "wrong_answer", "split", "positions"]
ODD_KEYS = [*KEYS, "prompt", "label", "answr", "x_counterfactual"]
ODD_VALUES = [None, 1, "", [], {}, ["a", 3], "all", " mat", {"prompt": "a"}, 1e999]
ODD_RECORDS = [None, 3, [], "clean", {}, [{}], True, 1e999, -(10**30)]
BYTES = [b"", b"\x00", b"\xff", b"\xef\xbb\xbf", b'"', b"\\", b"\n", b"\r", b",", b"{", b"}", b"[", b"]", b":"]
BYTES += [b"\xed\xa0\x80", b"9" * 400]
HUGE = [b"x" * (1 << 21), b"[" * 100_000, b'"' + b"a,\n" * 100_000]
_TAG = re.compile(r"<span:[^<>]*>|</span>")


class Maker:
    """A file from a seed. Half the files are near what is right, since what is far from it is refused at once."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.wild = self.draw.random() < 0.5

    def some(self, longest: int = 4) -> str:
        pieces = PIECES if self.wild else PIECES[:11]
        return "".join(self.draw.choice(pieces) for _ in range(self.draw.randint(0, longest)))

    def record(self) -> Any:
        pick = self.draw.choice
        middle, end = self.some(), pick(["", " to", " the"])
        who = self.draw.sample(WHO if self.wild else WHO[:2], 2)
        clean, corrupted = (each + middle + end for each in who)
        record: dict[str, Any] = {"split": pick(SPLITS)}
        kind = pick(["answer", "answer", "list", "predict", "all", "spans", "spans"])
        if kind in ("answer", "spans"):
            record["answer"] = pick([" Mary", " mat", " cat dog", " to the", self.some(2)])
        if "answer" in record and self.draw.random() < 0.5:
            record["wrong_answer"] = pick([" John", " mat", self.some(2)])
        if kind == "list":
            record["answer"] = [pick([" Mary", " mat", " cat", " sat"]) for _ in range(self.draw.randint(0, 3))]
        if kind == "all":
            record["positions"] = "all"
        if kind == "predict":
            clean += f"<predict>{pick([' Mary', ' cat sat', 'Mary'])}</predict>{self.some(2)}"
        if kind == "spans":
            who = self.draw.sample(WHO, 2)
            clean, corrupted = (f"<span:who>{each}</span>{middle}{end}" for each in who)
        return (
            self.spoiled(record | {"clean": clean, "corrupted": corrupted})
            if self.wild
            else (record | {"clean": clean, "corrupted": corrupted})
        )

    def spoiled(self, record: dict[str, Any]) -> Any:
        """The record, now and then with a tag, a key or a value that does not belong there."""
        for key in ("clean", "corrupted"):
            for _ in range(self.draw.choice([0, 0, 0, 0, 1, 2])):
                place = self.draw.randint(0, len(record[key]))
                record[key] = record[key][:place] + self.draw.choice(TAGS) + record[key][place:]
        if self.draw.random() < 0.1:
            record[self.draw.choice(ODD_KEYS)] = self.draw.choice(ODD_VALUES)
        if self.draw.random() < 0.05:
            record.pop(self.draw.choice(list(record)))
        return self.draw.choice(ODD_RECORDS) if self.draw.random() < 0.04 else record

    def file(self, suffix: str) -> bytes:
        records = [self.record() for _ in range(self.draw.choice([0, 1, 1, 1, 2, 3]))]
        data = jsonl_of(records) if suffix == ".jsonl" else csv_of(records, self.wild and self.draw.random() < 0.5)
        for _ in range(self.draw.choice([0, 0, 1, 3]) if self.wild else 0):
            start, stop = sorted(self.draw.randint(0, len(data)) for _ in range(2))
            stop = stop if self.draw.random() < 0.2 else min(stop, start + 2)
            data = data[:start] + self.draw.choice(BYTES) + data[stop:]
        return data + self.draw.choice(HUGE) if self.draw.random() < 0.002 else data


def jsonl_of(records: list[Any]) -> bytes:
    lines = (json.dumps(record, ensure_ascii=len(str(record)) % 2 == 0) for record in records)
    return "".join(f"{line}\n" for line in lines).encode(errors="surrogatepass")


def csv_of(records: list[Any], spaced: bool = False) -> bytes:
    """Lists in JSON; `spaced` as people write by hand, all cells quoted and a space after each comma."""
    out = io.StringIO()
    writer = csv.DictWriter(out, KEYS, restval="", extrasaction="ignore", quoting=csv.QUOTE_ALL if spaced else 0)
    writer.writeheader()
    rows = ({key: json.dumps(x) if isinstance(x, list) else x for key, x in record.items()}
            for record in records if isinstance(record, dict))  # fmt: skip
    writer.writerows(rows)
    text = out.getvalue()
    return (text.replace('","', '", "') if spaced else text).encode(errors="surrogatepass")


# What the records say, read by other means


def said(path: str) -> list[dict[str, Any]]:
    """The records of a file that was accepted, by plain readers."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        if path.endswith(".jsonl"):
            return [json.loads(line) for line in file.read().split("\n") if line.strip()]
        rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
        return [
            {key: json.loads(value) if value[:2] == '["' else value for key, value in row.items()}
            for row in rows
            if row
        ]


def check_pair(pair: Pair, record: dict[str, Any], tokenizer) -> None:
    """What the model reads and is judged by spells the record's texts, to the letter."""

    def spelled(*ids: int) -> str:
        return tokenizer.decode(list(ids))

    tagged, other = (_TAG.sub("", record[key]) for key in ("clean", "corrupted"))
    clean, corrupted = (re.sub("</?predict>", "", text) for text in (tagged, other))
    assert (pair.clean_text, pair.corrupted_text) == (clean, corrupted) and pair.clean != pair.corrupted
    judged = [target.answers[0] for target in pair.targets]
    read = pair.clean[: pair.targets[0].position + 1]
    answers: list[str] = record["answer"] if isinstance(record.get("answer"), list) else [record.get("answer", "")]
    if record.get("positions") == "all":
        assert (spelled(*pair.clean), spelled(*pair.corrupted)) == (clean, corrupted)
        assert [target.answers for target in pair.targets] == [(token,) for token in pair.clean[1:]]
    elif "<predict>" in tagged:
        before, marked = tagged.partition("</predict>")[0].split("<predict>")
        assert spelled(*read, *judged) == before + marked
        assert clean.startswith(spelled(*pair.clean))
    else:
        (target,) = pair.targets[-1:]
        right = {spelled(*pair.clean, token) for token in target.answers}
        assert right == {clean + answer for answer in answers} and spelled(*read, *judged) in right
        assert {spelled(*pair.corrupted, token) for token in target.answers} == {corrupted + x for x in answers}
        if isinstance(record.get("wrong_answer"), str):
            wrong = clean + record["wrong_answer"]
            # Half of a character's bytes are no text yet.
            assert any(wrong.startswith(spelled(*pair.clean[: each.position + 1], token).rstrip("\ufffd"))
                       for each in pair.targets for token in each.wrong)  # fmt: skip
    if "<span:" in record["clean"]:
        check_spans(pair, record, spelled)


def check_spans(pair: Pair, record: dict[str, Any], spelled: Callable[..., str]) -> None:
    """Tokens in a group spell its spans, and partners keep their order, and outside of spans their text."""
    assert pair.spans is not None
    marked = "".join(re.findall(r"<span:[^<>]+>(.*?)</span>", record["clean"], re.DOTALL))
    inside = [token for token, span in zip(pair.clean, pair.spans, strict=True) if span]
    assert re.sub("</?predict>| ", "", marked).startswith(spelled(*inside).replace(" ", ""))
    align = pair.align or tuple(range(len(pair.clean)))
    assert list(align) == sorted(align) and align[-1] == len(pair.corrupted) - 1 and len(align) == len(pair.spans)
    if record["clean"].count("<span:who>") == record["clean"].count("<span") == 1 and record["clean"][0] == "<":
        outside = [align[place] - len(pair.corrupted) for place, span in enumerate(pair.spans) if not span]
        assert outside == list(range(-len(outside), 0))


def outcome(build: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return build(*arguments)
    except InputError as error:
        message = str(error)
        assert len(message.splitlines()) == 1 and len(message) < 900, message
        return message


@pytest.mark.parametrize("share", range(SHARES))
def test_any_file_gives_one_line_or_the_pairs_it_says(byte_bpe, tmp_path, share):
    accepted = 0
    for case in range(share, CASES, SHARES):
        suffix = (".jsonl", ".csv")[case // SHARES % 2]
        path = str(tmp_path / f"pairs{suffix}")
        with open(path, "wb") as file:
            file.write(Maker(case).file(suffix))
        made = outcome(from_file, path, byte_bpe)
        checked = outcome(check_file, path, byte_bpe)
        if isinstance(made, str):
            assert made.startswith(path), made
            assert isinstance(checked, str) or checked.refused, (case, made)
            continue
        assert isinstance(made, Task) and not checked.refusals, (case, checked)
        assert checked.refused == (not made.train), (case, checked)
        left = {split: iter(made.split(split)) for split in SPLITS}
        records = said(path)
        assert checked.usable == len(records) == sum(len(made.split(split)) for split in SPLITS)
        accepted += 1
        if any("split" not in record for record in records):
            continue  # dealt out by a seed; which is which was seen where they have a split
        for record in records:
            check_pair(next(left[record["split"]]), record, byte_bpe)
    assert accepted > CASES / SHARES / 50  # or the cases would test refusals alone


def test_damaged_parquet_gives_one_line_or_a_task(byte_bpe, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet  # pyright: ignore[reportMissingImports] (optional)

    rows = [{"clean": f"a cat {n}", "corrupted": f"a dog {n}", "answer": " mat", "split": "train"} for n in range(40)]
    whole, path = tmp_path / "whole.parquet", tmp_path / "pairs.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), whole)
    data = whole.read_bytes()
    for case in range(CASES // 10):
        draw = random.Random(case)
        damaged = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(bytes(damaged[: draw.choice([len(data), draw.randrange(len(data))])]))
        made = outcome(from_file, path, byte_bpe)
        if isinstance(made, Task):  # damage that still reads: the pairs are what the file says now
            said = {(row["clean"], row["corrupted"]) for row in parquet.read_table(path).to_pylist()}
            assert {(pair.clean_text, pair.corrupted_text) for pair in made.train} <= said
        else:
            assert made.startswith(str(path))
