"""Tiny random models of every supported configuration, in memory or in a folder, and batches of random prompts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Olmo3Config,
    Olmo3ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)
from transformers.masking_utils import eager_mask

from edgewise import InputError
from edgewise.models import Model, PlainConfig, PlainTransformer, Tokens, load, register_family
from tests.models.own_family import TwistedModel, twisted_parts

VOCABULARY = 50

_SPECIAL: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0}
_LLAMA: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    **_SPECIAL,
}


def _gpt2(**changes) -> nn.Module:
    shape: dict[str, Any] = {"n_positions": 64, "n_embd": 32, "n_layer": 3, "n_head": 4, **_SPECIAL}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **(shape | changes)))


def _llama(kind: Any = LlamaForCausalLM, config: Any = LlamaConfig, **changes) -> nn.Module:
    return kind(config(**(_LLAMA | {"num_key_value_heads": 2} | changes)))


def _neox(**changes) -> nn.Module:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    config: dict[str, Any] = _LLAMA | {"rope_parameters": rope} | changes
    return GPTNeoXForCausalLM(GPTNeoXConfig(**config))


def _plain(**changes) -> nn.Module:
    shape: dict[str, Any] = {"n_positions": 16, "n_layers": 2, "n_heads": 2, "d_model": 24, "d_head": 6, "d_mlp": 20}
    return PlainTransformer(PlainConfig(VOCABULARY, **(shape | changes)))


def _qwen2_window() -> nn.Module:
    window = {
        "use_sliding_window": True,
        "sliding_window": 3,
        "max_window_layers": 1,
    }  # full in layer 0, windowed after it
    return _llama(Qwen2ForCausalLM, Qwen2Config, **window)


def _llama_scaled_rope() -> nn.Module:
    rope = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 8}
    return _llama(rope_parameters=rope, max_position_embeddings=32, num_hidden_layers=2)


def _gemma(kind: Any, config: Any, **changes) -> nn.Module:
    """Every second layer sees three tokens back; scores are scaled by another number than the heads' width."""
    sizes = {"num_key_value_heads": 2, "head_dim": 10, "query_pre_attn_scalar": 7}
    return kind(config(**(_LLAMA | sizes | _BY_TURNS | changes)))


_SHORT = {"num_hidden_layers": 2}
_BASES = {"sliding_attention": 7.0, "full_attention": 100.0}
_ROPE_BY_KIND = {kind: {"rope_type": "default", "rope_theta": base} for kind, base in _BASES.items()}
_BY_TURNS = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 3}


def _phi3(**changes) -> nn.Module:
    rope = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
    own: dict[str, Any] = {"rope_parameters": rope, "sliding_window": 4, "pad_token_id": 0}
    return _llama(Phi3ForCausalLM, Phi3Config, **(own | _SHORT | changes))


def _granite() -> nn.Module:
    constants = {"embedding_multiplier": 3.0, "residual_multiplier": 0.3, "logits_scaling": 2.0}
    return _llama(GraniteForCausalLM, GraniteConfig, attention_multiplier=0.2, **constants, **_SHORT)


def _gpt_oss() -> nn.Module:
    rope = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 10, "intermediate_size": 12}
    return _llama(GptOssForCausalLM, GptOssConfig, rope_parameters=rope, **experts, **_BY_TURNS)


def _qwen3_moe() -> nn.Module:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12, "mlp_only_layers": [1]}
    return _llama(Qwen3MoeForCausalLM, Qwen3MoeConfig, head_dim=10, norm_topk_prob=True, **experts, **_SHORT)


register_family("twisted", ["twisted"], twisted_parts)

