"""Node methods: equal to plain hooks and to patched softmaxes, and not the formulas known to be wrong."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.discovery import Scores, atp_star, eap, eap_ig, false_negatives, node_eap, node_ig
from edgewise.discovery._explain import metric_sum
from edgewise.discovery._objective import example_scores
from edgewise.discovery._quadrature import quadrature
from edgewise.discovery._scores import edges_of_nodes
from edgewise.engine import Ablation, Engine, Stream
from edgewise.graph import Graph, GraphSpec
from edgewise.tasks import Batch, Metric, Task, metric_function
from tests.discovery.hook_scores import FAMILIES, node_scores, patched_softmax_scores
from tests.discovery.hooks import LAYOUTS, reader_gradients, write_differences
from tests.discovery.toys import SMALLEST, logit_diff, near, random_pairs, random_task, toy_engine
from tests.tiny import random_model, refused, tiny


def _writers(scores: Scores) -> Float[Tensor, " W"]:
    assert scores.writers is not None
    return scores.writers


def _readers(scores: Scores) -> Float[Tensor, " R"]:
    assert scores.readers is not None
    return scores.readers


def _by_hooks(engine: Engine, family: str, task: Task, names: list[str], method: Callable, *more: Any) -> Tensor:
    """One row per example, one column per name."""
    rows = []
    for pair in task.train:
        corrupted = torch.tensor(pair.corrupted) if engine.ablation.kind == "interchange" else None
        clean = torch.tensor(pair.clean)
        found = method(engine.model.module, LAYOUTS[family], clean, corrupted, logit_diff(pair), *more)
        rows.append([found[name] for name in names])
    return torch.tensor(rows, dtype=torch.float64)


# --------------------------------------------------------------------------------------------------------- attribution


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@pytest.mark.parametrize(("name", "family"), FAMILIES)
def test_node_eap_is_what_plain_hooks_say(name: str, family: str, ablation: Any):
    engine, task = Engine(tiny(name), ablation=Ablation(ablation)), Task("toy", random_pairs(4), [], [])
    expected = _by_hooks(engine, family, task, engine.graph.writer_names, node_scores).mean(0)
    near(_writers(node_eap(engine, task, batch_size=3)), expected, 1e-8)


@pytest.mark.parametrize(("name", "family"), FAMILIES)
def test_node_ig_is_what_plain_hooks_say(name: str, family: str):
    engine, task = Engine(tiny(name)), Task("toy", random_pairs(3), [], [])
    points = quadrature(3, "right")
    expected = _by_hooks(engine, family, task, engine.graph.writer_names, node_scores, points).mean(0)
    near(_writers(node_ig(engine, task, points=3, quadrature="right")), expected, 1e-8)


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "neox-parallel", "plain-bidirectional"])
def test_a_node_s_score_is_the_sum_of_its_edges_scores(name: str):
    engine, task = Engine(tiny(name)), random_task(4)
    for node, edges, tolerance in (
        (node_eap(engine, task), eap(engine, task), 1e-6),
        (node_ig(engine, task, points=3), eap_ig(engine, task, points=3), 1e-10),
    ):
        sums = torch.zeros(engine.graph.n_writers, dtype=torch.float64)
        sums.index_add_(0, engine.graph.edge_writer.long(), edges.values.double())
        near(_writers(node), sums, tolerance)


def test_an_mlp_s_gradient_is_taken_at_its_output():
    # A peer multiplies an MLP's output difference with the gradient at its *input*: another number altogether.
    engine, task = Engine(tiny("gpt2")), Task("toy", random_pairs(3), [], [])
    found = _writers(node_eap(engine, task))
    wrong = torch.zeros_like(found)
    for pair in task.train:
        clean, corrupted = torch.tensor(pair.clean), torch.tensor(pair.corrupted)
        gradients = reader_gradients(engine.model.module, LAYOUTS["gpt2"], clean, logit_diff(pair))
        differences = write_differences(engine.model.module, LAYOUTS["gpt2"], clean, corrupted)
        for layer in range(3):
            at_input = float((gradients[f"m{layer}"] * differences[f"m{layer}"]).sum()) / 3
            wrong[engine.graph.writer_names.index(f"m{layer}")] += at_input
    mlps = [engine.graph.writer_names.index(f"m{layer}") for layer in range(3)]
    assert (found[mlps] - wrong[mlps]).abs().min() > 0.05 * found[mlps].abs().max()


# ---------------------------------------------------------------------------------------------------------------- AtP*


def _attention_readers(engine: Engine) -> list[int]:
    return [r for r, name in enumerate(engine.graph.reader_names) if name.endswith((".q", ".k", ".v"))]


@pytest.mark.parametrize("keys", ["together", "apart"])
@pytest.mark.parametrize(("name", "family"), FAMILIES)
def test_the_qk_fix_is_a_patched_softmax(name: str, family: str, keys: Any):
    engine, task = Engine(tiny(name)), Task("toy", random_pairs(2, longest=7), [], [])
    found = _readers(atp_star(engine, task, graddrop=False, keys=keys))
    places = _attention_readers(engine)
    names = [engine.graph.reader_names[r] for r in places]
    expected = _by_hooks(engine, family, task, names, patched_softmax_scores, keys == "apart").mean(0)
    near(found[places], expected, 1e-8)
    assert torch.isinf(found[-1])


def test_queries_and_keys_that_share_a_norm_are_patched_one_by_one():
    engine, task = Engine(tiny("olmo2")), random_task(3)
    found, graph = _readers(atp_star(engine, task, graddrop=False)), engine.graph
    batch = task.batch("train", range(3))
    stream = Stream(engine, batch)
    run = stream.run(inner=True)
    gradients = stream.writer_effects(run, stream.value(run, metric_sum(engine, task, batch))).mixed
    for index in range(2):
        block = graph.attention(index)
        clean, ablated = run.reads[block.number].detach(), stream.project(index, stream.ablated.base(block.number))
        for place in range(block.n_readers):
            patched = clean.clone()
            patched[place] = ablated[place]
            change = (stream.mix(index, clean) - stream.mix(index, patched)).detach()
            expected = float((gradients[block.number] * change).sum()) / 3
            assert float(found[block.reader + place]) == pytest.approx(expected, rel=1e-7, abs=1e-9)
    with pytest.raises(InputError, match="keys='apart': this model norms all heads' keys at once"):
        atp_star(engine, task, keys="apart")


@pytest.mark.parametrize("name", ["qwen3", "mistral-window", "plain-bidirectional", "llama-mqa"])
def test_one_key_at_a_time_is_all_keys_at_once_where_there_is_one_key(name: str):
    # Prompts of one token: nothing to tell them apart, in families with norms, windows and no causal mask.
    engine, task = Engine(tiny(name)), Task("toy", random_pairs(3, shortest=1, longest=1), [], [])
    together, apart = (_readers(atp_star(engine, task, graddrop=False, keys=k))[:-1] for k in ("together", "apart"))
    near(apart, together, 1e-9)


def test_keys_apart_respect_windows_and_missing_causality():
    for name in ("mistral-window", "plain-bidirectional", "qwen3"):
        engine, task = Engine(tiny(name)), random_task(3)
        values = _readers(atp_star(engine, task, graddrop=False, keys="apart"))[:-1]
        alone = [
            _readers(atp_star(engine, Task("toy", [pair], [], []), graddrop=False, keys="apart"))[:-1]
            for pair in task.train
        ]
        assert torch.isfinite(values).all()
        near(values, torch.stack(alone).mean(0), 1e-10)  # padding is no key


def test_the_qk_fix_sees_through_a_saturated_softmax():
    # With queries ten times as long every softmax is nearly one-hot: the gradient says next to nothing, the fix does.
    model = random_model("gpt2")
    with torch.no_grad():
        for block in model.module.transformer.h:  # pyright: ignore[reportAttributeAccessIssue, reportGeneralTypeIssues]
            block.attn.c_attn.weight[:, :32] *= 60
            block.attn.c_attn.bias[:32] *= 60
    engine, task = Engine(model), random_task(6)
    places = [r for r in _attention_readers(engine) if engine.graph.reader_names[r].endswith(".q")]
    fixed = _readers(atp_star(engine, task, graddrop=False))[places]
    linear = torch.zeros(engine.graph.n_readers).index_add_(
        0, engine.graph.edge_reader.long(), eap(engine, task).values
    )
    assert float(fixed.abs().median()) > 2 * float(linear[places].abs().median())


@pytest.mark.parametrize(("name", "family"), FAMILIES)
def test_graddrop_is_the_mean_of_absolute_blocked_effects(name: str, family: str):
    engine, task = Engine(tiny(name)), Task("toy", random_pairs(3), [], [])
    found = _writers(atp_star(engine, task))
    rows = [
        _by_hooks(engine, family, task, engine.graph.writer_names, node_scores, None, layer).abs() for layer in range(3)
    ]
    layers = torch.full((len(found),), 2.0)
    layers[: engine.graph.n_embeddings] = 3  # an embedding is in no layer, so no pass leaves it out
    near(found, torch.stack(rows).sum(0).mean(0) / layers, 1e-8)


def test_graddrops_scores_are_sizes_whatever_the_metric_s_sign():
    engine, task = toy_engine(dtype=torch.float64), random_task(4)
    falling = Metric("falling", lambda logits, batch: -logit_diff_of(logits, batch), lower_is_better=True)
    rising = Metric("rising", logit_diff_of)
    near(
        _writers(atp_star(engine, replace(task, metric=falling))),
        _writers(atp_star(engine, replace(task, metric=rising))),
        1e-12,
    )


def logit_diff_of(logits: Tensor, batch: Batch) -> Tensor:
    right, wrong = (logits.gather(-1, each[:, :1])[:, 0] for each in (batch.answers, batch.wrong))
    return right - wrong


def test_keys_apart_are_right_in_single_precision_where_a_softmax_is_saturated():
    pair = random_pairs(4)
    found = []
    for dtype in (torch.float32, torch.float64):
        model = random_model("gpt2", dtype=dtype)
        with torch.no_grad():
            for block in model.module.transformer.h:  # pyright: ignore[reportAttributeAccessIssue, reportGeneralTypeIssues]
                block.attn.c_attn.weight[:, :32] *= 60
                block.attn.c_attn.bias[:32] *= 60
        engine = Engine(model, ablation=Ablation("zero"))
        values = _readers(atp_star(engine, Task("toy", pair, [], []), graddrop=False, keys="apart"))[:-1]
        assert torch.isfinite(values).all()
        found.append(values.double())
    near(found[0], found[1], 0.02 * float(found[1].abs().max()))


def test_without_graddrop_writers_have_their_signed_scores():
    engine, task = toy_engine(dtype=torch.float64), random_task(4)
    near(_writers(atp_star(engine, task, graddrop=False)), _writers(node_eap(engine, task)), 1e-12)


# ------------------------------------------------------------------------------------------------- from nodes to edges


def test_an_edge_s_score_is_that_of_its_end_nearer_to_zero():
    # SMALLEST: embed to q, k, v, m0; a0.h0 to m0; embed, a0.h0 and m0 to logits.
    values = edges_of_nodes(SMALLEST, torch.tensor([3.0, -2.0, 1.0]))
    assert values.tolist() == [-2, -2, -2, 1, 1, 3, -2, 1]
    readers = torch.tensor([0.5, 9.0, -9.0, 7.0, torch.inf])
    assert edges_of_nodes(SMALLEST, torch.tensor([3.0, -2.0, 1.0]), readers).tolist() == [0.5, 3, 3, 3, -2, 3, -2, 1]


def test_circuits_of_node_scores_are_those_of_the_best_nodes():
    engine, task = toy_engine("llama-gqa"), random_task(4)
    scores = node_eap(engine, task)
    best = _writers(scores).abs().argsort(descending=True)[:6]
    among = torch.zeros(engine.graph.n_writers, dtype=torch.bool)
    among[best] = True
    ends = edges_of_nodes(engine.graph, among.float()) > 0
    assert torch.equal(scores.top(int(ends.sum()), absolute=True).kept, ends)


# ------------------------------------------------------------------------------------------------------- the diagnostic


def test_subset_sampling_finds_a_component_that_was_scored_as_nothing():
    engine, task = toy_engine(dtype=torch.float64), random_task(4)
    exact = _exact_nodes(engine, task)
    order = exact.abs().argsort(descending=True)
    honest = Scores(engine.graph, torch.zeros(engine.graph.n_edges), {}, exact)
    found = false_negatives(engine, task, honest, verified=3, samples=64, share=0.2)
    assert found.candidates.sum() == engine.graph.n_writers - 3 and not found.candidates[order[:3]].any()
    blind = exact.clone()
    blind[order[0]] = 0
    sampled = false_negatives(
        engine, task, Scores(engine.graph, torch.zeros(engine.graph.n_edges), {}, blind), samples=64
    )
    assert sampled.candidates[order[0]]
    assert sampled.largest >= abs(float(exact[order[0]])) * 0.5 > 0
    assert (found.bound[found.candidates] >= found.effect[found.candidates].abs()).all()


def test_the_sampled_effects_are_near_the_exact_ones():
    engine, task = toy_engine(dtype=torch.float64), random_task(3)
    exact = _exact_nodes(engine, task)
    found = false_negatives(
        engine,
        task,
        Scores(engine.graph, torch.zeros(engine.graph.n_edges), {}, exact),
        verified=0,
        samples=256,
        share=0.08,
    )
    assert torch.corrcoef(torch.stack([found.effect, exact]))[0, 1] > 0.7
    assert float((exact.abs() <= found.bound).double().mean()) > 0.8  # effects do not quite add up


def _exact_nodes(engine: Engine, task: Task) -> Float[Tensor, " W"]:
    graph, batch = engine.graph, task.batch("train", range(len(task.train)))
    masks = (graph.edge_writer[None] != torch.arange(graph.n_writers)[:, None]).double()
    score = metric_function("logit_diff")
    with torch.no_grad():
        full = example_scores(engine, batch, torch.ones(graph.n_edges), score).mean()
        return full - example_scores(engine, batch, masks[:, None], score).mean(-1)


def test_what_node_methods_refuse():
    engine, task = toy_engine(), random_task()
    assert "together or apart" in refused(lambda: atp_star(engine, task, keys="all"))  # pyright: ignore[reportArgumentType]
    for method in (node_eap, atp_star):
        assert "KL" in refused(lambda m=method: m(engine, random_task(metric="kl")))
    assert "atp_star" in refused(lambda: false_negatives(engine, task, eap(engine, task)))
    assert "samples 2; give at least 8" in refused(
        lambda: false_negatives(engine, task, node_eap(engine, task), samples=2)
    )


def test_node_methods_count_their_passes():
    task = random_task(5)
    assert atp_star(toy_engine(), task).provenance["cost"]["backwards_per_example"] == 3
    assert atp_star(toy_engine(), task, graddrop=False).provenance["cost"]["backwards_per_example"] == 1
    cost = node_ig(toy_engine(), task, points=4).provenance["cost"]
    assert (cost["forwards_per_example"], cost["backwards_per_example"]) == (6, 4)


def test_a_cross_layer_feature_s_reader_has_its_best_place():
    graph = Graph(GraphSpec(2, 1, 1, features=((0, (0,)), (1, ())), cross_layer=((0, (1,)),)))
    own, later = (graph.writer_names.index(name) for name in ("m0.f0", "m0.f0>1"))
    writers = torch.full((graph.n_writers,), 0.2)
    writers[0], writers[own], writers[later] = 0.9, 0.1, 1.0
    circuit = Scores(graph, edges_of_nodes(graph, writers)).top(2)
    assert circuit.n_actual == 2  # the place and its feature's input: what the two best components are
