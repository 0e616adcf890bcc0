"""Pairs of unequal length: a clean token's ablated edges carry what its corrupted partner's carry."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from edgewise._errors import InputError
from edgewise.engine import Ablation, Engine
from edgewise.tasks import Pair, Target
from edgewise.tasks._pairs import collate

from ..tiny import ONE_OF_EACH, tiny

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
