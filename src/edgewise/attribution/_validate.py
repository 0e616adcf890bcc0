"""Whether what a graph says of the model is so.

For each prompt:

1. its most influential nodes are ablated one by one on the model, and the root's real change is held against the one
   that the graph predicts (`effects`);
2. all nodes of the pruned graph are ablated at once (necessity), and all other active nodes (sufficiency), each beside
   random sets of active nodes with as many in every layer;
3. replacement and completeness of the graph, and of the pruned one with what it left out given to the errors;
4. the ledger's residual, and the share of the edges that is not in the graph;
5. which nodes stay when the graph is pruned more or less.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._access import access_to
from edgewise.attribution._attach import explained_of
from edgewise.attribution._attribution_graph import AttributionGraph
from edgewise.attribution._edits import Edit, Table
from edgewise.attribution._effects import effects
from edgewise.attribution._influence import influence, prune, scores
from edgewise.attribution._intervene import EditedRun, Propagation
from edgewise.attribution._validation import NodeEffect, PromptValidation, SetEffect, Threshold, Validation
from edgewise.runs import Bound, Count, NotNegative, check_settings, software

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Shares of the influence by which the graph is pruned to see which nodes stay."""
TOKENS = 1024
"""About how many tokens all runs of one pass have together."""

_NONE, _GRAPH = -1, -2
"""Sets that are not drawn: of no nodes, and the pruned graph's."""

_Share = Annotated[float, Bound(lambda x: 0 <= x <= 1, "a share, 0 to 1")]


@dataclass(frozen=True)
class ValidationConfig:
    """How graphs are validated."""

    top: Count = 50
    """How many nodes are ablated one by one, the most influential first."""
    to: Literal["zero", "mean"] = "zero"
    """What an ablated node's value becomes: 0, or its mean over the prompt's tokens, the first left out."""
    nodes: _Share = 0.8
    """The share of the nodes' influence that the pruned graph keeps."""
    edges: _Share = 0.98
    """Likewise of the edges'."""
    sets: Count = 20
    """How many random sets."""
    seed: NotNegative = 0
    """Of the sets and of the resampling."""
    root: NotNegative = 0
    """Which of the graph's roots."""
    propagation: Propagation = "open"
    """What is computed again; `open` is the model itself."""

    def __post_init__(self) -> None:
        """Check the values. Raises `InputError`."""
        check_settings("validation", self)


def validate(
    graphs: AttributionGraph | Sequence[AttributionGraph], config: ValidationConfig | None = None
) -> Validation:
    """Hold graphs against their model.

    Args:
        graphs: of one prompt, or of several; made by `attribute`, or attached.
        config: how.

    Raises:
        InputError: the run of a graph is not at hand, it has no such root, or no neurons or features.
    """
    config = config or ValidationConfig()
    given = [graphs] if isinstance(graphs, AttributionGraph) else list(graphs)
    if not given:
        raise InputError("graphs: none given; give the graph of one prompt at least")
    checks = [_Prompt(graph, config) for graph in given]
    provenance = {"model": checks[0].nodes.run.model.identity, "software": software()}
    found = [check.validation(number) for number, check in enumerate(checks)]
    return Validation.of(found, {**asdict(config), "graphs": given[0].settings}, provenance)


