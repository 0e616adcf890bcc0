"""How fine the numbers of a device are, and which type it multiplies fastest in, by what it says of itself."""

from typing import Literal

import torch


def finest(device: torch.device) -> torch.dtype:
    """float64, or float32 on Apple's GPUs (`mps`), which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def fastest_precision(device: torch.device) -> Literal["bfloat16", "float32"]:
    """`bfloat16` where the processor has instructions for it, or is no CPU; else `float32`, since products in bfloat16
    are then put together from others, several times slower.
    """
    if device.type != "cpu":
        return "bfloat16"
    return "bfloat16" if any(_of_bfloat16()) else "float32"


def _of_bfloat16() -> list[bool]:
    """Whether a CPU has each set of instructions for bfloat16 that PyTorch knows of."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # from PyTorch 2.11 on or so
    if capabilities is not None:
        return [bool(has) for name, has in capabilities().items() if "bf16" in name]
    known = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return [bool(ask()) for ask in known if ask is not None]
