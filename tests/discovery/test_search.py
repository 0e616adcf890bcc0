"""Exact patching and ACDC: edge for edge and step for step what one run after the other would say; resumable."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from edgewise import load_model
from edgewise.circuit import Circuit
from edgewise.discovery import acdc, acdc_ladder, eap, exact_patching
from edgewise.discovery._objective import example_scores
from edgewise.discovery._search import Search
from edgewise.engine import Ablation, Engine
from edgewise.graph import Graph
from edgewise.tasks import Batch, Metric, Task, loss_function, metric_function, program
from tests.discovery.toys import Killed, near, quiet, random_task, scores_of, toy_engine
from tests.engines import engine as engine_under
from tests.tiny import refused, tiny

UNDER = [
    *((name, ablation) for name in ("gpt2", "llama-gqa", "neox-parallel") for ablation in ("interchange", "zero")),
    ("twisted", "interchange"),
]
"""Models and ablations."""


def _size(name: str) -> int:
    """Of a batch, for three pairs: two batches with one of the models, and one with the others."""
    return 2 if name == "gpt2" else 3


def _reference(engine: Engine) -> Engine:
    """The path that shares nothing with the one that searches run on; many circuits side by side cost it little."""
    constants = engine.constants if engine.ablation.takes_constants else None
    return Engine(engine.model, engine.graph, engine.ablation, constants=constants, path="reference")


def _mean(engine: Engine, batch: Batch, kept: Tensor, score: Metric) -> float:
    with torch.no_grad():
        return float(example_scores(engine, batch, kept.double(), score).double().mean())


# --------------------------------------------------------------------------------------------------------------- exact


@pytest.mark.parametrize(("name", "ablation"), UNDER)
def test_exact_is_brute_force_edge_for_edge(name: str, ablation: Any):
    engine, task = Engine(tiny(name), ablation=Ablation(ablation)), random_task(4)
    found = exact_patching(engine, task, pairs=3, batch_size=_size(name), options=quiet()).values
    score, batch, n = metric_function("logit_diff"), task.batch("train", range(3)), engine.graph.n_edges
    masks = 1 - torch.eye(n, dtype=torch.float64)
    full = _mean(_reference(engine), batch, torch.ones(n), score)
    some = range(0, n, 7)
    with torch.no_grad():
        without = example_scores(_reference(engine), batch, masks[some][:, None], score).mean(-1)
    expected = full - without
    assert float((found[some] - expected).abs().max()) < 1e-8 * float(expected.abs().max())
    with torch.no_grad():
        every = example_scores(engine, batch, masks[:, None], score).mean(-1)
    near(found, full - every, 1e-8)


def test_exact_of_a_lower_is_better_metric_has_its_sign_turned():
    engine = toy_engine(dtype=torch.float64)
    values = exact_patching(engine, random_task(3, metric="kl"), options=quiet()).values
    assert float(values.min()) > -1e-9 and float(values.max()) > 0.01  # less KL is better: keeping an edge helps


def test_exact_of_pairs_of_unequal_length():
    pairs = [
        replace(pair, corrupted=(*pair.corrupted, 7), align=tuple(i + (i > 1) for i in range(len(pair.clean))))
        for pair in random_task(3).train[:3]
    ]
    engine, task = toy_engine(dtype=torch.float64), Task("toy", pairs, [], [])
    masks = 1 - torch.eye(engine.graph.n_edges, dtype=torch.float64)[::9]
    score, batch = metric_function("logit_diff"), task.batch("train", range(3))
    full = _mean(engine, batch, torch.ones(engine.graph.n_edges), score)
    with torch.no_grad():
        expected = full - example_scores(engine, batch, masks[:, None], score).mean(-1)
    near(exact_patching(engine, task, options=quiet()).values[::9], expected, 1e-8)


def test_exact_takes_metrics_that_have_no_gradient():
    values = exact_patching(toy_engine(), random_task(4, metric="accuracy"), options=quiet()).values
    assert torch.isfinite(values).all() and bool((values * 4 == (values * 4).round()).any())


def test_edges_that_were_not_asked_for_have_no_score_and_come_last():
    engine, task = toy_engine(), random_task(3)
    some = eap(engine, task).top(20, absolute=True).kept
    scores = exact_patching(engine, task, edges=some, options=quiet())
    assert torch.equal(~scores.values.isnan(), some)
    assert torch.equal(scores.top(20, absolute=True).kept, some)
    whole = exact_patching(engine, task, options=quiet())
    assert torch.equal(scores.values[some], whole.values[some]) or torch.allclose(
        scores.values[some], whole.values[some], atol=1e-5
    )
    assert scores.provenance["cost"]["forwards_per_example"] < whole.provenance["cost"]["forwards_per_example"]


@pytest.mark.unchecked
def test_what_exact_refuses():
    engine, task = toy_engine(), random_task(3)
    assert "max_edges=10" in refused(lambda: exact_patching(engine, task, max_edges=10))
    assert "one per edge" in refused(lambda: exact_patching(engine, task, edges=torch.ones(3)))
    assert "pairs 0; give at least 1" in refused(lambda: exact_patching(engine, task, pairs=0))


# ---------------------------------------------------------------------------------------------------------------- acdc


def _sequential(
    engine: Engine, batch: Batch, threshold: float, score: Metric, found: Tensor, absolute: bool = False
) -> Circuit:
    """The algorithm as it is written down: one run for each visit.

    All runs are made side by side, those that the decisions of a found circuit lead to, and then decided one after the
    other: where the first decision is another, so is what is given.
    """
    graph = engine.graph
    kept, visits, masks = torch.ones(graph.n_edges, dtype=torch.bool), [], []
    for reader in reversed(range(graph.n_readers)):
        edges = range(int(graph.offset[reader]), int(graph.offset[reader] + graph.visible[reader]))
        if not _is_read(graph, kept, reader, engine.ablation.kind):
            kept[list(edges)] = False
            continue
        for edge in reversed(edges):
            kept[edge] = False
            visits.append(edge)
            masks.append(kept.double())
            kept[edge] = found[edge]
    with torch.no_grad():
        losses = [
            example_scores(engine, batch, some[:, None], score).double().mean(-1)
            for some in torch.stack(masks).split(64)
        ]
    change = torch.full((graph.n_edges,), torch.nan, dtype=torch.float64)
    current = _mean(engine, batch, torch.ones(graph.n_edges), score)
    for edge, loss in zip(visits, torch.cat(losses).tolist(), strict=True):
        change[edge] = loss - current
        cut = (abs(loss - current) if absolute else loss - current) < threshold
        current = loss if cut else current
        kept[edge] = not cut
        if bool(found[edge]) == cut:
            break
    return Circuit(graph, kept, change)


def _is_read(graph: Graph, kept: Tensor, reader: int, ablation: str) -> bool:
    """Whether an alive edge carries on what the reader feeds."""
    if reader == graph.n_readers - 1:
        return True
    layer, head, name = int(graph.reader_layer[reader]), int(graph.reader_head[reader]), graph.reader_names[reader]
    group = graph.spec.n_heads // graph.n_kv_readers
    fed = {f"m{layer}"}
    if name.endswith(".q"):
        fed = {f"a{layer}.h{head}"}
    elif name.endswith((".k", ".v")):
        fed = {f"a{layer}.h{h}" for h in range(head * group, (head + 1) * group)}
    if graph.spec.coupled_heads and name != f"m{layer}":  # whatever a head reads changes what all of them write
        fed = {f"a{layer}.h{h}" for h in range(graph.spec.n_heads)}
    alive = graph.prune(kept, ablation)
    return any(name.split(" -> ")[0] in fed for name in graph.edge_names(alive.nonzero()[:, 0]))


@pytest.mark.parametrize(("name", "ablation"), UNDER)
def test_acdc_is_the_sequential_algorithm_step_for_step(name: str, ablation: Any):
    model = tiny(name)
    engine, task = Engine(model, ablation=Ablation(ablation)), random_task(3)
    thresholds = (0.0005, 0.005, 0.5)
    circuits = acdc_ladder(engine, task, thresholds, options=quiet(), batch_size=_size(name))
    batch, sizes = task.batch("train", range(3)), []
    for circuit, threshold in zip(circuits, thresholds, strict=True):
        expected = _sequential(_reference(engine), batch, threshold, loss_function("kl"), circuit.kept)
        assert torch.equal(circuit.kept, expected.kept), threshold
        visited = ~scores_of(expected).isnan()
        assert torch.equal(~scores_of(circuit).isnan(), visited)
        assert float((scores_of(circuit) - scores_of(expected))[visited].abs().max()) < 1e-6
        assert circuit.provenance["method"]["visits"] == int(visited.sum())
        sizes.append(circuit.n_edges)
    assert sizes == sorted(sizes, reverse=True) and 0 < sizes[1] < 0.9 * engine.graph.n_edges


@pytest.mark.parametrize(("loss", "absolute"), [("logit_diff", False), ("logit_diff", True), ("l2", False)])
def test_acdc_by_other_losses(loss: str, absolute: bool):
    engine, task = toy_engine(dtype=torch.float64), random_task(3)
    found = acdc(engine, task, threshold=0.003, loss=loss, absolute=absolute, options=quiet())
    assert 0 < found.n_edges < 0.9 * engine.graph.n_edges
    score = loss_function(loss)
    batch = task.batch("train", range(3))
    assert torch.equal(found.kept, _sequential(_reference(engine), batch, 0.003, score, found.kept, absolute).kept)


def test_acdc_finds_the_circuit_that_a_program_was_compiled_to():
    model = load_model("tracr:reverse")
    task = program(model.tokenizer)
    found = acdc(Engine(model, ablation=Ablation("zero")), task, threshold=0.001, pairs=64, options=quiet())
    expected = (
        "embed>a0.h0.v embed>m0 a0.h0>m0 embed>m1 m0>m1 m1>m2 m2>a3.h0.q embed>a3.h0.k embed>a3.h0.v a3.h0>logits"
    )
    assert [name.replace(" -> ", ">") for name in found.pruned().edge_names()] == expected.split()


def test_the_order_of_writers_is_one_s_choice_and_matters():
    engine, task = toy_engine(), random_task(3)
    kept = {o: acdc(engine, task, threshold=0.003, order=o, options=quiet()).kept for o in ("descending", "ascending")}
    kept["random"], again = (
        acdc(engine, task, threshold=0.003, order="random", options=quiet()).kept for _ in range(2)
    )
    assert torch.equal(kept["random"], again)
    assert len({tuple(k.tolist()) for k in kept.values()}) == 3


def test_nothing_is_cut_at_a_threshold_below_every_change_and_all_above():
    engine, task = toy_engine(), random_task(2)
    keep, cut = acdc_ladder(engine, task, (-1e9, 1e9), options=quiet())
    assert keep.n_edges == engine.graph.n_edges and keep.provenance["method"]["visits"] == engine.graph.n_edges
    assert cut.n_edges == 0 and cut.provenance["method"]["visits"] == int(engine.graph.visible[-1])


@pytest.mark.parametrize("convention", [("off", "physical"), ("joint", "expanded")])
def test_acdc_on_other_conventions(convention: tuple[Any, Any]):
    model = tiny("llama-gqa")
    engine, task = Engine(model, model.graph(*convention)), random_task(3)
    found = acdc(engine, task, threshold=0.003, options=quiet())
    assert 0 < found.n_edges < 0.9 * engine.graph.n_edges
    batch = task.batch("train", range(3))
    assert torch.equal(found.kept, _sequential(_reference(engine), batch, 0.003, loss_function("kl"), found.kept).kept)


def test_acdc_under_mean_ablation():
    engine, task = engine_under(tiny("gpt2"), ablation="mean"), random_task(3)
    found = acdc(engine, task, threshold=0.01, options=quiet())
    assert 0 < found.n_edges < 0.9 * engine.graph.n_edges
    batch = task.batch("train", range(3))
    assert torch.equal(found.kept, _sequential(_reference(engine), batch, 0.01, loss_function("kl"), found.kept).kept)


@pytest.mark.parametrize("thresholds", [(), (math.nan,), (0.1, math.inf)])
def test_thresholds_must_be_numbers(thresholds: tuple[float, ...]):
    assert "finite" in refused(lambda: acdc_ladder(toy_engine(), random_task(), thresholds))
    assert "finite" in refused(lambda: acdc(toy_engine(), random_task(), threshold=math.nan))


def test_what_acdc_refuses():
    assert "descending" in refused(lambda: acdc(toy_engine(), random_task(), order="best"))  # pyright: ignore[reportArgumentType]
    assert "loss" in refused(lambda: acdc(toy_engine(), random_task(), loss="mse"))


# ------------------------------------------------------------------------------------------------------------- resuming


@pytest.mark.parametrize("method", ["exact", "acdc"])
def test_a_killed_search_goes_on_and_gives_the_same_bits(method: str, tmp_path: Path, monkeypatch):
    task = random_task(3)

    def run(out: Path | None, of: Task = task) -> Tensor:
        if method == "exact":
            return exact_patching(toy_engine(), of, options=quiet(out)).values
        return torch.stack([scores_of(c) for c in acdc_ladder(toy_engine(), of, (0.0005, 0.005), options=quiet(out))])

    whole = run(None)
    opened, calls = Search.open, [0]

    def failing(self: Search, *arguments: Any):
        calls[0] += 1
        if calls[0] == 20:  # in the middle of a layer
            raise Killed
        return opened(self, *arguments)

    monkeypatch.setattr(Search, "open", failing)
    with pytest.raises(Killed):
        run(tmp_path)
    calls[0] = 100
    resumed = run(tmp_path)
    n_readers = toy_engine().graph.n_readers
    assert calls[0] - 100 <= n_readers * (2 if method == "acdc" else 1) - 19  # the first 19 readers were done
    assert torch.equal(resumed.nan_to_num(9), whole.nan_to_num(9))
    other = Task("toy", task.train[1:], [], [])
    assert "other settings" in refused(lambda: run(tmp_path, other))


def test_an_interrupt_says_so_and_the_same_call_finishes(tmp_path: Path, monkeypatch):
    task, opened, calls = random_task(2), Search.open, [0]

    def interrupting(self: Search, *arguments: Any):
        calls[0] += 1
        if calls[0] == 5:
            raise KeyboardInterrupt
        return opened(self, *arguments)

    monkeypatch.setattr(Search, "open", interrupting)
    scores = exact_patching(toy_engine(), task, options=quiet(tmp_path))
    assert "interrupted" in scores.provenance["method"]["stopped"]
    assert scores.values.isnan().any()
    scores = exact_patching(toy_engine(), task, options=quiet(tmp_path))
    assert "stopped" not in scores.provenance["method"] and not scores.values.isnan().any()


def test_a_search_counts_what_it_ran():
    engine, task = toy_engine(), random_task(4)
    cost = exact_patching(engine, task, options=quiet()).provenance["cost"]
    graph = engine.graph
    shares = sum(b.n_readers * b.n_writers * (1 - n / len(graph.blocks)) for n, b in enumerate(graph.blocks))
    assert cost["forwards_per_example"] == pytest.approx(2 + shares, abs=1e-3)
    assert cost["backwards_per_example"] == 0 and cost["examples"] == 4 and cost["seconds"] > 0


def test_acdc_does_not_go_on_from_another_loss(tmp_path):
    engine, task = toy_engine(), random_task(2)

    def run(sign: float) -> None:
        acdc(
            engine,
            task,
            threshold=0.01,
            pairs=2,
            loss=lambda logits, batch: sign * logits.amax(-1),
            options=quiet(tmp_path),
        )

    run(1.0)
    assert "other settings" in refused(lambda: run(-1.0))


def test_a_score_that_is_not_finite_is_refused():
    """As where some pairs have no wrong answer: every effect would be NaN, and the first edges the circuit."""
    task = random_task(3)
    bare = [replace(task.train[0], targets=tuple(replace(each, wrong=()) for each in task.train[0].targets))]
    mixed = replace(task, train=bare + list(task.train[1:]))
    said = refused(lambda: acdc(toy_engine(), mixed, threshold=0.1, loss="logit_diff"))
    assert "not finite for the full model on some pair" in said
    said = refused(lambda: exact_patching(toy_engine(), mixed, explains="logit_diff"))
    assert "metric 'logit_diff': toy has no wrong answers" in said
    said = refused(lambda: exact_patching(toy_engine(), task, explains=lambda logits, batch: logits[:, 0] * torch.nan))
    assert "not finite for the full model on some pair" in said
