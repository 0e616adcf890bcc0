"""Mistakes of other tools that have changed published numbers: each has a test that fails on it.

They are numbered as in the list that this library was written from. 1 (an MLP's difference times the gradient at its
*input*) is held in `test_nodes.py`, and in `test_eap_ig.py` that one component's path counts for no other's edges.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from edgewise.discovery import (
    ExamplesConfig,
    Scores,
    acdc,
    eap,
    information_flow,
    learn_ranking,
    method,
    methods,
    node_eap,
    run_method,
    uniform_scores,
)
from edgewise.engine import Ablation, Engine, mean_writes
from edgewise.engine._packing import pack
from edgewise.engine._writes import trace
from edgewise.evaluation import evaluate
from edgewise.models import Model, load
from edgewise.runs import settings_of
from edgewise.tasks import Pair, Target, Task
from tests.discovery.hook_scores import by_hooks, eap_scores
from tests.discovery.toys import near, quiet, random_pairs, random_task, scores_of, toy_engine
from tests.tiny import collate, draw_prompts, random_model, tiny

SMALL = {"points": 2, "steps": 2, "threshold": 0.003}
"""Settings of the methods that have them, for runs of a moment."""
METHODS = tuple(methods())
BATCHED = tuple(name for name, each in methods().items() if issubclass(each.config, ExamplesConfig) and not each.ladder)


def found(name: str, engine: Engine, task: Task, **changes: Any) -> Tensor:
    """What a method of the catalogue gives each edge."""
    record = method(name)
    small = {key: value for key, value in SMALL.items() if key in settings_of(record.config)}
    small |= {"batch_size": 3} if record.learns else {}
    start = uniform_scores(engine.graph) if record.start == "must" else None
    result = run_method(record, engine, task, record.configure(small | changes), options=quiet(), start=start)
    return (result.values if isinstance(result, Scores) else scores_of(result)).nan_to_num(9.0)


def test_2_a_mean_is_each_writer_s_own_over_all_tokens():
    # A peer takes the last token's activations alone, divides by the length and averages over the writers: one vector
    # for all of them.
    model, prompts = tiny("gpt2"), draw_prompts((6, 3, 5))
    means = mean_writes(model, model.graph(), [collate(prompts).clean])
    alone = [trace(model.parts, model.graph(), pack(collate([p]).clean)) for p in prompts]
    for layer in range(3):
        right = torch.cat([each.mlps[layer] for each in alone]).mean(0)
        last = torch.stack([each.mlps[layer][-1] / len(each.mlps[layer]) for each in alone]).mean(0)
        near(means.mlps[layer][0], right, 1e-9)
        assert float((means.mlps[layer][0] - last).abs().max()) > 0.1 * float(right.abs().max())
    assert float((means.mlps[0] - means.mlps[1]).abs().max()) > 0.1  # and no two writers share one


@pytest.mark.parametrize("method", BATCHED)
def test_3_scores_do_not_scale_with_the_batch(method: str):
    # Dividing a batch's mean by the number of examples makes scores go as 1 / batch size, and a short last batch count
    # for more.
    task, engine = random_task(5), toy_engine(dtype=torch.float64)
    whole = found(method, engine, task, batch_size=5)
    for size in (1, 3):
        near(found(method, engine, task, batch_size=size), whole, 1e-6)
    doubled = replace(task, train=[*task.train, *task.train])
    near(found(method, engine, doubled, batch_size=5), whole, 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_4_no_method_asks_for_a_gpu(method: str, monkeypatch):
    def refuse(*_arguments: Any, **_choices: Any) -> None:
        raise AssertionError("a GPU was asked for")

    monkeypatch.setattr(torch.cuda, "_lazy_init", refuse)
    assert found(method, toy_engine(), random_task(3)).device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", METHODS)
def test_4_every_method_runs_where_the_model_is(method: str):
    module = random_model("llama-gqa").module
    task = random_task(3)
    on_cpu = found(method, Engine(load(module)), task)
    near(found(method, Engine(load(module.to("cuda"))), task).cpu(), on_cpu, 1e-6)


def test_5_kept_edges_scores_and_nodes_are_what_their_names_say():
    # A peer's `neurons`, which say what is in the circuit, give the scores.
    scores = node_eap(toy_engine(), random_task(3))
    circuit = scores.top(20)
    assert circuit.kept.dtype == torch.bool and int(circuit.kept.sum()) == circuit.n_edges == 20
    assert circuit.scores is not None and torch.equal(circuit.scores, scores.values)
    assert scores.writers is not None and len(scores.writers) == scores.graph.n_writers
    assert not torch.equal(circuit.kept.float(), scores.values)
    reversed_scores = Scores(scores.graph, -scores.values, scores.provenance).top(20)
    assert not bool((circuit.kept & reversed_scores.kept).any())


@torch.no_grad()
def _said(model: Model, ids: Sequence[Sequence[int]] | Tensor, mask: Tensor | None = None) -> Tensor:
    """What the user's module says at every position."""
    return model.module(input_ids=torch.as_tensor(ids), attention_mask=mask).logits


