"""Information flow routes: how much of each reader's input each writer makes up (Ferrando & Voita 2024, section 2)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise.discovery._attributing import attribution
from edgewise.discovery._configs import InformationFlowConfig
from edgewise.discovery._cost import Cost
from edgewise.discovery._explain import check_graph
from edgewise.engine import CHUNK_BYTES, Ablation, Engine, Stream
from edgewise.tasks import Batch, Task


@attribution(InformationFlowConfig)
def information_flow(engine: Engine, task: Task, config: InformationFlowConfig, cost: Cost) -> Float[Tensor, " E"]:
    """The importance of writer w in the stream x that a reader sees, `max(‖x‖₁ − ‖x − z_w‖₁, 0)`, as a share of all
    writers' at that position; one forward pass on the clean prompts, no metric and no counterfactual: the
    ablation is only noted. `logits` reads at the targets, every other reader at all positions.

    Returns:
        Scores `[E]` in [0, 1], the mean over positions (where edges carry them, over those of the edge's group; 0 where
        an example has none), then over examples. A head's query, key and value share one input and have one score.

    Raises:
        edgewise.InputError: a setting is wrong, or the graph's edges carry other position groups than the task has.
    """
    graph = engine.graph
    task.check_spans(graph)
    check_graph(graph, positions=True)
    plain = engine.under(Ablation("zero"))  # a difference from nothing is what is written
    total = torch.zeros(graph.n_edges, dtype=torch.float64)
    for batch in task.batches(config.split, config.batch_size):
        batch = batch.to(engine.model.device)
        total += _shares(Stream(plain, batch, groups=True), batch).cpu().double()
        cost.spend(len(batch.index), forwards=1)
    cost.examples = len(task.split(config.split))
    total /= cost.examples
    return total if engine.model.dtype == torch.float64 else total.float()


@torch.no_grad()
def _shares(stream: Stream, batch: Batch) -> Float[Tensor, " E"]:
    """Every edge's share, the mean over each example's positions, summed over the examples."""
    graph, last, n_tokens = stream.graph, stream.graph.final.number, stream.packing.n_tokens
    scores = stream.clean[0].new_zeros(graph.n_edges)
    weight = _weights(stream, torch.arange(n_tokens, device=scores.device), torch.ones_like(stream.example).to(scores))
    step = max(1, CHUNK_BYTES // (2 * graph.n_writers * stream.parts.d_model * scores.element_size()))
    for start in range(0, n_tokens, step):
        tokens = torch.arange(start, min(start + step, n_tokens), device=scores.device)
        written = stream.differences(tokens)
        for number in range(last):
            _add(stream, scores, number, written, tokens, weight[tokens])
    written = stream.differences(stream.targets)
    weight = _weights(stream, stream.targets, batch.weight.to(scores))
    _add(stream, scores, last, written, stream.targets, weight)
    return scores


def _weights(stream: Stream, tokens: Int[Tensor, " T"], weight: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """Weights that sum to 1 over each example's tokens; over each of its position groups, where edges carry them."""
    whose = stream.example[tokens]
    if stream.group is not None:
        whose = whose * stream.graph.n_groups + stream.group[tokens]
    return weight / weight.new_zeros(int(whose.max()) + 1).index_add_(0, whose, weight)[whose]


def _add(
    stream: Stream,
    scores: Float[Tensor, " E"],
    number: int,
    written: Float[Tensor, "W T D"],
    tokens: Int[Tensor, " T"],
    weight: Float[Tensor, " T"],
) -> None:
    block, x = stream.graph.blocks[number], stream.clean[number][tokens]
    nearer = x.abs().sum(-1) - (x - written[: block.n_writers]).abs().sum(-1)  # (w, T)
    proximity = nearer.clamp(min=0)
    share = proximity / proximity.sum(0).clamp(min=torch.finfo(x.dtype).tiny)
    for p, own in enumerate(scores.view(stream.graph.n_groups, -1)):
        at = slice(None) if stream.group is None else stream.group[tokens] == p
        block.table(own).add_(share[:, at] @ weight[at])
