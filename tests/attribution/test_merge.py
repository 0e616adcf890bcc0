"""Many prompts, one graph; two graphs, one difference; many thresholds, one consensus."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgewise import InputError
from edgewise.attribution import (
    AttributionConfig,
    AttributionGraph,
    Difference,
    Keys,
    MergedGraph,
    attribute,
    consensus,
    difference,
    export,
    import_graph,
    influence,
    merge,
    prune,
    scores,
)
from edgewise.attribution._graph import KINDS
from edgewise.attribution._influence import kept
from edgewise.runs import RunOptions, bootstrap
from edgewise.viewer._attribution import arrays_of
from tests.attribution.made_up import S, made_up
from tests.tiny import VOCABULARY, tiny

SPANS = ["end", "start", "text", "named"]


def graphs_of(n: int = 5, **choices) -> list[AttributionGraph]:
    """Graphs of several lengths."""
    return [made_up(seed, S=S - seed % 2, **choices) for seed in range(n)]


def names_in(graph: AttributionGraph, spans: str) -> list[str]:
    length = len(graph.tokens)
    if spans == "named":
        return ["first", *["middle"] * (length - 2), "last"]
    return {
        "end": [str(i - length) for i in range(length)],
        "start": [str(i) for i in range(length)],
        "text": list(graph.tokens),
    }[spans]


def key(graph: AttributionGraph, i: int, spans: list[str]) -> str:
    """What a node is called in a merged graph."""
    kind, position = KINDS[int(graph.nodes.kind[i])], int(graph.nodes.position[i])
    if kind == "root" or position < 0:
        return graph.names[i]
    return graph.names[i].rsplit("@", 1)[0] + f"@{spans[position]}"


def by_hand(graphs: list[AttributionGraph], spans: str) -> tuple[dict, dict]:
    """Of every edge, and of every node's influence, each prompt's number."""
    edges = defaultdict(lambda: [None] * len(graphs))
    nodes = defaultdict(lambda: [None] * len(graphs))
    for prompt, graph in enumerate(graphs):
        names = [key(graph, i, names_in(graph, spans)) for i in range(graph.n_nodes)]
        for i, found in enumerate(influence(graph).tolist()):
            nodes[names[i]][prompt] = (nodes[names[i]][prompt] or 0) + found
        for source, target, weight in zip(
            graph.sources.tolist(), graph.edge_targets.tolist(), graph.weight.tolist(), strict=True
        ):
            pair = names[source], names[target]
            edges[pair][prompt] = (edges[pair][prompt] or 0) + weight
    return edges, nodes


def given(graphs: list[AttributionGraph], spans: str):
    return [names_in(graph, spans) for graph in graphs] if spans == "named" else spans


@pytest.mark.parametrize("spans", SPANS)
def test_every_edge_and_node_is_the_mean_over_prompts(spans: str):
    graphs = graphs_of()
    merged, (edges, nodes) = merge(graphs, given(graphs, spans)), by_hand(graphs, spans)
    table = merged.table()
    assert set(zip(table["source"], table["target"], strict=True)) == set(edges)
    for row in zip(*table.values(), strict=True):
        source, target, mean, share, agreement = row
        there = [each for each in edges[source, target] if each is not None]
        assert mean == pytest.approx(sum(there) / len(graphs), abs=1e-12)
        assert share == pytest.approx(len(there) / len(graphs))
        positive = sum(each > 0 for each in there)
        assert agreement == pytest.approx(max(positive, len(there) - positive) / len(there))
    assert set(merged.names) == set(nodes)
    assert len(set(merged.names)) == merged.n_nodes
    for name, mean, share in zip(
        merged.names, merged.influence.mean.tolist(), merged.influence.share.tolist(), strict=True
    ):
        there = [each for each in nodes[name] if each is not None]
        assert mean == pytest.approx(sum(there) / len(graphs), abs=1e-12)
        assert share == pytest.approx(len(there) / len(graphs))


def test_intervals_are_the_bootstraps():
    merged = merge(graphs_of(6))
    found = merged.weight.intervals(resamples=1000)
    dense = merged.weight.matrix.toarray()
    for row, (low, high) in zip(dense, found.tolist(), strict=True):
        expected = bootstrap(row, resamples=1000)
        assert (low, high) == (pytest.approx(expected.low, abs=1e-12), pytest.approx(expected.high, abs=1e-12))
    assert merged.table(1000)["low"] == found[:, 0].tolist()


def test_one_prompt_merged_is_itself():
    """And shows no spread: its intervals are NaN, as those of a difference are."""
    graph = made_up()
    assert merge([graph]).weight.intervals().isnan().all() and merge([graph]).influence.intervals().isnan().all()
    again = merge([graph]).mean_graph()
    assert again.n_edges == graph.n_edges
    assert influence(again).sort().values.numpy() == pytest.approx(influence(graph).sort().values.numpy())
    assert scores(again) == pytest.approx(scores(graph))
    assert set(merge([graph], "start").names) == set(graph.names)


def test_the_mean_graph_is_a_graph(tmp_path: Path):
    merged = merge(graphs_of())
    graph = merged.mean_graph()
    left_out = graph.nodes.value - graph.ledger.residual - graph.ledger.outside
    assert torch.from_numpy(graph.matrix.sum(axis=1)).numpy() == pytest.approx(left_out.numpy(), abs=1e-9)
    assert prune(graph).n_nodes < graph.n_nodes
    export(graph, tmp_path / "g.json")
    assert import_graph(tmp_path / "g.json").n_edges == graph.n_edges
    assert graph.tokens == tuple(str(i) for i in range(-S, 0))


def test_the_ledger_follows_sub_graphs():
    merged = merge(graphs_of()).consensus(share=0.4, agreement=0.6)
    assert bool((merged.weight.share >= 0.4).all())
    assert bool((merged.weight.agreement >= 0.6).all())
    assert bool((merged.influence.share >= 0.4).all())
    graph = merged.mean_graph()
    left_out = graph.nodes.value - graph.ledger.residual - graph.ledger.outside
    assert torch.from_numpy(graph.matrix.sum(axis=1)).numpy() == pytest.approx(left_out.numpy(), abs=1e-9)


def test_consensus_over_prompts():
    graphs = graphs_of(4)
    edges, _ = by_hand(graphs, "end")
    found = merge(graphs).consensus()
    expected = {pair for pair, each in edges.items() if None not in each}
    assert {(s, t) for s, t in zip(found.table()["source"], found.table()["target"], strict=True)} == expected
    assert 0 < len(expected) < len(edges)


def test_lists_are_sorted():
    merged = merge(graphs_of())
    row = merged.incoming(merged.nodes.roots[0])
    assert [abs(w) for _, w in row] == sorted((abs(w) for _, w in row), reverse=True)
    name, weight = row[0]
    assert (merged.nodes.roots[0], weight) in merged.outgoing(name)
    with pytest.raises(InputError, match="not in this graph"):
        merged.incoming("nowhere")


def test_roots_by_name_or_by_place():
    first, second = made_up(0), made_up(1)
    swapped = replace(second, roots=second.roots[::-1])
    merged = merge([first, swapped])
    assert merged.nodes.roots == first.roots
    expected = (first.root_weights + second.root_weights.flip(0)).double() / 2
    assert merged.root_weights.numpy() == pytest.approx(expected.numpy())
    other = replace(second, roots=(second.roots[0], "else"))
    assert merge([first, other]).nodes.roots == (first.roots[0], "root 1")


@pytest.mark.parametrize("kind", ["nodes", "places"])
def test_files(tmp_path: Path, kind):
    merged = merge(graphs_of(), by=kind)
    merged.save(tmp_path / "m.safetensors")
    again = MergedGraph.load(tmp_path / "m.safetensors")
    assert (again.names, again.table(10)) == (merged.names, merged.table(10))
    assert (again.settings, again.prompts, again.by) == (merged.settings, merged.prompts, merged.by)
    for name in ("value", "root_weights"):
        assert torch.equal(getattr(again, name), getattr(merged, name))
    assert all(torch.equal(*pair) for pair in zip(again.ledger, merged.ledger, strict=True))
    found = difference(merged, merge(graphs_of()[:3], by=kind))
    found.save(tmp_path / "d.safetensors")
    loaded = Difference.load(tmp_path / "d.safetensors")
    assert (loaded.table(), loaded.node_table(), loaded.by) == (found.table(), found.node_table(), found.by)
    for name in ("m", "d"):
        with pytest.raises(InputError, match="is saved as .safetensors"):
            (merged if name == "m" else found).save(tmp_path / f"{name}.json")
    with pytest.raises(InputError, match="not a merged attribution graph"):
        MergedGraph.load(tmp_path / "d.safetensors")


def test_by_places_influence_is_conserved():
    """What arrives at a node from its targets is its influence; a root's edges carry its weight."""
    graphs = graphs_of()
    merged = merge(graphs, by="places")
    flow = torch.zeros(merged.n_nodes, dtype=torch.float64)
    flow.index_add_(0, merged.sources, merged.weight.mean)
    assert flow.numpy() == pytest.approx(merged.influence.mean.numpy(), abs=1e-9)
    into = torch.zeros(merged.n_nodes, dtype=torch.float64).index_add_(0, merged.targets, merged.weight.mean)
    roots = [merged.names.index(name) for name in merged.nodes.roots]
    assert into[roots].numpy() == pytest.approx(merged.root_weights.numpy(), rel=1e-6)
    assert "m1.nodes@-1" in merged.names
    with pytest.raises(InputError, match="merge by='nodes'"):
        merged.mean_graph()


