"""Evaluation: the interval, what a circuit's numbers stand beside, and what they do not depend on."""

import json
import math
from dataclasses import asdict, replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from edgewise.circuit import Circuit
from edgewise.discovery import eap, uniform_scores
from edgewise.engine import Ablation, Engine
from edgewise.evaluation import eap_baseline, evaluate, judge
from edgewise.runs import Interval, bootstrap
from edgewise.tasks import Batch, Target, Task
from tests.discovery.toys import random_task, toy_engine
from tests.tiny import ends, refused, tiny

REPORTED = {"logit_diff", "log_prob", "accuracy", "exact_match", "kl"}
FIELDS = {"value", "low", "high", "full", "empty", "random", "eap"}

# ----------------------------------------------------------------------------------------------------- the interval


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_interval_is_the_percentile_bootstrap(level: float):
    values = np.random.default_rng(1).exponential(size=80)
    found = bootstrap(values, level=level)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, confidence_level=level, method="percentile", rng=2
    ).confidence_interval
    assert found.value == values.mean()
    # The end of an interval is itself a random number; its standard error with 10,000 resamples is about 0.03 sigma.
    tolerance = 0.1 * values.std() / math.sqrt(len(values))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=tolerance)


def test_the_interval_follows_its_seed_alone():
    values = np.random.default_rng(1).normal(size=30)
    assert bootstrap(values) == bootstrap(values) != bootstrap(values, seed=1)


def test_equal_values_have_no_interval():
    assert bootstrap(np.full(10, 0.25)) == (0.25, 0.25, 0.25)


def test_one_value_has_no_interval_and_none_no_mean():
    assert bootstrap(np.array([3.0])) == (3, None, None)
    assert f"{bootstrap(np.array([3.0])):.1f}" == "3.0"
    assert "there are no values" in refused(lambda: bootstrap(np.array([])))


def test_an_interval_is_written_in_one_format():
    found = Interval(0.25, -0.5, 1.0)
    assert str(found) == f"{found}" == "0.250 [-0.500, 1.000]" and f"{found:+.1f}" == "+0.2 [-0.5, +1.0]"


# --------------------------------------------------------------------------------------------- what stands beside it


def test_the_whole_graph_is_the_full_model():
    engine = toy_engine(dtype=torch.float64)
    result = evaluate(engine, _circuit(engine, 1.0), random_task(), baselines=())
    assert result.edges == result.actual_edges == result.total_edges == engine.graph.n_edges
    assert set(result.metrics) == REPORTED
    for name, row in result.metrics.items():
        assert row.value == pytest.approx(row.full, abs=1e-9), name
    assert result.metrics["kl"].full == pytest.approx(0, abs=1e-12)
    assert result.metrics["exact_match"].value == result.metrics["exact_match"].full == 1


def test_the_full_model_is_the_users_own_module():
    engine, task = toy_engine(), random_task()
    result = evaluate(engine, _circuit(engine), task, baselines=())
    expected = []
    for pair in task.test:
        with torch.no_grad():
            logits = engine.model.module(input_ids=torch.tensor([pair.clean])).logits[0]
        log_probs = [logits[t.position].log_softmax(-1)[list(t.answers)].logsumexp(0) for t in pair.targets]
        expected.append(float(torch.stack(log_probs).mean()))
    assert result.metrics["log_prob"].full == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_empty_circuit_is_the_empty_one():
    engine = toy_engine()
    result = evaluate(engine, _circuit(engine, 0.0), random_task(), baselines=())
    assert result.edges == result.actual_edges == 0
    for row in result.metrics.values():
        assert row.value == row.empty
    assert result.metrics["kl"].value > 0.01


def test_the_empty_circuit_is_that_of_the_circuits_ablation():
    engines = [toy_engine(ablation=Ablation(kind)) for kind in ("interchange", "zero")]
    empty = [evaluate(each, _circuit(each), random_task(), baselines=()).metrics["kl"].empty for each in engines]
    assert empty[0] != pytest.approx(empty[1], rel=0.01)


def test_the_values_are_means_over_the_examples_of_hard_masks():
    engine, task = toy_engine(), random_task()
    circuit = _circuit(engine)
    result = evaluate(engine, circuit, task, baselines=())
    batch = task.batch("test", range(4))
    logits = engine.run(batch, circuit.kept.float())
    per_target = (engine.full(batch).softmax(-1) * (engine.full(batch).log_softmax(-1) - logits.log_softmax(-1))).sum(
        -1
    )
    per_example = [per_target[batch.row == b].mean() for b in range(4)]
    assert result.metrics["kl"].value == pytest.approx(float(torch.stack(per_example).mean()), rel=1e-5)
    low, high = ends(result.metrics["kl"])
    assert low <= result.metrics["kl"].value <= high
    assert result.n == 4


