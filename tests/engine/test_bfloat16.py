"""Stack and products in bfloat16: the numbers of float32 arithmetic on the same weights, to bfloat16's rounding."""

from typing import Literal

import pytest
import torch
from torch import Tensor

from edgewise import InputError
from edgewise.engine import Engine
from tests.engines import outcome, random_masks
from tests.tiny import collate, draw_prompts, random_model

BATCH = collate(draw_prompts((6, 3, 5)))


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@pytest.mark.parametrize("memory", ["default", "lean"])
@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "qwen3", "neox-parallel"])
def test_bfloat16_is_float32_rounded(name: str, memory: Literal["default", "lean"]):
    model = random_model(name, torch.bfloat16)
    exact, rounded = Engine(model), Engine(model, memory=memory, dtype=torch.bfloat16)
    for kind in ("fractional", "by-reader", "circuits-and-groups"):
        mask = random_masks(model.graph())[kind].float()
        expected, found = (outcome(engine, BATCH, mask, gradients="all") for engine in (exact, rounded))
        assert found.mask.dtype == torch.float32
        assert _error(found.logits, expected.logits) < 0.03
        assert _error(found.mask, expected.mask) < 0.05


def test_the_ablated_sums_are_not_rounded_to_bfloat16():
    model = random_model("gpt2", torch.bfloat16)
    engine = Engine(model, dtype=torch.bfloat16)
    engine.prepare([BATCH])
    for run in engine._store.pinned.values():
        assert run.base[-1].dtype == torch.float32


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_a_post_norms_gain_is_not_rounded_to_bfloat16(name: str):
    attention = random_model(name, torch.bfloat16).parts.layers[0].attention
    assert attention.post_norm is not None and attention.post_norm.weight is not None
    expected = attention.output_weight.double() * (1 + attention.post_norm.weight.double())
    assert _error(attention.output, expected) < 1e-6


def test_a_type_that_is_not_the_models_is_refused():
    with pytest.raises(InputError, match="load it in the type wanted"):
        Engine(random_model("gpt2", torch.float32), dtype=torch.bfloat16)
    with pytest.raises(InputError, match="choose 'default' or 'lean'"):
        Engine(random_model("gpt2", torch.float32), memory="tiny")  # pyright: ignore[reportArgumentType] (on purpose)
