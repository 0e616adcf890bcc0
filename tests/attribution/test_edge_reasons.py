"""The most influential edges of a graph, split and explained at once, are what `why` says of each; a file holds it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise import InputError
from edgewise.attribution import AttributionGraph, EdgeReasons, edge_influence, edge_reasons, promoted, prune, why
from tests.attribution.test_why import KINDS, small
from tests.tiny import tiny

CHOSEN = [("gpt2", "cross-layer with skip"), ("llama-gqa", "neurons"), ("neox-parallel", "per layer")]


@pytest.mark.unchecked
@pytest.mark.parametrize(
    "wrong",
    [
        lambda each: {"heads": each.heads[:3]},
        lambda each: {"past": each.past[:, :1]},
        lambda each: {"later": each.later.flatten()},
        lambda each: {"weight": each.weight.log().fill_(torch.nan)},
        lambda each: {"targets": each.targets[1:]},
        lambda each: {"whys": {len(each): next(iter(each.whys.values()))}},
    ],
)
def test_a_file_whose_numbers_are_of_other_edges(wrong: Any, reasons: EdgeReasons, tmp_path: Path):
    replace(reasons, **wrong(reasons)).save(tmp_path / "reasons.safetensors")
    with pytest.raises(InputError, match="not the reasons of a graph's edges"):
        EdgeReasons.load(tmp_path / "reasons.safetensors")


@pytest.fixture(scope="module", params=CHOSEN, ids=lambda param: param[0])
def graph(request: pytest.FixtureRequest) -> AttributionGraph:
    name, kind = request.param
    model = tiny(name)
    return small(model, KINDS[kind](model))


@pytest.fixture(scope="module")
def reasons(graph: AttributionGraph) -> EdgeReasons:
    return edge_reasons(graph, 30, n_reasons=2, n_heads=1, most=3)


def test_the_most_influential_edges_are_split_as_why_splits_each(graph: AttributionGraph, reasons: EdgeReasons):
    influence = edge_influence(graph).topk(30)
    names = [(graph.names[graph.sources[i]], graph.names[graph.edge_targets[i]]) for i in influence.indices]
    assert list(zip(reasons.sources, reasons.targets, strict=True)) == names and len(reasons) == 30
    for place, (source, target) in enumerate(names):
        splits = {each.layer: each for each in why(graph, source, target, n_heads=0).layers}
        for layer in range(reasons.heads.shape[1]):
            split = splits.get(layer)
            found = reasons.heads[place, layer].sum(), reasons.past[place, layer], reasons.later[place, layer]
            expected = (split.through, split.past, split.later) if split else (0.0, 0.0, 0.0)
            assert [float(x) for x in found] == pytest.approx(expected, rel=1e-5, abs=1e-6)
            for head in split.heads if split else ():
                assert float(reasons.heads[place, layer, head.head]) == pytest.approx(head.weight, rel=1e-5, abs=1e-6)


def test_the_edges_that_heads_carry_most_have_the_reasons_that_why_gives(graph: AttributionGraph, reasons: EdgeReasons):
    influence = edge_influence(graph).topk(30).values
    carried = influence * (reasons.heads.abs().sum(2) / reasons.weight.abs()[:, None]).max(1).values
    first = [graph.names[i] for i in (graph.nodes.position == 0).nonzero()[:, 0].tolist()]
    carried = carried * torch.tensor([source not in first for source in reasons.sources])
    assert set(reasons.whys) == set(carried.topk(2).indices.tolist())
    for place, found in reasons.whys.items():
        assert found == why(graph, reasons.sources[place], reasons.targets[place], 1, 3)


def test_nodes_speak_for_the_tokens_whose_logits_their_write_moves(graph: AttributionGraph, reasons: EdgeReasons):
    ends = {*reasons.sources, *reasons.targets}
    inner = graph.nodes.is_kind("neuron", "feature")
    assert set(reasons.writes) == {name for name, is_inner in zip(graph.names, inner, strict=True) if is_inner} & ends
    assert promoted(graph, sorted(reasons.writes)).keys() == reasons.writes.keys()
    for each in reasons.writes.values():
        values = [x for _, x in (*each.raises, *reversed(each.lowers))]
        assert values == sorted(values, reverse=True) and values[0] >= 0 >= values[-1]


def test_what_the_last_layers_nodes_raise_is_their_edge_to_the_logit():
    """A node of the last layer at the last position reaches the logits only straight."""
    model = tiny("gpt2")
    graph = small(model, target=[7])
    last = int(graph.nodes.layer.max()) - 1
    root = graph.names[-1]
    names = [
        name
        for name, _ in graph.incoming(root)
        if name.startswith(f"m{last}.n") and name.endswith(f"@{len(graph.ids) - 1}")
    ]
    said = promoted(graph, names, most=50)
    assert len(names) > 3
    for name in names:
        tokens = dict(said[name].raises)
        assert tokens["7"] == pytest.approx(dict(graph.incoming(root))[name], rel=1e-9)


def test_a_file_holds_it_and_a_pruned_graph_still_has_its_edges(
    graph: AttributionGraph, reasons: EdgeReasons, tmp_path: Path
):
    reasons.save(tmp_path / "reasons.safetensors")
    again = EdgeReasons.load(tmp_path / "reasons.safetensors")
    assert (again.sources, again.targets, again.whys, again.writes) == (
        reasons.sources,
        reasons.targets,
        reasons.whys,
        reasons.writes,
    )
    assert torch.equal(again.heads, reasons.heads) and torch.equal(again.weight, reasons.weight)
    small_one = prune(graph, 0.5, 0.8)
    places, edges = again.edges_in(small_one)
    assert again.fits(small_one) and 0 < len(places) < 30
    assert torch.allclose(small_one.weight[edges].float(), again.weight[places])
    with pytest.raises(InputError, match="saved as .safetensors"):
        reasons.save(tmp_path / "reasons.json")
    graph.save(tmp_path / "graph.safetensors")
    with pytest.raises(InputError, match="not the reasons of a graph's edges"):
        EdgeReasons.load(tmp_path / "graph.safetensors")
