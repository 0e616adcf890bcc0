"""The hard concrete distribution: a random mask in [0, 1] that is often exactly 0 or 1, yet differentiable.

Louizos, Welling & Kingma 2018 (arXiv 1712.01312), equations 10 to 12; constants as in Edge Pruning's code (after CoFi).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

TEMPERATURE = 2 / 3  # β, Louizos et al. 2018
LOW, HIGH = -0.1, 1.1  # γ and ζ, the stretched interval, Louizos et al. 2018
EVALUATION_FACTOR = 0.8  # Edge Pruning's `FACTOR`: its deterministic mask is σ(0.8 log α / β)
_SHIFT = TEMPERATURE * math.log(-LOW / HIGH)


def sample(log_alpha: Float[Tensor, " n"], noise: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Masks from uniform noise: `clamp(s (ζ − γ) + γ, 0, 1)` with `s = σ((logit u + log α) / β)`."""
    s = torch.sigmoid((torch.logit(noise) + log_alpha) / TEMPERATURE)
    return (s * (HIGH - LOW) + LOW).clamp(0, 1)


def probability_zero(log_alpha: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """P(mask = 0) = σ(β log(−γ / ζ) − log α) (equation 12)."""
    return torch.sigmoid(_SHIFT - log_alpha)


def deterministic(log_alpha: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Edge Pruning's mask for evaluation, before its smallest entries are cut: `σ(0.8 log α / β)`."""
    return torch.sigmoid(log_alpha / TEMPERATURE * EVALUATION_FACTOR)
