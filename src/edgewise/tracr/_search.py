"""A program's circuit, by learned methods with the settings for programs."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from edgewise._errors import InputError
from edgewise.circuit import Circuit, ranked
from edgewise.discovery import (
    EdgePruningConfig,
    RankingConfig,
    Scores,
    edge_pruning,
    example_scores,
    learn_ranking,
    step_batch,
)
from edgewise.engine import Engine
from edgewise.runs import CHECKPOINT, RunOptions, gradients, uniform
from edgewise.tasks import Task, loss_function
from edgewise.tracr._agreement import Agreement
from edgewise.tracr._recovery import agreeing_size

RANKING: dict[str, Any] = {"steps": 300, "batch_size": 32, "smallest": 0.02, "largest": 1.0}
"""What of `RankingConfig` is different for programs: they have few edges, and may need any share of them."""
REFINED: dict[str, Any] = {
    "steps": 150,
    "batch_size": 32,
    "learning_rate": 0.03,
    "start_temperature": 0.2,
    "end_temperature": 0.03,
}
"""The same where a ranking is learned on around the size at which its circuits begin to work."""
AROUND = (0.6, 1.05)
"""Budgets then, from and to, as shares of that size."""
ROUNDS = 3
"""How often at most. These were chosen on dev seeds, see docs/tracr.md."""
PROBES = (1.0, 0.1, 4.0) * 8
"""Exponents of uniform random masks, evenly spread, mostly near 1 and mostly near 0, at which gradients are probed."""
_ROUND = "refined-"
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

    First over all sizes; then on from there with budgets around the smallest size that gives the model's output, while
    that gets smaller: a program breaks below one size, and sizes far from it say little about which edge is the last
    one needed. Edges that carry nothing (`idle_edges`) come last, where that does not make the circuit larger.

    Args:
        engine: the model, its graph and the ablation.
        task: see `edgewise.tasks.program`.
        agreement: of the same engine; it says at which size a ranking's circuits begin to work.
        seed: of the run.
        options: checkpoints, progress, logs.

    Raises:
        InputError: see `learn_ranking`; or the folder holds rounds of another run.
    """
    task, options = replace(task, loss="mismatch"), options or RunOptions()
    _check_rounds(options)
    idle = idle_edges(engine, task, seed)
    first = learn_ranking(engine, task, RankingConfig(seed=seed, **RANKING), options=options)
    best, size = _idle_last(first, idle, agreement)
    stages, n_edges = [first], engine.graph.n_edges
    while size and len(stages) <= ROUNDS and "stopped" not in stages[-1].provenance["method"]:
        budgets = {"smallest": max(1.0, AROUND[0] * size) / n_edges, "largest": min(1.0, AROUND[1] * size / n_edges)}
        config = RankingConfig(seed=seed + 1000 * len(stages), **budgets, **REFINED)
        out = None if options.out is None else options.out / f"{_ROUND}{len(stages)}"
        stages.append(learn_ranking(engine, task, config, start=best, options=replace(options, out=out)))
        new, new_size = _idle_last(stages[-1], idle, agreement)
        if new_size >= size:
            break
        best, size = new, new_size
    return Scores(best.graph, best.values, _joined(stages, idle, seed))


@gradients()
def idle_edges(engine: Engine, task: Task, seed: int = 0) -> Bool[Tensor, " E"]:
    """Edges whose masks have a gradient of exactly 0 at 24 random points: nothing that their writers write is looked at
    by their readers. Compiled weights are mostly exact zeros, so most edges of a program are such.

    A needed edge could be among them only if its gradient were 0 at all of these points.

    Args:
        engine: the model, its graph and the ablation.
        task: its training pairs and its loss.
        seed: of the points.
    """
    n_edges = engine.graph.n_edges
    moved = torch.zeros(n_edges, dtype=torch.bool)
    for step, exponent in enumerate(PROBES):
        mask = uniform(n_edges, seed, step) ** exponent
        mask.requires_grad_()
        batch = step_batch(task, REFINED["batch_size"], seed, step)
        example_scores(engine, batch, mask, loss_function(task.loss), gradients="all").mean().backward()
        assert mask.grad is not None
        moved |= mask.grad != 0
    return ~moved


def _idle_last(scores: Scores, idle: Bool[Tensor, " E"], agreement: Agreement) -> tuple[Scores, int]:
    """A ranking and the size at which its circuits begin to work, with idle edges last if that is not larger so."""
    size, values = agreeing_size(scores, agreement), scores.values
    last = replace(scores, values=torch.where(idle, values - (values.max() - values.min() + 1), values))
    new_size = agreeing_size(last, agreement)
    return (last, new_size) if new_size <= size else (scores, size)


def _check_rounds(options: RunOptions) -> None:
    """Refuse rounds that are left of another run before anything is learned."""
    if options.out is None or (options.out / CHECKPOINT).is_file():
        return
    if left := sorted(options.out.glob(f"{_ROUND}*")):
        raise InputError(f"{left[0]}: belongs to a run that is gone; remove it, or choose another folder")


def _joined(stages: list[Scores], idle: Bool[Tensor, " E"], seed: int) -> dict[str, Any]:
    """The provenance of all stages as one, with what they and the probing of idle edges cost together."""
    methods = [stage.provenance["method"] for stage in stages]
    costs = [stage.provenance["cost"] for stage in stages]
    examples, probed = max(cost["examples"] for cost in costs), len(PROBES) * REFINED["batch_size"]
    total = {
        name: round((sum(cost[name] * cost["examples"] for cost in costs) + probed) / examples, 3)
        for name in ("forwards_per_example", "backwards_per_example")
    }
    method: dict[str, Any] = {
        "name": "ranking of a program",
        "seed": seed,
        **{name: sum(each[name] for each in methods) for name in ("steps", "examples_seen")},
        "seconds": round(sum(each["seconds"] for each in methods), 1),
        "idle_edges": int(idle.sum()),
        "stages": methods,
    }
    stop = methods[-1].get("stop")
    if stop == "interrupted" or (stop and len(methods) == 1):  # else the earlier stages' result stands
        method |= {"stop": stop, "stopped": methods[-1]["stopped"]}
    seconds = round(sum(cost["seconds"] for cost in costs), 3)
    return stages[0].provenance | {"method": method, "cost": total | {"examples": examples, "seconds": seconds}}


def prune_program(
    engine: Engine, task: Task, *, loss: str = "mismatch", seed: int = 0, options: RunOptions | None = None
) -> Scores:
    """Edge Pruning with the settings for programs; log α as a ranking, since no target sparsity is known.

    Arguments are those of `rank_program`; the loss may be `kl` at every position, for programs that answer with one of
    several values.
    """
    config = EdgePruningConfig(seed=seed, **PRUNING)
    circuit = edge_pruning(engine, replace(task, loss=loss), config, options=options)
    assert circuit.scores is not None
    return Scores.of(circuit)


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
    for edge in ranked(circuit.scores, absolute=circuit.selection == "absolute").argsort(stable=True).tolist():
        if kept[edge]:
            kept[edge] = False
            if agreement.first(kept[None]) is None:
                kept[edge] = True
    method = {"name": "elimination", "of": circuit.provenance.get("method", {})}
    return replace(circuit, kept=kept, provenance=circuit.provenance | {"method": method}).pruned()
