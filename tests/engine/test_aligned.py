"""Pairs of unequal length: a clean token's ablated edges carry what its corrupted partner's carry."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from edgewise._errors import InputError
from edgewise.discovery import exact_effects
from edgewise.engine import Ablation, Engine
from edgewise.tasks import Pair, Target, Task, metric_function, reduce
from edgewise.tasks._pairs import collate

from ..tiny import ONE_OF_EACH, random_model, tiny

# Two clean tokens for one corrupted one, one for two, and equally many.
PAIRS = [
    Pair((7, 8, 9, 10, 11), (12, 13, 14, 15), (Target(4, (1,)), Target(1, (2,))), "", "", align=(0, 1, 1, 2, 3)),
    Pair((7, 8, 9), (12, 13, 14, 15), (Target(2, (1,)),), "", "", align=(0, 2, 3)),
    Pair((7, 8, 9, 10), (12, 13, 14, 15), (Target(3, (1,)),), "", ""),
]
BATCH = collate(PAIRS, range(3))


def corrupted_logits(model) -> torch.Tensor:
    """What the module says on each corrupted prompt at the target's partner."""
    rows = []
    for pair in PAIRS:
        logits = model.module(input_ids=torch.tensor([pair.corrupted])).logits[0]
        rows += [
            logits[target.position if pair.align is None else pair.align[target.position]] for target in pair.targets
        ]
    return torch.stack(rows)


@pytest.mark.parametrize("name", ONE_OF_EACH)
@torch.no_grad()
def test_no_edge_is_the_corrupted_run_at_the_partners_and_all_are_the_model(name):
    model = tiny(name)
    engine = Engine(model)
    n_edges = engine.graph.n_edges
    for skip in (False, True):
        empty = engine.run(BATCH, torch.zeros(n_edges, dtype=torch.float64), skip=skip)
        torch.testing.assert_close(empty, corrupted_logits(model), rtol=0, atol=1e-9)
        full = engine.run(BATCH, torch.ones(n_edges, dtype=torch.float64), skip=skip)
        torch.testing.assert_close(full, engine.full(BATCH), rtol=0, atol=1e-9)
    torch.testing.assert_close(engine.full(BATCH, "corrupted"), corrupted_logits(model), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_fast_path_is_the_reference(name):
    model = tiny(name)
    masks = torch.rand(2, 1, Engine(model).graph.n_edges, dtype=torch.float64)
    results = []
    for path in ("fast", "reference"):
        mask = masks.clone().requires_grad_()
        logits = Engine(model, path=path).run(BATCH, mask, gradients="all")
        (gradient,) = torch.autograd.grad(logits.square().sum(), mask)
        results.append((logits.detach(), gradient))
    for fast, reference in zip(*results, strict=True):
        torch.testing.assert_close(fast, reference, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ONE_OF_EACH)
@torch.no_grad()
def test_hard_circuits_are_the_references(name):
    """Between prompts of unequal length a head that nothing clean reaches may still change."""
    model = tiny(name)
    fast, reference = Engine(model), Engine(model, path="reference")
    draw = torch.Generator().manual_seed(0)
    for share in (0.02, 0.1, 0.3):
        mask = (torch.rand(fast.graph.n_edges, generator=draw) < share).double()
        torch.testing.assert_close(fast.run(BATCH, mask), reference.run(BATCH, mask), rtol=0, atol=1e-9)
    for reader in fast.graph.blocks[-1].edges.start, fast.graph.n_edges - 1:
        alone = torch.zeros(fast.graph.n_edges, dtype=torch.float64)
        alone[reader] = 1
        torch.testing.assert_close(fast.run(BATCH, alone), reference.run(BATCH, alone), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["gpt2", "olmo2"])
def test_what_a_search_leaves_changes_the_loss_as_it_says(name):
    """The search runs candidates by formulas of its own; the engine's reference runs what it kept."""
    engine, reference = Engine(tiny(name)), Engine(tiny(name), path="reference")
    task = Task("aligned", PAIRS, PAIRS, PAIRS, metric="log_prob")
    chosen = torch.arange(0, engine.graph.n_edges, 7).tolist()
    found = exact_effects(engine, task, chosen, pairs=3)
    with torch.no_grad():
        full = metric_function("log_prob")(reference.full(BATCH), BATCH)
    for edge, effect in zip(chosen, found, strict=True):
        without = torch.ones(engine.graph.n_edges, dtype=torch.float64)
        without[edge] = 0
        with torch.no_grad():
            change = full - metric_function("log_prob")(reference.run(BATCH, without), BATCH)
        torch.testing.assert_close(effect.double(), reduce(change, BATCH), rtol=0, atol=1e-7)


def test_a_corrupted_prompt_longer_than_the_model_is_refused():
    model = random_model("gpt2", torch.float32)
    long = (1, 2) * ((model.parts.n_positions or 0) // 2 + 1)
    pair = Pair((1, 2, 3), long, (Target(2, (4,)),), "", "", align=(0, 1, 2))
    with pytest.raises(InputError, match="the model has"):
        Engine(model).run(collate([pair], [0]), torch.ones(Engine(model).graph.n_edges))


@torch.no_grad()
def test_padding_side_batch_and_an_identity_change_nothing():
    model = tiny("llama-gqa")
    engine = Engine(model)
    mask = torch.rand(engine.graph.n_edges, dtype=torch.float64)
    whole = engine.run(BATCH, mask)
    torch.testing.assert_close(engine.run(collate(PAIRS, range(3), "left"), mask), whole, rtol=0, atol=1e-9)
    alone = torch.cat([engine.run(collate([pair], [0]), mask) for pair in PAIRS])
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-9)
    named = replace(PAIRS[2], align=(0, 1, 2, 3))
    torch.testing.assert_close(engine.run(collate([named], [0]), mask), alone[-1:], rtol=0, atol=1e-9)


@torch.no_grad()
def test_other_ablations_do_not_look_at_the_corrupted_prompt():
    model = tiny("gpt2")
    engine = Engine(model, ablation=Ablation("zero"))
    mask = torch.rand(engine.graph.n_edges, dtype=torch.float64)
    same: Any = replace(BATCH, corrupted=BATCH.clean, align=None)
    torch.testing.assert_close(engine.run(BATCH, mask), engine.run(same, mask), rtol=0, atol=0)


@pytest.mark.parametrize("place", [-1, 4, 9])
def test_partners_that_are_not_there_are_refused(place):
    batch = collate([PAIRS[0]], [0])
    assert batch.align is not None
    batch.align[0, 1] = place
    with pytest.raises(InputError, match="example 0 is aligned with a corrupted token that is not there"):
        Engine(tiny("gpt2")).run(batch, torch.ones(Engine(tiny("gpt2")).graph.n_edges))
