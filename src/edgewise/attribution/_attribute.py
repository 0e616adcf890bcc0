"""Attribution graphs of prompts."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import csr_array
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._attribution_graph import AttributionGraph
from edgewise.attribution._columns import column_table, table_of
from edgewise.attribution._frozen import FrozenRun, frozen_run
from edgewise.attribution._graph import Ledger, NodeTable, concatenated
from edgewise.attribution._grow import Growth
from edgewise.attribution._kinds import AttributionConfig, nodes_of, token_ids, transcoder_records
from edgewise.attribution._sparse_rows import Cut
from edgewise.attribution._targets import Explained, Target, roots, settled
from edgewise.models import Model
from edgewise.runs import ONE_PROCESS, Ranks, RunOptions, run_steps, software, tensor_hash
from edgewise.transcoders import TokenTexts, Transcoder


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
    ranks: Ranks = ONE_PROCESS,
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
        dtype: of all activations and sums, float32 or float64; None: the weights', and at least float32.
        ranks: the processes that share out the rows (see `edgewise.runs.processes`); all make the same call.

    Returns:
        The whole graph; `prune` takes what matters of it. One that Ctrl-C cut short has the rows made until then, and
        says so: `provenance["run"]` has `stopped`.

    Raises:
        InputError: a prompt of fewer than two tokens or more than fit, transcoders of another model, a target that is
            no token or node, a setting or type that the nodes or sums cannot have, or a model whose numbers are not
            finite.
        KeyboardInterrupt: interrupted before the first batch of rows, or in the last; with `out` the same call then
            takes up what was made.
    """
    config, options = config or AttributionConfig(), options or RunOptions()
    ids = token_ids(model, prompt, config.bos)
    run = frozen_run(model, ids, dtype)
    if not bool(run.final.isfinite().all()):
        raise InputError("prompt: the model gives numbers that are not finite on it; check its weights and type")
    kinds = nodes_of(run, nodes, config)
    explained = roots(kinds, target, contrast)
    growth = Growth(kinds, explained, config.max_nodes, config.batch, Cut(config.keep, config.most_edges), ranks)
    known = settled(run, target)
    settings = {"nodes": _nodes_record(nodes), **asdict(config), "contrast": contrast}
    settings["target"] = {"direction": known[0]} if isinstance(known, tuple) else known
    provenance = {"model": model.identity, "transcoders": transcoder_records(kinds), "software": software()}
    identity = {**settings, "transcoders": provenance["transcoders"], "ids": ids.tolist(), "model": model.identity}
    identity["roots"] = [each.name for each in explained]
    if isinstance(known, tuple):
        identity["direction"] = tensor_hash(known[1])
    if dtype is not None:
        identity["dtype"] = str(dtype)
    report = run_steps(growth, growth.n_steps, identity, options, "attribution", ranks)
    if report.interrupted and report.stopped is None:  # a whole graph has no mark by which a caller's loop would end
        raise KeyboardInterrupt(f"interrupted after step {report.steps}, the last")
    provenance["run"] = report.record()
    kinds.forget()
    return replace(assembled(growth, settings, provenance), explained=Explained(kinds, explained))


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
    total, size, shown, shown_size = (torch.zeros(n, dtype=torch.float64) for _ in range(4))
    edges = list[tuple[Tensor, Tensor, Tensor]]()
    for these, found in zip(targets.split([len(each.total) for each in growth.found]), growth.found, strict=True):
        inside = used[found.columns.long()]
        target = these.repeat_interleave(found.offsets.diff())[inside]
        weight = found.weight[inside]
        edges.append((target, number[place[found.columns[inside].long()]], weight))
        total[these], size[these] = found.total, found.size
        shown.index_add_(0, target, weight.double())
        shown_size.index_add_(0, target, weight.double().abs())
    entry_target, source, weight = (torch.cat(each) for each in zip(*edges, strict=True))
    value = torch.zeros_like(total)
    value[targets] = table.value[order][targets]
    matrix = csr_array((weight.numpy(), (entry_target.numpy(), source.numpy())), shape=(n, n))
    return AttributionGraph(
        table.take(order),
        torch.from_numpy(matrix.indptr.astype(np.int64)),
        torch.from_numpy(matrix.indices.astype(np.int64)),
        torch.from_numpy(matrix.data),
        Ledger(value - total, size, total - shown, size - shown_size),
        run.ids.cpu(),
        _texts(run),
        tuple(each.name for each in growth.roots),
        torch.tensor([each.weight for each in growth.roots], dtype=torch.float32),
        settings | {"root_tokens": [each.token for each in growth.roots]},
        provenance,
    )


def _root_table(growth: Growth) -> NodeTable:
    """The roots: logits and directions at the last position, a node where it stands, several of them at the last."""
    values = torch.tensor([each.value for each in growth.roots], dtype=torch.float64)
    position = torch.stack([each.targets.position.max() for each in growth.roots]).cpu()
    return table_of("root", len(growth.nodes.run.layers), position, torch.arange(len(values)), values)


def _texts(run: FrozenRun) -> tuple[str, ...]:
    texts = TokenTexts(run.model.tokenizer)
    return tuple(texts.shown(int(i)) for i in run.ids)
