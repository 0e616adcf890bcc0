"""The functions of losses and metrics on the answers; `_metric.py` says all else that is known of them.

Each is a function of the logits at a batch's targets and of the batch, and gives one value per target; `reduce` makes
one value per example of them. All take any leading dimensions of the logits (several circuits in one pass), compute in
float32 at least, stay on the logits' device and never wait for it.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.tasks._pairs import Batch


def kl(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """KL(full model ‖ circuit) in nats, over the whole vocabulary; lower is better. Needs `batch.full_logits`."""
    full = precise(full_model_logits(batch, "kl")).log_softmax(-1)
    return (full.exp() * (full - precise(logits).log_softmax(-1))).sum(-1)


def log_prob(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """Log-probability that the next token is one of the answers; higher is better."""
    logits = precise(logits)
    return _any_of(logits, batch.answers) - logits.logsumexp(-1)


def cross_entropy(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """Minus `log_prob`; lower is better."""
    return -log_prob(logits, batch)


def logit_diff(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """Logit of the answer minus logit of the wrong answer; higher is better. A set counts with its logsumexp.

    Targets without a wrong answer do not enter: they are 0, and the example's other targets weigh accordingly more, so
    that an example's mean is the mean over the targets which have one. Where no target of an example has one, the
    difference does not exist and is NaN.

    Raises:
        InputError: no target of the batch has a wrong answer.
    """
    if batch.wrong.shape[-1] == 0:
        raise InputError('logit_diff needs wrong answers and these pairs have none; add them or use "log_prob"')
    logits = precise(logits)
    difference = _any_of(logits, batch.answers) - _any_of(logits, batch.wrong)
    return over_targets(difference, (batch.wrong >= 0).any(-1), batch)


def prob_diff(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """Probability of the answers minus probability of the wrong answers, over the whole vocabulary; higher is better.

    On greater-than it is the probability difference of Hanna et al. 2023 (arXiv 2305.00586), whose pivot is the start
    year of the prompt itself. A target without a wrong answer counts with its answers alone.
    """
    return _probability(logits, batch.answers) - _probability(logits, batch.wrong)


def prob_diff_10(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """`prob_diff` of the first ten answers and the first ten wrong answers, where these are listed nearest first."""
    return _probability(logits, batch.answers[:, :10]) - _probability(logits, batch.wrong[:, :10])


def choice(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """1 where the likeliest of all answers and wrong answers is an answer, else 0; higher is better.

    Targets without a wrong answer do not enter, as in `logit_diff`: nothing could be chosen wrongly there. Where no
    target of an example has one, there is no choice and it is NaN.
    """
    logits = precise(logits)
    right = (_highest(logits, batch.answers) > _highest(logits, batch.wrong)).to(logits.dtype)
    return over_targets(right, (batch.wrong >= 0).any(-1), batch)


def presence(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """How much of the behaviour is there, from 0 to 1: the answers' share of the probability of answers and wrong
    answers, or the answers' probability where there is no wrong answer; higher is better. It is bounded, so asking for
    its absence cannot be paid for with ever more nonsense, as minus a logit difference can.
    """
    difference = _any_of(precise(logits), batch.answers)
    against = difference.new_full(batch.answers.shape[:1], -torch.inf).expand_as(difference)
    if batch.wrong.shape[-1]:
        against = torch.where((batch.wrong >= 0).any(-1), _any_of(precise(logits), batch.wrong), against)
    alone = log_prob(logits, batch).exp()
    return torch.where(against > -torch.inf, torch.sigmoid(difference - against.clamp(min=-1e30)), alone)


def accuracy(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """1 where the likeliest next token is one of the answers, else 0; higher is better."""
    logits = precise(logits)
    return (logits.argmax(-1, keepdim=True) == batch.answers).any(-1).to(logits.dtype)


def exact_match(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """1 where the likeliest next token is the full model's, else 0; higher is better. Needs `batch.full_logits`."""
    logits = precise(logits)
    return (logits.argmax(-1) == full_model_logits(batch, "exact_match").argmax(-1)).to(logits.dtype)


