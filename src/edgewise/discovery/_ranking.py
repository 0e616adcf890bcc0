"""A learned ranking: one score per edge, trained so that the top k edges are a good circuit for *every* k.

Each step draws a budget k, turns the scores into a soft top-k mask, and lowers the task's loss under it. One run gives
the circuit of every size (after Matryoshka Attribution, arXiv 2609.25518, with the budget drawn on a logarithmic scale
and the scores started from attribution).
"""

import hashlib
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.discovery._attribution import mask_ig
from edgewise.discovery._noise import uniform
from edgewise.discovery._objective import example_scores, finite, prepare, step_batch
from edgewise.discovery._provenance import provenance, run_settings
from edgewise.discovery._scores import Scores, normal_scores
from edgewise.discovery._training import NotFiniteError, RunOptions, optimizer_tensors, restore_optimizer, run_steps
from edgewise.engine import Engine
from edgewise.models import Model
from edgewise.tasks import Task, loss_function

_BUDGET = 11  # the noise stream that draws the budgets


@dataclass(frozen=True)
class RankingConfig:
    """Settings of a run."""

    steps: int = 150
    batch_size: int = 8
    learning_rate: float = 0.05
    """Of Adam, on scores that start with standard deviation 1; it falls linearly to 0 if `decay`."""
    decay: bool = True
    largest: float = 0.3
    """The largest budget, as a share of all edges."""
    smallest: float = 0.005
    """The smallest budget; budgets are drawn log-uniformly between the two."""
    hot: float = 0.3
    """Temperature of the soft top-k at the start, in units of the scores."""
    cold: float = 0.05
    """Temperature at the end; it falls geometrically."""
    cut: float = 1e-3
    """Masks below this are 0, and above 1 minus this are 1: they have next to no gradient, and the engine skips what
    is 0."""
    warm_examples: int = 64
    """Training examples for the attribution (mask-path IG, 5 points) whose ranks the scores start from; 0 to start
    from noise."""
    straight_through: bool = False
    """Run the hard circuit of the budget's size, with the soft mask's gradient (Bengio, Léonard & Courville 2013)."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers. Raises `InputError`."""
        if self.steps < 1 or self.batch_size < 1:
            raise InputError(f"ranking: steps and batch_size must be positive, got {self.steps} and {self.batch_size}")
        if not (self.cold > 0 and self.hot > 0) or self.warm_examples < 0:
            raise InputError(
                f"ranking: temperatures {self.hot} and {self.cold} must be above 0, "
                f"warm_examples {self.warm_examples} at least 0"
            )
        if not 0 < self.smallest <= self.largest <= 1:
            raise InputError(
                f"ranking: budgets from {self.smallest} to {self.largest}; they are shares of all edges, "
                "0 < smallest <= largest <= 1"
            )

    def rate(self, step: int) -> float:
        """The learning rate at a step."""
        return self.learning_rate * (1 - step / self.steps if self.decay else 1)

    def temperature(self, step: int) -> float:
        """The temperature at a step."""
        return self.hot * (self.cold / self.hot) ** (step / max(1, self.steps - 1))

    def budget(self, step: int, n_edges: int) -> float:
        """The budget at a step, in edges."""
        draw = float(uniform(1, self.seed, step, _BUDGET))
        return n_edges * math.exp(math.log(self.smallest) + draw * math.log(self.largest / self.smallest))


def learn_ranking(
    model: Model | Engine,
    task: Task,
    config: RankingConfig | None = None,
    *,
    start: Scores | None = None,
    options: RunOptions | None = None,
    **changes: Any,
) -> Scores:
    """Learn a ranking of the edges.

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `train` split is learned from, with its loss; the attribution that the scores start from explains its
            metric.
        config: the settings.
        start: scores to start from as they are, in place of attribution's ranks.
        options: checkpoints, progress, logs.
        **changes: fields of the configuration to change.

    Returns:
        The scores; `scores.at(sparsity)` is the circuit of any size. If the run was cut short, the provenance says
        where and why.

    Raises:
        edgewise.InputError: a setting is out of range, or a checkpoint belongs to another run.
    """
    config = replace(config or RankingConfig(), **changes)
    engine = Engine.of(model)
    if start is not None and start.graph != engine.graph:
        raise InputError(f"start: scores of the graph {start.graph.spec}; the engine's is {engine.graph.spec}")
    learner = RankingLearner(engine, task, config, start)
    settings = run_settings(engine, task, "ranking", asdict(config))
    if start is not None:
        settings["start"] = hashlib.sha256(start.values.numpy().tobytes()).hexdigest()
    report = run_steps(learner, config.steps, settings, options or RunOptions(), "ranking")
    method: dict[str, Any] = {"name": "ranking", "config": asdict(config), "steps": report.steps}
    method |= {
        "seconds": round(report.seconds, 1),
        "examples_seen": report.steps * min(config.batch_size, len(task.train)),
    }
    if start is not None:
        method["start"] = start.provenance.get("method", {})
    if report.stopped:
        method["stopped"] = report.stopped
    return Scores(engine.graph, learner.scores.detach().cpu(), provenance(engine, task, method))


