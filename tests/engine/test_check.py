"""The check at load: it accepts every supported configuration, and no model that the engine does not reproduce."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from edgewise._errors import InputError
from edgewise.engine import check, require
from edgewise.engine._probe import prompt_beyond_windows
from edgewise.models import PlainConfig, PlainTransformer, load
from tests.models.own_family import TwistedModel
from tests.tiny import CONFIGURATIONS, ONE_OF_EACH, own_logits, random_model, tiny
from tests.tiny import draw_prompts as draw


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_passes(name: str):
    model = tiny(name, torch.float32)
    conventions: list[dict[str, Any]] = [{}, {"embeddings": "off"}, {"kv": "expanded"}]
    if model.parts.n_embeddings == 2:
        conventions += [{"embeddings": "split"}]
    for convention in conventions:
        result = check(model, **convention)
        assert result.passed and result.tolerance == 1e-5
        assert max(result.full_mask_error, result.empty_mask_error) <= 1e-5 * result.max_logit
        assert result.edges == model.graph(**convention).n_edges
    require(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", [*ONE_OF_EACH, "qwen3", "plain-norm"])
def test_in_every_type(name: str, dtype: torch.dtype):
    # Made in single precision, so that the norms are as transformers has them: those round to float32 even in float64.
    assert check(load(random_model(name, torch.float32).module.to(dtype))).passed


def test_the_largest_logit_is_the_modules():
    model = tiny("gpt2", torch.float32)
    assert 0.1 < check(model).max_logit / float(own_logits(model, draw((9, 6))).abs().max()) < 10


@pytest.mark.parametrize(("own", "said"), [(12, None), (None, 12), (12, 11), (12, 13), (200, None), (300, None)])
def test_a_wrong_attention_window_is_refused_up_to_a_width(own: int | None, said: int | None):
    module: Any = random_model("mistral-window", torch.float32).module
    module.config.sliding_window = own
    right = load(module)
    layers = [replace(each, attention=replace(each.attention, window=said)) for each in right.parts.layers]
    wrong = replace(right, parts=replace(right.parts, layers=tuple(layers)))
    assert check(right).passed
    assert check(wrong).passed == (prompt_beyond_windows(wrong) is None) == (own == 300)


def _twice(_module: Any, _inputs: Any, output: Any) -> Any:
    return output * 2


@pytest.mark.parametrize("part", ["lm_head", "model.norm", "model.layers.1.mlp", "model.layers.2.self_attn.k_proj"])
def test_a_module_that_computes_something_else_is_refused(part: str):
    model = random_model("llama-gqa", torch.float32)
    model.module.get_submodule(part).register_forward_hook(_twice)
    model = load(model.module)  # with its hook
    assert not check(model).passed
    with pytest.raises(
        InputError, match=r"^model 'LlamaForCausalLM': the engine does not reproduce it \(full mask"
    ) as caught:
        require(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "part", ["lm_head.weight", "model.layers.1.mlp.up_proj.weight", "model.layers.1.self_attn.k_proj.weight"]
)
def test_a_module_that_computes_no_numbers_is_refused(part: str):
    model = random_model("llama-gqa", torch.float32)
    with torch.no_grad():
        model.module.get_parameter(part)[0, 0] = torch.nan
    assert not check(model).passed


def test_a_model_is_measured_by_its_own_round_off():
    """Of numbers of thousands in the residual stream, which its last writer takes away again."""
    model = random_model("gpt2-untied", torch.float32)
    module: Any = model.module
    with torch.no_grad():
        away = 3000 * torch.randn(32)
        module.transformer.wte.weight += away
        module.transformer.h[-1].mlp.c_proj.bias -= away
    result = check(model)
    assert result.own_error is not None and 1e-6 < result.own_error / result.max_logit < 1e-3
    assert max(result.full_mask_error, result.empty_mask_error) > result.tolerance * result.max_logit
    assert result.passed and result.allowed == 8 * result.own_error
    require(model)
    module.transformer.ln_f.register_forward_hook(lambda _module, _inputs, output: output * 1.01)
    model = load(module)
    assert not check(model).passed
    with pytest.raises(InputError, match=r"allowed \d.*; hooks stand on transformer.ln_f: remove them; in a family"):
        require(model)


@pytest.mark.parametrize("name", [*ONE_OF_EACH, "gemma2"])
def test_the_own_round_off_of_every_kind_is_known(name: str):
    model = tiny(name, torch.float32)
    before = {key: x.clone() for key, x in model.module.state_dict().items()}
    result = check(model, own=True)
    assert result.own_error is not None and 0 < result.own_error < 1e-5 * result.max_logit
    assert result.allowed >= result.tolerance * result.max_logit and check(model).own_error is None
    after = model.module.state_dict()
    assert all(torch.equal(x, after[key]) and x.dtype == after[key].dtype for key, x in before.items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.module.modules())


@pytest.mark.parametrize("kind", ["NaN weight", "overflow"])
def test_logits_that_are_not_finite_are_the_models_own(kind: str):
    module: Any = random_model("neox-parallel", torch.float32).module
    with torch.no_grad():
        down = module.gpt_neox.layers[1].mlp.dense_4h_to_h.weight
        down.mul_(60_000) if kind == "overflow" else down[0, 0].fill_(torch.nan)
    model = load(module.half() if kind == "overflow" else module)
    assert not check(model).passed
    with pytest.raises(InputError, match=r"^model 'GPTNeoXForCausalLM': its own logits are not finite, in torch.fl"):
        require(model)


class _WithoutPositions(TwistedModel):
    def forward(self, input_ids: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] (on purpose)
        return super().forward(input_ids)


class _Tuple(TwistedModel):
    def forward(self, *given: Any, **named: Any) -> Any:
        return (super().forward(*given, **named).logits,)


@pytest.mark.parametrize(("kind", "said"), [(_WithoutPositions, "TypeError"), (_Tuple, "AttributeError")])
def test_a_forward_of_another_form_is_refused_in_one_line(kind: Any, said: str):
    with pytest.raises(InputError, match=rf"^model '{kind.__name__}': its own forward fails \({said}: .*\)$") as caught:
        check(load(kind().eval()))
    assert "\n" not in str(caught.value)


def test_weights_of_mixed_types_are_named():
    module: Any = random_model("llama-gqa", torch.float32).module.to(torch.bfloat16)
    module.model.norm.float()
    with pytest.raises(InputError, match=r"its own forward fails .*several types \(bfloat16, and float32\): give all"):
        require(load(module))


@pytest.mark.parametrize("n_positions", [1, 2, 3])
def test_models_of_few_positions(n_positions: int):
    assert check(load(PlainTransformer(PlainConfig(5, n_positions, 1, 2, d_model=8, d_head=4, d_mlp=8)).eval())).passed
