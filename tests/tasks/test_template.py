"""Pairs of one's own templates: splits that share nothing, aligned prompts, answers of one token, refusals."""

import json
from itertools import combinations
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from edgewise._errors import InputError
from edgewise.tasks import SPLITS, Pair, Task, check_file, from_provenance, from_template, from_template_file

from .conftest import text, word_tokenizer
from .vocabularies import TOKENIZERS

NAMES = [f"N{number}" for number in range(40)]
THINGS = [f"T{number}" for number in range(40)]
OPENINGS = [f"O{number}" for number in range(12)]
IOI = {
    "corrupted": {"name1": "name3", "name2": "name4"},
    "answer": " {name1}",
    "wrong_answer": " {name2}",
}
CAPITALS = {
    "templates": [
        f"{opening} the capital of {{place1.country}} is"
        for opening in ("Surely", "Today", "Still", "Remember that", "Know that", "They say that")
    ],
    "words": {
        "place": [
            {"country": country, "capital": capital}
            for country, capital in (
                ("France", "Paris"), ("Germany", "Berlin"), ("Italy", "Rome"), ("Spain", "Madrid"), ("Japan", "Tokyo"),
                ("China", "Beijing"), ("Russia", "Moscow"), ("Nepal", "Kathmandu"), ("Egypt", "Cairo"),
                ("Greece", "Athens"), ("Fiji", "Suva"), ("Austria", "Vienna"), ("Poland", "Warsaw"),
                ("Ireland", "Dublin"), ("Norway", "Oslo"), ("Sweden", "Stockholm"), ("Mali", "Bamako"),
                ("Hungary", "Budapest"), ("Belgium", "Brussels"), ("Turkey", "Ankara"),
            )
        ]
    },
    "corrupted": {"place1": "place2"},
    "answer": " {place1.capital}",
    "wrong_answer": " {place2.capital}",
}  # fmt: skip
YAML = """
templates: ["{n1} ran to the", "{n1} sat to the", "the {n1} ran to the", "a {n1} ran to the", "on {n1} ran to the"]
corrupted: {n1: n2}
answer: " {n1}"
wrong_answer: " {n2}"
words:
  n: Mary Ann Lee Sue John cat dog mat rug a
"""


@pytest.fixture(scope="module")
def known():
    return word_tokenizer([*NAMES, *THINGS, *OPENINGS, "met", "gave", "the", "to", "and"])


def ioi(tokenizer, templates: int = 6, names: int = 25, things: int = 8, flip: bool = False, **options) -> Task:
    """With `flip` only the giver changes, so that the wrong answer is right after the corrupted prompt."""
    texts: list[Any] = [
        f"{each} {{name1}} and {{name2}} met {{name2}} gave the {{thing}} to" for each in OPENINGS[:templates]
    ]
    if flip:
        texts = [{"clean": each, "corrupted": each.replace("{name2} gave", "{name1} gave")} for each in texts]
    words = {"name": NAMES[:names], "thing": " ".join(THINGS[:things])}
    return from_template(texts, words, tokenizer, **{"train": 30, "validation": 12, "test": 12, **IOI, **options})


def capitals(tokenizer, **changes) -> Task:
    given: dict[str, Any] = {**CAPITALS, **changes}
    return from_template(given.pop("templates"), given.pop("words"), tokenizer, "capitals", **given)


def words_in(pairs, tokenizer, among) -> set[str]:
    """Which of some words the prompts of a split have, clean or corrupted."""
    every = {word for pair in pairs for ids in (pair.clean, pair.corrupted) for word in text(tokenizer, ids).split()}
    return every & {*among}


def pairs_of(task: Task) -> list[Pair]:
    return [pair for split in SPLITS for pair in task.split(split)]


