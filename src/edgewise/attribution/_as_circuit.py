"""The merged attribution graph as a ranking of a circuit graph's edges, to be judged like any method's.

An attribution graph has no heads among its nodes and holds attention patterns fixed. So its edges are laid onto the
circuit graph's, prompt by prompt, each with its influence on the root (`edge_influence`), and averaged:

* what goes past all heads lies on the edge from source to target;
* what goes through a head of some layer (its head loading) lies on the edges from the source to the head's value and
  from the head to the target;
* queries and keys, of which such a graph says nothing, get the influence that goes through their head, shared out by
  first-order effects (EAP).

Neurons or features that are no nodes of the circuit graph count for what is left of their MLP: the rest, the error
term, or the MLP as a whole.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._attribute import attribute
from edgewise.attribution._attribution_graph import AttributionGraph
from edgewise.attribution._graph import KINDS
from edgewise.attribution._head_table import loadings
from edgewise.attribution._influence import edge_influence
from edgewise.attribution._kinds import AttributionConfig
from edgewise.discovery import (
    AttributionGraphConfig,
    Cost,
    Scores,
    asked_of,
    configured,
    eap,
    method_record,
    provenance,
)
from edgewise.engine import Engine
from edgewise.graph import Graph
from edgewise.models import Model
from edgewise.runs import RunOptions, gradients
from edgewise.tasks import Pair, Target, Task
from edgewise.transcoders import Transcoder


def merged_graph_scores(
    model: Model | Engine, task: Task, config: AttributionGraphConfig | None = None, **changes: Any
) -> Scores:
    """Rank the edges of a circuit graph by their mean influence in the attribution graphs of training prompts.

    Each prompt is cut after its last target, and the graph explains the answers' mean logit there, minus that of the
    wrong answers or, where there are none, of all tokens. Its nodes are the features of the engine's transcoders, or
    else all neurons.

    Args:
        model: the model, or an engine that also says which graph and transcoders.
        task: the behaviour.
        config: the settings.
        **changes: fields of `AttributionGraphConfig` to change.

    Returns:
        Scores `[E]`, the mean over the prompts, none below 0.

    Raises:
        edgewise.InputError: a setting is wrong, or the graph's edges carry positions.
        KeyboardInterrupt: it was interrupted; a mean over fewer prompts, or of cut graphs, would not be what it says.
    """
    config, engine, cost = configured(AttributionGraphConfig, config, changes), Engine.of(model), Cost()
    if engine.graph.spec.spans:
        raise InputError("graph: its edges carry positions, which attribution graphs do not tell apart; leave them out")
    few = asked_of(task, config)
    few.check_examples(config.split)
    nodes = [each.transcoder.to(engine.model.device) for each in engine.features.values()] or "neurons"
    places, total = _Places.of(engine.graph), torch.zeros(engine.graph.n_edges, dtype=torch.float64)
    through = torch.zeros(engine.graph.n_writers, dtype=torch.float64)
    pairs = few.split(config.split)
    for pair in pairs:
        graph = graph_of_pair(engine.model, pair, nodes, config)
        cost.spend(1, forwards=1, backwards=float((graph.offsets.diff() > 0).sum()))
        _add(graph, places, engine.graph, config.top_edges, total, through)
    if config.queries_and_keys == "eap":
        patterns, spent = _patterns(engine, few, config, through)
        total += patterns
        cost.spend(len(pairs), **spent)
    cost.examples = len(pairs)
    said = provenance(engine, task, method_record(config.title, config), cost)
    return Scores(engine.graph, (total / len(pairs)).float(), said)


def graph_of_pair(
    model: Model, pair: Pair, nodes: Literal["neurons"] | Sequence[Transcoder], config: AttributionGraphConfig
) -> AttributionGraph:
    """One prompt's, whole. Raises `KeyboardInterrupt` where it was cut short."""
    last = max(pair.targets, key=lambda each: each.position)
    contrast = len(last.answers) == len(last.wrong) == 1
    graph = attribute(
        model,
        list(pair.clean[: last.position + 1]),
        nodes,
        target=[last.answers[0], last.wrong[0]] if contrast else ("answers", _direction(model, last)),
        contrast=contrast,
        config=AttributionConfig(max_nodes=config.max_nodes),
        options=RunOptions(progress=False),
    )
    if reason := graph.provenance["run"].get("stopped"):
        raise KeyboardInterrupt(reason)
    return graph


def _direction(model: Model, target: Target) -> Float[Tensor, " D"]:
    """What the unembedding reads for the answers' mean logit, minus that of the wrong answers or of all tokens."""
    with gradients():
        read = torch.zeros(1, model.parts.d_model, dtype=model.dtype, device=model.device, requires_grad=True)
        logits = model.parts.unembed(read)[0]
        against = logits[list(target.wrong)].mean() if target.wrong else logits.mean()
        return torch.autograd.grad(logits[list(target.answers)].mean() - against, read)[0][0]


