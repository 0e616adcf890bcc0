"""The tests of Shi et al.: against scipy and numbers by hand, and on a model whose circuit was planted."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from edgewise.circuit import Circuit
from edgewise.discovery import uniform_scores
from edgewise.engine import Engine
from edgewise.evaluation import (
    Verdict,
    equivalence,
    hypothesis_tests,
    independence,
    judge,
    minimality,
    partial_necessity,
    sufficiency,
)
from edgewise.evaluation._hypothesis_runs import _inflate, _masks
from edgewise.graph import Graph, GraphSpec
from edgewise.models import load
from edgewise.tasks import Pair, Target, Task
from tests.discovery.toys import random_pairs, toy_engine
from tests.tiny import CONFIGURATIONS, refused

# --------------------------------------------------------------------------------------------------- one test each


def test_equivalence_by_hand():
    # 3 wins of 4: |k/4 − ½| ≥ ¼ for k in 0, 1, 3, 4, at p = 0.6 all but k = 2, whose chance is 6 · 0.36 · 0.16.
    model = np.zeros(4)
    found = equivalence(np.array([1.0, 2.0, 3.0, -1.0]), model)
    assert found.statistic == 0.75 and found.p_value == pytest.approx(1 - 6 * 0.36 * 0.16)
    assert not found.rejected and found.supports


def test_equivalence_is_a_two_sided_binomial_without_tolerance():
    draw = np.random.default_rng(0)
    for n in (11, 30):
        circuit = draw.normal(0.3, 1, n)
        wins = int((circuit > 0).sum())
        found = equivalence(circuit, np.zeros(n), epsilon=0.0)
        assert found.p_value == pytest.approx(stats.binomtest(wins, n, 0.5).pvalue)


def test_equal_performances_are_equivalent_and_worse_ones_are_not():
    values = np.random.default_rng(1).normal(size=200)
    assert equivalence(values, values).p_value == pytest.approx(1)
    found = equivalence(values - 1, values)
    assert found.statistic == 0 and found.rejected and not found.supports


def test_independence_by_hand():
    # Two values each: kernels [[1, k], [k, 1]] centred are ±(1 − k)/2, so HSIC = 4 · ((1 − k)/2)² / 1, k = e^(−1/2).
    found = independence(np.array([0.0, 2.0]), np.array([5.0, 1.0]), permutations=50)
    assert found.statistic == pytest.approx((1 - np.exp(-0.5)) ** 2)
    assert found.p_value == 1  # every order of two is as dependent


def test_independence_of_three_by_hand():
    x, y = np.array([0.0, 1.0, 3.0]), np.array([2.0, 0.0, 1.0])

    def centred(values: np.ndarray) -> np.ndarray:
        apart = np.abs(values[:, None] - values)
        kernel = np.exp(-(apart**2) / (2 * np.median(apart[np.triu_indices(3, 1)]) ** 2))
        return kernel - kernel.mean(0) - kernel.mean(1, keepdims=True) + kernel.mean()

    assert independence(x, y).statistic == pytest.approx(float((centred(x) * centred(y)).sum()) / 4)  # (n − 1)²


def test_independence_tells_dependence_that_no_correlation_shows():
    draw = np.random.default_rng(2)
    x, y = draw.normal(size=(2, 120))
    assert independence(x, y).supports
    found = independence(x**2, x, permutations=200)
    assert abs(np.corrcoef(x**2, x)[0, 1]) < 0.3 and found.rejected and found.p_value == pytest.approx(1 / 201)
    assert independence(np.ones(20), x[:20]).p_value == 1  # what is constant depends on nothing


def test_independence_has_its_level():
    draw = np.random.default_rng(3)
    rejections = [independence(*draw.normal(size=(2, 25)), permutations=99).rejected for _ in range(100)]
    assert sum(rejections) <= 12  # binomial(100, 0.05) exceeds 12 once in 700


@pytest.mark.parametrize("better", [85, 90, 97, 100])
def test_sufficiency_and_necessity_are_binomial(better: int):
    random = np.concatenate([np.full(better, 2.0), np.full(100 - better, 0.5)])
    expected = stats.binomtest(better, 100, 0.9, alternative="greater").pvalue
    enough = sufficiency(1.0, random)
    assert enough.p_value == pytest.approx(expected) and enough.supports == (expected < 0.05)
    needed = partial_necessity(1.0, -random + 2)
    assert needed.p_value == pytest.approx(expected) and needed.statistic == better / 100
    assert not sufficiency(2.0, np.full(100, 2.0)).supports  # as good as random is not better


def test_minimality_by_hand():
    random = np.linspace(0.0, 0.99, 100)
    found = minimality(np.array([0.505, 2.0, 0.895]), random)
    assert found.details["share_larger"] == [0.51, 1.0, 0.9]
    least = stats.binomtest(51, 100, 0.9, alternative="less").pvalue
    assert found.p_value == pytest.approx(3 * least) and found.details["unnecessary"] == [0]
    assert not found.supports and minimality(np.array([2.0, 0.895]), random).supports


def test_minimality_corrects_for_the_number_of_edges():
    random = np.concatenate([np.zeros(84), np.ones(16)])  # 84 of 100 where 90 are expected: p = 0.04
    assert not minimality(np.array([0.5]), random).supports
    assert minimality(np.full(10, 0.5), random).supports


# ---------------------------------------------------------------------------------------------------- a planted circuit

LIVE = {"embed", "a0.h1", "a1.h2", "m1", "m0"}
"""The writers of the planted model that write anything."""


@cache
def _planted() -> tuple[Engine, Task]:
    """A GPT-2 most of whose components write nothing, so that their edges cannot matter."""
    torch.manual_seed(0)
    module: Any = CONFIGURATIONS["gpt2-untied"]().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.4 if parameter.ndim > 1 else 0.2))
        for layer, block in enumerate(module.transformer.h):
            weight = block.attn.c_proj.weight.view(4, 8, 32)
            for head in range(4):
                if f"a{layer}.h{head}" not in LIVE:
                    weight[head] = 0
    # One answer for all: a token's own frequency would tie the complement's performance to the model's.
    target = Target(5, (7,), (9,))
    pairs = [Pair(each.clean, each.corrupted, (target,), "", "") for each in random_pairs(96, 2, 6, 6)]
    return Engine(load(module.double())), Task("planted", pairs[:4], pairs[:4], pairs)


def _edges_among(live: set[str]) -> Circuit:
    graph = _planted()[0].graph
    names = [name.split(" -> ") for name in graph.edge_names(torch.arange(graph.n_edges))]
    kept = [w in live and (r == "logits" or r.rsplit(".", 1)[0] in live or r in live) for w, r in names]
    return Circuit(graph, torch.tensor(kept), None, {"ablation": {"kind": "interchange", "source": "corrupted"}})


@cache
def _tested(which: str) -> dict[str, Verdict]:
    engine, task = _planted()
    right = _edges_among(LIVE)
    chance = uniform_scores(engine.graph, 99).top_actual(right.n_actual)
    circuits = {
        "right": right,
        "random": chance,
        "half": _edges_among(LIVE - {"m0", "a0.h1"}),
        "inflated": _edges_among(LIVE | {"a0.h0", "a1.h0"}),
    }
    return hypothesis_tests(
        engine,
        circuits[which],
        task,
        metric="logit_diff",
        n_random=60 if which == "right" else 40,
        max_edges=None,
        batch_size=96,
    )


def test_the_right_circuit_passes_them_all():
    found = _tested("right")
    assert {name: each.supports for name, each in found.items()} == dict.fromkeys(found, True)
    assert found["equivalence"].statistic == 0.5  # it computes what the model does
    assert len(found) == 5


def test_a_wrong_circuit_fails_those_that_can_tell():
    half, random = _tested("half"), _tested("random")
    assert not half["independence"].supports  # what it lacks goes on in the complement
    assert not random["sufficiency"].supports and not random["partial necessity"].supports
    assert not random["independence"].supports


def test_a_circuit_with_idle_parts_is_not_minimal():
    found = _tested("inflated")
    assert not found["minimality"].supports and found["equivalence"].supports
    idle = found["minimality"].details["unnecessary"]
    assert idle and all("a0.h0" in name or "a1.h0" in name for name in idle)


def test_a_circuit_that_is_always_worse_is_not_equivalent():
    engine, task = _planted()
    poor = _edges_among({"embed", "m1"})
    values = judge(engine, {"poor": poor}, task, "test", names=("logit_diff",))
    worse = values["poor"]["logit_diff"] < values["full"]["logit_diff"]
    pairs = [pair for pair, is_worse in zip(task.test, worse, strict=True) if is_worse]
    found = hypothesis_tests(
        engine, poor, Task("worse", pairs[:4], pairs[:4], pairs), metric="logit_diff", n_random=3, max_edges=2
    )
    assert len(pairs) > 20 and found["equivalence"].statistic == 0 and not found["equivalence"].supports
    assert len(found["minimality"].details["share_larger"]) == 2


def test_random_circuits_have_the_circuits_actual_size():
    circuit = _edges_among(LIVE).pruned()
    masks = _masks(circuit, np.array([], dtype=np.int64), 5, "interchange", 0, np.random.default_rng(0))
    for number in range(5):
        drawn = Circuit(circuit.graph, masks[f"random {number}"], None, circuit.provenance)
        assert circuit.n_actual - 3 <= drawn.n_actual == drawn.n_edges <= circuit.n_actual
        assert torch.equal(masks[f"without random {number}"], ~drawn.kept)


def test_what_says_nothing_of_the_model_is_refused_before_circuits_run(monkeypatch: pytest.MonkeyPatch):
    engine, task = _planted()
    monkeypatch.setattr(Engine, "run", None)
    assert "kl is 0 for every example" in refused(
        lambda: hypothesis_tests(engine, _edges_among(LIVE), task, metric="kl", n_random=1, max_edges=1)
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n_random": 0}, "0 random circuits, 100 edges; give one or more of each"),
        ({"max_edges": 0}, "100 random circuits, 0 edges; give one or more of each"),
        ({"quantile": 1.5}, "quantile=1.5 is no share; give a number from 0 to 1"),
        ({"alpha": -0.1}, "alpha=-0.1 is no share; give a number from 0 to 1"),
    ],
)
def test_numbers_that_no_test_can_be_made_of_are_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], said: str
):
    engine, task = _planted()
    monkeypatch.setattr(Engine, "full", None)
    assert f"hypothesis tests: {said}" in refused(lambda: hypothesis_tests(engine, _edges_among(LIVE), task, **wrong))
    values, level = np.ones(3), {key: x for key, x in wrong.items() if key in ("quantile", "alpha")}
    random, effects = values[: wrong.get("n_random", 3)], values[: wrong.get("max_edges", 3)]
    refused(lambda: minimality(effects, random, **level))
    if len(effects):
        refused(lambda: sufficiency(0.5, random, **level))
        refused(lambda: partial_necessity(0.5, random, **level))


@pytest.mark.parametrize("graph", [Graph(GraphSpec(2, 4, 4)), Graph(GraphSpec(2, 4, 2)), Graph(GraphSpec(2, 4, 1))])
def test_an_inflated_circuit_has_a_path_more(graph: Graph):
    kept = torch.zeros(graph.n_edges, dtype=torch.bool)
    kept[[graph.edge_id("embed -> m1"), graph.edge_id("m1 -> logits")]] = True
    circuit, generator = Circuit(graph, kept), np.random.default_rng(0)
    for _ in range(20):
        inflated, edge = _inflate(circuit, generator)
        assert inflated[edge] and not circuit.kept[edge] and not (circuit.kept & ~inflated).any()
        added = Circuit(graph, inflated & ~circuit.kept)
        whole = Circuit(graph, inflated)
        assert (whole.actual & added.kept).sum() == added.n_edges  # all of it can carry signal


def test_circuits_of_nothing_or_everything_are_refused():
    engine = toy_engine()
    for fill in (torch.zeros, torch.ones):
        circuit = Circuit(engine.graph, fill(engine.graph.n_edges, dtype=torch.bool))
        assert "has" in refused(lambda c=circuit: hypothesis_tests(engine, c, _planted()[1]))
    assert "one per example" in refused(lambda: equivalence(np.zeros(3), np.zeros(4)))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_no_verdict(wrong: float):
    good = np.linspace(0, 1, 20)
    bad = np.where(np.arange(20) == 3, wrong, good)
    tests: list[Any] = [
        lambda: equivalence(bad, good),
        lambda: equivalence(good, bad),
        lambda: independence(bad, good),
        lambda: sufficiency(wrong, good),
        lambda: sufficiency(0.1, bad),
        lambda: partial_necessity(wrong, good),
        lambda: minimality(bad, good),
    ]
    for test in tests:
        assert "a value is NaN or infinite" in refused(test)
    assert "permutations=0" in refused(lambda: independence(good, good, permutations=0))


def test_one_example_is_too_few_and_is_said_to_be():
    engine, task = _planted()
    one = replace(task, test=task.test[:1])
    said = refused(lambda: hypothesis_tests(engine, _edges_among(LIVE), one, n_random=1, max_edges=1))
    assert "the split test has one example; give two or more" in said


def test_rounding_is_no_win():
    random = np.full(20, 0.5)
    for circuit, wins in ((0.5 - 1e-9, 0.0), (0.4, 1.0)):
        assert sufficiency(circuit, random).statistic == wins
        assert partial_necessity(1.0 - circuit, random).statistic == wins
