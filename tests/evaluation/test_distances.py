"""Distances from the full model: against scipy, and against what they are by definition."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial import distance
from torch import Tensor

from edgewise.discovery import Scores, eap_ig, mask_ig
from edgewise.evaluation import evaluate, judge
from edgewise.tasks import Batch, Pair, Target, Task, metric_function, metric_names, reduce
from edgewise.tasks._pairs import collate
from tests.discovery.toys import random_task, toy_engine
from tests.tiny import VOCABULARY, refused

DISTANCES = {name: metric_function(name) for name in ("reverse_kl", "js", "logit_l2", "kendall_tau", "answers_tau")}
KNOWN = tuple(name for name in metric_names() if metric_function(name).needs != "outputs")


def made(seed: int = 0, n_circuits: int = 3) -> tuple[Tensor, Tensor, Batch]:
    """The logits of some circuits and of the full model at three targets of two examples."""
    generator = torch.Generator().manual_seed(seed)
    circuits = torch.randn(n_circuits, 3, VOCABULARY, generator=generator, dtype=torch.float64) * 2
    full = torch.randn(3, VOCABULARY, generator=generator, dtype=torch.float64) * 2
    targets = (Target(1, (3, 5), (7, 8, 9)), Target(2, (4,), ()))
    pairs = [Pair((1, 2, 3), (1, 2, 4), targets, "", ""), Pair((1, 2, 3), (1, 2, 4), targets[:1], "", "")]
    return circuits, full, collate(pairs, [0, 1]).with_full_logits(full)


def probabilities(logits: Tensor) -> np.ndarray:
    return logits.softmax(-1).numpy()


def _tau(one: np.ndarray, other: np.ndarray) -> float:
    return float(stats.kendalltau(one, other).statistic)  # pyright: ignore[reportAttributeAccessIssue] (scipy's stubs)


def test_each_is_what_scipy_says_target_by_target_and_circuit_by_circuit():
    circuits, full, batch = made()
    found = {name: score(circuits, batch) for name, score in DISTANCES.items()}
    for c, row in enumerate(circuits):
        for a in range(3):
            p, q = probabilities(full[a]), probabilities(row[a])
            assert found["reverse_kl"][c, a] == pytest.approx(stats.entropy(q, p))
            assert found["js"][c, a] == pytest.approx(distance.jensenshannon(p, q) ** 2)
            centred = (row[a] - row[a].mean()) - (full[a] - full[a].mean())
            assert found["logit_l2"][c, a] == pytest.approx(float(np.linalg.norm(centred.numpy())))
            assert found["kendall_tau"][c, a] == pytest.approx(_tau(p, q))  # fewer than 100 tokens
            answers = [3, 5, 7, 8, 9] if a != 1 else [4]
            # Targets 0 and 1 are one example's: the second has one answer, so the first counts for both.
            expected = _tau(p[answers], q[answers]) * (2 if a == 0 else 1) if a != 1 else 0.0
            assert found["answers_tau"][c, a] == pytest.approx(expected)


def test_tau_is_over_the_models_likeliest_tokens(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("edgewise.tasks._distances.N_LIKELIEST", 5)
    circuits, full, batch = made()
    found = DISTANCES["kendall_tau"](circuits, batch)
    for c, row in enumerate(circuits):
        for a in range(3):
            top = full[a].numpy().argsort()[-5:]
            assert found[c, a] == pytest.approx(_tau(full[a].numpy()[top], row[a].numpy()[top]))


@pytest.mark.parametrize("method", [eap_ig, mask_ig])
def test_a_path_that_ends_at_the_model_adds_no_gradient_of_rounding(method: Any):
    """There a norm's gradient is a unit vector in the direction of the rounding, which another batch size changes."""
    engine, task = toy_engine(dtype=torch.float32), random_task()
    one, all_at_once = (
        method(engine, task, explains="logit_l2", quadrature="right", points=3, batch_size=size).values
        for size in (1, len(task.train))
    )
    assert float((one - all_at_once).norm()) < 1e-3 * float(one.norm())


