"""Random prompts to try a model or an engine on, and how far two results may be apart."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from edgewise.models import Model, Tokens

TOLERANCE = 1e-5
"""Of the largest logit, in float32 (and in float64, since transformers' RMS norms round to float32 all the same).

Coarser types get their own rounding instead: 16 units in the last place.
"""
ROUND_OFFS = 8
"""How many times its own round-off the engine may be from the module: where attention is nearly a tie, the
noise of two orders of summation differs by a few times."""
SHORT, LONG = 9, 256
"""Tokens of the longer prompt that every model is tried on, and of the longest that an attention window asks for: a
plain run of it costs what a few runs of the short ones under masks do."""


def random_prompts(model: Model) -> Any:
    """A batch of two random pairs of unequal length, judged at their ends."""
    generator = torch.Generator("cpu").manual_seed(0)
    n_tokens = getattr(model.module.config, "vocab_size", 2)
    longest = min(SHORT, model.parts.n_positions or SHORT)
    lengths = torch.tensor([longest, max(1, longest - 3)], device="cpu")  # whatever PyTorch's default device is
    mask = torch.arange(longest, device="cpu") < lengths[:, None]
    clean, corrupted = (
        Tokens(torch.randint(n_tokens, mask.shape, generator=generator, device="cpu"), mask).to(model.device)
        for _ in range(2)
    )
    row, position = torch.arange(2, device="cpu"), lengths - 1
    targets = {"row": row.to(model.device), "position": position.to(model.device)}
    spans = torch.zeros_like(clean.ids)  # read only where edges carry positions
    return SimpleNamespace(clean=clean, corrupted=corrupted, span_id=spans, align=None, **targets)


def prompt_beyond_windows(model: Model) -> Any:
    """A random prompt two tokens longer than the widest attention window that the parts or the module's configuration
    name, judged at these two, which do not see the first tokens. None where all are within `random_prompts`, or beyond
    `LONG`.
    """
    named = getattr(model.module.config, "__dict__", {}).items()
    windows = [value for name, value in named if name.endswith(("window", "window_size"))]
    windows += [layer.attention.window for layer in model.parts.stored]
    found = [n for n in windows if isinstance(n, int) and SHORT <= n <= LONG - 2]
    longest = min(max(found, default=0) + 2, model.parts.n_positions or LONG)
    if longest <= SHORT:
        return None
    generator, device = torch.Generator("cpu").manual_seed(1), model.device
    n_tokens = getattr(model.module.config, "vocab_size", 2)
    ids = torch.randint(n_tokens, (1, longest), generator=generator, device="cpu").to(device)
    position = torch.tensor([longest - 2, longest - 1], device=device)
    return SimpleNamespace(clean=Tokens(ids, torch.ones_like(ids).bool()), row=position * 0, position=position)


def allowed_error(model: Model) -> float:
    """How far logits may be off, as a share of the largest."""
    return max(TOLERANCE, 16 * torch.finfo(model.dtype).eps)


def worst(errors: list[float]) -> float:
    """The largest error; NaN if one is NaN, which Python's max may drop."""
    return float(torch.tensor(errors).max())


def distance(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference."""
    return float((a.cpu().double() - b.cpu().double()).abs().max())
