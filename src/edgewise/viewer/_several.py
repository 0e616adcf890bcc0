"""Graphs of several prompts, and differences of two, as arrays for a page: what is drawn, and what stands beside it."""

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from edgewise.attribution import MERGED_KINDS, Difference, Keys, MergedGraph
from edgewise.viewer._graphs import KINDS, GraphArrays, Several

_KIND = tuple(KINDS.index(name if name in KINDS else "bias") for name in MERGED_KINDS)
"""Of each kind of `MERGED_KINDS`, its number along `KINDS`."""


def merged_arrays(graph: MergedGraph, title: str) -> GraphArrays:
    """What merging says: means, with their 95 % bootstrap intervals, how many prompts have it, how signs agree."""
    of_edges, of_nodes = graph.weight.intervals(), graph.influence.intervals()
    several = Several(
        "merged",
        (),
        (graph.n_prompts,),
        graph.by == "places",
        graph.influence.mean.numpy(),
        {"low": of_nodes[:, 0].numpy(), "high": of_nodes[:, 1].numpy(), "share": graph.influence.share.numpy()},
        {
            "low": of_edges[:, 0].numpy(),
            "high": of_edges[:, 1].numpy(),
            "share": graph.weight.share.numpy(),
            "agreement": graph.weight.agreement.numpy(),
        },
    )
    prompts = [(f"prompt {number}", text) for number, text in enumerate(graph.prompts)]
    ledger = {name: column.float().numpy() for name, column in graph.ledger._asdict().items()}
    return _arrays(graph.nodes, title, graph.targets.numpy())._replace(
        sources=graph.sources.numpy(),
        weight=graph.weight.mean.float().numpy(),
        value=graph.value.float().numpy() if graph.by == "nodes" else np.full(graph.n_nodes, np.nan),
        root_weight=_of_nodes(graph.nodes, graph.root_weights),
        ledger=None if graph.by == "places" else ledger,
        about=(("prompts", f"{graph.n_prompts:,}"), ("the same nodes by", graph.by), *prompts),
        several=several,
    )


def difference_arrays(found: Difference, title: str, names: tuple[str, str] = ("first", "second")) -> GraphArrays:
    """What differs: `first − second` of every edge, with both.

    Args:
        found: the difference.
        title: what it is called beside others.
        names: of its two sides.
    """
    first, second = found.first_influence.numpy(), found.second_influence.numpy()
    low, high = found.intervals.numpy().T
    several = Several(
        "difference",
        names,
        found.n_prompts,
        found.by == "places",
        np.maximum(first, second),
        {"first": first, "second": second},
        {"first": found.first.numpy(), "second": found.second.numpy(), "low": low, "high": high},
    )
    prompts = " and ".join(f"{n:,}" for n in found.n_prompts)
    return _arrays(found.nodes, title, found.targets.numpy())._replace(
        sources=found.sources.numpy(),
        weight=found.value.float().numpy(),
        root_weight=_of_nodes(found.nodes, found.root_weights),
        about=(("A", names[0]), ("B", names[1]), ("prompts", prompts), ("the same nodes by", found.by)),
        several=several,
    )


def _of_nodes(keys: Keys, root_weights: Float[Tensor, " R"]) -> Float[np.ndarray, " n"]:
    """The roots' weights, at their nodes; 0 at others."""
    found, roots = np.zeros(len(keys)), keys.kind == MERGED_KINDS.index("root")
    found[roots.numpy()] = root_weights.double().numpy()[keys.index[roots].numpy()]
    return found


def _arrays(keys: Keys, title: str, targets: Int[np.ndarray, " E"]) -> GraphArrays:
    """The nodes, with spans for tokens, and where each one's edges begin."""
    n = len(keys)
    kind = np.array(_KIND)[keys.kind.numpy()]
    position, places = keys.placed()
    return GraphArrays(
        title,
        list(places),
        kind,
        keys.layer.numpy(),
        position.numpy(),
        np.full(n, np.nan),
        keys.names(),
        [""] * n,
        np.zeros(n),
        np.concatenate([[0], np.cumsum(np.bincount(targets, minlength=n))]),
        np.zeros(0, dtype=np.int64),
        np.zeros(0),
    )
