"""Attribution graphs of prompts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import csr_array
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._frozen import FrozenRun, frozen_run
from edgewise.attribution._graph import KINDS, AttributionGraph, Ledger, NodeTable, concatenated
from edgewise.attribution._grow import Growth
from edgewise.attribution._nodes import Features, Gate, Neurons, Nodes, by_layer
from edgewise.attribution._rows import Columns, Cut
from edgewise.attribution._targets import Explained, Target, roots, settled
from edgewise.models import Model, weights_hash
from edgewise.runs import Bound, Count, NotNegative, RunOptions, check_settings, run_steps, software
from edgewise.transcoders import Transcoder

PATTERN_BYTES = 16 << 30
"""How much one layer's attention pattern may take, in float32."""


@dataclass(frozen=True)
class AttributionConfig:
    """How a graph is made."""

    max_nodes: Count = 5000
    """How many neurons or features get rows, the most influential first."""
    batch: Count = 512
    """How many of them between two rankings of the rest."""
    keep: Annotated[float, Bound(lambda x: 0 < x <= 1, "a share, above 0 and at most 1")] = 0.98
    """The share of each target's edges, by size, that is kept; the rest is only added up."""
    most_edges: Count = 10_000
    """How many edges a target keeps at most."""
    neurons_per_token: NotNegative = 0
    """How many neurons of a layer are nodes at each position, those that write most; what the rest writes is the
    layer's error. 0: all."""
    gate: Gate = "half"
    """To which factor of a gated MLP a neuron's edges go: half of its value to each, or all to `up` or `gate`."""

    def __post_init__(self) -> None:
        """Check the values. Raises `InputError`."""
        check_settings("attribution", self)


def attribute(
    model: Model,
    prompt: str | Sequence[int] | Int[Tensor, " S"],
    nodes: Literal["neurons"] | Transcoder | Sequence[Transcoder] = "neurons",
    *,
    target: Target = None,
    contrast: bool = False,
    config: AttributionConfig | None = None,
    options: RunOptions | None = None,
    dtype: torch.dtype | None = None,
) -> AttributionGraph:
    """What flows from a prompt's tokens to a prediction, with attention patterns and norm scales frozen.

    1. Run the prompt; freeze patterns and norm scales (`_frozen.py`).
    2. Find the active nodes of each layer: neurons, or transcoders' features, and what they leave as errors
       (`_nodes.py`).
    3. Explain the roots: one row each, everything that flows into it, by a walk down the frozen model (`_rows.py`).
    4. Until `max_nodes` have rows: rank the others by their influence through the rows known so far, and make those of
       the next `batch` (`_grow.py`).
    5. Put the rows together; what is not in the graph is added up in its ledger (`_graph.py`).

    After Ameisen et al. 2025 ("Circuit Tracing: Revealing Computational Graphs in Language Models") and Dunefsky et al.
    2024 (equations 25, 26); for neurons the rules of RelP (Jafari et al. 2025). See docs/attribution.md.

    Args:
        model: the model.
        prompt: a text, or its tokens `[S]`.
        nodes: `neurons`, or transcoders: at most one for each layer, or a cross-layer set. MLPs without one are errors.
        target: what is explained at the last token: None, the most probable next tokens (at most 10, or 95 % of the
            probability), each a logit minus the mean of all; tokens; a node such as `m12.f410@7`; or a name and a
            direction `[D]` of what the unembedding reads.
        contrast: explain the first of two tokens' logit minus the second's.
        config: how the graph is made.
        options: how the run behaves; with `out` it goes on from its checkpoint when it was cut short.
        dtype: of all activations and sums; None: the weights', and at least float32.

    Returns:
        The whole graph; `prune` takes what matters of it.

    Raises:
        InputError: a prompt of fewer than two tokens or more than fit, transcoders of another model, a target that is
            no token or node, or a model whose numbers are not finite.
    """
    config, options = config or AttributionConfig(), options or RunOptions()
    ids = token_ids(model, prompt)
    run = frozen_run(model, ids, dtype)
    if not bool(run.final.isfinite().all()):
        raise InputError("prompt: the model gives numbers that are not finite on it; check its weights and type")
    kinds = nodes_of(run, nodes, config)
    explained = roots(kinds, target, contrast)
    growth = Growth(kinds, explained, config.max_nodes, config.batch, Cut(config.keep, config.most_edges))
    known = settled(run, target)
    settings = {"nodes": _nodes_record(nodes), **asdict(config), "contrast": contrast}
    settings["target"] = {"direction": known[0]} if isinstance(known, tuple) else known
    provenance = {"model": model.identity, "transcoders": transcoder_records(kinds), "software": software()}
    identity = {**settings, "transcoders": provenance["transcoders"], "ids": ids.tolist(), "model": model.identity}
    identity["roots"] = [each.name for each in explained]
    run_steps(growth, growth.n_steps, identity, options, "attribution")
    return replace(assembled(growth, settings, provenance), explained=Explained(kinds, explained))


