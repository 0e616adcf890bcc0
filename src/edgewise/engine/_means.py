"""Mean ablation: what every writer writes on average over a set of prompts."""

from collections.abc import Iterable

import torch

from edgewise._errors import InputError
from edgewise.engine._packing import pack
from edgewise.engine._writes import Writes, trace
from edgewise.graph import Graph
from edgewise.models import Model, Tokens


@torch.no_grad()
def mean_writes(model: Model, graph: Graph, prompts: Iterable[Tokens], *, positional: bool = False) -> Writes:
    """The writers' mean outputs over all tokens of some prompts, padding left out.

    Args:
        model: the model.
        graph: its graph.
        prompts: batches of prompts.
        positional: average position by position, counted from the first token; positions that few prompts reach rest on
            those few.

    Returns:
        Writes of shapes `[1, …]`, or `[S, …]` by position, for `Engine(constants=…)`.

    Raises:
        InputError: there is no prompt, or the graph has features, for which there are no means.
    """
    if graph.spec.features:
        raise InputError("mean ablation: the graph has features in MLPs' places; use interchange or zero")
    sums: list[torch.Tensor] = []
    counts = torch.zeros(0, dtype=torch.float64)
    for tokens in prompts:
        packing = pack(tokens.to(model.device))
        place = packing.token_positions() if positional else torch.zeros_like(packing.cell)
        length = max(int(place.max()) + 1, len(counts))
        counts = _grown(counts, length).index_add(0, place.cpu(), torch.ones(len(place), dtype=torch.float64))
        written = trace(model.parts, graph, packing).tensors()
        sums = sums or [torch.zeros(0, *x.shape[1:], dtype=torch.float64) for x in written]
        sums = [
            _grown(s, length).index_add(0, place.cpu(), x.cpu().double()) for s, x in zip(sums, written, strict=True)
        ]
    if not sums:
        raise InputError("mean ablation: no prompts to average over; give at least one")
    means = [s / counts.view(-1, *[1] * (s.ndim - 1)) for s in sums]
    tensors = tuple(mean.to(model.device, model.dtype) for mean in means)
    return Writes.from_tensors(tensors if graph.n_embeddings else tensors[1:], len(model.parts.layers))


def _grown(x: torch.Tensor, length: int) -> torch.Tensor:
    return torch.cat([x, x.new_zeros(length - len(x), *x.shape[1:])])
