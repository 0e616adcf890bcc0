"""Attribution: equal to plain hooks, exact on a linear model, adding up, and the same however the examples come."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.discovery import EapConfig, MaskIgConfig, Scores, eap, eap_ig, exact_patching, mask_ig
from edgewise.discovery._explain import metric_sum
from edgewise.discovery._objective import example_scores
from edgewise.engine import Ablation, Engine, Stream
from edgewise.graph import KEY, QUERY, Graph
from edgewise.models import Model
from edgewise.tasks import Pair, Task, metric_function
from tests.discovery.hook_scores import FAMILIES, by_hooks, eap_scores
from tests.discovery.toys import linear_model, logit_diff, near, quiet, random_pairs, random_task, toy_engine
from tests.tiny import random_model, refused, tiny

FLOAT32 = 3e-7
"""Scores are float32: how far they may be off, relative to the largest."""


def log_prob(pair: Pair) -> Callable[[Tensor], Tensor]:
    def metric(logits: Tensor) -> Tensor:
        return torch.stack([logits[t.position].softmax(-1)[list(t.answers)].sum().log() for t in pair.targets]).mean()

    return metric


# --------------------------------------------------------------------------------------------------------- plain hooks


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@pytest.mark.parametrize("metric", [logit_diff, log_prob])
@pytest.mark.parametrize(("name", "family"), FAMILIES)
def test_eap_is_what_plain_hooks_say(name: str, family: str, metric: Callable, ablation: Any):
    engine = Engine(tiny(name), ablation=Ablation(ablation))
    task = Task("toy", random_pairs(5), [], [], metric=metric.__name__)
    expected = by_hooks(engine, family, task, eap_scores, of=metric)
    assert float(expected.abs().min()) > 0 or ablation == "interchange"
    near(_mask_gradient(engine, task), expected, 1e-8)
    near(eap(engine, task).values, expected, FLOAT32)


def _mask_gradient(engine: Engine, task: Task) -> Float[Tensor, " E"]:
    """The mean mask gradient at the full model in float64; `eap` itself rounds to float32."""
    batch = task.batch("train", range(len(task.train)))
    mask = torch.ones(engine.graph.n_edges, dtype=torch.float64, requires_grad=True)
    example_scores(engine, batch, mask, metric_function(task.metric), gradients="all").mean().backward()
    assert mask.grad is not None
    return mask.grad


def test_a_positive_score_means_that_keeping_the_edge_raises_the_metric():
    engine = toy_engine(dtype=torch.float64)
    task = random_task(6)
    values = eap(engine, task).values
    batch = task.batch("train", range(6))
    masks = torch.ones(2, 1, engine.graph.n_edges, dtype=torch.float64)
    for row, edge in enumerate((int(values.argmax()), int(values.argmin()))):
        masks[row, 0, edge] = 0.999  # ablated a little
    ones = torch.ones(engine.graph.n_edges, dtype=torch.float64)
    score = metric_function("logit_diff")
    change = example_scores(engine, batch, masks, score).mean(-1) - example_scores(engine, batch, ones, score).mean()
    torch.testing.assert_close(change, -0.001 * torch.stack([values.max(), values.min()]).double(), rtol=0.02, atol=0)


def test_split_embeddings_share_out_the_joint_score():
    joint, split = (toy_engine(graph=tiny("gpt2").graph(kind), dtype=torch.float64) for kind in ("joint", "split"))
    task = random_task(5)
    one, two = eap(joint, task).values, eap(split, task).values
    for reader in ("a0.h1.q", "m1", "logits"):
        parts = [two[split.graph.edge_id(f"{writer} -> {reader}")] for writer in ("tok_embed", "pos_embed")]
        whole = one[joint.graph.edge_id(f"embed -> {reader}")]
        torch.testing.assert_close(parts[0] + parts[1], whole)
        assert parts[1] == 0  # clean and corrupted prompts stand at the same positions


def test_expanded_keys_and_values_share_out_the_physical_score():
    model = tiny("llama-gqa")
    physical, expanded = (Engine(model, model.graph("joint", kv)) for kv in ("physical", "expanded"))
    task = random_task(5)
    one, four = eap(physical, task).values, eap(expanded, task).values
    for kind in "kv":
        parts = [four[expanded.graph.edge_id(f"m0 -> a1.h{head}.{kind}")] for head in (2, 3)]
        torch.testing.assert_close(parts[0] + parts[1], one[physical.graph.edge_id(f"m0 -> a1.kv1.{kind}")])


# -------------------------------------------------------------------------------------------------------- linear model


def test_on_a_linear_model_the_score_is_the_exact_effect():
    engine = Engine(linear_model())
    task, graph = random_task(6), engine.graph
    batch, score = task.batch("train", range(6)), metric_function("logit_diff")
    masks = torch.ones(graph.n_edges, 1, graph.n_edges, dtype=torch.float64)
    masks[range(graph.n_edges), 0, range(graph.n_edges)] = 0  # each edge patched on its own
    full = example_scores(engine, batch, torch.ones(graph.n_edges, dtype=torch.float64), score).mean()
    effect = full - example_scores(engine, batch, masks, score).mean(-1)
    near(_mask_gradient(engine, task), effect, 1e-8)
    near(eap(engine, task).values, effect, FLOAT32)
    pattern = (graph.reader_kind == QUERY) | (graph.reader_kind == KEY)
    assert not eap(engine, task).values[pattern[graph.edge_reader.long()]].any()
    assert (effect[~pattern[graph.edge_reader.long()]] != 0).all()


def test_on_a_linear_model_the_edges_into_the_logits_add_up():
    engine = Engine(linear_model())
    task = random_task(6, metric=_first_logit)
    into_logits = engine.graph.edge_reader == engine.graph.n_readers - 1
    found = eap(engine, task).values[into_logits].sum()
    full, empty = _full_and_empty(engine.model, task.train, lambda pair: _mean_first_logit(pair))
    assert float(found) == pytest.approx(full - empty, rel=1e-5)


def _first_logit(logits: Tensor, _batch: Any) -> Tensor:
    return logits[..., 0]


def _mean_first_logit(pair: Pair) -> Callable[[Tensor], Tensor]:
    return lambda logits: logits[[t.position for t in pair.targets], 0].mean()


@torch.no_grad()
def _full_and_empty(model: Model, pairs: Sequence[Pair], metric: Callable[[Pair], Callable]) -> tuple[float, float]:
    """The mean metric of the user's own module on the clean prompts, and on the corrupted ones."""
    found = []
    for which in ("clean", "corrupted"):
        each = [metric(p)(model.module(input_ids=torch.tensor([getattr(p, which)])).logits[0]) for p in pairs]
        found.append(float(torch.stack(each).mean()))
    return found[0], found[1]


