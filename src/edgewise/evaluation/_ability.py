"""How well a model itself does a task: a circuit can explain no more than the model does."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import torch
from jaxtyping import Float
from scipy.stats import binomtest
from torch import Tensor

from edgewise.engine import Engine
from edgewise.models import Model
from edgewise.runs import check_counts
from edgewise.tasks import Batch, Task, metric_function, reduce

_Z = NormalDist().inv_cdf(0.975)  # a 95 % interval of a mean is so many standard errors to each side


@dataclass(frozen=True)
class Measure:
    """One metric of the full model, a mean over the examples."""

    value: float
    """On the clean prompts."""
    low: float | None
    """Where its 95 % interval begins: Wilson's of a share of right examples (`accuracy`, `choice`), else 1.96 standard
    errors below, which of a single example is None."""
    high: float | None
    """Where it ends."""
    corrupted: float
    """On the corrupted prompts, judged by the clean answers."""
    chance: float
    """Where all tokens are equally likely; of `choice`, where the right and the wrong answers are."""
    rise: float
    """`value` minus `corrupted`."""
    rise_margin: float | None
    """Half the width of its 95 % interval, from the paired differences."""


@dataclass(frozen=True)
class Ability:
    """What a model makes of one split of a task."""

    task: str
    split: str
    n: int
    """Examples."""
    metrics: dict[str, Measure]
    """`accuracy` (the likeliest token of all is right), `choice` (of right and wrong answers the likeliest is right, at
    the targets that have wrong ones), `logit_diff`, `prob_diff` and `log_prob` (nats); `choice` and the differences
    only with wrong answers."""

    @property
    def complaint(self) -> str | None:
        """One line if the model cannot be seen to do the task, else None."""
        preferred = self.metrics.get("choice")
        if preferred is not None and preferred.low is not None and preferred.low <= preferred.chance:
            verdict = (
                "it does not do" if preferred.value <= preferred.chance else "that may be chance, it is not seen to do"
            )
            return (
                f"on {self.n} {self.split} examples of {self.task} the model prefers the right answer to the wrong "
                f"ones in {preferred.value:.0%}, where guessing gives {preferred.chance:.0%}: {verdict} this task"
            )
        known = self.metrics["log_prob"]  # a constant guess may be preferred always, and is no likelier than before
        if known.rise - (known.rise_margin or 0) <= 0:
            return (
                f"on {self.n} {self.split} examples of {self.task} the right answer is no likelier after the clean "
                f"prompt than after the corrupted one (by {known.rise:.2g} nats): the model does not do this task"
            )
        return None


def score(
    model: Model | Engine, task: Task, *, split: str = "test", n: int | None = None, batch_size: int = 32
) -> Ability:
    """Measure the full model on a task.

    Args:
        model: the model, or an engine of it.
        task: the behaviour.
        split: which examples.
        n: how many of them, from the first on; all if None.
        batch_size: how many at a time; it does not change the numbers.

    Raises:
        edgewise.InputError: there is no such split, it is empty, or `n` is below 1.
    """
    check_counts("score", n=n)
    engine = Engine.of(model)
    chosen = replace(task, **{split: task.split(split)[:n]})
    names = ("accuracy", "log_prob")
    if all(any(target.wrong for target in pair.targets) for pair in chosen.split(split)):
        names = ("accuracy", "choice", "logit_diff", "prob_diff", "log_prob")
    metrics = {name: metric_function(name) for name in names}
    rows: dict[str, list[Tensor]] = {name: [] for name in metrics}
    for batch in chosen.batches(split, batch_size):
        batch = batch.to(engine.model.device)
        clean = engine.full(batch)
        said = clean, engine.full(batch, "corrupted"), torch.zeros_like(clean)
        for name, metric in metrics.items():
            values = [reduce(metric(logits, batch), batch) for logits in said]
            if name == "choice":
                contrasted = replace(batch, weight=batch.weight * (batch.wrong >= 0).any(-1))  # as `choice` has it
                values[2] = reduce(_share(batch).to(values[0].dtype), contrasted)
            elif name == "accuracy":  # not that of equal logits, whose likeliest token is the first of all
                right = (batch.answers >= 0).sum(-1).to(values[0].dtype)
                values[2] = reduce(right / clean.shape[-1], batch)
            rows[name].append(torch.stack(values).double().cpu())
    return Ability(
        task.name,
        split,
        len(chosen.split(split)),
        {name: _measure(torch.cat(x, 1), name in ("accuracy", "choice")) for name, x in rows.items()},
    )


def _share(batch: Batch) -> Float[Tensor, " A"]:
    """The share of right answers among each target's right and wrong ones."""
    right, wrong = ((each >= 0).sum(-1) for each in (batch.answers, batch.wrong))
    return right / (right + wrong)


def _measure(values: Float[Tensor, "3 n"], share: bool) -> Measure:
    clean, corrupted, chance = values
    mean, margin = float(clean.mean()), _margin(clean)
    low, high = (None, None) if margin is None else (mean - margin, mean + margin)
    return Measure(
        mean,
        *(_wilson(clean) if share else (low, high)),
        float(corrupted.mean()),
        float(chance.mean()),
        float((clean - corrupted).mean()),
        _margin(clean - corrupted),
    )


def _wilson(values: Float[Tensor, " n"]) -> tuple[float, float]:
    """Wilson's 95 % interval of a share, which has a width at 0 and 1 too. An example with several targets may be right
    in part: then the interval is that of whole examples around it, for such a mean varies less than theirs.
    """
    right, n = round(float(values.sum()), 6), len(values)
    low, high = (
        binomtest(int(count), n).proportion_ci(0.95, method="wilson") for count in (math.floor(right), math.ceil(right))
    )
    return float(low.low), float(high.high)


def _margin(values: Float[Tensor, " n"]) -> float | None:
    return _Z * float(values.std()) / len(values) ** 0.5 if len(values) > 1 else None
