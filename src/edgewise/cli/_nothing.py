"""What to say of circuits that change nothing: of no edges, or of edges that carry nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import edgewise as ew


def largest_sparsity(scores: ew.Scores, absolute: bool) -> float:
    """The largest sparsity, in four digits, at which a circuit of these scores has an edge that can carry signal."""
    low, high = 1, scores.graph.n_edges
    while low < high:  # more edges never cut a path
        middle = (low + high) // 2
        if scores.top(middle, absolute=absolute).n_actual:
            high = middle
        else:
            low = middle + 1
    fewest = scores.top(low, absolute=absolute).n_actual
    return math.floor(1e4 * (1 - fewest / scores.graph.n_edges)) / 1e4


def check_some(circuits: Sequence[ew.Circuit], scores: ew.Scores, absolute: bool, given: str) -> None:
    """Refuse sizes of a curve that are all too small for an edge, before they are judged. Raises `InputError`."""
    if not any(each.n_actual for each in circuits):
        raise ew.InputError(
            f"--sparsities {given}: no circuit of these sizes has an edge that can carry signal, so there is no curve; "
            f"the smallest that has one is at {largest_sparsity(scores, absolute):g}; give that or less"
        )


def no_edges(found: ew.Circuit, scores: ew.Scores | None, method: ew.Method) -> list[str]:
    """A note where a circuit that was found is empty, with what to give instead."""
    if found.n_actual:
        return []
    if method.ladder is not None:
        instead = f"a lower --{method.ladder.setting}"
    elif scores is not None:
        instead = f"--sparsity {largest_sparsity(scores, method.absolute):g} or less"
    else:
        instead = "a lower --sparsity"
    which = "no kept edge can carry signal" if found.n_edges else "no edge is kept"
    return [f"note: {which}, so this is the empty circuit; give {instead}"]


def like_the_empty(engine: ew.Engine, circuit: ew.Circuit, task: ew.tasks.Task, split: str) -> list[str]:
    """A note where a circuit under zero ablation has edges, and does what the empty one does: none of them comes from
    an embedding, and without biases a component that reads zeros writes zeros.
    """
    import torch

    graph, actual = circuit.graph, circuit.actual
    if engine.ablation.kind != "zero" or not graph.n_embeddings or not len(task.split(split)):
        return []
    kinds = graph.writer_kind[graph.edge_writer[actual].long()]
    if not len(kinds) or bool((kinds == ew.graph.EMBED).any()):
        return []
    batch = next(iter(task.batches(split, 1))).to(engine.model.device)
    with torch.no_grad():
        own, empty = (engine.run(batch, kept.to(batch.clean.ids.device).float()) for kept in (actual, actual & False))
    if not torch.equal(own, empty):  # with biases they write something
        return []
    return [
        "note: none of the kept edges comes from an embedding, and under zero ablation this model's components write "
        "nothing where they read nothing, so this circuit does exactly what the empty one does; keep more edges, or "
        "use another --ablation"
    ]
