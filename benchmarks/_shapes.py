"""Models of real sizes with random weights: enough to measure time and memory, which do not depend on the values."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

SHAPES = {
    "gpt2": lambda: GPT2Config(),
    "smollm2": lambda: LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
    ),
    "tiny": lambda: GPT2Config(vocab_size=1000, n_embd=64, n_layer=3, n_head=4),
    "llama-1.4b": lambda: LlamaConfig(
        hidden_size=2048, intermediate_size=5504, num_hidden_layers=24, num_attention_heads=16, num_key_value_heads=16
    ),
    "llama-7b": lambda: LlamaConfig(),
    "codellama-13b": lambda: LlamaConfig(
        vocab_size=32016,
        hidden_size=5120,
        intermediate_size=13824,
        num_hidden_layers=40,
        num_attention_heads=40,
        num_key_value_heads=40,
    ),
}


def random_weights(config: PretrainedConfig, dtype: torch.dtype = torch.float32, device: str = "cpu") -> nn.Module:
    """A model of a shape with random weights, frozen, in evaluation mode."""
    torch.manual_seed(0)
    kind = GPT2LMHeadModel if isinstance(config, GPT2Config) else LlamaForCausalLM
    with torch.device(device):
        module = kind._from_config(config, dtype=dtype)  # made in that type: in float32 a large one would not fit
    return module.eval().requires_grad_(False)


def save_tokenizer(folder: Path) -> None:
    """A tokenizer of one word, for random models that are loaded from a folder."""
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a"))).save_pretrained(folder)