CONFIGURATIONS: dict[str, Callable[[], nn.Module]] = {
    "gpt2": _gpt2,
    "gpt2-untied": lambda: _gpt2(tie_word_embeddings=False, n_layer=2),
    "gpt2-scaled": lambda: _gpt2(scale_attn_by_inverse_layer_idx=True, activation_function="relu"),
    "llama-mha": lambda: _llama(num_key_value_heads=4, num_hidden_layers=2),
    "llama-gqa": _llama,
    "llama-mqa": lambda: _llama(num_key_value_heads=1, tie_word_embeddings=True, num_hidden_layers=2),
    "llama-biases": lambda: _llama(attention_bias=True, mlp_bias=True),
    "llama-head-dim": lambda: _llama(head_dim=12, num_hidden_layers=2),
    "llama-yarn": _llama_scaled_rope,
    "mistral-window": lambda: _llama(MistralForCausalLM, MistralConfig, sliding_window=4, num_hidden_layers=2),
    "qwen2": lambda: _llama(Qwen2ForCausalLM, Qwen2Config, tie_word_embeddings=True, num_hidden_layers=2),
    "qwen2-window": _qwen2_window,
    "qwen3": lambda: _llama(Qwen3ForCausalLM, Qwen3Config, head_dim=10, num_hidden_layers=2),
    "neox-parallel": _neox,
    "neox-sequential": lambda: _neox(use_parallel_residual=False, num_hidden_layers=2),
    "neox-no-bias": lambda: _neox(attention_bias=False, tie_word_embeddings=True, num_hidden_layers=2),
    "gemma2": lambda: _gemma(Gemma2ForCausalLM, Gemma2Config, attn_logit_softcapping=4.0, final_logit_softcapping=3.0),
    "gemma3": lambda: _gemma(Gemma3ForCausalLM, Gemma3TextConfig, rope_parameters=_ROPE_BY_KIND),
    "olmo2": lambda: _llama(Olmo2ForCausalLM, Olmo2Config, **_SHORT),
    "olmo3": lambda: _llama(Olmo3ForCausalLM, Olmo3Config, rope_parameters=_ROPE_BY_KIND, **_BY_TURNS),
    "phi3": _phi3,
    "smollm3": lambda: _llama(
        SmolLM3ForCausalLM, SmolLM3Config, no_rope_layers=[0, 1], pad_token_id=0, num_hidden_layers=2
    ),
    "mixtral": lambda: _llama(
        MixtralForCausalLM, MixtralConfig, num_local_experts=4, intermediate_size=12, num_hidden_layers=2
    ),
    "qwen3-moe": _qwen3_moe,
    "gpt-oss": _gpt_oss,
    "granite": _granite,
    "twisted": lambda: TwistedModel(VOCABULARY),
    "plain": _plain,
    "plain-bidirectional": lambda: _plain(causal=False),
    "plain-norm": lambda: _plain(norm="layer", activation="gelu", d_out=7),
}

ONE_OF_EACH = ("gpt2", "llama-gqa", "neox-parallel", "plain-bidirectional", "twisted")
"""For each way that the engine's code goes: layer, RMS or no norm; gate or none; grouped; parallel; causal or not; and
post-norms, soft-cap, gains of `1 + w`, rotary of each layer's own, window, query and key norms all at once."""