def token_ids(model: Model, prompt: str | Sequence[int] | Int[Tensor, " S"]) -> Int[Tensor, " S"]:
    """A prompt's tokens, as the tokenizer gives them.

    Raises:
        InputError: there is no tokenizer for a text, a token is not one of the model's, or there are fewer than two or
            more than the model or memory has room for.
    """
    if isinstance(prompt, str):
        if model.tokenizer is None:
            raise InputError("prompt: the model has no tokenizer; give token ids")
        prompt = model.tokenizer(prompt)["input_ids"]
    ids = torch.as_tensor(prompt, dtype=torch.long, device=model.device)
    n_tokens = int(model.module.config.vocab_size)
    if ids.ndim != 1 or len(ids) < 2:
        raise InputError(f"prompt: {ids.numel()} token; an attribution graph needs two at least")
    if wrong := [each for each in (int(ids.min()), int(ids.max())) if not 0 <= each < n_tokens]:
        raise InputError(f"prompt: token {wrong[0]}; the model has tokens 0 to {n_tokens - 1}")
    most = model.parts.n_positions or getattr(model.module.config, "max_position_embeddings", None) or len(ids)
    if len(ids) > most:
        raise InputError(f"prompt: {len(ids):,} tokens; the model has {most:,} positions, so give at most that")
    if (size := 4 * model.parts.n_heads * len(ids) ** 2) > PATTERN_BYTES:
        raise InputError(
            f"prompt: {len(ids):,} tokens, for which one layer's attention pattern takes {size / 2**30:,.0f} GiB; give "
            f"at most {int((PATTERN_BYTES / 4 / model.parts.n_heads) ** 0.5):,}"
        )
    return ids


def nodes_of(run: FrozenRun, nodes: Any, config: AttributionConfig) -> Nodes:
    """The kind of nodes asked for."""
    if isinstance(nodes, str):
        if nodes != "neurons":
            raise InputError(f"nodes {nodes!r}: give 'neurons', or transcoders")
        return Neurons(run, config.neurons_per_token or None, config.gate)
    return Features(run, by_layer(run.model, nodes))


def transcoder_records(nodes: Nodes) -> list[dict[str, Any]]:
    """What tells the transcoders of some nodes from others, in order of their layers."""
    found = nodes.transcoders.values() if isinstance(nodes, Features) else []
    return [
        {
            "reads": str(each.spec.reads),
            "activation": str(each.activation),
            "exclude_special": each.spec.exclude_special,
            "weights_hash": weights_hash(each),
        }
        for each in found
    ]


def _nodes_record(nodes: Any) -> Any:
    if isinstance(nodes, str):
        return nodes
    return [str(each.spec.reads) for each in ([nodes] if isinstance(nodes, Transcoder) else nodes)]


