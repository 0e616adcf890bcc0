"""The precision of float32 products is the run's alone, and close to the exact one."""

from typing import Literal

import pytest
import torch

from edgewise import InputError
from edgewise.engine import Engine
from edgewise.engine._executor import Executor
from edgewise.engine._stream import Stream
from edgewise.models import load
from tests.engines import outcome, random_masks
from tests.tiny import collate, draw_prompts, random_model

BATCH = collate(draw_prompts((6, 3, 5)))


@pytest.mark.parametrize("memory", ["default", "lean"])
@pytest.mark.parametrize("name", ["gpt2", "llama-gqa"])
def test_medium_is_at_worst_bfloat16s_rounding(name: str, memory: Literal["default", "lean"]):
    model = random_model(name, torch.float32)
    mask = random_masks(model.graph())["fractional"].float()
    exact = outcome(Engine(model), BATCH, mask, gradients="all")
    found = outcome(Engine(model, memory=memory, matmul="medium"), BATCH, mask, gradients="all")
    for each, expected in ((found.logits, exact.logits), (found.mask, exact.mask)):
        assert float((each - expected).norm() / expected.norm()) < 0.03


def test_the_setting_holds_in_forward_and_backward_and_is_put_back(monkeypatch: pytest.MonkeyPatch):
    seen = []
    for name in ("_mlp_input", "_mlp_backward"):
        real = getattr(Executor, name)

        def spy(*args, real=real):
            seen.append(torch.get_float32_matmul_precision())
            return real(*args)

        monkeypatch.setattr(Executor, name, spy)
    model = random_model("gpt2", torch.float32)
    outcome(Engine(model, matmul="medium"), BATCH, random_masks(model.graph())["fractional"].float())
    assert set(seen) == {"medium"} and len(seen) == 2 * len(model.parts.layers)
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_setting_holds_for_what_depends_on_the_pairs_alone(monkeypatch: pytest.MonkeyPatch):
    model, seen = random_model("gpt2", torch.float32), []
    module = model.parts.layers[0].mlp.module
    assert isinstance(module, torch.nn.Module)
    module.register_forward_pre_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    model = load(model.module)  # with its hook
    engine = Engine(model, matmul="medium")
    engine.prepare([BATCH])
    Stream(engine, BATCH)
    assert seen == ["medium"] * 3  # the full model on clean prompts, its writers on corrupted and on clean ones
    expected = Engine(model).full(BATCH)
    assert float((engine.full(BATCH) - expected).norm() / expected.norm()) < 0.03
    assert torch.get_float32_matmul_precision() == "highest"


def test_it_is_put_back_after_an_error(monkeypatch: pytest.MonkeyPatch):
    def fail(*args):
        raise RuntimeError("on purpose")

    monkeypatch.setattr(Executor, "_mlp_input", fail)
    model = random_model("gpt2", torch.float32)
    with pytest.raises(RuntimeError, match="on purpose"):
        outcome(Engine(model, matmul="medium"), BATCH, random_masks(model.graph())["fractional"].float())
    assert torch.get_float32_matmul_precision() == "highest"


def test_an_unknown_precision_is_refused():
    with pytest.raises(InputError, match="matmul='low': choose 'highest', 'high' or 'medium'"):
        Engine(random_model("gpt2", torch.float32), matmul="low")  # pyright: ignore[reportArgumentType] (on purpose)
