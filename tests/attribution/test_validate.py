"""Predicted and real changes: the same where the model is linear; and what a validation says, and says again."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgewise import InputError
from edgewise.attribution import (
    AttributionConfig,
    AttributionGraph,
    Edit,
    EditedRun,
    ValidationConfig,
    attribute,
    effects,
    frozen_run,
    nodes_of,
    validate,
)
from edgewise.models import Model, PlainConfig, PlainTransformer, load
from tests.attribution.test_intervene import EVERYTHING, QUIET, prompt, sets_of
from tests.tiny import VOCABULARY, tiny

SMALL = ValidationConfig(top=15, sets=4)


def linear_model() -> Model:
    """No norms, and MLPs without a nonlinearity: with attention frozen, all of it is linear."""
    torch.manual_seed(0)
    module = PlainTransformer(PlainConfig(VOCABULARY, 16, 3, 2, 24, 6, 20)).double()
    for block in module.blocks:
        mlp: Any = block.mlp
        mlp[1] = nn.Identity()
    return load(module.eval())


def graph_of(model: Model, nodes: Any = "neurons", ids: Tensor | None = None, **choices: Any) -> AttributionGraph:
    config = choices.pop("config", EVERYTHING)
    choices.setdefault("target", 3)
    return attribute(model, prompt() if ids is None else ids, nodes, config=config, options=QUIET, **choices)


@pytest.mark.parametrize("to", ["zero", "mean"])
@pytest.mark.parametrize("target", [3, [3, 5], "m2.n4@5"])
def test_on_a_linear_model_predicted_changes_are_the_real_ones(target: Any, to: Any) -> None:
    model = linear_model()
    graph = graph_of(model, target=target, contrast=isinstance(target, list))
    config = ValidationConfig(top=60, sets=2, propagation="attention", to=to)
    found = validate(graph, config)
    effects = found.prompts[0].ablations
    predicted, real = ([getattr(each, name) for each in effects] for name in ("predicted", "real"))
    np.testing.assert_allclose(real, predicted, rtol=1e-9, atol=1e-10)
    assert found.spearman.value == pytest.approx(1)
    assert found.slope.value == pytest.approx(1)
    assert found.spearman_direct.value is not None
    assert found.spearman_direct.value < 0.999  # there are paths through other nodes


@pytest.mark.parametrize("name", ["llama-gqa", "gemma2"])
def test_frozen_the_real_change_is_the_direct_edge(name: str) -> None:
    config = replace(SMALL, propagation="frozen")
    found = validate(graph_of(tiny(name)), config).prompts[0]
    for each in found.ablations:
        assert each.real == pytest.approx(each.direct, abs=1e-9)


def test_effects_are_sums_over_all_paths() -> None:
    """Against the dense inverse."""
    graph = graph_of(tiny("gpt2"))
    matrix = graph.matrix.toarray()
    inner = graph.nodes.is_kind("neuron").numpy()
    shares = np.where(inner[:, None], matrix / np.where(inner, graph.nodes.value.numpy(), 1.0)[:, None], 0.0)
    root = int(graph.nodes.is_kind("root").nonzero()[0])
    total = matrix[root] @ np.linalg.inv(np.eye(len(matrix)) - shares)
    found = effects(graph)
    np.testing.assert_allclose(found.total, total, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.direct, matrix[root])


@pytest.mark.parametrize(("name", "features"), [("llama-gqa", False), ("gpt2", True)])
def test_real_changes_are_those_of_the_module(name: str, features: bool) -> None:
    model = tiny(name)
    nodes: Any = sets_of(model) if features else "neurons"
    graph = graph_of(model, nodes)
    found = validate(graph, SMALL).prompts[0]
    kinds = nodes_of(frozen_run(model, graph.ids), nodes, EVERYTHING)
    for each in found.ablations[:3]:
        before, after = EditedRun.of(kinds, [[Edit(each.name)]]).logits()
        risen = (after[:, 0] - before)[-1]
        assert each.real == pytest.approx(float(risen[3] - risen.mean()), rel=1e-9, abs=1e-12)
    influences = [each.influence for each in found.ablations]
    assert influences == sorted(influences, reverse=True)
    assert found.value == pytest.approx(float(graph.nodes.value[graph.nodes.is_kind("root")][0]))


def test_sets_are_ablated_as_a_whole() -> None:
    model = tiny("llama-gqa")
    graph = graph_of(model)
    found = validate(graph, replace(SMALL, nodes=1.0, edges=1.0)).prompts[0]
    assert 0.5 < found.n_pruned / found.n_active < 1  # the others lead nowhere
    assert found.sufficiency.share == pytest.approx(1)
    assert found.necessity.value == pytest.approx(found.ablated_value)
    assert found.necessity.share == pytest.approx(1 - found.ablated_value / found.value)
    assert found.sufficiency.value == pytest.approx(found.value)
    kinds = nodes_of(frozen_run(model, graph.ids), "neurons", EVERYTHING)
    whole = [Edit(graph.names[int(i)]) for i in graph.nodes.is_kind("neuron").nonzero()]
    before, after = EditedRun.of(kinds, [whole]).logits()
    assert found.ablated_value == pytest.approx(float((after[-1, 0] - after[-1, 0].mean())[3]))
    assert found.ablated_probability == pytest.approx(float(after[-1, 0].softmax(-1)[3]))
    assert found.probability == pytest.approx(float(before[-1].softmax(-1)[3]))


def test_random_sets_are_others_and_the_same_again() -> None:
    model = tiny("gpt2")
    sets = sets_of(model)
    graphs = [graph_of(model, sets), graph_of(model, sets, prompt(5, seed=2))]
    found = validate(graphs, SMALL)
    assert found == validate(graphs, SMALL)
    other = validate(graphs, replace(SMALL, seed=1))
    assert other.prompts[0].necessity.random != found.prompts[0].necessity.random
    assert other.prompts[0].necessity.share == found.prompts[0].necessity.share
    for each in found.prompts:
        assert len(set(each.necessity.random)) > 1
        assert each.necessity.share not in each.necessity.random
        assert 0 < each.n_pruned < each.n_active
        assert all(0 <= at.jaccard <= 1 for at in each.stability)
        sizes = [at.size for at in each.stability]
        assert sizes == sorted(sizes)
        assert next(at.jaccard for at in each.stability if at.nodes == SMALL.nodes) == 1
    alone = validate(graphs[1], SMALL).prompts[0]
    assert alone.ablations == found.prompts[1].ablations


def test_it_is_written_and_printed(tmp_path) -> None:
    model = tiny("llama-gqa")
    graphs = [graph_of(model, ids=prompt(5, seed=seed)) for seed in range(2)]
    for some in (graphs, graphs[:1]):
        found = validate(some, SMALL)
        found.save(tmp_path / "validation.json")
        read = json.loads((tmp_path / "validation.json").read_text())
        assert read["n"] == len(some)
        assert len(read["prompts"][0]["ablations"]) == 15
        assert read["spearman"]["low"] <= read["spearman"]["value"] <= read["spearman"]["high"]
        text = str(found)
        assert f"{len(some)} prompt" in text
        assert "necessity, share lost" in text
        assert all(len(line) < 110 for line in text.splitlines())


def test_a_direction_and_a_graph_from_a_file(tmp_path) -> None:
    model = tiny("llama-gqa")
    direction = ("mine", torch.randn(32, dtype=torch.float64))
    graph = graph_of(model, target=direction)
    found = validate(graph, SMALL)
    assert found.prompts[0].root == "mine"
    assert found.prompts[0].probability is None
    graph.save(tmp_path / "graph.safetensors")
    read = AttributionGraph.load(tmp_path / "graph.safetensors")
    with pytest.raises(InputError, match="its run is not at hand; call graph.attach"):
        validate(read, SMALL)
    assert validate(read.attach(model, target=direction), SMALL) == found


def test_what_cannot_be_validated_is_refused(monkeypatch) -> None:
    graph = graph_of(tiny("llama-gqa"))
    with pytest.raises(InputError, match="root 4: the graph has 1 roots"):
        validate(graph, ValidationConfig(root=4))
    with pytest.raises(InputError, match="no neurons or features"):
        validate(graph.subgraph(~graph.nodes.is_kind("neuron")))
    with pytest.raises(InputError, match="none given"):
        validate([])
    pruned = graph.subgraph(~graph.nodes.is_kind("error"))
    with pytest.raises(InputError, match="has no error of layer 0.*give the whole graph"):
        validate(pruned, SMALL)
    with pytest.raises(InputError, match="a node does not change in a frozen run"):
        validate(graph_of(tiny("llama-gqa"), target="m2.n4@5"), replace(SMALL, propagation="frozen"))
    with pytest.raises(InputError, match="validation: top 0; give at least 1"):
        ValidationConfig(top=0)
    monkeypatch.setattr(EditedRun, "read_out", lambda _, change: change + torch.inf)
    with pytest.raises(InputError, match="'attention' overflows on this model; use 'open'"):
        validate(graph, ValidationConfig(propagation="attention"))


def test_neurons_that_are_no_nodes_are_left_alone() -> None:
    """With few nodes at each position, what the other neurons write is error, and stays."""
    model = tiny("llama-gqa")
    config = AttributionConfig(max_nodes=40, batch=20, neurons_per_token=4)
    found = validate(graph_of(model, config=config), SMALL).prompts[0]
    assert found.n_active == 3 * 6 * 4
    assert found.n_graph <= 40
