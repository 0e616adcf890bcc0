"""Llama-like models: RMS norms, rotary positions, gated MLP, grouped queries; with attention biases (Qwen2), query and
key norms (Qwen3), layers without rotary (SmolLM3), experts (Mixtral, Qwen3-MoE), or experts and sinks (gpt-oss).
"""

import importlib
from collections.abc import Sequence
from typing import Any

from edgewise.models._parts import Attention, Heads, Layer, Mlp, Norm, Parts, decoder_parts, detach, output_heads

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "mixtral", "qwen3_moe", "gpt_oss")


def parts(module: Any) -> Parts:
    """The parts of a `transformers` module of such a type with a language-modelling head (SmolLM2 and CodeLlama are
    Llamas).
    """
    config, rotary = module.config, module.model.rotary_emb

    def layer(block: Any) -> Layer:
        own, inner = block.self_attn, block.mlp
        attention = grouped_attention(
            config,
            own,
            Norm.rms(block.input_layernorm),
            # Noted on each attention module or, one for all layers, in the config alone (Mistral).
            window=getattr(own if hasattr(own, "sliding_window") else config, "sliding_window", None),
            rotary=rotary if getattr(own, "use_rope", True) else None,
            sinks=detach(getattr(own, "sinks", None)),
        )
        norm = Norm.rms(block.post_attention_layernorm)
        if hasattr(inner, "experts"):
            return Layer(attention, Mlp(norm, inner, routing="frozen"))
        return Layer(attention, Mlp.linear(norm, inner, inner.up_proj, inner.down_proj, inner.act_fn, inner.gate_proj))

    return decoder_parts(module, layer)


def grouped_attention(config: Any, own: Any, norm: Norm, heads: Sequence[Heads] = (), **more: Any) -> Attention:
    """The parts of an attention module as Llama and its kin have it.

    Args:
        config: the model's.
        own: the attention module.
        norm: before it.
        heads: queries, keys and values, where it has no `q_proj`, `k_proj` and `v_proj`.
        **more: what a family has besides, or otherwise.
    """
    n_heads, n_keys = config.num_attention_heads, config.num_key_value_heads
    projections = () if heads else ((own.q_proj, n_heads), (own.k_proj, n_keys), (own.v_proj, n_keys))
    query, key, value = heads or [Heads.linear(*each) for each in projections]
    usual = {
        "query_norm": getattr(own, "q_norm", None),
        "key_norm": getattr(own, "k_norm", None),
        # Each family's own rotary function, so that one that transformers changes is changed here.
        "rotate": importlib.import_module(type(own).__module__).apply_rotary_pos_emb,
    }
    return Attention(
        norm,
        query,
        key,
        value,
        output_heads(own.o_proj, n_heads),
        detach(own.o_proj.bias),
        scale=own.scaling,
        **(usual | more),
    )