def test_baselines_have_the_circuits_actual_size():
    engine, task = toy_engine(), random_task()
    # As a learned circuit: with edges that carry nothing, which must not make its baselines larger.
    kept = eap(engine, task).at(0.8, absolute=True).kept
    circuit = Circuit(engine.graph, kept, None, {"ablation": engine.ablation.to_dict()})
    assert 0 < circuit.n_actual < circuit.n_edges
    result = evaluate(engine, circuit, task)
    chance = [uniform_scores(engine.graph, seed) for seed in range(3)]
    randoms = {str(seed): scores.top_actual(circuit.n_actual) for seed, scores in enumerate(chance)}
    selection, attributed = eap_baseline(engine, task, circuit.n_actual, None)
    ranked = [*zip(chance, randoms.values(), [False] * 3, strict=True)]
    ranked += [(eap(engine, task), attributed, selection == "absolute")]
    for scores, chosen, absolute in ranked:
        # One more edge can let several carry signal, so that not every size exists: it is the largest that does.
        sizes = [scores.top(k, absolute=absolute).n_actual for k in range(engine.graph.n_edges + 1)]
        assert chosen.n_actual == chosen.n_edges == max(size for size in sizes if size <= circuit.n_actual)
    judged = judge(engine, randoms | {"eap": attributed}, task, "test")
    for name, row in result.metrics.items():
        turns = [judged[str(i % len(randoms))][name][i] for i in range(result.n)]
        assert row.random == pytest.approx(np.mean(turns), rel=1e-6)
        assert row.eap == pytest.approx(judged["eap"][name].mean(), rel=1e-6)


def test_attribution_is_the_better_of_the_two_orders_on_validation():
    engine, task = toy_engine(), random_task()
    scores = eap(engine, task)
    selection, best = eap_baseline(engine, task, 100, scores)
    circuits = {"signed": scores.top_actual(100), "absolute": scores.top_actual(100, absolute=True)}
    values = judge(engine, circuits, task, "validation", names=("kl",))
    other = {"signed": "absolute", "absolute": "signed"}[selection]
    assert values[selection]["kl"].mean() <= values[other]["kl"].mean()
    assert torch.equal(best.kept, circuits[selection].kept)


def test_scores_at_hand_are_used():
    engine, task = toy_engine(), random_task()
    chance = evaluate(engine, _circuit(engine), task, attribution=uniform_scores(engine.graph, 9))
    assert chance.metrics["kl"].eap != evaluate(engine, _circuit(engine), task).metrics["kl"].eap


@pytest.mark.parametrize("baselines", [(), ("random",), ("eap",)], ids=str)
def test_only_the_baselines_asked_for_are_there(baselines: tuple[str, ...]):
    engine = toy_engine()
    row = evaluate(engine, _circuit(engine), random_task(), baselines=baselines).metrics["kl"]
    assert (row.random is not None, row.eap is not None) == ("random" in baselines, "eap" in baselines)


# ------------------------------------------------------------------------------------------------------ what is written


def test_the_json_has_every_number(tmp_path):
    engine = toy_engine()
    result = evaluate(engine, _circuit(engine), random_task())
    result.save(tmp_path / "evaluation.json")
    read = json.loads((tmp_path / "evaluation.json").read_text())
    assert read == json.loads(result.to_json()) == json.loads(json.dumps(asdict(result)))
    assert {"edges", "actual_edges", "total_edges", "n", "metrics", "conditions"} <= set(read)
    assert set(read["metrics"]) == REPORTED
    for name, row in read["metrics"].items():
        assert set(row) >= FIELDS and all(isinstance(row[field], float) for field in FIELDS), name
        assert row["lower_is_better"] is (name == "kl")
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_it_says_under_which_conditions():
    engine = toy_engine(ablation=Ablation("zero"))
    said = evaluate(engine, _circuit(engine), random_task(), split="validation").conditions
    assert said["split"] == "validation" and said["ablation"]["kind"] == "zero" and said["random_circuits"] == 3
    assert said["model"] == engine.model.identity and said["graph"] == engine.graph.spec.to_dict()
    assert said["eap"]["selection"] in ("signed", "absolute") and said["task"]["name"] == "toy"


def test_it_is_known_of_which_circuit_it_is():
    engine = toy_engine()
    circuit = _circuit(engine)
    found = evaluate(engine, circuit, random_task(), baselines=())
    other = replace(circuit, kept=circuit.kept.roll(1))
    same_size = replace(found, actual_edges=other.n_actual)
    assert found.is_of(circuit) and not same_size.is_of(other)
    assert replace(same_size, conditions={}).is_of(other), "files of earlier versions go by their sizes"
    assert not replace(found, total_edges=3).is_of(circuit)


