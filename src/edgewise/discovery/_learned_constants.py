"""An engine's constants as parameters: what removed edges carry, learned beside a method's masks or for one circuit."""

import torch
from torch import Tensor

from edgewise._errors import InputError
from edgewise.discovery._learned_configs import OptimalConfig
from edgewise.discovery._objective import finite
from edgewise.engine import Engine
from edgewise.runs import Learner, optimizer_tensors, restore_optimizer

_SIZES = "constant.sizes"


class LearnedConstants:
    """An engine's constants as parameters, each in units of its writer's own size, so that one rate suits all."""

    def __init__(self, engine: Engine, rate: float) -> None:
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
        """The constants by number, and the sizes that they began with, which cannot be told once they have moved."""
        sizes = torch.tensor([each["size"] for each in self.optimizer.param_groups], dtype=torch.float64, device="cpu")
        return {f"constant.{i}": x for i, x in enumerate(self.parameters)} | {_SIZES: sizes}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        for i, x in enumerate(self.parameters):
            x.copy_(tensors[f"constant.{i}"])
        # A checkpoint of an earlier version has no sizes: those at hand stay.
        for group, size in zip(self.optimizer.param_groups, tensors.get(_SIZES, ()), strict=False):
            group["size"] = float(size)


class Jointly(Learner):
    """A learner whose masks are learned together with its engine's constants: the gradients of one backward serve both.

    The constants move after the masks do, by the gradients that the masks' own step took.
    """

    def __init__(self, learner: Learner, engine: Engine, steps: int) -> None:
        self.learner, self.steps = learner, steps
        self.constants = LearnedConstants(engine, OptimalConfig.learning_rate)

    def prepare(self) -> None:
        self.learner.prepare()

    def begin(self) -> None:
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
        self.learner.restore(tensors)
        self.constants.restore(tensors)
        prefix = "constants."
        inner = {name[len(prefix) :]: x for name, x in tensors.items() if name.startswith(prefix)}
        restore_optimizer(self.constants.optimizer, inner)


def with_constants(learner: Learner, engine: Engine, steps: int) -> Learner:
    """The learner itself, or, where its engine's constants are to be learned, both together."""
    return Jointly(learner, engine, steps) if learns_constants(engine) else learner


def learns_constants(engine: Engine) -> bool:
    """Whether an engine's constants are learned with masks."""
    tensors = () if engine.constants is None else engine.constants.tensors()
    return bool(tensors) and engine.ablation.kind == "learned" and all(x.requires_grad for x in tensors)
