"""EAP-IG and relevance: equal to plain hooks, adding up where they should, and not the formulas known to be wrong."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from edgewise.discovery import eap, eap_ig, mask_ig, relevance
from edgewise.discovery._explain import metric_sum
from edgewise.discovery._objective import example_scores
from edgewise.discovery._quadrature import QUADRATURES, quadrature
from edgewise.engine import Ablation, Engine, Stream, _stream
from edgewise.graph import KEY, QUERY
from edgewise.models import Model
from edgewise.tasks import Task, metric_function
from tests.discovery.hook_scores import (
    FAMILIES,
    by_hooks,
    eap_ig_activations_scores,
    eap_ig_inputs_scores,
    relevance_scores,
)
from tests.discovery.toys import linear_model, logit_diff, near, random_pairs, random_task, toy_engine
from tests.engines import engine as engine_under
from tests.tiny import refused, tiny

# --------------------------------------------------------------------------------------------------------- plain hooks


@pytest.mark.parametrize(
    ("name", "family", "rule"),
    [*((*each, "gauss-legendre") for each in FAMILIES), *((*FAMILIES[0], rule) for rule in QUADRATURES[1:])],
)
def test_eap_ig_on_inputs_is_what_plain_hooks_say(name: str, family: str, rule: Any):
    engine, task = Engine(tiny(name)), Task("toy", random_pairs(3), [], [])
    expected = by_hooks(engine, family, task, eap_ig_inputs_scores, quadrature(3, rule))
    near(eap_ig(engine, task, points=3, quadrature=rule, batch_size=2).values, expected, 1e-8)


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@pytest.mark.parametrize(("name", "family"), FAMILIES)
def test_eap_ig_on_activations_is_what_plain_hooks_say(name: str, family: str, ablation: Any):
    engine, task = Engine(tiny(name), ablation=Ablation(ablation)), Task("toy", random_pairs(3), [], [])
    expected = by_hooks(engine, family, task, eap_ig_activations_scores, quadrature(2))
    near(eap_ig(engine, task, path="activations", points=2).values, expected, 1e-8)


@pytest.mark.parametrize(("name", "family"), FAMILIES)
def test_relevance_is_what_plain_hooks_say(name: str, family: str):
    engine, task = Engine(tiny(name)), Task("toy", random_pairs(4), [], [])
    found, expected = relevance(engine, task).values, by_hooks(engine, family, task, relevance_scores)
    near(found, expected, 1e-8)
    pattern = (engine.graph.reader_kind == QUERY) | (engine.graph.reader_kind == KEY)
    assert not found[pattern[engine.graph.edge_reader.long()]].any()
    assert float((found - eap(engine, task).values).abs().max()) > 1e-3 * float(expected.abs().max())


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "neox-parallel", "qwen3", "plain-bidirectional"])
@pytest.mark.parametrize("ablation", ["interchange", "zero"])
def test_relevance_without_rules_is_eap(name: str, ablation: Any):
    engine, task = Engine(tiny(name), ablation=Ablation(ablation)), random_task(5)
    near(relevance(engine, task, rules=()).values, eap(engine, task).values, 3e-7)  # eap rounds to float32


def test_pairs_of_unequal_length_are_compared_token_by_aligned_token():
    pairs = [
        replace(pair, corrupted=(*pair.corrupted, 7, 8), align=tuple(i + (i > 1) for i in range(len(pair.clean))))
        for pair in random_pairs(4)
    ]
    engine, task = toy_engine(dtype=torch.float64), Task("toy", pairs, [], [])
    values = eap(engine, task).values
    near(relevance(engine, task, rules=()).values, values, 3e-7)
    assert not torch.equal(values, eap(engine, random_task(4)).values)


def test_heads_that_move_apart_have_paths_of_their_own():
    engine, task = toy_engine(dtype=torch.float64), random_task(3)
    together, apart = (eap_ig(engine, task, path="activations", heads=h).values for h in ("together", "apart"))
    heads = engine.graph.writer_head[engine.graph.edge_writer.long()] >= 0
    near(apart[~heads], together[~heads], 1e-12)
    assert float((apart - together)[heads].abs().max()) > 1e-3 * float(together.abs().max())


# ---------------------------------------------------------------------------------------------------------------- sums


@pytest.mark.parametrize("ablation", ["interchange", "zero", "mean"])
def test_a_component_s_path_adds_up_to_what_patching_it_does(ablation: str):
    # For the last MLP, which the logits alone read. (A peer's path starts at zero under mean ablation too, and its
    # difference at the mean: then nothing adds up.)
    engine, task = engine_under(tiny("gpt2"), ablation=ablation), random_task(4)
    values = eap_ig(engine, task, path="activations", points=24).values
    edge = engine.graph.edge_id("m2 -> logits")
    mask = torch.ones(engine.graph.n_edges, dtype=torch.float64)
    mask[edge] = 0
    score, batch = metric_function("logit_diff"), task.batch("train", range(4))
    full, without = (example_scores(engine, batch, m, score).mean() for m in (torch.ones_like(mask), mask))
    assert float(values[edge]) == pytest.approx(float(full - without), rel=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "neox-parallel"])
def test_on_the_input_path_the_embedding_s_edges_add_up(name: str):
    # ⟨∂metric/∂x_0, Δ_embed⟩ is the sum over the embedding's outgoing edges, and its integral the metric's difference.
    engine, task = Engine(tiny(name)), Task("toy", random_pairs(3, seed=2, longest=7), [], [])
    values = eap_ig(engine, task, points=60).values
    of_embedding = engine.graph.edge_writer == 0
    expected = _difference(engine.model, task)
    assert float(values[of_embedding].sum()) == pytest.approx(expected, rel=1e-4)


@torch.no_grad()
def _difference(model: Model, task: Task) -> float:
    """The module's own metric on the clean prompts minus that on the corrupted ones."""
    found = []
    for pair in task.train:
        logits = [model.module(input_ids=torch.tensor([ids])).logits[0] for ids in (pair.clean, pair.corrupted)]
        found.append(float(logit_diff(pair)(logits[0]) - logit_diff(pair)(logits[1])))
    return sum(found) / len(found)


