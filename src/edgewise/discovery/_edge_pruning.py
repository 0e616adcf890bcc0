"""Edge Pruning: learn a mask over all edges by gradient descent (Bhaskar, Wettig, Friedman & Chen 2024, arXiv
2406.16778).

Each edge (and, in the paper, each writer) has a hard-concrete mask; the loss is the task's (KL to the full model) plus
a Lagrangian term that drives the sparsity to a target which rises during training. `preset="paper"` is that, with the
published settings. The default keeps the idea and mends what gets in its way; each correction is a field of the
configuration and can be taken back on its own.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.discovery import _hard_concrete as hard_concrete
from edgewise.discovery._attribution import mask_ig
from edgewise.discovery._configs import configured
from edgewise.discovery._cost import MASK_IG_PASSES
from edgewise.discovery._learned_configs import EdgePruningConfig
from edgewise.discovery._learned_constants import with_constants
from edgewise.discovery._learning import Experiment, GradientLearner, backward, learn
from edgewise.discovery._scores import Scores, check_start, edges_at, normal_scores
from edgewise.engine import Engine
from edgewise.models import Model
from edgewise.runs import RunOptions, finest, normal, uniform
from edgewise.tasks import Task

_EDGE_NOISE, _NODE_NOISE, _EDGE_START, _NODE_START = 1, 2, 3, 4  # noise streams
_NOISE_MARGIN = 1e-6  # Edge Pruning's EPS: uniform noise in (EPS, 1 − EPS)


def edge_pruning(
    model: Model | Engine,
    task: Task,
    config: EdgePruningConfig | None = None,
    *,
    start: Scores | None = None,
    options: RunOptions | None = None,
    **changes: Any,
) -> Circuit:
    """Find a circuit by Edge Pruning.

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `train` split is learned from, with its loss.
        config: the settings; ours if None.
        start: scores, such as a learned ranking's, whose ranks stand in for mask-path IG's where the settings ask for a
            warm start.
        options: checkpoints, progress, logs.
        **changes: fields of the configuration to change.

    Returns:
        The circuit, scored by log α, or with writers' masks by the log odds of edge times writer. If the run was cut
        short, its provenance says where and why.

    Raises:
        edgewise.InputError: a setting is out of range, or a checkpoint belongs to another run.
    """
    config = configured(EdgePruningConfig, config, changes)
    engine = Engine.of(model)
    if start is not None:
        check_start(engine, start)
        if not config.warm_start:
            raise InputError("edge pruning: start has no effect without warm_start; set it above 0")
    learner = EdgePruningLearner(engine, task, config, start)
    experiment = Experiment("edge-pruning", engine, task, config.record(), start)
    warm = MASK_IG_PASSES | {"n_examples": len(task.train)} if config.warm_start and start is None else None
    return learner.circuit(learn(experiment, with_constants(learner, engine, config.steps), options, warm))


class EdgePruningLearner(GradientLearner[EdgePruningConfig]):
    """The masks, their multipliers and one optimiser for both."""

    state = ("edges", "nodes", "multipliers")

    def __init__(self, engine: Engine, task: Task, config: EdgePruningConfig, start: Scores | None = None) -> None:
        """Start from the configuration's seed; `begin` adds the warm start."""
        super().__init__(engine, task, config)
        self.start = start
        device = engine.model.device
        self.edges = _start(self.graph.n_edges, config, _EDGE_START).to(device)
        self.nodes = _start(self.graph.n_writers, config, _NODE_START).to(device)
        self.multipliers = torch.zeros(4, dtype=torch.float32, device=device)  # λ₁, λ₂ of the edges, then of the nodes
        self.writer = self.graph.edge_writer.long().to(device)
        self._shift_to(0)
        masks = [self.edges, self.nodes] if config.nodes else [self.edges]
        self.parameters = [p.requires_grad_() for p in (*masks, self.multipliers)]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": masks, "lr": config.learning_rate},
                {"params": [self.multipliers], "lr": config.lambda_rate, "maximize": True},
            ],
            weight_decay=config.weight_decay,
        )

    @torch.no_grad()
    def begin(self) -> None:
        """Add the warm start, if there is one."""
        config = self.config
        if not config.warm_start:
            return
        if self.start is None:
            task = self.task.explainable(at_full_model=False)
            values = mask_ig(self.engine, task, average="absolute", batch_size=config.batch_size).values
        else:
            values = self.start.values
        self.edges += config.warm_start * normal_scores(values.to(self.edges.device))
        self._shift_to(0)

    def step(self, step: int) -> dict[str, Tensor | float]:
        """One step: sample masks, run the circuit, descend on the masks and ascend on the multipliers."""
        config = self.config
        noise = self._noise(step)
        loss = self.losses(step, self.mask(*noise))
        penalty = self.penalty(step, *noise)
        backward(loss, self.task, self.optimizer, penalty)
        self.update(step)
        return {"loss": loss.detach(), "target": config.target(step), "edges": self.expected_edges()}

    def update(self, step: int) -> None:
        """Apply the gradients that the parameters hold."""
        config = self.config
        if config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, config.clip)
        for group, rate in zip(self.optimizer.param_groups, (config.learning_rate, config.lambda_rate), strict=True):
            group["lr"] = rate * config.rate(step)
        self.optimizer.step()
        self._shift_to(step + 1)

    def mask(self, edge_noise: Float[Tensor, " E"], node_noise: Float[Tensor, " W"] | None) -> Float[Tensor, " E"]:
        """The sampled masks, each edge's times its writer's where writers have masks."""
        mask = hard_concrete.sample(self.edges, edge_noise)
        return mask if node_noise is None else mask * hard_concrete.sample(self.nodes, node_noise)[self.writer]

    def penalty(self, step: int, edge_noise: Float[Tensor, " E"], node_noise: Float[Tensor, " W"] | None) -> Tensor:
        """The Lagrangian term `λ₁ (s − t) + λ₂ (s − t)²`, for edges and, with a node target, for nodes; 0 under the
        exact dual.
        """
        if self.config.dual == "exact":
            return torch.zeros(())
        excess = self._sparsity(self.edges, edge_noise) - self.config.target(step)
        penalty = self.multipliers[0] * excess + self.multipliers[1] * excess**2
        if node_noise is not None and self.config.node_sparsity is not None:
            share = self.config.target(step) / self.config.sparsity
            excess = self._sparsity(self.nodes, node_noise) - self.config.node_sparsity * share
            penalty = penalty + self.multipliers[2] * excess + self.multipliers[3] * excess**2
        return penalty

    def expected_edges(self) -> Tensor:
        """How many edges have a mask that is not 0, on average."""
        return (1 - hard_concrete.probability_zero(self.edges.detach())).sum()

    def circuit(self, provenance: dict[str, Any]) -> Circuit:
        """The circuit that the masks stand for now."""
        edges, nodes = self.edges.detach().cpu(), self.nodes.detach().cpu()
        writer = self.graph.edge_writer.long()
        values = edges
        if self.config.nodes:  # an edge's mask counts times its writer's: the log odds of σ(edge) σ(writer)
            values = -torch.logsumexp(torch.stack([-edges, -nodes[writer], -edges - nodes[writer]]), 0)
        scores = Scores(self.graph, values, provenance)
        if self.config.budget == "exact":
            return scores.top_actual(edges_at(self.graph, self.config.sparsity))
        kept = _threshold(edges)
        if self.config.nodes:
            kept = kept & _threshold(nodes)[writer]
        return Circuit(self.graph, kept, values, provenance, selection="signed")

    def _noise(self, step: int) -> tuple[Tensor, Tensor | None]:
        config, device = self.config, self.edges.device
        edge = uniform(self.graph.n_edges, config.seed, step, _EDGE_NOISE, device)
        node = uniform(self.graph.n_writers, config.seed, step, _NODE_NOISE, device) if config.nodes else None
        return _inside(edge), None if node is None else _inside(node)

    def _sparsity(self, log_alpha: Tensor, noise: Tensor) -> Tensor:
        if self.config.expected:
            return hard_concrete.probability_zero(log_alpha).mean()
        return 1 - hard_concrete.sample(log_alpha, noise).mean()

    @torch.no_grad()
    def _shift_to(self, step: int) -> None:
        """Under the exact dual, shift all log α so that the expected edges are what the schedule asks at `step`."""
        if self.config.dual == "exact":
            self.edges += _shift_for(self.edges, (1 - self.config.target(step)) * self.graph.n_edges)


