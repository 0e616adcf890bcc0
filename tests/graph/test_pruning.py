"""Which edges carry signal."""

import random

import pytest
import torch

from edgewise.graph import Graph, GraphSpec
from tests.graph.specs import SMALL, fed_by, spec_id


def _on_a_path(spec: GraphSpec, kept: list[str], from_embeddings: bool) -> set[str]:
    """The kept edges on a path of kept edges that ends in `logits` (and begins in an embedding), walking them all."""
    edges = [(name, *name.split(" -> ")) for name in kept]
    found: set[str] = set()

    def walk(writer: str, path: tuple[str, ...]) -> None:
        for name, source, reader in edges:
            if source == writer:
                if reader == "logits":
                    found.update((*path, name))
                moved = fed_by(spec, reader)
                if spec.coupled_heads and reader.startswith("a"):  # the norm of their sum moves all of a layer's heads
                    moved = [f"{reader.partition('.')[0]}.h{head}" for head in range(spec.n_heads)]
                for next_writer in moved:
                    walk(next_writer, (*path, name))

    sources = {source for _, source, _ in edges}
    # What kept errors write reaches every reader after the first layer that has one.
    kept_after = spec.features[0][0] if spec.error == "kept" else spec.n_layers
    starts = {
        source
        for source in sources
        if not from_embeddings or source.endswith(("embed", ".error")) or _layer_of(source) > kept_after
    }
    for writer in starts:
        walk(writer, ())
    return found


def _layer_of(writer: str) -> int:
    """Of the readers that feed it; −1 for embeddings."""
    return -1 if "embed" in writer else int(writer[1:].partition(".")[0])


@pytest.mark.parametrize("spec", SMALL, ids=spec_id)
def test_pruning_is_a_search_of_all_paths(spec: GraphSpec):
    graph = Graph(spec)
    names = graph.edge_names(torch.arange(graph.n_edges))
    draw = random.Random(0)
    dropped = 0
    for density in (1.5, 2.5, 4.0, 6.0) * 2:
        # So many edges per reader: paths are long, and few enough to walk all of them.
        kept = torch.tensor([draw.random() < density * graph.n_readers / graph.n_edges / 2 for _ in names])
        chosen = [name for name, keep in zip(names, kept.tolist(), strict=True) if keep]
        on_a_path = [_on_a_path(spec, chosen, from_embeddings) for from_embeddings in (False, True)]
        for ablation in ("interchange", "zero", "mean", "mean-positional", "learned"):
            alive = graph.prune(kept, ablation)
            expected = on_a_path[ablation == "interchange" and spec.embeddings != "off"]
            assert {name for name, keep in zip(names, alive.tolist(), strict=True) if keep} == expected
            assert torch.equal(graph.prune(alive, ablation), alive)  # what is left needs nothing of what was dropped
            dropped += len(chosen) - len(expected)
    assert dropped > 0 or spec.n_layers == 1  # where all edges may lead from an embedding straight to the logits


@pytest.mark.parametrize("spec", SMALL, ids=spec_id)
def test_the_whole_graph_carries_signal_and_the_empty_one_none(spec: GraphSpec):
    graph = Graph(spec)
    every = torch.ones(graph.n_edges, dtype=torch.bool)
    before = every.clone()
    for ablation in ("interchange", "zero"):
        assert graph.prune(every, ablation).all()
        assert not graph.prune(~every, ablation).any()
    assert torch.equal(every, before)


def test_the_rules_of_pruning_by_example():
    graph = Graph(GraphSpec(3, 4, 2))

    def pruned(ablation: str, *names: str) -> list[str]:
        kept = torch.zeros(graph.n_edges, dtype=torch.bool)
        kept[[graph.edge_id(name) for name in names]] = True
        return graph.edge_names(graph.prune(kept, ablation).nonzero()[:, 0])

    path = ("embed -> a0.kv1.k", "a0.h3 -> m1", "m1 -> logits")
    for ablation in ("interchange", "zero"):
        assert sorted(pruned(ablation, *path)) == sorted(path)
        assert pruned(ablation, *path[:2]) == []  # nothing reaches the logits
    assert pruned("interchange", *path[1:]) == []  # nothing comes from an embedding
    assert sorted(pruned("zero", *path[1:])) == sorted(path[1:])
    assert pruned("interchange", "embed -> a0.kv0.k", *path[1:]) == []  # another key head than the one that a0.h3 uses
    assert pruned("interchange", "embed -> logits", "a0.h0 -> logits") == ["embed -> logits"]


def test_the_rules_of_pruning_by_example_where_heads_are_coupled():
    graph = Graph(GraphSpec(3, 4, 2, coupled_heads=True))

    def pruned(ablation: str, *names: str) -> list[str]:
        kept = torch.zeros(graph.n_edges, dtype=torch.bool)
        kept[[graph.edge_id(name) for name in names]] = True
        return sorted(graph.edge_names(graph.prune(kept, ablation).nonzero()[:, 0]))

    # What a0.h0 asks changes the scale of what a0.h3 writes; nobody needs what a0.h1 writes to a dead MLP.
    kept = ("embed -> a0.h0.q", "a0.h1 -> m1", "a0.h3 -> logits")
    for ablation in ("interchange", "zero"):
        assert pruned(ablation, *kept) == [kept[2], kept[0]]
        assert pruned(ablation, *kept[:2]) == []
    assert pruned("interchange", kept[2]) == [] and pruned("zero", kept[2]) == [kept[2]]


def test_heads_are_coupled_within_a_position_group():
    graph = Graph(GraphSpec(1, 2, 2, spans=("subject", "end"), coupled_heads=True))

    def pruned(*names: str) -> list[str]:
        kept = torch.zeros(graph.n_edges, dtype=torch.bool)
        kept[[graph.edge_id(name) for name in names]] = True
        return sorted(graph.edge_names(graph.prune(kept, "interchange").nonzero()[:, 0]))

    # A query asks at its own tokens alone; a key is seen from everywhere.
    assert pruned("embed -> a0.h0.q @ subject", "a0.h1 -> logits @ end") == []
    for kept in (
        ["a0.h1 -> logits @ end", "embed -> a0.h0.q @ end"],
        ["a0.h1 -> logits @ end", "embed -> a0.h0.k @ subject"],
    ):
        assert pruned(*kept) == sorted(kept)
