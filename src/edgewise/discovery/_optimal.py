"""Optimal ablation: removed edges carry the constants that cost the least, learned (Li & Janson 2024).

One constant per writer, in place of what it writes on any edge that is removed: for one circuit (`optimal_constants`),
or jointly with the masks of a learned method, whose engine has the ablation `learned` (`learned_engine`).
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.discovery._cost import learned_cost
from edgewise.discovery._objective import differentiable, example_scores, finite, prepare, step_batch
from edgewise.discovery._provenance import provenance, run_settings
from edgewise.engine import Ablation, Engine, Writes, mean_writes
from edgewise.graph import Graph, GraphSpec
from edgewise.models import Model, Tokens
from edgewise.runs import (
    Learner,
    NotFiniteError,
    RunOptions,
    atomic_path,
    optimizer_tensors,
    restore_optimizer,
    run_steps,
)
from edgewise.tasks import Task, loss_function

LEARNING_RATE = 2e-3  # Li & Janson 2024, section 4.2


@dataclass(frozen=True)
class OptimalConfig:
    """Settings of a run."""

    steps: int = 300
    batch_size: int = 16
    learning_rate: float = LEARNING_RATE
    """Of Adam, in units of each writer's own spread; it falls linearly to 0."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the numbers. Raises `InputError`."""
        if self.steps < 1 or self.batch_size < 1 or not self.learning_rate > 0:
            raise InputError(f"optimal ablation: steps, batch_size and learning_rate must be positive, got {self}")


def learned_engine(
    model: Model, task: Task, graph: Graph | None = None, *, batch_size: int = 32, **choices: Any
) -> Engine:
    """An engine whose removed edges carry constants that can be learned, started at the writers' means over the
    training split's clean prompts.

    Args:
        model: the model.
        task: its training split is averaged over.
        graph: the model's graph; `model.graph()` if None.
        batch_size: how many prompts at a time.
        **choices: for `Engine`.
    """
    graph = graph or model.graph()
    prompts = (batch.clean for batch in task.batches("train", batch_size))
    means = mean_writes(model, graph, _moved(prompts, model))
    tensors = tuple(x.float() if x.dtype == torch.bfloat16 else x.clone() for x in means.tensors())
    constants = Writes.from_tensors(tuple(x.requires_grad_() for x in tensors), len(model.parts.layers))
    ablation = Ablation("learned", source=f"started at the means over {task.name} train, clean")
    return Engine(model, graph, ablation, constants=constants, **choices)


def _moved(prompts: Iterator[Tokens], model: Model) -> Iterator[Tokens]:
    return (tokens.to(model.device) for tokens in prompts)


def optimal_constants(
    model: Model | Engine,
    task: Task,
    circuit: Circuit,
    config: OptimalConfig | None = None,
    *,
    options: RunOptions | None = None,
    **changes: Any,
) -> tuple[Engine, Circuit]:
    """Learn the constants that make a circuit lose the least.

    Args:
        model: the model, or a `learned_engine`, whose constants are the start and are changed in place.
        task: its `train` split is learned from, with its loss.
        circuit: which edges are kept; however it was found.
        config: the settings.
        options: checkpoints and progress.
        **changes: fields of the configuration to change.

    Returns:
        The engine with the learned constants, and the circuit as one under that ablation: `evaluate(engine, circuit,
        task)` judges it.

    Raises:
        edgewise.InputError: a setting is out of range, the engine's ablation is not `learned`, or a checkpoint belongs
            to another run.
    """
    config = replace(config or OptimalConfig(), **changes)
    engine = model if isinstance(model, Engine) else learned_engine(model, task, circuit.graph)
    if engine.ablation.kind != "learned" or engine.graph != circuit.graph:
        raise InputError("optimal ablation: the engine has another graph or ablation; give the model or learned_engine")
    learner = ConstantsLearner(engine, task, circuit, config)
    kept = {"kept": hashlib.sha256(circuit.kept.numpy().tobytes()).hexdigest()}
    report = run_steps(
        learner,
        config.steps,
        run_settings(engine, task, "optimal", asdict(config)) | kept,
        options or RunOptions(),
        "optimal ablation",
    )
    method: dict[str, Any] = {"name": "optimal", "of": circuit.provenance.get("method", {}), "config": asdict(config)}
    method |= {"steps": report.steps, "seconds": round(report.seconds, 1)}
    if report.stopped:
        method["stopped"] = report.stopped
    size = min(config.batch_size, len(task.train))
    cost = learned_cost(engine, task, report.steps, size, report.seconds)
    return engine, Circuit(circuit.graph, circuit.kept, circuit.scores, provenance(engine, task, method, cost))


