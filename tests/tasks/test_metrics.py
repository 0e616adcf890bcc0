import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgewise._errors import InputError
from edgewise.tasks import Metric, loss_function, metric_function, metric_names, reduce, register_metric, score_name
from edgewise.tasks import _metric as metrics
from edgewise.tasks._pairs import Pair, Target, collate

V = 5
LOGITS = torch.tensor([[0.0, 1.0, 2.0, -1.0, 0.5], [3.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 4.0, 0.0, 1.0]]).double()
FULL = torch.tensor([[0.0, 3.0, 2.0, -1.0, 0.5], [3.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 4.0, 0.0, 1.0]]).double()


def pair(*targets: Target) -> Pair:
    return Pair((1, 2, 3, 4), (1, 2, 0, 4), targets, "clean", "corrupted")


@pytest.fixture
def batch():
    """Two examples: one target with sets, then two targets of which the first alone has a wrong answer."""
    pairs = [pair(Target(3, (2, 1), (0, 4))), pair(Target(2, (0,), (3,)), Target(3, (4,)))]
    return collate(pairs, [0, 1]).with_full_logits(FULL)


def metric(name, logits, batch):
    return metric_function(name)(logits, batch)


def test_values_computed_by_hand(batch):
    e = math.exp
    total = [1 + e(1) + e(2) + e(-1) + e(0.5), e(3) + 4, 3 + e(4) + e(1)]
    log_prob = [math.log((e(2) + e(1)) / total[0]), math.log(e(3) / total[1]), math.log(e(1) / total[2])]
    # The second example's one contrasted target stands for the whole example, so it weighs twice.
    difference = [math.log(e(2) + e(1)) - math.log(1 + e(0.5)), 2 * 3.0, 0.0]
    expected = {
        "log_prob": log_prob,
        "logit_diff": difference,
        "accuracy": [1.0, 1.0, 0.0],
        "exact_match": [0.0, 1.0, 1.0],
    }
    for name, values in expected.items():
        by_hand = torch.tensor(values, dtype=torch.float64)
        torch.testing.assert_close(metric(name, LOGITS, batch), by_hand, rtol=1e-12, atol=1e-12)
    for name, source, sign in (("cross_entropy", "log_prob", -1), ("logit_diff", "logit_diff", -1)):
        assert torch.equal(loss_function(name)(LOGITS, batch), sign * metric(source, LOGITS, batch))
    torch.testing.assert_close(reduce(metric("logit_diff", LOGITS, batch), batch)[1].item(), 3.0)


def test_kl_is_of_the_full_model_to_the_circuit(batch):
    p, q = FULL.softmax(-1), LOGITS.softmax(-1)
    torch.testing.assert_close(metric("kl", LOGITS, batch), (p * (p / q).log()).sum(-1), rtol=1e-12, atol=1e-12)
    assert metric("kl", FULL, batch).abs().max() < 1e-12
    lower = {name for name in metric_names() if metric_function(name).lower_is_better}
    assert lower == {"kl", "l2", "reverse_kl", "js", "logit_l2"}


@given(st.data())
def test_every_score_equals_a_plain_loop(data):
    tokens = st.lists(st.integers(0, V - 1), min_size=1, max_size=2, unique=True)
    pairs = []
    for _ in range(data.draw(st.integers(1, 3))):
        targets = []
        for position in range(data.draw(st.integers(1, 3))):
            answers = data.draw(tokens)
            wrong = [token for token in data.draw(tokens) if token not in answers] if position else [answers[0] - 1]
            targets.append(Target(position, tuple(answers), tuple(w % V for w in wrong if w % V not in answers)))
        pairs.append(pair(*targets))
    if not all(any(target.wrong for target in each.targets) for each in pairs):
        return
    batch = collate(pairs, range(len(pairs)))
    logits = torch.randn(batch.row.shape[0], V, dtype=torch.float64)
    rows = iter(logits.tolist())
    difference, log_prob = [], []
    for each in pairs:
        values = [(target, next(rows)) for target in each.targets]

        def pooled(row, chosen):
            return math.log(sum(math.exp(row[token]) for token in chosen))

        found = [pooled(row, target.answers) - pooled(row, target.wrong) for target, row in values if target.wrong]
        difference.append(sum(found) / len(found))
        found = [pooled(row, target.answers) - pooled(row, range(V)) for target, row in values]
        log_prob.append(sum(found) / len(found))
    for name, expected in (("logit_diff", difference), ("log_prob", log_prob)):
        torch.testing.assert_close(reduce(metric(name, logits, batch), batch).tolist(), expected, rtol=1e-9, atol=1e-9)


def test_reduce_is_the_mean_over_an_examples_targets(batch):
    values = torch.tensor([3.0, 4.0, 8.0])
    assert reduce(values, batch).tolist() == [3.0, 6.0]
    assert reduce(torch.stack([values, -values]), batch).tolist() == [[3.0, 6.0], [-3.0, -6.0]]
    broken = reduce(torch.tensor([math.nan, 4.0, 8.0]), batch)
    assert broken[0].isnan() and broken[1] == 6.0
    thirds = collate([pair(Target(1, (1,)), Target(2, (1,)), Target(3, (1,)))], [0])
    assert abs(reduce(torch.ones(3, dtype=torch.float64), thirds).item() - 1) < 1e-15


