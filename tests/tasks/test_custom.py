import json
from collections import Counter
from dataclasses import replace
from itertools import chain, combinations
from typing import Any

import pytest
import torch

from edgewise._errors import InputError
from edgewise.tasks import Pair, Task, from_file, from_provenance, from_records, score_name
from edgewise.tasks._splits import SPLITS

from .conftest import CAT, lines, records


def text_of(tokenizer, ids) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens(list(ids)))


def only_pair(tokenizer, **record) -> Pair:
    task = from_records([{"split": "train", **record}], tokenizer)
    return task.train[0]


def judged(tokenizer, pair: Pair) -> list[tuple[str, set[str], set[str]]]:
    """(what the model has read, right next tokens, wrong next tokens) of each target."""
    tokens = tokenizer.convert_ids_to_tokens
    return [
        (text_of(tokenizer, pair.clean[: target.position + 1]), set(tokens(list(target.answers))),
         set(tokens(list(target.wrong))))
        for target in pair.targets
    ]  # fmt: skip


# The three forms


def test_one_answer(toy):
    pair = only_pair(toy, clean="a cat ran to", corrupted="a dog ran to", answer=" Mary", wrong_answer=" John")
    assert judged(toy, pair) == [("a cat ran to", {"Mary"}, {"John"})]
    assert text_of(toy, pair.corrupted) == "a dog ran to"
    assert (pair.clean_text, pair.corrupted_text) == ("a cat ran to", "a dog ran to")


def test_a_list_of_answers_is_a_set(toy):
    pair = only_pair(
        toy, clean="a cat ran to", corrupted="a dog ran to", answer=[" Mary", " Sue"], wrong_answer=[" John", " Lee"]
    )
    assert judged(toy, pair) == [("a cat ran to", {"Mary", "Sue"}, {"John", "Lee"})]
    assert judged(toy, only_pair(toy, **{**CAT, "answer": [" mat", " mat"]})) == [("a cat sat on the", {"mat"}, set())]


def test_an_answer_of_several_tokens_is_forced_token_by_token(toy):
    pair = only_pair(
        toy, clean="a cat ran to", corrupted="a dog ran to", answer=" Mary Ann Lee", wrong_answer=" Mary Sue Lee"
    )
    assert judged(toy, pair) == [
        ("a cat ran to", {"Mary"}, set()),
        ("a cat ran to Mary", {"Ann"}, {"Sue"}),
        ("a cat ran to Mary Ann", {"Lee"}, set()),
    ]
    assert text_of(toy, pair.clean) == "a cat ran to Mary Ann"
    assert text_of(toy, pair.corrupted) == "a dog ran to Mary Ann"


def test_wrong_answers_count_where_they_leave_the_answer(toy):
    wrong = [" John", " Mary Sue Lee", " Mary John", " John Sue"]
    pair = only_pair(toy, clean="a cat ran to", corrupted="a dog ran to", answer=" Mary Ann", wrong_answer=wrong)
    assert [each[1:] for each in judged(toy, pair)] == [({"Mary"}, {"John"}), ({"Ann"}, {"Sue", "John"})]


def test_all_positions(toy):
    pair = only_pair(toy, clean="a cat sat", corrupted="a dog sat", positions="all")
    assert judged(toy, pair) == [("a", {"cat"}, set()), ("a cat", {"sat"}, set())]
    assert only_pair(toy, clean="a cat sat", corrupted="a dog sat", positions="all", answer=None) == pair


@pytest.mark.parametrize(
    "corrupted",
    ["1 + 4 = <predict>5</predict>", "1 + 4 =<predict> 5</predict>", "1 + 4 = 5", "1 + 4 =", "1 + 4 = "],
)
def test_a_predicted_span_at_the_end(toy, byte_bpe, corrupted):
    for tokenizer in (toy, byte_bpe):
        pair = only_pair(tokenizer, clean="1 + 2 = <predict>3</predict>", corrupted=corrupted)
        assert tokenizer.decode(list(pair.clean)) == "1 + 2 ="
        assert tokenizer.decode(list(pair.corrupted)) == "1 + 4 ="
        (target,) = pair.targets
        assert target.position == len(pair.clean) - 1 and tokenizer.decode(list(target.answers)).strip() == "3"


