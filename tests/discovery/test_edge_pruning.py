"""The learner: where it starts, how it meets the sparsity, and which circuit its masks stand for."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.circuit import Circuit
from edgewise.discovery import EdgePruningConfig, edge_pruning, mask_ig, uniform_scores
from edgewise.discovery._edge_pruning import EdgePruningLearner, _shift_for, _threshold
from edgewise.discovery._hard_concrete import deterministic, probability_zero
from edgewise.discovery._objective import example_scores
from edgewise.runs import normal
from edgewise.tasks import loss_function
from tests.discovery.toys import PRESETS, quiet, random_task, toy_engine


def _learner(config: EdgePruningConfig, **changes: Any) -> EdgePruningLearner:
    learner = EdgePruningLearner(toy_engine(), random_task(), replace(config, **changes))
    learner.begin()
    return learner


# ----------------------------------------------------------------------------------------------------------- the start


def test_the_papers_masks_start_at_ten():
    learner = _learner(EdgePruningConfig.paper())
    for masks in (learner.edges.detach(), learner.nodes.detach()):
        assert abs(float(masks.mean()) - 10) < 0.01
        assert 0.005 < float(masks.std()) < 0.015
    assert torch.equal(learner.multipliers, torch.zeros(4))
    n = learner.graph.n_writers
    assert not torch.equal(learner.edges[:n], learner.nodes[:n])  # drawn apart


def test_the_start_follows_from_the_seed():
    edges = [_learner(PRESETS["ours"], seed=seed).edges.detach() for seed in (0, 0, 1)]
    assert torch.equal(edges[0], edges[1])
    assert not torch.equal(edges[0], edges[2])


def test_a_warm_start_follows_the_ranks_of_mask_ig():
    cold = _learner(PRESETS["ours"]).edges.detach()
    warm = _learner(PRESETS["ours"], warm_start=0.7).edges.detach()
    added = warm - cold
    order = mask_ig(toy_engine(), random_task(), average="absolute").values.argsort()
    assert (added[order].diff() > 0).all()
    assert abs(float(added.mean())) < 1e-5  # normal scores: symmetric, with a standard deviation of nearly 0.7
    assert 0.65 < float(added.std()) < 0.7


def test_sampled_noise_is_strictly_inside_and_new_each_step():
    learner = _learner(PRESETS["paper"])
    drawn = [_all_noise(learner, step) for step in range(4)]
    assert all(bool(((u >= 1e-6) & (u < 1)).all()) for u in drawn)
    assert len({tuple(u.tolist()) for u in drawn}) == 4
    assert torch.equal(_all_noise(_learner(PRESETS["paper"]), 2), drawn[2])


def _all_noise(learner: EdgePruningLearner, step: int) -> Tensor:
    edge, node = learner._noise(step)
    assert node is not None
    return torch.cat([edge, node])


# ------------------------------------------------------------------------------------------------------ the exact dual


def test_expected_edges_are_what_the_schedule_asks():
    learner = _learner(PRESETS["ours"], steps=30, sparsity_warmup=20, learning_rate=0.3)
    config, n = learner.config, learner.graph.n_edges
    bound = 0
    for step in range(30):
        learner.step(step)
        asked = (1 - config.target(step + 1)) * n
        assert float(learner.expected_edges()) <= asked * (1 + 1e-5)
        if float(learner.expected_edges()) >= asked * (1 - 1e-5):
            bound += 1
    assert bound >= 25  # not a bound from above alone
    assert float(learner.expected_edges()) == pytest.approx(0.2 * n, rel=1e-5)


@pytest.mark.parametrize("warm_start", [0.0, 0.7])
def test_without_a_warm_up_the_first_masks_meet_the_sparsity(warm_start: float):
    learner = _learner(PRESETS["ours"], sparsity_warmup=0, warm_start=warm_start)
    assert float(learner.expected_edges()) == pytest.approx(0.2 * learner.graph.n_edges, rel=1e-5)


@pytest.mark.parametrize("edges", [1.0, 20.0, 150.0, 239.9])
def test_one_number_shifts_all_masks_to_the_count(edges: float):
    log_alpha = normal(262, 3, 0) * 2 + 1.5
    shift = _shift_for(log_alpha, edges)
    assert shift <= 0
    expected = float((1 - probability_zero(log_alpha.double() + shift)).sum())
    assert expected == pytest.approx(edges, rel=1e-8) or (shift == 0 and expected < edges)


def test_masks_below_the_count_are_left_alone():
    log_alpha = torch.full((100,), -1.0)
    assert float((1 - probability_zero(log_alpha)).sum()) < 65
    assert _shift_for(log_alpha, 65.0) == 0.0


def test_the_papers_masks_are_not_shifted():
    learner = _learner(PRESETS["paper"], lr_warmup=200)
    before = learner.edges.detach().clone()
    learner.step(0)  # its rate is 0
    assert torch.equal(learner.edges, before)
    assert float(learner.penalty(5, *learner._noise(5)).detach()) == 0  # all multipliers are still 0


# ---------------------------------------------------------------------------------------------------------- the budget


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95, 0.996])
def test_an_exact_budget_is_met_and_used(sparsity: float):
    learner = _learner(PRESETS["ours"], sparsity=sparsity)
    with torch.no_grad():
        learner.edges.copy_(normal(learner.graph.n_edges, 17, 0))
    circuit, n = learner.circuit({}), learner.graph.n_edges
    asked = int((1 - sparsity) * n + 1e-6)
    assert circuit.n_edges == circuit.n_actual <= asked
    # Going on down the ranking until the actual size changes would overshoot.
    order = learner.edges.detach().argsort(descending=True)
    sizes = [Circuit(learner.graph, _first(order, k)).n_actual for k in range(n + 1)]
    assert circuit.n_actual == max(size for size in sizes if size <= asked)


def _first(order: Tensor, k: int) -> Tensor:
    kept = torch.zeros(len(order), dtype=torch.bool)
    kept[order[:k]] = True
    return kept


@pytest.mark.parametrize("spread", [0.5, 2.0, 6.0])
@pytest.mark.parametrize("centre", [-4.0, -1.0, 0.5, 3.0])
def test_the_threshold_is_what_bisection_finds(centre: float, spread: float):
    log_alpha = normal(3000, 23, 0) * spread + centre
    kept, expected = _threshold(log_alpha), _bisected(log_alpha)
    # The bisection cannot tell masks apart that differ by less than its own 1e-5.
    assert abs(int(kept.sum()) - int(expected.sum())) <= 1 + _within(log_alpha, expected, 2e-5)
    assert not (kept & ~expected).any() or not (expected & ~kept).any()  # both cut the same ranking
    assert int((kept ^ expected).sum()) <= 1 + _within(log_alpha, expected, 2e-5)


def _bisected(log_alpha: Float[Tensor, " n"]) -> Tensor:
    """Cut the `round(Σ P(0))` smallest soft masks, then bisect a threshold that keeps as many as the rest sum to."""
    soft = deterministic(log_alpha)
    n_zero = int(torch.round(probability_zero(log_alpha).sum()))
    if n_zero:
        soft[soft <= soft.sort().values[n_zero - 1]] = 0
    low, high = 0.0, 1.0
    while high - low > 1e-5:
        middle = (low + high) / 2
        if float((soft > middle).float().mean()) > float(soft.mean()):
            low = middle
        else:
            high = middle
    return soft > (low + high) / 2


def _within(log_alpha: Tensor, kept: Tensor, distance: float) -> int:
    """How many soft masks lie this near to the least that is kept."""
    soft = deterministic(log_alpha)
    least = soft[kept].min() if kept.any() else torch.tensor(1.0)
    return int(((soft - least).abs() < distance).sum())


def test_all_masks_on_or_off_is_every_edge_or_none():
    assert bool(_threshold(torch.full((50,), 12.0)).all())
    assert not _threshold(torch.full((50,), -12.0)).any()


def test_an_edge_without_its_writer_is_out():
    learner = _learner(PRESETS["paper"])
    writer = 5
    with torch.no_grad():
        learner.edges.fill_(8.0)
        learner.nodes.fill_(8.0)
        learner.nodes[writer] = -8.0
    circuit = learner.circuit({})
    assert torch.equal(circuit.kept, learner.graph.edge_writer != writer)
    assert circuit.scores is not None  # and at other sizes too it comes last
    assert circuit.scores[circuit.kept].min() > circuit.scores[~circuit.kept].max()


def test_a_circuit_of_the_size_asked_for_goes_by_the_writers_masks_too():
    learner = _learner(PRESETS["paper"], budget="exact", dual="ascent")
    writer = 5
    with torch.no_grad():
        learner.edges.fill_(8.0)
        learner.edges[learner.graph.edge_writer == writer] = 9.0  # without a gradient since its writer is off
        learner.nodes.fill_(8.0)
        learner.nodes[writer] = -8.0
    kept = learner.circuit({}).kept
    assert kept.any() and not kept[learner.graph.edge_writer == writer].any()


# ---------------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_is_repeatable_and_follows_its_seed(preset: str):
    runs = [edge_pruning(toy_engine(), random_task(), PRESETS[preset], options=quiet(), seed=s) for s in (0, 0, 1)]
    assert torch.equal(runs[0].kept, runs[1].kept)
    assert runs[0].scores is not None and runs[1].scores is not None and runs[2].scores is not None
    assert torch.equal(runs[0].scores, runs[1].scores)
    assert not torch.equal(runs[0].scores, runs[2].scores)


def test_a_run_does_not_depend_on_anyone_elses_random_numbers():
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        runs += [edge_pruning(toy_engine(), random_task(), PRESETS["ours"], options=quiet())]
    assert torch.equal(runs[0].scores, runs[1].scores)


def test_a_run_says_where_its_circuit_comes_from(tmp_path):
    task = random_task(loss="cross_entropy")
    circuit = edge_pruning(toy_engine(), task, PRESETS["ours"], options=quiet(), seed=4)
    said = circuit.provenance
    assert said["method"]["name"] == "edge-pruning"
    assert said["method"]["config"]["seed"] == 4 and said["method"]["config"]["sparsity"] == 0.8
    assert said["method"]["steps"] == 8 and "stopped" not in said["method"]
    assert said["task"]["loss"] == "cross_entropy" and said["ablation"]["kind"] == "interchange"
    assert said["model"] == toy_engine().model.identity
    assert json.loads(json.dumps(said)) == said
    circuit.save(tmp_path / "c.safetensors")
    assert torch.equal(Circuit.load(tmp_path / "c.safetensors").kept, circuit.kept)


def test_a_user_s_module_is_left_as_it_was():
    engine = toy_engine()
    before = {name: p.clone() for name, p in engine.model.module.state_dict().items()}
    edge_pruning(engine, random_task(), PRESETS["paper"], options=quiet())
    for name, p in engine.model.module.named_parameters():
        assert p.requires_grad and p.grad is None, name
    assert all(torch.equal(p, before[name]) for name, p in engine.model.module.state_dict().items())


@pytest.mark.parametrize("loss", ["kl", "cross_entropy", "logit_diff"])
def test_it_learns_what_the_loss_asks(loss: str):
    # 80 steps on prompts that it is judged on: far better than chance, at the same actual size.
    engine, task = toy_engine(), random_task(8, loss=loss)
    config = EdgePruningConfig(sparsity=0.7, steps=80, batch_size=8, lr_warmup=5, sparsity_warmup=50)
    circuit = edge_pruning(engine, task, config, options=quiet())
    batch = task.batch("train", range(8))

    def judged(one: Circuit) -> float:
        return float(example_scores(engine, batch, one.kept.float(), loss_function(loss)).mean())

    chance = [judged(uniform_scores(engine.graph, seed).top_actual(circuit.n_actual)) for seed in range(12)]
    assert circuit.actual_sparsity >= 0.7
    assert judged(circuit) < min(chance)


def test_a_loss_of_ones_own_is_what_is_learned():
    # It rewards one logit, and nothing else: the mask that raises it most is found without KL or answers.
    engine = toy_engine()

    def own(logits, batch):
        return -logits[:, 3]

    circuit = edge_pruning(engine, random_task(6, loss=own), PRESETS["ours"], options=quiet(), steps=40, batch_size=6)
    assert circuit.provenance["task"]["loss"].endswith("own")
    batch = random_task(6).batch("train", range(6))
    ones = torch.ones(engine.graph.n_edges)
    assert engine.run(batch, circuit.kept.float())[:, 3].mean() > engine.run(batch, ones)[:, 3].mean()
