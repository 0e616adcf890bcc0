"""A learned ranking: one score per edge, trained so that the top k edges are a good circuit for *every* k.

Each step draws a budget k, turns the scores into a soft top-k mask, and lowers the task's loss under it. One run gives
the circuit of every size (after Matryoshka Attribution, arXiv 2609.25518, with the budget drawn on a logarithmic scale
and the scores started from attribution).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.discovery._attribution import mask_ig
from edgewise.discovery._configs import MaskIgConfig, configured
from edgewise.discovery._learned_configs import RankingConfig
from edgewise.discovery._learned_constants import learns_constants, with_constants
from edgewise.discovery._learning import Experiment, GradientLearner, backward, learn
from edgewise.discovery._objective import example_scores
from edgewise.discovery._scores import Scores, check_start, normal_scores
from edgewise.engine import Engine
from edgewise.models import Model
from edgewise.runs import NothingToGainError, RunOptions, RunReport, finest, uniform
from edgewise.tasks import Task, metric_function, pairs_hash

_ABSENCE = replace(metric_function("presence"), lower_is_better=True)  # what removing the top edges should lower
_VALIDATED = (0.0, 0.5, 1.0)  # sizes to validate at, as places between the smallest and the largest on a log scale


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
        task: its `train` split is learned from, with its loss or its metric, as the settings say.
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
    config = configured(RankingConfig, config, changes)
    return learn_rankings(model, task, (config.seed,), config, start=start, options=options)[0]


def learn_rankings(
    model: Model | Engine,
    task: Task,
    seeds: Sequence[int],
    config: RankingConfig | None = None,
    *,
    start: Scores | None = None,
    options: RunOptions | None = None,
    **changes: Any,
) -> list[Scores]:
    """Learn several rankings side by side, as circuits of one batch, to see how far they agree (`stability`).

    They see the same examples, in the order of the first seed, and differ in their budgets (and in the noise that they
    start from, where `warm_examples` is 0). A step takes the memory of a batch that many times as large. Rankings that
    also differ in their examples take runs of their own.

    Args:
        model: the model, or an engine that also says which graph and ablation.
        task: its `train` split is learned from.
        seeds: one for each ranking.
        config: the settings; its own seed is not used.
        start: scores that all start from, in place of attribution's ranks.
        options: checkpoints, progress, logs.
        **changes: fields of the configuration to change.

    Returns:
        The scores for each seed, as `learn_ranking` gives them.

    Raises:
        edgewise.InputError: there are no seeds, a setting is out of range, the engine's constants are learned and there
            are several seeds, `patience` or `joint`, or a checkpoint belongs to another run.
    """
    config = configured(RankingConfig, config, changes)
    if not seeds:
        raise InputError("ranking: no seeds; give one for each ranking")
    if config.joint and task.explained == "value":
        raise InputError(f"{config.title}: joint: the task's outputs are numbers, of which none is absent; use joint=0")
    engine = Engine.of(model)
    if learns_constants(engine):
        _check_constants(config, seeds)
    if start is not None:
        check_start(engine, start)
    config = replace(config, seed=seeds[0])  # which orders the examples of all
    learner = RankingLearner(engine, task, config, start, seeds)
    settings: dict[str, Any] = {"seed": list(seeds)}
    if config.patience:
        settings["validation"] = pairs_hash(task.validation)
    experiment = Experiment(config.title, engine, learner.task, config.record(), start, settings)
    warm = None
    if config.warm_examples and start is None:
        passes, few = config.warm_points, min(config.warm_examples, len(task.train))
        warm = {"n_examples": few, "forwards": passes, "backwards": passes}
    # Costs are of one ranking, whose copy of the batch is one of as many; the seconds are those of all together.
    validation = learner.validation_cost if config.patience else None
    found = learn(experiment, with_constants(learner, engine, config.steps), options, warm, validation)
    return [
        Scores(engine.graph, row, found | {"method": found["method"] | {"config": replace(config, seed=seed).record()}})
        for seed, row in zip(seeds, learner.result().detach().cpu(), strict=True)
    ]


def _check_constants(config: RankingConfig, seeds: Sequence[int]) -> None:
    """Refuse what does not go with constants that are learned. Raises `InputError`."""
    if config.patience:
        raise InputError(f"{config.title}: patience gives the best scores, and learned constants are the last; use 0")
    if config.joint:
        raise InputError(
            f"{config.title}: joint: steps that remove edges would learn constants that spoil the behaviour; use "
            "joint=0, or another ablation"
        )
    if len(seeds) > 1:
        raise InputError(
            f"{config.title}: {len(seeds)} seeds on one engine with learned constants, which all would learn; use one "
            "seed, and a learned_engine for each ranking"
        )


class RankingLearner(GradientLearner[RankingConfig]):
    """The scores, one row for each ranking, and their optimiser."""

    def __init__(
        self,
        engine: Engine,
        task: Task,
        config: RankingConfig,
        start: Scores | None = None,
        seeds: Sequence[int] | None = None,
    ) -> None:
        self.configs = [replace(config, seed=seed) for seed in (seeds or (config.seed,))]
        if config.objective == "metric":
            task = replace(task, loss=metric_function(task.explainable(at_full_model=False).metric).as_loss)
        super().__init__(engine, task, self.configs[0])
        self.start = start
        # To validate at, each once: `refine` has one size.
        places = [config.smallest * (config.largest / config.smallest) ** place for place in _VALIDATED]
        self.sizes = list(dict.fromkeys(round(share * engine.graph.n_edges) for share in places))
        self.state = ("scores", *(("best", "best_loss", "worse") if config.patience else ()))
        n_edges, device = engine.graph.n_edges, engine.model.device
        self.scores = torch.zeros(len(self.configs), n_edges, dtype=torch.float32, device=device, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.scores], lr=config.learning_rate)
        self.best = torch.zeros_like(self.scores, requires_grad=False)
        self.best_loss = torch.full((len(self.configs),), torch.inf, dtype=torch.float64)
        self.worse = torch.zeros((), dtype=torch.long)  # validations since the last better one of any ranking

    def prepare(self) -> None:
        """Compute the examples' constants."""
        if self.config.patience and not len(self.task.validation):
            raise InputError(f"{self.task.name}: its validation split is empty; give it some pairs, or use patience=0")
        super().prepare()

    @torch.no_grad()
    def begin(self) -> None:
        """Start from attribution's ranks, or from noise."""
        if self.start is not None:
            self.scores.copy_(self.start.values)
            return
        if self.config.warm_examples:
            few = replace(self.task, train=self.task.train[: self.config.warm_examples])
            explains = self.loss if self.config.warm_metric == "loss" else few.explainable(at_full_model=False).metric
            few = replace(few, metric=explains, loss=self.loss)
            settings = MaskIgConfig(points=self.config.warm_points, batch_size=self.config.batch_size)
            start = mask_ig(self.engine, few, settings, average="absolute")
            self.scores.copy_(normal_scores(start.values))
        else:
            for row, config in zip(self.scores, self.configs, strict=True):
                row.copy_(config.initial_spread * normal_scores(uniform(self.engine.graph.n_edges, config.seed, 0)))

    def step(self, step: int) -> dict[str, Tensor | float]:
        """One step, each ranking at one budget."""
        config = self.config
        if config.patience and step and step % config.validate_every == 0:
            self.validate()
            if int(self.worse) >= config.patience:
                raise NothingToGainError
        budgets = [each.budget(step, self.engine.graph.n_edges) for each in self.configs]
        rows, options = zip(self.scores, budgets, strict=True), {}
        mask = torch.stack([soft_top(row, budget, config.temperature(step)) for row, budget in rows])
        if config.is_hard(step):
            mask, options = self.hard(budgets) + (mask - mask.detach()), {"gradients": "all"}
        else:
            mask = torch.where(mask < config.mask_margin, 0.0, torch.where(mask > 1 - config.mask_margin, 1.0, mask))
        removes = config.removes(step)
        mask, loss = (1 - mask, _ABSENCE) if removes else (mask, self.loss)
        losses = self.losses(step, mask[:, None], loss, **options)  # (C,)
        backward(losses, self.task, self.optimizer)
        self.optimizer.param_groups[0]["lr"] = config.rate(step)
        self.optimizer.step()
        return {"loss": losses.detach().mean(), "edges": sum(budgets) / len(budgets)}

    @torch.no_grad()
    def hard(self, budgets: list[float]) -> Float[Tensor, "C E"]:
        """The circuits of these sizes, as masks."""
        mask = torch.zeros_like(self.scores)
        for row, scores, budget in zip(mask, self.scores, budgets, strict=True):
            row[scores.topk(round(budget)).indices] = 1
        return mask

    @torch.no_grad()
    def validate(self) -> None:
        """Compare the loss of hard circuits on validation, summed over up to three sizes, with the best so far."""
        few = replace(self.task, validation=self.task.validation[: self.config.validation_examples])
        masks = [self.hard([float(size)] * len(self.configs)) for size in self.sizes]
        total = torch.zeros_like(self.best_loss)
        for batch in few.batches("validation", self.config.batch_size):
            for mask in masks:
                total += example_scores(self.engine, batch, mask[:, None], self.loss).cpu().double().sum(-1)
        better = total < self.best_loss
        self.best_loss = torch.where(better, total, self.best_loss)
        self.best = torch.where(better.to(self.best.device)[:, None], self.scores.detach(), self.best)
        self.worse = torch.zeros_like(self.worse) if better.any() else self.worse + 1

    def validation_cost(self, report: RunReport) -> dict[str, int]:
        """What a run's validations took, for one ranking; by how far it came, so that a resumed one counts them all."""
        before = max(0, report.steps - 1) // self.config.validate_every
        ended = report.stopped is None and report.steps < self.config.steps  # by a validation
        n_times = before + ended + 1  # and `result`'s
        n_examples = self.config.validated(len(self.task.validation))
        return {"n_examples": n_examples, "forwards": n_times * len(self.sizes)}

    def result(self) -> Float[Tensor, "C E"]:
        """The scores as they are, or with `patience` those that were best on validation."""
        if not self.config.patience:
            return self.scores
        self.validate()
        return self.best


def soft_top(scores: Float[Tensor, " E"], budget: float, temperature: float) -> Float[Tensor, " E"]:
    """The soft top-k mask `σ((θ − τ) / T)`, with τ such that it sums to the budget.

    The gradient goes through τ too: raising one score lowers every other edge's share (implicit differentiation of the
    sum, `∂τ/∂θ_i = m_i (1 − m_i) / Σ_j m_j (1 − m_j)`).
    """
    with torch.no_grad():
        x = scores.to(finest(scores.device)) / temperature
        low, high = x.min() - 30, x.max() + 30
        for _ in range(60):
            middle = (low + high) / 2
            above = torch.sigmoid(x - middle).sum() > budget
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        threshold = ((low + high) / 2).to(scores.dtype) * temperature
        slope = torch.sigmoid((scores - threshold) / temperature)
        slope = slope * (1 - slope)
        share = slope / slope.sum().clamp(min=torch.finfo(slope.dtype).tiny)  # all 0 where the budget is all edges
    moving = threshold + ((scores - scores.detach()) * share).sum()  # τ, with its gradient
    return torch.sigmoid((scores - moving) / temperature)
