"""How fine the numbers of a device are."""

import torch


def finest(device: torch.device) -> torch.dtype:
    """float64, or float32 on Apple's GPUs (`mps`), which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
