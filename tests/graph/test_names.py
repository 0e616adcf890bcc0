"""Counts of the literature, and the names and order of all edges."""

import time

import pytest
import torch

from edgewise._errors import InputError
from edgewise.graph import (
    EMBED,
    ERROR,
    FEATURE,
    FEATURE_IN,
    HEAD,
    KEY,
    LOGITS,
    MLP,
    MLP_IN,
    NEURON,
    NEURON_IN,
    QUERY,
    VALUE,
    Graph,
    GraphSpec,
    stands_for,
)
from tests.graph.specs import SMALL, spec_id

# --------------------------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize(
    ("what", "spec", "edges"),
    [
        # Edge Pruning's counts (with embeddings off, joint and split).
        ("GPT-2 small", GraphSpec(12, 12, 12, "off"), 32_046),
        ("GPT-2 small", GraphSpec(12, 12, 12), 32_491),
        ("GPT-2 small", GraphSpec(12, 12, 12, "split"), 32_936),
        ("GPT-2 medium", GraphSpec(24, 16, 16, "off"), 230_700),
        ("GPT-2 medium", GraphSpec(24, 16, 16, "split"), 233_054),
        ("GPT-2 large", GraphSpec(36, 20, 20, "off"), 808_506),
        ("GPT-2 large", GraphSpec(36, 20, 20, "split"), 812_900),
        ("GPT-2 XL", GraphSpec(48, 25, 25, "off"), 2_231_376),
        ("GPT-2 XL", GraphSpec(48, 25, 25, "split"), 2_238_674),
        ("CodeLlama-13B", GraphSpec(40, 40, 40, "off"), 3_872_820),
        ("CodeLlama-13B", GraphSpec(40, 40, 40), 3_877_661),
        ("Llama-2-7B", GraphSpec(32, 32, 32, "off"), 1_589_776),
        ("Llama-2-7B", GraphSpec(32, 32, 32), 1_592_881),
        ("Llama-3-8B", GraphSpec(32, 32, 8, "off"), 804_112),
        ("Llama-3-8B", GraphSpec(32, 32, 8), 805_681),
        ("Qwen2.5-0.5B", GraphSpec(24, 14, 2, "off"), 79_356),
        ("Qwen2.5-0.5B", GraphSpec(24, 14, 2), 79_813),
        ("Tracr reverse", GraphSpec(4, 1, 1, "split"), 94),
        ("Tracr xproportion", GraphSpec(2, 1, 1, "split"), 32),
        # EAP-IG's and MIB's, with keys and values repeated to the query heads.
        ("Pythia-160m", GraphSpec(12, 12, 12, parallel=True), 32_347),
        ("Qwen2.5-0.5B", GraphSpec(24, 14, 2, kv="expanded"), 179_749),
        ("Gemma-2-2B", GraphSpec(26, 8, 4, kv="expanded"), 74_218),
        ("Llama-3.1-8B", GraphSpec(32, 32, 8, kv="expanded"), 1_592_881),
        # The default model.
        ("SmolLM2-135M", GraphSpec(30, 9, 3), 70_651),
    ],
)
def test_counts_of_the_literature(what: str, spec: GraphSpec, edges: int):
    graph = Graph(spec)
    assert graph.n_edges == edges == len(graph.edge_reader) == len(graph.edge_writer)


@pytest.mark.parametrize(
    ("spec", "writers", "readers"),
    [
        (GraphSpec(12, 12, 12), 157, 445),
        (GraphSpec(12, 12, 12, "off"), 156, 445),
        (GraphSpec(12, 12, 12, "split"), 158, 445),
        (GraphSpec(32, 32, 8, kv="expanded"), 1057, 3105),
    ],
)
def test_counts_of_nodes(spec: GraphSpec, writers: int, readers: int):
    graph = Graph(spec)
    assert (graph.n_writers, graph.n_readers) == (writers, readers)
    assert len(graph.writer_names) == writers == len(set(graph.writer_names))
    assert len(graph.reader_names) == readers == len(set(graph.reader_names))


