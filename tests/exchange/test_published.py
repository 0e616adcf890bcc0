"""Circuits from the literature: counts worked out by hand, single edges, and that they run."""

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from edgewise import load_model
from edgewise.circuit import Circuit
from edgewise.exchange import PUBLISHED, greater_than_hanna, ioi_wang
from edgewise.exchange._published import GREATER_THAN, IOI
from edgewise.graph import Graph, GraphSpec
from tests.discovery.toys import random_task
from tests.tiny import VOCABULARY, refused

SMALL = Graph(GraphSpec(12, 12, 12))


def has(circuit: Circuit, name: str) -> bool:
    return bool(circuit.kept[circuit.graph.edge_id(name)])


def test_ioi_has_26_heads_in_7_classes_and_the_edges_of_its_classes():
    heads = [tuple(head) for each in IOI.heads.values() for head in each]
    assert len(IOI.heads) == 7 and len(heads) == len(set(heads)) == 26
    circuit = ioi_wang(SMALL)
    layers = sum(layer for layer, _ in heads)
    embeddings = 12 + 1 + 2 * 3 + 3 * 3 + 4 + 2 * (3 + 8 + 2)  # to MLPs, logits and the classes' inputs
    mlps = 66 + 12 + 3 * layers  # to later MLPs, logits and heads: as many MLPs before a head as its layer
    into_mlps = 26 * 12 - layers
    between = 2 * 2 * 4 + 2 * 4 * 4 + 2 * 3 * 4 + 4 * (3 + 8 + 2)
    assert circuit.n_edges == embeddings + mlps + into_mlps + between + (3 + 8 + 2) == 963
    assert circuit.n_actual == 963, "every edge carries signal"
    for name in ("a4.h11 -> a5.h5.k", "a5.h5 -> a7.h3.v", "a8.h6 -> a9.h9.q", "a9.h9 -> logits", "embed -> a9.h9.v"):
        assert has(circuit, name), name
    for name in ("a4.h11 -> a5.h5.q", "a8.h6 -> a9.h9.k", "a8.h6 -> logits", "embed -> a9.h9.q", "a9.h9 -> a10.h0.q"):
        assert not has(circuit, name), name


def test_greater_than_has_its_heads_and_mlps():
    assert sum(map(len, (*GREATER_THAN.heads.values(), *GREATER_THAN.mlps.values()))) == 9 + 8
    circuit, plain = greater_than_hanna(SMALL), greater_than_hanna(SMALL, clean_queries=False)
    middle = (5, 6, 6, 7, 8, 9)
    late = sum(min(4, 12 - layer) for layer in middle)  # MLPs 8 to 11 at or after a head
    embeddings, heads = 3 * 3 + 4, 4 + 3 * 3 * 6 + late + 6
    mlps = 6 + 4 * 6 * 3 + 6 + 4  # early among themselves and to the middle heads; late among themselves and to logits
    assert plain.n_edges == embeddings + heads + mlps == 188
    queries = sum(middle) - 4 * 6  # the early ones are there already
    assert circuit.n_edges == 188 + queries + (36 - 6) == 235 == circuit.n_actual
    assert has(circuit, "m4 -> a5.h5.q") and not has(plain, "m4 -> a5.h5.q") and not has(circuit, "m4 -> a5.h5.k")
    assert has(plain, "a0.h1 -> m0") and has(plain, "a8.h11 -> m8")


@pytest.mark.parametrize(("embeddings", "more"), [("split", 1), ("off", -1)])
def test_other_conventions_have_as_many_edges_as_they_have_embeddings(embeddings: str, more: int):
    graph = Graph(GraphSpec(12, 12, 12, embeddings))  # pyright: ignore[reportArgumentType] (parametrised)
    assert ioi_wang(graph).n_edges == 963 + more * (13 + 45)
    assert greater_than_hanna(graph).n_edges == 235 + more * 13


def test_they_run_on_a_model_of_that_shape_and_no_other(tmp_path: Path):
    shape = GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=24, n_layer=12, n_head=12, bos_token_id=0)
    torch.manual_seed(0)
    model = load_model(GPT2LMHeadModel(shape).eval(), None)
    from edgewise.evaluation import evaluate

    for make in PUBLISHED.values():
        circuit = make(model.graph())
        found = evaluate(model, circuit, random_task(), baselines=())
        assert found.actual_edges == circuit.n_edges and found.metrics["kl"].value > 0
        circuit.save(tmp_path / "it.safetensors")
        assert "arXiv" in Circuit.load(tmp_path / "it.safetensors").provenance["method"]["source"]
    for spec in (GraphSpec(12, 12, 4), GraphSpec(11, 12, 12), GraphSpec(12, 12, 12, spans=("a", "b"))):
        assert "GPT-2 small" in refused(lambda spec=spec: ioi_wang(Graph(spec)))
