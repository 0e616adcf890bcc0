"""Candidates run from one reader on give what the engine gives them from the start."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from edgewise.engine import Downstream, Engine, Stream
from edgewise.engine._reach import needed_everywhere
from edgewise.graph import Graph
from edgewise.models import Model
from tests.engines import assert_close, conventions, engine
from tests.tiny import ONE_OF_EACH, Batch, collate, draw_prompts, tiny

BATCH = collate(draw_prompts((6, 3, 5)), "left")
ALIKE = collate(
    [
        replace(p, corrupted=torch.cat([p.clean[:n], p.corrupted[n:]]))
        for p, n in zip(draw_prompts((6, 3, 5, 4), seed=3), (4, 1, 0, 3), strict=True)
    ],
    "both",
)
"""Pairs that begin alike; a target of the first stands before its first difference."""


def _walk(
    model: Model,
    share: tuple[float, ...],
    graph: Graph | None = None,
    ablation: str = "interchange",
    batch: Batch = BATCH,
) -> None:
    """Cut at random from the logits backwards, and compare some candidates of every reader that is read."""
    run, generator = engine(model, graph, ablation), torch.Generator().manual_seed(1)
    graph, down = run.graph, Downstream(Stream(run, batch))
    kept, entered = torch.ones(graph.n_edges, dtype=torch.bool), None
    found, circuits = [down.full()[None].clone()], [kept[None].clone()]
    for reader in reversed(range(graph.n_readers)):
        first, n = int(graph.offset[reader]), int(graph.visible[reader])
        if not n:
            continue
        if graph.block_of(reader).number != entered:
            entered = graph.block_of(reader).number
            down.enter(entered, kept)
        down.open(reader)
        if down.matters(reader):
            writers = torch.randperm(n, generator=generator)[:3].tolist()
            removed = (torch.rand(2, len(writers), generator=generator) < 0.6).double()
            without = kept.repeat(len(removed), 1)
            without[:, [first + w for w in writers]] &= removed == 0
            found.append(down.candidates(writers, removed).clone())
            circuits.append(without)
        kept[first : first + n] = torch.rand(n, generator=generator) >= share[reader % len(share)]
        down.close(kept)
    reference = engine(
        model, graph, ablation, path="reference"
    )  # which runs many circuits in little more than one's time
    expected = torch.cat([_logits(reference, some[:, None], batch) for some in torch.cat(circuits).split(24)])
    for one, other in zip(torch.cat(found), expected, strict=True):
        assert_close(one, other)


@torch.no_grad()
def _logits(run: Engine, kept: Tensor, batch: Batch = BATCH) -> Tensor:
    return run.run(batch, kept.double())


@pytest.mark.parametrize("ablation", ["interchange", "zero-shared"])
@pytest.mark.parametrize("name", [*ONE_OF_EACH, "llama-mqa", "qwen3", "olmo2", "gpt-oss"])
def test_candidates_are_what_the_engine_says(name: str, ablation: str):
    model = tiny(name)
    for graph in conventions(model)[:: 1 if name == "llama-gqa" else 2]:
        _walk(model, (0.0, 0.3, 0.8), graph, ablation)


@pytest.mark.parametrize("ablation", ["mean", "mean-positional"])
def test_candidates_under_means(ablation: str):
    _walk(tiny("llama-gqa"), (0.3, 0.0), ablation=ablation)


@pytest.mark.parametrize("name", ["gpt2", "neox-parallel"])
def test_candidates_of_a_whole_model_and_of_a_sparse_one(name: str):
    _walk(tiny(name), (0.0,))
    _walk(tiny(name), (0.95,))


def test_opening_after_a_drop_counts_what_was_dropped():
    run = engine(tiny("gpt2"))
    down, graph = Downstream(Stream(run, BATCH)), run.graph
    kept = torch.ones(graph.n_edges, dtype=torch.bool)
    reader = graph.reader_names.index("a2.h1.q")
    down.enter(graph.block_of(reader).number, kept)
    down.open(reader)
    down.drop([2, 5])
    kept[[int(graph.offset[reader]) + w for w in (2, 5, 7)]] = False
    assert_close(down.candidates([7], torch.ones(1, 1))[0], _logits(run, kept))


# ------------------------------------------------------------------------------------------------ what need not be run


@pytest.mark.parametrize("name", [*ONE_OF_EACH, "mistral-window", "neox-sequential", "olmo2"])
def test_pairs_that_begin_alike(name: str):
    for share in ((0.0, 0.3, 0.8), (0.9,)):
        _walk(tiny(name), share, batch=ALIKE)
    _walk(tiny(name), (0.5,), ablation="zero", batch=ALIKE)  # where the beginning is ablated too


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_only_tokens_before_a_pair_s_first_difference_are_left_out(name: str):
    stream = Stream(engine(tiny(name)), ALIKE)
    differ = stream.differences(slice(None)).abs().amax((0, 2)) > 1e-12
    causal = name != "plain-bidirectional"
    assert stream.changed.tolist() == (differ.nonzero()[:, 0].tolist() if causal else list(range(18)))
    assert len(stream.changed) == (2 + 2 + 5 + 1 if causal else 18)
    assert len(Stream(engine(tiny(name), ablation="zero"), ALIKE).changed) == 18


def test_a_change_runs_what_it_reaches_and_nothing_else():
    run = engine(tiny("gpt2"))
    graph, kept = run.graph, torch.ones(run.graph.n_edges, dtype=torch.bool)
    reads_m0 = graph.edge_writer == graph.writer_names.index("m0")
    into = {name: graph.edge_reader == graph.reader_names.index(name) for name in ("a1.h2.q", "a2.h0.v", "logits")}
    kept[reads_m0] = False
    kept[reads_m0 & (into["a1.h2.q"] | into["logits"])] = True
    from_head = graph.edge_writer == graph.writer_names.index("a1.h2")
    kept[from_head & ~into["a2.h0.v"]] = False
    kept[(graph.edge_writer == graph.writer_names.index("a2.h0")) & ~into["logits"]] = False
    down = Downstream(Stream(run, BATCH))
    down.enter(1, kept)
    down.open(graph.reader_names.index("m0"))
    ran = [(graph.blocks[2 + step.number].layer, step.writers) for step in down.plan.steps]
    assert ran == [(1, (2,)), (2, (0,)), (3, ())]  # heads a1.h2 and a2.h0, and the logits


def test_what_keys_and_values_read_is_needed_everywhere_and_the_rest_at_the_answers():
    graph = tiny("gpt2").graph()
    alive = torch.zeros(graph.n_edges, dtype=torch.bool)
    edges = ["m0 -> logits", "m1 -> a2.h3.q", "a2.h3 -> logits", "a0.h1 -> m1", "a0.h2 -> m0"]
    alive[[graph.edge_id(name) for name in edges]] = True
    assert not needed_everywhere(graph, alive, 0).any()
    for key in ("m0 -> a2.h3.k", "m1 -> a2.h3.v"):
        alive[graph.edge_id(key)] = True
    everywhere = needed_everywhere(graph, alive, 0).nonzero()[:, 0].tolist()
    assert [graph.writer_names[w] for w in everywhere] == ["a0.h1", "a0.h2", "m0", "m1"]
