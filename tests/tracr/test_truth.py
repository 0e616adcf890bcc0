"""The true circuits: the published ones, inert edges that do nothing, and files that name what is wrong."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import edgewise as ew
from edgewise import InputError
from edgewise.cli import _show
from edgewise.models import CompiledTransformer, PlainTransformer, load
from edgewise.tracr import (
    Agreement,
    Truth,
    _search,
    compare,
    find_truth,
    live_edges,
    rank_program,
    smallest_agreeing,
)
from tests.tracr.truths import engine_of, of_short_inputs, truth_of

# Conmy et al. 2023, table 1 and their `tracr` module: reverse and xproportion under zero ablation; Miller et al. 2024
# (AutoCircuit): the same under interchange. Their input is both embeddings together.
PUBLISHED = {
    ("reverse", "zero"): "a3.h0>logits m2>a3.h0.q embed>a3.h0.k embed>a3.h0.v m1>m2 m0>m1 embed>m1 a0.h0>m0 embed>m0 "
    "embed>a0.h0.v",
    ("xproportion", "zero"): "a1.h0>logits embed>a1.h0.q embed>a1.h0.k m0>a1.h0.v embed>m0",
    ("reverse", "interchange"): "embed>a3.h0.v a3.h0>logits",
    ("xproportion", "interchange"): "embed>m0 m0>a1.h0.v a1.h0>logits",
}


@pytest.mark.parametrize(("name", "ablation"), PUBLISHED)
def test_the_published_circuits_are_the_true_ones(name, ablation):
    truth = truth_of(name, ablation)
    wanted = {edge.replace(">", " -> ") for edge in PUBLISHED[name, ablation].split()}
    assert set(truth.graph.edge_names(truth.edges.nonzero()[:, 0])) == wanted
    assert truth.unique and truth.exhaustive and torch.equal(truth.necessary, truth.edges)


@pytest.mark.parametrize("ablation", ["zero", "interchange"])
@pytest.mark.parametrize("embeddings", ["joint", "split"])
@pytest.mark.parametrize("name", ["reverse", "xproportion"])
def test_inert_edges_change_no_output_of_any_circuit(name, embeddings, ablation):
    engine = engine_of(name, ablation, embeddings)
    live = live_edges(engine)
    assert 0 < int(live.sum()) < 20
    task = ew.tasks.program(engine.model.tokenizer)
    batch = task.batch("train", range(24))
    for _ in range(12):
        kept = (torch.rand(len(live)) < 0.8) & live
        others = kept | (torch.rand(len(live)) < 0.5) & ~live
        both = [engine.run(batch, mask.float()) for mask in (kept, others)]
        torch.testing.assert_close(*both, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "ablation"), [("xproportion", "zero"), ("reverse", "interchange")])
def test_no_circuit_agrees_that_lacks_a_true_edge(name, ablation):
    # Of all edges, not only of the live ones, which is what trying all circuits rests on.
    engine = engine_of(name, ablation)
    truth, agreement = truth_of(name, ablation), Agreement(engine)
    random = torch.rand(150, engine.graph.n_edges) < torch.rand(150, 1)
    random[:60] |= truth.edges
    random[10:60, truth.edges.nonzero()[0, 0]] = False
    has_all = (random | ~truth.edges).all(1)
    agrees = agreement.holds(random)
    assert not bool((agrees & ~has_all).any())
    assert bool(agrees[has_all].all())  # these two also tolerate any other edge


def test_agreement_is_equality_on_every_input():
    engine = engine_of("reverse", "interchange")
    agreement = Agreement(engine)
    assert len(agreement.pairs) == 3 * 2 + 9 * 8 + 27 * 26
    truth = truth_of("reverse", "interchange")
    for kept in (truth.edges, torch.zeros_like(truth.edges), torch.rand(engine.graph.n_edges) < 0.9):
        good = 0
        for pairs in agreement.pairs[torch.randperm(len(agreement.pairs))].split(30):  # of mixed lengths
            batch = agreement._inputs(pairs)
            wrong = engine.run(batch, kept.float()).argmax(-1) != engine.full(batch).argmax(-1)
            good += len(pairs) - len(batch.row[wrong].unique())
        share = good / len(agreement.pairs)
        assert agreement.share(kept) == pytest.approx(share, abs=0.05)  # a tie is no answer for `agreement`
        assert bool(agreement.holds(kept[None])) == (agreement.share(kept) == 1)
    with pytest.raises(InputError, match="not a compiled program"):
        Agreement(ew.Engine(load(PlainTransformer(engine.model.module.config).eval())))  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="output='both'"):
        Agreement(engine, "both")  # pyright: ignore[reportArgumentType]


def with_planted_parts(module: CompiledTransformer) -> CompiledTransformer:
    """The same program with a wider residual stream: idle MLPs now write noise into directions that nothing reads."""
    config, wider = module.config, 3
    other = CompiledTransformer(replace(config, d_model=config.d_model + wider), module.program)
    weights = {}
    for name, old in module.state_dict().items():
        new = torch.zeros([*other.state_dict()[name].shape])
        new[tuple(slice(size) for size in old.shape)] = old
        weights[name] = new
    for layer in range(config.n_layers):
        weights[f"blocks.{layer}.mlp.2.weight"][config.d_model :] = torch.randn(wider, config.d_mlp)
        weights[f"blocks.{layer}.mlp.2.bias"][config.d_model :] = torch.randn(wider)
        weights[f"blocks.{layer}.output.weight"][config.d_model :] = torch.randn(wider, config.n_heads * config.d_head)
    other.load_state_dict(weights, assign=True)
    return other.eval()


@pytest.mark.parametrize("ablation", ["zero", "interchange"])
def test_planted_edges_that_do_nothing_are_not_true(ablation):
    module = of_short_inputs(load("tracr:xproportion")).module
    assert isinstance(module, CompiledTransformer)
    model = load(with_planted_parts(module))
    truth = find_truth(ew.Engine(model, model.graph(), ew.Ablation(ablation)))
    assert torch.equal(truth.edges, truth_of("xproportion", ablation).edges)


@pytest.mark.parametrize("ablation", ["zero", "interchange"])
def test_planted_edges_that_do_nothing_are_not_kept(ablation, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(_search.RANKING, "steps", 30)
    monkeypatch.setitem(_search.REFINED, "steps", 20)
    plain = of_short_inputs(load("tracr:xproportion"))
    assert isinstance(plain.module, CompiledTransformer)
    model = load(with_planted_parts(plain.module))
    engine = ew.Engine(model, model.graph(), ew.Ablation(ablation))
    task, agreement = ew.tasks.program(plain.tokenizer), Agreement(engine)
    scores = rank_program(engine, task, agreement, options=ew.RunOptions(progress=False))
    assert compare(smallest_agreeing(scores, agreement), find_truth(engine)).exact


def test_a_truth_is_saved_and_an_impossible_edge_refused_by_name(tmp_path: Path):
    truth = find_truth(engine_of("xproportion", "zero", "split"))
    path = tmp_path / "truth.json"
    truth.save(path)
    again = Truth.load(path)
    assert again.to_dict() == truth.to_dict() and again.graph == truth.graph
    plain = json.loads(path.read_text())
    for edge, what in (
        ("m1 -> a0.h0.q", "m1 does not come before a0.h0.q"),
        ("a9.h0 -> logits", "no writer 'a9.h0'"),
        ("m0 -> nowhere", "no reader 'nowhere'"),
    ):
        path.write_text(json.dumps(plain | {"minimal": [[*plain["minimal"][0], edge]]}))
        with pytest.raises(InputError, match=f"truth.json: edge '{edge}'.*{what}"):
            Truth.load(path)
    for text, what in (
        ("{}", "not the truth"),
        ("[", "not the truth"),
        (json.dumps(plain | {"minimal": []}), "no minim"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=what):
            Truth.load(path)
    with pytest.raises(InputError, match="cannot be read"):
        Truth.load(tmp_path / "none.json")


def test_what_was_found_on_a_sample_of_inputs_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model, path = of_short_inputs(load("tracr:xproportion"), longest=2), tmp_path / "truth.json"
    assert isinstance(model.module, CompiledTransformer)
    model.module.program = replace(model.module.program, complete=False)
    for truth in (truth_of("xproportion", "zero"), find_truth(ew.Engine(model, ablation=ew.Ablation("zero")))):
        truth.save(path)
        _show.truth(Truth.load(path))
        said = capsys.readouterr().out
        assert truth.complete == (f"on all {truth.inputs:,} inputs\n" in said) == ("(a sample)" not in said)
    path.write_text(json.dumps({key: x for key, x in json.loads(path.read_text()).items() if key != "complete"}))
    assert Truth.load(path).complete  # as earlier versions wrote it


def test_where_there_are_too_many_circuits_deletion_finds_the_same():
    for ablation in ("zero", "interchange"):
        engine = engine_of("xproportion", ablation)
        everything, deletion = truth_of("xproportion", ablation), find_truth(engine, most=0)
        assert everything.exhaustive and not deletion.exhaustive
        assert [edges.tolist() for edges in everything.minimal] == [edges.tolist() for edges in deletion.minimal]


def test_all_circuits_are_all_sets_with_a_way_to_the_output():
    from edgewise.tracr._truth import _all_circuits

    engine = engine_of("xproportion", "zero")
    live = live_edges(engine)
    found = _all_circuits(engine.graph, live, 1000)
    assert found is not None
    numbers = live.nonzero()[:, 0]
    wanted = set()
    for choice in itertools.product([False, True], repeat=len(numbers)):
        kept = torch.zeros_like(live)
        kept[numbers] = torch.tensor(choice)
        wanted.add(tuple(engine.graph.prune(kept, "zero").tolist()))
    assert {tuple(kept.tolist()) for kept in found} == wanted and len(found) == len(wanted)
