"""A metric of one's own, as docs/extending.md shows it: how much probability the likeliest token has."""

import torch

from edgewise.tasks import Batch, Metric, register_metric


def confidence(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The likeliest token's probability, `[A, V]` to `[A]`."""
    return logits.softmax(-1).amax(-1)


register_metric(Metric("confidence", confidence, unit="probability", needs_full_model=False))
