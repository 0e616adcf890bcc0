"""PyTorch's modes that a caller has set: no numbers may come of them that would not come without."""

import copy
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import edgewise as ew
from edgewise import InputError
from edgewise.attribution import AttributionConfig, Edit, edge_reasons, intervene, why
from edgewise.engine._probe import random_prompts
from edgewise.evaluation import completeness, mib_scores, score
from edgewise.models import load
from edgewise.runs import RunOptions
from edgewise.transcoders import Site, capture
from tests.attribution.test_intervene import prompt
from tests.discovery.toys import random_task, toy_engine
from tests.engines import engine
from tests.tiny import collate, draw_prompts, random_model, refused

QUIET = RunOptions(progress=False)
BATCH = collate(draw_prompts())


def _numbers(found: Any) -> list[Any]:
    """All numbers of a result, with their types; none of how long it took."""
    if isinstance(found, Tensor):
        return [found.dtype, *found.flatten().tolist()]
    if is_dataclass(found):
        return [x for each in fields(found) if each.name != "provenance" for x in _numbers(getattr(found, each.name))]
    if isinstance(found, dict):
        return [x for name, each in found.items() if name != "conditions" for x in _numbers(each)]
    if isinstance(found, (list, tuple)):
        return [x for each in found for x in _numbers(each)]
    return [found] if isinstance(found, (int, float, str)) else []


METHODS: dict[str, Callable[..., Any]] = {
    "eap": ew.eap,
    "mask-ig": ew.mask_ig,
    "eap-ig": ew.eap_ig,
    "node-ig": ew.node_ig,
    "atp-star": ew.atp_star,
    "exact": lambda engine, task: ew.exact_patching(engine, task, options=QUIET),
    "ranking": lambda engine, task: ew.learn_ranking(engine, task, steps=2, batch_size=4, options=QUIET),
    "edge-pruning": lambda engine, task: ew.edge_pruning(
        engine, task, steps=2, batch_size=4, sparsity=0.5, options=QUIET
    ),
    "node-pruning": lambda engine, task: ew.node_pruning(engine, task, steps=2, batch_size=4, options=QUIET),
    "optimal": lambda engine, task: (
        ew.optimal_constants(engine.model, task, ew.eap(engine, task).at(0.5), steps=2, batch_size=4, options=QUIET)[
            0
        ].constants
    ),
    "completeness": lambda engine, task: completeness(
        engine, ew.eap(engine, task).at(0.5), task, n_random=1, greedy_steps=1, greedy_width=1, learned_steps=2
    ),
    "evaluate": lambda engine, task: ew.evaluate(engine, ew.eap(engine, task).at(0.5), task),
    "mib": lambda engine, task: mib_scores(engine, ew.eap(engine, task), task),
}


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_taken_though_the_caller_has_switched_them_off(name: str):
    used, task = toy_engine(), random_task()
    expected = _numbers(METHODS[name](used, task))
    with torch.no_grad():
        assert _numbers(METHODS[name](used, task)) == expected
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("name", sorted({*METHODS} - {"exact"}))
def test_inference_mode_is_refused_by_name_where_gradients_are_needed(name: str):
    used, task = toy_engine(), random_task()
    with torch.inference_mode(), pytest.raises(InputError, match=r"torch\.inference_mode\(\) is on"):
        METHODS[name](used, task)


def test_a_frozen_intervention_does_not_say_in_inference_mode_that_nothing_changes():
    model, edits = random_model("llama-gqa", torch.float32), [Edit("m1.n3", "set", 5.0)]
    with torch.inference_mode():
        with pytest.raises(InputError, match="inference_mode"):
            intervene(model, prompt(), edits, propagation="frozen")
        opened = intervene(model, prompt(), edits).after
    assert torch.equal(opened.clone(), intervene(model, prompt(), edits).after)
    with torch.no_grad():
        after = intervene(model, prompt(), edits, propagation="frozen").after
    assert torch.equal(after, intervene(model, prompt(), edits, propagation="frozen").after)


