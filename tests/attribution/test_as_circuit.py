"""Merged attribution graphs as a ranking of a circuit graph's edges: nothing is lost where it is laid onto them."""

from typing import Any

import pytest
import torch

import edgewise as ew
from edgewise.attribution import (
    AttributionConfig,
    _as_circuit,
    _choose,
    attribute,
    choose_by_influence,
    edge_influence,
    merged_graph_scores,
)
from edgewise.engine import Engine
from edgewise.models import Model
from edgewise.runs import RunOptions
from edgewise.tasks import Task
from tests.attribution.test_resume import interrupt_at
from tests.discovery.toys import random_pairs
from tests.engine.apart import neurons_of
from tests.engine.featured import featured, transcoder_of
from tests.tiny import random_model, refused, tiny

TASK = Task("toy", random_pairs(2, 1, 4, 6), random_pairs(2, 2), random_pairs(2, 3))


def _influence(model: Model, nodes: Any) -> float:
    """Of all edges but those of biases, on average over the prompts."""
    total = 0.0
    for pair in TASK.train:
        last = max(pair.targets, key=lambda each: each.position)
        units = torch.eye(model.parts.d_model, dtype=model.dtype)
        logits = model.parts.unembed(units) - model.parts.unembed(0 * units)  # the unembedding is linear
        direction = logits[:, list(last.answers)].mean(1) - logits[:, list(last.wrong)].mean(1)
        graph = attribute(model, list(pair.clean[: last.position + 1]), nodes, target=("answers", direction),
                          config=AttributionConfig(max_nodes=40), options=RunOptions(progress=False))  # fmt: skip
        total += float(edge_influence(graph).sum())
    return total / len(TASK.train)


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa"])
def test_without_attention_all_influence_lies_on_the_edges_between_the_nodes(name: str):
    model = random_model(name)
    for layer in model.parts.layers:
        layer.attention.output_weight.zero_()
    n = 128 if name == "gpt2" else 48
    neurons = {layer: range(n) for layer in range(3)}
    for chosen in (neurons, neurons_of(model), None):  # all by themselves, some, whole MLPs
        engine = Engine(model, model.graph(neurons=chosen))
        scores = merged_graph_scores(engine, TASK, max_nodes=40, top_edges=10**6, queries_and_keys="none")
        assert float(scores.values.double().sum()) == pytest.approx(_influence(model, "neurons"), rel=1e-5)
        assert scores.values.min() >= 0


@pytest.mark.parametrize("kind", ["neurons", "features", "MLPs"])
def test_what_goes_into_a_head_comes_out_of_it(kind: str):
    model = tiny("gpt2")
    if kind == "features":
        engine = featured(model)
    else:
        engine = Engine(model, model.graph(neurons=neurons_of(model) if kind == "neurons" else None))
    graph = engine.graph
    scores = merged_graph_scores(engine, TASK, max_nodes=40)
    values, roles = scores.values.double(), graph.roles
    by_role: dict[str, float] = {"query": 0.0, "key": 0.0, "value": 0.0}
    for layer in range(graph.spec.n_layers):
        table = graph.attention(layer).table(values).sum(1)
        for role, rows in roles._asdict().items():
            by_role[role] += float(table[rows.start : rows.stop].sum())
    heads = torch.tensor([name.startswith("a") for name in graph.writer_names])
    out = float(values[heads[graph.edge_writer.long()]].sum())
    within = torch.tensor([reader.startswith("a") for reader in graph.reader_names])[graph.edge_reader.long()]
    shared = float(values[heads[graph.edge_writer.long()] & within].sum())  # EAP's part has edges between heads
    assert by_role["value"] > 0 and out - shared == pytest.approx(by_role["value"], rel=1e-4)
    assert by_role["query"] + by_role["key"] == pytest.approx(by_role["value"], rel=1e-4)
    assert scores.provenance["method"]["name"] == "attribution-graph"
    assert scores.provenance["cost"]["backwards_per_example"] > 10
    assert scores.at(0.9, actual=True).n_actual > 0


@pytest.mark.parametrize("max_nodes", [40, 600])
def test_an_interrupt_ends_all_graphs(max_nodes: int, monkeypatch: pytest.MonkeyPatch):
    """In a graph's only step, and in the first of two."""
    made, model = [], tiny("gpt2")
    monkeypatch.setattr(_as_circuit, "attribute", lambda *given, **named: made.append(0) or attribute(*given, **named))
    interrupt_at(monkeypatch, 0)
    for of in (
        lambda: merged_graph_scores(model, TASK, max_nodes=max_nodes),
        lambda: choose_by_influence(model, TASK, 1, max_nodes=max_nodes),
    ):
        made.clear()
        with pytest.raises(KeyboardInterrupt, match="after step 1"):
            of()
        assert len(made) == 1 < len(TASK.train)


def test_positions_are_refused():
    model = tiny("gpt2")
    graph = model.graph(spans=("first", "second"))
    assert "leave them out" in refused(lambda: merged_graph_scores(Engine(model, graph), TASK))
    assert ew.discovery.method("attribution-graph").function() is merged_graph_scores


@pytest.mark.parametrize("kind", ["neurons", "features"])
def test_candidates_by_influence_are_those_that_the_graphs_name(kind: str, monkeypatch: pytest.MonkeyPatch):
    model = tiny("gpt2")
    nodes: Any = "neurons" if kind == "neurons" else [transcoder_of(model, layer) for layer in (0, 2)]
    chosen = choose_by_influence(model, TASK, 6, nodes, per="all", max_nodes=40)
    assert sum(map(len, chosen.values())) == 6 and chosen.record["by"] == "attribution graph's influence"
    assert chosen.record["cost"]["examples"] == len(TASK.train) and chosen.record["cost"]["backwards_per_example"] > 5
    graph = model.graph(neurons=chosen) if kind == "neurons" else model.graph(features=chosen)
    engine = Engine(model, graph, transcoders=[] if kind == "neurons" else nodes)
    values = merged_graph_scores(engine, TASK, max_nodes=40, top_edges=10**6, queries_and_keys="none").values
    into = torch.zeros(engine.graph.n_readers).index_add_(0, engine.graph.edge_reader.long(), values)
    own = [into[i] for i, name in enumerate(engine.graph.reader_names) if f".{kind[0]}" in name]
    assert len(own) == 6 and min(own) > 0  # each is a node of the graphs, with edges of its own
    monkeypatch.setattr(_choose, "graph_of_pair", None)  # what is wrong is refused before a graph is made
    wrong: list[tuple[int, Any]] = [(-1, "layer"), (10**6, "layer"), (1, "layers")]
    for n, per in wrong:
        assert refused(lambda n=n, per=per: choose_by_influence(model, TASK, n, nodes, per=per))