class _Places(NamedTuple):
    """Where an attribution graph's nodes stand in a circuit graph."""

    names: dict[str, int]
    """Writers by name."""
    readers: dict[str, int]
    group: dict[tuple[int, int], str]
    """By layer and neuron, what its group is called."""
    later: dict[str, list[int]]
    """The further writers of features that write to later layers."""

    @staticmethod
    def of(graph: Graph) -> "_Places":
        writers = {name: i for i, name in enumerate(graph.writer_names)}
        group, later = {}, dict[str, list[int]]()
        for layer, groups in graph.spec.neurons:
            names = graph.reader_names[graph.mlp(layer).readers]
            group |= {(layer, neuron): name for each, name in zip(groups, names, strict=False) for neuron in each}
        for name, writer in writers.items():
            if ">" in name:
                later.setdefault(name.partition(">")[0], []).append(writer)
        return _Places(writers, {name: i for i, name in enumerate(graph.reader_names)}, group, later)

    def writers_of(self, kind: str, layer: int, index: int) -> list[int]:
        """The writers that stand for a node; none for biases and roots."""
        if kind in ("token", "position"):
            both = ("embed", "tok_embed" if kind == "token" else "pos_embed")
            return [self.names[name] for name in both if name in self.names]
        if kind not in ("neuron", "feature", "error"):
            return []
        own = self._own(kind, layer, index)
        names = (own, f"m{layer}.rest", f"m{layer}.error", f"m{layer}")
        found = next((self.names[name] for name in names if name in self.names), None)
        return [] if found is None else [found, *self.later.get(own, [])]

    def reader_of(self, kind: str, layer: int, index: int) -> int:
        """The reader that stands for a target; −1 for none."""
        if kind == "root":
            return self.readers["logits"]
        if kind not in ("neuron", "feature"):
            return -1
        names = (self._own(kind, layer, index), f"m{layer}.rest", f"m{layer}")
        return next((self.readers[name] for name in names if name in self.readers), -1)

    def _own(self, kind: str, layer: int, index: int) -> str:
        return f"m{layer}.f{index}" if kind == "feature" else self.group.get((layer, index), "")


def _add(
    graph: AttributionGraph,
    places: _Places,
    circuit: Graph,
    top: int,
    total: Float[Tensor, " E"],
    through: Float[Tensor, " W"],
) -> None:
    """One prompt's influences: onto the edges, and onto the heads that they go through."""
    table = [
        (KINDS[kind], layer, index) for kind, layer, _, index, _ in zip(*map(Tensor.tolist, graph.nodes), strict=True)
    ]
    writers, reader = [places.writers_of(*each) for each in table], torch.tensor([places.reader_of(*x) for x in table])
    stands = torch.tensor([bool(each) for each in writers])
    there = stands[graph.sources] & (reader[graph.edge_targets] >= 0)
    influence = edge_influence(graph).where(there, torch.tensor(0.0, dtype=torch.float64))
    chosen = influence.topk(min(top, len(influence))).indices
    chosen = chosen[influence[chosen] > 0]
    sources, targets = graph.sources[chosen], graph.edge_targets[chosen]
    number = torch.full((graph.n_edges,), -1)
    number[chosen] = torch.arange(len(chosen))
    pairs = [(i, writer) for i, source in enumerate(sources.tolist()) for writer in writers[source]]
    which, writer = torch.tensor(pairs, dtype=torch.long).view(-1, 2).unbind(1)  # of each edge, all that writes it
    beside = influence[chosen].clone()
    for split in loadings(graph, chosen):
        here, passing = number[split.edges], split.passing
        part = passing.heads[:, split.target, split.source].to(split.factor.dtype).abs() * split.factor.abs()
        part = part.cpu()  # (H, n)
        beside[here] -= part.sum(0)
        values = circuit.attention(passing.layer).reader + circuit.roles.value.start
        for head, share in enumerate(part):
            carried = beside.new_zeros(len(chosen)).index_add_(0, here, share)
            own = circuit.writer(passing.layer, head)
            into = torch.full_like(which, values + circuit.key_of(head))
            _onto(total, circuit, writer, into, carried[which])
            _onto(total, circuit, torch.full_like(targets, own), reader[targets], carried)
            through[own] += float(share.sum())
    position = graph.nodes.position
    same = position[sources] == position[targets]  # what is elsewhere went through some head
    direct = torch.where(same, beside.clamp(min=0), 0)
    _onto(total, circuit, writer, reader[targets][which], direct[which])


def _onto(
    total: Float[Tensor, " E"],
    circuit: Graph,
    writer: Int[Tensor, " n"],
    reader: Int[Tensor, " n"],
    amount: Float[Tensor, " n"],
) -> None:
    """Add amounts to edges, where there is such an edge."""
    there = (reader >= 0) & (writer < circuit.visible[reader.clamp(min=0)])
    edges = circuit.offset[reader[there]] + writer[there]
    total.index_add_(0, edges, amount[there].double())


def _patterns(
    engine: Engine, task: Task, config: AttributionGraphConfig, through: Float[Tensor, " W"]
) -> tuple[Float[Tensor, " E"], dict[str, float]]:
    """What goes through each head, shared out among the edges into its query and key; and the passes that took."""
    effects = eap(engine, task, split=config.split, batch_size=config.batch_size, explains=task.explained)
    graph, size = engine.graph, effects.values.double().abs()
    shares = torch.zeros_like(size)
    for layer in range(graph.spec.n_layers):
        block = graph.attention(layer)
        table, out = block.table(size), block.table(shares)
        for head in range(graph.spec.n_heads):
            rows = [head, graph.roles.key.start + graph.key_of(head)]
            found = table[rows]
            out[rows] += float(through[graph.writer(layer, head)]) * found / found.sum().clamp(min=1e-30)
    spent = effects.provenance["cost"]
    return shares, {name: spent[f"{name}_per_example"] for name in ("forwards", "backwards")}
