"""Graphs with neurons in MLPs' places: exact ends, the fast path as the reference, and the MLP that they add up to."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from edgewise import InputError
from edgewise.engine import Engine, Stream, footprint
from edgewise.models import load
from tests.engine.apart import assert_slopes, neurons_of, with_neurons
from tests.engine.featured import ones
from tests.engines import assert_close, assert_same_where_given, half_of_choices, outcome, random_masks
from tests.tiny import CONFIGURATIONS, collate, draw_prompts, own_logits, tiny

PROMPTS = draw_prompts((6, 3, 5))
BATCH = collate(PROMPTS)
MODELS = ("gpt2", "llama-gqa", "llama-biases", "neox-parallel", "plain-bidirectional", "plain-norm")
"""Gated or not; with biases in the MLP or without; layer norms, RMS norms or none; sequential and parallel."""


@pytest.mark.parametrize("name", MODELS)
def test_all_edges_are_the_model_and_none_the_corrupted_run(name: str):
    model = tiny(name)
    n = 0 if (down := model.parts.layers[0].mlp.down) is None else len(down)
    for neurons in (None, {0: ()}, {layer: range(n) for layer in range(len(model.parts.layers))}):
        engine = with_neurons(model, neurons=neurons)
        for skip in (True, False):
            assert_close(engine.run(BATCH, ones(engine), skip=skip), own_logits(model, PROMPTS))
            assert_close(engine.run(BATCH, 0 * ones(engine), skip=skip), own_logits(model, PROMPTS, "corrupted"))
        zero = with_neurons(model, "zero", neurons)
        assert_close(zero.run(BATCH, ones(zero)), own_logits(model, PROMPTS))


@pytest.mark.parametrize("name", MODELS)
def test_the_fast_path_is_the_reference(name: str):
    model, turn = tiny(name), MODELS.index(name)
    for number, ablation in enumerate(("interchange", "zero"), turn):
        reference = with_neurons(model, ablation, path="reference")
        fast = {memory: with_neurons(model, ablation, memory=memory) for memory in ("default", "lean")}
        for half, mask in enumerate(list(random_masks(reference.graph).values())[number % 2 :: 2], number):
            expected = outcome(reference, BATCH, mask)
            for memory, skip, gradients in half_of_choices(half):
                found = outcome(fast[memory], BATCH, mask, gradients=gradients, skip=skip)
                assert_same_where_given(found, expected, mask, gradients)


@pytest.mark.parametrize("name", MODELS)
def test_neurons_and_the_rest_with_their_mlps_masks_are_the_mlp(name: str):
    """Each with the MLP's own masks, they run as the MLP does, and their masks' gradients add up to its."""
    model = tiny(name)
    plain, engine = model.graph(), with_neurons(model)
    ends = [each.split(" -> ") for each in engine.graph.edge_names(torch.arange(engine.graph.n_edges))]
    whole = [[end.partition(".")[0] if end.startswith("m") else end for end in pair] for pair in ends]
    like = torch.tensor([plain.edge_id(f"{writer} -> {reader}") for writer, reader in whole])
    for mask in random_masks(plain).values():
        wide = mask[..., like]
        expected = outcome(Engine(model, plain), BATCH, mask, gradients="all")
        found = outcome(engine, BATCH, wide, gradients="all")
        assert_close(found.logits, expected.logits)
        assert_close(torch.zeros_like(mask).scatter_add(-1, like.expand_as(wide), found.mask), expected.mask)


@pytest.mark.parametrize("name", MODELS)
def test_pruning_changes_no_logit(name: str):
    model, ablation = tiny(name), ("interchange", "zero")[MODELS.index(name) % 2]
    engine, reference = (with_neurons(model, ablation, path=path) for path in ("fast", "reference"))
    densities = torch.tensor([0.02, 0.05, 0.1, 0.2, 0.4])[:, None]
    shape = len(densities), engine.graph.n_edges
    kept = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < densities
    alive = torch.stack([engine.graph.prune(each, ablation) for each in kept])
    for each, pruned in zip(kept, alive, strict=True):
        expected = reference.run(BATCH, each.double())
        assert_close(reference.run(BATCH, pruned.double()), expected)
        assert_close(engine.run(BATCH, each.double()), expected)
    assert int(kept.sum()) > int(alive.sum())


@pytest.mark.parametrize("name", ["gpt2", "llama-biases"])
def test_mask_gradients_are_finite_differences(name: str):
    model = tiny(name)
    mask = random_masks(with_neurons(model).graph)["circuits-and-groups"]
    assert_slopes(lambda path: with_neurons(model, path=path), BATCH, mask, into="-> m2.n")


def test_batch_padding_and_what_was_prepared_change_nothing():
    model = tiny("llama-gqa")
    engine = with_neurons(model)
    mask = random_masks(engine.graph)["circuits-and-groups"]
    whole = engine.run(BATCH, mask)
    assert_close(engine.run(collate(PROMPTS, "both", extra=3), mask), whole)
    assert_close(torch.cat([engine.run(collate([prompt]), mask) for prompt in PROMPTS], 1), whole)
    prepared = with_neurons(model)
    prepared.prepare([collate(PROMPTS[1:]), collate(PROMPTS[:1])])
    assert_close(prepared.run(BATCH, mask), whole)


def test_edges_that_carry_positions():
    model, neurons = tiny("gpt2"), neurons_of(tiny("gpt2"))
    plain, graph = with_neurons(model), model.graph(spans=("first", "second"), neurons=neurons)
    mask = random_masks(plain.graph)["circuits-and-groups"][:1]
    assert_close(Engine(model, graph).run(BATCH, mask.flatten()), plain.run(BATCH, mask)[0])
    assert graph.edge_name(graph.edge_id("m0.n2+2 -> m2.rest @ second")) == "m0.n2+2 -> m2.rest @ second"


@pytest.mark.parametrize(("name", "dtype"), [("gpt2", torch.float32), ("llama-gqa", torch.bfloat16)])
def test_in_less_precision(name: str, dtype: torch.dtype):
    model = tiny(name, dtype)
    engine, full = with_neurons(model), own_logits(model, PROMPTS).float()
    off = (engine.run(BATCH, torch.ones(engine.graph.n_edges)) - full).abs().max() / full.abs().max()
    assert off <= (1e-5 if dtype == torch.float32 else 0.05)


def test_what_cannot_be_taken_apart_is_refused_in_one_line():
    model = tiny("gpt2")
    bad: list[tuple[Callable[[], Any], str]] = [
        (lambda: with_neurons(model, neurons={0: (128,)}), "neuron 128 of layer 0; its MLP has 128"),
        (lambda: with_neurons(tiny("twisted")), "normed as one sum"),
        (lambda: with_neurons(load(CONFIGURATIONS["mixtral"]().eval())), "known as a whole alone"),
        (lambda: Stream(with_neurons(model), BATCH), "has neurons in MLPs' places, which a stream does not run"),
    ]
    for call, complaint in bad:
        with pytest.raises(InputError, match=complaint) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("memory", ["default", "lean"])
def test_a_step_takes_what_is_planned(memory: Any):
    from benchmarks._measure import peak_tensor_bytes

    model = tiny("gpt2", torch.float32)
    graph = model.graph(neurons={layer: range(48) for layer in range(3)})
    batch = collate(draw_prompts((16,) * 40))
    mask = torch.rand(graph.n_edges, requires_grad=True)
    engine = Engine(model, graph, memory=memory)
    measured = peak_tensor_bytes(lambda: _loss(engine.run(batch, mask)).backward())
    weights = sum(each.readers.weight.numel() + each.outputs[i].numel() for i, each in engine._arranged.nodes.items())
    planned = footprint(model, graph, 40, 16, memory=memory).bytes_above_weights
    measured += 4 * weights
    assert 0.9 * measured < planned < 2 * measured  # chunks are longer than all tokens here, so it plans for too much


def _loss(logits: Tensor) -> Tensor:
    return logits.square().sum()


def test_a_model_is_held_to_its_own_round_off(monkeypatch: pytest.MonkeyPatch):
    """Its whole graph is as far from the module, so that no choice of neurons would be nearer."""
    monkeypatch.setattr("edgewise.engine._engine.allowed_error", lambda model: 0.0)
    assert with_neurons(tiny("gpt2", torch.float32)).neurons
    monkeypatch.setattr("edgewise.engine._engine.ROUND_OFFS", 0)
    with pytest.raises(InputError, match="neurons: with them the engine is off the model by .* at most 0.0e\\+00$"):
        with_neurons(tiny("gpt2", torch.float32))