class RankingLearner:
    """The scores and their optimiser."""

    def __init__(self, engine: Engine, task: Task, config: RankingConfig, start: Scores | None = None) -> None:
        """Set up; `begin` gives the scores their start."""
        self.engine, self.task, self.config, self.start = engine, task, config, start
        self.scores = torch.zeros(engine.graph.n_edges, device=engine.model.device, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.scores], lr=config.learning_rate)
        self.loss = loss_function(task.loss)

    def prepare(self) -> None:
        """Compute the examples' constants."""
        prepare(self.engine, self.task, self.config.steps, self.config.batch_size)

    @torch.no_grad()
    def begin(self) -> None:
        """Start from attribution's ranks, or from noise."""
        if self.start is not None:
            self.scores.copy_(self.start.values)
            return
        if self.config.warm_examples:
            few = replace(self.task, train=self.task.train[: self.config.warm_examples])
            if few.metric in ("accuracy", "exact_match"):  # they have no gradient
                few = replace(few, metric=few.explained)
            with torch.enable_grad():
                start = mask_ig(self.engine, few).values.abs()
        else:
            start = uniform(self.engine.graph.n_edges, self.config.seed, 0)
        self.scores.copy_(normal_scores(start))

    def step(self, step: int) -> dict[str, Tensor | float]:
        """One step at one budget."""
        config = self.config
        budget = config.budget(step, self.engine.graph.n_edges)
        mask = soft_top(self.scores, budget, config.temperature(step))
        options = {}
        if config.straight_through:
            hard = torch.zeros_like(mask).index_fill_(0, self.scores.topk(round(budget)).indices, 1.0)
            mask, options = hard + (mask - mask.detach()), {"gradients": "all"}
        else:
            mask = torch.where(mask < config.cut, 0.0, torch.where(mask > 1 - config.cut, 1.0, mask))
        batch = step_batch(self.task, config.batch_size, config.seed, step)
        loss = example_scores(self.engine, batch, mask, self.loss, **options).mean()
        self.optimizer.zero_grad()
        loss.backward()
        assert self.scores.grad is not None
        if not finite(loss, [self.scores.grad]):
            raise NotFiniteError(f"the loss is {loss.item()} or its gradient is not finite")
        self.optimizer.param_groups[0]["lr"] = config.rate(step)
        self.optimizer.step()
        return {"loss": loss.detach(), "edges": budget}

    def tensors(self) -> dict[str, Tensor]:
        """Scores and the optimiser's state."""
        return {"scores": self.scores} | optimizer_tensors(self.optimizer)

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.scores.copy_(tensors["scores"])
        restore_optimizer(self.optimizer, tensors)


def soft_top(scores: Float[Tensor, " E"], budget: float, temperature: float) -> Float[Tensor, " E"]:
    """The soft top-k mask `σ((θ − τ) / T)`, with τ such that it sums to the budget.

    The gradient goes through τ too: raising one score lowers every other edge's share (implicit differentiation of the
    sum, `∂τ/∂θ_i = m_i (1 − m_i) / Σ_j m_j (1 − m_j)`).
    """
    with torch.no_grad():
        x = scores.double() / temperature
        low, high = x.min() - 30, x.max() + 30
        for _ in range(60):
            middle = (low + high) / 2
            above = torch.sigmoid(x - middle).sum() > budget
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        threshold = ((low + high) / 2).to(scores.dtype) * temperature
        slope = torch.sigmoid((scores - threshold) / temperature)
        slope = slope * (1 - slope)
        share = slope / slope.sum()
    moving = threshold + ((scores - scores.detach()) * share).sum()  # τ, with its gradient
    return torch.sigmoid((scores - moving) / temperature)
