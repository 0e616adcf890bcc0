"""What learned methods and searches share: what a run is of, its record, and the refusals of a gradient step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.discovery._cost import Cost, learned_cost
from edgewise.discovery._learned_configs import LearnedConfig
from edgewise.discovery._objective import differentiable, example_scores, finite, seen_examples, step_examples
from edgewise.discovery._provenance import provenance, run_settings
from edgewise.discovery._scores import Scores
from edgewise.discovery._shared import shared_losses
from edgewise.engine import Engine
from edgewise.runs import (
    Learner,
    NotFiniteError,
    RunOptions,
    RunReport,
    gradients,
    optimizer_tensors,
    restore_optimizer,
    run_steps,
    tensor_hash,
)
from edgewise.tasks import Metric, Task, loss_function

Config = TypeVar("Config", bound=LearnedConfig)


@dataclass(frozen=True)
class Experiment:
    """What a run is of."""

    method: str
    engine: Engine
    task: Task
    config: dict[str, Any]
    """The method's settings, as plain values; those of a method that learns have `steps` and `batch_size`."""
    start: Scores | None = None
    """The scores that a user gave to start from."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What else decides the run's numbers, or does so in place of a field of `config` of the same name."""

    def run(self, learner: Learner, n_steps: int, options: RunOptions | None) -> RunReport:
        """Take the steps, from the checkpoint of the same run if there is one. Raises as `run_steps`."""
        settings = run_settings(self.engine, self.task, self.method, self.config | dict(self.settings))
        if self.start is not None:
            settings["start"] = tensor_hash(self.start.values)
        ranks = self.engine.execution.ranks
        return run_steps(learner, n_steps, settings, options or RunOptions(), self.method, ranks)

    def record(self, report: RunReport, cost: Cost, **found: Any) -> dict[str, Any]:
        """The provenance of what the run found: how the run went, what it spent, and what else its method says."""
        method = {"name": self.method, "config": self.config, **report.record(), **found}
        if self.start is not None:
            method["start"] = self.start.provenance.get("method", {})
        return provenance(self.engine, self.task, method, cost)


def learn(
    experiment: Experiment,
    learner: Learner,
    options: RunOptions | None,
    warm: Mapping[str, int] | None,
    validation: Callable[[RunReport], Mapping[str, int]] | None = None,
    **found: Any,
) -> dict[str, Any]:
    """Run a learner on batches of the training split, and give the provenance of what it found: `warm` is what its
    start cost, on the first training examples, and `validation` what its validations did, each as arguments of
    `Cost.spend`; `found` is what else the record says of the method.
    """
    engine, task, config = experiment.engine, experiment.task, experiment.config
    with gradients():
        report = experiment.run(learner, config["steps"], options)
    size = min(config["batch_size"], len(task.train))
    start, judged = warm or {"n_examples": 0}, {"n_examples": 0} if validation is None else validation(report)
    seen = len(seen_examples(len(task.train), size, config["seed"], report.steps, start["n_examples"]))
    cost = learned_cost(engine, task, seen + judged["n_examples"], report.steps * size, report.seconds)
    for passes in (start, judged):
        cost.spend(**passes)
    return experiment.record(report, cost, examples_seen=report.steps * size, **found)


class GradientLearner(Learner, Generic[Config]):
    """A method that learns on batches of the training split, with one optimiser; to make one, set `optimizer`."""

    state: tuple[str, ...] = ()
    """The tensors that are its state beside the optimiser's."""
    optimizer: torch.optim.Optimizer

    def __init__(self, engine: Engine, task: Task, config: Config) -> None:
        self.engine, self.task, self.config, self.graph = engine, task, config, engine.graph
        self.loss = loss_function(task.loss)

    def prepare(self) -> None:
        """Compute the examples' constants if the run sees examples again."""
        size = self.config.batch_size
        batches = self.task.batches("train", size) if self.config.steps * size > len(self.task.train) else ()
        on_device = (batch.to(self.engine.model.device) for batch in batches)
        self.engine.prepare(on_device, full=self.loss.needs_full_model)

    def losses(self, step: int, mask: Tensor, loss: Metric | None = None, **options: Any) -> Float[Tensor, "*C"]:
        """The mean loss (the task's, if none is given) of a step's examples under masks, `[E]` or `[C, P, E]`."""
        examples = step_examples(len(self.task.train), self.config.batch_size, self.config.seed, step)
        loss = loss or self.loss
        if self.engine.execution.example_ranks.shares > 1:
            return shared_losses(self.engine, self.task, examples, mask, loss, **options)
        return example_scores(self.engine, self.task.batch("train", examples), mask, loss, **options).mean(-1)

    def tensors(self) -> dict[str, Tensor]:
        """The state and the optimiser's."""
        return {name: getattr(self, name) for name in self.state} | optimizer_tensors(self.optimizer)

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        for name in self.state:
            getattr(self, name).copy_(tensors[name])
        restore_optimizer(self.optimizer, tensors)


def backward(loss: Tensor, task: Task, optimizer: torch.optim.Optimizer, penalty: Tensor | None = None) -> None:
    """Put a step's gradients, of the loss (of one circuit or of several) and any penalty, in place of the last step's.

    Raises:
        InputError: the loss has no gradient.
        NotFiniteError: the loss or a gradient is not finite; nothing has moved yet.
    """
    optimizer.zero_grad()
    total = differentiable(loss.sum(), task.loss)
    (total if penalty is None else total + penalty).backward()
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not finite(loss, gradients):
        raise NotFiniteError(f"the loss is {loss.sum().item()} or a gradient is not finite")
