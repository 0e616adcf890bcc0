"""Counts of the literature, names and order of all edges, and which edges carry signal."""

import dataclasses
import itertools
import json
import random
import time
from typing import Any

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
    QUERY,
    VALUE,
    Graph,
    GraphSpec,
)

SMALL = [
    GraphSpec(layers, heads, kv_heads, embeddings, kv, parallel)
    for layers, (heads, kv_heads), embeddings, kv, parallel in itertools.product(
        (1, 3), ((1, 1), (3, 3), (4, 2), (3, 1)), ("joint", "split", "off"), ("physical", "expanded"), (False, True)
    )
    if kv == "physical" or heads != kv_heads  # they are the same graph otherwise
]
FEATURED = [
    GraphSpec(1, 3, 3, features=((0, (2, 9)),)),
    GraphSpec(3, 4, 2, features=((0, (5,)), (2, (0, 3, 4)))),
    GraphSpec(3, 3, 1, "split", features=((1, ()),)),
    GraphSpec(3, 3, 1, "off", "expanded", True, features=((0, (1, 2)), (1, ()), (2, (7,)))),
    GraphSpec(3, 4, 2, parallel=True, features=((1, (0, 1)),)),
]
"""With transcoder features in MLPs' places; a layer may have an error term alone."""
SMALL += FEATURED
COUPLED = [
    dataclasses.replace(spec, coupled_heads=True)
    for spec in SMALL
    if spec.n_layers == 3 and spec.n_heads > 1 and spec.kv == "physical" and not spec.parallel
]
"""A norm after attention makes each layer's heads one unit."""
SMALL += COUPLED


def _id(spec: GraphSpec) -> str:
    order = "parallel" if spec.parallel else "sequential"
    features = "".join(f"-{layer}:{len(chosen)}" for layer, chosen in spec.features)
    coupled = "-coupled" if spec.coupled_heads else ""
    return f"{spec.n_layers}x{spec.n_heads}:{spec.n_kv_heads}-{spec.embeddings}-{spec.kv}-{order}{features}{coupled}"


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
        readers += [(component, seen) for component in components]
        writers = [*writers, *components, *([] if features is None else [f"m{layer}.error"])]
    return [*readers, ("logits", writers)]


@pytest.mark.parametrize("spec", SMALL, ids=_id)
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


@pytest.mark.parametrize("spec", SMALL, ids=_id)
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
            assert (kind, layer, head) == (FEATURE_IN if feature else MLP_IN, int(where), -1)
        else:
            where, key, letter = name.split(".")
            assert (kind, layer) == ({"q": QUERY, "k": KEY, "v": VALUE}[letter], int(where[1:]))
            assert head == int(key.strip("khv"))


def _writer(name: str) -> tuple[int, int, int]:
    if "embed" in name:
        return EMBED, -1, -1
    if name.startswith("m"):
        where, _, feature = name[1:].partition(".")
        return {"": MLP, "e": ERROR, "f": FEATURE}[feature[:1]], int(where), -1
    layer, head = name[1:].split(".h")
    return HEAD, int(layer), int(head)


@pytest.mark.parametrize("spec", SMALL, ids=_id)
def test_blocks_cover_all_edges_as_dense_matrices(spec: GraphSpec):
    graph = Graph(spec)
    kinds = [("attention", "mlp" if spec.features_of(i) is None else "features") for i in range(spec.n_layers)]
    assert [block.kind for block in graph.blocks] == [*itertools.chain.from_iterable(kinds), "logits"]
    edges = torch.arange(graph.n_edges)
    assert torch.equal(torch.cat([edges[block.edges] for block in graph.blocks]), edges)
    for block in graph.blocks:
        shape = (block.n_readers, block.n_writers)
        writers, readers = graph.edge_writer[block.edges].view(shape), graph.edge_reader[block.edges].view(shape)
        assert writers.tolist() == [list(range(block.n_writers))] * block.n_readers
        assert readers.tolist() == [[block.reader + i] * block.n_writers for i in range(block.n_readers)]
        assert (graph.reader_layer[block.reader : block.reader + block.n_readers] == block.layer).all()
        if block.kind == "logits":
            continue
        written = graph.writer_names[graph.writers_of(block)]
        heads, own = (
            [f"a{block.layer}.h{h}" for h in range(spec.n_heads)],
            slice(block.reader, block.reader + len(written)),
        )
        assert written == (heads if block.kind == "attention" else graph.reader_names[own])