# --------------------------------------------------------------------------------------------------------- the QK fix


def test_with_the_qk_fix_a_score_is_the_exact_effect_where_attention_alone_bends():
    # The last layer's MLP is linear here and nothing is normed: what a query or a key does bends in its softmax alone.
    model = random_model("plain")
    with torch.no_grad():
        model.module.blocks[1].mlp[0].bias.fill_(1000.0)  # pyright: ignore[reportIndexIssue, reportAttributeAccessIssue] (untyped)
    engine, task = Engine(model), random_task(4, metric=_first_logit)
    graph, effect = engine.graph, exact_patching(engine, task, options=quiet()).values
    fixed, plain = eap(engine, task, qk_fix=True).values.double(), eap(engine, task).values.double()
    into = graph.reader_kind[graph.edge_reader.long()]
    pattern = (into == QUERY) | (into == KEY)
    last = pattern & (graph.reader_layer[graph.edge_reader.long()] == 1)
    near(fixed[last], effect[last], 1e-8)
    assert float((plain - effect)[last].abs().max()) > 0.01 * float(effect[last].abs().max())
    near(fixed[~pattern], plain[~pattern], FLOAT32)


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@pytest.mark.parametrize(
    "name", ["gpt2", "llama-gqa", "neox-parallel", "qwen3", "plain-bidirectional", "twisted", "olmo2"]
)
def test_the_qk_fix_takes_the_projection_of_the_input_without_the_edge(name: str, ablation: Any):
    engine, task = Engine(tiny(name), ablation=Ablation(ablation)), random_task(4)
    graph, found = engine.graph, eap(engine, task, qk_fix=True, batch_size=3).values
    batch = task.batch("train", range(4))
    stream = Stream(engine, batch)
    run = stream.run(inner=True)
    gradients = stream.writer_effects(run, stream.value(run, metric_sum(engine, task, batch))).mixed
    for edge in range(0, graph.n_edges, 5):
        reader, writer = int(graph.edge_reader[edge]), int(graph.edge_writer[edge])
        if graph.reader_kind[reader] in (QUERY, KEY):
            layer = int(graph.reader_layer[reader])
            place, clean = reader - graph.blocks[2 * layer].reader, run.reads[2 * layer].detach()
            without = run.inputs[2 * layer] - stream.differences(slice(None), slice(writer, writer + 1))[0]
            patched = clean.clone()
            patched[place] = stream.project(layer, without)[place]
            change = (stream.mix(layer, clean) - stream.mix(layer, patched)).detach()
            expected = float((gradients[2 * layer] * change).sum()) / 4
            assert float(found[edge]) == pytest.approx(expected, rel=1e-7, abs=1e-9), graph.edge_name(edge)


