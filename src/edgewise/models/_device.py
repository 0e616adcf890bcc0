"""The device that a user names."""

import torch
from torch import nn

from edgewise._errors import InputError


def usable_device(device: str | torch.device | None) -> torch.device:
    """The device on which a tensor lies that is made there, with its number; PyTorch's default if None.

    Raises:
        InputError: PyTorch knows no such device, or sees none here.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # PyTorch asserts that it was built with CUDA
        raise InputError(
            f"device {str(device)!r}: not available here; use cpu, or a device that PyTorch sees"
        ) from error


def check_places(module: nn.Module) -> None:
    """Refuse weights on several devices, or left in files, as `device_map` places them: a run's stack lies on one.
    Raises `InputError`.
    """
    places = {str(x.device): None for x in module.parameters()}
    if "disk" in getattr(module, "hf_device_map", {}).values():  # transformers' own name for it
        places["disk"] = None
    if len(places) > 1:
        raise InputError(
            f"model: its weights lie on several devices ({', '.join(places)}), as device_map places them; load it "
            "without, or with offload='disk' or offload='cpu' (docs/scale.md)"
        )
