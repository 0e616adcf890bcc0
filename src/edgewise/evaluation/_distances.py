"""Distances from the full model beside those that tasks have: each direction and each way to weigh a difference says
something else. All have the form of a task's metrics (`edgewise.tasks.Score`): one value per target.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from edgewise._errors import InputError
from edgewise.tasks import LOWER_IS_BETTER as TASKS_LOWER
from edgewise.tasks import METRICS, OUTPUT_METRICS, SET_METRICS, Batch, Score, metric_function

N_LIKELIEST = 100
"""How many of the full model's likeliest tokens `kendall_tau` ranks."""


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
    on.
    """
    full, own = (_precise(each) for each in (_full(batch, "logit_l2"), logits))
    return (own - own.mean(-1, keepdim=True) - (full - full.mean(-1, keepdim=True))).norm(dim=-1)


def kendall_tau(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """Kendall's τ-b between the circuit's and the full model's order of the full model's 100 likeliest tokens: 1 for
    the same order, −1 for the opposite, 0 where the circuit tells none apart.
    """
    full = _full(batch, "kendall_tau")
    tokens = full.topk(min(N_LIKELIEST, full.shape[-1]), dim=-1).indices  # (A, K)
    return _tau(logits, full, [row.cpu() for row in tokens])


def answers_tau(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """Kendall's τ-b between the circuit's and the full model's order of the right and wrong answers, such as the years
    of greater-than (Hanna et al. 2023; Bhaskar et al. 2024). A target with fewer than two answers in all is 0.
    """
    both = torch.cat([batch.answers, batch.wrong], 1)
    return _tau(logits, _full(batch, "answers_tau"), [row[row >= 0].cpu() for row in both])


DISTANCES: dict[str, Score] = {
    "reverse_kl": reverse_kl,
    "js": js,
    "logit_l2": logit_l2,
    "kendall_tau": kendall_tau,
    "answers_tau": answers_tau,
}
"""Metrics that evaluation knows beside those of `edgewise.tasks`."""
LOWER_IS_BETTER = TASKS_LOWER | {"reverse_kl", "js", "logit_l2"}
"""The metrics of which less is better, of both."""


def metric_named(metric: str | Score) -> Score:
    """The metric of that name, of tasks or of evaluation, or the user's own callable. Raises `InputError`."""
    if isinstance(metric, str) and metric in DISTANCES:
        return DISTANCES[metric]
    if isinstance(metric, str) and metric not in KNOWN:
        raise InputError(f"metric {metric!r}: choose {', '.join(KNOWN)}")
    return metric_function(metric)


KNOWN = (*METRICS, *SET_METRICS, *DISTANCES, *OUTPUT_METRICS)
"""The names of all metrics."""


def _tau(logits: Tensor, full: Tensor, tokens: list[Int[Tensor, " K"]]) -> Tensor:
    own, model = _precise(logits).detach().cpu(), _precise(full).detach().cpu()
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
    return _precise(_full(batch, name)).log_softmax(-1), _precise(logits).log_softmax(-1)


def _precise(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _full(batch: Batch, name: str) -> Float[Tensor, "A V"]:
    if batch.full_logits is None:
        raise InputError(f"{name} compares with the full model; give the batch its logits with batch.with_full_logits")
    return batch.full_logits