def test_autocast_is_refused_by_name_at_every_door():
    model, task = random_model("gpt2", torch.float32), random_task()
    used = engine(model)
    scores, mask = ew.eap(used, task), torch.ones(used.graph.n_edges)
    used.prepare([BATCH])  # nothing is left to compute for the full model but its logits
    doors: list[Callable[[], Any]] = [
        lambda: used.full(BATCH),
        lambda: used.run(BATCH, mask),
        lambda: ew.Engine(model),
        lambda: ew.eap(used, task),
        lambda: score(model, task),
        lambda: ew.evaluate(model, scores.at(0.5), task),
        lambda: ew.attribute(model, prompt(), options=QUIET),
        lambda: capture(model, [Site("mlp_out", 0)], BATCH.clean.ids),
    ]
    for door in doors:
        with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(InputError, match=r"torch\.autocast is on"):
            door()


@pytest.fixture
def default_dtype(request: pytest.FixtureRequest):
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


FINDERS = ("eap", "ranking", "edge-pruning", "node-pruning", "exact", "completeness")


@pytest.fixture(scope="module")
def usual() -> dict[str, Any]:
    used, task = toy_engine(), random_task()
    return {name: _numbers(METHODS[name](used, task)) for name in FINDERS}


@pytest.mark.parametrize("default_dtype", [torch.float64, torch.bfloat16], indirect=True)
@pytest.mark.parametrize("name", FINDERS)
def test_the_default_type_changes_no_number(usual: dict[str, Any], default_dtype: torch.dtype, name: str):
    assert _numbers(METHODS[name](toy_engine(), random_task())) == usual[name]


def test_reasons_of_edges_are_the_same_under_another_default_type():
    model = random_model("llama-gqa", torch.float32)
    graph = ew.attribute(model, prompt(), config=AttributionConfig(max_nodes=20), options=QUIET)
    expected = edge_reasons(graph, 5, 2)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = edge_reasons(graph, 5, 2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert _numbers(found) == _numbers(expected)


def test_graphs_and_batches_lie_on_the_cpu_whatever_the_default_device_is():
    model, task = random_model("gpt2", torch.float32), random_task()
    with torch.device("meta"):
        graph, batch = model.graph(embeddings="split"), task.batch("train", [0, 1])
        tensors = (graph.edge_writer, graph.edge_reader, graph.writer_kind, graph.reader_layer, graph.writer_layer)
        kept = graph.prune(torch.ones(graph.n_edges, dtype=torch.bool, device="cpu"), "interchange")
        tried = random_prompts(model)  # with which every model is held against its own numbers
    assert all(x.device.type == "cpu" for x in (tried.clean.ids, tried.corrupted.mask, tried.row, tried.position))
    assert all(x.device.type == "cpu" for x in (*tensors, kept, batch.clean.ids, batch.weight, batch.row, batch.index))
    assert batch.clean.mask.device.type == batch.position.device.type == batch.answers.device.type == "cpu"


def test_a_graph_is_not_explained_by_weights_that_it_was_not_made_with():
    model = random_model("llama-gqa", torch.float32)
    graph = ew.attribute(model, prompt(), config=AttributionConfig(max_nodes=20), options=QUIET)
    node = next(name for name in graph.names if name.startswith("m1.n"))
    assert why(graph, "token@0", node)
    model.module.load_state_dict(random_model("llama-gqa", torch.float32, seed=1).module.state_dict())
    for explain in (lambda: why(graph, "token@0", node), lambda: edge_reasons(graph)):
        with pytest.raises(InputError, match="are not the graph's"):
            explain()


def test_a_model_without_weights_can_be_planned_for():
    gpt2 = random_model("gpt2", torch.float32).module
    model = load(copy.deepcopy(gpt2).to("meta"))
    assert ew.Engine(model).graph.n_edges == model.graph().n_edges


def test_tokens_that_the_model_does_not_have_are_refused():
    own, batch = toy_engine(), random_task().batch("train", [0, 1])
    config: Any = own.model.module.config
    n = int(config.vocab_size)
    wrong = replace(batch, clean=batch.clean._replace(ids=batch.clean.ids.index_fill(1, torch.tensor([1]), n)))
    said = f"batch: token {n}; the model has tokens 0 to {n - 1}"
    assert refused(lambda: own.full(wrong)) == said
    assert refused(lambda: own.run(wrong, torch.ones(own.graph.n_edges))) == said
