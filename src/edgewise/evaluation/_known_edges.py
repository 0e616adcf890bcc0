"""Scores against a set of edges that is known to be right: every threshold at once."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.integrate import trapezoid
from torch import Tensor

from edgewise._errors import InputError


@dataclass(frozen=True)
class Thresholds:
    """What a ranking finds of the known edges, keeping the highest scores down to each threshold in turn.

    Edges of one score are kept or left together, so no order among ties can help.
    """

    kept: NDArray[np.int64]
    """How many edges are kept, `[T]`, rising; the first is 0."""
    true_positives: NDArray[np.int64]
    """How many of them are known, `[T]`."""
    n_known: int
    n_edges: int

    @property
    def precision(self) -> NDArray[np.float64]:
        """Known edges / kept ones, `[T]`; 1 where none is kept."""
        return np.where(self.kept > 0, self.true_positives / np.maximum(self.kept, 1), 1.0)

    @property
    def recall(self) -> NDArray[np.float64]:
        """Kept known edges / all known ones, `[T]`."""
        return self.true_positives / self.n_known

    @property
    def false_positive_rate(self) -> NDArray[np.float64]:
        """Kept other edges / all others, `[T]`."""
        return (self.kept - self.true_positives) / (self.n_edges - self.n_known)

    @property
    def auroc(self) -> float:
        """Area under recall over the false positive rate, trapezoids (a tie counts half)."""
        return float(trapezoid(self.recall, self.false_positive_rate))


def against_known(scores: Float[Tensor, " E"], known: Bool[Tensor, " E"]) -> Thresholds:
    """Compare scores with known edges over all thresholds.

    Args:
        scores: one per edge, higher for edges that should be kept; give absolute values to rank by those. An edge
            without a score (NaN) comes last.
        known: the edges that are right.

    Raises:
        InputError: the shapes differ, or all edges or none are known.
    """
    if scores.shape != known.shape or scores.ndim != 1:
        raise InputError(f"known edges: scores of shape {tuple(scores.shape)}, edges of {tuple(known.shape)}")
    n_edges, n_known = len(known), int(known.sum())
    if not 0 < n_known < n_edges:
        raise InputError(f"known edges: {n_known} of {n_edges} are known; there is nothing to tell apart")
    values = np.nan_to_num(-scores.detach().double().cpu().numpy(), nan=np.inf, posinf=np.inf, neginf=-np.inf)
    _, place = np.unique(values, return_inverse=True)  # equal scores have one place
    order = np.argsort(place, kind="stable")
    ends = np.flatnonzero(np.diff(place[order], append=-1)) + 1  # after each run of equal scores
    found = np.cumsum(known.cpu().numpy()[order])
    kept = np.concatenate([[0], ends])
    return Thresholds(kept, np.concatenate([[0], found[ends - 1]]), n_known, n_edges)


def auroc(scores: Float[Tensor, " E"], known: Bool[Tensor, " E"]) -> float | None:
    """Area under the curve of true against false positives over all thresholds: the chance that a known edge scores
    above another, ties counting half (Mann & Whitney 1947); None where all edges or none are known.
    """
    if not 0 < int(known.sum()) < len(known):
        return None
    return against_known(scores, known).auroc