@pytest.mark.parametrize(
    ("corrupted", "read"),
    [
        ("a dog ran to <predict>Sue Lee</predict>", "a dog ran to Sue"),
        ("a dog ran to Sue Lee", "a dog ran to Sue"),
        ("a dog ran to", "a dog ran to Mary"),
    ],
)
def test_a_predicted_span_of_several_tokens(toy, corrupted, read):
    pair = only_pair(
        toy, clean="a cat ran to <predict>Mary Ann</predict>", corrupted=corrupted, wrong_answer="Mary Sue"
    )
    assert judged(toy, pair) == [("a cat ran to", {"Mary"}, set()), ("a cat ran to Mary", {"Ann"}, {"Sue"})]
    assert text_of(toy, pair.corrupted) == read


@pytest.mark.parametrize("corrupted", ["a dog <predict>ran</predict> to the mat", "a dog ran to the mat"])
def test_text_after_the_span_is_kept_on_both_sides(toy, corrupted):
    """Elsewhere the span is cut out of the corrupted text and not of the clean one, which shifts all that follows."""
    pair = only_pair(toy, clean="a cat <predict>sat</predict> on the mat", corrupted=corrupted)
    assert text_of(toy, pair.clean) == "a cat sat on the mat"
    assert text_of(toy, pair.corrupted) == "a dog ran to the mat"
    assert pair.clean_text == "a cat sat on the mat" and pair.corrupted_text == "a dog ran to the mat"
    assert judged(toy, pair) == [("a cat", {"sat"}, set())]


def test_a_span_may_start_the_text_where_a_token_stands_before_it(toy, unigram):
    pair = only_pair(unigram, clean="<predict>The cat</predict> ran", corrupted="toy met The")
    assert [target.position for target in pair.targets] == list(range(len(pair.targets)))
    assert pair.clean[0] == unigram.bos_token_id
    with pytest.raises(InputError, match="the prompt is empty, and this tokenizer puts no token before it"):
        only_pair(toy, clean="<predict>a cat</predict> ran", corrupted="a dog ran")


@pytest.mark.parametrize("prompt", ["The cat ran to the", "The cat ran to the "])
@pytest.mark.parametrize("kind", ["byte_bpe", "unigram"])
def test_the_tokenizer_decides_where_the_space_goes(request, kind, prompt):
    tokenizer = request.getfixturevalue(kind)
    pair = only_pair(
        tokenizer,
        clean=prompt,
        corrupted=prompt.replace("cat", "toy"),
        answer=" "[: 1 - prompt.count("the ")] + "Paris",
    )
    assert tokenizer.decode(list(pair.clean), skip_special_tokens=True) == "The cat ran to the"
    whole = tokenizer("The cat ran to the Paris", add_special_tokens=False)["input_ids"]
    forced = [target.answers[0] for target in pair.targets]
    assert whole[-len(forced) :] == forced


def test_records_of_all_forms_mix_in_one_batch(toy):
    records = [
        CAT,
        {"clean": "a cat <predict>sat</predict> on", "corrupted": "a dog ran on", "split": "train"},
        {"clean": "a cat sat", "corrupted": "a dog sat", "positions": "all", "split": "train"},
        {"clean": "a cat ran to", "corrupted": "a dog ran to", "answer": " Mary Ann", "split": "train"},
    ]
    batch = from_records(records, toy).batch("train", range(4), "left")
    assert batch.row.tolist() == [0, 1, 2, 2, 3, 3]
    torch.testing.assert_close(batch.weight, torch.tensor([1, 1, 0.5, 0.5, 0.5, 0.5]))


def test_keys_that_mean_nothing_are_ignored(toy):
    assert only_pair(toy, **CAT, id=7, source={"page": [1]}, _note="x") == only_pair(toy, **CAT)


# Splits


def test_asked_splits_are_honoured(toy):
    splits = ["test", "val", "train", "validation", "train"]
    task = from_records([{**each, "split": split} for each, split in zip(records(5), splits, strict=True)], toy)
    texts = [each["clean"] for each in records(5)]
    assert [pair.clean_text for pair in task.train] == [texts[2], texts[4]]
    assert [pair.clean_text for pair in task.validation] == [texts[1], texts[3]]
    assert [pair.clean_text for pair in task.test] == [texts[0]]


def test_otherwise_records_are_dealt_by_proportion_and_seed(toy):
    def dealt(**options) -> dict[str, list[str]]:
        task = from_records(records(100), toy, **options)
        return {split: [pair.clean_text for pair in task.split(split)] for split in SPLITS}

    first = dealt()
    assert {split: len(texts) for split, texts in first.items()} == {"train": 60, "validation": 20, "test": 20}
    assert sorted(chain(*first.values())) == sorted(each["clean"] for each in records(100))
    assert first == dealt() != dealt(seed=1)
    assert [len(texts) for texts in dealt(proportions=(0.5, 0, 0.5)).values()] == [50, 0, 50]
    order = [each["clean"] for each in records(100)]
    assert first["train"] == sorted(first["train"], key=order.index)


