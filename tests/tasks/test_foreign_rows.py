"""Rows of MIB, EAP-IG, auto-circuit and feature-circuits: judged at the tokens that those tools judge, in every kind of
file, or refused.
"""

import json

import pytest

from edgewise._errors import InputError
from edgewise.tasks import check_file, from_dataset, from_file, from_records

from .conftest import lines

LETTERS = {"label": ["A", "B"], "text": ["cat", "dog"]}
CHOICE = {
    "prompt": "a cat sat on the mat. A: cat B: dog Answer:",
    "choices": LETTERS,
    "answerKey": 0,
    "symbol_counterfactual": {
        "prompt": "a cat sat on the mat. C: cat D: dog Answer:",
        "choices": LETTERS,
        "answerKey": 1,
    },
}
SUM = {"prompt": "1 + 2 is", "label": 3, "random_counterfactual": {"prompt": "2 + 4 is", "label": 6}}
NAMES = {
    "prompt": "When Mary and John sat on the mat, John gave a hat to",
    "metadata": {"indirect_object": "Mary", "subject": "John"},
    "s2_io_flip_counterfactual": {"prompt": "When Mary and John sat on the mat, Mary gave a hat to"},
}


@pytest.mark.parametrize(
    ("row", "right", "wrong"),
    [(CHOICE, "A", "B"), (SUM, "3", "6"), (NAMES, " Mary", " John")],
    ids=["mcqa", "sum", "ioi"],
)
def test_mibs_answers_are_the_first_tokens_of_its_own_texts(byte_bpe, row, right: str, wrong: str):
    """MIB takes `tokenizer(label).input_ids[0]`, and of a name that of `" " + name`, whatever the prompt ends with."""
    (pair,) = from_dataset({"train": [row]}, byte_bpe).train
    (target,) = pair.targets
    first = [byte_bpe(each, add_special_tokens=False).input_ids[0] for each in (right, wrong)]
    assert ([*target.answers], [*target.wrong]) == ([first[0]], [first[1]])
    assert first[0] != byte_bpe(f" {right}").input_ids[0] or right.startswith(" ")
    assert target.position == len(pair.clean) - 1 and pair.clean == tuple(byte_bpe(row["prompt"]).input_ids)


PAIR = {"clean": "a cat ran to", "corrupted": "a dog ran to"}


def test_answers_may_be_tokens_by_their_numbers(toy, write):
    mat, rug = toy.convert_tokens_to_ids(["mat", "rug"])
    wanted = from_records([PAIR | {"answer": " mat", "wrong_answer": " rug", "split": "train"}], toy).train
    rows = {"correct_idx": mat, "incorrect_idx": rug, "split": "train"}
    table = (
        "clean,corrupted,correct_idx,incorrect_idx,split\n"
        + ",".join(map(str, [*PAIR.values(), *rows.values()]))
        + "\n"
    )
    for path in (write(lines(PAIR | rows)), write(table, "theirs.csv"), write(json.dumps([PAIR | rows]), "x.json")):
        assert from_file(path, toy).train == wanted, path
    for own in ({"answer": mat, "wrong_answer": rug}, {"answer": [mat], "wrong_answer": [rug]}):
        assert from_records([PAIR | own | {"split": "train"}], toy).train == wanted


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"correct_idx": 3}, "two digits of a year"),
        ({"incorrect_idx": 3}, 'no "correct_idx"'),
        ({"correct_idx": "3.5", "incorrect_idx": 4}, '"correct_idx" is "3.5"; it must be the number of one token'),
        ({"correct_idx": 10**6, "incorrect_idx": 4}, "the answer 1000000 is no token"),
        ({"correct_idx": 4, "incorrect_idx": 4}, "token 4 is an answer and a wrong answer"),
        ({"answer": 4, "wrong_answer": " rug"}, "give both so, alone"),
        ({"answer": True}, "of type bool"),
        ({"label": 12}, '"label" is another tool\'s column, which is not read here; give "answer"'),
        ({"answers_idx": [3, 4]}, '"answers_idx" is another tool\'s'),
        ({"answerKey": 0, "choices": ["a"]}, "is another tool's"),
    ],
)
@pytest.mark.parametrize("source", ["jsonl", "json", "rows"])
def test_what_other_tools_would_judge_otherwise_is_refused_in_every_source(toy, write, source: str, row, message: str):
    record = PAIR | row | {"split": "train"}
    data = lines(record) if source == "jsonl" else json.dumps({"prompts": [record]})
    path = write(data, f"x.{source}")
    with pytest.raises(InputError) as caught:
        from_dataset([record], toy) if source == "rows" else from_file(path, toy)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_files_of_auto_circuit_and_feature_circuits(toy, write):
    wanted = from_records([PAIR | {"answer": [" mat"], "wrong_answer": [" rug"], "split": "train"}], toy).train
    prompt = {"clean": PAIR["clean"], "corrupt": PAIR["corrupted"], "answers": [" mat"], "wrong_answers": [" rug"]}
    path = write(json.dumps({"word_idxs": {}, "prompts": [prompt | {"split": "train"}]}), "theirs.json")
    assert from_file(path, toy).train == wanted
    prompt = {"clean_prefix": PAIR["clean"], "patch_prefix": PAIR["corrupted"], "clean_answer": " mat"}
    path = write(lines(prompt | {"patch_answer": " rug", "split": "train"}, PAIR), "lines.json")
    result = check_file(path, toy)
    assert result.usable == 1 and "put them into two files" in result.refusals[0]
    path = write(lines(prompt | {"patch_answer": " rug", "split": "train"}), "lines.json")
    assert from_file(path, toy).train == wanted
    for data, message in (('{"pairs": []}', 'has no "clean"'), ("[3]", "is a int"), ("{", "not JSON")):
        with pytest.raises(InputError, match=message):
            from_file(write(data, "x.json"), toy)


def test_a_cell_of_token_ids_is_no_text(toy, write):
    with pytest.raises(InputError, match='"clean" looks like a list of token ids'):
        from_file(write('clean,corrupted,answer\n"[5, 7]","[5, 8]", mat\n', "x.csv"), toy)