@pytest.mark.parametrize("by", ["nodes", "places"])
def test_differences(by):
    first, second = graphs_of(4), graphs_of(6)[2:]
    a, b = (merge(each, by=by) for each in (first, second))
    found, back, none = difference(first, second, by=by), difference(second, first, by=by), difference(a, a)
    means = [
        dict(zip(zip(t["source"], t["target"], strict=True), t["mean"], strict=True)) for t in (a.table(), b.table())
    ]
    table = found.table()
    assert set(zip(table["source"], table["target"], strict=True)) == set(means[0]) | set(means[1])
    for source, target, one, other, value, low, high in zip(*table.values(), strict=True):
        assert one == pytest.approx(means[0].get((source, target), 0), abs=1e-12)
        assert other == pytest.approx(means[1].get((source, target), 0), abs=1e-12)
        assert value == pytest.approx(one - other)
        assert low - 1e-9 <= value <= high + 1e-9
    assert [abs(x) for x in table["difference"]] == sorted((abs(x) for x in table["difference"]), reverse=True)
    assert torch.equal(back.value, -found.value)
    assert back.intervals.numpy() == pytest.approx(-found.intervals.flip(1).numpy(), abs=1e-9)
    assert not none.value.any()
    assert not none.intervals.any()
    assert not none.sure.any()
    assert found.root_weights.tolist() == torch.maximum(a.root_weights, b.root_weights).tolist() != [1, 1]
    nodes = found.node_table()
    for end, merged in (("first", a), ("second", b)):
        known = dict(zip(merged.names, merged.influence.mean.tolist(), strict=True))
        for name, value in zip(nodes["node"], nodes[end], strict=True):
            assert value == pytest.approx(known.get(name, 0), abs=1e-12)


