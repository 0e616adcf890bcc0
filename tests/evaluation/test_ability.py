"""Probability differences against plain loops, and what `score` says of a model."""

import math
from dataclasses import replace

import pytest
import torch

import edgewise as ew
from edgewise._errors import InputError
from edgewise.evaluation import Measure, score
from edgewise.evaluation._ability import Ability, _wilson
from edgewise.tasks import Pair, Target, Task, metric_function
from edgewise.tasks._pairs import collate

from ..tiny import VOCABULARY, tiny

TARGETS = [
    Target(2, answers=tuple(range(5, 20)), wrong=(4, 3, 2, 1, 0)),
    Target(2, answers=(1,), wrong=tuple(range(2, 30))),
    Target(2, answers=(7, 9), wrong=(8,)),
]


def batch_of(targets: list[Target]):
    return collate([Pair((1, 2, 3), (4, 5, 6), (target,), "", "") for target in targets], range(len(targets)))


def test_probability_differences_and_choice_are_plain_sums():
    logits = torch.randn(2, 3, 40, dtype=torch.float64) * 3
    batch = batch_of(TARGETS)
    probabilities = logits.softmax(-1)
    for name, most in (("prob_diff", 99), ("prob_diff_10", 10)):
        values = metric_function(name)(logits, batch)
        for circuit in range(2):
            for row, target in enumerate(TARGETS):
                p = probabilities[circuit, row]
                expected = sum(p[t] for t in target.answers[:most]) - sum(p[t] for t in target.wrong[:most])
                assert math.isclose(values[circuit, row], expected, abs_tol=1e-12)
    for circuit in range(2):
        for row, target in enumerate(TARGETS):
            right, wrong = (max(logits[circuit, row, t] for t in each) for each in (target.answers, target.wrong))
            assert bool(metric_function("choice")(logits, batch)[circuit, row]) == bool(right > wrong)


def test_without_wrong_answers_only_the_answers_count():
    batch = batch_of([Target(2, (1,)), Target(2, (2, 3))])
    logits = torch.randn(2, 9)
    expected = torch.stack([logits.softmax(-1)[0, 1], logits.softmax(-1)[1, 2:4].sum()])
    for name in ("prob_diff", "prob_diff_10"):
        torch.testing.assert_close(metric_function(name)(logits, batch), expected)


def test_a_choice_is_over_the_targets_that_have_a_wrong_answer():
    """Of an answer of three tokens only the first that differs has a wrong one: the others cannot be chosen wrongly."""
    one, three = Target(4, (1, 2), (3,)), (Target(2, (5,)), Target(3, (6,)), Target(4, (1, 2), (3,)))
    alone, among = (
        score(tiny("gpt2"), Task("x", pairs(30, *targets), (), ()), split="train").metrics["choice"]
        for targets in ((one,), three)
    )
    assert 0 < alone.value < 1
    for name in ("value", "low", "high", "corrupted", "chance"):
        assert math.isclose(getattr(alone, name), getattr(among, name), abs_tol=1e-6), name
    assert metric_function("choice")(torch.randn(1, 9), batch_of([Target(2, (1,))])).isnan().all()


def test_greater_than_is_explained_by_its_probability_difference():
    model = tiny("gpt2", torch.float32)
    pairs = [Pair((1, 2, 3), (4, 5, n), (Target(2, (5, 6, 7), (4, 3)),), "", "") for n in (6, 7, 8)]
    task = Task("greater-than", pairs, pairs, pairs, metric="prob_diff")
    assert ew.eap(model, task).values.abs().max() > 0
    circuit = ew.eap(model, task).at(0.5)
    metrics = ew.evaluate(model, circuit, task, baselines=()).metrics
    assert {"prob_diff", "prob_diff_10", "kl"} <= metrics.keys()
    assert "prob_diff" not in ew.evaluate(model, circuit, replace(task, metric="logit_diff"), baselines=()).metrics


# Ability


def pairs(n: int, *targets: Target, seed: int = 0) -> list[Pair]:
    ids = torch.randint(VOCABULARY, (n, 2, 5), generator=torch.Generator().manual_seed(seed)).tolist()
    return [Pair(tuple(a), tuple(b), targets or (Target(4, (1, 2), (3,)),), "", "") for a, b in ids]