def assembled(growth: Growth, settings: dict[str, Any], provenance: dict[str, Any]) -> AttributionGraph:
    """The graph of the rows that are known: of nodes without one, edges are only added up."""
    run, columns = growth.nodes.run, growth.columns
    chosen = torch.cat([torch.zeros(0, dtype=torch.long), *(each.long() for each in growth.chosen)])
    used = torch.ones(columns.total, dtype=torch.bool)
    used[: columns.n_nodes] = False
    used[chosen] = True
    table = concatenated([column_table(growth.nodes, columns, used.nonzero()[:, 0]), _root_table(growth)])
    is_inner = table.is_kind("neuron", "feature")
    order = (table.layer * 2 + is_inner).argsort(stable=True)  # sources before targets
    number = torch.empty_like(order)
    number[order] = torch.arange(len(order))
    place = torch.cumsum(used.long(), 0) - 1  # of each column among those used
    n, n_used = len(order), int(used.sum())
    targets = number[torch.cat([torch.arange(n_used, n), place[chosen]])]  # as the rows stand: roots first
    rows = torch.cat([each.offsets.diff() for each in growth.found])
    entry_target = targets.repeat_interleave(rows)
    entry_column = torch.cat([each.columns for each in growth.found]).long()
    weight = torch.cat([each.weight for each in growth.found])
    inside = used[entry_column]
    # What is outside of the graph: all of a row, minus its edges in the graph.
    total, size = (torch.zeros(n, dtype=torch.float64) for _ in range(2))
    for found, name in ((total, "total"), (size, "size")):
        found[targets] = torch.cat([getattr(each, name) for each in growth.found])
    shown = torch.where(inside, weight.double(), 0.0)
    outside = total.index_add(0, entry_target, -shown)
    outside_size = size.index_add(0, entry_target, -shown.abs())
    value = torch.zeros_like(total)
    value[targets] = table.value[order][targets]
    pairs = entry_target[inside].numpy(), number[place[entry_column[inside]]].numpy()
    matrix = csr_array((weight[inside].numpy(), pairs), shape=(n, n))
    return AttributionGraph(
        table.take(order),
        torch.from_numpy(matrix.indptr.astype(np.int64)),
        torch.from_numpy(matrix.indices.astype(np.int64)),
        torch.from_numpy(matrix.data),
        Ledger(value - total, size, outside, outside_size),
        run.ids.cpu(),
        _texts(run),
        tuple(each.name for each in growth.roots),
        torch.tensor([each.weight for each in growth.roots]),
        settings | {"root_tokens": [each.token for each in growth.roots]},
        provenance,
    )


def column_table(nodes: Nodes, columns: Columns, chosen: Int[Tensor, " c"]) -> NodeTable:
    """What some columns of a row, given in order, are."""
    kind, tables = "neuron" if isinstance(nodes, Neurons) else "feature", list[NodeTable]()
    starts = torch.searchsorted(chosen, torch.tensor(columns.starts))
    for layer, active in enumerate(nodes.active):
        which = chosen[starts[layer] : starts[layer + 1]] - columns.starts[layer]
        position = torch.searchsorted(active.offsets.cpu(), which, right=True) - 1
        tables.append(_table(kind, layer, position, *(each.cpu()[which] for each in (active.index, active.value))))
    return concatenated([*tables, _other_columns(nodes, columns).take(chosen[starts[-1] :] - columns.n_nodes)])


def _other_columns(nodes: Nodes, columns: Columns) -> NodeTable:
    """Errors, embeddings and biases."""
    run = nodes.run
    positions, n_layers = torch.arange(len(run)), len(run.layers)
    tables = list[NodeTable]()
    tables += [_table("error", layer, positions) for layer in range(n_layers)]
    tables += [
        _table(kind, -1, positions, run.ids.cpu() if kind == "token" else None)
        for kind in ("token", "position")[: columns.n_embeddings]
    ]
    for layer in range(n_layers):
        tables += [_table(kind, layer, positions[:1] - 1) for kind in ("reading bias", "attention bias", "MLP bias")]
    return concatenated([*tables, _table("reading bias", n_layers, positions[:1] - 1)])


def _root_table(growth: Growth) -> NodeTable:
    n_layers, last = len(growth.nodes.run.layers), len(growth.nodes.run) - 1
    values = torch.tensor([each.value for each in growth.roots], dtype=torch.float64)
    index = torch.arange(len(values))
    return _table("root", n_layers, torch.full_like(index, last), index, values)


def _table(
    kind: str, layer: int, position: Tensor, index: Tensor | None = None, value: Tensor | None = None
) -> NodeTable:
    def filled(number: int) -> Tensor:
        return torch.full_like(position, number)

    index = filled(-1) if index is None else index
    value = torch.zeros(len(position), dtype=torch.float64) if value is None else value.double()
    return NodeTable(filled(KINDS.index(kind)), filled(layer), position, index, value)


def _texts(run: FrozenRun) -> tuple[str, ...]:
    tokenizer = run.model.tokenizer
    return tuple(str(int(i)) if tokenizer is None else tokenizer.decode([int(i)]) for i in run.ids)
