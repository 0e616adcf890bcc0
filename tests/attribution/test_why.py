"""Edges split over heads add up to the edge at every layer; a head's query-key terms add up to its contrast."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import edgewise.attribution as attribution
from edgewise import InputError
from edgewise.attribution import AttributionConfig, AttributionGraph, heads_of
from edgewise.attribution._features import Features, by_layer
from edgewise.attribution._frozen import frozen_run
from edgewise.attribution._head_table import relations
from edgewise.attribution._heads import passes
from edgewise.attribution._nodes import Neurons, Nodes
from edgewise.attribution._query_key import Contrast, terms
from edgewise.attribution._rows import Columns, rows
from edgewise.attribution._why import source_at, targets_of
from edgewise.models import Model
from edgewise.models.block import normed, pattern_logits, project
from edgewise.transcoders import Replacement
from tests.attribution.test_rows import N, graph_of, prompt, transcoder
from tests.tiny import CONFIGURATIONS, ONE_OF_EACH, random_model, tiny

FAMILIES = [*ONE_OF_EACH, "gemma3", "olmo2", "mixtral", "gpt-oss"]
WITH_FEATURES = ["gpt2", "neox-parallel", "twisted"]
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11}


def per_layer(model: Model, **changes):
    return [transcoder(model, layer, **changes) for layer in range(len(model.parts.layers))]


def across(model: Model, **changes):
    last = len(model.parts.layers) - 1
    return [transcoder(model, layer, last=last, **changes) for layer in range(last + 1)]


def small(model: Model, nodes: Any = "neurons", **choices: Any) -> AttributionGraph:
    """A graph of few neurons, all edges in it."""
    return graph_of(model, nodes, AttributionConfig(10**6, 70, 1.0, 10**6, 5 * (nodes == "neurons")), **choices)


KINDS: dict[str, Callable[[Model], Any]] = {
    "neurons": lambda model: "neurons",
    "per layer": per_layer,
    "cross-layer": across,
    "skip": lambda model: per_layer(model, skip=True),
    "cross-layer with skip": lambda model: across(model, skip=True, input_bias=True),
}


def some_edges(graph: AttributionGraph, per_kind: int = 3) -> list[int]:
    """A few of every kind of source, target and layer."""
    generator = torch.Generator().manual_seed(0)
    kinds = graph.nodes.kind[graph.sources] * 100 + graph.nodes.kind[graph.edge_targets] * 10
    kinds = kinds + graph.nodes.layer[graph.sources] + 1
    found = []
    for kind in kinds.unique():
        places = (kinds == kind).nonzero()[:, 0]
        found += places[torch.randperm(len(places), generator=generator)[:per_kind]].tolist()
    return found


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "neurons") for name in FAMILIES]
    + [(name, kind) for kind in KINDS if kind != "neurons" for name in WITH_FEATURES],
)
def test_an_edge_is_the_sum_of_its_parts_at_every_layer(name: str, kind: str) -> None:
    model = tiny(name)
    graph = small(model, KINDS[kind](model))
    assert graph.explained is not None
    reading = graph.nodes.is_kind("reading bias")
    edges = torch.tensor([i for i in some_edges(graph) if not reading[graph.sources[i]]])
    targets, target = graph.edge_targets[edges].unique(return_inverse=True)
    sources, source = graph.sources[edges].unique(return_inverse=True)
    readers = targets_of(graph, graph.explained, targets)
    writers = [source_at(graph, graph.explained, each) for each in sources.tolist()]
    seen, through = torch.zeros(len(edges), dtype=torch.long), 0.0
    for passing in passes(graph.explained.nodes, readers, len(targets), writers):
        total = passing.heads.sum(0) + passing.past + passing.later
        below = graph.nodes.layer[targets] + graph.nodes.is_kind("neuron", "feature")[targets].long() * (
            not model.parts.parallel
        )
        below = (passing.layer < below)[target]
        torch.testing.assert_close(total[target, source][below], graph.weight[edges][below], **CLOSE)
        assert not total[target, source][~below].any()
        seen += below
        through += float(passing.heads.abs().sum())
    assert seen.max() == len(model.parts.layers) - 1 + (graph.nodes.layer[sources].min() < 0)
    assert through > 0.1


def test_positions_add_up_to_a_heads_loading() -> None:
    graph = small(tiny("llama-gqa"))
    assert graph.explained is not None
    numbers = torch.tensor([graph.n_nodes - 1])
    writers = [source_at(graph, graph.explained, graph.node(f"token@{i}")) for i in range(N)]
    for passing in passes(graph.explained.nodes, targets_of(graph, graph.explained, numbers), 1, writers):
        n_heads = len(passing.heads)
        head = torch.arange(n_heads).repeat_interleave(N)
        source = torch.arange(N).repeat(n_heads)
        maps = passing.positions(head, torch.zeros_like(head), source)
        torch.testing.assert_close(maps.sum((1, 2)).view(n_heads, N), passing.heads[:, 0], **CLOSE)
        assert not maps.triu(1).any()  # no query sees a later key


def with_sinks(model: Model) -> Model:
    """The same, each head with a sink."""
    sinks = torch.randn(model.parts.n_heads, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    layers = tuple(
        replace(layer, attention=replace(layer.attention, sinks=sinks + i))
        for i, layer in enumerate(model.parts.layers)
    )
    return replace(model, parts=replace(model.parts, layers=layers))


@torch.no_grad()
def plain_scores(contrast: Contrast) -> tuple[Tensor, Tensor]:
    """The head's scores of the keys, and its pattern, sink last, with no formula of the room's."""
    ran = contrast.run.layers[contrast.layer]
    attention = ran.layer.attention
    y = normed(attention.norm, ran.before)
    query, key = project(y, attention.query)[None], project(y, attention.key)[None]
    key = key.repeat_interleave(ran.groups, 1)
    rotary = ran.pattern.context.rotary
    context = ran.pattern.context._replace(rotary=None if rotary is None else tuple(x.double() for x in rotary))
    scores = pattern_logits(attention, query, key, context)[0, contrast.head, contrast.query]
    return scores, scores.softmax(-1)


def contrasts(nodes: Nodes):
    run = nodes.run
    for layer in {0, len(run.layers) - 1}:
        for head, query in ((0, 5), (3, 4)):
            head = head % run.model.parts.n_heads
            looks = run.layers[layer].pattern.first(len(run))[head, query]
            for key in {int(looks.argmax()), query, max(query - 2, 0)}:
                if looks[key] > 0:
                    yield Contrast(run, layer, head, query, key)


@pytest.mark.parametrize("name", [*CONFIGURATIONS, "sinks"])
def test_a_contrast_is_its_terms(name: str) -> None:
    model = with_sinks(tiny("twisted")) if name == "sinks" else tiny(name)
    nodes = Neurons(frozen_run(model, prompt()), per_token=5)
    columns = Columns.of(nodes)
    number = 0
    for number, contrast in enumerate(contrasts(nodes)):
        scores, pattern = plain_scores(contrast)
        seen = scores.isfinite()
        expected = scores[contrast.key] - (pattern * scores)[seen].sum()
        assert contrast.value + contrast.sink == pytest.approx(float(expected), rel=1e-8, abs=1e-9)
        sides = rows(nodes, columns, contrast.targets(), 2).total
        assert sides.tolist() == pytest.approx([contrast.value] * 2, rel=1e-9, abs=1e-9)
        if number % 5:
            continue
        found = terms(nodes, columns, contrast, most=10**6)
        torch.testing.assert_close(found.pairs.sum(1), found.weights(0), **CLOSE)
        torch.testing.assert_close(found.pairs.sum(0), found.weights(1), **CLOSE)
    assert number > 3


def test_directions_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Neurons(frozen_run(tiny("gemma3"), prompt()), per_token=5)
    columns, contrast = Columns.of(nodes), Contrast(nodes.run, 2, 1, 5, 3)
    whole = terms(nodes, columns, contrast)
    monkeypatch.setattr("edgewise.attribution._query_key.BLOCK_BYTES", 8 * 2 * nodes.run.final.numel() * 3)
    torch.testing.assert_close(terms(nodes, columns, contrast).pairs, whole.pairs)


def test_features_and_few_pairs() -> None:
    model = tiny("gpt2")
    nodes = Features(frozen_run(model, prompt()), by_layer(model, per_layer(model, skip=True)))
    columns, contrast = Columns.of(nodes), Contrast(nodes.run, 2, 1, 5, 2)
    every, few = (terms(nodes, columns, contrast, most) for most in (10**6, 4))
    torch.testing.assert_close(every.pairs[:4, :4], few.pairs)
    torch.testing.assert_close(float(every.pairs.sum()), contrast.value)
    with pytest.raises(InputError, match="does not look at it in head a2.h1"):
        Contrast(nodes.run, 2, 1, 2, 5)


def test_why_on_a_graph() -> None:
    model = tiny("llama-gqa")
    graph = small(model, target=7)
    for source in ("token@1", "m0.error@2", "m1.bias", graph.incoming("7")[0][0]):
        found = graph.why(source, "logits", n_heads=2, most=5)
        assert found.target == "7"
        edge = dict(graph.incoming("7")).get(source, 0.0)
        assert found.weight == pytest.approx(edge, rel=1e-9, abs=1e-12)
        for split in found.layers:
            assert split.through + split.past + split.later == pytest.approx(edge, rel=1e-9, abs=1e-12)
    found = graph.why("token@1", "logits", n_heads=2, most=5)
    assert len(found.reasons) == 2
    assert all(each.residual < 1e-12 and 0 < len(each.pairs) <= 5 for each in found.reasons)
    largest = max((each for split in found.layers for each in split.heads), key=lambda each: abs(each.weight))
    assert (found.reasons[0].layer, found.reasons[0].head) == (largest.layer, largest.head)
    text = str(found)
    assert "token@1 → 7" in text
    assert f"a{largest.layer}.h{largest.head} at" in text
    assert found.to_dict()["reasons"][0]["pairs"][0]["weight"] == found.reasons[0].pairs[0].weight


def test_why_refuses_what_is_no_edge() -> None:
    graph = small(tiny("gpt2"), target=[3, 4])
    low = next(name for name in graph.names if name.startswith("m0.n"))
    for source, target, words in (
        ("token@1", "logits", "give one of 3, 4"),
        ("token@1", "token@2", "nothing flows into a token"),
        ("3", "4", "a root writes nothing"),
        ("m2.error@1", low, "does not come before"),
        ("nobody", "3", "not in this graph"),
    ):
        with pytest.raises(InputError, match=words):
            graph.why(source, target)
    counts = (lambda: graph.why("token@1", low, n_heads=-1), lambda: graph.heads(top=-1), lambda: graph.heads().top(-1))
    for counted in counts:  # which would count from the end
        with pytest.raises(InputError, match="=-1; give 0 or more"):
            counted()


@pytest.mark.parametrize("name", ["gpt2", "neox-parallel"])
def test_an_edge_that_was_cut_is_whole_where_no_attention_lies_between(name: str) -> None:
    """From the last layer to a root, and between neighbouring layers of parallel blocks."""
    model = tiny(name)
    whole, cut = (
        graph_of(model, per_layer(model), AttributionConfig(10**6, 70, keep, 10**6), target=[3, 4, 5, 7])
        for keep in (1.0, 0.7)
    )
    n_layers, edges = len(model.parts.layers), dict[tuple[str, str], float]()
    steps = {(n_layers - 1, n_layers)} | ({(0, 1), (1, 2)} if model.parts.parallel else set())
    for source, target, weight in zip(whole.sources, whole.edge_targets, whole.weight.tolist(), strict=True):
        ends = whole.names[source], whole.names[target]
        near = (int(whole.nodes.layer[source]), int(whole.nodes.layer[target])) in steps
        if near and ".f" in ends[0] and {*ends} <= {*cut.names} and ends[0] not in dict(cut.incoming(ends[1])):
            edges[ends] = weight
    assert len(edges) > 2
    for ends, weight in edges.items():
        found, answer = attribution.factors(cut, *ends), cut.why(*ends)
        assert not answer.layers and not answer.in_graph
        assert (found.weight, answer.weight) == pytest.approx((weight, weight), rel=1e-9)
        assert abs(found.further) < 1e-9 and [each.way for each in found.factors] == ["direct"]


def test_a_saved_graph_is_attached(tmp_path) -> None:
    model = tiny("gpt2")
    sets = per_layer(model)
    node = next(name for name in small(model).names if name.startswith("m1.n"))
    for nodes, choices in (
        ("neurons", {"target": [3, 4], "contrast": True}),
        (sets, {}),
        ("neurons", {"target": node}),
    ):
        graph = small(model, nodes, **choices)
        graph.save(tmp_path / "graph.safetensors")
        loaded = AttributionGraph.load(tmp_path / "graph.safetensors")
        with pytest.raises(InputError, match="call graph.attach"):
            loaded.why("token@1", loaded.roots[0])
        again = loaded.attach(model, None if nodes == "neurons" else sets)
        assert again.why("token@1", again.roots[0]).to_dict() == graph.why("token@1", graph.roots[0]).to_dict()


def test_a_contrast_may_be_off_by_rounding(tmp_path) -> None:
    """As one near 0 is on another machine, of what it is a sum of."""
    model = tiny("gpt2")
    read = frozen_run(model, small(model).ids, torch.float64).normed(N - 1).detach()
    direction = torch.randn(model.parts.d_model, dtype=torch.float64)
    direction -= (direction @ read) / (read @ read) * read
    for off, refused in ((2e-6, False), (1e-3, True)):
        graph = small(model, target=("nothing", direction))
        root = graph.nodes.is_kind("root")
        assert float(graph.nodes.value[root].abs()) < 1e-9 < 1e-6 < off * float(graph.ledger.size[root])
        graph.nodes.value[root] += off * graph.ledger.size[root]
        graph.save(tmp_path / "graph.safetensors")
        loaded = AttributionGraph.load(tmp_path / "graph.safetensors")
        with pytest.raises(InputError, match="another direction") if refused else nullcontext():
            loaded.attach(model, target=("nothing", direction))


def test_transcoders_lie_where_the_model_does() -> None:
    model = tiny("gpt2")
    with pytest.raises(InputError, match=r"lies on meta, the model on cpu; move it there"):
        small(model, [each.to("meta") for each in per_layer(model)])
    with pytest.raises(InputError, match=r"lies on meta, the model on cpu; move it there"):
        Replacement(model, [each.to("meta") for each in per_layer(model)])


def test_tokens_keep_the_blank_that_decoding_one_alone_drops() -> None:
    class Pieces:
        def decode(self, ids):
            return "the"

        def convert_ids_to_tokens(self, i):
            return "▁the" if i % 2 else "the"

    graph = small(replace(tiny("gpt2"), tokenizer=Pieces()))
    assert graph.tokens == tuple(" the" if i % 2 else "the" for i in graph.ids.tolist())


def test_attaching_another_model_or_other_transcoders() -> None:
    model = tiny("gpt2")
    sets, others = per_layer(model), per_layer(model, kind="jumprelu")
    features, neurons = small(model, sets), small(model)
    with pytest.raises(InputError, match="not the graph's"):
        neurons.attach(random_model("gpt2", seed=3))
    with pytest.raises(InputError, match="neurons; give none"):
        neurons.attach(model, sets)
    with pytest.raises(InputError, match="give its own"):
        features.attach(model)
    with pytest.raises(InputError, match="transcoder of layer 0 mlp_in"):
        features.attach(model, others)
    with pytest.raises(InputError, match="2; the graph has 3"):
        features.attach(model, sets[:2])
    signed = small(model, per_layer(model, kind="topk:4"))
    for each in (kinds := per_layer(model, kind="topk:4")):
        each.spec = replace(each.spec, activation=replace(each.activation, rectified=False))
    with pytest.raises(InputError, match="not the one that the graph was made with"):
        signed.attach(model, kinds)
    direction = torch.randn(model.parts.d_model, dtype=torch.float64)
    graph = small(model, target=("somewhere", direction))
    with pytest.raises(InputError, match="direction 'somewhere'"):
        graph.attach(model)
    with pytest.raises(InputError, match="another direction"):
        graph.attach(model, target=("somewhere", -direction))
    graph.attach(model, target=("somewhere", direction))


@pytest.mark.parametrize("blocks", [1, 5])
def test_heads_of_a_graph(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama-gqa")
    ids = torch.tensor([3, 9, 4, 3, 9, 5, 3])
    graph = small(model, ids=ids, target=9)
    if blocks > 1:
        monkeypatch.setattr("edgewise.attribution._head_table.BLOCK_BYTES", 1 << 14)
    table = heads_of(graph, top=40)
    assert table.n_edges == 40
    assert 0 < table.covered < 1
    influence = attribution.edge_influence(graph)
    chosen = influence.topk(40).indices
    expected = torch.zeros(len(model.parts.layers), model.parts.n_heads, dtype=torch.float64)
    for edge in chosen.tolist():
        assert graph.explained is not None
        readers = targets_of(graph, graph.explained, graph.edge_targets[edge][None])
        writer = source_at(graph, graph.explained, int(graph.sources[edge]))
        for passing in passes(graph.explained.nodes, readers, 1, [writer]):
            expected[passing.layer] += passing.heads[:, 0, 0] * influence[edge] / graph.weight[edge]
    expected /= influence[chosen].sum()
    for row in table.rows:
        assert row.share == pytest.approx(float(expected[row.layer, row.head]), abs=1e-9)
        assert abs(row.share) <= row.size + 1e-12
        assert all(0 <= offset < len(ids) for offset, _ in row.offsets)
        assert all(0 <= share <= 1 + 1e-9 for share in row.relations.values())
    assert [row.size for row in table.rows] == sorted((row.size for row in table.rows), reverse=True)
    assert table.rows[0].name in str(table.top(3))
    same = [row.size * row.relations["same"] for row in table.top(5, "same").rows]
    assert same == sorted(same, reverse=True)
    assert same[0] > 0
    assert any(row.relations["answer"] > 0 for row in table.rows)
    fewer = graph.heads(top=40, without_first=True)
    assert max(row.relations["first"] for row in fewer.rows) < 1e-12
    with pytest.raises(InputError, match="give one of own"):
        table.top(3, "nothing")


def test_relations() -> None:
    found = relations(torch.tensor([3, 9, 4, 3, 9]), [4])
    pairs = {name: {(int(q), int(k)) for q, k in kind.nonzero()} for name, kind in found.items()}
    assert pairs["same"] == {(3, 0), (4, 1)}
    assert pairs["after same"] == {(3, 1), (4, 2)}
    assert pairs["answer"] == {(4, 2)}
    assert pairs["previous"] == {(i, i - 1) for i in range(1, 5)}
    assert set(found) == set(attribution.RELATIONS)
