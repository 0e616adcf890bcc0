"""Where along a path a gradient is taken, and what each point weighs."""

from typing import get_args

import numpy as np

from edgewise._errors import InputError
from edgewise.discovery._configs import Quadrature, check_points

QUADRATURES: tuple[Quadrature, ...] = get_args(Quadrature)
"""All kinds of `Quadrature`."""


def quadrature(points: int, kind: Quadrature = "gauss-legendre") -> list[tuple[float, float]]:
    """Points in [0, 1] and their weights, which sum to 1. 0 is ablated, 1 is clean.

    Args:
        points: how many, m.
        kind: `gauss-legendre`, exact for polynomials of degree 2m − 1 and never at an end; or a peer's grid:
            `left`, k/m from 0 on (EAP-IG's edges along the input: it starts at the corrupted prompt and never reaches
            the clean one); `right`, k/m up to 1 (EAP-IG along activations, and for nodes); `midpoint`;
            `trapezoid`, both ends included.

    Raises:
        InputError: there is no such rule, or too few points for it.
    """
    if kind not in QUADRATURES:
        raise InputError(f"quadrature {kind!r}: choose {', '.join(QUADRATURES)}")
    check_points("quadrature", points, kind)
    if kind == "gauss-legendre":
        nodes, weights = np.polynomial.legendre.leggauss(points)  # on [-1, 1]
        return [(float(x + 1) / 2, float(w) / 2) for x, w in zip(nodes, weights, strict=True)]
    if kind == "trapezoid":
        share = 1 / (points - 1)
        return [(k * share, share * (0.5 if k in (0, points - 1) else 1.0)) for k in range(points)]
    start = {"left": 0.0, "right": 1.0, "midpoint": 0.5}[kind]
    return [((k + start) / points, 1 / points) for k in range(points)]
