"""PyTorch's modes that a caller may have set for everything within: the one place that says which of them we run in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from edgewise._errors import InputError


@contextmanager
def gradients() -> Iterator[None]:
    """Let gradients be taken within, though the caller has switched them off.

    Raises:
        InputError: in inference mode, whose tensors can have none, wherever they are used.
    """
    if torch.is_inference_mode_enabled():
        raise InputError(
            "torch.inference_mode() is on, and gradients are needed here; call this outside it (torch.no_grad() may "
            "stay on)"
        )
    with torch.enable_grad():
        yield


def check_autocast(device: torch.device) -> None:
    """Refuse autocast, which would round products in some places and not in others. Raises `InputError`."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):  # meta has none
        raise InputError(
            f"torch.autocast is on for {device.type}, under which circuit and model would be rounded differently; call "
            "this outside it, or load the model in the type wanted"
        )
