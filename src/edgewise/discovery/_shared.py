"""A step's examples shared out: each share's losses and gradients, added up in the order of the shares.

The sum's last bits depend on how many shares there are, and not on how many processes take them.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.discovery._objective import differentiable, example_scores
from edgewise.engine import Engine
from edgewise.runs import own_shares, sum_in_order
from edgewise.tasks import Metric, Task


def shared_losses(
    engine: Engine, task: Task, examples: Sequence[int], mask: Tensor, loss: Metric, **options: Any
) -> Float[Tensor, "*C"]:
    """The mean loss of training examples under masks, of which each process runs its shares.

    It is differentiable in the masks and in learned constants, in every process with the same numbers.

    Args:
        engine: the engine; its execution says which processes there are.
        task: the behaviour.
        examples: their numbers in the training split.
        mask: `[E]` or `[C, P, E]`.
        loss: what is averaged.
        **options: for `Engine.run`.

    Raises:
        InputError: the loss has no gradient.
    """
    ranks, own = engine.execution.example_ranks, list[tuple[Tensor, ...]]()
    constants = () if engine.constants is None else tuple(x for x in engine.constants.tensors() if x.requires_grad)
    leaf = mask.detach().requires_grad_()
    for numbers in own_shares(examples, ranks):
        if not numbers:  # fewer examples than shares
            own.append(
                (mask.new_zeros(len(mask) if mask.ndim == 3 else ()), *map(torch.zeros_like, (mask, *constants)))
            )
            continue
        scores = example_scores(engine, task.batch("train", numbers), leaf, loss, **options)
        total = differentiable(scores.sum(-1) / len(examples), task.loss)
        gradients = torch.autograd.grad(total.sum(), (leaf, *constants), materialize_grads=True)
        own.append((total.detach(), *gradients))
    losses, *gradients = (sum_in_order(torch.stack(each), ranks) for each in zip(*own, strict=True))
    return _Known.apply(losses, tuple(gradients), mask, *constants)  # pyright: ignore[reportReturnType] (untyped)


class _Known(torch.autograd.Function):
    """Losses whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, losses: Tensor, gradients: tuple[Tensor, ...], mask: Tensor, *constants: Tensor) -> Tensor:
        ctx.gradients = gradients
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] (decorated)
        (outer,) = grad_outputs  # of each circuit's loss, which depends on no other circuit's mask
        of_mask, *of_constants = ctx.gradients
        by_circuit = outer.view(-1, *[1] * (of_mask.ndim - 1)) if of_mask.ndim == 3 else outer
        return None, None, by_circuit * of_mask, *(outer.flatten()[0] * each for each in of_constants)