class ConstantsLearner:
    """The constants of one circuit and their optimiser."""

    def __init__(self, engine: Engine, task: Task, circuit: Circuit, config: OptimalConfig) -> None:
        """Set up."""
        self.engine, self.task, self.config = engine, task, config
        self.mask = circuit.kept.to(engine.model.device, torch.float32)
        self.constants = LearnedConstants(engine, config.learning_rate)
        self.optimizer = self.constants.optimizer
        self.loss = loss_function(task.loss)

    def prepare(self) -> None:
        """Compute the examples' predictions by the full model."""
        prepare(self.engine, self.task, self.config.steps, self.config.batch_size)

    def begin(self) -> None:
        """Nothing is needed."""

    def step(self, step: int) -> dict[str, Tensor | float]:
        """One step."""
        batch = step_batch(self.task, self.config.batch_size, self.config.seed, step)
        loss = example_scores(self.engine, batch, self.mask, self.loss).mean()
        self.optimizer.zero_grad()
        differentiable(loss, self.task.loss).backward()
        if not finite(loss, self.constants.gradients):
            raise NotFiniteError(f"the loss is {loss.item()} or a constant's gradient is not finite")
        self.constants.step(1 - step / self.config.steps)
        return {"loss": loss.detach()}

    def tensors(self) -> dict[str, Tensor]:
        """The constants and their optimiser's state."""
        return self.constants.tensors() | optimizer_tensors(self.optimizer)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.constants.restore(tensors)
        restore_optimizer(self.optimizer, tensors)


class LearnedConstants:
    """An engine's constants as parameters, each in units of its writer's own size, so that one rate suits all."""

    def __init__(self, engine: Engine, rate: float) -> None:
        """Set up an optimiser over them."""
        assert engine.constants is not None
        self.parameters, self.rate = list(engine.constants.tensors()), rate
        if not all(x.requires_grad for x in self.parameters):
            raise InputError("optimal ablation: the engine's constants are fixed; make it with learned_engine")
        groups = [{"params": [x], "size": float(x.detach().square().mean().sqrt()) or 1.0} for x in self.parameters]
        self.optimizer = torch.optim.Adam(groups, lr=rate)

    @property
    def gradients(self) -> list[Tensor]:
        """The gradients that there are."""
        return [x.grad for x in self.parameters if x.grad is not None]

    def step(self, share: float) -> None:
        """One step at a share of the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * share * group["size"]
        self.optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """The constants by number."""
        return {f"constant.{i}": x for i, x in enumerate(self.parameters)}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        for i, x in enumerate(self.parameters):
            x.copy_(tensors[f"constant.{i}"])


class Jointly:
    """A learner whose masks are learned together with its engine's constants: the gradients of one backward serve both.

    The constants move after the masks do, by the gradients that the masks' own step took.
    """

    def __init__(self, learner: Learner, engine: Engine, steps: int, rate: float = LEARNING_RATE) -> None:
        """Wrap a learner."""
        self.learner, self.steps, self.constants = learner, steps, LearnedConstants(engine, rate)

    def prepare(self) -> None:
        """See `Learner`."""
        self.learner.prepare()

    def begin(self) -> None:
        """See `Learner`."""
        self.learner.begin()

    def step(self, step: int) -> dict[str, Tensor | float]:
        """One step of the learner, then one of the constants."""
        self.constants.optimizer.zero_grad()  # what attribution and validation left
        metrics = self.learner.step(step)
        if finite(torch.zeros(()), self.constants.gradients):  # the masks have moved: too late to refuse the step
            self.constants.step(1 - step / self.steps)
        return metrics

    def tensors(self) -> dict[str, Tensor]:
        """The learner's, the constants and their optimiser's state."""
        inner = {f"constants.{name}": x for name, x in optimizer_tensors(self.constants.optimizer).items()}
        return self.learner.tensors() | self.constants.tensors() | inner

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.learner.restore(tensors)
        self.constants.restore(tensors)
        prefix = "constants."
        inner = {name[len(prefix) :]: x for name, x in tensors.items() if name.startswith(prefix)}
        restore_optimizer(self.constants.optimizer, inner)


def save_constants(engine: Engine, path: str | Path) -> None:
    """Write an engine's constants as one `.safetensors`, whole or not at all."""
    if engine.constants is None:
        raise InputError(f"{path}: the ablation {engine.ablation.kind!r} has no constants to save")
    tensors = {f"constant.{i}": x.detach().cpu().contiguous() for i, x in enumerate(engine.constants.tensors())}
    header = {"graph": engine.graph.spec.to_dict(), "ablation": engine.ablation.to_dict()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"edgewise": json.dumps(header)})


def load_constants(model: Model, path: str | Path, **choices: Any) -> Engine:
    """An engine with saved constants, which are fixed.

    Args:
        model: the model that they were learned for.
        path: the file that `save_constants` wrote.
        **choices: for `Engine`.

    Raises:
        InputError: there is no such file, or its constants are of another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["edgewise"])
            tensors = [file.get_tensor(f"constant.{i}").to(model.device) for i in range(len(list(file.keys())))]
        graph, ablation = Graph(GraphSpec(**header["graph"])), Ablation(**header["ablation"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: not the constants of an ablation ({reason[:120]}); give those `find` wrote"
        ) from error
    return Engine(model, graph, ablation, constants=Writes.from_tensors(tuple(tensors), graph.spec.n_layers), **choices)


def with_constants(learner: Learner, engine: Engine, steps: int) -> Learner:
    """The learner itself, or, where its engine's constants are to be learned, both together."""
    constants = engine.constants
    learned = engine.ablation.kind == "learned" and constants is not None
    if learned and constants is not None and all(x.requires_grad for x in constants.tensors()):
        return Jointly(learner, engine, steps)
    return learner