def test_the_same_prompt_never_stands_in_two_splits(toy):
    doubled = [
        {**each, "corrupted": text + each["corrupted"][3:]} for each in records(40) for text in ("a", "on", "to")
    ]
    task = from_records(doubled, toy)
    prompts = [{pair.clean for pair in task.split(split)} for split in SPLITS]
    assert all(not a & b for a, b in combinations(prompts, 2)) and sum(map(len, prompts)) == 40
    assert Counter(len(task.split(split)) % 3 for split in SPLITS) == {0: 3}


def test_three_records_are_enough_for_three_splits(toy):
    task = from_records(records(3), toy)
    assert [len(task.split(split)) for split in SPLITS] == [1, 1, 1]


# Loss and metric


def test_the_default_metric_is_the_difference_where_there_is_one(toy):
    contrasted = [{**CAT, "wrong_answer": " rug"}]
    assert from_records(contrasted, toy).metric == "logit_diff"
    assert from_records([CAT, *contrasted], toy).metric == "log_prob"
    own = from_records([CAT], toy, metric=lambda logits, batch: logits[:, 0], loss="cross_entropy")
    assert callable(own.metric) and own.loss == "cross_entropy"
    for loss, metric in (("kl", "logit_diff"), ("logit_diff", None)):
        with pytest.raises(InputError, match='a logit difference needs a "wrong_answer" in every pair'):
            from_records([CAT, *contrasted], toy, loss=loss, metric=metric)


# Files


@pytest.mark.parametrize("data", ["{}", "\ufeff{}", "\n{}\r\n\r\n  \n"], ids=["plain", "mark", "blank lines"])
def test_a_file_gives_what_its_records_give(toy, write, data):
    path = write(
        "".join(data.replace("{}", json.dumps(each)) + "\n" for each in records(10)[:1]) + lines(*records(10)[1:])
    )
    task, same = from_file(path, toy), from_records(records(10), toy, "pairs")
    assert task.name == "pairs"
    assert replace(task, provenance={}) == replace(same, provenance={})
    assert task.provenance["sha256"] == same.provenance["sha256"]


def test_a_file_is_read_again_from_its_provenance(toy, write, tmp_path):
    path = write(lines(*records(10)))
    task = from_file(path, toy, seed=5, proportions=(0.4, 0.3, 0.3))
    provenance = json.loads(json.dumps(task.provenance))
    again = from_provenance(provenance, toy)
    assert again == task and isinstance(again, Task)
    write(lines(*records(11)))
    with pytest.raises(InputError, match="as the file has changed"):
        from_provenance(provenance, toy)
    (tmp_path / "pairs.jsonl").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        from_provenance(provenance, toy)


def test_a_loss_and_a_metric_of_ours_are_made_again_and_a_users_own_are_not(toy, write):
    task = from_file(write(lines(*records(10))), toy)

    def kl(logits, batch):
        return logits.sum(-1)

    recorded = dict(task.provenance) | {"loss": "cross_entropy", "metric": "log_prob"}
    again = from_provenance(recorded, toy)
    assert (again.loss, again.metric) == ("cross_entropy", "log_prob")
    assert score_name(kl) == "test_a_loss_and_a_metric_of_ours_are_made_again_and_a_users_own_are_not.<locals>.kl"
    kl.__qualname__ = "kl"
    recorded = dict(task.provenance) | {"loss": score_name(kl), "metric": "mine"}
    again = from_provenance(recorded, toy)
    assert (again.loss, again.metric) == (task.loss, task.metric) and recorded["loss"] == "custom:kl"


def test_a_prompt_is_dealt_to_one_split_however_long_its_answers(toy):
    prompts = [
        f"a {one} sat on {two} {three}" for one in ("cat", "dog") for two in "123456" for three in ("rug", "mat")
    ]
    answers = (" Mary", " Ann Lee", " Sue John Lee")
    rows = [
        {"clean": prompt, "corrupted": prompt.replace("a ", "the ", 1), "answer": answer}
        for prompt in prompts
        for answer in answers
    ]
    task = from_records(rows, toy)
    of_prompt: dict[tuple[int, ...], set[str]] = {}
    for split in SPLITS:
        for pair in task.split(split):
            of_prompt.setdefault(pair.clean[: pair.targets[0].position + 1], set()).add(split)
    assert len(of_prompt) == len(prompts) and {len(splits) for splits in of_prompt.values()} == {1}