def test_on_a_linear_model_the_input_path_says_what_eap_says():
    engine, task = Engine(linear_model()), random_task(5)
    near(eap_ig(engine, task, points=2).values, eap(engine, task).values, 3e-7)
    near(relevance(engine, task, rules=("norm",)).values, eap(engine, task).values, 3e-7)


def test_points_are_summed_before_or_after_the_product_alike(monkeypatch):
    engine, task = toy_engine(dtype=torch.float64), random_task(3)
    for path in ("inputs", "activations"):
        monkeypatch.setattr(_stream, "POINT_BYTES", 1 << 30)
        monkeypatch.setattr(_stream, "CHUNK_BYTES", 1 << 30)
        together = eap_ig(engine, task, points=4, path=path).values
        monkeypatch.setattr(_stream, "POINT_BYTES", 0)
        monkeypatch.setattr(_stream, "CHUNK_BYTES", 1 << 12)
        near(eap_ig(engine, task, points=4, path=path).values, together, 1e-12)


# ------------------------------------------------------------------------------------------------------ wrong formulas


def test_a_component_s_path_does_not_count_for_other_components_edges():
    # The reference implementation adds every edge's score on every component's path and divides by (2 L + 1) m.
    engine, task = toy_engine(dtype=torch.float64), random_task(3)
    found = eap_ig(engine, task, path="activations", points=3, quadrature="left").values
    wrong = torch.zeros_like(found)
    batch = task.batch("train", range(3))
    stream, objective = Stream(engine, batch), metric_sum(engine, task, batch)
    components = list(stream.components())
    for component in components:
        everything = component._replace(writers=slice(0, engine.graph.n_writers))
        wrong += stream.edge_gradients(objective, everything, quadrature(3, "left")) / 3 / len(components)
    assert float((found - wrong).abs().max()) > 0.01 * float(found.abs().max())


