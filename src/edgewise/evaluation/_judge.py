"""Metrics of many circuits on the same examples, which every judgement of this room rests on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.engine import Engine
from edgewise.graph import GraphSpec
from edgewise.runs import INTERVAL, Ranks, joined, record_of
from edgewise.tasks import Batch, Metric, Task, metric_function, reduce

TOKENS = 1 << 12
"""How many tokens of all circuits together go through the engine at a time, on a GPU."""
LOGITS = 1 << 26
"""How many logits of all circuits together are held at a time, on a GPU."""


def judge(
    engine: Engine,
    circuits: Mapping[str, Circuit | Sequence[Circuit]],
    task: Task,
    split: str,
    batch_size: int = 32,
    names: tuple[str, ...] | None = None,
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Every metric of several circuits and of the full model, example by example.

    Args:
        engine: model, graph and ablation.
        circuits: by name; they run with hard masks of their kept edges. Several under one name take the examples in
            turn, example i the one at i mod their number.
        task: the behaviour.
        split: which examples.
        batch_size: how many at a time.
        names: which metrics; None for all that the task allows, the user's own included.

    Returns:
        For each name (and `full`), each metric's values, `[n]`.

    Raises:
        edgewise.InputError: a value is not finite.
    """
    task.check_spans(engine.graph)
    masks = dict[str, Tensor]()
    for who, given in circuits.items():
        several = [given] if isinstance(given, Circuit) else given
        for circuit in several:
            check_transcoders(engine, circuit, who)
        masks[who] = given.kept if isinstance(given, Circuit) else torch.stack([circuit.kept for circuit in given])
    return score_masks(engine, masks, task.batches(split, batch_size), task_metrics(task, names))