def squared_distance(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """Squared distance to the full model's outputs, summed over the outputs; lower is better. For models whose outputs
    are numbers rather than logits, such as compiled programs. Needs `batch.full_logits`.
    """
    return (precise(logits) - precise(full_model_logits(batch, "l2"))).square().sum(-1)


def mismatch(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """How wrong an output is, from 0 for the full model's to 1 for one far from it: `d / (d + 4 CLOSE²)`, where d is
    the squared distance; lower is better. It asks for equal outputs rather than near ones: once an output is wrong,
    it hardly matters how far. Needs `batch.full_logits`.
    """
    distance = squared_distance(logits, batch)
    return distance / (distance + 4 * CLOSE**2)


def close(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """1 where every output is within `CLOSE` of the full model's, else 0; higher is better. Needs the full model's."""
    logits = precise(logits)
    return ((logits - precise(full_model_logits(batch, "close"))).abs() <= CLOSE).all(-1).to(logits.dtype)


def value(logits: Float[Tensor, "*C A V"], batch: Batch) -> Float[Tensor, "*C A"]:
    """The first output itself, for models whose one output is a number."""
    return precise(logits)[..., 0]


CLOSE = 0.05
"""What counts as the same number, as Edge Pruning's evaluation of xproportion has it."""


def reduce(per_target: Float[Tensor, "*C A"], batch: Batch) -> Float[Tensor, "*C B"]:
    """The weighted mean over each example's targets.

    A NaN stays in its own example. The sum has a fixed order, so that the same numbers give the same bits on a GPU too.
    """
    weight = batch.weight.to(per_target.dtype)
    return _sum_by_example(per_target * weight, batch) / _sum_by_example(weight, batch)


def over_targets(
    per_target: Float[Tensor, "*C A"], entering: Bool[Tensor, " A"], batch: Batch
) -> Float[Tensor, "*C A"]:
    """Values of which an example's mean, by `reduce`, is the mean over the targets that enter: the others are 0, and
    these weigh accordingly more. NaN where none of an example's targets enters.
    """
    weight = batch.weight.to(per_target.dtype)
    share = (_sum_by_example(weight, batch) / _sum_by_example(weight * entering, batch))[batch.row]
    return torch.where(entering, per_target, 0) * share


def _sum_by_example(values: Float[Tensor, "*C A"], batch: Batch) -> Float[Tensor, "*C B"]:
    examples = torch.arange(batch.index.shape[0], device=values.device)
    belongs: Bool[Tensor, "B A"] = batch.row == examples[:, None]
    return torch.where(belongs, values[..., None, :], 0).sum(-1)


def _any_of(logits: Float[Tensor, "*C A V"], tokens: Int[Tensor, "A K"]) -> Float[Tensor, "*C A"]:
    """Logsumexp over each target's set of tokens; of an empty set something finite, for the caller to discard."""
    chosen = logits.gather(-1, tokens.clamp(min=0).expand(*logits.shape[:-1], tokens.shape[-1]))
    absent = (tokens < 0) & (tokens >= 0).any(-1, keepdim=True)
    return chosen.masked_fill(absent, -torch.inf).logsumexp(-1)


def _highest(logits: Float[Tensor, "*C A V"], tokens: Int[Tensor, "A K"]) -> Float[Tensor, "*C A"]:
    """The largest logit of each target's tokens; −∞ where there is none."""
    if tokens.shape[-1] == 0:
        return logits.new_full(logits.shape[:-1], -torch.inf)
    chosen = logits.gather(-1, tokens.clamp(min=0).expand(*logits.shape[:-1], tokens.shape[-1]))
    return chosen.masked_fill(tokens < 0, -torch.inf).amax(-1)


def _probability(logits: Float[Tensor, "*C A V"], tokens: Int[Tensor, "A K"]) -> Float[Tensor, "*C A"]:
    """The probability of each target's set of tokens; 0 of an empty set."""
    if tokens.shape[-1] == 0:
        return logits.new_zeros(logits.shape[:-1])
    probabilities = precise(logits).softmax(-1)
    chosen = probabilities.gather(-1, tokens.clamp(min=0).expand(*logits.shape[:-1], tokens.shape[-1]))
    return chosen.masked_fill(tokens < 0, 0).sum(-1)


def precise(logits: Tensor) -> Tensor:
    """In float32 at least."""
    return logits if logits.dtype == torch.float64 else logits.float()


def full_model_logits(batch: Batch, name: str) -> Float[Tensor, "A V"]:
    """The full model's logits, for the metric of this name. Raises `InputError`."""
    if batch.full_logits is None:
        raise InputError(f"{name} compares with the full model; give the batch its logits with batch.with_full_logits")
    return batch.full_logits
