"""Found circuits beside true ones, and a program's circuit found."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import edgewise as ew
from edgewise import InputError
from edgewise.models import load
from edgewise.tracr import (
    Agreement,
    Truth,
    _search,
    agreeing_size,
    auroc,
    compare,
    eliminate,
    find_truth,
    live_edges,
    rank_program,
    smallest_agreeing,
)

SILENT = ew.RunOptions(progress=False)


def setting(ablation: str) -> tuple[ew.Engine, Truth, Agreement]:
    model = load("tracr:xproportion")
    engine = ew.Engine(model, model.graph(), ew.Ablation(ablation))  # pyright: ignore[reportArgumentType]
    return engine, find_truth(engine), Agreement(engine)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12))
def test_auroc_is_the_share_of_pairs_in_the_right_order(rows):
    scores, true = torch.tensor([float(score) for score, _ in rows]), torch.tensor([mark for _, mark in rows])
    high, low = scores[true].tolist(), scores[~true].tolist()
    if not high or not low:
        assert auroc(scores, true) is None
        return
    share = sum((a > b) + (a == b) / 2 for a in high for b in low) / (len(high) * len(low))
    assert auroc(scores, true) == pytest.approx(share)


def test_comparison_counts_actual_edges():
    engine, truth, _ = setting("zero")
    graph = engine.graph
    exact = compare(ew.Circuit(graph, truth.edges, truth.edges.float()), truth)
    assert exact.exact and exact.precision == exact.recall == exact.auroc == 1 and not exact.missing + exact.extra
    idle = truth.edges.clone()
    idle[graph.edge_id("embed -> a0.h0.q")] = True  # nothing listens to a0.h0, so it cannot carry signal
    assert compare(ew.Circuit(graph, idle), truth).exact
    other = truth.edges.clone()
    other[graph.edge_id("embed -> m0")] = False
    other[graph.edge_id("embed -> logits")] = True
    found = compare(ew.Circuit(graph, other), truth)
    assert not found.exact and found.auroc is None
    assert found.missing == ("embed -> m0",) and found.extra == ("embed -> logits",)
    assert found.precision == found.recall == 0.8
    nothing = compare(ew.Circuit(graph, torch.zeros_like(other)), truth)
    assert (nothing.precision, nothing.recall) == (1, 0)
    split = engine.model.graph("split")
    with pytest.raises(InputError, match="the circuit is of"):
        compare(ew.Circuit(split, torch.zeros(split.n_edges, dtype=torch.bool)), truth)


def test_of_several_true_circuits_the_nearest_counts():
    engine, truth, _ = setting("zero")
    other = ~truth.edges
    several = replace(truth, minimal=(other, truth.edges))
    assert compare(ew.Circuit(engine.graph, truth.edges), several).exact


def test_the_smallest_agreeing_circuit_ends_where_the_true_edges_do():
    engine, truth, agreement = setting("zero")
    ranked = ew.Scores(engine.graph, truth.edges.float() + torch.rand(len(truth.edges)))
    assert torch.equal(smallest_agreeing(ranked, agreement).kept, truth.edges)
    signed = replace(ranked, values=-ranked.values)
    assert torch.equal(smallest_agreeing(signed, agreement, absolute=True).kept, truth.edges)
    late = truth.edges.float()
    late[truth.edges.nonzero()[0, 0]] = -1
    whole = smallest_agreeing(ew.Scores(engine.graph, late), agreement)
    assert whole.n_actual == engine.graph.n_edges
    assert torch.equal(eliminate(whole, agreement).kept, truth.edges)
    with pytest.raises(InputError, match="no scores"):
        eliminate(ew.Circuit(engine.graph, truth.edges), agreement)


@pytest.mark.parametrize("ablation", ["zero", "interchange"])
def test_a_learned_ranking_recovers_xproportion(ablation):
    engine, truth, agreement = setting(ablation)
    task = ew.tasks.program(engine.model.tokenizer)
    scores = rank_program(engine, task, agreement, options=SILENT)
    found = compare(smallest_agreeing(scores, agreement), truth)
    assert found.exact and found.auroc == 1, found


def test_edges_that_carry_nothing_are_ranked_last():
    engine, _, _ = setting("zero")
    task = replace(ew.tasks.program(engine.model.tokenizer), loss="mismatch")
    config = ew.RankingConfig(steps=12, batch_size=32, smallest=0.1, largest=1.0, warm_examples=0)
    live = live_edges(engine)
    for seed in (0, 1):
        values = ew.learn_ranking(engine, task, config, seed=seed, options=SILENT).values
        assert values[live].min() > values[~live].max() + 1


def test_a_ranking_learned_on_is_no_larger_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    engine, _, agreement = setting("interchange")
    monkeypatch.setitem(_search.RANKING, "steps", 2)  # too few to be right at once
    task, options = ew.tasks.program(engine.model.tokenizer), replace(SILENT, out=tmp_path)
    scores = rank_program(engine, task, agreement, options=options)
    first = ew.learn_ranking(
        engine, replace(task, loss="mismatch"), ew.RankingConfig(**_search.RANKING), options=SILENT
    )
    assert agreeing_size(scores, agreement) <= agreeing_size(first, agreement)
    assert (tmp_path / "refined-1" / "checkpoint.safetensors").is_file()
    assert torch.equal(rank_program(engine, task, agreement, options=options).values, scores.values)


def test_a_recovery_is_drawn_the_same_each_time(tmp_path: Path):
    pytest.importorskip("matplotlib")
    engine, truth, _ = setting("zero")
    found = ew.Circuit(engine.graph, torch.rand(engine.graph.n_edges) < 0.4)
    for name in ("one.svg", "two.svg"):
        ew.draw_recovery(found, truth.edges, tmp_path / name, title="xproportion")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    text = (tmp_path / "one.svg").read_text()
    for colour in ("#222222", "#ee8a12", "#17438f"):  # both, missing, extra
        assert colour in text
    with pytest.raises(InputError, match="the circuit's graph has 23 edges"):
        ew.draw_recovery(found, truth.edges[:3], tmp_path / "three.svg")
