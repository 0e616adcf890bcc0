"""Optimal ablation: removed edges carry the constants that cost the least, learned (Li & Janson 2024).

One constant per writer, in place of what it writes on any edge that is removed: for one circuit (`optimal_constants`),
or jointly with the masks of a learned method, whose engine has the ablation `learned` (`learned_engine`).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.discovery._configs import configured
from edgewise.discovery._learned_configs import OptimalConfig
from edgewise.discovery._learned_constants import LearnedConstants
from edgewise.discovery._learning import Experiment, GradientLearner, backward, learn
from edgewise.engine import Ablation, Engine, Writes, mean_writes
from edgewise.graph import Graph, GraphSpec
from edgewise.models import Model
from edgewise.runs import RunOptions, reading_tensors, tensor_hash, write_tensors
from edgewise.tasks import SPLITS, Task


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
    means = _means(model, task, graph, batch_size)
    started = (x.float() if x.element_size() < 4 else x.clone() for x in means.tensors())
    constants = Writes.from_tensors((x.requires_grad_() for x in started), graph)
    ablation = Ablation("learned", source=f"started at the means over {task.name} train, clean")
    return Engine(model, graph, ablation, constants=constants, **choices)


def engine_under(
    model: Model, task: Task, ablation: str, graph: Graph | None = None, *, batch_size: int = 32, **choices: Any
) -> Engine:
    """An engine under an ablation by name, with constants from the task's training split where it needs some.

    Args:
        model: the model.
        task: its clean training prompts are averaged over.
        ablation: a kind of `Ablation`; `mean` and `mean-positional` are means over the training prompts (at positions
            of longer validation and test prompts, the mean over all tokens); `optimal` or
            `learned`, constants that are learned with masks (`learned_engine`).
        graph: the model's graph; `model.graph()` if None.
        batch_size: how many prompts at a time.
        **choices: for `Engine`.

    Raises:
        InputError: there is no such ablation, or it does not go with the graph.
    """
    graph = graph or model.graph()
    if ablation in ("optimal", "learned"):
        return learned_engine(model, task, graph, batch_size=batch_size, **choices)
    if ablation not in ("mean", "mean-positional"):
        return Engine(model, graph, Ablation(ablation), **choices)  # pyright: ignore[reportArgumentType] (checked there)
    positional = ablation == "mean-positional"
    means = _means(model, task, graph, batch_size, positional)
    kind = Ablation("mean-positional" if positional else "mean", source=f"means over {task.name} train, clean")
    return Engine(model, graph, kind, constants=means, **choices)


def _means(model: Model, task: Task, graph: Graph, batch_size: int, positional: bool = False) -> Writes:
    prompts = (batch.clean.to(model.device) for batch in task.batches("train", batch_size))
    longest = max((len(pair.clean) for split in SPLITS for pair in task.split(split)), default=0)
    return mean_writes(model, graph, prompts, positional=positional, longest=longest)


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
    config = configured(OptimalConfig, config, changes)
    engine = model if isinstance(model, Engine) else learned_engine(model, task, circuit.graph)
    if engine.ablation.kind != "learned" or engine.graph != circuit.graph:
        raise InputError("optimal ablation: the engine has another graph or ablation; give the model or learned_engine")
    learner = ConstantsLearner(engine, task, circuit, config)
    kept = {"kept": tensor_hash(circuit.kept)}
    experiment = Experiment("optimal", engine, task, config.record(), settings=kept)
    found = learn(experiment, learner, options, None, of=circuit.provenance.get("method", {}))
    return engine, Circuit(circuit.graph, circuit.kept, circuit.scores, found, selection=circuit.selection)


class ConstantsLearner(GradientLearner[OptimalConfig]):
    """The constants of one circuit and their optimiser."""

    def __init__(self, engine: Engine, task: Task, circuit: Circuit, config: OptimalConfig) -> None:
        super().__init__(engine, task, config)
        self.mask = circuit.kept.to(engine.model.device, torch.float32)
        self.constants = LearnedConstants(engine, config.learning_rate)
        self.optimizer = self.constants.optimizer

    def step(self, step: int) -> dict[str, Tensor | float]:
        """One step."""
        loss = self.losses(step, self.mask)
        backward(loss, self.task, self.optimizer)
        self.constants.step(1 - step / self.config.steps)
        return {"loss": loss.detach()}

    def tensors(self) -> dict[str, Tensor]:
        """The constants and their optimiser's state."""
        return self.constants.tensors() | super().tensors()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.constants.restore(tensors)
        super().restore(tensors)


def save_constants(engine: Engine, path: str | Path) -> None:
    """Write an engine's constants as one `.safetensors`, whole or not at all."""
    if engine.constants is None:
        raise InputError(f"{path}: the ablation {engine.ablation.kind!r} has no constants to save")
    tensors = {f"constant.{i}": x for i, x in enumerate(engine.constants.tensors())}
    write_tensors(path, tensors, {"graph": engine.graph.spec.to_dict(), "ablation": engine.ablation.to_dict()})


def load_constants(model: Model, path: str | Path, **choices: Any) -> Engine:
    """An engine with saved constants, which are fixed.

    Args:
        model: the model that they were learned for.
        path: the file that `save_constants` wrote.
        **choices: for `Engine`.

    Raises:
        InputError: there is no such file, or its constants do not have the model's sizes; whose they are it does
            not say.
    """
    with reading_tensors(
        path, "the constants of an ablation", "give the constants of an ablation that `find` wrote"
    ) as (header, found):
        tensors = [found[f"constant.{i}"].to(model.device) for i in range(len(found))]
        graph, ablation = Graph(GraphSpec.from_dict(header["graph"])), Ablation(**header["ablation"])
    return Engine(model, graph, ablation, constants=Writes.from_tensors(tensors, graph), **choices)
