"""Features that write to several layers, and the three policies for error terms: exact ends, the fast path as the
reference, and what a policy is on a graph that scores errors.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch

from edgewise import InputError
from edgewise.engine import Engine
from edgewise.graph import ErrorPolicy
from edgewise.models import Model
from edgewise.transcoders import cross_layer
from tests.engine.apart import assert_slopes, crossing, with_places
from tests.engine.featured import featured, features_of, ones, transcoder_of
from tests.engines import assert_close, assert_same, assert_same_where_given, half_of_choices, outcome, random_masks
from tests.tiny import collate, draw_prompts, own_logits, tiny

PROMPTS = draw_prompts((6, 3, 5))
BATCH = collate(PROMPTS)
MODELS = ("gpt2", "llama-gqa", "neox-parallel", "twisted")
ERRORS: tuple[ErrorPolicy, ...] = ("scored", "kept", "corrupted")


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", MODELS)
def test_all_edges_are_the_model_and_none_the_corrupted_run(name: str, error: ErrorPolicy):
    model = tiny(name)
    for kind, exclude in (("relu", False), ("topk:5", True), ("jumprelu", True)):
        engine = with_places(model, crossing(model, kind, exclude=exclude), error=error)
        for skip in (True, False):
            if error != "corrupted":
                assert_close(engine.run(BATCH, ones(engine), skip=skip), own_logits(model, PROMPTS))
            if error != "kept":
                assert_close(engine.run(BATCH, 0 * ones(engine), skip=skip), own_logits(model, PROMPTS, "corrupted"))


@pytest.mark.parametrize("name", MODELS)
def test_the_fast_path_is_the_reference(name: str):
    model, turn = tiny(name), MODELS.index(name)
    for number, error in enumerate(ERRORS, turn):
        ablation = ("interchange", "zero")[number % 2]
        transcoders = crossing(model, ("relu", "topk:5", "batch_topk:5")[number % 3], exclude=number % 2 == 1)
        reference = with_places(model, transcoders, ablation, error, path="reference")
        fast = {
            memory: with_places(model, transcoders, ablation, error, memory=memory) for memory in ("default", "lean")
        }
        for half, mask in enumerate(list(random_masks(reference.graph).values())[number % 2 :: 2], number):
            expected = outcome(reference, BATCH, mask)
            for memory, skip, gradients in half_of_choices(half):
                found = outcome(fast[memory], BATCH, mask, gradients=gradients, skip=skip)
                assert_same_where_given(found, expected, mask, gradients)


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "neox-parallel"])
def test_a_policy_is_the_scored_graph_with_all_edges_of_errors_kept_or_cut(name: str, cross: bool):
    model = tiny(name)
    scored, others = _engines(model, cross, "scored"), {error: _engines(model, cross, error) for error in ERRORS[1:]}
    errors = torch.tensor([name.endswith(".error") for name in scored.graph.writer_names])
    errors = errors[scored.graph.edge_writer.long()]
    for error, engine in others.items():
        assert engine.graph.n_edges == int((~errors).sum())
        for mask in random_masks(engine.graph).values():
            wide = mask.new_full((*mask.shape[:-1], len(errors)), float(error == "kept"))
            wide[..., ~errors] = mask
            expected, found = (
                outcome(scored, BATCH, wide, gradients="all"),
                outcome(engine, BATCH, mask, gradients="all"),
            )
            assert_same(found, expected._replace(mask=expected.mask[..., ~errors]))


def _engines(model: Model, cross: bool, error: ErrorPolicy, **choices: Any) -> Engine:
    if cross:
        return with_places(model, crossing(model), error=error, **choices)
    return featured(model, graph=model.graph(features=features_of(model), error=error), **choices)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", ["gpt2", "llama-gqa"])
def test_pruning_changes_no_logit(name: str, error: ErrorPolicy):
    model = tiny(name)
    engine, reference = (_engines(model, True, error, path=path) for path in ("fast", "reference"))
    densities = torch.tensor([0.02, 0.05, 0.1, 0.2, 0.4])[:, None]
    shape = len(densities), engine.graph.n_edges
    kept = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < densities
    alive = torch.stack([engine.graph.prune(each, "interchange") for each in kept])
    for each, pruned in zip(kept, alive, strict=True):
        expected = reference.run(BATCH, each.double())
        assert_close(reference.run(BATCH, pruned.double()), expected)
        assert_close(engine.run(BATCH, each.double()), expected)
    assert int(kept.sum()) > int(alive.sum())


@pytest.mark.parametrize("into", ["-> m0.f", ">2 ->"])
def test_mask_gradients_are_finite_differences(into: str):
    model = tiny("gpt2")
    transcoders = crossing(model)
    mask = random_masks(with_places(model, transcoders).graph)["circuits-and-groups"]
    assert_slopes(lambda path: with_places(model, transcoders, path=path), BATCH, mask, into)


def test_places_that_write_nothing_are_a_transcoder_of_one_layer():
    model = tiny("llama-gqa")
    transcoders, d = crossing(model), model.parts.d_model
    features, alone = {}, []
    for each in transcoders:
        with torch.no_grad():
            each.W_dec[:, d:] = 0
        features[each.spec.reads.layer] = (1, 4, 20, 30)
        one = transcoder_of(model, each.spec.reads.layer)
        one.spec = replace(one.spec, n_features=32, writes=each.spec.writes[:1], reads=each.spec.reads)
        one.W_enc, one.b_enc, one.b_in = each.W_enc, each.b_enc, each.b_in
        one.W_dec = torch.nn.Parameter(each.W_dec[:, :d].detach().clone())
        alone.append(one)
    wide, plain = with_places(model, transcoders), featured(model, alone, features={**features, 2: ()})
    names = wide.graph.edge_names(torch.arange(wide.graph.n_edges))
    shared = torch.tensor([">" not in name.split(" -> ")[0] for name in names])
    for mask in random_masks(plain.graph).values():
        both = mask.new_zeros(*mask.shape[:-1], len(names))
        both[..., shared] = mask
        assert_close(wide.run(BATCH, both), plain.run(BATCH, mask))


def test_what_does_not_go_together_is_refused_in_one_line():
    model = tiny("gpt2")
    transcoders = crossing(model)
    late = crossing(model)
    late[0].spec = replace(late[0].spec, writes=late[0].spec.writes[1:], n_features=32)
    graph = model.graph(features={0: (1,), 1: (), 2: ()}, cross_layer=cross_layer(transcoders[:1]))
    bad = [
        (lambda: featured(model, transcoders, features={0: (1,), 1: (2,)}), "use model.graph"),
        (lambda: featured(model, late[:1], graph=graph), "writes to layer 1 mlp_out first"),
        (lambda: featured(model, transcoders[1:], graph=graph), "layer 0 has features; give its transcoder"),
    ]
    for call, complaint in bad:
        with pytest.raises(InputError, match=complaint) as caught:
            call()
        assert "\n" not in str(caught.value)
