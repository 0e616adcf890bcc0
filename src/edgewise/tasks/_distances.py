"""Further distances from the full model: each direction and each way to weigh a difference says something else."""

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from edgewise.tasks._metrics import full_model_logits, over_targets, precise
from edgewise.tasks._pairs import Batch

N_LIKELIEST = 100
"""How many of the full model's likeliest tokens `kendall_tau` ranks."""
_ROUNDING = 1e-5
"""Logits as near to the full model's as this, in shares of their norm, are the full model's."""


def reverse_kl(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """KL(circuit ‖ full model) in nats: high where the circuit says what the model never would, as KL(full ‖ circuit)
    is where the circuit misses what the model says.
    """
    full, own = _log_probabilities(logits, batch, "reverse_kl")
    return (own.exp() * (own - full)).sum(-1)


def js(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """Jensen–Shannon divergence in nats: the mean KL of both to their mixture; between 0 and ln 2 (Lin 1991)."""
    full, own = _log_probabilities(logits, batch, "js")
    mixture = torch.logaddexp(full, own) - np.log(2.0)
    return ((full.exp() * (full - mixture)).sum(-1) + (own.exp() * (own - mixture)).sum(-1)) / 2


def logit_l2(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """Euclidean distance of the logits, each taken less its own mean over the vocabulary, which no prediction depends
    on. At the full model the gradient is 0: a norm's own would be a unit vector in the direction of the rounding.
    """
    full, own = (precise(each) for each in (full_model_logits(batch, "logit_l2"), logits))
    full, own = (each - each.mean(-1, keepdim=True) for each in (full, own))
    distance = (own - full).norm(dim=-1)
    return torch.where(distance > _ROUNDING * full.norm(dim=-1), distance, distance.detach())


def kendall_tau(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """Kendall's τ-b between the circuit's and the full model's order of the full model's 100 likeliest tokens: 1 for
    the same order, −1 for the opposite, 0 where the circuit tells none apart.
    """
    full = full_model_logits(batch, "kendall_tau")
    tokens = full.topk(min(N_LIKELIEST, full.shape[-1]), dim=-1).indices  # (A, K)
    return _tau(logits, full, [row.cpu() for row in tokens])


def answers_tau(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """Kendall's τ-b between the circuit's and the full model's order of the right and wrong answers, such as the years
    of greater-than (Hanna et al. 2023; Bhaskar et al. 2024).

    Targets with fewer than two answers in all have no order and do not enter: they are 0, and the example's other
    targets weigh accordingly more. An example without any other target is 0.
    """
    both = torch.cat([batch.answers, batch.wrong], 1)
    taus = _tau(logits, full_model_logits(batch, "answers_tau"), [row[row >= 0].cpu() for row in both])
    return over_targets(taus, (both >= 0).sum(-1) > 1, batch).nan_to_num()


def _tau(logits: Tensor, full: Tensor, tokens: list[Int[Tensor, " _"]]) -> Tensor:
    own, model = precise(logits).detach().cpu(), precise(full).detach().cpu()
    values = torch.zeros(own.shape[:-1], dtype=own.dtype)
    for target, chosen in enumerate(tokens):
        reference = model[target, chosen].numpy()
        rows = own[..., target, :][..., chosen].reshape(-1, len(chosen)).numpy()
        taus = [_kendall(row, reference) if len(chosen) > 1 else 0.0 for row in rows]
        values[..., target] = torch.tensor(np.nan_to_num(taus), dtype=own.dtype).view(values.shape[:-1])
    return values.to(logits.device)


def _kendall(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    return float(stats.kendalltau(one, other).statistic)  # pyright: ignore[reportAttributeAccessIssue] (scipy's stubs)


def _log_probabilities(logits: Tensor, batch: Batch, name: str) -> tuple[Tensor, Tensor]:
    return precise(full_model_logits(batch, name)).log_softmax(-1), precise(logits).log_softmax(-1)