def _marked(name: str) -> dict[str, str]:
    words = (("clean", "cat"), ("corrupted", "dog"))
    return {key: f"a <span:{name}>{word}</span> sat on the" for key, word in words} | {"answer": " mat"}


def test_a_row_that_is_left_out_leaves_no_span_behind(toy, write):
    asked = {
        "ghost": "tset",
        "animal": "train",
        "again": "test",
    }  # no split, the first to have it, its prompt elsewhere
    path = write(lines(*(_marked(name) | {"split": split} for name, split in asked.items())))
    task = from_file(path, toy, skip=True)
    assert task.span_names == ("rest", "animal") and task.provenance["skipped"] == 2


@pytest.mark.parametrize("name", [" ", " x", "rest", "a\nb"])
def test_a_span_that_no_edge_could_name_is_refused(toy, name: str):
    with pytest.raises(InputError, match="stands where it cannot"):
        from_records([_marked(name) | {"split": "train"}], toy)


# ------------------------------------------------------------------------------------------------------------ token ids


def test_token_ids_need_no_tokenizer(toy):
    given = {"clean": [5, 7], "corrupted": [5, 8], "answer": 9, "wrong_answer": [3, 4], "split": "train"}
    for tokenizer in (None, toy):
        (pair,) = from_records([given], tokenizer).train
        assert (pair.clean, pair.corrupted) == ((5, 7), (5, 8)) and pair.clean_text == "5 7"
        assert [(t.position, t.answers, t.wrong) for t in pair.targets] == [(1, (9,), (3, 4))]
    twice = from_records([given | {"answer": [9, 9], "wrong_answer": [3, 4, 3]}], None).train[0].targets[0]
    assert (twice.answers, twice.wrong) == ((9,), (3, 4))  # as texts that come twice
    every = {"clean": [5, 7, 6], "corrupted": [5, 8, 6], "positions": "all", "split": "train"}
    assert [t.answers for t in from_records([every], None).train[0].targets] == [(7,), (6,)]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"answer": " Mary"}, r'"answer" is " Mary"; where "clean" is a list of token ids, give ids there too'),
        ({"answer": None}, r'of token ids, give "clean", "corrupted", and the id of an "answer" or "positions"'),
        ({"answer": None, "wrong_answer": 3}, r'of token ids, give "clean", "corrupted", and the id of an "answer"'),
        ({"answer": None, "positions": "all", "wrong_answer": 3}, '"positions": "all" judges every next token; leave'),
        ({"positions": "all"}, '"positions": "all" judges every next token; leave out the answers'),
        ({"positions": "every"}, '"positions" is "every"; the only choice is "all"'),
        ({"corrupted": [5]}, "a pair's clean has 2 tokens and its corrupted 1"),
        ({"corrupted": [5, 7]}, "clean and corrupted are the same tokens"),
        ({"clean": "a cat", "corrupted": "a dog", "answer": " sat"}, "there is no tokenizer to read text with"),
    ],
)
def test_what_token_ids_alone_cannot_say_is_refused(changes: dict, complaint: str):
    record = {"clean": [5, 7], "corrupted": [5, 8], "answer": 9} | changes
    with pytest.raises(InputError, match=complaint):
        from_records([record], None)


@pytest.mark.parametrize("key", ["clean", "answer", "wrong_answer"])
def test_token_ids_are_held_against_the_tokenizer(toy, key: str):
    record = {"clean": [5, 7], "corrupted": [5, 8], "answer": 9, "wrong_answer": 3}
    record[key] = [5, len(toy)] if key == "clean" else len(toy)
    with pytest.raises(InputError, match=f"the {key} {len(toy)} is no token; the tokenizer has {len(toy)}"):
        from_records([record], toy)


@pytest.mark.parametrize(
    "record",
    [
        {"clean": [5, 6, 7], "corrupted": [5, 6, 8], "positions": "all"},
        {"clean": "a cat sat", "corrupted": "a cat ran", "positions": "all"},
    ],
)
def test_what_differs_after_all_that_is_judged_is_refused(record: dict[str, Any], toy):
    """In a causal model every circuit would be as near to the model on it as can be, that of no edge too."""
    with pytest.raises(InputError, match="the same up to the last prediction"):
        from_records([record | {"split": "train"}], toy)