def test_intervals_of_unequally_many_prompts():
    found = difference(graphs_of(4), graphs_of(6))
    assert bool((found.intervals[:, 0] <= found.intervals[:, 1]).all())
    same = difference(graphs_of(4), [*graphs_of(4), *graphs_of(4)])
    assert not same.sure.any()
    assert same.intervals[:, 1].max() > 0
    assert bool(difference(made_up(0), made_up(1)).intervals.isnan().all())


def test_of_other_nodes_by_places():
    neurons, features = made_up(0, "neuron"), made_up(0, "feature")
    found = difference(neurons, features)
    assert found.by == "places"
    assert np.abs(found.value.numpy()).max() == pytest.approx(0, abs=1e-12)  # the same numbers under other names
    assert difference(neurons, neurons).by == "nodes"
    with pytest.raises(InputError, match="merge them by='places'"):
        merge([neurons, features])
    with pytest.raises(InputError, match="give the graphs themselves"):
        difference(merge([neurons]), features, by="places")


def test_features_of_other_transcoders_are_not_the_same_by_number():
    one, other = (replace(made_up(0, "feature"), provenance={"transcoders": [{"weights_hash": x}]}) for x in "ab")
    assert difference(one, other).by == "places" and difference(one, other, by="nodes").by == "nodes"
    with pytest.raises(InputError, match="merge them by='places'"):
        merge([one, other])
    with pytest.raises(InputError, match="merged by nodes, but of different ones"):
        difference(merge([one]), merge([other]))
    assert difference(merge([one]), merge([other]), by="nodes").by == "nodes"