@settings(max_examples=6, deadline=None, phases=[Phase.generate])
@given(
    templates=st.integers(5, 12), names=st.integers(20, 40), things=st.integers(5, 40), seed=st.integers(0, 99),
    both_ways=st.booleans(),
)  # fmt: skip
def test_splits_share_no_template_and_no_word(known, templates, names, things, seed, both_ways):
    options: dict[str, Any] = {"flip": both_ways, "both_ways": both_ways}
    task, other = (ioi(known, templates, names, things, seed=each, **options) for each in (seed, seed + 1))
    for one, two in combinations(SPLITS, 2):
        for among in (NAMES, THINGS, OPENINGS):
            here, there = words_in(task.split(one), known, among), words_in(other.split(two), known, among)
            assert here and there and not here & there
            assert not here & words_in(task.split(two), known, among)
    assert len({(pair.clean_text, pair.corrupted_text) for pair in pairs_of(task)}) == len(pairs_of(task))
    for pair in pairs_of(task):
        assert len(pair.clean) == len(pair.corrupted) and pair.clean != pair.corrupted
        (target,) = pair.targets
        (right,), (wrong,) = target.answers, target.wrong
        assert {right, wrong} == {*pair.clean[1:4:2]} and wrong == pair.clean[5] and right != wrong
        assert target.position == len(pair.clean) - 1 and (not both_ways or right == pair.corrupted[5])
    if both_ways:
        assert {pair.clean[5] == pair.clean[1] for pair in task.train} == {True, False}
    again = ioi(known, templates, names, things, seed=seed, **options)
    assert again == task and from_provenance(json.loads(json.dumps(task.provenance)), known).train == task.train


def test_pairs_are_those_of_the_templates(known):
    task = ioi(known)
    for pair in pairs_of(task):
        opening, one, _, other, _, again, *_ = words = pair.clean_text.split()
        corrupted = pair.corrupted_text.split()
        assert opening in OPENINGS[:6] and again == other and len({one, other, corrupted[1], corrupted[3]}) == 4
        changed = [place for place, (a, b) in enumerate(zip(words, corrupted, strict=True)) if a != b]
        assert changed == [1, 3, 5]
    assert task.metric == "logit_diff"


def test_appended_words_leave_the_others_in_their_splits(known):
    before, after = ioi(known, names=25), ioi(known, names=40)
    for one, two in combinations(SPLITS, 2):
        assert not words_in(before.split(one), known, NAMES) & words_in(after.split(two), known, NAMES)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_answers_are_one_token_and_prompts_stay_aligned(kind):
    tokenizer = TOKENIZERS[kind]()
    of = {row["country"]: row["capital"] for row in CAPITALS["words"]["place"]}
    if kind == "unigram":  # it spells every capital
        with pytest.raises(
            InputError, match=r"train: none of \d+ pairs can be used; the first: the answer .* not one$"
        ):
            capitals(tokenizer)
        return
    task = capitals(tokenizer)
    assert all(task.split(split) for split in SPLITS)
    for pair in pairs_of(task):
        assert len(pair.clean) == len(pair.corrupted)
        (target,) = pair.targets
        asked = [next(each for each in of if each in prompt) for prompt in (pair.clean_text, pair.corrupted_text)]
        right, wrong = (str(tokenizer.decode(list(ids))).strip() for ids in (target.answers, target.wrong))
        assert [right, wrong] == [of[each] for each in asked] and len(target.answers) == len(target.wrong) == 1


def test_answers_of_several_tokens_are_kept_on_request():
    tokenizer = TOKENIZERS["smollm2"]()
    one, several = capitals(tokenizer), capitals(tokenizer, multi_token=True)
    assert all(len(pair.targets) == 1 for pair in pairs_of(one))
    assert {len(pair.targets) for pair in pairs_of(several)} > {1}
    assert len(pairs_of(several)) > len(pairs_of(one)) and one.provenance["left_out"] > 0
    assert "tokens" in one.provenance["first_left_out"]


def test_a_split_has_what_there_is(known):
    task = ioi(known, names=20, things=5, train=10, validation=500, test=0)
    # Four names in order, one thing, one template: 4 · 3 · 2 · 1 orders.
    assert [len(task.split(split)) for split in SPLITS] == [10, 24, 0]
    assert task.provenance["sizes"] == {"train": 10, "validation": 24, "test": 0}


def test_one_template_and_shared_lists_are_in_all_splits(known):
    texts = "{name1} and {name2} met {name2} gave the {thing} to"
    words = {"name": NAMES[:20], "thing": THINGS[:2]}
    task = from_template(texts, words, known, **IOI, shared=["thing"])
    for split in SPLITS:
        assert words_in(task.split(split), known, THINGS) == {*THINGS[:2]}


def test_splits_may_be_given(known):
    words = {"name": {split: NAMES[5 * n : 5 * n + 5] for n, split in enumerate(SPLITS)}}
    texts = {split: [f"{OPENINGS[n]} {{name1}} met {{name2}} to"] for n, split in enumerate(("train", "val", "test"))}
    task = from_template(texts, words, known, **IOI)
    for number, split in enumerate(SPLITS):
        assert words_in(task.split(split), known, OPENINGS) == {OPENINGS[number]}
        assert words_in(task.split(split), known, NAMES) == {*words["name"][split]}


