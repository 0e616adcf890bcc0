"""Edge Pruning that starts from a ranking and learns only the edges that it puts highest."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise.circuit import Circuit
from edgewise.discovery import EdgePruningConfig, Scores, edge_pruning, learn_ranking
from edgewise.discovery._edge_pruning import EdgePruningLearner
from edgewise.discovery._scores import edges_at
from edgewise.graph import Graph, GraphSpec
from edgewise.runs import normal
from tests.discovery.toys import RANKING, Killed, quiet, random_task, refused, stop, toy_engine

SHORT: dict[str, Any] = {"steps": 8, "batch_size": 5, "lr_warmup": 2, "sparsity_warmup": 5, "sparsity": 0.8}
FAST = EdgePruningConfig.fast(**SHORT, candidates=2.0)


def _scores() -> Scores:
    graph = toy_engine().graph
    return Scores(graph, normal(graph.n_edges, 5, 0))


def test_only_candidates_are_ever_in():
    scores, engine = _scores(), toy_engine()
    n = round(2 * 0.2 * engine.graph.n_edges)
    candidates = torch.zeros(engine.graph.n_edges, dtype=torch.bool)
    candidates[scores.values.topk(n).indices] = True
    learner = EdgePruningLearner(engine, random_task(), FAST, scores)
    learner.prepare()
    learner.begin()
    for step in range(8):
        mask = learner.mask(*learner._noise(step))
        assert not mask[~candidates].any() and mask[candidates].any()
        learner.step(step)
        assert torch.equal(learner.edges.detach().isfinite(), candidates)
    kept = learner.circuit({}).kept
    assert 0 < kept.sum() <= edges_at(engine.graph, 0.8) and not (kept & ~candidates).any()


def test_it_starts_from_the_ranks_of_the_scores():
    scores = _scores()
    learner = EdgePruningLearner(toy_engine(), random_task(), EdgePruningConfig(**SHORT, warm_start=50.0), scores)
    learner.begin()
    assert torch.equal(learner.edges.detach().argsort(), scores.values.argsort())


def test_the_schedule_starts_at_the_candidates():
    config = EdgePruningConfig.fast(sparsity=0.98, candidates=4.0, sparsity_warmup=10)
    kept = [1 - config.target(step) for step in (0, 5, 10, 20)]
    assert kept == pytest.approx([0.08, 0.04, 0.02, 0.02])
    assert EdgePruningConfig.fast(sparsity=0.5, candidates=4.0).target(0) == 0  # there are no more than all


def test_it_says_what_it_started_from():
    ranking = learn_ranking(toy_engine(), random_task(), RANKING, options=quiet())
    said = edge_pruning(toy_engine(), random_task(), FAST, start=ranking, options=quiet()).provenance["method"]
    assert said["start"]["name"] == "ranking" and said["config"]["candidates"] == 2.0
    assert said["examples_seen"] == 40


def test_a_killed_run_goes_on_to_the_same_bits_and_another_start_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def run(name: str, start: Scores) -> Circuit:
        return edge_pruning(toy_engine(), random_task(), FAST, start=start, options=quiet(tmp_path / name))

    with monkeypatch.context() as patch:
        stop(patch, 4, Killed())
        with pytest.raises(Killed):
            run("killed", _scores())
    killed, whole = run("killed", _scores()), run("whole", _scores())
    assert killed.scores is not None and whole.scores is not None and torch.equal(killed.scores, whole.scores)
    other = Scores(_scores().graph, -_scores().values)
    assert "other settings (start)" in refused(lambda: run("whole", other))


@pytest.mark.parametrize("changed", [{"candidates": 0.5}, {"candidates": math.nan}, {"warm_start": 0.0}], ids=str)
def test_impossible_settings_are_refused(changed: dict[str, Any]):
    refused(lambda: EdgePruningConfig.fast(**changed))


def test_starts_that_do_not_fit_are_refused():
    task = random_task()
    assert "no effect" in refused(lambda: edge_pruning(toy_engine(), task, EdgePruningConfig(), start=_scores()))
    graph = Graph(GraphSpec(1, 1, 1))
    other = Scores(graph, torch.zeros(graph.n_edges))
    assert "scores of the graph" in refused(lambda: edge_pruning(toy_engine(), task, FAST, start=other))