def _shift_for(log_alpha: Float[Tensor, " E"], edges: float) -> float:
    """The number that, added to all log α, makes the expected count of edges `edges`; by bisection, and never above the
    present level.
    """
    low, high = -40.0, 0.0

    def excess(shift: float) -> float:
        return float((1 - hard_concrete.probability_zero(log_alpha.to(finest(log_alpha.device)) + shift)).sum()) - edges

    if excess(high) <= 0:
        return 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) > 0 else (middle, high)
    return low


def _threshold(log_alpha: Float[Tensor, " n"]) -> Tensor:
    """Edge Pruning's discretisation: the smallest `round(Σ P(mask = 0))` soft masks become 0, and as many of the rest
    are kept as they sum to.

    (The official code bisects a threshold until the kept share equals the mean soft mask; this is the same without the
    bisection. It takes the sum per weight tensor and over entries that are no edges, which is not imitated.)
    """
    soft = hard_concrete.deterministic(log_alpha)
    order = soft.argsort(stable=True)
    soft[order[: int(hard_concrete.probability_zero(log_alpha).sum().round())]] = 0
    kept = torch.zeros(len(soft), dtype=torch.bool)
    kept[soft.argsort(descending=True, stable=True)[: int(soft.sum().round())]] = True
    return kept


def _start(n: int, config: EdgePruningConfig, stream: int) -> Tensor:
    return config.initial + config.initial_spread * normal(n, config.seed, 0, stream)


def _inside(noise: Tensor) -> Tensor:
    return noise * (1 - 2 * _NOISE_MARGIN) + _NOISE_MARGIN
