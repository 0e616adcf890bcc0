"""Candidates for a graph's nodes: the features or neurons of largest effect, and what choosing them cost."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.discovery._cost import Cost


class Candidates(dict[int, tuple[int, ...]]):
    """By layer, the chosen features or neurons, ascending: for `model.graph(features=…)` or `(neurons=…)`."""

    record: dict[str, Any]
    """How they were chosen, on how many examples of which split, and at what cost, as plain values for a result."""

    def __init__(self, chosen: Mapping[int, tuple[int, ...]], record: Mapping[str, Any] | None = None) -> None:
        """With nothing to say of them if no record is given."""
        super().__init__(chosen)
        self.record = dict(record or {})


def largest_candidates(
    effects: Mapping[int, Float[Tensor, " F"]],
    n: int,
    per: Literal["layer", "all"],
    what: Literal["features", "neurons"],
    record: Mapping[str, Any],
) -> Candidates:
    """The candidates whose effects are the largest in size.

    Args:
        effects: by layer.
        n: how many.
        per: `layer`: so many of each layer; `all`: so many of all together.
        what: in error texts.
        record: how the effects were found.

    Raises:
        edgewise.InputError: there are not so many, or an effect is not finite.
    """
    check_choice(per, what)
    if any(not bool(each.isfinite().all()) for each in effects.values()):
        raise InputError(f"{what}: an effect is not finite; look at the metric and the model's weights")
    sizes = [len(each) for each in effects.values()]
    most = min(sizes) if per == "layer" else sum(sizes)
    if not 0 <= n <= most:
        who = "transcoders" if what == "features" else "MLPs"
        raise InputError(f"{what}: n={n}; the {who} have {most}" + (" at least, each" if per == "layer" else ""))
    if per == "layer":
        found = [each.abs().argsort(descending=True, stable=True)[:n] for each in effects.values()]
    else:
        order = torch.cat(list(effects.values())).abs().argsort(descending=True, stable=True)[:n]
        kept = torch.zeros(sum(sizes), dtype=torch.bool)
        kept[order] = True
        found = [each.nonzero()[:, 0] for each in kept.split(sizes)]
    chosen = {layer: tuple(sorted(each.tolist())) for layer, each in zip(effects, found, strict=True)}
    return Candidates(chosen, {**record, "what": what, "n": n, "per": per})


def check_choice(per: str, what: str) -> None:
    """Refuse another way of counting. Raises `InputError`."""
    if per not in ("layer", "all"):
        raise InputError(f"{what}: per={per!r}; choose layer or all")


def choice_record(how: str, split: str, cost: Cost) -> dict[str, Any]:
    """What a result says of a choice."""
    return {"by": how, "split": split, "cost": cost.record()}