def test_the_model_itself_is_at_no_distance_and_constants_do_not_count():
    _, full, batch = made()
    same = {name: score((full + 5.0)[None], batch) for name, score in DISTANCES.items()}
    for name in ("reverse_kl", "js", "logit_l2"):
        assert same[name].abs().max() < 1e-9
    assert torch.allclose(same["kendall_tau"], torch.ones(1, 3, dtype=torch.float64))
    assert torch.allclose(reduce(same["answers_tau"], batch), torch.ones(1, 2, dtype=torch.float64))
    alone = collate([Pair((1, 2), (1, 3), (Target(1, (4,)),), "", "")], [0]).with_full_logits(full[:1])
    assert DISTANCES["answers_tau"](full[None, :1], alone).tolist() == [[0]]  # one answer has no order
    opposite = DISTANCES["kendall_tau"](-full[None], batch)
    assert torch.allclose(opposite, -torch.ones(1, 3, dtype=torch.float64))
    assert DISTANCES["kendall_tau"](torch.zeros_like(full)[None], batch).abs().max() == 0


def test_a_divergence_is_bounded_by_log_2_where_nothing_is_shared():
    one, other = torch.full((1, 3, VOCABULARY), -1e4), torch.full((3, VOCABULARY), -1e4)
    one[..., 0], other[..., 1] = 0.0, 0.0
    assert DISTANCES["js"](one, made()[2].with_full_logits(other)).tolist()[0] == pytest.approx([math.log(2)] * 3)


def test_evaluation_reports_what_is_asked_for():
    engine, task = toy_engine(), random_task()
    scores = torch.arange(engine.graph.n_edges).float()
    circuit = _top(engine, scores)
    found = evaluate(engine, circuit, task, metrics=KNOWN, baselines=())
    assert set(found.metrics) == set(KNOWN) > {"js", "reverse_kl"}
    assert found.metrics["reverse_kl"].lower_is_better and not found.metrics["kendall_tau"].lower_is_better
    alone = judge(engine, {"it": circuit}, task, "test", names=("js",))["it"]["js"]
    assert found.metrics["js"].value == pytest.approx(alone.mean())
    assert found.metrics["js"].full == pytest.approx(0, abs=1e-6) and found.metrics["js"].faithfulness is None
    row = found.metrics["logit_diff"]
    assert row.faithfulness == pytest.approx((row.value - row.empty) / (row.full - row.empty))
    assert "choose" in refused(lambda: evaluate(engine, circuit, task, metrics=("beauty",)))
    assert "has no outputs" in refused(lambda: evaluate(engine, circuit, task, metrics=("kl", "close")))


def test_several_circuits_in_one_pass_are_each_what_they_are_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "edgewise.evaluation._judge._chunks", lambda masks, *_: [[*masks][:4], [*masks][4:]]
    )  # as on a GPU
    engine, task = toy_engine(dtype=torch.float64), random_task()
    generator = torch.Generator().manual_seed(0)
    names = ("kl", "js", "logit_diff")
    circuits = {
        str(i): _top(engine, torch.rand(engine.graph.n_edges, generator=generator), 5 + 7 * i) for i in range(7)
    }
    together = judge(engine, circuits, task, "test", names=names, batch_size=3)
    monkeypatch.undo()
    for name, circuit in circuits.items():
        alone = judge(engine, {name: circuit}, task, "test", names=names, batch_size=2)
        for metric in names:
            assert together[name][metric] == pytest.approx(alone[name][metric], abs=1e-9)


def _top(engine: Any, scores: Tensor, n: int = 20) -> Any:
    return Scores(engine.graph, scores).top(n)


def test_a_task_without_wrong_answers_has_no_logit_difference():
    engine = toy_engine()
    pairs = [Pair((1, 2, 3), (1, 4, 3), (Target(2, (5,)),), "", "")] * 3
    task = Task("toy", pairs, pairs, pairs)
    circuit = _top(engine, torch.arange(engine.graph.n_edges).float())
    assert "logit_diff" not in evaluate(engine, circuit, task, baselines=()).metrics
    assert set(evaluate(engine, circuit, task, metrics=("js",), baselines=()).metrics) == {"js"}
