"""From scores to circuits of an exact size; and random scores."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgewise.circuit import Circuit, ranked
from edgewise.discovery import Scores, eap, edges_at, ensemble, uniform_scores
from edgewise.discovery._scores import check_start
from edgewise.engine import Ablation
from edgewise.evaluation import auroc
from edgewise.graph import Graph, GraphSpec
from edgewise.runs import normal
from tests.discovery.toys import SMALLEST, random_task, toy_engine
from tests.tiny import refused

GRAPH = Graph(GraphSpec(2, 2, 1))


def _scores(*values: float, **said) -> Scores:
    return Scores(SMALLEST, torch.tensor(values, dtype=torch.float32), said)


def _ids(circuit: Circuit) -> list[int]:
    return circuit.kept.nonzero()[:, 0].tolist()


def test_top_keeps_the_highest():
    scores = _scores(0.3, -0.9, 0.1, 0.5, -0.2, 0.0, 0.7, -0.4)
    assert _ids(scores.top(0)) == []
    assert _ids(scores.top(3)) == [0, 3, 6]
    assert _ids(scores.top(8)) == list(range(8))
    assert _ids(scores.top(3, absolute=True)) == [1, 3, 6]


@pytest.mark.parametrize("absolute", [False, True])
def test_edges_without_a_score_come_last(absolute: bool):
    scores = _scores(-math.inf, -0.9, math.nan, 0.5, -math.inf, 0.0, 0.7, math.nan)
    kept = {1, 3, 5, 6}
    assert set(_ids(scores.top(4, absolute=absolute))) == kept
    assert _ids(scores.top(6, absolute=absolute)) == sorted(kept | {0, 2})
    known = torch.tensor([edge in kept for edge in range(8)])
    assert auroc(ranked(scores.values, absolute=absolute), known) == 1.0
    first = ensemble([scores, scores], absolute=absolute)
    assert set(_ids(first.top(4))) == kept
    engine = toy_engine()
    values = torch.zeros(engine.graph.n_edges).index_fill(0, torch.tensor(3), -math.inf)
    assert "1 of 262 edges have no finite score" in refused(lambda: check_start(engine, Scores(engine.graph, values)))


@pytest.mark.parametrize("absolute", [False, True])
def test_ties_go_to_the_lower_edge_number(absolute: bool):
    scores = _scores(0.5, 0.1, 0.5, -0.5 if absolute else 0.5, 0.5, 0.1, 0.1, 0.5)
    assert _ids(scores.top(3, absolute=absolute)) == [0, 2, 3]
    zeros = Scores(GRAPH, torch.zeros(GRAPH.n_edges))
    for k in range(GRAPH.n_edges + 1):
        assert _ids(zeros.top(k)) == list(range(k))


@given(st.integers(0, 4), st.integers(0, GRAPH.n_edges), st.booleans())
def test_sizes_are_exact_and_nested(seed: int, k: int, absolute: bool):
    values = normal(GRAPH.n_edges, seed, 0)
    values[::3] = values[0]  # many ties
    scores = Scores(GRAPH, values)
    circuit = scores.top(k, absolute=absolute)
    assert circuit.n_edges == k
    rank = values.abs() if absolute else values
    if 0 < k < GRAPH.n_edges:
        assert rank[circuit.kept].min() >= rank[~circuit.kept].max()
        assert not (scores.top(k - 1, absolute=absolute).kept & ~circuit.kept).any()


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@given(seed=st.integers(0, 6), k=st.integers(0, GRAPH.n_edges), absolute=st.booleans())
def test_top_actual_is_the_largest_prefix_that_fits(ablation: str, seed: int, k: int, absolute: bool):
    scores = Scores(GRAPH, normal(GRAPH.n_edges, seed, 0), {"ablation": {"kind": ablation}})
    found = scores.top_actual(k, absolute=absolute)
    best, actual = next((n, actual) for n, actual in _prefixes(ablation, seed, absolute) if n <= k)
    assert torch.equal(found.kept, actual)
    assert found.n_edges == found.n_actual == best <= k


@cache
def _prefixes(ablation: str, seed: int, absolute: bool) -> list[tuple[int, torch.Tensor]]:
    """The actual edges of every prefix, and how many they are; the longest first."""
    scores = Scores(GRAPH, normal(GRAPH.n_edges, seed, 0), {"ablation": {"kind": ablation}})
    prefixes = [scores.top(n, absolute=absolute) for n in reversed(range(GRAPH.n_edges + 1))]
    return [(prefix.n_actual, prefix.actual) for prefix in prefixes]


def test_top_actual_skips_edges_that_carry_nothing():
    # The best edges lead nowhere: a0.h0's input is no use before a0.h0 → logits is in.
    scores = _scores(8.0, 7.0, 6.0, 5.0, 4.0, 1.0, 3.0, 2.0)
    assert scores.top(5).n_actual == 0
    assert _ids(scores.top_actual(4)) == [0, 1, 2, 6]
    assert scores.top_actual(3).n_actual == 0  # all three inputs come alive at once


@pytest.mark.parametrize("k", [-1, 9, 1000])
def test_a_size_that_the_graph_has_not_is_refused(k: int):
    for pick in (uniform_scores(SMALLEST).top, uniform_scores(SMALLEST).top_actual):
        message = refused(lambda pick=pick: pick(k))
        assert str(k) in message and "8 edges" in message


@pytest.mark.parametrize(("sparsity", "kept"), [(0.0, 8), (1.0, 0), (0.5, 4), (0.25, 6), (0.26, 5), (0.99, 0)])
def test_at_keeps_no_more_than_the_sparsity_allows(sparsity: float, kept: int):
    assert uniform_scores(SMALLEST).at(sparsity).n_edges == kept
    assert uniform_scores(SMALLEST).at(sparsity).sparsity >= sparsity


@pytest.mark.unchecked
@given(st.integers(0, 1000), st.sampled_from([1000, 32491, 70651, 1592881]))
def test_a_sparsity_in_thousandths_is_exact(thousandths: int, n_edges: int):
    class Sized:
        pass

    graph = Sized()
    graph.n_edges = n_edges  # pyright: ignore[reportAttributeAccessIssue] (set here)
    expected = (1000 - thousandths) * n_edges // 1000
    assert edges_at(graph, thousandths / 1000) == expected  # pyright: ignore[reportArgumentType] (all that is asked of a graph)


@pytest.mark.parametrize("sparsity", [-0.01, 1.01, 98, math.nan, math.inf, -math.inf])
def test_a_sparsity_that_is_none_is_refused(sparsity: float):
    for actual in (False, True):
        message = refused(lambda actual=actual: uniform_scores(SMALLEST).at(sparsity, actual=actual))
        assert f"sparsity {sparsity}" in message and "between 0 and 1" in message


def test_at_can_count_actual_edges():
    scores = _scores(8.0, 7.0, 6.0, 5.0, 4.0, 1.0, 3.0, 2.0)
    assert scores.at(0.5).n_actual == 0
    assert _ids(scores.at(0.5, actual=True)) == [0, 1, 2, 6]
    assert _ids(_scores(8.0, 7.0, -9.0, 0, 0, 1.0, 3.0, 2.0).at(0.5, actual=True, absolute=True)) == [0, 1, 2, 6]


def test_a_circuit_says_how_it_was_selected():
    scores = _scores(*range(8), method={"name": "eap", "split": "train"}, model={"id": "m"})
    for absolute, selection in ((False, "signed"), (True, "absolute")):
        circuit = scores.top(3, absolute=absolute)
        assert circuit.provenance["method"] == {"name": "eap", "split": "train", "selection": selection}
        assert circuit.provenance["model"] == {"id": "m"}
        assert circuit.scores is not None and torch.equal(circuit.scores, scores.values)
    assert scores.provenance["method"] == {"name": "eap", "split": "train"}  # and its own are as they were


def test_a_score_that_is_no_number_is_not_the_best():
    values = torch.arange(8.0)
    values[2] = torch.nan
    assert 2 not in _ids(Scores(SMALLEST, values).top(4))


@pytest.mark.unchecked
def test_scores_say_in_one_line_what_they_are():
    scores = Scores(SMALLEST, torch.tensor([*range(7), torch.nan]), {"method": {"name": "eap"}})
    assert repr(scores) == "Scores(8 edges, by eap: 0 to 6)"


def test_scores_that_a_method_finds_and_that_are_not_finite_are_refused():
    task = random_task(metric=lambda logits, batch: logits[:, 0] * torch.nan)
    assert "scores are not finite" in refused(lambda: eap(toy_engine(), task))


def test_scores_that_tell_no_edge_from_another_are_warned_of():
    with pytest.warns(UserWarning, match="eap: all scores are -?0, so they tell no edge from another"):
        eap(toy_engine(), random_task(metric=lambda logits, batch: logits[:, 0] * 0))


def test_scores_of_another_graph_are_refused():
    message = refused(lambda: Scores(SMALLEST, torch.zeros(9)).top(3))
    assert "9" in message and "8" in message


# -------------------------------------------------------------------------------------------------------------- random


def test_random_scores_follow_from_the_seed():
    one, same, other = (uniform_scores(GRAPH, seed).values for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.shape == (GRAPH.n_edges,) and one.min() > 0 and one.max() < 1


def test_random_circuits_take_every_edge_equally_often():
    kept = torch.stack([uniform_scores(GRAPH, seed).top(GRAPH.n_edges // 4).kept for seed in range(800)])
    share = kept.double().mean(0)
    assert abs(float(share.mean()) - 0.25) < 0.01
    assert float((share - share.mean()).abs().max()) < 4.5 * math.sqrt(0.25 * 0.75 / 800)


def test_random_scores_say_so():
    said = uniform_scores(GRAPH, 3, "zero").top(5).provenance
    assert said["method"] == {"name": "random", "seed": 3, "selection": "signed"}
    assert said["ablation"] == {"kind": "zero"}


def test_saved_scores_are_the_same(tmp_path):
    said = {"method": {"name": "toy"}, "ablation": {"kind": "zero"}}
    scores = Scores(
        GRAPH, normal(GRAPH.n_edges, 0, 0), said, normal(GRAPH.n_writers, 0, 1), normal(GRAPH.n_readers, 0, 2)
    )
    scores.save(tmp_path / "s.safetensors")
    found = Scores.load(tmp_path / "s.safetensors")
    assert found.graph == GRAPH and found.provenance == said and found.ablation == Ablation("zero")
    for name in ("values", "writers", "readers"):
        assert torch.equal(getattr(found, name), getattr(scores, name))
    assert torch.equal(replace(found, provenance={}).top(9).actual, scores.top(9).actual)
    assert found.top(9).selection == "signed" and found.top(9, absolute=True).selection == "absolute"


def test_scores_of_a_circuit_and_of_its_file(tmp_path):
    circuit = Scores(GRAPH, normal(GRAPH.n_edges, 0, 0)).top(5)
    circuit.save(tmp_path / "c.safetensors")
    for scores in (Scores.of(circuit), Scores.load(tmp_path / "c.safetensors")):
        assert torch.equal(scores.top(5).kept, circuit.kept) and scores.writers is None
    bare = replace(circuit, scores=None)
    bare.save(tmp_path / "bare.safetensors")
    assert "the circuit has none" in refused(lambda: Scores.of(bare))
    assert "give what `Scores.save` wrote" in refused(lambda: Scores.load(tmp_path / "bare.safetensors"))
    assert "expected [36], one per edge" in refused(lambda: Scores(GRAPH, torch.zeros(35)))
    assert "saved as .safetensors" in refused(lambda: Scores.of(circuit).save(tmp_path / "s.json"))
