"""What a method spent: passes, examples and seconds, for every result."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from edgewise.engine import Engine
from edgewise.runs import Ranks
from edgewise.tasks import Task, loss_function


@dataclass
class Cost:
    """A tally of example-passes.

    A pass that runs only some of the layers counts as that share of one; passes of several circuits at once count one
    each.
    """

    forwards: float = 0.0
    backwards: float = 0.0
    examples: int = 0
    """Different examples seen."""
    seconds: float | None = None
    """Measured elsewhere, over all runs of one that was resumed; None to measure here."""
    start: float = field(default_factory=time.monotonic)

    def spend(self, n_examples: int, forwards: float = 0.0, backwards: float = 0.0) -> None:
        """Count so many passes of some examples each."""
        self.forwards += n_examples * forwards
        self.backwards += n_examples * backwards

    def shared(self, ranks: Ranks) -> None:
        """Add up what each of several processes counted of its own examples alone."""
        total = ranks.sum(torch.tensor([self.forwards, self.backwards], dtype=torch.float64))
        self.forwards, self.backwards = total.tolist()

    def record(self) -> dict[str, Any]:
        """As plain values: how often each example went forwards and backwards through the whole model."""
        n = max(1, self.examples)
        seconds = time.monotonic() - self.start if self.seconds is None else self.seconds
        return {
            "forwards_per_example": round(self.forwards / n, 3),
            "backwards_per_example": round(self.backwards / n, 3),
            "examples": self.examples,
            "seconds": round(seconds, 3),
        }

    @staticmethod
    def together(records: Sequence[Mapping[str, Any]], examples: int) -> "Cost":
        """What several runs of one task took, by their records; `examples` is how many different ones they saw."""
        cost = Cost(examples=examples, seconds=sum(each["seconds"] for each in records))
        for each in records:
            cost.spend(each["examples"], each["forwards_per_example"], each["backwards_per_example"])
        return cost


MASK_IG_PASSES = {"forwards": 5, "backwards": 5}
"""Of the mask-path attribution at five points from which learned masks may start."""


def constant_forwards(engine: Engine) -> int:
    """How often each example goes forwards for what depends on it alone: the corrupted run under interchange, and the
    clean run that error terms of features are taken from.
    """
    return int(engine.ablation.kind == "interchange") + bool(engine.graph.spec.features)


def learned_cost(engine: Engine, task: Task, seen: int, passes: int, seconds: float) -> Cost:
    """What a learned method's steps cost: a masked pass forwards and backwards for each example of a step, and once for
    each of the different examples seen, those of a start and of validation too, the runs of `constant_forwards` and,
    where the loss looks at it, the full model's.
    """
    cost = Cost(examples=seen, seconds=seconds)
    cost.spend(passes, forwards=1, backwards=1)
    cost.spend(seen, forwards=loss_function(task.loss).needs_full_model + constant_forwards(engine))
    return cost
