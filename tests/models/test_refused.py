"""Modules that are of no family, or not in the state to be read."""

from typing import Any

import pytest
from torch import nn
from transformers import (
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    OPTConfig,
    OPTForCausalLM,
)

from edgewise._errors import InputError
from edgewise.models import load
from tests.tiny import CONFIGURATIONS, VOCABULARY


def _small(config: Any, **changes: Any) -> Any:
    return config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, pad_token_id=0, **changes)


def _bert() -> nn.Module:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertLMHeadModel(_small(BertConfig, is_decoder=True, **sizes))


def _opt() -> nn.Module:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 8, "word_embed_proj_dim": 8}
    return OPTForCausalLM(_small(OPTConfig, **sizes))


def _headless_gpt2() -> nn.Module:
    return GPT2Model(_small(GPT2Config, n_embd=8, n_layer=1, n_head=2))


def _headless_llama() -> nn.Module:
    return LlamaModel(
        _small(LlamaConfig, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (
            _bert,
            r"model: family 'bert' is not supported; supported are gemma2, gemma3_text, gpt2, gpt_neox, gpt_oss, "
            r".*qwen3.* PlainTransformer",
        ),
        (_opt, r"model: family 'opt' is not supported; supported are gemma2, "),
        (lambda: nn.Linear(2, 2), r"model: family 'Linear' is not supported"),
        (
            _headless_gpt2,
            r"model: GPT2Model has no language-modelling head; load it with AutoModelForCausalLM, or let ",
        ),
        (_headless_llama, r"model: LlamaModel has no language-modelling head"),
    ],
)
def test_other_modules_are_refused(make, complaint: str):
    with pytest.raises(InputError, match=complaint) as caught:
        load(make().eval())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gpt2", "plain"])
def test_training_mode_is_refused(name: str):
    module = CONFIGURATIONS[name]().train()
    with pytest.raises(InputError, match=r"model: it is in training mode.*; call model.eval\(\) first$"):
        load(module)
    module.eval()
    next(each for each in module.modules() if isinstance(each, nn.LayerNorm | nn.ReLU)).train()
    with pytest.raises(InputError, match="training mode"):
        load(module)


class _Mine(LlamaForCausalLM):
    """What users write: a family's class with a change of their own."""


def test_a_subclass_is_of_its_family():
    module = CONFIGURATIONS["llama-gqa"]()
    mine = _Mine(module.config).eval()  # pyright: ignore[reportArgumentType]
    mine.load_state_dict(module.state_dict())
    assert load(mine).family == "llama"