def random_model(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Model:
    """A tiny model with random weights, biases and norm gains, so that no term is hidden by being zero or one."""
    torch.manual_seed(seed)
    module = CONFIGURATIONS[name]().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            spread, centre = (0.3, 0.0) if parameter.ndim > 1 else (0.5, 0.5)
            parameter.copy_(torch.randn_like(parameter) * spread + centre)
    if dtype == torch.float64:
        all_in_double(module)
    return load(module.to(dtype))


@cache
def tiny(name: str, dtype: torch.dtype = torch.float64) -> Model:
    """`random_model`, made once for all tests that only read it."""
    return random_model(name, dtype)


def word_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A token for each of these words, in their order after `[UNK]`."""
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(["[UNK]", *words]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def save_gpt2(folder: Path, tokenizer: PreTrainedTokenizerFast, n_positions: int) -> None:
    """A random GPT-2 of two layers with its tokenizer, as `save_pretrained` leaves them."""
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape: dict[str, Any] = {"n_positions": n_positions, "n_embd": 16, "n_layer": 2, "n_head": 2, **_SPECIAL}
    module = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **shape))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    module.save_pretrained(folder)


def all_in_double(module: nn.Module) -> None:
    """Let RMS norms and soft-capped attention compute in float64: transformers' own round to float32, which would hide
    errors below 1e-7.
    """
    norms: Iterator[Any] = module.modules()
    for norm in norms:
        if hasattr(norm, "variance_epsilon"):
            norm.forward = lambda x, n=norm: n.weight * _scaled(x, n.variance_epsilon)
        elif type(norm).__name__ in ("MixtralTopKRouter", "Qwen3MoeTopKRouter"):
            norm.forward = lambda x, n=norm: _routed(n, x)
        elif type(norm).__name__ in ("Gemma2RMSNorm", "Gemma3RMSNorm"):
            norm.forward = lambda x, n=norm: (1 + n.weight) * _scaled(x, n.eps)
    if isinstance(module, Gemma2ForCausalLM):
        module.set_attn_implementation("in_double")
    if isinstance(module, MixtralForCausalLM | Qwen3MoeForCausalLM | GptOssForCausalLM):
        module.set_experts_implementation("eager")  # PyTorch's grouped products take no float64


def _routed(router: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logits = x @ router.weight.T
    weights, chosen = logits.softmax(-1).topk(router.top_k)
    return logits, weights / weights.sum(-1, keepdim=True), chosen


def _scaled(x: Tensor, eps: float) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt()


def _attention_in_double(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    softcap: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Transformers' "eager", which takes the softmax in float32."""
    key, value = (x.repeat_interleave(module.num_key_value_groups, 1) for x in (key, value))
    logits = (query @ key.transpose(2, 3) * scaling / softcap).tanh() * softcap
    logits = logits if mask is None else logits + mask
    return (logits.softmax(-1) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register("in_double", _attention_in_double)
AttentionMaskInterface.register("in_double", eager_mask)


# -------------------------------------------------------------------------------------------------------------- batches


def random_numbers(*shape: int) -> Tensor:
    """Standard normal numbers, the same in every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@dataclass(frozen=True)
class Prompt:
    """A pair of random prompts, without padding."""

    clean: Int[Tensor, " S"]
    corrupted: Int[Tensor, " S"]
    groups: Int[Tensor, " S"]
    targets: tuple[int, ...]
    """Tokens whose predictions are judged."""


@dataclass(frozen=True)
class Batch:
    """What the engine reads of a batch."""

    clean: Tokens
    corrupted: Tokens
    row: Int[Tensor, " A"]
    position: Int[Tensor, " A"]
    span_id: Int[Tensor, "B S"] | None
    align: Int[Tensor, "B S"] | None = None


def draw_prompts(lengths: Sequence[int] = (6, 3, 5), n_groups: int = 2, seed: int = 0) -> list[Prompt]:
    """Random prompts of these lengths; the last token is a target, and of at least four tokens another one is too."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int, n: int) -> Tensor:
        return torch.randint(high, (n,), generator=generator)

    return [
        Prompt(draw(VOCABULARY, n), draw(VOCABULARY, n), draw(n_groups, n), (n - 1, n // 2) if n > 3 else (n - 1,))
        for n in lengths
    ]


def collate(prompts: Sequence[Prompt], side: Literal["left", "right", "both"] = "right", extra: int = 0) -> Batch:
    """A batch of these prompts, padded with nonsense (ids and groups) on a side, `extra` columns more than needed."""
    width = max(len(p.clean) for p in prompts) + extra
    spare = [width - len(p.clean) for p in prompts]
    starts = [{"right": 0, "left": n, "both": n // 2}[side] for n in spare]

    def grid(rows: list[Tensor], padding: int) -> Tensor:
        out = torch.full((len(prompts), width), padding)
        for b, row in enumerate(rows):
            out[b, starts[b] : starts[b] + len(row)] = row
        return out

    mask = grid([torch.ones_like(p.clean) for p in prompts], 0).bool()
    return Batch(
        Tokens(grid([p.clean for p in prompts], -100), mask),
        Tokens(grid([p.corrupted for p in prompts], -100), mask),
        torch.tensor([b for b, p in enumerate(prompts) for _ in p.targets]),
        torch.tensor([starts[b] + t for b, p in enumerate(prompts) for t in p.targets]),
        grid([p.groups for p in prompts], -9),
    )


@torch.no_grad()
def own_logits(
    model: Model, prompts: Sequence[Prompt], which: Literal["clean", "corrupted"] = "clean"
) -> Float[Tensor, "A V"]:
    """What the user's module itself says at the targets, prompt by prompt and without padding."""
    return torch.cat([model.module(input_ids=getattr(p, which)[None]).logits[0, list(p.targets)] for p in prompts])


# -------------------------------------------------------------------------------------------------------- refused calls


def refused(call: Callable[[], Any]) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ends(found: Any) -> tuple[float, float]:
    """An interval's ends, which it has."""
    assert found.low is not None and found.high is not None
    return found.low, found.high
