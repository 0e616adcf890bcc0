"""How exact a user's module is itself: its logits beside those that its weights give in float64."""

import copy
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def run_in_double(module: nn.Module, run: Callable[[nn.Module], Tensor]) -> Tensor | None:
    """What `run` gives of a module in float64.

    The weights are turned one part at a time, on a copy that shares them, so that it takes little memory. What a part
    rounds of its own accord stays: the norms of `transformers` compute in float32.

    Returns:
        None where there is no such number: the device has no float64, or parts use each other's weights.
    """
    twin: Any = copy.deepcopy(module, {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())})
    if hasattr(twin, "set_experts_implementation"):
        twin.set_experts_implementation("eager")  # the others take no float64
    for part in twin.modules():
        if any(True for _ in chain(part.parameters(recurse=False), part.buffers(recurse=False))):
            part.register_forward_pre_hook(_enter)
            part.register_forward_hook(_leave)
    try:
        return run(twin)
    except (RuntimeError, TypeError):
        return None


def _enter(part: nn.Module, _: Any) -> None:
    single = part.__dict__["_single"] = part._parameters, part._buffers
    part._parameters, part._buffers = ({name: _double(x) for name, x in own.items()} for own in single)


def _leave(part: nn.Module, *_: Any) -> None:
    part._parameters, part._buffers = part.__dict__.pop("_single")


def _double(x: Tensor | None) -> Any:
    return x.detach().double() if x is not None and x.is_floating_point() else x