# ------------------------------------------------------------------------------ what the numbers hang on, or not


def test_the_batch_size_does_not_change_the_numbers():
    task = random_task()
    results = []
    for size in (1, 3, 32):
        engine = toy_engine(dtype=torch.float64)
        results.append(evaluate(engine, _circuit(engine), task, batch_size=size))
    for name, row in results[0].metrics.items():
        for other in results[1:]:
            for field in FIELDS:
                found, expected = (getattr(each, field) for each in (other.metrics[name], row))
                assert found == pytest.approx(expected, rel=1e-9, abs=1e-12), (name, field)


def test_a_saved_circuit_is_worth_the_same_bits(tmp_path):
    task = random_task()
    engine = toy_engine()
    circuit = eap(engine, task).at(0.9, actual=True, absolute=True)
    circuit.save(tmp_path / "circuit.safetensors")
    loaded = Circuit.load(tmp_path / "circuit.safetensors")
    before, after = (evaluate(toy_engine(), each, task) for each in (circuit, loaded))
    assert before.to_json() == after.to_json()


def test_a_model_is_judged_under_the_circuits_graph_and_ablation():
    model = toy_engine().model
    engine = Engine(model, model.graph("split"), Ablation("zero"))
    circuit = _circuit(engine)
    assert evaluate(model, circuit, random_task()).to_json() == evaluate(engine, circuit, random_task()).to_json()


@pytest.mark.parametrize("wrong", ["name", "llama-gqa", "split", "zero", "baseline", "no split", "batch size"])
def test_what_does_not_fit_is_refused(wrong: str):
    engine, task = toy_engine(), random_task()
    circuit = _circuit(engine)
    calls: dict[str, Any] = {
        "name": lambda: evaluate(engine, _circuit(toy_engine("qwen2")), task),
        "llama-gqa": lambda: evaluate(toy_engine("llama-gqa").model, circuit, task),
        "split": lambda: evaluate(toy_engine(graph=engine.model.graph("split")), circuit, task),
        "zero": lambda: evaluate(toy_engine(ablation=Ablation("zero")), circuit, task),
        "baseline": lambda: evaluate(engine, circuit, task, baselines=("chance",)),
        "no split": lambda: evaluate(engine, circuit, task, split="tests"),
        "batch size": lambda: evaluate(engine, circuit, task, batch_size=0),
    }
    refused(calls[wrong])


def test_an_empty_split_is_refused():
    engine = toy_engine()
    assert "test" in refused(lambda: evaluate(engine, _circuit(engine), replace(random_task(), test=())))


def test_without_validation_pairs_attribution_is_chosen_on_train():
    engine = toy_engine()
    result = evaluate(engine, _circuit(engine), replace(random_task(), validation=()))
    assert result.metrics["kl"].eap is not None


def test_eap_is_scored_on_the_first_pairs_of_many(monkeypatch: pytest.MonkeyPatch):
    engine, task = toy_engine(), random_task()
    monkeypatch.setattr("edgewise.evaluation._evaluate.EAP_PAIRS", 1)
    circuit = uniform_scores(engine.graph, 0).top_actual(30)
    few = eap(engine, replace(task, train=task.train[:1]))
    found = evaluate(engine, circuit, task, baselines=("eap",))
    given = evaluate(engine, circuit, task, baselines=("eap",), attribution=few)
    assert found.conditions["eap"]["pairs"] == 1 and found.metrics["kl"].eap == given.metrics["kl"].eap
    assert given.conditions["eap"]["pairs"] is None
    monkeypatch.undo()
    whole = evaluate(engine, circuit, task, baselines=("eap",))
    assert whole.conditions["eap"]["pairs"] == len(task.train) > 1
    assert whole.metrics["kl"].eap != found.metrics["kl"].eap


def test_it_says_that_attribution_was_chosen_on_train():
    engine = toy_engine()
    result = evaluate(engine, _circuit(engine), replace(random_task(), validation=()))
    assert result.conditions["eap"]["chosen_on"] == "train"


# ----------------------------------------------------------------------------------------------------- which metrics


def test_without_wrong_answers_there_is_no_logit_difference():
    engine = toy_engine()
    result = evaluate(engine, _circuit(engine), _uncontrasted(random_task()))
    assert set(result.metrics) == REPORTED - {"logit_diff"}


def rank(logits: Tensor, batch: Batch) -> Tensor:
    """Minus how many tokens are likelier than the first answer."""
    answer = logits.gather(-1, batch.answers[:, :1])
    return -(logits > answer).sum(-1).to(logits.dtype)


