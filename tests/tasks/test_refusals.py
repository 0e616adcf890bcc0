"""Refusals: one line each, with the place, and saying what would be right."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgewise._errors import InputError
from edgewise.tasks import Task, from_file, from_records
from edgewise.tasks._rows import MAX_LINE_BYTES
from edgewise.tasks._splits import SPLITS

from .conftest import CAT, lines, records, word_tokenizer


def refusal(build, *arguments, **options) -> str:
    with pytest.raises(InputError) as refused:
        build(*arguments, **options)
    message = str(refused.value)
    assert len(message.splitlines()) == 1 and len(message) < 700 and message.isprintable()
    return message


MARKED = "a cat <predict>sat</predict>"
REFUSED = {
    "clean missing": ({"clean": ...}, 'has no "clean"; a pair needs "clean" and "corrupted"'),
    "clean of a wrong type": ({"clean": 3}, '"clean" is "3", of type int; it must be text'),
    "clean null": ({"clean": None}, 'of type NoneType; it must be text'),
    "half a surrogate": ({"clean": "a \ud800 cat"}, '"clean" holds half a surrogate pair'),
    "misspelt": ({"wrong_answers": " rug"}, 'there is no key "wrong_answers"; did you mean "wrong_answer"?'),
    "begun": ({"wrong": " rug"}, 'there is no key "wrong"; did you mean "wrong_answer"?'),
    "spaced": ({"Wrong answer": " rug"}, 'there is no key "Wrong answer"; did you mean "wrong_answer"?'),
    "miscased": ({"Split": "test"}, 'there is no key "Split"; did you mean "split"?'),
    "no such split": ({"split": "dev"}, '"split" is "dev"; use train, validation, val, test'),
    "split of a wrong type": ({"split": ["train"]}, '"split" is'),
    "no answer": ({"answer": None}, 'nothing to predict; give an "answer"'),
    "answer empty": ({"answer": ""}, '"answer" is empty'),
    "answers none": ({"answer": []}, '"answer" is empty'),
    "one answer empty": ({"answer": [" mat", ""]}, '"answer" is empty'),
    "answer of a wrong type": ({"answer": {"a": 1}}, "of type dict; it must be text"),
    "answer a number in a list": ({"answer": [" mat", 3]}, "of type int; it must be text"),
    "wrong answer empty": ({"wrong_answer": ""}, '"wrong_answer" is empty'),
    "answer glued": ({"answer": "mat"}, 'the answer "mat" would continue the last word of "a cat sat on the"'),
    "two spaces": ({"clean": "a cat sat on the "}, '"a cat sat on the " and the answer " mat" meet with two spaces'),
    "answer unknown": ({"answer": " moon"}, 'the answer " moon" is not in the tokenizer\'s vocabulary'),
    "set of long answers": ({"answer": [" mat", " rug mat"]}, 'each of several answers must be one token, and " rug'),
    "wrong is right": ({"wrong_answer": " mat"}, 'the wrong answer " mat" has the answer\'s own tokens'),
    "wrong begins right": ({"wrong_answer": " mat rug"}, "has the answer's own tokens"),
    "wrong answer glued": ({"wrong_answer": "rug"}, 'the answer "rug" would continue the last word of'),
    "wrong answer glued to a span": (
        {"clean": "a cat<predict> sat</predict>", "answer": ..., "corrupted": "a dog", "wrong_answer": "ran"},
        'the answer "ran" would continue the last word of "a cat"; start it with a space',
    ),
    "both the same": ({"corrupted": "a cat sat on the"}, "clean and corrupted are the same"),
    "both the same before the span": (
        {"clean": MARKED, "corrupted": "a cat ran", "answer": ...},
        "clean and corrupted are the same up to the last prediction",
    ),
    "lengths": (
        {"corrupted": "a dog sat on on the"},
        "clean and corrupted have 5 and 6 tokens; make both equally long, or mark what differs as "
        "<span:name>text</span> in both; clean: a|cat|sat|on|the, corrupted: a|dog|sat|on|on|the",
    ),
    "span and answer": ({"clean": MARKED}, 'clean has a <predict> span and the record an "answer" too'),
    "span in corrupted alone": ({"corrupted": MARKED}, "corrupted has a <predict> span and clean has none"),
    "span empty": ({"clean": "a <predict></predict>"}, "clean must have one <predict>, text to predict, and one"),
    "span unclosed": ({"clean": "a <predict>cat"}, "clean must have one <predict>"),
    "span unopened": ({"corrupted": "a cat</predict>"}, "corrupted must have one <predict>"),
    "span reversed": ({"clean": "a </predict>cat<predict>"}, "clean must have one <predict>"),
    "two spans": ({"clean": MARKED + MARKED}, "clean must have one <predict>"),
    "span elsewhere": (
        {"clean": "a cat <predict>sat</predict> on", "corrupted": "a dog ran <predict>on</predict>", "answer": ...},
        "the <predict> span is tokens 3 to 3 of clean and 4 to 4 of corrupted",
    ),
    "span of another length": (
        {"clean": "a cat <predict>sat</predict> on", "corrupted": "a dog <predict>ran on</predict>", "answer": ...},
        "the <predict> span is tokens 3 to 3 of clean and 3 to 4 of corrupted",
    ),
    "lengths around a span": (
        {"clean": "a cat <predict>sat</predict> on", "corrupted": "a dog ran", "answer": ...},
        "clean and corrupted have 4 and 3 tokens",
    ),
    "lengths with spans": (
        {"clean": MARKED, "corrupted": "a big dog <predict>ran</predict>", "answer": ...},
        "clean and corrupted have 3 and 4 tokens",
    ),
    "length of no reading": (
        {"clean": MARKED, "corrupted": "a dog ran on", "answer": ...},
        "corrupted has 4 tokens where clean has 3, or 2 before its <predict> span; make them align; clean: a|cat|sat",
    ),
    "misaligned prompt": (
        {"clean": "a cat ran to <predict>Mary</predict>", "corrupted": "a the dog ran to", "answer": ...},
        "corrupted may be a misaligned prompt or a whole text; mark its <predict> span too",
    ),
    "no such positions": ({"positions": "some", "answer": ...}, '"positions" is "some"; the only choice is "all"'),
    "positions and answer": ({"positions": "all"}, "leave out the answers and <predict> spans"),
    "no position": ({"clean": "a", "corrupted": "on", "positions": "all", "answer": ...}, "has no next token to"),
    "prompt empty": ({"clean": ""}, "the prompt is empty, and this tokenizer puts no token before it"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_is_refused_with_its_line(toy, write, change, expected):
    record = {key: value for key, value in {**CAT, **change}.items() if value is not ...}
    path = write(lines(CAT, record))
    message = refusal(from_file, path, toy)
    assert message.startswith(f"{path}:2: ") and expected in message
    assert refusal(from_records, [CAT, record], toy, "mine") == message.replace(f"{path}:2", "mine[1]")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{", "not JSON (Expecting property name"),
        (b"cat", "not JSON (Expecting value, column 1); put one object on each line"),
        (b'{"clean": 1}}', "not JSON (Extra data, column 13)"),
        (b"[1, 2]", "is a list; each pair must be an object of named values"),
        (b"null", "is a NoneType"),
        (b'"text"', "is a str"),
        (b'{"clean": "a", "clean": "b"}', '"clean" is given twice; keep one'),
        (b'{"x": {"y": 1, "y": 2}}', '"y" is given twice'),
        (b'{"clean": "\xff"}', "byte 12 of the line is not UTF-8"),
        (b'{"clean": ' + b"9" * 5000 + b"}", "not JSON of ours"),
        (b"[" * 200_000, "not JSON"),
        (b"x" * (MAX_LINE_BYTES + 1), f"the line is longer than {MAX_LINE_BYTES} bytes"),
        ("{}".encode("utf-16"), "is not UTF-8"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_lines_that_are_no_record_are_refused(toy, write, line, expected):
    path = write(lines(CAT).encode() + line + b"\n")
    assert refusal(from_file, path, toy).startswith(f"{path}:2: ")
    assert expected in refusal(from_file, path, toy)


@pytest.mark.parametrize("data", ["", "\n\n \r\n", "\ufeff"])
def test_empty_files_are_refused(toy, write, data):
    assert refusal(from_file, write(data), toy).endswith("pairs.jsonl: holds no pairs; give at least one pair")


def test_files_that_cannot_be_read_are_refused(toy, tmp_path):
    assert "No such file or directory" in refusal(from_file, tmp_path / "absent.jsonl", toy)
    (tmp_path / "folder.jsonl").mkdir()
    assert "Is a directory" in refusal(from_file, tmp_path / "folder.jsonl", toy)
    assert "cannot be read" in refusal(from_file, "null\0character.jsonl", toy)


@pytest.mark.parametrize(
    ("given_records", "options", "expected"),
    [
        ([], {}, "records: holds no pairs"),
        ([None], {}, "records[0]: is a NoneType"),
        ([CAT, records(1)[0]], {}, 'records[1]: some pairs have a "split" and others do not'),
        (records(2), {}, "records: 2 different prompts are too few for three splits"),
        (records(5), {"proportions": (0.5, 0.5)}, "records: proportions (0.5, 0.5) must be three"),
        (records(5), {"proportions": (0, 0.5, 0.5)}, "must be three"),
        (records(5), {"proportions": (0.5, -0.1, 0.6)}, "must be three"),
        (records(5), {"proportions": (0.5, 0.1, 0.1)}, "must be three"),
        (records(5), {"loss": "mse"}, "loss: there is no 'mse'"),
    ],
)
@pytest.mark.unchecked
def test_records_that_make_no_task_are_refused(toy, given_records, options, expected):
    assert expected in refusal(from_records, given_records, toy, **options)


def test_an_answer_that_melts_into_the_prompt_is_refused(byte_bpe):
    record = {"clean": "a cat ran <predict>to</predict>ys", "corrupted": "a dog ran toys", "split": "train"}
    ids = [byte_bpe(text)["input_ids"] for text in ("a cat ran to", "a cat ran toys")]
    assert ids[1][: len(ids[0])] != ids[0], "the toy tokenizer must know the word"
    message = refusal(from_records, [record], byte_bpe)
    assert "clean: the text after </predict> changes the tokens before it; up to it: a|Ġcat|Ġran|Ġto, whole" in message


def test_a_prompt_longer_than_the_model_allows_is_refused(toy):
    tokenizer = word_tokenizer(["a", "cat"])
    tokenizer.model_max_length = 8
    message = refusal(from_records, [{"clean": "a " * 9, "corrupted": "cat " * 9, "positions": "all"}], tokenizer)
    assert message == "records[0]: a text has 9 tokens, and the tokenizer's model takes at most 8; shorten it"


def test_what_the_tokenizer_itself_refuses_is_refused():
    closed = word_tokenizer(["a", "the", "cat"])
    closed.backend_tokenizer.model.unk_token = "absent"
    message = refusal(from_records, [{"clean": "a dog", "corrupted": "a cat", "positions": "all"}], closed)
    assert message.startswith('records[0]: the tokenizer fails on "a dog"')


def test_long_texts_are_cut_in_messages(toy):
    message = refusal(from_records, [{**CAT, "clean": "a cat " * 500, "answer": "\n mat \x1b[31m" * 50}], toy)
    assert "…" in message


# Anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)
PIECES = st.sampled_from(["a", " cat", " toy", " ", "\n", " sat", "s", " 1", "é", " Mary", "\x00", "…"])
TEXT = st.lists(PIECES, max_size=5).map("".join)
MARKED_TEXT = st.tuples(TEXT, TEXT, TEXT).map(lambda parts: f"{parts[0]}<predict>{parts[1]}</predict>{parts[2]}")
RECORD = st.fixed_dictionaries(
    {"clean": TEXT | MARKED_TEXT | JSON, "corrupted": TEXT | MARKED_TEXT},
    optional={
        "answer": TEXT | st.lists(TEXT, max_size=2) | JSON,
        "wrong_answer": TEXT | st.lists(TEXT, max_size=2) | JSON,
        "positions": st.just("all") | JSON,
        "split": st.sampled_from(SPLITS) | JSON,
        "id": JSON,
    },
)
FILE = st.binary(max_size=80) | st.lists(JSON | RECORD, max_size=3).map(lambda rows: lines(*rows).encode())
fuzzed = settings(
    max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]
)


def outcome(build, *arguments) -> Task | str:
    try:
        return build(*arguments)
    except InputError as error:
        return str(error)


@fuzzed
@given(record=RECORD)
def test_any_record_gives_one_line_or_a_task(byte_bpe, record):
    made = outcome(from_records, [{"split": "train", **record}], byte_bpe)
    assert isinstance(made, Task) or (len(made.splitlines()) == 1 and made.startswith("records"))


@fuzzed
@given(data=FILE)
def test_any_file_gives_one_line_or_a_task(byte_bpe, write, data):
    path = write(data)
    made = outcome(from_file, path, byte_bpe)
    assert isinstance(made, Task) or (len(made.splitlines()) == 1 and made.startswith(path))


@fuzzed
@given(
    data=st.data(),
    words=st.lists(st.sampled_from(["cat", "toy", "sat", "1", "Mary", "the"]), min_size=4, max_size=7),
    kind=st.sampled_from(["answer", "span", "span and text", "all"]),
)
def test_what_is_judged_is_what_the_record_says(byte_bpe, data, words, kind):
    """However the words are cut: what is read and predicted spells the texts, to the letter."""
    start = data.draw(st.integers(1, len(words) - 2))
    stop = data.draw(st.integers(start + 1, len(words) - 1)) if kind == "span and text" else len(words)
    before, marked, after = ("".join(f" {word}" for word in part) for part in
                             (words[:start], words[start:stop], words[stop:]))  # fmt: skip
    other = data.draw(st.sampled_from(["cat", "toy", "sat", "2"]).filter(lambda word: word != words[0]))
    corrupted_before = f" {other}" + before[len(words[0]) + 1 :]
    record = {
        "answer": {"clean": before, "corrupted": corrupted_before, "answer": marked},
        "all": {"clean": before + marked, "corrupted": corrupted_before + marked, "positions": "all"},
    }.get(
        kind, {"clean": f"{before}<predict>{marked}</predict>{after}", "corrupted": corrupted_before + marked + after}
    )
    made = outcome(from_records, [{**record, "split": "train"}], byte_bpe)
    if isinstance(made, str):
        assert "tokens" in made  # the first words are not equally many tokens
        return
    (pair,) = made.train
    answers = [target.answers[0] for target in pair.targets]
    unread = answers[-1:] if kind in ("answer", "span") else []
    assert byte_bpe.decode([*pair.clean, *unread]) == before + marked + after
    assert byte_bpe.decode([*pair.corrupted, *unread]) == corrupted_before + marked + after
    if kind == "all":
        assert tuple(answers) == pair.clean[1:]
    else:
        assert byte_bpe.decode([*pair.clean[: pair.targets[0].position + 1], *answers]) == before + marked
