"""A metric of many circuits on the same examples."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from edgewise._errors import InputError
from edgewise.engine import Engine
from edgewise.tasks import Task, metric_function, reduce


@torch.no_grad()
def performances(
    engine: Engine,
    masks: Mapping[str, Bool[Tensor, " E"]],
    task: Task,
    metric: str | None,
    split: str,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
    what: str = "hypothesis tests",
) -> dict[str, NDArray[np.float64]]:
    """The metric of every circuit on every example, `[n]` each; `model` is the full model, whatever its mask.

    Raises:
        InputError: it is not finite somewhere.
    """
    score, device = metric_function(metric or task.metric), engine.model.device
    found: dict[str, list[Tensor]] = {name: [] for name in masks}
    batches = list(task.batches(split, batch_size))
    for number, batch in enumerate(batches):
        batch = batch.to(device)
        full = engine.full(batch)
        batch = batch.with_full_logits(full)
        for done, (name, mask) in enumerate(masks.items()):
            logits = full if name == "model" else engine.run(batch, mask.to(device, torch.float32))
            found[name].append(reduce(score(logits, batch), batch).double().cpu())
            if progress is not None:
                progress(number * len(masks) + done + 1, len(batches) * len(masks))
    values = {name: torch.cat(each).numpy() for name, each in found.items()}
    if bad := next((name for name, each in values.items() if not np.isfinite(each).all()), None):
        raise InputError(f"{what}: the metric is not finite for some example of {bad}; choose another")
    return values


def without(kept: Bool[Tensor, " E"], edge: int) -> Bool[Tensor, " E"]:
    """The same edges but one."""
    return kept.index_fill(0, torch.tensor([edge]), False)