def test_6_a_corrupted_prompt_has_an_attention_mask_of_its_own():
    # In one batch, the corrupted prompts are longer than the clean ones here and shorter there: under the clean
    # prompts' mask, tokens of theirs would go unseen, or padding be seen.
    longer = Pair((5, 6, 7, 8), (9, 10, 11, 12, 13, 14), (Target(3, (1,), (2,)),), "", "", align=(0, 1, 3, 5))
    shorter = Pair((5, 6, 7, 8, 3, 4, 2), (9, 10, 11), (Target(6, (1,), (2,)),), "", "", align=(0, 0, 1, 1, 2, 2, 2))
    same = random_pairs(1, shortest=5, longest=5)[0]
    task = Task("toy", [longer, shorter, same], [], [])
    model = tiny("llama-gqa")
    batch = task.batch("train", range(3))
    alone = [_said(model, [p.corrupted])[0, (p.align or range(9))[p.targets[0].position]] for p in (longer, shorter)]
    full = Engine(model).full(batch, "corrupted")
    near(full[:2], torch.stack(alone), 1e-9)
    apart = torch.stack([eap(Engine(model), replace(task, train=[p])).values for p in task.train]).mean(0)
    near(eap(Engine(model), task).values, apart, 1e-5)
    width = batch.clean.ids.shape[1]
    ids = torch.nn.functional.pad(batch.corrupted.ids, (0, width - batch.corrupted.ids.shape[1]))
    wrong = _said(model, ids.clamp(min=0), batch.clean.mask.long())
    assert float((wrong[0, 5] - alone[0]).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "neox-parallel"])
def test_7_a_circuit_s_numbers_do_not_depend_on_which_evaluator_gives_them(name: str):
    # Another tool's numbers change with the version of the library that runs its models. Here the fast path and the
    # one-stream-per-reader path, which calls the user's own modules, agree; and a result says what made it.
    model, task = tiny(name), random_task(4)
    circuit = eap(Engine(model), task).at(0.5, actual=True)
    fast, slow = (
        evaluate(Engine(model, path=path), circuit, task, baselines=()).metrics for path in ("fast", "reference")
    )
    for metric in ("kl", "logit_diff"):
        for field in ("value", "full", "empty"):
            assert math.isclose(getattr(fast[metric], field), getattr(slow[metric], field), rel_tol=1e-7, abs_tol=1e-9)
    assert {"edgewise", "torch", "transformers"} <= set(circuit.provenance["software"])
    assert circuit.provenance["model"] == model.identity


@pytest.mark.parametrize("method", METHODS)
def test_8_the_same_call_gives_the_same_bits(method: str):
    task = random_task(4)
    first, again = (found(method, toy_engine(), task) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
def test_the_sign_is_that_of_keeping_an_edge(ablation: Any):
    # Attribution patching's usual sign is the opposite: the ablated value minus the clean one.
    engine, task = Engine(tiny("gpt2"), ablation=Ablation(ablation)), Task("toy", random_pairs(3), [], [])
    near(eap(engine, task).values, by_hooks(engine, "gpt2", task, eap_scores), 1e-6)


def test_every_result_says_what_it_cost():
    task = random_task(4)
    results = [
        eap(toy_engine(), task).provenance,
        learn_ranking(toy_engine(), task, steps=2, batch_size=3, options=quiet()).provenance,
        acdc(toy_engine(), task, threshold=0.1, options=quiet()).provenance,
        information_flow(toy_engine(), task).provenance,
    ]
    for provenance in results:
        cost = provenance["cost"]
        assert cost["forwards_per_example"] > 0 and cost["examples"] == 4 and cost["seconds"] > 0
    learned = results[1]["cost"]
    assert learned["backwards_per_example"] == 2 * 3 / 4 + 5  # the steps' examples, and where it starts from
