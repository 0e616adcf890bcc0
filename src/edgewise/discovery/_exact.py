"""Exact leave-one-out patching: every edge's own effect, by running the model without it."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.discovery._configs import ExactPatchingConfig, configured
from edgewise.discovery._explain import asked_of
from edgewise.discovery._learning import Experiment
from edgewise.discovery._scores import Scores
from edgewise.discovery._search import Search, SearchLearner, chunks
from edgewise.engine import Engine
from edgewise.models import Model
from edgewise.runs import RunOptions, tensor_hash
from edgewise.tasks import Task, metric_function, pairs_hash, score_name


def exact_patching(
    model: Model | Engine,
    task: Task,
    config: ExactPatchingConfig | None = None,
    *,
    edges: Bool[Tensor, " E"] | None = None,
    options: RunOptions | None = None,
    **changes: Any,
) -> Scores:
    """Exact edge patching: metric(full model) − metric(full model without the edge).

    What gradients approximate to first order (`eap`). It is the effect of one edge alone, not of sets of them: circuits
    of its top edges are often worse than EAP-IG's. Edges into one reader run side by side, and only what comes after
    that reader runs at all.

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `metric` is explained; any, with or without a gradient.
        config: the settings.
        edges: which edges, all if None; the others have no score (NaN), and circuits take them last.
        options: checkpoints and progress; a run that was cut short goes on from its last reader.
        **changes: fields of `ExactPatchingConfig` to change.

    Returns:
        Scores `[E]`, the mean over the pairs; positive means that keeping the edge raises the metric.

    Raises:
        edgewise.InputError: a setting is wrong, there are more edges than `max_edges`, `edges` has the wrong shape, or
            a checkpoint belongs to another run.
    """
    config = configured(ExactPatchingConfig, config, changes)
    own, task, engine = score_name(task.metric), asked_of(task, config), Engine.of(model)
    n_edges = engine.graph.n_edges
    chosen = torch.ones(n_edges, dtype=torch.bool) if edges is None else edges.cpu().bool()
    if chosen.shape != (n_edges,):
        raise InputError(f"edges: shape {tuple(chosen.shape)}; expected [{n_edges}], one per edge")
    if int(chosen.sum()) > config.max_edges:
        raise InputError(
            f"exact-patching: {int(chosen.sum()):,} edges would be patched one by one, but "
            f"max_edges={config.max_edges:,}; raise it, or choose some with edges=, such as scores.top(1000).kept"
        )
    metric = metric_function(task.metric)
    search = Search(engine, task, config, metric)
    learner = ExactLearner(search, chosen)
    patched = {"edges": int(chosen.sum()), "chosen": tensor_hash(chosen)}
    examples = {"examples": pairs_hash(task.split(config.split))}
    experiment = Experiment("exact-patching", engine, task, config.record(), settings=patched | examples)
    report = experiment.run(learner, engine.graph.n_readers, options)
    search.cost.seconds = report.seconds
    found = experiment.record(report, search.cost, edges=patched["edges"])
    found["task"]["metric"] = own  # what was explained stands with the method
    values = metric.sign * learner.effect
    values = values if engine.model.dtype == torch.float64 else values.float()
    return Scores(engine.graph, values, found)


def exact_effects(
    model: Model | Engine,
    task: Task,
    edges: Sequence[int],
    config: ExactPatchingConfig | None = None,
    **changes: Any,
) -> Float[Tensor, "n P"]:
    """What `exact_patching` is the mean of: some edges' effects on each pair.

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `metric` is explained.
        edges: which edges, by number.
        config: the settings.
        **changes: fields of `ExactPatchingConfig` to change.

    Raises:
        edgewise.InputError: a setting is wrong, or there is no such edge.
    """
    config = configured(ExactPatchingConfig, config, changes)
    task, engine = asked_of(task, config), Engine.of(model)
    metric, graph = metric_function(task.metric), engine.graph
    if bad := [edge for edge in edges if not 0 <= edge < graph.n_edges]:
        raise InputError(f"exact effects: there is no edge {bad[0]}; the graph has {graph.n_edges:,}, from 0")
    search = Search(engine, task, config, metric)
    search.prepare()
    full, whole = search.full(), torch.ones(graph.n_edges, dtype=torch.bool)
    found = full.new_zeros(len(edges), len(full))
    chosen = torch.tensor(list(edges), dtype=torch.long)
    readers, writers = graph.edge_reader[chosen].long(), graph.edge_writer[chosen]
    for reader in readers.unique().flip(0).tolist():
        search.open(reader, whole)
        for rows in chunks((readers == reader).nonzero()[:, 0].tolist(), search.room()):
            found[rows] = full - search.each(writers[rows].tolist(), torch.eye(len(rows), dtype=torch.float32))
    return metric.sign * found


class ExactLearner(SearchLearner):
    """The effects found so far; one step for each reader, from the last to the first."""

    state = ("effect",)

    def __init__(self, search: Search, chosen: Bool[Tensor, " E"]) -> None:
        super().__init__(search)
        self.chosen = chosen
        self.whole = torch.ones(self.graph.n_edges, dtype=torch.bool)
        self.effect = torch.full((self.graph.n_edges,), torch.nan, dtype=torch.float64)

    def prepare(self) -> None:
        """Run the pairs, whole."""
        super().prepare()
        self.full = float(self.search.full().mean())

    def step(self, step: int) -> dict[str, Tensor | float]:
        """All edges into one reader."""
        reader = self.graph.n_readers - 1 - step
        first, n = int(self.graph.offset[reader]), int(self.graph.visible[reader])
        writers = self.chosen[first : first + n].nonzero()[:, 0].tolist()
        if writers:
            self.search.open(reader, self.whole)
            for some in chunks(writers, self.search.room()):
                without = self.search.judge(some, torch.eye(len(some), dtype=torch.float32))
                self.effect[first + torch.tensor(some)] = self.full - without
        return {"loss": 0.0, "patched": float((~self.effect.isnan()).sum())}
