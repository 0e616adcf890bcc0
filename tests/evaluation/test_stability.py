"""Agreement of circuits, against counting by hand."""

import numpy as np
import pytest
import torch

from edgewise import InputError
from edgewise.circuit import Circuit
from edgewise.discovery import eap
from edgewise.evaluation import resample_stability, stability
from edgewise.evaluation._stability import _interval
from edgewise.graph import Ablation, Graph, GraphSpec
from edgewise.tasks import Task
from tests.discovery.toys import random_task, toy_engine
from tests.tiny import ends, refused

GRAPH = Graph(GraphSpec(1, 1, 1))  # eight edges


def _circuit(*edges: int, graph: Graph = GRAPH) -> Circuit:
    kept = torch.zeros(graph.n_edges, dtype=torch.bool)
    kept[list(edges)] = True
    return Circuit(graph, kept, None, {"ablation": {"kind": "interchange"}, "method": {"name": f"{edges}"}})


def test_by_hand():
    found = stability([_circuit(0, 1, 2), _circuit(1, 2, 3), _circuit(2, 5)])
    assert found.frequency.tolist() == pytest.approx([1 / 3, 2 / 3, 1, 1 / 3, 0, 1 / 3, 0, 0])
    assert found.pairs == pytest.approx((2 / 4, 1 / 4, 1 / 4))
    assert found.iou.value == pytest.approx(1 / 3)
    low, high = ends(found.iou)
    assert low <= found.iou.value <= high
    assert found.consensus.kept.nonzero()[:, 0].tolist() == [1, 2]
    assert found.consensus.provenance["ablation"] == {"kind": "interchange"}
    assert [of["name"] for of in found.consensus.provenance["method"]["of"]] == ["(0, 1, 2)", "(1, 2, 3)", "(2, 5)"]


def test_the_consensus_says_what_its_circuits_share():
    kept = _circuit(1, 4).kept
    same = {"transcoders": {"0": "a"}, "model": {"id": "m"}}
    records = [same | {"task": {"task": "ioi", "seed": seed}} for seed in (0, 1, 2)]
    ablations = Ablation("zero"), Ablation("zero"), Ablation("interchange")
    circuits = [Circuit(GRAPH, kept, None, each, how) for each, how in zip(records, ablations, strict=True)]
    consensus = stability(circuits).consensus
    assert consensus.ablation == "mixed" and consensus.provenance["ablation"] == {"kind": "mixed"}
    assert consensus.provenance.keys() == {"transcoders", "model", "ablation", "task", "method"}
    assert consensus.provenance["task"]["seed"] == 0, "the first's pairs: on some of one's own it must be judged"
    assert Circuit.__and__(consensus, circuits[0]).provenance["transcoders"] == {"0": "a"}
    with pytest.raises(InputError, match="different transcoders"):
        stability([*circuits, Circuit(GRAPH, kept, None, {"transcoders": {"0": "b"}})])


def test_the_same_circuit_and_circuits_with_nothing_in_common():
    same = stability([_circuit(1, 4)] * 3)
    assert same.pairs == (1, 1, 1) and same.iou == (1, 1, 1)
    apart = stability([_circuit(1), _circuit(4)])
    assert apart.pairs == (0,) and apart.iou == (0, 0, 1) and apart.consensus.n_edges == 0
    assert stability([_circuit()] * 3).iou == (1, 1, 1)


def test_the_interval_is_the_jackknife_over_runs():
    # Leaving a run out leaves the pair of the other two. Deviations of 0.49, 0.52, 0.55 from their mean: ±0.03 and 0.
    found = _interval(np.array([0.49, 0.52, 0.55]), 3)
    half = 4.302653 * (2 / 3 * 2 * 0.03**2) ** 0.5
    assert found == pytest.approx((0.52, 0.52 - half, 0.52 + half))
    two = stability([_circuit(1, 2), _circuit(2, 3)]).iou
    assert two == (pytest.approx(1 / 3), 0, 1), "one pair says nothing of the spread"


def test_the_interval_holds_the_truth_of_runs_drawn_at_random():
    # Each run keeps 50 edges that all have and 25 of 100 others: two share 50 + 25 / 4 of 150 − that.
    graph, covered = Graph(GraphSpec(3, 4, 4)), 0
    for trial in range(100):
        generator = np.random.default_rng(trial)
        runs = [[*range(50), *(50 + generator.choice(100, 25, replace=False))] for _ in range(5)]
        low, high = ends(stability([_circuit(*map(int, run), graph=graph) for run in runs]).iou)
        covered += low <= 0.6007 <= high
    assert covered >= 85


def test_refusals():
    with pytest.raises(InputError, match="at least two"):
        stability([_circuit(1)])
    with pytest.raises(InputError, match="different graphs"):
        stability([_circuit(1), _circuit(1, graph=Graph(GraphSpec(2, 1, 1)))])


def test_resampled_runs_agree_as_far_as_their_circuits_do():
    engine, task = toy_engine(), random_task()
    seen: list[list[int]] = []

    def find(drawn: Task) -> Circuit:
        seen.append([task.train.index(pair) for pair in drawn.train])
        assert drawn.test == task.test and len(drawn.train) == len(task.train)
        return eap(engine, drawn).at(0.7, absolute=True)

    found, circuits = resample_stability(find, task, n=4, seed=1)
    assert len({tuple(each) for each in seen}) == 4 and any(len(set(each)) < len(each) for each in seen)
    assert found.pairs == stability(circuits).pairs and 0 < found.iou.value < 1
    assert resample_stability(find, task, n=4, seed=1)[0].pairs == found.pairs
    constant, _ = resample_stability(lambda _: circuits[0], task, n=3)
    assert constant.iou == (1, 1, 1)
    assert "two or more" in refused(lambda: resample_stability(find, task, n=1))
