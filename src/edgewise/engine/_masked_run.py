"""The executor as one operation that PyTorch differentiates, and what masks it is given."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.engine._executor import Executor
from edgewise.engine._matmul import Matmul, matmul_precision
from edgewise.models import Model


def mask_dtype(model: Model) -> torch.dtype:
    """The type of a model's masks: its own, and float32 where that is a smaller one."""
    return model.dtype if model.dtype in (torch.float32, torch.float64) else torch.float32


def only_value(masks: Float[Tensor, "CP E"]) -> float:
    """The fraction that all masks are, as under integrated gradients; 1 where they are not one fraction."""
    first = float(masks.detach()[0, 0])
    return first if 0 < first < 1 and bool((masks == first).all()) else 1.0


class MaskedRun(torch.autograd.Function):
    """The executor as one differentiable operation of the masks and of the ablated values."""

    @staticmethod
    def forward(ctx: Any, executor: Executor, matmul: Matmul, keep: bool, masks: Tensor, *ablated: Tensor) -> Tensor:
        with matmul_precision(matmul):
            final = executor.forward(keep)
        if keep:
            ctx.executor, ctx.matmul = executor, matmul
        return final

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] (decorated)
        (gradient,) = grad_outputs
        executor, ctx.executor = ctx.executor, None
        if executor is None:
            raise RuntimeError(
                "a masked run can be differentiated once, since its stacks are freed on the way; run it again"
            )
        _, _, _, _, *needed = ctx.needs_input_grad  # of the ablated values
        with matmul_precision(ctx.matmul):
            gradients = executor.backward(gradient, ablated=any(needed))
        rest = gradients.ablated.tensors() if gradients.ablated is not None else (None,) * len(needed)
        return None, None, None, gradients.masks, *rest