def test_the_users_metric_is_there_under_its_name():
    engine, task = toy_engine(), random_task()
    result = evaluate(engine, _circuit(engine, 1.0), replace(task, metric=rank), baselines=("random",))
    assert set(result.metrics) == REPORTED | {"rank"}
    row = result.metrics["rank"]
    assert row.value == row.full and not row.lower_is_better
    batch = task.batch("test", range(4))
    per_target = rank(engine.full(batch), batch)
    assert row.full == pytest.approx(np.mean([float(per_target[batch.row == b].mean()) for b in range(4)]))


def test_a_metric_without_a_gradient_is_beside_the_same_attribution():
    engine, task = toy_engine(), random_task()
    found, expected = (evaluate(engine, _circuit(engine), replace(task, metric=each)) for each in (rank, "logit_diff"))
    assert found.metrics["rank"].eap is not None
    assert found.metrics["kl"] == expected.metrics["kl"]


def test_a_judgement_by_no_metric_is_refused():
    engine, task = toy_engine(), random_task()
    circuit = Circuit(engine.graph, torch.ones(engine.graph.n_edges, dtype=torch.bool))
    assert "none are named" in refused(lambda: evaluate(engine, circuit, task, metrics=()))


def test_a_metric_that_is_not_one_value_per_target_is_refused():
    engine = toy_engine()
    task = replace(random_task(), metric=lambda logits, batch: logits.sum())
    refused(lambda: evaluate(engine, _circuit(engine), task, baselines=()))


# ------------------------------------------------------------------------------------------------------------ helpers


def _circuit(engine: Engine, share: float = 0.5) -> Circuit:
    """A circuit of random edges, some of which may be idle."""
    edges = uniform_scores(engine.graph, 7).top(round(share * engine.graph.n_edges)).kept
    return Circuit(engine.graph, edges, None, {"ablation": engine.ablation.to_dict()})


def _uncontrasted(task: Task) -> Task:
    def bare(targets: tuple[Target, ...]) -> tuple[Target, ...]:
        return tuple(replace(each, wrong=()) for each in targets)

    splits = {
        name: [replace(pair, targets=bare(pair.targets)) for pair in task.split(name)]
        for name in ("train", "validation", "test")
    }
    return replace(task, metric="log_prob", **cast(dict[str, Any], splits))


def test_the_worst_examples_are_those_of_highest_kl():
    engine, task = toy_engine(), random_task()
    circuit = _circuit(engine, 0.3)
    found = evaluate(engine, circuit, task, baselines=(), metrics=("accuracy",))
    assert set(found.metrics) == {"accuracy"}
    kl = judge(engine, {"it": circuit}, task, "test", names=("kl",))["it"]["kl"]
    assert [each.number for each in found.worst] == np.argsort(-kl).tolist()
    assert [each.distance for each in found.worst] == pytest.approx(sorted(kl, reverse=True))
    assert json.loads(found.to_json())["worst"][0]["clean"] == task.test[found.worst[0].number].clean_text


@pytest.mark.parametrize(
    ("spans", "of_graph"), [((), ()), (("first", "rest"), ("first", "rest")), (("first", "rest"), ())]
)
def test_circuits_that_take_the_examples_in_turn_are_each_run_on_their_own(
    spans: tuple[str, ...], of_graph: tuple[str, ...]
):
    model, task = tiny("gpt2", torch.float64), random_task(12)
    engine = Engine(model, model.graph(spans=of_graph))
    if spans:
        grouped = [replace(pair, spans=(0, *[1] * (len(pair.clean) - 1))) for pair in task.train]
        task = replace(task, test=grouped, span_names=spans)
    circuits = [uniform_scores(engine.graph, seed).top(engine.graph.n_edges // (seed + 2)) for seed in range(3)]
    apart = judge(engine, {str(seed): each for seed, each in enumerate(circuits)}, task, "test", names=("kl",))
    for size in (2, 32):
        found = judge(engine, {"turns": circuits}, task, "test", size, names=("kl",))["turns"]["kl"]
        expected = [apart[str(i % 3)]["kl"][i] for i in range(len(found))]
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert len({round(float(apart[str(seed)]["kl"][0]), 6) for seed in range(3)}) == 3  # they do differ


def test_eap_has_nothing_to_be_scored_on_without_training_pairs():
    engine, task = toy_engine(), random_task()
    circuit, none = Circuit(engine.graph, torch.ones(engine.graph.n_edges, dtype=torch.bool)), replace(task, train=[])
    assert "training pairs, of which toy has none; choose random" in refused(lambda: evaluate(engine, circuit, none))
    assert evaluate(engine, circuit, none, baselines=("random",)).n == len(task.test)
