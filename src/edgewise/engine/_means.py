"""Mean ablation: what every writer writes on average over a set of prompts."""

from collections.abc import Iterable

import torch

from edgewise._errors import InputError
from edgewise.engine._constants import check_tokens
from edgewise.engine._packing import pack
from edgewise.engine._trees import mapped
from edgewise.engine._writes import Writes, trace
from edgewise.graph import Graph
from edgewise.models import Model, Tokens


@torch.no_grad()
def mean_writes(
    model: Model, graph: Graph, prompts: Iterable[Tokens], *, positional: bool = False, longest: int = 0
) -> Writes:
    """The writers' mean outputs over all tokens of some prompts, padding left out.

    Args:
        model: the model.
        graph: its graph.
        prompts: batches of prompts.
        positional: average position by position, counted from the first token; positions that few prompts reach rest on
            those few.
        longest: position by position, for so many positions at least: those that no prompt reaches have the mean over
            all tokens.

    Returns:
        Writes of shapes `[1, …]`, or `[S, …]` by position, for `Engine(constants=…)`.

    Raises:
        InputError: there is no prompt, one is longer than the model has positions, the graph has features or neurons,
            for which there are no means, or the model is not as it was loaded.
    """
    model.check()
    if graph.spec.apart:
        raise InputError(f"mean ablation: the graph has {graph.spec.apart} in MLPs' places; use interchange or zero")
    sums: Writes | None = None
    counts = torch.zeros(0, dtype=torch.float64)
    for tokens in prompts:
        check_tokens(tokens, model)
        packing = pack(tokens.to(model.device))
        place = packing.token_positions() if positional else torch.zeros_like(packing.cell)
        length = max(int(place.max()) + 1, len(counts))
        counts = _grown(counts, length).index_add(0, place.cpu(), torch.ones(len(place), dtype=torch.float64))
        written = trace(model.parts, graph, packing)
        sums = sums or mapped(lambda x: torch.zeros(0, *x.shape[1:], dtype=torch.float64), written)

        def add(total: torch.Tensor, x: torch.Tensor, place: torch.Tensor = place, n: int = length) -> torch.Tensor:
            return _grown(total, n).index_add(0, place.cpu(), x.cpu().double())

        sums = mapped(add, sums, written)
    if sums is None:
        raise InputError("mean ablation: no prompts to average over; give at least one")
    if positional and longest > len(counts):
        more, n_tokens = longest - len(counts), float(counts.sum())
        sums = mapped(lambda x: torch.cat([x, (x.sum(0, keepdim=True) / n_tokens).expand(more, *x.shape[1:])]), sums)
        counts = torch.cat([counts, counts.new_ones(more)])
    means = mapped(lambda x: (x / counts.view(-1, *[1] * (x.ndim - 1))).to(model.device, model.dtype), sums)
    return means if graph.n_embeddings else means._replace(embeds=())


def _grown(x: torch.Tensor, length: int) -> torch.Tensor:
    return torch.cat([x, x.new_zeros(length - len(x), *x.shape[1:])])
