"""A finish at one size, and rankings that start from others."""

import pytest
import torch

from edgewise import InputError
from edgewise.discovery import _ranking, learn_ranking, refine_at_size
from edgewise.discovery._scores import edges_at
from edgewise.runs import RunOptions
from edgewise.tasks import Task
from tests.discovery.toys import RANKING, Killed, quiet, random_task, stop, toy_engine

QUIET = RunOptions(progress=False)


def _start(task: Task):
    return learn_ranking(toy_engine(), task, RANKING, options=QUIET)


def test_it_gives_the_size_asked_for_and_says_where_it_came_from():
    task = random_task()
    scores = _start(task)
    before = scores.values.clone()
    circuit = refine_at_size(toy_engine(), task, start=scores, sparsity=0.7, steps=6, options=QUIET)
    assert torch.equal(scores.values, before)
    size = edges_at(circuit.graph, 0.7)
    assert 0.8 * size <= circuit.n_actual == circuit.n_edges <= size
    said = circuit.provenance["method"]
    assert said["steps"] == 6 and said["config"]["largest"] == said["config"]["smallest"] == pytest.approx(0.3)
    assert said["start"]["name"] == "ranking" and said["start"]["steps"] == RANKING.steps


def test_validation_judges_its_one_size_once(monkeypatch):
    task, judged, example_scores = random_task(), list[int](), _ranking.example_scores
    start = _start(task)

    def counted(engine, batch, mask, *rest, **named):
        judged.append(int((mask > 0).sum()))
        return example_scores(engine, batch, mask, *rest, **named)

    monkeypatch.setattr(_ranking, "example_scores", counted)
    refine_at_size(toy_engine(), task, start=start, sparsity=0.7, steps=3, patience=9, validate_every=2, options=QUIET)
    assert judged == [round(0.3 * start.graph.n_edges)] * 2  # after two steps, and at the end


@pytest.mark.parametrize("straight_through", [0.0, 1.0])
def test_it_lowers_the_loss_of_its_size(straight_through: float):
    task, engine = random_task(n=6), toy_engine()

    def loss(values: torch.Tensor) -> float:
        from edgewise.evaluation import judge

        kept = type(scores)(engine.graph, values, scores.provenance).at(0.7)
        return float(judge(engine, {"it": kept}, task, "train", names=("kl",))["it"]["kl"].mean())

    scores = learn_ranking(engine, task, RANKING, steps=2, options=QUIET)
    changes = {"steps": 60, "batch_size": 6, "straight_through": straight_through}
    circuit = refine_at_size(engine, task, start=scores, sparsity=0.7, options=QUIET, **changes)
    assert circuit.scores is not None
    assert loss(circuit.scores) < 0.9 * loss(scores.values)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    task = random_task()
    scores = _start(task)

    def run(name: str):
        return refine_at_size(
            toy_engine(), task, start=scores, sparsity=0.7, steps=8, batch_size=5, options=quiet(tmp_path / name)
        )

    with monkeypatch.context() as patch:
        stop(patch, 5, Killed())
        with pytest.raises(Killed):
            run("killed")
    killed, whole = run("killed"), run("whole")
    assert killed.scores is not None and whole.scores is not None and torch.equal(killed.scores, whole.scores)


def test_a_checkpoint_of_another_start_is_refused(tmp_path):
    task = random_task()
    scores = _start(task)
    refine_at_size(toy_engine(), task, start=scores, sparsity=0.7, steps=3, options=quiet(tmp_path))
    other = learn_ranking(toy_engine(), task, RANKING, seed=5, options=QUIET)
    with pytest.raises(InputError, match="start"):
        refine_at_size(toy_engine(), task, start=other, sparsity=0.7, steps=3, options=quiet(tmp_path))


def test_scores_of_another_graph_are_refused():
    task = random_task()
    with pytest.raises(InputError, match="scores are of another graph"):
        refine_at_size(toy_engine("llama-gqa"), task, start=_start(task), sparsity=0.7, options=QUIET)
