"""Pairs of unequal length: more edges carry signal there than between prompts that correspond token by token, and every
judgement runs them.
"""

import numpy as np
import torch

from edgewise.circuit import Circuit
from edgewise.engine import Engine
from edgewise.evaluation import both_curves, evaluate
from edgewise.evaluation._judge import performances
from edgewise.tasks import Pair, Target, Task

from ..tiny import tiny

PAIRS = [
    Pair((7, 8, 9, 10, 11), (12, 13, 14, 15), (Target(4, (1,), (2,)),), "", "", align=(0, 1, 1, 2, 3)),
    Pair((7, 8, 9), (12, 13, 14, 15), (Target(2, (1,), (2,)),), "", "", align=(0, 2, 3)),
]
TASK = Task("unequal", PAIRS, PAIRS, PAIRS, metric="logit_diff")


def idle_between_equal_prompts() -> tuple[Engine, Circuit]:
    """A circuit with edges that carry signal between these prompts alone, and change what it says."""
    engine = Engine(tiny("gpt2"))
    for seed in range(100):
        kept = torch.rand(engine.graph.n_edges, generator=torch.Generator().manual_seed(seed)) < 0.2
        circuit = Circuit(engine.graph, kept)
        said = performances(engine, {"kept": kept, "actual": circuit.actual}, TASK, "logit_diff", "test")
        if np.abs(said["kept"] - said["actual"]).max() > 1e-4:
            return engine, circuit
    raise AssertionError("no such circuit was drawn")


def test_judgements_run_the_edges_that_carry_signal_between_unequal_prompts():
    engine, circuit = idle_between_equal_prompts()
    working = circuit.pruned(unequal=True)
    said = performances(
        engine, {"circuit": circuit.kept, "working": working.kept, "without": ~working.kept}, TASK, "logit_diff", "test"
    )
    np.testing.assert_allclose(said["working"], said["circuit"], atol=1e-9)
    point, _ = both_curves(engine, [circuit, circuit], TASK, shares=[0.2, 0.3], metric="logit_diff").points
    np.testing.assert_allclose(
        [point.kept.value, point.removed.value], [said[each].mean() for each in ("circuit", "without")]
    )
    judged = evaluate(engine, circuit, TASK, baselines=(), necessity=True)
    assert np.isclose(judged.metrics["logit_diff"].value, said["circuit"].mean())
    assert np.isclose(judged.removed["logit_diff"].value, said["without"].mean())
