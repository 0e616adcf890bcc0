"""A program's circuit, by learned methods with the settings for programs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.discovery import EdgePruningConfig, RankingConfig, RunOptions, Scores, edge_pruning, learn_ranking
from edgewise.engine import Engine
from edgewise.tasks import Task
from edgewise.tracr._agreement import Agreement
from edgewise.tracr._recovery import agreeing_size

RANKING: dict[str, Any] = {"steps": 300, "batch_size": 32, "smallest": 0.02, "largest": 1.0}
"""What of `RankingConfig` is different for programs: they have few edges, and may need any share of them."""
REFINED: dict[str, Any] = {"steps": 150, "batch_size": 32, "learning_rate": 0.03, "hot": 0.2, "cold": 0.03}
"""The same when a ranking is learned on from where its circuits begin to work."""
_AROUND = (0.6, 1.05)
"""Budgets then, from and to, as shares of the smallest size that works."""
_ROUNDS = 3
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


def rank_program(
    engine: Engine, task: Task, agreement: Agreement, *, seed: int = 0, options: RunOptions | None = None
) -> Scores:
    """Learn a ranking of a program's edges, with the settings for programs and the loss `mismatch`.

    First over all sizes; then on from there with budgets around the smallest size that gives the model's output, until
    that gets no smaller, since a program breaks below one size, and sizes far from it say little about which edge is
    the last one needed.

    Args:
        engine: the model, its graph and the ablation.
        task: see `edgewise.tasks.program`.
        agreement: of the same engine; it says at which size a ranking's circuits begin to work.
        seed: of the run.
        options: checkpoints, progress, logs.
    """
    task, options = replace(task, loss="mismatch"), options or RunOptions()
    best = learn_ranking(engine, task, RankingConfig(seed=seed, **RANKING), options=options)
    size = agreeing_size(best, agreement)
    for number in range(1, _ROUNDS + 1):
        if "stopped" in best.provenance["method"] or not size:
            break
        low, high = (share * size / engine.graph.n_edges for share in _AROUND)
        low = max(low, 1 / engine.graph.n_edges)
        config = RankingConfig(seed=seed + number, smallest=min(low, 1), largest=min(max(low, high), 1), **REFINED)
        out = None if options.out is None else Path(options.out) / f"refined-{number}"
        refined = learn_ranking(engine, task, config, start=best, options=replace(options, out=out))
        new_size = agreeing_size(refined, agreement)
        if "stopped" in refined.provenance["method"]:
            return refined
        if new_size >= size:
            break
        best, size = refined, new_size
    return best


def prune_program(
    engine: Engine, task: Task, *, loss: str = "mismatch", seed: int = 0, options: RunOptions | None = None
) -> Scores:
    """Edge Pruning with the settings for programs; log α as a ranking, since no target sparsity is known.

    Args:
        engine: the model, its graph and the ablation.
        task: see `edgewise.tasks.program`.
        loss: or `kl` at every position, for programs that answer with one of several values.
        seed: of the run.
        options: checkpoints, progress, logs.
    """
    config = EdgePruningConfig(seed=seed, **PRUNING)
    circuit = edge_pruning(engine, replace(task, loss=loss), config, options=options)
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