def test_a_difference_is_of_one_model_and_of_one_kind_of_spans():
    graph = made_up(0)
    smaller = replace(graph, nodes=graph.nodes._replace(layer=(graph.nodes.layer - 1).clamp(min=0)))
    with pytest.raises(InputError, match="layers"):
        difference(graph, smaller)
    with pytest.raises(InputError, match="over the spans end and start"):
        difference(merge([graph]), merge([graph], "start"))


def test_consensus_over_thresholds():
    graph, thresholds = made_up(0, n_inner=9), [(0.5, 0.9), (0.7, 0.95), (0.9, 0.98)]
    found = consensus(graph, thresholds)
    masks = [kept(graph, *each) for each in thresholds]
    assert found.nodes.tolist() == [sum(column) / 3 for column in zip(*(m[0].tolist() for m in masks), strict=True)]
    assert found.edges.tolist() == [sum(column) / 3 for column in zip(*(m[1].tolist() for m in masks), strict=True)]
    strict = found.graph(graph)
    assert strict.n_nodes == int(torch.stack([m[0] for m in masks]).all(0).sum())
    assert strict.n_nodes < found.graph(graph, 1 / 3).n_nodes < graph.n_nodes
    assert len(consensus(graph).thresholds) == 15
    with pytest.raises(InputError, match="none given"):
        consensus(graph, [])
    with pytest.raises(InputError, match="give 0 to 1"):
        consensus(graph, [(1.5, 0.9)])
    with pytest.raises(InputError, match="consensus: on a graph of"):
        found.graph(made_up(1))


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("graphs", "choices", "says"),
    [
        ([], {}, "none given"),
        ([made_up(0), made_up(1, n_roots=1)], {}, "they explain 1, 2 roots"),
        ([made_up(0)], {"spans": "begin"}, "give 'end', 'start', 'text'"),
        ([made_up(0)], {"spans": [["a"] * S] * 2}, "2 lists of names for 1 graphs"),
        ([made_up(0)], {"spans": [["a"]]}, "1 names for 4 positions"),
        ([made_up(0)], {"by": "name"}, "give 'nodes' or 'places'"),
    ],
)
def test_what_cannot_be_merged(graphs, choices, says: str):
    with pytest.raises(InputError, match=says) as caught:
        merge(graphs, **choices)
    assert "\n" not in str(caught.value)