@torch.no_grad()
def score_masks(
    engine: Engine,
    masks: Mapping[str, Bool[Tensor, " E"] | Bool[Tensor, "R E"]],
    batches: Iterable[Batch],
    metrics: Mapping[str, Metric],
    progress: Callable[[int], None] | None = None,
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Every metric of several circuits and of the full model, example by example.

    Args:
        engine: model, graph and ablation.
        masks: the circuits' edges, by name. R circuits under one name take the examples in turn: example i runs under
            row i mod R.
        batches: the examples.
        metrics: by name.
        progress: told how many circuits have run on how many batches, multiplied.

    Returns:
        For each name (and `full`), each metric's values, `[n]`.

    Raises:
        edgewise.InputError: a value is not finite.
    """
    rows: dict[str, dict[str, list[Tensor]]] = {who: {name: [] for name in metrics} for who in ("full", *masks)}
    device, done, ranks, sizes = engine.model.device, 0, engine.execution.example_ranks, list[int]()
    for number, batch in enumerate(batches):
        sizes.append(len(batch.index))
        if number % ranks.size != ranks.rank:
            continue
        batch = batch.to(device)
        full = engine.full(batch)
        batch = batch.with_full_logits(full)
        for several in _chunks(masks, batch, full.shape[-1]):
            logits = _logits(engine, batch, [masks[who] for who in several])
            for name, metric in metrics.items():
                for who, values in zip(several, reduce(metric(logits, batch), batch), strict=True):
                    rows[who][name].append(values.cpu())
            done += len(several)
            if progress is not None:
                progress(done)
        for name, metric in metrics.items():
            rows["full"][name].append(reduce(metric(full, batch), batch).cpu())
    none = torch.zeros(0, dtype=torch.float64)
    own = {who: {name: torch.cat([none, *x]).double() for name, x in each.items()} for who, each in rows.items()}
    found = {who: {name: of_all(x, sizes, ranks).numpy() for name, x in each.items()} for who, each in own.items()}
    for who, each in found.items():
        for name, values in each.items():
            if not np.isfinite(values).all():  # a mean of it would say nothing
                raise InputError(
                    f"metric {name!r}: it is not finite for some example of {who}; mend the metric or choose another"
                )
    return found


def _logits(
    engine: Engine, batch: Batch, masks: Sequence[Bool[Tensor, " E"] | Bool[Tensor, "R E"]]
) -> Float[Tensor, "C A V"]:
    """Each circuit's; R that take the examples in turn stand alone. The ablated run is the same for all, made once."""
    stacked = torch.stack(list(masks)).to(batch.clean.ids.device, torch.float32)
    if stacked.ndim == 2:
        return engine.run(batch, stacked[:, None])
    batch = batch.with_circuits(batch.index % stacked.shape[1], engine.graph.n_groups)
    return engine.run(batch, stacked.view(1, -1, engine.graph.n_plain))


def of_all(own: Float[Tensor, " m"], sizes: Sequence[int], ranks: Ranks) -> Float[Tensor, " n"]:
    """The values of all examples in order, where each process has those of every so-many-th batch; `sizes` are the
    batches'.
    """
    if ranks.size == 1:
        return own
    batch_of = torch.repeat_interleave(torch.tensor(sizes))
    return joined(own, ranks)[(batch_of % ranks.size).argsort(stable=True).argsort()]


def performances(
    engine: Engine,
    masks: Mapping[str, Bool[Tensor, " E"]],
    task: Task,
    metric: str | None,
    split: str,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """The metric of every circuit on every example, `[n]` each; `model` is the full model, whatever its mask. Raises
    `InputError` as `score_masks`.
    """
    score, batches = metric_function(metric or task.metric), list(task.batches(split, batch_size))
    run = {name: mask for name, mask in masks.items() if name != "model"}
    told = None if progress is None else lambda done: progress(done, len(run) * len(batches))
    found = score_masks(engine, run, batches, {score.name: score}, told)
    return {name: found["full" if name == "model" else name][score.name] for name in masks}


def without(kept: Bool[Tensor, " E"], edge: int) -> Bool[Tensor, " E"]:
    """The same edges but one."""
    return kept.index_fill(0, torch.tensor([edge]), False)


def one_kind(what: str, circuits: Mapping[str, Circuit], *, whole: bool = False) -> Circuit:
    """The first of circuits that are of one graph and one ablation; with `whole`, of one graph but for what its MLPs
    are taken apart into. Raises `InputError` where they are not.
    """
    first = next(iter(circuits.values()))
    for name, circuit in circuits.items():
        specs = [each.graph.spec.whole if whole else each.graph.spec for each in (circuit, first)]
        if specs[0] != specs[1]:
            other = specs[0].differences(specs[1])
            raise InputError(f"{what}: {name} is of another graph than the first ({other}); {_instead(*specs)}")
        if circuit.stated_ablation != first.stated_ablation:
            raise InputError(
                f"{what}: {name} was found under {circuit.ablation_kind} ablation, the first under "
                f"{first.ablation_kind}"
            )
    return first


def _instead(one: GraphSpec, other: GraphSpec) -> str:
    """What to do about circuits of two graphs."""
    if replace(one, embeddings=other.embeddings, kv=other.kv) == other:
        return "find both with the same embeddings and kv, or convert one (edgewise.exchange.convert)"
    return "give circuits of one model, found with the same options of the graph"


def conditions(engine: Engine, split: str) -> dict[str, Any]:
    """What every judgement depends on, as plain values."""
    return {
        "split": split,
        "ablation": engine.ablation.to_dict(),
        "graph": engine.graph.spec.to_dict(),
        "model": engine.model.identity,
        "interval": INTERVAL,
    }


def task_metrics(task: Task, names: tuple[str, ...] | None = None) -> dict[str, Metric]:
    """Metrics by name; if no names are given, all that the task reports, the user's own included."""
    own = [metric_function(task.metric)] if names is None and not isinstance(task.metric, str) else []
    return {metric.name: metric for metric in (*map(metric_function, names or task.reported), *own)}


def check_transcoders(engine: Engine, circuit: Circuit, who: str) -> None:
    """Refuse a circuit whose features are of other transcoders than the engine's. Raises `InputError`."""
    recorded = record_of(circuit.provenance, "transcoders")
    if different := [layer for layer, each in recorded.items() if each != engine.transcoder_identity.get(layer)]:
        raise InputError(
            f"{who}: its features of layer {different[0]} are of another transcoder than the engine's "
            f"({recorded[different[0]]}); give the one that it was found with"
        )


def _chunks(masks: Mapping[str, Tensor], batch: Batch, vocabulary: int) -> list[list[str]]:
    """How many circuits go through the engine in one pass: one on a processor, where what one circuit lets the engine
    skip another needs (six of SmolLM2 in one pass take twice as long as one by one); on a GPU as many as fit.
    """
    size = 1
    if batch.clean.ids.device.type != "cpu":
        size = max(1, min(TOKENS // batch.clean.ids.numel(), LOGITS // (len(batch.row) * vocabulary)))
    single, turns = ([who for who, mask in masks.items() if mask.ndim == n] for n in (1, 2))
    return [single[start : start + size] for start in range(0, len(single), size)] + [[who] for who in turns]
