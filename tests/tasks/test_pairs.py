from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgewise._errors import InputError
from edgewise.tasks import Batch, Pair, Target, Task
from edgewise.tasks._pairs import collate
from edgewise.tasks._store import stored
from tests.disk import little_disk


def pair(length: int, *positions: int, spans: tuple[int, ...] | None = None) -> Pair:
    clean = tuple(range(1, length + 1))
    targets = tuple(Target(position, (position + 7,), (position + 8,)) for position in positions or (length - 1,))
    return Pair(clean, tuple(token + 50 for token in clean), targets, "clean", "corrupted", spans)


@given(
    st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=5), st.sampled_from(["left", "right"])
)
def test_a_batch_holds_the_pairs_whatever_the_padding(shapes, side):
    pairs = [pair(length, *range(length) if every else ()) for length, every in shapes]
    batch = collate(pairs, range(len(pairs)), side)
    assert batch.clean.ids.shape == (len(pairs), max(length for length, _ in shapes))
    assert torch.equal(batch.clean.mask, batch.corrupted.mask)
    for number, each in enumerate(pairs):
        assert tuple(batch.clean.ids[number][batch.clean.mask[number]].tolist()) == each.clean
        assert tuple(batch.corrupted.ids[number][batch.clean.mask[number]].tolist()) == each.corrupted
        assert batch.clean.mask[number].diff().ne(0).sum() <= 1  # one run of padding
        assert batch.clean.mask[number, 0 if side == "right" else -1]
    targets = [(number, target) for number, each in enumerate(pairs) for target in each.targets]
    assert batch.row.tolist() == [number for number, _ in targets]
    for place, (number, target) in enumerate(targets):
        assert batch.clean.ids[number, batch.position[place]] == pairs[number].clean[target.position]
        assert batch.answers[place].tolist() == list(target.answers)
        assert batch.wrong[place].tolist() == list(target.wrong)
        assert batch.weight[place] == pytest.approx(1 / len(pairs[number].targets))


def test_answers_of_different_numbers_are_filled_with_minus_one():
    targets = Target(0, (4,), ()), Target(1, (5, 6), (7,))
    batch = collate([Pair((1, 2), (1, 3), targets, "", "")], [9])
    assert batch.answers.tolist() == [[4, -1], [5, 6]] and batch.wrong.tolist() == [[-1], [7]]
    assert batch.index.tolist() == [9] and batch.weight.tolist() == [0.5, 0.5]


def test_without_wrong_answers_there_are_no_columns():
    batch = collate([Pair((1,), (2,), (Target(0, (4,)),), "", "")], [0])
    assert batch.wrong.shape == (1, 0) and batch.wrong.dtype == torch.long


@pytest.mark.parametrize(("side", "expected"), [("right", [[0, 1, 1], [2, 0, 0]]), ("left", [[0, 1, 1], [0, 0, 2]])])
def test_spans_are_laid_out_like_the_tokens(side, expected):
    batch = collate([pair(3, spans=(0, 1, 1)), pair(1, spans=(2,))], [0, 1], side)
    assert batch.span_id is not None and batch.span_id.tolist() == expected
    assert collate([pair(3)], [0]).span_id is None


def test_moving_a_batch_moves_all_of_it():
    batch = collate([replace(pair(2, spans=(0, 1)), align=(0, 1))], [0]).with_full_logits(torch.zeros(1, 9))
    moved = batch.to("meta")
    assert isinstance(moved, Batch) and {tensor.device.type for tensor in tensors(moved)} == {"meta"}
    assert len(tensors(moved)) == len(tensors(batch)) == 13
    assert {tensor.device.type for tensor in tensors(batch)} == {"cpu"}


def tensors(batch: Batch) -> list[torch.Tensor]:
    values = list(vars(batch).values())
    return [tensor for value in values for tensor in (value if isinstance(value, tuple) else [value])]


# The task


@pytest.fixture
def task() -> Task:
    return Task("toy", [pair(length) for length in (3, 1, 2, 4, 2)], [], [pair(2)])


def test_batches_cover_a_split_in_order(task):
    batches = list(task.batches("train", 2))
    assert [batch.index.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    assert torch.equal(batches[1].clean.ids, task.batch("train", [2, 3]).clean.ids)
    assert task.batch("train", [4, 0], "left").index.tolist() == [4, 0]
    assert len(list(task.batches("train", 100))) == 1


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda task: task.batch("dev", [0]), "toy: there is no split 'dev'; use train, validation, test"),
        (lambda task: task.batch("train", [5]), "toy: the train split has 5 examples, and none of number 5"),
        (lambda task: task.batch("train", [-1]), "none of number -1"),
        (lambda task: task.batch("train", []), "a batch of no pairs"),
        (lambda task: task.batch("train", [0], "middle"), "pad_side: 'middle' is no side; use 'left' or 'right'"),
        (lambda task: next(task.batches("validation", 2)), "toy: the validation split is empty"),
        (lambda task: next(task.batches("train", 0)), "batch size: 0 is too small"),
        (lambda task: replace(task, loss="mse"), "loss: there is no 'mse'"),
        (lambda task: replace(task, metric=3), "metric: 3 is no metric"),
    ],
)
def test_impossible_requests_are_refused(task, ask, message):
    with pytest.raises(InputError, match=message):
        ask(task)


def test_contrastive_means_a_wrong_answer_in_every_example(task):
    lacking = Pair((1, 2), (1, 3), (Target(0, (4,), (5,)), Target(1, (4,))), "", "")
    none = Pair((1, 2), (1, 3), (Target(1, (4,)),), "", "")
    assert task.contrastive and replace(task, test=[lacking]).contrastive
    assert not replace(task, test=[none]).contrastive


# Pairs that are none


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Target(0, ()), "a target without an answer"),
        (lambda: Target(0, (1, 2), (2,)), "token 2 is both an answer and a wrong answer"),
        (lambda: Target(0, (7, 7)), "token 7 is named twice among the answers of a target; name it once"),
        (lambda: Target(0, (1,), (5, 4, 5)), "token 5 is named twice"),
        (lambda: Pair((1, 2), (1,), (Target(0, (1,)),), "", ""), "clean has 2 tokens and its corrupted 1"),
        (lambda: Pair((1, 2), (1, 3), (Target(0, (1,)),), "", "", (0,)), "clean has 2 tokens and its spans 1"),
        (lambda: Pair((1, 2), (1, 3), (), "", ""), "a pair without targets"),
        (lambda: Pair((1, 2), (1, 3), (Target(2, (1,)),), "", ""), "position lies outside its prompt of 2 tokens"),
        (lambda: collate([pair(2, spans=(0, 1)), pair(2)], [0, 1]), "only some of the pairs group their positions"),
    ],
)
def test_malformed_pairs_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_pairs_that_no_disk_has_room_for_are_refused():
    with little_disk(1000), pytest.raises(InputError, match="TMPDIR"):
        stored([pair(6)] * 2000)