def test_the_largest_is_quick_and_small():
    spec = GraphSpec(32, 32, 8, kv="expanded")
    seconds, graph = [], Graph(spec)
    for _ in range(7):
        start = time.perf_counter()
        graph = Graph(spec)
        _ = graph.edge_reader, graph.edge_writer
        seconds.append(time.perf_counter() - start)
    assert sorted(seconds)[3] < 0.1
    tensors = [value for value in vars(graph).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 10
    assert sum(x.untyped_storage().nbytes() for x in tensors) < 50e6


# ---------------------------------------------------------------------------------------------------------------- names


def _expected(spec: GraphSpec) -> list[tuple[str, list[str]]]:
    """Every reader and the writers before it, in the order of the edges, spelled out."""
    writers = {"joint": ["embed"], "split": ["tok_embed", "pos_embed"], "off": []}[spec.embeddings]
    physical = spec.kv == "physical" and spec.n_kv_heads != spec.n_heads
    keys = [f"kv{j}" for j in range(spec.n_kv_heads)] if physical else [f"h{h}" for h in range(spec.n_heads)]
    readers = []
    for layer in range(spec.n_layers):
        before = list(writers)
        readers += [(f"a{layer}.h{h}.q", before) for h in range(spec.n_heads)]
        readers += [(f"a{layer}.{key}.{kind}", before) for kind in "kv" for key in keys]
        writers = writers + [f"a{layer}.h{h}" for h in range(spec.n_heads)]
        seen, features = before if spec.parallel else list(writers), dict(spec.features).get(layer)
        components = [f"m{layer}"] if features is None else [f"m{layer}.f{feature}" for feature in features]
        if (groups := dict(spec.neurons).get(layer)) is not None:
            names = {1: "", 2: "+1"}
            components = [*(f"m{layer}.n{group[0]}{names[len(group)]}" for group in groups), f"m{layer}.rest"]
        readers += [(component, seen) for component in components]
        places = [
            f"m{source}.f{feature}>{layer}"
            for source, targets in spec.cross_layer
            for feature in dict(spec.features)[source]
            if layer in targets
        ]
        errors = [] if features is None or spec.error != "scored" else [f"m{layer}.error"]
        writers = [*writers, *components, *places, *errors]
    return [*readers, ("logits", writers)]


@pytest.mark.parametrize("spec", SMALL, ids=spec_id)
def test_names_and_order_of_all_edges(spec: GraphSpec):
    graph = Graph(spec)
    expected = _expected(spec)
    names = [f"{writer} -> {reader}" for reader, writers in expected for writer in writers]
    assert graph.reader_names == [reader for reader, _ in expected]
    assert graph.writer_names == expected[-1][1]
    assert graph.visible.tolist() == [len(writers) for _, writers in expected]
    assert [graph.edge_name(edge) for edge in range(graph.n_edges)] == names
    assert graph.edge_names(torch.arange(graph.n_edges)) == names
    assert [graph.edge_id(name) for name in names] == list(range(graph.n_edges))
    numbers = graph.offset[graph.edge_reader.long()] + graph.edge_writer
    assert torch.equal(numbers, torch.arange(graph.n_edges))


@pytest.mark.parametrize("spec", SMALL, ids=spec_id)
def test_kinds_layers_and_heads_agree_with_the_names(spec: GraphSpec):
    graph = Graph(spec)
    for index, name in enumerate(graph.writer_names):
        kind, layer, head = (int(x[index]) for x in (graph.writer_kind, graph.writer_layer, graph.writer_head))
        assert (kind, layer, head) == _writer(name)
    for index, name in enumerate(graph.reader_names):
        kind, layer, head = (int(x[index]) for x in (graph.reader_kind, graph.reader_layer, graph.reader_head))
        if name == "logits":
            assert (kind, layer, head) == (LOGITS, spec.n_layers, -1)
        elif name.startswith("m"):
            where, _, feature = name[1:].partition(".")
            own = {"": MLP_IN, "r": MLP_IN, "f": FEATURE_IN, "n": NEURON_IN}[feature[:1]]
            assert (kind, layer, head) == (own, int(where), -1)
        else:
            where, key, letter = name.split(".")
            assert (kind, layer) == ({"q": QUERY, "k": KEY, "v": VALUE}[letter], int(where[1:]))
            assert head == int(key.strip("khv"))


def _writer(name: str) -> tuple[int, int, int]:
    if "embed" in name:
        return EMBED, -1, -1
    if name.startswith("m"):
        where, _, feature = name[1:].partition(".")
        kinds = {"": MLP, "r": MLP, "e": ERROR, "f": FEATURE, "n": NEURON}
        return kinds[feature[:1]], int(feature.partition(">")[2] or where), -1
    layer, head = name[1:].split(".h")
    return HEAD, int(layer), int(head)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("embed to logits", "expected 'writer -> reader', such as 'embed -> a0.h0.q'"),
        ("embed -> a0.h0.q -> logits", "expected 'writer -> reader'"),
        ("a9.h0 -> logits", "no writer 'a9.h0' in this graph, which has embed, a0.h0, a0.h1, … m1"),
        ("pos_embed -> logits", "no writer 'pos_embed'"),
        ("embed -> a0.h0.k", "no reader 'a0.h0.k' in this graph, which has a0.h0.q, a0.h1.q, a0.h2.q, … logits"),
        ("a0.h0 -> a0.h1.q", "a0.h0 does not come before a0.h1.q"),
        ("m1 -> m1", "m1 does not come before m1"),
        ("a1.h0 -> m0", "a1.h0 does not come before m0"),
        ("", "expected 'writer -> reader'"),
    ],
)
def test_names_that_are_no_edge(name: str, complaint: str):
    with pytest.raises(InputError) as caught:
        Graph(GraphSpec(2, 4, 2)).edge_id(name)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_spaces_in_a_name_do_not_matter():
    graph = Graph(GraphSpec(2, 4, 2))
    assert graph.edge_id(" m0->logits ") == graph.edge_id("m0 -> logits")


@pytest.mark.parametrize("edge", [-1, 82, 10**9])
def test_numbers_that_are_no_edge(edge: int):
    graph = Graph(GraphSpec(2, 4, 2))
    assert graph.n_edges == 82
    with pytest.raises(InputError, match=f"edge {edge}: the graph has edges 0 to 81"):
        graph.edge_name(edge)


def test_names_leave_open_what_errors_rests_and_groups_stand_for():
    crossing = {"features": ((0, (3,)), (1, (5, 6)), (2, ())), "cross_layer": ((0, (1, 2)),)}
    assert stands_for(GraphSpec(3, 2, 2, **crossing)) == {
        "m0.error": ((3,),),
        "m1.error": ((5, 6), (0, 3)),
        "m2.error": ((), (0, 3)),
    }
    neurons = stands_for(GraphSpec(2, 2, 2, neurons=((1, ((1,), (2, 7))),)))
    assert neurons == {"m1.rest": frozenset({1, 2, 7}), "m1.n2+1": (2, 7)}
    assert GraphSpec(3, 2, 2, **crossing, error="kept").whole == GraphSpec(3, 2, 2) == GraphSpec(3, 2, 2).whole
