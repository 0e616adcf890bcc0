"""Node pruning: a learned ranking of whole components, each with one mask for all that reads it."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.discovery._attribution import mask_ig
from edgewise.discovery._configs import configured
from edgewise.discovery._cost import MASK_IG_PASSES
from edgewise.discovery._learned_configs import NodePruningConfig
from edgewise.discovery._learned_constants import with_constants
from edgewise.discovery._learning import Experiment, GradientLearner, backward, learn
from edgewise.discovery._nodes import node_eap, node_ig
from edgewise.discovery._ranking import soft_top
from edgewise.discovery._scores import Scores, edges_of_nodes, normal_scores
from edgewise.engine import Engine
from edgewise.models import Model
from edgewise.runs import RunOptions
from edgewise.tasks import Task


def node_pruning(
    model: Model | Engine,
    task: Task,
    config: NodePruningConfig | None = None,
    *,
    options: RunOptions | None = None,
    **changes: Any,
) -> Scores:
    """Learn which components to keep: soft top-k masks over writers at budgets drawn anew each step, as
    `learn_ranking` has them over edges.

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `train` split is learned from, with its loss.
        config: the settings.
        options: checkpoints, progress, logs.
        **changes: fields of the configuration to change.

    Returns:
        Scores in (0, 1], the writers' ranks: `writers`, and edges' made of them.

    Raises:
        edgewise.InputError: a setting is out of range, the graph's edges carry positions, or a checkpoint belongs to
            another run.
    """
    config = configured(NodePruningConfig, config, changes)
    engine = Engine.of(model)
    if engine.graph.spec.spans:
        raise InputError(
            "node-pruning: the graph's edges carry positions, and a component is kept at all of them or at none; use a "
            "graph without spans"
        )
    learner = NodePruningLearner(engine, task, config)
    warm = None
    if config.warm_examples:
        warm = {"n_examples": min(config.warm_examples, len(task.train)), **learner.start_passes}
    experiment = Experiment("node-pruning", engine, task, config.record())
    found = learn(experiment, with_constants(learner, engine, config.steps), options, warm)
    ranks = learner.scores.detach().cpu().argsort(stable=True).argsort() + 1
    writers = ranks.float() / len(ranks)
    values = edges_of_nodes(engine.graph, writers)
    return Scores(engine.graph, values, found, writers)


class NodePruningLearner(GradientLearner[NodePruningConfig]):
    """The writers' scores and their optimiser."""

    state = ("scores",)

    def __init__(self, engine: Engine, task: Task, config: NodePruningConfig) -> None:
        super().__init__(engine, task, config)
        self.writer = engine.graph.edge_writer.long().to(engine.model.device)
        n, device = engine.graph.n_writers, engine.model.device
        self.scores = torch.zeros(n, dtype=torch.float32, device=device, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.scores], lr=config.learning_rate)

    @torch.no_grad()
    def begin(self) -> None:
        """Start from attribution's ranks."""
        if self.config.warm_examples:
            few = replace(self.task, train=self.task.train[: self.config.warm_examples], metric=self.task.explained)
            self.scores.copy_(normal_scores(self._attribution(few)))

    def _attribution(self, task: Task) -> Float[Tensor, " W"]:
        """The mean sizes of the writers' effects; of graphs that those methods do not run, of their edges' together."""
        graph, size = self.engine.graph, self.config.batch_size
        if graph.spec.apart:
            edges = mask_ig(self.engine, task, average="absolute", batch_size=size).values
            return edges.new_zeros(graph.n_writers).index_add_(0, graph.edge_writer.long(), edges)
        method = node_ig if graph.n_embeddings else node_eap
        start = method(self.engine, task, average="absolute", batch_size=size).writers
        assert start is not None
        return start

    @property
    def start_passes(self) -> dict[str, int]:
        """Forwards and backwards of each example for attribution."""
        graph = self.engine.graph
        if graph.spec.apart:
            return MASK_IG_PASSES
        points = 5 if graph.n_embeddings else 1
        return {"forwards": points + 1 + (self.engine.ablation.kind == "interchange"), "backwards": points}

    def step(self, step: int) -> dict[str, Tensor | float]:
        """One step at one budget."""
        budget = self.config.budget(step, self.engine.graph.n_writers)
        mask = self.mask(budget, self.config.temperature(step))
        loss = self.losses(step, mask)
        backward(loss, self.task, self.optimizer)
        self.optimizer.param_groups[0]["lr"] = self.config.rate(step)
        self.optimizer.step()
        return {"loss": loss.detach(), "writers": budget}

    def mask(self, budget: float, temperature: float) -> Float[Tensor, " E"]:
        """Every edge's mask, that of its writer."""
        return soft_top(self.scores, budget, temperature)[self.writer]
