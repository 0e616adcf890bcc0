"""EAP and EAP-IG once more, on hooks; every edge's score from one product for all writers and readers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.discovery.hook_scores import _between
from tests.discovery.hooks import Layout, reader_gradients, write_differences
from tests.independent.circuits import Edge


def eap_scores(
    module: Any,
    layout: Layout,
    pair: Any,
    metric: Callable[[Tensor], Tensor],
    edges: list[Edge],
    points: list[tuple[float, float]] | None = None,
) -> Tensor:
    """⟨∂metric/∂x_r, z_w − z̃_w⟩ of each edge, for one pair under interchange.

    Args:
        module: the user's model.
        layout: where its pieces are.
        pair: with `clean` and `corrupted` token ids.
        metric: of the logits `[S, V]`.
        edges: all of the graph's.
        points: of the input path from the corrupted prompt, each with its weight (EAP-IG); None: the clean prompt.
    """
    clean, corrupted = torch.tensor(pair.clean), torch.tensor(pair.corrupted)
    differences = write_differences(module, layout, clean, corrupted)
    gradients = dict[str, Tensor]()
    for alpha, weight in points or [(1.0, 1.0)]:
        moved = None if points is None else _between(module, layout, clean, corrupted, alpha)
        for reader, found in reader_gradients(module, layout, clean, metric, moved).items():
            gradients[reader] = gradients.get(reader, 0) + weight * found
    writers, readers = ({name: i for i, name in enumerate(each)} for each in (differences, gradients))
    d = torch.stack([each.flatten() for each in differences.values()])
    g = torch.stack([each.flatten() for each in gradients.values()])
    table = (d @ g.T).double()  # (W, R)
    return table[[writers[w] for w, _ in edges], [readers[r] for _, r in edges]]
