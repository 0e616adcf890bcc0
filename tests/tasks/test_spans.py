"""Spans marked in prompts: what aligns pairs of unequal length, and names groups of positions."""

import json

import pytest

from edgewise._errors import InputError
from edgewise.tasks import from_file, from_provenance, from_records, grouped_by_changes

from .conftest import CAT, ROWS, lines, text


def marked(**changes) -> dict[str, str]:
    record = {
        "clean": "<span:who>Mary Ann Lee</span> ran to <span:what>a mat</span> on the",
        "corrupted": "<span:who>John</span> ran to <span:what>a big dog</span> on the".replace("big", "cat"),
        "answer": " mat",
        "split": "train",
    }
    return {**record, **changes}


def test_unequal_lengths_are_aligned_by_their_spans(toy):
    task = from_records([marked()], toy)
    (pair,) = task.train
    assert task.span_names == ("rest", "who", "what")
    assert text(toy, pair.clean) == "Mary Ann Lee ran to a mat on the"
    assert text(toy, pair.corrupted) == "John ran to a cat dog on the"
    assert pair.spans == (1, 1, 1, 0, 0, 2, 2, 0, 0)
    assert pair.align == (0, 0, 0, 1, 2, 4, 5, 6, 7)  # the last of a span with the last
    batch = task.batch("train", [0], "left")
    assert batch.align is not None and batch.span_id is not None
    assert batch.clean.ids.shape == (1, 9) and batch.corrupted.ids.shape == (1, 8)
    assert from_records([marked()], toy).provenance["sha256"] == task.provenance["sha256"]


def test_spans_of_equal_lengths_only_name_positions(toy):
    record = marked(corrupted="<span:who>Sue Ann Lee</span> ran to <span:what>a rug</span> on the")
    (pair,) = from_records([record], toy).train
    assert pair.align is None and pair.spans == (1, 1, 1, 0, 0, 2, 2, 0, 0)


@pytest.mark.parametrize(
    "clean", ["a <span:x>cat</span> <predict>sat</predict>", "a <span:x>cat <predict>sat</predict></span>"]
)
def test_spans_beside_and_around_what_is_predicted(toy, clean):
    corrupted = clean.replace("cat", "dog")
    (pair,) = from_records([{"clean": clean, "corrupted": corrupted, "split": "train"}], toy).train
    assert text(toy, pair.clean) == "a cat" and pair.spans == (0, 1)


def test_spans_with_a_space_on_either_side(byte_bpe):
    for clean in (
        "a<span:x> cat</span> sat on the",
        "a <span:x>cat</span> sat on the",
        "a<span:x> cat </span>sat on the",
    ):
        record = {"clean": clean, "corrupted": clean.replace("cat", "mat"), "answer": " mat", "split": "train"}
        (pair,) = from_records([record], byte_bpe).train
        where = [token for token, span in zip(pair.clean, pair.spans or (), strict=True) if span]
        assert byte_bpe.decode(where) == " cat"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean": "<span:who>Mary</span> ran"}, 'clean marks the spans "who" and corrupted "who, what"'),
        ({"clean": "<span:>Mary</span> ran"}, 'clean: "<span:>" stands where it cannot'),
        ({"clean": "Mary</span> ran"}, 'clean: "</span>" stands where it cannot'),
        ({"clean": "<span:a><span:b>Mary</span></span> ran"}, 'clean: "<span:b>" stands where it cannot'),
        ({"clean": "<span:who>Mary ran"}, 'clean: the span "who" is not closed'),
        ({"clean": "<span:who></span>Mary ran"}, 'clean: the span "who" is empty'),
        ({"clean": "<span:who>Mary</span> ran ran to <span:what>a mat</span> on the"},
         '3 tokens of clean and 2 of corrupted stand unmarked before "what"'),
        ({"clean": "<span:who>Mary</span> ran to <span:what>a mat</span> on on the"},
         '3 tokens of clean and 2 of corrupted stand unmarked before "the end"'),
        ({"clean": "<span:who>Ma</span>ry ran to <span:what>a mat</span> on the"},
         'clean: the span "who" begins or ends within a token; mark whole words'),
        ({"corrupted": "John ran to a dog on on the"}, 'clean marks the spans "who, what" and corrupted ""'),
    ],
)  # fmt: skip
def test_spans_that_align_nothing_are_refused(toy, changes, message):
    with pytest.raises(InputError) as refusal:
        from_records([marked(**changes)], toy)
    assert f"records[0]: {message}" in str(refusal.value)
    assert json.dumps(str(refusal.value)).isascii() and len(str(refusal.value).splitlines()) == 1


def test_spans_are_marked_in_all_pairs_or_in_none(toy):
    with pytest.raises(InputError, match=r"records\[1\]: some pairs mark spans and others do not"):
        from_records([marked(), CAT], toy)


# Groups by changes


def test_positions_are_grouped_by_where_prompts_differ(toy):
    record = {"clean": "Mary Ann ran to a cat on the", "corrupted": "Sue Lee ran to a dog on the", "answer": " mat"}
    task = grouped_by_changes(from_records([{**record, "split": "train"}], toy))
    assert task.span_names == ("rest", "last", "change 1", "change 2")
    assert task.train[0].spans == (2, 2, 0, 0, 0, 3, 0, 1)
    assert task.batch("train", [0]).span_id is not None
    with pytest.raises(InputError, match="its positions are grouped already, into rest, last, change 1, change 2"):
        grouped_by_changes(task)


def test_groups_by_changes_are_made_again_from_their_provenance(write, toy):
    task = grouped_by_changes(from_file(write(lines(*ROWS)), toy))
    again = from_provenance(task.provenance, toy)
    assert again == task and again.span_names == ("rest", "last", "change 1")
