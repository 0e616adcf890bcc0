"""Candidates run from one reader on give what the engine gives them from the start."""

import pytest
import torch
from torch import Tensor

from edgewise.engine import Downstream, Engine, Stream, reader_blocks
from tests.engines import assert_close, conventions, engine
from tests.tiny import ONE_OF_EACH, collate, draw_prompts, tiny

BATCH = collate(draw_prompts((6, 3, 5)), "left")


def _walk(run: Engine, share: tuple[float, ...], seed: int = 1) -> None:
    """Cut at random from the logits backwards, and compare some candidates of every reader that is read."""
    graph, generator = run.graph, torch.Generator().manual_seed(seed)
    down, blocks = Downstream(Stream(run, BATCH)), reader_blocks(graph)
    kept, entered = torch.ones(graph.n_edges, dtype=torch.bool), None
    assert_close(down.full(), _logits(run, kept))
    for reader in reversed(range(graph.n_readers)):
        first, n = int(graph.offset[reader]), int(graph.visible[reader])
        if not n:
            continue
        if blocks[reader] != entered:
            entered = blocks[reader]
            down.enter(entered, kept)
        down.open(reader)
        if down.matters(reader):
            writers = torch.randperm(n, generator=generator)[:3].tolist()
            removed = (torch.rand(2, len(writers), generator=generator) < 0.6).double()
            for found, gone in zip(down.candidates(writers, removed), removed, strict=True):
                circuit = kept.clone()
                circuit[[first + w for w, x in zip(writers, gone, strict=True) if x]] = False
                assert_close(found, _logits(run, circuit))
        kept[first : first + n] = torch.rand(n, generator=generator) >= share[reader % len(share)]
        down.close(kept)


@torch.no_grad()
def _logits(run: Engine, kept: Tensor) -> Tensor:
    return run.run(BATCH, kept.double())


@pytest.mark.parametrize("ablation", ["interchange", "zero-shared"])
@pytest.mark.parametrize("name", [*ONE_OF_EACH, "llama-mqa", "qwen3"])
def test_candidates_are_what_the_engine_says(name: str, ablation: str):
    model = tiny(name)
    for graph in conventions(model)[:: 1 if name == "llama-gqa" else 2]:
        _walk(engine(model, graph, ablation), (0.0, 0.3, 0.8))


@pytest.mark.parametrize("ablation", ["mean", "mean-positional"])
def test_candidates_under_means(ablation: str):
    _walk(engine(tiny("llama-gqa"), ablation=ablation), (0.3, 0.0))


@pytest.mark.parametrize("name", ["gpt2", "neox-parallel"])
def test_candidates_of_a_whole_model_and_of_a_sparse_one(name: str):
    _walk(engine(tiny(name)), (0.0,))
    _walk(engine(tiny(name)), (0.95,))


def test_opening_after_a_drop_counts_what_was_dropped():
    run = engine(tiny("gpt2"))
    down, graph = Downstream(Stream(run, BATCH)), run.graph
    kept = torch.ones(graph.n_edges, dtype=torch.bool)
    reader = graph.reader_names.index("a2.h1.q")
    down.enter(reader_blocks(graph)[reader], kept)
    down.open(reader)
    down.drop([2, 5])
    kept[[int(graph.offset[reader]) + w for w in (2, 5, 7)]] = False
    assert_close(down.candidates([7], torch.ones(1, 1))[0], _logits(run, kept))
