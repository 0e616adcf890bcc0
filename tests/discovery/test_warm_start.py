"""Edge Pruning that starts from a ranking."""

from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise.circuit import Circuit
from edgewise.discovery import EdgePruningConfig, Scores, edge_pruning, learn_ranking, method, run_method
from edgewise.discovery._edge_pruning import EdgePruningLearner
from edgewise.graph import Graph, GraphSpec
from edgewise.runs import normal
from tests.discovery.toys import RANKING, Killed, quiet, random_task, scores_of, stop, toy_engine
from tests.tiny import refused

SHORT: dict[str, Any] = {"steps": 8, "batch_size": 5, "lr_warmup": 2, "sparsity_warmup": 5, "sparsity": 0.8}
WARM = EdgePruningConfig(**SHORT, warm_start=6.0)


def _scores() -> Scores:
    graph = toy_engine().graph
    return Scores(graph, normal(graph.n_edges, 5, 0))


def test_it_starts_from_the_ranks_of_the_scores():
    scores = _scores()
    learner = EdgePruningLearner(toy_engine(), random_task(), EdgePruningConfig(**SHORT, warm_start=50.0), scores)
    learner.begin()
    assert torch.equal(learner.edges.detach().argsort(), scores.values.argsort())


def test_it_says_what_it_started_from():
    ranking = learn_ranking(toy_engine(), random_task(), RANKING, options=quiet())
    said = edge_pruning(toy_engine(), random_task(), WARM, start=ranking, options=quiet()).provenance["method"]
    assert said["start"]["name"] == "ranking" and said["config"]["warm_start"] == 6.0
    assert said["examples_seen"] == 40


def test_a_killed_run_goes_on_to_the_same_bits_and_another_start_is_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def run(name: str, start: Scores) -> Circuit:
        return edge_pruning(toy_engine(), random_task(), WARM, start=start, options=quiet(tmp_path / name))

    with monkeypatch.context() as patch:
        stop(patch, 4, Killed())
        with pytest.raises(Killed):
            run("killed", _scores())
    killed, whole = run("killed", _scores()), run("whole", _scores())
    assert killed.scores is not None and whole.scores is not None and torch.equal(killed.scores, whole.scores)
    other = Scores(_scores().graph, -_scores().values)
    assert "other settings (start)" in refused(lambda: run("whole", other))


def test_starts_that_do_not_fit_are_refused():
    task = random_task()
    assert "no effect" in refused(lambda: edge_pruning(toy_engine(), task, EdgePruningConfig(), start=_scores()))
    graph = Graph(GraphSpec(1, 1, 1))
    other = Scores(graph, torch.zeros(graph.n_edges))
    assert "scores are of another graph" in refused(lambda: edge_pruning(toy_engine(), task, WARM, start=other))


@pytest.mark.parametrize("name", ["eap", "mask-ig", "edge-pruning", "node-pruning", "ranking"])
def test_where_the_metric_has_no_gradient_another_is_explained(name: str):
    record, task = method(name), random_task(metric="accuracy")
    few = {"steps": 2, "batch_size": 4} if record.learns else {}
    few |= {"warm_start": 1.0} if name == "edge-pruning" else {}
    options = quiet() if record.resumes else None
    found = run_method(record, toy_engine(), task, record.configure(few), options=options)
    assert found.provenance["task"]["metric"] == "accuracy"
    values = scores_of(found) if isinstance(found, Circuit) else found.values
    assert bool(values.isfinite().all()) and len(values.unique()) > 10
    if not record.learns:
        assert found.provenance["method"]["config"]["explains"] == task.explained
