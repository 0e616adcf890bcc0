"""Where blocks, writers and readers stand, and what makes two graphs the same."""

import dataclasses
import itertools
import json
from typing import Any

import pytest
import torch

from edgewise._errors import InputError
from edgewise.graph import Graph, GraphSpec
from tests.graph.specs import APART, FEATURED, SMALL, fed_by, spec_id


@pytest.mark.parametrize("spec", SMALL, ids=spec_id)
def test_blocks_cover_all_edges_as_dense_matrices(spec: GraphSpec):
    graph = Graph(spec)
    kinds = [("attention", _kind(spec, i)) for i in range(spec.n_layers)]
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


def _kind(spec: GraphSpec, layer: int) -> str:
    if layer in dict(spec.neurons):
        return "neurons"
    return "features" if layer in dict(spec.features) else "mlp"


def _written_to(writer: str) -> int:
    """The layer that a writer is one of; −1 for embeddings."""
    return -1 if "embed" in writer else int(writer.partition(">")[2] or writer[1:].partition(".")[0])


@pytest.mark.parametrize("spec", SMALL, ids=spec_id)
def test_addresses_agree_with_the_names(spec: GraphSpec):
    graph = Graph(spec)
    for layer in range(spec.n_layers):
        assert graph.attention(layer)[:3] == (2 * layer, "attention", layer)
        mlp = graph.mlp(layer)
        assert mlp[:3] == (2 * layer + 1, _kind(spec, layer), layer)
        for head in range(spec.n_heads):
            assert graph.writer_names[graph.writer(layer, head)] == f"a{layer}.h{head}"
        own = [name for name in graph.writer_names if _written_to(name) == layer]
        assert graph.writer_names[graph.writers(layer)] == own
        if mlp.kind == "mlp":
            assert graph.writer_names[graph.writer(layer)] == f"m{layer}"
        else:
            with pytest.raises(InputError, match=f"writer: layer {layer} has {mlp.kind} in its MLP's place"):
                graph.writer(layer)
        names = {"mlp": f"m{layer}", "neurons": f"m{layer}.rest"}
        whole = graph.whole(layer)
        assert (whole is None) == (mlp.kind == "features")
        if whole is not None:
            reader, edges, writer = whole
            assert graph.reader_names[reader] == graph.writer_names[writer] == names[mlp.kind]
            into = (graph.edge_reader == reader).nonzero()[:, 0]
            assert into.tolist() == list(range(edges.start, edges.stop))
        error = graph.error_writer(layer)
        assert (error is not None) == (f"m{layer}.error" in graph.writer_names)
        assert error is None or graph.writer_names[error] == f"m{layer}.error"
    assert graph.blocks[graph.final.number] == graph.final and graph.final.kind == "logits"
    assert graph.final.readers == slice(graph.n_readers - 1, graph.n_readers)
    for reader, name in enumerate(graph.reader_names):
        block = graph.block_of(reader)
        assert block.reader <= reader < block.reader + block.n_readers == block.readers.stop
        feature = {"f": "feature", "n": "neuron"}.get(name.partition(".")[2][:1], "mlp")
        roles = {"q": "query", "k": "key", "v": "value", "l": "logits", "m": feature}
        assert graph.role(reader) == roles[name[-1] if name.startswith("a") else name[0]]
        if block.kind == "attention":
            role, number = graph.roles.of(reader - block.reader)
            assert role == graph.role(reader) and number == int(graph.reader_head[reader])
    assert graph.roles.sizes == [spec.n_heads, graph.n_kv_readers, graph.n_kv_readers]
    assert graph.copies_per_key == (1 if spec.kv == "physical" else spec.n_heads // spec.n_kv_heads)


@pytest.mark.parametrize("spec", SMALL, ids=spec_id)
def test_readers_of_a_writer_are_those_that_feed_it(spec: GraphSpec):
    graph = Graph(spec)
    for writer, name in enumerate(graph.writer_names):
        feeding = [reader for reader in graph.reader_names if name in fed_by(spec, reader)]
        assert [graph.reader_names[reader] for reader in graph.readers_of(writer)] == feeding
        first = graph.first_block_reading(writer)
        assert first.n_writers > writer and all(b.n_writers <= writer for b in graph.blocks[: first.number])
    for reader, name in enumerate(graph.reader_names):
        assert [graph.writer_names[writer] for writer in graph.writers_fed_by(reader)] == fed_by(spec, name)
    for key in range(graph.n_kv_readers):
        assert [head for head in range(spec.n_heads) if graph.key_of(head) == key] == list(graph.heads_of(key))


@pytest.mark.parametrize("spec", SMALL, ids=spec_id)
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


@pytest.mark.parametrize("spec", FEATURED, ids=spec_id)
def test_features_are_part_of_what_a_graph_is(spec: GraphSpec):
    plain = dataclasses.replace(spec, features=())
    assert Graph(spec) != Graph(plain) and "features" not in plain.to_dict()
    assert Graph(spec) == Graph(GraphSpec.from_dict(json.loads(json.dumps(spec.to_dict()))))
    backwards = tuple((layer, chosen[::-1]) for layer, chosen in spec.features[::-1])
    assert dataclasses.replace(spec, features=backwards) == spec
    other = tuple((layer, (*chosen, 100)) for layer, chosen in spec.features)
    assert Graph(dataclasses.replace(spec, features=other)) != Graph(spec)


@pytest.mark.parametrize("spec", APART, ids=spec_id)
def test_neurons_places_and_errors_are_part_of_what_a_graph_is(spec: GraphSpec):
    assert Graph(spec) == Graph(GraphSpec.from_dict(json.loads(json.dumps(spec.to_dict()))))
    backwards = tuple((layer, chosen[::-1]) for layer, chosen in spec.neurons[::-1])
    assert dataclasses.replace(spec, neurons=backwards) == spec
    changed = {"neurons": ((0, ((0,),)),) if not spec.features else spec.neurons, "cross_layer": ()}
    changed |= {"error": "corrupted" if spec.features and spec.error == "scored" else "scored"}
    assert Graph(dataclasses.replace(spec, **changed)) != Graph(spec)


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
        ({"neurons": ((2, ((1,),)),)}, "neurons of layer 2; name each of the layers 0 to 1 once"),
        ({"neurons": ((0, ((1,), (2, 1))),)}, "neurons of layer 0: give numbers from 0 on, each once"),
        ({"neurons": ((0, ((),)),)}, "neurons of layer 0: give numbers from 0 on, each once, in groups of some"),
        ({"neurons": ((0, ((-1,),)),)}, "neurons of layer 0: give numbers from 0 on"),
        ({"neurons": "m0"}, "neurons='m0'; give pairs"),
        ({"neurons": ((0, ()),), "features": ((0, ()),)}, "layer 0 has features and neurons"),
        ({"features": ((0, (1,)),), "cross_layer": ((0, (1,)),)}, "write to layer 1, which must be taken apart too"),
        ({"features": ((1, (1,)),), "cross_layer": ((1, (0,)),)}, "of layer 1 write to layers [0]; give a layer with"),
        ({"cross_layer": ((0, (1,)),)}, "of layer 0 write to layers [1]; give a layer with features"),
        ({"error": "kept"}, "error='kept': there are no features"),
        ({"features": ((0, (1,)),), "error": "clean"}, "error='clean'; choose scored, kept, corrupted"),
    ],
)
def test_specs_that_describe_no_model(choices: dict[str, Any], complaint: str):
    shape: dict[str, Any] = {"n_layers": 2, "n_heads": 4, "n_kv_heads": 2}
    with pytest.raises(InputError) as caught:
        GraphSpec(**(shape | choices))
    assert complaint in str(caught.value) and "\n" not in str(caught.value)