def test_a_template_may_have_texts_of_its_own(known):
    own = {"clean": "{name1} met {name2} to", "corrupted": "{name3} met {name1} to", "answer": [" {name1}", " {name4}"]}
    task = from_template([own], {"name": NAMES[:20]}, known)
    for pair in pairs_of(task):
        first, _, _, last = (pair.clean_text.split()[0], *pair.corrupted_text.split()[:3])
        assert first == last and len(pair.targets[0].answers) == 2
    assert task.metric == "log_prob" and not task.contrastive


def test_marks_work_in_templates(known):
    sizes: dict[str, Any] = {"train": 5, "validation": 5, "test": 5}
    spans = {"clean": "<span:who>{name1}</span> met the", "corrupted": "<span:who>{name2} and {name3}</span> met the"}
    task = from_template([spans], {"name": NAMES[:25]}, known, answer=" {name1}", **sizes)
    assert task.span_names == ("rest", "who") and all(pair.align is not None for pair in pairs_of(task))
    judged = {"clean": "{name1} met <predict>{name2}</predict> to", "corrupted": "{name3} met {name2} to"}
    task = from_template([judged], {"name": NAMES[:25]}, known, **sizes)
    assert {pair.targets[0].position for pair in pairs_of(task)} == {1} and len(pairs_of(task)) == 15


def test_a_file_says_the_same(toy, write):
    path = write(YAML, "pairs.yaml")
    task = from_template_file(path, toy, train=20)
    texts = [f"{start}{{n1}} {verb} to the" for start, verb in
             (("", "ran"), ("", "sat"), ("the ", "ran"), ("a ", "ran"), ("on ", "ran"))]  # fmt: skip
    words = {"n": "Mary Ann Lee Sue John cat dog mat rug a"}
    same = from_template(texts, words, toy, "pairs", corrupted={"n1": "n2"}, answer=" {n1}", wrong_answer=" {n2}",
                         train=20)  # fmt: skip
    assert task == same and len(task.train) == 20 and from_provenance(task.provenance, toy) == task
    check = check_file(path, toy)
    assert check.usable and not check.refused and check.notes[0].startswith("train ")


def test_words_of_a_file_are_text(write):
    tokenizer = word_tokenizer(["no", "yes", "on", "off", "007", "05", "null", "ran", "to"])
    yaml = "templates: '{w1} ran to'\ncorrupted: {w1: w2}\nanswer: ' {w1}'\nwords: {w: "
    yaml += "{train: [no, yes], val: [007, 05], test: [null, off]}}"
    task = from_template_file(write(yaml, "w.yaml"), tokenizer)
    assert {pair.clean_text.split()[0] for pair in pairs_of(task)} == {"no", "yes", "007", "05", "null", "off"}