@torch.no_grad()
def test_scores_are_the_modules_own_beside_corrupted_and_chance():
    model = tiny("gpt2")
    task = Task("random", pairs(9), (), ())
    result = score(model, task, split="train", batch_size=4)
    assert (result.task, result.split, result.n) == ("random", "train", 9)
    for which in ("clean", "corrupted"):
        logits = torch.stack(
            [model.module(input_ids=torch.tensor([getattr(pair, which)])).logits[0, -1] for pair in task.train]
        )
        likeliest = logits.argmax(-1)
        right = torch.stack([logits[:, 1], logits[:, 2]])
        expected = {
            "accuracy": ((likeliest == 1) | (likeliest == 2)).double().mean(),
            "choice": (right.amax(0) > logits[:, 3]).double().mean(),
            "logit_diff": (right.logsumexp(0) - logits[:, 3]).mean(),
            "log_prob": (right.logsumexp(0) - logits.logsumexp(-1)).mean(),
            "prob_diff": (logits.softmax(-1) * torch.tensor([0, 1, 1, -1] + [0] * (VOCABULARY - 4))).sum(-1).mean(),
        }
        for name, value in expected.items():
            measured = result.metrics[name]
            assert math.isclose(measured.value if which == "clean" else measured.corrupted, value, abs_tol=1e-9)
    chances = {name: each.chance for name, each in result.metrics.items()}
    uniform = {"accuracy": 2 / VOCABULARY, "choice": 2 / 3, "logit_diff": math.log(2), "prob_diff": 1 / VOCABULARY}
    assert all(math.isclose(chances[name], value, abs_tol=1e-6) for name, value in uniform.items())
    assert math.isclose(chances["log_prob"], math.log(2 / VOCABULARY), abs_tol=1e-6)
    assert score(model, task, split="train", n=4).n == 4
    one = score(model, task, split="train", batch_size=1).metrics
    assert all(math.isclose(one[name].value, each.value, abs_tol=1e-9) for name, each in result.metrics.items())


def test_without_wrong_answers_there_are_no_differences():
    result = score(tiny("gpt2"), Task("all", pairs(4, Target(1, (3,)), Target(4, (5,))), (), ()), split="train")
    assert set(result.metrics) == {"accuracy", "log_prob"}


@pytest.mark.parametrize(
    ("measures", "verdict"),
    [
        ({"choice": Measure(0.9, 0.8, 0.95, 0.5, 0.5, 0.4, 0.1)}, None),
        ({"choice": Measure(0.6, 0.5, 0.7, 0.5, 0.5, 0.1, 0.1)}, "that may be chance, it is not seen to do this task"),
        ({"choice": Measure(1, 0.44, 1, 0, 0.5, 1, 0)}, "that may be chance, it is not seen to do this task"),
        ({"choice": Measure(0.1, 0, 0.2, 0.5, 0.5, -0.4, 0.1)}, "guessing gives 50%: it does not do this task"),
        ({}, None),
        ({"log_prob": Measure(-3, -3.1, -2.9, -3.1, -5, 0.1, 0.2)}, "the model does not do this task"),
        # Always right by a constant guess: as likely after the corrupted prompt.
        (
            {"choice": Measure(1, 0.9, 1, 1, 0.5, 0, 0), "log_prob": Measure(-1, -1, -1, -1, -5, 0, 0)},
            "the model does not do this task",
        ),
    ],
)
def test_a_model_that_is_not_above_chance_does_not_do_the_task(measures, verdict):
    known = {"accuracy": Measure(0, 0, 0, 0, 0, 0, 0), "log_prob": Measure(-1, -1.1, -0.9, -3, -5, 2, 0.2)}
    complaint = Ability("x", "test", 64, known | measures).complaint
    assert (complaint is None) == (verdict is None)
    if complaint:
        assert complaint.startswith("on 64 test examples of x") and complaint.endswith(verdict)


@torch.no_grad()
def test_shares_have_wilsons_interval_which_is_never_a_point():
    """Against the formula (Wilson 1927), at 0, at 1 and between; the other metrics have the mean's own interval."""
    model, z = tiny("gpt2"), 1.959964
    shares = set()
    for answers in ((1, 2), (3,), tuple(range(VOCABULARY - 1))):
        wrong = (VOCABULARY - 1,) if len(answers) > 2 else (4,)
        result = score(model, Task("random", pairs(9, Target(4, answers, wrong)), (), ()), split="train")
        for name in ("accuracy", "choice"):
            each, n = result.metrics[name], 9
            centre = (each.value * n + z**2 / 2) / (n + z**2)
            half = z / (n + z**2) * math.sqrt(n * each.value * (1 - each.value) + z**2 / 4)
            assert each.low is not None and each.high is not None and 0 <= each.low < each.high <= 1
            assert math.isclose(each.low, centre - half, abs_tol=1e-6)
            assert math.isclose(each.high, centre + half, abs_tol=1e-6)
            shares.add(each.value)
        each = result.metrics["logit_diff"]
        assert each.low is not None and each.high is not None
        assert math.isclose(each.high - each.value, each.value - each.low, abs_tol=1e-9)
    assert {0, 1} & shares and len(shares) > 1


def test_examples_that_are_right_in_part_have_an_interval_too():
    low, high = _wilson(torch.tensor([1.0, 1.0, 0.5, 1.0]))
    whole = [_wilson(torch.tensor([1.0, 1.0, last, 1.0])) for last in (0.0, 1.0)]
    assert (low, high) == (whole[0][0], whole[1][1]) and low < 3.5 / 4 < high


def test_empty_and_unknown_splits_are_refused():
    task = Task("random", pairs(3), (), ())
    for split in ("test", "dev"):
        with pytest.raises(InputError, match="split"):
            score(tiny("gpt2"), task, split=split)
    for n in (0, -1):  # which would count from the end
        with pytest.raises(InputError, match=f"n={n}; give 1 or more"):
            score(tiny("gpt2"), task, split="train", n=n)
