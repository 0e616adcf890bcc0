"""The paper's optimiser with fixed noise and fixed gradients, against numbers worked out by hand.

The hand is `_Paper`: the published recipe in plain Python floats, one parameter at a time, with derivatives written
out. The numbers it gives for three steps are also checked in below, so that a mistake made twice still shows.
"""

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from edgewise.discovery import EdgePruningConfig, _learning
from edgewise.discovery._edge_pruning import EdgePruningLearner
from edgewise.engine import Execution
from tests.discovery.toys import SMALLEST

WRITER = [0, 0, 0, 0, 1, 0, 1, 2]  # of each edge of the smallest graph
STEEP = [4.0, -3.0, 2.0, 6.0, -1.0, 0.5, 2.5, -4.0]  # ∂loss/∂mask of each edge: fixed, and long enough to be clipped
FLAT = [0.01 * x for x in STEEP]

# Noise that makes some masks fractional and clamps others, for log α = 10 and for log α = 0; another row for each step.
NEAR_TEN = [
    ([4e-5, 1e-4, 2e-5, 0.5, 3e-6, 6e-5, 9e-5, 3e-5], [0.5, 6e-5, 2e-5]),
    ([7e-5, 2e-6, 0.9, 3e-5, 5e-5, 8e-5, 0.2, 2e-5], [4e-5, 9e-5, 0.7]),
    ([2e-5, 3e-5, 4e-5, 5e-5, 6e-5, 7e-5, 8e-5, 9e-5], [2e-5, 3e-5, 5e-5]),
]
NEAR_ZERO = [
    ([0.30, 0.62, 0.45, 0.97, 0.02, 0.55, 0.71, 0.38], [0.60, 0.35, 0.48]),
    ([0.66, 0.12, 0.99, 0.41, 0.53, 0.25, 0.80, 0.01], [0.30, 0.95, 0.52]),
    ([0.50, 0.34, 0.20, 0.73, 0.44, 0.91, 0.15, 0.58], [0.42, 0.57, 0.03]),
]


class _Paper:
    """AdamW with decay on everything, over log α (descent) and multipliers (ascent), clipped together at norm 1."""

    def __init__(self, start: float, target: float, node_target: float | None) -> None:
        self.target, self.node_target = target, node_target
        # Edges, nodes, λ₁ and λ₂ of the edges, λ₁ and λ₂ of the nodes.
        self.values = [start] * 8 + [start] * 3 + [0.0] * 4
        self.first, self.second, self.done = [0.0] * 15, [0.0] * 15, 0

    def step(self, step: int, slopes: list[float], edge_noise: list[float], node_noise: list[float]) -> None:
        gradient = self.gradient(step, slopes, edge_noise, node_noise)
        norm = math.sqrt(sum(g * g for g in gradient))
        gradient = [g * min(1.0, 1.0 / (norm + 1e-6)) for g in gradient]
        rate = 0.8 * (step / 200 if step < 200 else (3000 - step) / 2800)
        self.done += 1
        for i, g in enumerate(gradient):
            g = -g if i >= 11 else g  # the multipliers ascend
            self.first[i] = 0.9 * self.first[i] + 0.1 * g
            self.second[i] = 0.999 * self.second[i] + 0.001 * g * g
            mean, square = self.first[i] / (1 - 0.9**self.done), self.second[i] / (1 - 0.999**self.done)
            self.values[i] = self.values[i] * (1 - rate * 0.01) - rate * mean / (math.sqrt(square) + 1e-8)

    def gradient(self, step: int, slopes: list[float], edge_noise: list[float], node_noise: list[float]) -> list[float]:
        progress = min(step / 2500, 1)
        edges = [_hard_concrete(a, u) for a, u in zip(self.values[:8], edge_noise, strict=True)]
        nodes = [_hard_concrete(a, u) for a, u in zip(self.values[8:11], node_noise, strict=True)]
        # loss = Σ slope · edge mask · mask of its writer
        by_edge = [slope * nodes[w][0] for slope, w in zip(slopes, WRITER, strict=True)]
        by_node = [0.0] * 3
        for slope, w, (mask, _) in zip(slopes, WRITER, edges, strict=True):
            by_node[w] += slope * mask
        excess = 1 - sum(mask for mask, _ in edges) / 8 - self.target * progress
        pull = (self.values[11] + 2 * self.values[12] * excess) / -8
        by_edge = [g + pull for g in by_edge]
        by_lambda = [excess, excess**2, 0.0, 0.0]
        if self.node_target is not None:
            excess = 1 - sum(mask for mask, _ in nodes) / 3 - self.node_target * progress
            pull = (self.values[13] + 2 * self.values[14] * excess) / -3
            by_node = [g + pull for g in by_node]
            by_lambda[2:] = [excess, excess**2]
        chained = [g * slope for g, (_, slope) in zip(by_edge + by_node, edges + nodes, strict=True)]
        return chained + by_lambda


def _hard_concrete(log_alpha: float, u: float) -> tuple[float, float]:
    """The mask and its derivative in log α."""
    s = 1 / (1 + math.exp(-1.5 * (math.log(u / (1 - u)) + log_alpha)))
    stretched = 1.2 * s - 0.1
    return min(max(stretched, 0.0), 1.0), 1.2 * 1.5 * s * (1 - s) if 0 < stretched < 1 else 0.0