# ------------------------------------------------------------------------------------------------- integrated gradients


@pytest.mark.parametrize("metric", [logit_diff, log_prob])
@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "neox-parallel"])
def test_mask_ig_adds_up_to_what_the_circuit_is_worth(name: str, metric: Callable):
    task = Task("toy", random_pairs(4, seed=2, longest=7), [], [], metric=metric.__name__)
    full, empty = _full_and_empty(tiny(name), task.train, metric)
    assert abs(full - empty) > 0.1
    errors = [abs(_total(mask_ig(Engine(tiny(name)), task, points=n)) - (full - empty)) for n in (4, 64)]
    assert errors[1] < 1e-5 < errors[0]


def _total(scores: Scores) -> float:
    return float(scores.values.double().sum())


def test_mask_ig_of_kl_adds_up_to_what_is_lost_without_the_circuit():
    # Less KL is better, so keeping all edges is worth minus the empty circuit's KL, with the sign turned.
    engine, task = toy_engine(dtype=torch.float64), random_task(4, metric="kl")
    batch = task.batch("train", range(4))
    empty = example_scores(engine, batch, torch.zeros(engine.graph.n_edges), metric_function("kl")).mean()
    assert _total(mask_ig(engine, task, points=64)) == pytest.approx(float(empty), rel=1e-3)


def test_mask_ig_at_few_points_is_the_quadrature_it_says():
    engine, task = toy_engine(dtype=torch.float64), random_task(4)
    batch, score = task.batch("train", range(4)), metric_function("logit_diff")

    def at(alpha: float) -> Tensor:
        mask = torch.full((engine.graph.n_edges,), alpha, dtype=torch.float64, requires_grad=True)
        example_scores(engine, batch, mask, score, gradients="all").mean().backward()
        assert mask.grad is not None
        return mask.grad

    near(mask_ig(engine, task, points=1).values, at(0.5), 1e-6)
    low, high = 0.5 - 0.5 / 3**0.5, 0.5 + 0.5 / 3**0.5
    near(mask_ig(engine, task, points=2).values, (at(low) + at(high)) / 2, 1e-6)


def test_no_points_at_all_are_refused():
    assert "points" in refused(lambda: mask_ig(toy_engine(), random_task(), points=0))


# ------------------------------------------------------------------------------------- however the examples come


@pytest.mark.parametrize("method", [eap, partial(mask_ig, points=3)], ids=["eap", "mask_ig"])
@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "neox-parallel"])
def test_batch_size_order_and_padding_change_no_score(monkeypatch, name: str, method: Callable[..., Scores]):
    task = random_task(7)
    expected = method(toy_engine(name, torch.float64), task, batch_size=7).values
    for size in (1, 3, 500):
        near(method(toy_engine(name, torch.float64), task, batch_size=size).values, expected, 1e-6)
    mixed = replace(task, train=[task.train[i] for i in torch.randperm(7).tolist()])
    near(method(toy_engine(name, torch.float64), mixed, batch_size=2).values, expected, 1e-6)
    batches = Task.batches
    monkeypatch.setattr(Task, "batches", lambda self, split, size: batches(self, split, size, "left"))
    near(method(toy_engine(name, torch.float64), task, batch_size=4).values, expected, 1e-6)


def test_examples_weigh_the_same_whatever_their_batch_and_targets():
    # Seven examples in batches of five and two; the mean of the batches' means would be another number.
    task = random_task(7)
    alone = [eap(toy_engine(), replace(task, train=[pair])).values for pair in task.train]
    near(eap(toy_engine(), task, batch_size=5).values, torch.stack(alone).mean(0), 1e-5)