def test_on_a_model():
    model, config = tiny("llama-gqa"), AttributionConfig(max_nodes=40, batch=20)
    prompts = [torch.randint(VOCABULARY, (5 + i % 2,), generator=torch.Generator().manual_seed(i)) for i in range(3)]
    graphs = [attribute(model, each, target=3, config=config, options=RunOptions(progress=False)) for each in prompts]
    merged = merge(graphs)
    graph = merged.mean_graph()
    left_out = graph.nodes.value - graph.ledger.residual - graph.ledger.outside
    assert torch.from_numpy(graph.matrix.sum(axis=1)).numpy() == pytest.approx(left_out.numpy(), abs=1e-9)
    assert merged.influence.share[merged.names.index("token@-5")] == 1
    assert difference(graphs[0], graphs[1]).by == "nodes"
    for call in (lambda: graph.attach(model), graph.heads, lambda: graph.why("token@-5", graph.roots[0])):
        with pytest.raises(InputError, match="a mean over prompts, .* it has no run; give the graph of one prompt"):
            call()


def test_the_mean_graphs_roots_stand_where_they_do_in_all_prompts(tmp_path: Path):
    def places(graphs, spans) -> list[str]:
        merged = merge(graphs, spans)
        merged.save(tmp_path / "m.safetensors")
        found, again = merged.mean_graph(), MergedGraph.load(tmp_path / "m.safetensors").mean_graph()
        assert found.tokens == again.tokens and torch.equal(found.nodes.position, again.nodes.position)
        assert len(found.ids) == len(found.tokens)
        arrays = arrays_of(merged, "merged")
        assert (arrays.tokens, arrays.position.tolist()) == (list(found.tokens), found.nodes.position.tolist())
        return [found.tokens[i] for i in found.nodes.position[found.nodes.is_kind("root")].tolist()]

    two, early = [made_up(0), made_up(1)], made_up(2)
    here = early.nodes.is_kind("root")
    early = replace(early, nodes=early.nodes._replace(position=torch.where(here, S - 2, early.nodes.position)))
    assert places(two, [["a", "b", "c", "last"], ["a", "d", "e", "last"]]) == ["last"] * 2  # e was met last
    assert places(two, [["a", "b", "c", "last"], ["a", "b", "last", "c"]]) == ["roots"] * 2
    assert places(two, [["a", "b", "c", "last"], ["a", "roots", "last", "c"]]) == ["roots'"] * 2
    assert places([*two, early], "end") == ["roots"] * 2
    assert places([early, early], "end") == ["-2"] * 2
    assert places(graphs_of(), "start") == ["roots"] * 2
    assert places([two[0], replace(two[1], roots=two[1].roots[::-1])], "end") == ["-1"] * 2
    first = replace(
        early, nodes=early.nodes._replace(position=torch.where(here, early.nodes.index, early.nodes.position))
    )
    swapped = replace(first, roots=first.roots[::-1])
    assert places([first, first], "end") == ["-4", "-3"]
    assert places([first, swapped], "end") == ["roots"] * 2
    assert merge([swapped]).nodes.root_spans == (0, 1)
    both = difference([first, first], [swapped, swapped])
    assert both.nodes.root_spans == (-1, -1)
    assert arrays_of(both, "difference").tokens[-1] == "roots"
    header, columns = both.nodes.header(), both.nodes.tensors()
    del header["root_spans"]  # as files were before
    assert Keys.read(header, columns).root_spans == (S - 1, S - 1)
    for wrong in ([0], [0, S], [0, -2], [0, 0.5]):
        with pytest.raises(ValueError, match="its roots' spans"):
            Keys.read({**header, "root_spans": wrong}, columns)


def test_a_mean_graph_has_no_tokens_that_circuit_tracer_could_have(tmp_path: Path):
    with pytest.raises(InputError, match=r"as a mean over prompts does, or a file without them; write .json"):
        export(merge(graphs_of()).mean_graph(), tmp_path / "g.pt")
    assert not (tmp_path / "g.pt").exists()
