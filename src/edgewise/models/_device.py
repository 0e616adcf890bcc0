"""The device that a user names."""

import torch

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