def test_scores_are_of_the_split_asked_for():
    task = random_task(6)
    of_test = eap(toy_engine(), task, split="test")
    assert torch.equal(of_test.values, eap(toy_engine(), replace(task, train=task.test)).values)
    assert of_test.provenance["method"] == {"name": "eap", "config": EapConfig(split="test").record()}
    said = {"name": "mask-ig", "config": MaskIgConfig(points=3).record()}
    assert mask_ig(toy_engine(), task, points=3).provenance["method"] == said
    assert said["config"] == {
        "average": "signed",
        "points": 3,
        "quadrature": "gauss-legendre",
        "split": "train",
        "batch_size": 32,
        "pairs": None,
        "explains": None,
    }
    assert "no split" in refused(lambda: eap(toy_engine(), task, split="dev"))
    assert "empty" in refused(lambda: eap(toy_engine(), replace(task, train=[])))


def test_a_model_will_do_for_an_engine():
    task = random_task(4)
    assert torch.equal(eap(tiny("gpt2", torch.float32), task).values, eap(toy_engine(), task).values)


def test_nothing_is_left_on_the_module():
    engine = toy_engine()
    mask_ig(engine, random_task(4))
    assert all(p.grad is None and p.requires_grad for p in engine.model.module.parameters())


# ------------------------------------------------------------------------------------------------------------- refused


def test_kl_to_the_model_itself_is_refused_for_eap():
    message = refused(lambda: eap(toy_engine(), random_task(metric="kl")))
    assert "KL" in message and "logit_diff or log_prob" in message


def test_kl_as_a_function_has_no_gradient_there_either():
    # What the refusal above is about, seen.
    task = random_task(4, metric=lambda logits, batch: metric_function("kl")(logits, batch))
    assert float(eap(toy_engine(dtype=torch.float64), task).values.abs().max()) < 1e-7


def test_a_logit_difference_without_wrong_answers_is_refused():
    pairs = [replace(p, targets=tuple(replace(t, wrong=()) for t in p.targets)) for p in random_pairs(3)]
    assert "log_prob" in refused(lambda: eap(toy_engine(), Task("toy", pairs, [], [])))


@pytest.mark.parametrize("metric", ["accuracy", "exact_match"])
@pytest.mark.parametrize("method", [eap, mask_ig])
def test_a_metric_without_a_gradient_is_refused(method: Callable[..., Scores], metric: str):
    assert metric in refused(lambda: method(toy_engine(), random_task(metric=metric)))


def test_graphs_differ_in_edges_not_in_scores():
    model = tiny("gpt2", torch.float64)
    joint, off = (model.graph(kind) for kind in ("joint", "off"))
    one, other = (eap(Engine(model, graph), random_task(4)).values for graph in (joint, off))
    near(other, one[_ids(joint, off)], 1e-6)


def _ids(graph: Graph, other: Graph) -> list[int]:
    """The edges of the other graph, as numbered in this one."""
    return [graph.edge_id(name) for name in other.edge_names(torch.arange(other.n_edges))]


def test_pairs_that_are_not_looked_at_may_lack_what_the_metric_needs():
    task = random_task(4)
    bare = [replace(each, targets=tuple(replace(t, wrong=()) for t in each.targets)) for each in task.train[3:]]
    mixed = replace(task, train=[*task.train[:3], *bare], test=bare, metric="logit_diff")
    few = replace(task, train=task.train[:3], test=[])
    assert torch.equal(eap(toy_engine(), mixed, pairs=3).values, eap(toy_engine(), few).values)


def test_a_metric_that_some_pairs_do_not_allow_is_refused_before_the_first_batch(monkeypatch: pytest.MonkeyPatch):
    task = random_task(6)
    pairs = [replace(each, targets=tuple(replace(t, wrong=()) for t in each.targets)) for each in task.train[3:]]
    mixed = replace(task, train=[*task.train[:3], *pairs], metric="logit_diff")
    monkeypatch.setattr(Stream, "__init__", lambda *_, **__: pytest.fail("a batch was run"))
    for method in (eap, eap_ig, mask_ig):
        assert "metric 'logit_diff': toy has no wrong answers" in refused(
            lambda method=method: method(toy_engine(), mixed)
        )
