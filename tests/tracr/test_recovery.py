"""Found circuits beside true ones, and a program's circuit found."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import edgewise as ew
from edgewise import InputError
from edgewise.circuit import Selection
from edgewise.discovery._ranking import RankingLearner
from edgewise.evaluation import auroc
from edgewise.tracr import (
    Agreement,
    Truth,
    _search,
    _truth,
    agreeing_size,
    compare,
    eliminate,
    find_truth,
    idle_edges,
    live_edges,
    rank_program,
    smallest_agreeing,
)
from tests.discovery.toys import Killed
from tests.tracr.truths import of_short_inputs, truth_of

SILENT = ew.RunOptions(progress=False)


@cache
def setting(ablation: str) -> tuple[ew.Engine, Truth, Agreement]:
    """An engine, the truth about all inputs, and whether a circuit agrees on those of up to three symbols."""
    model = of_short_inputs(ew.load_model("tracr:xproportion"))
    engine = ew.Engine(model, model.graph(), ew.Ablation(ablation))  # pyright: ignore[reportArgumentType]
    return engine, truth_of("xproportion", ablation), Agreement(engine)


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
    signed = torch.where(truth.edges, -2.0, 1.0)  # negative effects of what matters
    by_size, by_sign = (ew.Circuit(graph, truth.edges, signed, selection=how) for how in get_args(Selection))
    assert (compare(by_size, truth).auroc, compare(by_sign, truth).auroc) == (1.0, 0.0)
    nothing = compare(ew.Circuit(graph, torch.zeros_like(other)), truth)
    assert (nothing.precision, nothing.recall) == (1, 0)
    split = engine.model.graph("split")
    with pytest.raises(InputError, match="embeddings split, not joint"):
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
def test_a_learned_ranking_recovers_xproportion(ablation, monkeypatch):
    # A third of the steps that users get are enough for it.
    monkeypatch.setitem(_search.RANKING, "steps", 100)
    monkeypatch.setitem(_search.REFINED, "steps", 50)
    engine, truth, agreement = setting(ablation)
    task = ew.tasks.program(engine.model.tokenizer)
    scores = rank_program(engine, task, agreement, options=SILENT)
    found = compare(smallest_agreeing(scores, agreement), truth)
    assert found.exact and found.auroc == 1, found


@pytest.mark.parametrize("ablation", ["zero", "interchange"])
@pytest.mark.parametrize("name", ["reverse", "xproportion"])
def test_idle_edges_are_inert_and_no_needed_edge_is_idle(name, ablation):
    model = ew.load_model(f"tracr:{name}")
    engine = ew.Engine(model, model.graph(), ew.Ablation(ablation))
    live = live_edges(engine)
    for seed in (0, 1):
        idle = idle_edges(engine, replace(ew.tasks.program(model.tokenizer), loss="mismatch"), seed)
        assert not (idle & live).any()
        assert int((~idle & ~live).sum()) <= 8  # of 72; rounding in a softmax is no exact 0


def test_idle_edges_come_last_unless_the_circuit_gets_larger():
    engine, truth, agreement = setting("zero")
    noise = torch.rand(len(truth.edges))
    ranked = ew.Scores(engine.graph, noise + (~live_edges(engine)).float())
    last, size = _search._idle_last(ranked, ~truth.edges, agreement)
    assert size == 5 and last.values[truth.edges].min() > last.values[~truth.edges].max() + 0.5
    same, size = _search._idle_last(last, truth.edges, agreement)  # were the needed ones taken for idle
    assert size == 5 and torch.equal(same.values, last.values)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first stage that is too short, and later ones that are short."""
    monkeypatch.setitem(_search.RANKING, "steps", 3)
    monkeypatch.setitem(_search.RANKING, "warm_examples", 0)
    monkeypatch.setitem(_search.REFINED, "steps", 60)


@pytest.mark.usefixtures("hasty")
def test_learning_on_makes_a_circuit_smaller_and_says_what_it_cost():
    engine, truth, agreement = setting("interchange")
    task = ew.tasks.program(engine.model.tokenizer)
    scores = rank_program(engine, task, agreement, seed=4, options=SILENT)
    first = ew.learn_ranking(
        engine, replace(task, loss="mismatch"), ew.RankingConfig(seed=4, **_search.RANKING), options=SILENT
    )
    before, size = (
        _search._idle_last(first, torch.zeros_like(truth.edges), agreement)[1],
        agreeing_size(scores, agreement),
    )
    assert size < before and compare(smallest_agreeing(scores, agreement), truth).exact
    said, cost = scores.provenance["method"], scores.provenance["cost"]
    assert said["seed"] == 4 and said["steps"] == sum(stage["steps"] for stage in said["stages"]) >= 63
    assert cost["backwards_per_example"] * cost["examples"] == pytest.approx(32 * (said["steps"] + 24), abs=1)


@pytest.mark.usefixtures("hasty")
def test_killed_in_the_second_stage_it_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(_search.REFINED, "steps", 12)
    engine, _, agreement = setting("zero")
    task = ew.tasks.program(engine.model.tokenizer)
    real = RankingLearner.step

    def killed(self: RankingLearner, step: int):
        if self.config.steps == _search.REFINED["steps"] and step == 7:
            raise Killed
        return real(self, step)

    options = replace(SILENT, out=tmp_path / "killed", checkpoint_seconds=0)
    with monkeypatch.context() as patch:
        patch.setattr(RankingLearner, "step", killed)
        with pytest.raises(Killed):
            rank_program(engine, task, agreement, options=options)
    resumed = rank_program(engine, task, agreement, options=options)
    assert torch.equal(resumed.values, rank_program(engine, task, agreement, options=SILENT).values)
    (tmp_path / "killed" / "checkpoint.safetensors").unlink()
    with pytest.raises(InputError, match="refined-1: belongs to a run that is gone"):
        rank_program(engine, task, agreement, options=options)


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


def test_a_graph_without_embeddings_has_no_truth_and_everything_may_go(monkeypatch: pytest.MonkeyPatch):
    model = ew.load_model("tracr:reverse")
    with pytest.raises(InputError, match="leaves out embeddings"):
        find_truth(ew.Engine(model, model.graph("off")))

    agreement = Agreement(ew.Engine(model))
    monkeypatch.setattr(Agreement, "holds", lambda _, kept: torch.ones(len(kept), dtype=torch.bool))
    minimal, _ = _truth._by_deletion(agreement, torch.ones(agreement.engine.graph.n_edges, dtype=torch.bool))
    assert len(minimal) == 1 and not minimal[0].any()
