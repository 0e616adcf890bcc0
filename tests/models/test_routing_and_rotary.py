"""Mixtures of experts, and rotary embeddings that would follow the batch."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from edgewise._errors import InputError
from edgewise.engine import Engine, require
from edgewise.models import Mlp, load
from tests.engines import assert_close
from tests.tiny import VOCABULARY, collate, draw_prompts, own_logits, random_numbers, tiny


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe", "gpt-oss"])
def test_routing_is_frozen_or_differentiated_by_name(name: str):
    model = tiny(name)
    assert model.identity["note"] == "routing frozen"
    assert model.routed("differentiated").identity["note"] == "routing differentiated"
    x, direction = random_numbers(5, 32), random_numbers(32)
    frozen, whole = (each.parts.layers[0].mlp for each in (model, model.routed("differentiated")))

    def gradient(mlp: Mlp, at: Tensor) -> Tensor:
        leaf = at.clone().requires_grad_()
        (mlp.run_module(leaf) @ direction).sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    step = 1e-6 * random_numbers(5, 32)
    difference = ((whole.run_module(x + step) - whole.run_module(x - step)) @ direction).sum() / 2
    assert_close((gradient(whole, x) * step).sum() / difference, torch.ones((), dtype=torch.float64), 1e-5)
    assert (gradient(whole, x) - gradient(frozen, x)).abs().max() > 1e-3
    assert torch.equal(whole.run_module(x), frozen.run_module(x))
    assert all(parameter.grad is None for parameter in model.module.parameters())


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_prompts_for_which_rotary_would_follow_the_batch_are_refused(kind: str):
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 100.0, "factor": 4.0}
    if kind == "longrope":
        rope |= {"original_max_position_embeddings": 6, "short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    changes = {"max_position_embeddings": 24 if kind == "longrope" else 6, "rope_parameters": rope}
    model = load(LlamaForCausalLM(LlamaConfig(**_SMALL, **changes)).eval())  # pyright: ignore[reportArgumentType]
    assert model.parts.n_positions == 6
    require(model)
    engine, short = Engine(model), draw_prompts((6, 3))
    ones = torch.ones(model.graph().n_edges)
    assert_close(engine.run(collate(short), ones), own_logits(model, short), 1e-5)
    with pytest.raises(InputError, match="batch: a prompt has 7 tokens, and the model has 6 positions"):
        engine.run(collate(draw_prompts((3, 7))), ones)


def test_and_those_of_a_neox_too():
    rope = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0, "partial_rotary_factor": 1.0}
    shape: dict[str, Any] = {key: value for key, value in _SMALL.items() if key != "num_key_value_heads"}
    config = GPTNeoXConfig(**shape, max_position_embeddings=6, rope_parameters=rope)
    assert load(GPTNeoXForCausalLM(config).eval()).parts.n_positions == 6


_SMALL: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 16}
_SMALL |= {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