def _learner(monkeypatch, config: EdgePruningConfig, slopes: list[float], noise: dict[int, Any]) -> EdgePruningLearner:
    """A learner on the smallest graph whose noise is given and whose loss has fixed gradients in the masks."""

    def fixed_loss(_engine, _batch, mask, _loss):
        return (torch.tensor(slopes) * mask).sum()[None]

    monkeypatch.setattr(_learning, "step_examples", lambda *_: None)
    monkeypatch.setattr(_learning, "example_scores", fixed_loss)
    engine: Any = SimpleNamespace(
        graph=SMALLEST, model=SimpleNamespace(device=torch.device("cpu")), execution=Execution()
    )
    task: Any = SimpleNamespace(loss="kl", train=(), batch=lambda *_: None)
    learner = EdgePruningLearner(engine, task, config)
    monkeypatch.setattr(learner, "_noise", lambda step: tuple(torch.tensor(each) for each in noise[step]))
    return learner


def _run_both(
    monkeypatch, first: int, slopes: list[float], noise: list, start: float, node_sparsity: float | None
) -> Iterator[tuple[Tensor, list[float]]]:
    """What the learner and the hand hold after each of three steps."""
    config = EdgePruningConfig.paper(sparsity=0.96, initial=start, initial_spread=0.0, node_sparsity=node_sparsity)
    steps = range(first, first + 3)
    learner = _learner(monkeypatch, config, slopes, dict(zip(steps, noise, strict=True)))
    by_hand = _Paper(start, 0.96, node_sparsity)
    for step, drawn in zip(steps, noise, strict=True):
        learner.step(step)
        by_hand.step(step, slopes, *drawn)
        yield torch.cat([learner.edges, learner.nodes, learner.multipliers]).detach(), by_hand.values


CASES = {
    "from the beginning": (0, STEEP, NEAR_TEN, 10.0, None),
    "with node sparsity": (150, STEEP, NEAR_TEN, 10.0, 0.72),
    "across the end of the warm-up": (199, FLAT, NEAR_ZERO, 0.0, 0.72),
    "in mid-run": (1000, STEEP, NEAR_ZERO, 0.0, None),
    "at the end": (2997, FLAT, NEAR_ZERO, 0.0, None),
}


GOLDEN = {
    "from the beginning": [
        *(9.9896607, 10.0066797, 9.9908241, 9.9891362, 10.0084066, 9.9895374, 9.9899457, 10.0101187),
        *(9.9891366, 9.9874475, 10.0074818),
        *(0.0116650, 0.0115701, 0.0, 0.0),
    ],
    "in mid-run": [
        *(-1.2192758, 1.4024130, -1.2411152, -0.4540024, 0.8774447, -1.0275275, -1.3864044, 1.2865881),
        *(-1.6914225, -0.9563660, 1.2411152),
        *(1.6056059, 1.5226914, 0.0, 0.0),
    ],
}
"""Edges, nodes and multipliers after three steps."""


@pytest.mark.unchecked
@pytest.mark.parametrize("case", CASES)
def test_three_steps_are_as_worked_out_by_hand(monkeypatch, case: str):
    for found, expected in _run_both(monkeypatch, *CASES[case]):
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-6, atol=2e-6)


@pytest.mark.unchecked
@pytest.mark.parametrize("case", ["from the beginning", "in mid-run"])
def test_three_steps_end_at_the_numbers_checked_in(monkeypatch, case: str):
    *_, (found, by_hand) = _run_both(monkeypatch, *CASES[case])
    torch.testing.assert_close(found, torch.tensor(GOLDEN[case]), rtol=1e-6, atol=2e-6)
    assert by_hand == pytest.approx(GOLDEN[case], abs=1e-6)


@pytest.mark.unchecked
def test_the_first_step_learns_nothing(monkeypatch):
    # A warm-up from 0 gives the first step the rate 0, as in the scripts' scheduler.
    found, _ = next(iter(_run_both(monkeypatch, *CASES["from the beginning"])))
    assert torch.equal(found, torch.tensor([10.0] * 11 + [0.0] * 4))


@pytest.mark.unchecked
def test_the_penalty_is_the_lagrangian_of_the_sampled_masks(monkeypatch):
    config = EdgePruningConfig.paper(sparsity=0.96, initial=0.0, initial_spread=0.0, node_sparsity=0.72)
    learner = _learner(monkeypatch, config, FLAT, {})
    edge_noise, node_noise = (torch.tensor(each) for each in NEAR_ZERO[0])
    with torch.no_grad():
        learner.multipliers.copy_(torch.tensor([0.5, 2.0, -0.25, 3.0]))
    edges = 1 - sum(_hard_concrete(0, u)[0] for u in NEAR_ZERO[0][0]) / 8 - 0.96 * 1250 / 2500
    nodes = 1 - sum(_hard_concrete(0, u)[0] for u in NEAR_ZERO[0][1]) / 3 - 0.72 * 1250 / 2500
    expected = 0.5 * edges + 2 * edges**2 - 0.25 * nodes + 3 * nodes**2
    assert learner.penalty(1250, edge_noise, node_noise).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.unchecked
def test_the_masks_are_each_edges_times_its_writers(monkeypatch):
    learner = _learner(monkeypatch, EdgePruningConfig.paper(initial=0.0, initial_spread=0.0), FLAT, {})
    edge_noise, node_noise = NEAR_ZERO[1]
    edges = [_hard_concrete(0, u)[0] for u in edge_noise]
    nodes = [_hard_concrete(0, u)[0] for u in node_noise]
    expected = [edge * nodes[w] for edge, w in zip(edges, WRITER, strict=True)]
    found = learner.mask(torch.tensor(edge_noise), torch.tensor(node_noise)).tolist()
    assert found == pytest.approx(expected, abs=1e-6)
