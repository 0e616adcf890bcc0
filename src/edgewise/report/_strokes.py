"""How edges look: width, strength of ink and colour, from their scores."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from edgewise.graph import FEATURE_IN, KEY, LOGITS, MLP_IN, NEURON_IN, QUERY, VALUE
from edgewise.report._canvas import (
    INTO_FEATURE,
    INTO_KEY,
    INTO_LOGITS,
    INTO_MLP,
    INTO_QUERY,
    INTO_VALUE,
    NEGATIVE,
    POSITIVE,
)

INPUT_COLOURS = {
    QUERY: ("into q", INTO_QUERY),
    KEY: ("into k", INTO_KEY),
    VALUE: ("into v", INTO_VALUE),
    MLP_IN: ("into an MLP", INTO_MLP),
    FEATURE_IN: ("into a feature", INTO_FEATURE),
    NEURON_IN: ("into a neuron", INTO_FEATURE),
    LOGITS: ("into logits", INTO_LOGITS),
}
THINNEST, FAINTEST = 0.35, 0.3
"""Line width in points and depth of colour of an edge whose score is nothing beside the largest."""
UNSCORED = 0.3
"""Strength of edges without scores."""


class Strokes(NamedTuple):
    """Lines for `n` edges, in the order of the edges."""

    strength: Float[np.ndarray, " n"]
    """Between 0 and 1."""
    ink: Float[np.ndarray, "n 3"]
    """Red, green, blue; the weaker the edge, the paler. Not transparent: faint lines on one lane would add up."""
    legend: list[tuple[str, str]]
    """Label and colour of each colour in use."""
    scale: list[tuple[str, float]]
    """Label and strength of some scores, for the width's key; empty without scores."""
    widest: float

    def width(self, strength: float) -> float:
        """Line width in points."""
        return THINNEST + (self.widest - THINNEST) * strength


def is_signed(scores: Float[np.ndarray, " n"], signed: bool | None) -> bool:
    """Whether sign gives colour and absolute value weight: as asked, or if None, whether any score is negative."""
    return bool((scores < 0).any()) if signed is None else signed


def weigh(scores: Float[np.ndarray, " n"], signed: bool) -> Float[np.ndarray, " n"]:
    """Weight of each edge, at least 0: its absolute score, or its score above 0 or above the lowest negative one."""
    scores = _finite(scores)
    return np.abs(scores) if signed else scores - _base(scores, signed)


def strokes(
    scores: Float[np.ndarray, " n"] | None, kinds: Int[np.ndarray, " n"], signed: bool | None = None
) -> Strokes:
    """The looks of edges by their scores and their readers' kinds (as in `Graph.reader_kind`).

    If `signed`, colour by sign and weigh by absolute value; else colour by input and weigh by value. None is signed if
    any score is negative.
    """
    count = len(kinds)
    widest = float(np.clip(3.4 * max(count, 1) ** -0.1, 1.6, 2.6))
    by_input = [INPUT_COLOURS[int(kind)][1] for kind in kinds]
    inputs = [INPUT_COLOURS[kind] for kind in INPUT_COLOURS if (kinds == kind).any()]
    if scores is None or not count:
        return Strokes(np.full(count, UNSCORED), _ink(by_input, np.full(count, 0.7)), inputs, [], widest)
    signed = is_signed(scores, signed)
    weight = weigh(scores, signed)
    largest = float(weight.max()) or 1.0
    # The square root keeps the many small scores visible beside a few large ones; the key shows what a width means.
    strength = np.sqrt(weight / largest)
    name, base = "|score|" if signed else "score", _base(_finite(scores), signed)
    scale = [(f"{name} {share * largest + base:.2g}", share**0.5) for share in (1.0, 0.25, 0.04)]
    if not signed:
        return Strokes(strength, _ink(by_input, strength), inputs, scale, widest)
    colours = [NEGATIVE if score < 0 else POSITIVE for score in scores]
    legend = [entry for entry in (("positive score", POSITIVE), ("negative score", NEGATIVE)) if entry[1] in colours]
    return Strokes(strength, _ink(colours, strength), legend, scale, widest)


def _base(scores: Float[np.ndarray, " n"], signed: bool) -> float:
    return 0.0 if signed else float(scores.min(initial=0.0))


def _ink(colours: list[str], strength: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
    rgb = np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)] for colour in colours]).reshape(-1, 3)
    opacity = FAINTEST + (1 - FAINTEST) * strength[:, None] ** 0.75
    return 1 - opacity * (1 - rgb)


def _finite(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """`scores` with what is infinite at the largest finite value and what is no number at 0."""
    scores = scores.astype(np.float64)
    finite = np.abs(scores[np.isfinite(scores)])
    largest = float(finite.max()) if len(finite) else 1.0
    return np.nan_to_num(scores, nan=0.0, posinf=largest, neginf=-largest)
