"""A program's circuit from a learned ranking."""

from dataclasses import replace
from typing import Any

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.discovery import EdgePruningConfig, RankingConfig, RunOptions, Scores, edge_pruning, learn_ranking
from edgewise.engine import Engine
from edgewise.tasks import Task
from edgewise.tracr._agreement import Agreement

RANKING: dict[str, Any] = {"steps": 300, "batch_size": 32, "smallest": 0.02, "largest": 1.0}
"""What of `RankingConfig` is different for programs: they have few edges, and may need any share of them."""
PRUNING: dict[str, Any] = {
    "steps": 720,
    "batch_size": 32,
    "learning_rate": 0.2,
    "sparsity": 1.02,
    "sparsity_warmup": 640,
    "schedule": "linear",
    "dual": "ascent",
    "lambda_rate": 0.001,
    "budget": "threshold",
}
"""What of `EdgePruningConfig` is different for programs: a target beyond all edges and multipliers that grow slowly, so
that whatever holds out longest ranks highest. Steps are those published for xproportion, the target that for
reverse."""


def rank_program(engine: Engine, task: Task, *, seed: int = 0, options: RunOptions | None = None) -> Scores:
    """Learn a ranking of a program's edges, with the settings for programs and the loss `mismatch`.

    Args:
        engine: the model, its graph and the ablation.
        task: see `edgewise.tasks.program`.
        seed: of the run.
        options: checkpoints, progress, logs.
    """
    config = RankingConfig(seed=seed, **RANKING)
    return learn_ranking(engine, replace(task, loss="mismatch"), config, options=options)


def prune_program(engine: Engine, task: Task, *, seed: int = 0, options: RunOptions | None = None) -> Scores:
    """Edge Pruning with the settings for programs; log α as a ranking, since no target sparsity is known.

    Args:
        engine: the model, its graph and the ablation.
        task: see `edgewise.tasks.program`.
        seed: of the run.
        options: checkpoints, progress, logs.
    """
    config = EdgePruningConfig(seed=seed, **PRUNING)
    circuit = edge_pruning(engine, replace(task, loss="mismatch"), config, options=options)
    assert circuit.scores is not None
    return Scores(circuit.graph, circuit.scores, circuit.provenance)


def eliminate(circuit: Circuit, agreement: Agreement) -> Circuit:
    """Take away edges one at a time, the lowest scores first, wherever what is left still agrees with the model.

    A ranking is fitted to all sizes, those included that are too small to work, and so may put an idle edge above a
    needed one. This needs one run of the circuit per edge, and the model and its inputs; the truth is not looked at.

    Args:
        circuit: a circuit that agrees with the model, with scores.
        agreement: of the same engine.

    Raises:
        InputError: the circuit has no scores.
    """
    if circuit.scores is None:
        raise InputError("elimination: the circuit has no scores, which say where to begin; give one with scores")
    kept = circuit.kept.clone()
    for edge in circuit.scores.argsort(stable=True).tolist():
        if kept[edge]:
            kept[edge] = False
            if agreement.first(kept[None]) is None:
                kept[edge] = True
    method = {"name": "elimination", "of": circuit.provenance.get("method", {})}
    return Circuit(circuit.graph, kept, circuit.scores, circuit.provenance | {"method": method}).pruned()