# ------------------------------------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize("spec", SMALL, ids=_id)
def test_addresses_agree_with_the_names(spec: GraphSpec):
    graph = Graph(spec)
    for layer in range(spec.n_layers):
        assert graph.attention(layer)[:3] == (2 * layer, "attention", layer)
        mlp = graph.mlp(layer)
        assert mlp[:3] == (2 * layer + 1, "mlp" if spec.features_of(layer) is None else "features", layer)
        for head in range(spec.n_heads):
            assert graph.writer_names[graph.writer(layer, head)] == f"a{layer}.h{head}"
        own = [name for name in graph.writer_names if name.partition(".")[0] in (f"a{layer}", f"m{layer}")]
        assert graph.writer_names[graph.writers(layer)] == own
        if mlp.kind == "mlp":
            assert graph.writer_names[graph.writer(layer)] == f"m{layer}"
        else:
            with pytest.raises(InputError, match=f"writer: layer {layer} has features in its MLP's place"):
                graph.writer(layer)
    assert graph.blocks[graph.final.number] == graph.final and graph.final.kind == "logits"
    assert graph.final.readers == slice(graph.n_readers - 1, graph.n_readers)
    for reader, name in enumerate(graph.reader_names):
        block = graph.block_of(reader)
        assert block.reader <= reader < block.reader + block.n_readers == block.readers.stop
        feature = "mlp" if "." not in name else "feature"
        roles = {"q": "query", "k": "key", "v": "value", "l": "logits", "m": feature}
        assert graph.role(reader) == roles[name[-1] if name.startswith("a") else name[0]]
        if block.kind == "attention":
            role, number = graph.roles.of(reader - block.reader)
            assert role == graph.role(reader) and number == int(graph.reader_head[reader])
    assert graph.roles.sizes == [spec.n_heads, graph.n_kv_readers, graph.n_kv_readers]
    assert graph.copies_per_key == (1 if spec.kv == "physical" else spec.n_heads // spec.n_kv_heads)


@pytest.mark.parametrize("spec", SMALL, ids=_id)
def test_readers_of_a_writer_are_those_that_feed_it(spec: GraphSpec):
    graph = Graph(spec)
    for writer, name in enumerate(graph.writer_names):
        feeding = [reader for reader in graph.reader_names if name in _fed_by(spec, reader)]
        assert [graph.reader_names[reader] for reader in graph.readers_of(writer)] == feeding
        first = graph.first_block_reading(writer)
        assert first.n_writers > writer and all(b.n_writers <= writer for b in graph.blocks[: first.number])
    for reader, name in enumerate(graph.reader_names):
        assert [graph.writer_names[writer] for writer in graph.writers_fed_by(reader)] == _fed_by(spec, name)
    for key in range(graph.n_kv_readers):
        assert [head for head in range(spec.n_heads) if graph.key_of(head) == key] == list(graph.heads_of(key))


@pytest.mark.parametrize("spec", SMALL, ids=_id)
def test_a_block_s_table_is_a_view_by_reader_and_writer(spec: GraphSpec):
    graph = Graph(spec)
    values = torch.arange(2 * graph.n_edges).view(2, -1)
    for block in graph.blocks:
        table = block.table(values)
        assert table.shape == (2, block.n_readers, block.n_writers)
        assert torch.equal(table.flatten(1), values[:, block.edges])
        assert not table.numel() or table.untyped_storage().data_ptr() == values.untyped_storage().data_ptr()


@pytest.mark.parametrize(("layer", "head"), [(2, 0), (-1, 0), (0, 4), (0, -1), (7, None)])
def test_writers_that_are_none(layer: int, head: int | None):
    with pytest.raises(InputError, match=f"writer: layer {layer}, head {head}; the graph has 2 layers of 4 heads"):
        Graph(GraphSpec(2, 4, 2)).writer(layer, head)


def test_graphs_are_equal_if_their_specs_are():
    assert Graph(GraphSpec(2, 4, 2)) == Graph(GraphSpec(2, 4, 2))
    assert len({Graph(GraphSpec(2, 4, 2)), Graph(GraphSpec(2, 4, 2)), Graph(GraphSpec(2, 4, 4))}) == 2
    assert Graph(GraphSpec(2, 4, 2)) != Graph(GraphSpec(2, 4, 2, kv="expanded"))
    spec = GraphSpec(2, 4, 2, "off", "expanded", True)
    assert GraphSpec(**spec.to_dict()) == spec


def test_coupled_heads_are_part_of_what_a_graph_is():
    plain, spec = GraphSpec(2, 4, 2), GraphSpec(2, 4, 2, coupled_heads=True)
    assert Graph(spec) != Graph(plain) and "coupled_heads" not in plain.to_dict()
    assert Graph(spec) == Graph(GraphSpec(**json.loads(json.dumps(spec.to_dict()))))


@pytest.mark.parametrize("spec", FEATURED, ids=_id)
def test_features_are_part_of_what_a_graph_is(spec: GraphSpec):
    plain = dataclasses.replace(spec, features=())
    assert Graph(spec) != Graph(plain) and "features" not in plain.to_dict()
    assert Graph(spec) == Graph(GraphSpec.from_dict(json.loads(json.dumps(spec.to_dict()))))
    backwards = tuple((layer, chosen[::-1]) for layer, chosen in spec.features[::-1])
    assert dataclasses.replace(spec, features=backwards) == spec
    other = tuple((layer, (*chosen, 100)) for layer, chosen in spec.features)
    assert Graph(dataclasses.replace(spec, features=other)) != Graph(spec)


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


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ({"n_layers": 0}, "must be positive"),
        ({"n_kv_heads": 0}, "must be positive"),
        ({"n_kv_heads": 3}, "4 query heads cannot share 3 KV heads evenly"),
        ({"embeddings": "none"}, "embeddings='none'; choose one of joint, split, off"),
        ({"kv": "shared"}, "kv='shared'; choose physical or expanded"),
        ({"features": ((2, (1,)),)}, "features of layer 2; name each of the layers 0 to 1 once"),
        ({"features": ((1, (1,)), (1, (2,)))}, "features of layer 1; name each of the layers 0 to 1 once"),
        ({"features": ((0, (1, 1)),)}, "features of layer 0: give numbers from 0 on, each once"),
        ({"features": ((0, (1.5,)),)}, "features=((0, (1.5,)),); give pairs of a layer and its features' numbers"),
        ({"features": "m0"}, "features='m0'; give pairs"),
        ({"features": ((0, (-1, 1)),)}, "features of layer 0: give numbers from 0 on, each once"),
    ],
)
def test_specs_that_describe_no_model(choices: dict[str, Any], complaint: str):
    shape: dict[str, Any] = {"n_layers": 2, "n_heads": 4, "n_kv_heads": 2}
    with pytest.raises(InputError) as caught:
        GraphSpec(**(shape | choices))
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------------------------------- pruning


