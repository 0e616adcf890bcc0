"""Conventions: what a conversion does to each edge, and that it computes the same where it should."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from edgewise.circuit import Circuit
from edgewise.discovery import Scores
from edgewise.engine import Engine
from edgewise.exchange import convert
from edgewise.graph import Graph, GraphSpec
from tests.tiny import collate, draw_prompts, refused, tiny

EMBEDDINGS, KV = ("joint", "split", "off"), ("physical", "expanded")


def _graph(embeddings: str, kv: str, parallel: bool = False) -> Graph:
    return Graph(GraphSpec(2, 4, 2, embeddings, kv, parallel))  # pyright: ignore[reportArgumentType] (parametrised)


def _random(graph: Graph, seed: int = 0) -> Circuit:
    draw = torch.rand(graph.n_edges, generator=torch.Generator().manual_seed(seed))
    return Circuit(graph, draw < 0.4, draw)


def _ends(graph: Graph, edge: int) -> tuple[set[str], set[str]]:
    """The writers and readers of the finest graph that an edge stands for, by name."""
    writer, reader = graph.edge_name(edge).split(" -> ")
    writers = {"tok_embed", "pos_embed"} if writer == "embed" else {writer}
    if ".kv" in reader:
        layer, head, kind = reader.split(".")
        return writers, {f"{layer}.h{2 * int(head[2:]) + i}.{kind}" for i in range(2)}
    return writers, {reader}


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize(("source", "target"), list(product(product(EMBEDDINGS, KV), repeat=2)))
def test_an_edge_is_in_if_any_edge_that_it_stands_for_was(
    source: tuple[str, str], target: tuple[str, str], parallel: bool
):
    one, other = _graph(*source, parallel), _graph(*target, parallel)
    circuit = _random(one)
    found = convert(circuit, other)
    assert found.scores is not None and circuit.scores is not None
    kept: dict[tuple[str, str], tuple[bool, float]] = {}
    for edge in range(one.n_edges):
        for pair in product(*_ends(one, edge)):
            kept[pair] = (bool(circuit.kept[edge]), float(circuit.scores[edge]))
    for edge in range(other.n_edges):
        below = [kept.get(pair, (True, float(circuit.scores.max()))) for pair in product(*_ends(other, edge))]
        assert bool(found.kept[edge]) == any(each for each, _ in below)
        assert float(found.scores[edge]) == max(score for _, score in below)
    notes = found.provenance.get("converted", [])
    assert len(notes) == sum(a != b for a, b in zip(source, target, strict=True))
    assert len(set(notes)) == len(notes)


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("llama-gqa", ("joint", "physical"), ("joint", "expanded")),
        ("gpt2", ("joint", "physical"), ("split", "physical")),
        ("gpt2", ("off", "physical"), ("joint", "physical")),
    ],
)
def test_to_a_finer_graph_it_computes_the_same(name: str, source: tuple[str, str], target: tuple[str, str]):
    model, batch = tiny(name, torch.float64), collate(draw_prompts((5, 4)))
    one, other = (model.graph(*spec) for spec in (source, target))  # pyright: ignore[reportArgumentType] (parametrised)
    circuit = _random(one)
    masks = {graph: each.kept.double() for graph, each in ((one, circuit), (other, convert(circuit, other)))}
    expected, found = (Engine(model, graph).run(batch, mask) for graph, mask in masks.items())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_there_and_back_is_the_same():
    circuit = _random(_graph("joint", "physical"))
    back = convert(convert(circuit, _graph("split", "expanded")), circuit.graph)
    assert torch.equal(back.kept, circuit.kept) and back.scores is not None and circuit.scores is not None
    assert torch.equal(back.scores, circuit.scores)
    assert len(back.provenance["converted"]) == 4
    assert convert(circuit, circuit.graph) is circuit


@pytest.mark.parametrize("missing", [torch.nan, -torch.inf])
def test_edges_without_a_score_stay_without_one_and_come_last(missing: float):
    circuit = _random(_graph("joint", "physical"))
    assert circuit.scores is not None
    scores = circuit.scores.masked_fill(torch.arange(len(circuit.scores)) % 3 == 0, missing)
    for kv in KV:
        found = convert(Circuit(circuit.graph, circuit.kept, scores), _graph("split", kv))
        assert found.scores is not None and found.scores.isnan().any() and not found.scores.isinf().any()
        chosen = Scores(found.graph, found.scores, {}).top(int(found.scores.isfinite().sum()), absolute=True)
        assert not found.scores[chosen.kept].isnan().any()
        assert found.scores[found.scores.isfinite()].abs().max() <= 1


def test_an_infinite_score_stays_the_first():
    circuit = _random(_graph("off", "physical"))
    assert circuit.scores is not None
    circuit.scores[3] = torch.inf
    found = convert(circuit, _graph("joint", "physical")).scores
    assert found is not None and found.isinf().sum() == 1 + found.numel() - circuit.graph.n_edges


def test_another_model_is_refused():
    other = Graph(GraphSpec(3, 4, 2))
    assert "different models" in refused(lambda: convert(_random(_graph("joint", "physical")), other))


def test_each_group_of_positions_is_carried_apart():
    plain, spans = (_graph("joint", "physical"), _graph("split", "expanded")), ("subject", "end", "rest")
    one, other = (Graph(replace(graph.spec, spans=spans)) for graph in plain)
    circuit = _random(one)
    assert circuit.scores is not None
    found = convert(circuit, other)
    groups = zip(circuit.kept.view(3, -1), circuit.scores.view(3, -1), strict=True)
    alone = [convert(Circuit(plain[0], kept, scores), plain[1]) for kept, scores in groups]
    assert torch.equal(found.kept, torch.cat([each.kept for each in alone]))
    assert found.scores is not None
    assert torch.equal(found.scores, torch.cat([each.scores for each in alone if each.scores is not None]))
