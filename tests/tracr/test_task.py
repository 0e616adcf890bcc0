"""The task of a compiled program, and scores of outputs that are numbers."""

from dataclasses import replace

import pytest
import torch

import edgewise as ew
from edgewise import InputError
from edgewise.models import SHIPPED
from edgewise.tasks import from_provenance, loss_function, metric_function


@pytest.mark.parametrize("name", SHIPPED)
def test_pairs_are_different_equally_long_and_in_one_split(name):
    tokenizer = ew.load_model(name).tokenizer
    task = ew.tasks.program(tokenizer, 50, 20, 30, seed=3)
    pairs = [pair for split in ("train", "validation", "test") for pair in task.split(split)]
    assert [len(task.train), len(task.validation), len(task.test)] == [50, 20, 30]
    assert len({(pair.clean, pair.corrupted) for pair in pairs}) == 100
    for pair in pairs:
        assert len(pair.clean) == len(pair.corrupted) and pair.clean != pair.corrupted
        assert pair.clean[0] == pair.corrupted[0] == tokenizer.program.bos
        assert [target.position for target in pair.targets] == list(range(1, len(pair.clean)))
    assert {len(pair.clean) for pair in task.train} == set(tokenizer.program.lengths.tolist())
    again = from_provenance(task.provenance, tokenizer)
    assert again.train == task.train and again.metrics == task.metrics
    assert ew.tasks.program(tokenizer, 50, 20, 30, seed=4).train != task.train


def test_a_small_program_is_dealt_out_whole():
    task = ew.tasks.program(ew.load_model("tracr:reverse").tokenizer, 1000, 500, 500)
    sizes = [len(task.train), len(task.validation), len(task.test)]
    assert sizes[0] == 2 * sizes[1] == 2 * sizes[2] and 776 <= sum(sizes) <= 780  # 3·2 + 9·8 + 27·26 pairs


def test_the_answers_are_the_programs():
    model = ew.load_model("tracr:reverse")
    task = ew.tasks.program(model.tokenizer)
    engine = ew.Engine(model)
    batch = task.batch("test", range(40))
    batch = batch.with_full_logits(engine.full(batch))
    assert batch.full_logits is not None
    assert bool((metric_function("accuracy")(batch.full_logits, batch) == 1).all())


def test_other_models_and_sizes_are_refused():
    with pytest.raises(InputError, match="compiled model"):
        ew.tasks.program(lambda text: text)
    with pytest.raises(InputError, match="train=-1"):
        ew.tasks.program(ew.load_model("tracr:reverse").tokenizer, train=-1)


def test_scores_of_numbers():
    model = ew.load_model("tracr:xproportion")
    task = ew.tasks.program(model.tokenizer)
    batch = task.batch("train", range(8))
    full = ew.Engine(model).full(batch)
    batch = batch.with_full_logits(full)
    for name, far, near in (("l2", 1.0, 0.0016), ("mismatch", 1 / 1.01, 0.0016 / 0.0116)):
        loss = loss_function(name)
        assert loss(full, batch).abs().max() == 0
        torch.testing.assert_close(loss(full + 1, batch), torch.full_like(full[:, 0], far), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(loss(full - 0.04, batch), torch.full_like(full[:, 0], near), rtol=1e-3, atol=1e-6)
    close = metric_function("close")
    assert bool((close(full + 0.04, batch) == 1).all()) and bool((close(full + 0.06, batch) == 0).all())
    assert torch.equal(metric_function("value")(full, batch), full[:, 0])
    for name in ("l2", "mismatch", "close"):
        score = loss_function(name) if name != "close" else metric_function(name)
        with pytest.raises(InputError, match="compares with the full model"):
            score(full, replace(batch, full_logits=None))


def test_a_programs_pairs_have_the_bound_of_other_tasks():
    tokenizer = ew.load_model("tracr:reverse").tokenizer
    with pytest.raises(InputError, match="program: 1000001 pairs in a split are too many; ask for at most 1000000"):
        ew.tasks.program(tokenizer, train=1_000_001)


def test_a_numbers_evaluation_reports_no_tokens():
    model = ew.load_model("tracr:xproportion")
    task = ew.tasks.program(model.tokenizer)
    engine = ew.Engine(model)
    circuit = ew.random_scores(engine, task).top(10)
    result = ew.evaluate(engine, circuit, task)
    assert set(result.metrics) == {"l2", "close"}
    assert result.metrics["l2"].full == 0 and result.metrics["close"].full == 1
    assert result.metrics["l2"].lower_is_better and result.metrics["l2"].empty > 0
    assert task.explained == "value" and replace(task, metrics=None).explained == "log_prob"


def test_eap_explains_an_output_but_not_a_distance():
    engine = ew.Engine(ew.load_model("tracr:xproportion"))
    task = ew.tasks.program(engine.model.tokenizer, train=30)
    with pytest.raises(InputError, match="value where the output is a number"):
        ew.eap(engine, task)
    assert bool((ew.eap(engine, replace(task, metric=task.explained)).values != 0).any())


def test_circuits_of_a_program_of_numbers_are_told_apart_everywhere():
    model = ew.load_model("tracr:xproportion")
    task = ew.tasks.program(model.tokenizer)
    engine = ew.Engine(model)
    circuits = {str(size): ew.random_scores(engine, task).top(size) for size in (4, 20)}
    curve = ew.size_curve(engine, circuits={"random": list(circuits.values())}, task=task)
    assert curve.metric == "l2" and curve.full == 0 < curve.empty
    found = ew.compare(engine, circuits, [task]).judged[task.name]
    assert list(found["full"]) == ["l2", "close"] and found["4"]["l2"].value == curve.points[0].value > 0
    with pytest.raises(InputError, match="kl.*use l2, close"):
        ew.size_curve(engine, {"random": list(circuits.values())}, task, metric="kl")
    assert not task.allows("kl") and not task.allows("logit_diff") and task.allows("value")
    words = ew.tasks.program(ew.load_model("tracr:reverse").tokenizer)
    assert words.headline == ("l2", "exact_match", "accuracy") and words.allows("kl") and words.allows("l2")