class _Prompt:
    """One graph, and its prompt's run."""

    def __init__(self, graph: AttributionGraph, config: ValidationConfig) -> None:
        self.graph, self.config = graph, config
        self.nodes, explained = explained_of(graph)
        if config.root >= len(explained):
            raise InputError(f"root {config.root}: the graph has {len(explained)} roots, 0 to {len(explained) - 1}")
        self.root = explained[config.root]
        self.access = access_to(self.nodes)
        self.inner = graph.nodes.is_kind("neuron", "feature")
        if not self.inner.any():
            raise InputError("graph: it has no neurons or features to ablate; make it with more nodes")
        graph.with_errors(~self.inner)  # refuses a pruned graph, of which sizes and scores would say something else
        if self.root.measure is None and config.propagation == "frozen":
            raise InputError(f"root {self.root.name}: a node does not change in a frozen run; use propagation 'open'")

    def validation(self, number: int) -> PromptValidation:
        """All of it; the number is the prompt's, for its random sets."""
        graph, config = self.graph, self.config
        pruned = prune(graph, config.nodes, config.edges)
        kept = _inner(pruned)
        everything = set(pruned.names)
        keep = torch.tensor([name in everything for name in graph.names])
        full, empty, necessity, sufficiency = self.sets(pruned, number)
        return PromptValidation(
            graph.tokens,
            self.root.name,
            *full,
            *empty,
            sum(len(active.index) for active in self.nodes.active),
            int(self.inner.sum()),
            len(kept),
            self.ablations(),
            necessity,
            sufficiency,
            scores(graph),
            scores(graph.with_errors(keep)),
            graph.ledger.worst,
            graph.ledger.share_outside,
            self.stability(kept),
        )

    def ablations(self) -> tuple[NodeEffect, ...]:
        """The most influential nodes, one by one."""
        inside, (direct, total) = influence(self.graph), effects(self.graph, self.config.root)
        found = torch.where(self.inner, inside, -1.0)
        chosen = found.topk(min(self.config.top, int(self.inner.sum()))).indices
        names, values = [self.graph.names[int(i)] for i in chosen], self.graph.nodes.value[chosen]
        edits = [Edit(name) for name in names]
        left = torch.zeros_like(values)
        if self.config.to == "mean":
            means = [float(self.mean(each.layer, torch.tensor([each.index]))) for each in edits]
            edits = [Edit(name, "set", mean) for name, mean in zip(names, means, strict=True)]
            left = torch.tensor(means, dtype=values.dtype) / values  # the share that stays
        real = torch.cat([
            self.measure(EditedRun.of(self.nodes, [[each] for each in some], self.config.propagation))[0]
            for some in _batches(edits, self.per_pass)
        ]) - self.root.value  # fmt: skip
        columns = inside[chosen], direct[chosen] * (left - 1), total[chosen] * (left - 1), real
        return tuple(map(NodeEffect, names, *(column.tolist() for column in columns)))

    def sets(
        self, pruned: AttributionGraph, number: int
    ) -> tuple[tuple[float, float | None], tuple[float, float | None], SetEffect, SetEffect]:
        """Root and probability of the model as it is and with all active nodes ablated; necessity and sufficiency."""
        self.kept, self.number, n = self.among_active(pruned), number, self.config.sets
        wanted = [
            (_NONE, True),
            (_NONE, False),
            (_GRAPH, True),
            (_GRAPH, False),
        ]  # the set, and whether it goes or stays
        wanted += [(each, goes) for goes in (True, False) for each in range(n)]
        found = [
            self.measure(EditedRun(self.nodes, len(some), partial(self.table, some), self.config.propagation))
            for some in _batches(wanted, self.per_pass)
        ]
        value, chance = (torch.cat(each).tolist() for each in zip(*found, strict=True))
        chance = [None if self.root.token < 0 else each for each in chance]
        shares = [each / self.root.value if self.root.value else 0.0 for each in value]
        without, alone = shares[4 : 4 + n], shares[4 + n :]
        needed = SetEffect(value[2], chance[2], 1 - shares[2], tuple(1 - each for each in without))
        enough = SetEffect(value[3], chance[3], shares[3], tuple(alone))
        return (self.root.value, chance[0]), (value[1], chance[1]), needed, enough

    def among_active(self, pruned: AttributionGraph) -> list[Bool[Tensor, " n"]]:
        """Which active nodes of each layer are in a graph."""
        inner, found = pruned.nodes.take(pruned.nodes.is_kind("neuron", "feature")), []
        for layer, active in enumerate(self.nodes.active):
            here, width = inner.take(inner.layer == layer), self.access.count(layer)
            places = (here.position * width + here.index).to(active.index.device)
            found.append(torch.isin(active.position * width + active.index, places))
        return found

    def table(self, wanted: list[tuple[int, bool]], layer: int) -> Table | None:
        """A layer's ablated nodes, of runs in each of which one set goes, or stays alone."""
        active = self.nodes.active[layer]
        if not len(active.index):
            return None
        index, column = active.index.unique(return_inverse=True)
        gone = torch.zeros(len(self.nodes.run), len(wanted), len(index), dtype=torch.bool, device=index.device)
        for run, (which, goes) in enumerate(wanted):
            gone[active.position, run, column] = self.chosen(which, layer) == goes
        gone = gone.flatten(0, 1)
        mean = self.mean(layer, index) if self.config.to == "mean" else active.value.new_zeros(len(index))
        rows = torch.arange(len(gone), device=index.device)
        return Table(rows, index, (~gone).to(active.value), torch.where(gone, mean, 0.0))

    def chosen(self, which: int, layer: int) -> Bool[Tensor, " n"]:
        """A set's active nodes of a layer: none, the pruned graph's, or as many at random."""
        kept = self.kept[layer]
        if which == _GRAPH:
            return kept
        chosen = torch.zeros_like(kept)
        if which != _NONE:
            draw = np.random.default_rng([self.config.seed, self.number, which, layer])
            chosen[torch.from_numpy(draw.choice(len(kept), int(kept.sum()), replace=False)).to(kept.device)] = True
        return chosen

    def mean(self, layer: int, index: Tensor) -> Float[Tensor, " C"]:
        """Of nodes' values over the prompt's tokens but the first."""
        run = EditedRun(self.nodes, 1, lambda _: None)
        read = run.inputs(layer, "frozen", self.nodes.run.final.new_zeros(len(self.nodes.run), 1, 1))
        return self.access.value(layer, index, lambda kind: read(kind)[:, 0], run.off)[1:].mean(0)

    @torch.no_grad()
    def measure(self, run: EditedRun) -> tuple[Float[Tensor, " K"], Float[Tensor, " K"]]:
        """The root's value in each run, and its token's probability (0 without one)."""
        root, nothing = self.root, self.nodes.run.final.new_zeros(run.n_runs)
        if root.measure is None:
            edit = Edit(root.name)
            run.keep = frozenset([edit.layer])
            run.change()
            read = run.inputs(edit.layer, run.way(edit.layer), run.between[edit.layer])
            at, off = int(root.targets.position[0]), run.off.view(-1, run.n_runs)
            index = torch.tensor([edit.index], device=nothing.device)
            return self.access.value(edit.layer, index, lambda kind: read(kind)[at], off[at])[
                :, 0
            ].cpu().double(), nothing
        change = run.change()
        read_out = run.read_out(change)[-1]
        if not read_out.isfinite().all():  # without their norms, products of factors may grow from layer to layer
            raise InputError(f"validation: propagation {run.propagation!r} overflows on this model; use 'open'")
        if run.propagation == "frozen":  # linear, as the graph: a soft-cap of the logits counts with its slope
            value = root.value + (change[-1] @ root.targets.covector[0].to(change)).cpu().double()
        else:
            value = root.measure(read_out).cpu().double()
        if root.token < 0:
            return value, nothing
        return value, self.nodes.run.model.parts.unembed(read_out).to(read_out).softmax(-1)[:, root.token]

    @property
    def per_pass(self) -> int:
        """How many runs go together."""
        return max(1, TOKENS // len(self.nodes.run))

    def stability(self, chosen: set[str]) -> tuple[Threshold, ...]:
        """The nodes that stay at other thresholds, beside those chosen."""
        found = []
        for share in THRESHOLDS:
            kept = _inner(prune(self.graph, share, self.config.edges))
            found.append(Threshold(share, len(kept), len(kept & chosen) / max(1, len(kept | chosen))))
        return tuple(found)


def _inner(graph: AttributionGraph) -> set[str]:
    """The names of its neurons and features."""
    return {graph.names[i] for i in graph.nodes.is_kind("neuron", "feature").nonzero()[:, 0].tolist()}


def _batches(items: list[Any], size: int) -> list[list[Any]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
