"""Tests of what a circuit is said to be (Shi et al. 2024, "Hypothesis Testing the Circuit Hypothesis in LLMs", arXiv
2410.13032).

Two of them look at the circuit and its complement, example by example: *equivalence* (circuit and model outdo each
other equally often) and *independence* (the complement's performance says nothing about the model's). *Minimality* asks
of each edge whether it matters more than an edge added at random. The other two compare with random circuits of the
same size: *sufficiency* (the circuit is closer to the model than they are) and *partial necessity* (removing it does
more harm than removing them). In the first three a small p-value speaks against the circuit, in the last two for it.

Here "performance" is a task's metric per example, and the distance of two performances is the mean of |s(C) − s(M)|
over the examples.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats

from edgewise._errors import InputError
from edgewise.evaluation._areas import ROUNDING
from edgewise.runs import check_counts

EPSILON = 0.1  # tolerance of the equivalence test (Shi et al. 2024, section 3)
QUANTILE = 0.9  # q* of the other tests (ibid.)


@dataclass(frozen=True)
class Verdict:
    """The result of one test."""

    name: str
    statistic: float
    p_value: float
    """Of the least favourable edge, corrected, for minimality."""
    rejected: bool
    """Whether the null hypothesis is rejected."""
    supports: bool
    """Whether that speaks for the circuit."""
    n: int
    """Examples, permutations or random circuits that the p-value rests on."""
    details: dict[str, Any] = field(default_factory=dict)


def equivalence(
    circuit: NDArray[np.floating], model: NDArray[np.floating], *, epsilon: float = EPSILON, alpha: float = 0.05
) -> Verdict:
    """H0: |P(s(C) > s(M)) − ½| ≤ ε. Rejecting it speaks against the circuit.

    The p-value is the chance that, with the probability at the edge of the null, ½ + ε, the observed share would lie as
    far from ½ or farther. A tie counts as half a win; so does a difference below 1e-5 of the largest value, which in
    float32 is rounding.

    Args:
        circuit: the circuit's performance on each example, `[n]`.
        model: the full model's.
        epsilon: the tolerance ε.
        alpha: the level of the test.

    Raises:
        InputError: there are fewer than two examples, or a value is not finite.
    """
    n = _same_length(circuit, model)
    margin = _margin(circuit, model)
    wins = float((circuit > model + margin).sum() + 0.5 * (np.abs(circuit - model) <= margin).sum())
    far = np.abs(np.arange(n + 1) / n - 0.5) >= abs(wins / n - 0.5) - 1e-12
    p_value = float(min(1.0, stats.binom.pmf(np.arange(n + 1), n, 0.5 + epsilon)[far].sum()))
    rejected = p_value < alpha
    return Verdict("equivalence", wins / n, p_value, rejected, not rejected, n, {"epsilon": epsilon, "alpha": alpha})


def independence(
    complement: NDArray[np.floating],
    model: NDArray[np.floating],
    *,
    permutations: int = 1000,
    alpha: float = 0.05,
    seed: int = 0,
) -> Verdict:
    """H0: the complement's performance is independent of the full model's. Rejecting it speaks against the circuit.

    A permutation test of the Hilbert–Schmidt independence criterion (Gretton et al. 2007), with Gaussian kernels whose
    widths are the medians of each variable's own distances.

    Args:
        complement: the performance of the model without the circuit's edges on each example, `[n]`.
        model: the full model's.
        permutations: how many.
        alpha: the level of the test.
        seed: of the permutations.

    Raises:
        InputError: there are fewer than two examples, no permutations, or a value is not finite.
    """
    n = _same_length(complement, model)
    check_counts("independence", permutations=permutations)
    one, other = (_centred_kernel(values) for values in (complement, model))
    observed = float((one * other).sum()) / (n - 1) ** 2
    generator = np.random.default_rng(seed)
    drawn = np.empty(permutations)
    for number in range(permutations):
        order = generator.permutation(n)
        drawn[number] = float((one * other[np.ix_(order, order)]).sum()) / (n - 1) ** 2
    p_value = float((1 + (drawn >= observed * (1 - 1e-9)).sum()) / (1 + permutations))
    rejected = p_value < alpha
    details = {"alpha": alpha, "null_mean": float(drawn.mean())}
    return Verdict("independence", observed, p_value, rejected, not rejected, permutations, details)


def sufficiency(
    circuit: float, random: NDArray[np.floating], *, quantile: float = QUANTILE, alpha: float = 0.05
) -> Verdict:
    """H0: the circuit is closer to the model than a random one with probability at most q*. Rejecting it speaks for the
    circuit.

    Args:
        circuit: the circuit's distance to the full model.
        random: those of random circuits of the same size, `[n]`.
        quantile: q*.
        alpha: the level of the test.

    Raises:
        InputError: there are no random circuits, a value is not finite, or `quantile` or `alpha` is no share.
    """
    _check_finite("sufficiency", circuit, random)
    nearer = circuit < random - _margin(circuit, random)
    return _against_random("sufficiency", int(nearer.sum()), len(random), quantile, alpha)


def partial_necessity(
    complement: float, random: NDArray[np.floating], *, quantile: float = QUANTILE, alpha: float = 0.05
) -> Verdict:
    """H0: removing the circuit does more harm than removing a random one with probability at most q*. Rejecting it
    speaks for the circuit.

    Args:
        complement: the distance to the full model of the model without the circuit's edges.
        random: those of the model without random circuits of the same size, `[n]`.
        quantile: q*.
        alpha: the level of the test.

    Raises:
        InputError: there are no random circuits, a value is not finite, or `quantile` or `alpha` is no share.
    """
    _check_finite("partial necessity", complement, random)
    farther = complement > random + _margin(complement, random)
    return _against_random("partial necessity", int(farther.sum()), len(random), quantile, alpha)


def minimality(
    effects: NDArray[np.floating], random: NDArray[np.floating], *, quantile: float = QUANTILE, alpha: float = 0.05
) -> Verdict:
    """H0 for each edge: its effect exceeds that of an edge added at random with probability at least q*. The circuit is
    not minimal if it is rejected for any edge, at the level α divided by the number of edges (Bonferroni).

    Args:
        effects: the distance between the circuit with and without each of its edges, `[edges]`.
        random: the distance between inflated circuits with and without one of the added edges, `[n]`.
        quantile: q*.
        alpha: the level over all edges.

    Returns:
        The result; `details["unnecessary"]` are the places in `effects` for which the hypothesis is rejected.

    Raises:
        InputError: there are no edges or no random circuits, a value is not finite, or `quantile` or `alpha` is no
            share.
    """
    check_numbers(len(random), len(effects), quantile, alpha)
    _check_finite("minimality", effects, random)
    larger = (effects[:, None] > random[None] + _margin(effects, random)).sum(1)
    p_values = stats.binom.cdf(larger, len(random), quantile)
    corrected = np.minimum(1.0, p_values * len(effects))
    details = {
        "quantile": quantile,
        "alpha": alpha,
        "edges": len(effects),
        "share_larger": (larger / len(random)).tolist(),
        "unnecessary": np.flatnonzero(corrected < alpha).tolist(),
    }
    least = float(corrected.min())
    return Verdict(
        "minimality", float((larger / len(random)).min()), least, least < alpha, least >= alpha, len(random), details
    )


def check_numbers(n_random: int, n_edges: int, quantile: float, alpha: float) -> None:
    """Refuse what no test can be made of: no random circuits or no edges, or a q* or level that is no share. Raises
    `InputError`.
    """
    if n_random < 1 or n_edges < 1:
        raise InputError(f"hypothesis tests: {n_random} random circuits, {n_edges} edges; give one or more of each")
    for name, share in (("quantile", quantile), ("alpha", alpha)):
        if not 0 <= share <= 1:
            raise InputError(f"hypothesis tests: {name}={share:g} is no share; give a number from 0 to 1")


def _against_random(name: str, better: int, n: int, quantile: float, alpha: float) -> Verdict:
    check_numbers(n, 1, quantile, alpha)
    p_value = float(stats.binomtest(better, n, quantile, alternative="greater").pvalue)
    rejected = p_value < alpha
    return Verdict(name, better / n, p_value, rejected, rejected, n, {"quantile": quantile, "alpha": alpha})


def _margin(*values: float | NDArray[np.floating]) -> float:
    """What may be rounding of the largest."""
    return ROUNDING * max(float(np.abs(each).max(initial=0.0)) for each in map(np.asarray, values))


def _centred_kernel(values: NDArray[np.floating]) -> Float[np.ndarray, "n n"]:
    """A Gaussian kernel's matrix, centred; 0 for values that are all equal."""
    apart = np.abs(values[:, None] - values[None])
    width = float(np.median(apart[~np.eye(len(values), dtype=bool)]))
    if not width:  # more than half of all pairs are equal: the median says nothing of the others
        positive = apart[apart > 0]
        width = float(np.median(positive)) if len(positive) else 1.0
    kernel = np.exp(-(apart**2) / (2 * width**2))
    kernel -= kernel.mean(0)
    return kernel - kernel.mean(1, keepdims=True)


def _same_length(one: NDArray[np.floating], other: NDArray[np.floating]) -> int:
    if one.shape != other.shape or one.ndim != 1 or len(one) < 2:
        raise InputError(f"tests: values of shapes {one.shape} and {other.shape}; give one per example, two or more")
    _check_finite("tests", one, other)
    return len(one)


def _check_finite(what: str, *values: float | NDArray[np.floating]) -> None:
    """Refuse what compares with nothing, and so would look like a verdict. Raises `InputError`."""
    if not all(np.isfinite(each).all() for each in values):
        raise InputError(f"{what}: a value is NaN or infinite; give finite ones")