def _fed_by(spec: GraphSpec, reader: str) -> list[str]:
    """The writers that a reader's component writes as."""
    if reader == "logits" or reader.startswith("m"):
        return [] if reader == "logits" else [reader]
    layer, key, _ = reader.split(".")
    if key.startswith("h"):
        return [f"{layer}.{key}"]
    group = spec.n_heads // spec.n_kv_heads
    first = int(key[2:]) * group
    return [f"{layer}.h{head}" for head in range(first, first + group)]


def _on_a_path(spec: GraphSpec, kept: list[str], from_embeddings: bool) -> set[str]:
    """The kept edges on a path of kept edges that ends in `logits` (and begins in an embedding), walking them all."""
    edges = [(name, *name.split(" -> ")) for name in kept]
    found: set[str] = set()

    def walk(writer: str, path: tuple[str, ...]) -> None:
        for name, source, reader in edges:
            if source == writer:
                if reader == "logits":
                    found.update((*path, name))
                moved = _fed_by(spec, reader)
                if spec.coupled_heads and reader.startswith("a"):  # the norm of their sum moves all of a layer's heads
                    moved = [f"{reader.partition('.')[0]}.h{head}" for head in range(spec.n_heads)]
                for next_writer in moved:
                    walk(next_writer, (*path, name))

    sources = {source for _, source, _ in edges}
    starts = {source for source in sources if not from_embeddings or source.endswith(("embed", ".error"))}
    for writer in starts:
        walk(writer, ())
    return found


@pytest.mark.parametrize("spec", SMALL, ids=_id)
def test_pruning_is_a_search_of_all_paths(spec: GraphSpec):
    graph = Graph(spec)
    names = graph.edge_names(torch.arange(graph.n_edges))
    draw = random.Random(0)
    dropped = 0
    for density in (1.5, 2.5, 4.0, 6.0) * 3:
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


@pytest.mark.parametrize("spec", SMALL, ids=_id)
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
