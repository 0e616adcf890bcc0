"""The published metrics once more, of one pair at a time, from logits as lists of numbers say them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def of_pair(pair: Any, logits: Tensor, full: Tensor) -> dict[str, float]:
    """The means over a pair's targets: `kl`, `accuracy`, `exact_match`, `log_prob`, and with wrong answers in every
    target `logit_diff`, `choice` and `prob_diff`.

    Args:
        pair: with `targets` of `position`, `answers`, `wrong`.
        logits: what is judged, `[S, V]`.
        full: the full model's.
    """
    rows = list[dict[str, float]]()
    for target in pair.targets:
        said, model = (each[target.position].double() for each in (logits, full))
        p, q = torch.softmax(model, -1), torch.softmax(said, -1)
        right, wrong = list(target.answers), list(target.wrong)
        top = int(said.argmax())
        row = {
            "kl": float((p * (p.log() - torch.log_softmax(said, -1))).sum()),
            "accuracy": float(top in right),
            "exact_match": float(top == int(model.argmax())),
            "log_prob": float(q[right].sum().log()),
        }
        if wrong:
            row["logit_diff"] = float(said[right].exp().sum().log() - said[wrong].exp().sum().log())
            row["choice"] = float(said[right].max() > said[wrong].max())
            row["prob_diff"] = float(q[right].sum() - q[wrong].sum())
        rows.append(row)
    shared = set.intersection(*(set(row) for row in rows))
    return {name: sum(row[name] for row in rows) / len(rows) for name in sorted(shared)}


def means(rows: Iterable[dict[str, float]]) -> dict[str, float]:
    """Of many pairs."""
    rows = list(rows)
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def cpr_and_cmd(
    values: Callable[[int, bool], float], full: float, empty: float, shares: Sequence[float], n_edges: int
) -> tuple[float, float]:
    """MIB's areas: under f by signed score, and under |1 − f| by absolute score, over the share of edges.

    Args:
        values: the metric's mean for the circuit of so many edges, by absolute score or not.
        full: the full model's.
        empty: the empty circuit's.
        shares: sizes, rising.
        n_edges: all edges.
    """
    areas = []
    for absolute in (False, True):
        area = 0.0
        kept = [(values(int(share * n_edges), absolute) - empty) / (full - empty) for share in shares]
        heights = [abs(1 - f) if absolute else f for f in kept]
        for i in range(1, len(shares)):
            area += (shares[i] - shares[i - 1]) * (heights[i] + heights[i - 1]) / 2
        areas.append(area)
    return areas[0], areas[1]


def highest(scores: Sequence[float], k: int, absolute: bool) -> list[int]:
    """The `k` highest scores' places; of equal ones the lower place."""
    return sorted(range(len(scores)), key=lambda i: (-abs(scores[i]) if absolute else -scores[i], i))[:k]