def test_the_longest_prompt_is_recorded_where_it_may_have_decided_which_pairs_there_are(toy):
    templates = {
        "train": ["{n1} ran to the", "the {n1} ran to the"],
        "validation": ["{n1} sat to the"],
        "test": ["a {n1} to the"],
    }
    words = {"n": "Mary Ann Lee Sue John cat dog mat rug on"}
    every, some = (
        from_template(templates, words, toy, corrupted={"n1": "n2"}, answer=" {n1}", shared=["n"], longest=longest)
        for longest in (5, 4)
    )
    assert not every.provenance["left_out"] and "longest" not in every.provenance["arguments"]
    assert some.provenance["left_out"] and some.provenance["arguments"]["longest"] == 4
    assert len(some.train) < len(every.train) and from_provenance(some.provenance, toy) == some


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"templates": CAPITALS["templates"][:3]}, "templates: 3 are too few to be dealt out to three splits"),
        ({"templates": []}, "templates: \"[]\"; give templates"),
        ({"templates": [3, "b", "c", "d", "e"]}, 'template 1: "3"; give the clean prompt'),
        ({"templates": [*CAPITALS["templates"], CAPITALS["templates"][0]]}, "is there twice; keep one"),
        ({"templates": {"train": ["{place1.country}"]}}, 'templates: has "train"; give a list, or one for each of'),
        ({"templates": "{place1.country"}, "has a brace alone; write {{ or }} for one that is text"),
        ({"templates": "{place1.town} is"}, "{place1.town} is no field of place; use {place1.country}"),
        ({"templates": "{place1} is"}, "{place1} is no field of place; use {place1.country}"),
        ({"templates": "{city1} is"}, "template 1, clean: no list of words for {city1}; the lists are place"),
        ({"templates": "{place1!r} is"}, '"{place1}" is no blank; write {name} or {name.field}'),
        ({"templates": "{0} is"}, '"{0}" is no blank'),
        ({"templates": {"clean": "{place1.country}", "wrong": ""}}, 'template 1: there is no "wrong"; use clean'),
        ({"corrupted": None}, "template 1: has no corrupted prompt"),
        ({"corrupted": {"place9": "place2"}}, 'corrupted changes "place9", and clean has no such blank'),
        ({"corrupted": {"place1": "city2"}}, "corrupted: no list of words for {city2.country}"),
        ({"corrupted": {"place1": 2}}, 'corrupted has "2" for place1; name a blank'),
        ({"answer": None}, "train: none of"),
        ({"answer": 3}, 'template 1, answer: "3"; give a text or a list of texts'),
        ({"answer": "{place1.capital}"}, "start it with a space"),
        ({"wrong_answer": " {place1.capital}"}, "has the answer's own tokens"),
        ({"wrong_answer": None, "both_ways": True}, "both_ways turns answers round; give an answer and a wrong_answer"),
        ({"wrong_answer": None, "metric": "logit_diff"}, "a logit difference needs a wrong_answer in every template"),
        ({"words": {"place": CAPITALS["words"]["place"][:4]}}, "words, place: 4 are too few to be dealt out"),
        ({"words": {"place": CAPITALS["words"]["place"][:5]}}, "needs 2 different words of place, and valid"),
        ({"words": {"place": []}}, 'words, place: "[]"; give a list of words'),
        ({"words": {"place": [*CAPITALS["words"]["place"], "Rome"]}}, 'place: "Rome" has other fields than'),
        ({"words": {"place": [*CAPITALS["words"]["place"], {}]}}, "words, place: an entry has no fields"),
        ({"words": {"place": [{"country": 3}]}}, 'words, place: "3" is no text'),
        ({"words": {"place": ["Rome "]}}, 'words, place: "Rome " is empty or has a space around it'),
        ({"words": {"place": CAPITALS["words"]["place"][:1] * 2}}, 'words, place: "France" is there twice'),
        ({"words": {**CAPITALS["words"], "land": "France A B C D"}}, '"France" is in the lists place and land'),
        ({"words": ["France"]}, "give lists of words by name"),
        ({"words": {"place": {"train": ["a"], "test": ["b"]}}}, 'words, place: has "train, test"; give a list, or one'),
        ({"shared": [["place"]]}, "shared: \"['place']\" is no text; give the names of lists of words"),
        ({"shared": ["city"]}, 'shared: there is no list "city"; words has place'),
        ({"shared": ["place"], "templates": CAPITALS["templates"][0]}, "all splits share it and its words"),
        ({"train": -1}, "capitals: train=-1 must be a whole number, 0 or more"),
        ({"longest": 3}, "and the model has 3 positions"),
    ],
)  # fmt: skip
@pytest.mark.unchecked
def test_refusals(changes, message):
    with pytest.raises(InputError) as refused:
        capitals(TOKENIZERS["smollm2"](), **changes)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert str(refused.value).startswith("capitals: ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "holds no keys; give templates: and words:"),
        ("- a", "holds no keys"),
        ("templates: a\n", "has no words; give some"),
        ("templates: a\nwords: {}\nanswers: x\n", 'there is no "answers"; use templates, words'),
        ("templates: a\ntemplates: b\n", 'line 2: "templates" is given twice'),
        ("templates: [a\n", "cannot be read ("),
        (b"templates: \xff", "cannot be read ("),
        ("[" * 500, "cannot be read ("),
        ("? [a]\n: b\n", "line 1: a key is a list or a mapping"),
        (YAML + "both_ways: maybe\n", "both_ways is neither true nor false"),
        (YAML + "shared: {n: n}\n", "shared: give the names of lists"),
        (YAML + "shared: [[n]]\n", "shared: give the names of lists of words"),
        (YAML + "shared: m\n", 'shared: there is no list "m"'),
        (YAML.replace("{n1: n2}", "{n1: m2}"), "no list of words for {m2}; the lists are n"),
        ("#" * (1 << 20) + "\n", "more than 1 MiB"),
    ],
)
def test_refused_files(toy, write, data, message):
    path = write(data, "pairs.yaml")
    with pytest.raises(InputError) as refused:
        from_template_file(path, toy)
    assert message in str(refused.value) and "\n" not in str(refused.value) and path in str(refused.value)
    assert check_file(path, toy).refused
