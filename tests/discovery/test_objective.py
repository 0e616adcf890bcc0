"""Which examples a step sees, and what a loss says of each."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgewise.discovery._objective import example_scores, finite, step_batch, step_examples
from edgewise.tasks import Batch, loss_function, metric_function, reduce
from tests.discovery.toys import random_task, toy_engine


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 3))
def test_an_epoch_never_repeats_an_example(n_examples: int, batch_size: int, seed: int):
    size = min(n_examples, batch_size)
    per_epoch = n_examples // size
    for epoch in range(3):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        seen = Counter(i for step in steps for i in step_examples(n_examples, batch_size, seed, step))
        assert set(seen.values()) == {1}
        assert set(seen) <= set(range(n_examples))
        assert n_examples - len(seen) < size  # all, but for what does not fill a batch


@pytest.mark.parametrize("batch_size", [1, 4, 12, 13, 500])
def test_an_epoch_covers_every_example(batch_size: int):
    seen = [i for step in range(max(1, 12 // batch_size)) for i in step_examples(12, batch_size, 0, step)]
    assert sorted(seen) == list(range(12))


def test_what_one_epoch_leaves_over_another_sees():
    seen = {i for step in range(40) for i in step_examples(10, 4, 0, step)}
    assert seen == set(range(10))


def test_epochs_and_seeds_differ_and_a_step_is_always_the_same():
    epochs = [tuple(step_examples(50, 50, seed, epoch)) for seed in range(5) for epoch in range(5)]
    assert len(set(epochs)) == 25
    assert [tuple(step_examples(50, 50, seed, epoch)) for seed in range(5) for epoch in range(5)] == epochs


def test_examples_are_in_any_place_equally_often():
    place = Counter(step_examples(20, 20, 0, epoch).index(7) for epoch in range(2000))
    assert set(place) == set(range(20))
    assert max(place.values()) < 100 + 4.5 * 100**0.5


def test_a_steps_batch_holds_its_examples():
    task = random_task(9)
    batch = step_batch(task, 4, 1, 3)
    assert batch.index.tolist() == step_examples(9, 4, 1, 3)
    first = task.train[int(batch.index[0])]
    assert batch.clean.ids[0][batch.clean.mask[0]].tolist() == list(first.clean)


@pytest.mark.parametrize("name", ["kl", "cross_entropy", "logit_diff"])
def test_scores_are_the_targets_mean_by_example(name: str):
    task, engine = random_task(), toy_engine(dtype=torch.float64)
    batch = task.batch("train", range(6))
    mask = torch.rand(engine.graph.n_edges, dtype=torch.float64)
    found = example_scores(engine, batch, mask, loss_function(name))
    with_full = batch.with_full_logits(engine.full(batch))
    per_target = loss_function(name)(engine.run(batch, mask), with_full)
    expected = [float(per_target[batch.row == row].mean()) for row in range(6)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(found, reduce(per_target, batch))


def test_several_circuits_score_as_one_by_one():
    task, engine = random_task(), toy_engine(dtype=torch.float64)
    batch = task.batch("train", range(5))
    masks = torch.rand(3, 1, engine.graph.n_edges, dtype=torch.float64)

    def own(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return logits[:, 0] - logits[:, 1] * batch.weight

    for score in (loss_function("kl"), metric_function("logit_diff"), metric_function(own)):
        together = example_scores(engine, batch, masks, score)
        apart = torch.stack([example_scores(engine, batch, mask[0], score) for mask in masks])
        torch.testing.assert_close(together, apart)


def test_finite_means_every_number():
    good = [torch.zeros(3), torch.ones(2)]
    assert finite(torch.tensor(1.0), good)
    for bad in (torch.nan, torch.inf, -torch.inf):
        assert not finite(torch.tensor(bad), good)
        assert not finite(torch.tensor(1.0), [*good, torch.tensor([0.0, bad])])