@pytest.mark.parametrize("name", metric_names())
def test_leading_dimensions_are_several_circuits(batch, name):
    both = torch.stack([LOGITS, FULL])
    expected = torch.stack([metric(name, LOGITS, batch), metric(name, FULL, batch)])
    assert torch.equal(metric(name, both, batch), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", metric_names())
def test_half_precision_is_computed_in_single(batch, name, dtype):
    low = replace(batch, full_logits=FULL.to(dtype))
    values = metric(name, LOGITS.to(dtype), low)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, metric(name, LOGITS.to(dtype).double(), low).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", metric_names("loss"))
def test_gradients_are_right_where_sets_are_ragged(batch, name):
    logits = LOGITS.clone().requires_grad_()
    loss = loss_function(name)
    assert torch.autograd.gradcheck(lambda x: reduce(loss(x, batch), batch), (logits,))


def test_presence_is_bounded_and_is_what_is_left_of_the_answer():
    batch = collate([pair(Target(3, (1,), (2,))), pair(Target(3, (1,)))], [0, 1])
    logits = (50 * LOGITS[:2]).clone().requires_grad_()
    values = metric("presence", logits, batch)
    assert ((values >= 0) & (values <= 1)).all()
    torch.testing.assert_close(values[0], torch.sigmoid(logits[0, 1] - logits[0, 2]))
    torch.testing.assert_close(values[1], logits[1].softmax(-1)[1])
    values.sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_an_example_that_has_no_difference_is_nan_and_leaves_the_others_alone():
    batch = collate([pair(Target(3, (1,), (2,))), pair(Target(3, (1,)))], [0, 1])
    logits = LOGITS[:2].clone().requires_grad_()
    values = metric("logit_diff", logits, batch)
    assert values[0] == -1 and values[1].isnan()
    values[0].backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_no_wrong_answer_at_all_is_refused():
    with pytest.raises(InputError, match="logit_diff needs wrong answers"):
        metric("logit_diff", LOGITS[:1], collate([pair(Target(3, (1,)))], [0]))


@pytest.mark.parametrize("name", ["kl", "exact_match"])
def test_the_full_models_logits_are_needed(batch, name):
    with pytest.raises(InputError, match=f"{name} compares with the full model"):
        metric(name, LOGITS, replace(batch, full_logits=None))


# A user's own


def test_a_users_callable_is_called_for_each_circuit(batch):
    def margin(logits, batch):
        assert logits.ndim == 2
        return logits.max(-1).values - logits.mean(-1)

    both = torch.stack([LOGITS, FULL])
    values = metric_function(margin)(both, batch)
    assert torch.equal(values, torch.stack([margin(LOGITS, batch), margin(FULL, batch)]))
    assert score_name(margin).endswith("margin") and score_name("kl") == "kl"


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (lambda logits, batch: logits.mean(), r"gave shape \(\); must give one value per target, shape \(3,\)"),
        (lambda logits, batch: logits, r"gave shape \(3, 5\)"),
        (lambda logits, batch: 1.0, "gave a float"),
    ],
)
def test_a_callable_of_the_wrong_shape_is_refused(batch, own, message):
    with pytest.raises(InputError, match=message):
        loss_function(own)(LOGITS, batch)


@pytest.mark.unchecked
@pytest.mark.parametrize("unknown", ["accuracy", "", 3, None])
def test_an_unknown_loss_is_refused(unknown):
    with pytest.raises(InputError, match=r"^loss: .*choose logit_diff, kl, cross_entropy, l2, mismatch or a callable"):
        loss_function(unknown)


# The record


@pytest.mark.parametrize("name", sorted({*metric_names(), *metric_names("loss")}))
def test_a_record_says_what_is_true_of_its_function(batch, name):
    known = (metric_function if name in metric_names() else loss_function)(name)
    logits = LOGITS.clone().requires_grad_()
    assert known.unit and known(logits, batch).requires_grad == known.differentiable
    alone = replace(batch, full_logits=None)
    if known.needs_full_model:
        with pytest.raises(InputError, match="compares with the full model"):
            known(LOGITS, alone)
    else:
        assert torch.equal(known(LOGITS, alone), known(LOGITS, batch))
    if known.distance:
        at_full = FULL.clone().requires_grad_()
        value = known(at_full, batch)
        assert known.lower_is_better and value.abs().max() < 1e-12 and known(LOGITS, batch).min() >= 0
        if name != "logit_l2":  # a norm, which has a kink there
            (gradient,) = torch.autograd.grad(value.sum(), at_full)
            assert gradient.abs().max() < 1e-12


def test_a_registered_metric_serves_by_its_name(batch, monkeypatch):
    monkeypatch.setattr("edgewise.tasks._metric._METRICS", dict(metrics._METRICS))

    def spread(logits, batch):
        return logits.std(-1)

    register_metric(Metric("spread", spread, lower_is_better=True))
    assert "spread" in metric_names() and metric_function("spread").sign == -1
    assert torch.equal(loss_function("spread")(LOGITS, batch), LOGITS.std(-1))
    register_metric(Metric("margin", spread))
    assert torch.equal(loss_function("margin")(LOGITS, batch), -LOGITS.std(-1))
    assert torch.equal(metric_function("margin")(torch.stack([LOGITS, FULL]), batch)[1], FULL.std(-1))
    with pytest.raises(InputError, match="metric 'kl': that name is taken"):
        register_metric(Metric("kl", spread))
    with pytest.raises(InputError, match="there is no 'accuracy'; choose logit_diff"):
        loss_function("accuracy")


def test_names_are_known_without_pytorch():
    code = """
import sys
from edgewise._errors import InputError
from edgewise.tasks import metric_function
try:
    metric_function("beauty")
except InputError:
    pass
assert metric_function("kl").distance and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
