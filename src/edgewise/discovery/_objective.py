"""From masks to a loss, and which examples a step sees."""

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.engine import Engine
from edgewise.runs import uniform
from edgewise.tasks import Batch, Metric, Score, Task, reduce, score_name

_SHUFFLE = 101  # the noise stream that orders the examples


def example_scores(engine: Engine, batch: Batch, mask: Tensor, score: Metric, **options: Any) -> Float[Tensor, "*C B"]:
    """One value per example: run the circuits, score the logits at the targets, average over each example's targets.

    Args:
        engine: the engine.
        batch: the examples.
        mask: `[E]` or `[C, P, E]`.
        score: a loss or metric, see `edgewise.tasks`.
        **options: for `Engine.run`.
    """
    batch = batch.to(engine.model.device)
    if score.needs_full_model:
        batch = batch.with_full_logits(engine.full(batch))
    return reduce(score(engine.run(batch, mask, **options), batch), batch)


def differentiable(value: Tensor, score: str | Score, what: str = "loss") -> Tensor:
    """The value itself. Raises `InputError` if no gradient goes through it."""
    if not value.requires_grad:
        instead = "kl, cross_entropy or logit_diff" if what == "loss" else "logit_diff or log_prob"
        raise InputError(f"{what} {score_name(score)!r}: it has no gradient; use {instead}")
    return value


def step_examples(n_examples: int, batch_size: int, seed: int, step: int) -> list[int]:
    """The examples of a step: every epoch a new order, from the seed alone, so that a resumed run sees the same."""
    if not n_examples:
        raise InputError("task: its train split is empty; give it some pairs")
    batch_size = min(batch_size, n_examples)
    per_epoch = n_examples // batch_size
    epoch, place = divmod(step, per_epoch)
    return _order(n_examples, seed, epoch)[place * batch_size : (place + 1) * batch_size].tolist()


def seen_examples(n_examples: int, batch_size: int, seed: int, steps: int, warm: int = 0) -> set[int]:
    """The different examples that so many steps see, and a start from the first `warm`."""
    seen = set(range(min(warm, n_examples)))
    for step in range(steps):
        if len(seen) == n_examples:
            break
        seen.update(step_examples(n_examples, batch_size, seed, step))
    return seen


@lru_cache(maxsize=1)
def _order(n_examples: int, seed: int, epoch: int) -> Int[Tensor, " n"]:
    """The examples in an epoch's order; kept, for of 100,000 examples it takes as long as a step of a small model."""
    return uniform(n_examples, seed, epoch, _SHUFFLE).argsort()


def step_batch(task: Task, batch_size: int, seed: int, step: int) -> Batch:
    """The training batch of a step."""
    return task.batch("train", step_examples(len(task.train), batch_size, seed, step))


def finite(loss: Tensor, gradients: list[Tensor]) -> bool:
    """Whether a loss and its gradients are all finite."""
    return all(bool(torch.isfinite(g).all()) for g in (loss, *gradients))
