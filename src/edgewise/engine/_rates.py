"""How fast a machine does what a plan counts, measured in a moment."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

import torch

from edgewise.engine._execution import Execution
from edgewise.engine._footprint import WITH_MASKS, Footprint
from edgewise.engine._stack import chunk_tokens
from edgewise.graph import Graph
from edgewise.models import Model, usable_device

_SECONDS, _RUNS = 1.0, 9
"""How long each rate is measured, and how often, at least: of the runs the median counts."""
_LAYERS = 2
"""Whose weights are made for that."""


@dataclass(frozen=True)
class Rates:
    """Floating-point operations per second on one device."""

    weights: float
    """Of products of a batch's tokens with a layer's weights, turned into the type that they are used in."""
    masks: float
    """Of products of masks with the stack of differences."""
    full: float
    """Of products in the full model's own runs, whose tokens take the type of its weights."""

    def seconds(self, plan: Footprint, *, new_pairs: bool = False) -> float:
        """What a plan's operations take; the model's are done with weights, all others with masks.

        Args:
            plan: the plan.
            new_pairs: whether the full model runs on the step's pairs too, clean and corrupted.
        """
        of_model = sum(n for name, n in plan.operations.items() if name not in WITH_MASKS)
        of_masks = sum(n for name, n in plan.operations.items() if name in WITH_MASKS)
        of_full = 2 * plan.operations["model forward"] if new_pairs else 0
        return of_model / self.weights + of_masks / self.masks + of_full / self.full


@torch.no_grad()
def measured_rates(
    model: Model, graph: Graph, batch: int, length: int, *, device: str = "cpu", execution: Execution | None = None
) -> Rates:
    """Measure products of a plan's sizes on this machine, a second or a few each.

    Args:
        model: the model; its weights are not looked at, so it may be on the meta device.
        graph: its graph.
        batch: pairs per step.
        length: tokens per prompt.
        device: where to measure.
        execution: as for `Engine`; the defaults if None.

    Raises:
        InputError: there is no such device here.
    """
    usable_device(device)
    dtype = (execution or Execution()).dtype or torch.float32
    tokens, d_model, first = batch * length, model.parts.d_model, model.parts.stored[0]
    shape = first.mlp.inputs[0][0].shape if first.mlp.inputs else (d_model, 4 * d_model)
    # In turn, as many as two layers have: in a cache that holds one but no layer, one alone would be too fast.
    n_matrices = _LAYERS * (len(first.mlp.inputs) + 1)
    stored = cycle([torch.randn(shape, device=device).to(model.dtype) for _ in range(n_matrices)])
    x, operations = torch.randn(tokens, d_model, device=device).to(dtype), 2 * tokens * shape[0] * shape[1]
    weights = _rate(lambda: x @ next(stored).to(dtype), operations, device)
    own = x.to(model.dtype)
    full = weights if model.dtype == dtype else _rate(lambda: own @ next(stored), operations, device)
    readers, writers = graph.blocks[0].n_readers, max(1, graph.n_writers // 2)
    read = readers * d_model * first.attention.query.weight.shape[-1]
    kind = "cuda" if "cuda" in device else "cpu"
    width = d_model * min(tokens, chunk_tokens((readers + writers) * d_model, read, kind))
    mask, stack = torch.rand(readers, writers, device=device), torch.randn(writers, width, device=device)
    return Rates(weights, _rate(lambda: mask @ stack, 2 * readers * writers * width, device), full)


def _rate(run: Callable[[], object], operations: int, device: str) -> float:
    run()
    _finish(device)
    spent = list[float]()
    while len(spent) < _RUNS or sum(spent) < _SECONDS:
        start = time.perf_counter()
        run()
        _finish(device)
        spent.append(time.perf_counter() - start)
    return operations / statistics.median(spent)


def _finish(device: str) -> None:
    if "cuda" in device:
        torch.cuda.synchronize()