@pytest.mark.parametrize("method", [eap_ig, relevance])
def test_a_short_last_batch_does_not_count_for_more(method: Callable):
    # A mean of the batches' means would weigh the seventh example as much as the first three.
    engine, task = toy_engine(dtype=torch.float64), random_task(7)
    near(method(engine, task, batch_size=3).values, method(engine, task, batch_size=7).values, 1e-12)


def test_left_riemann_sums_start_at_the_corrupted_prompt():
    assert quadrature(4, "left") == [(0, 0.25), (0.25, 0.25), (0.5, 0.25), (0.75, 0.25)]
    assert quadrature(4, "right")[-1] == (1, 0.25)
    assert quadrature(2, "midpoint") == [(0.25, 0.5), (0.75, 0.5)]
    assert quadrature(3, "trapezoid") == [(0, 0.25), (0.5, 0.5), (1, 0.25)]


@pytest.mark.parametrize("rule", QUADRATURES)
def test_every_rule_integrates_a_line_s_constant_and_converges(rule: Any):
    for points in (2, 5, 400):
        assert sum(weight for _, weight in quadrature(points, rule)) == pytest.approx(1)
    assert sum(weight * alpha**3 for alpha, weight in quadrature(400, rule)) == pytest.approx(0.25, abs=2e-3)
    if rule == "gauss-legendre":
        assert sum(weight * alpha**3 for alpha, weight in quadrature(2, rule)) == pytest.approx(0.25, abs=1e-12)


# ------------------------------------------------------------------------------------------------------------- refused


def test_what_makes_no_sense_is_refused():
    engine, task = toy_engine(), random_task()
    assert "choose gauss-legendre" in refused(lambda: eap_ig(engine, task, quadrature="simpson"))  # pyright: ignore[reportArgumentType]
    assert "points=0" in refused(lambda: eap_ig(engine, task, points=0))
    assert "points=1" in refused(lambda: eap_ig(engine, task, points=1, quadrature="trapezoid"))
    assert "inputs or activations" in refused(lambda: eap_ig(engine, task, path="both"))  # pyright: ignore[reportArgumentType]
    assert "together or apart" in refused(lambda: eap_ig(engine, task, heads="all"))  # pyright: ignore[reportArgumentType]
    assert "no rule 'softmax'" in refused(lambda: relevance(engine, task, rules=("softmax",)))
    assert "KL" in refused(lambda: relevance(engine, random_task(metric="kl")))
    assert "no gradient" in refused(lambda: eap_ig(engine, random_task(metric="accuracy")))
    off = toy_engine(graph=tiny("gpt2", torch.float32).graph("off"))
    assert "embeddings are not writers" in refused(lambda: eap_ig(off, task))


def test_the_result_says_what_it_cost():
    task = random_task(5)
    cost = eap_ig(toy_engine(), task, points=4, batch_size=2).provenance["cost"]
    assert cost["examples"] == 5 and cost["seconds"] > 0
    assert (cost["forwards_per_example"], cost["backwards_per_example"]) == (6, 4)  # clean, corrupted, and the path
    assert eap(toy_engine(), task).provenance["cost"]["forwards_per_example"] == 2
    # Corrupted, full (which KL looks at), and two points.
    kl = mask_ig(toy_engine(), random_task(5, metric="kl"), points=2).provenance["cost"]
    assert (kl["forwards_per_example"], kl["backwards_per_example"]) == (4, 2)
    activations = eap_ig(toy_engine(), task, path="activations", points=1).provenance["cost"]
    assert activations["backwards_per_example"] == pytest.approx(sum(1 - k / 7 for k in range(7)), abs=1e-3)
