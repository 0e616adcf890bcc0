"""Llama-like models: RMS norms, rotary positions, gated MLP, grouped queries; with attention biases (Qwen2), or query
and key norms (Qwen3).
"""

import importlib
from typing import Any

from edgewise.models._parts import Attention, Heads, Layer, Mlp, Norm, Parts, detach, frozen_linear, output_heads

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


def parts(module: Any) -> Parts:
    """The parts of a `transformers` Llama, Mistral, Qwen2 or Qwen3 with a language-modelling head (SmolLM2 and
    CodeLlama are Llamas).
    """
    model, config = module.model, module.config

    def attention(block: Any) -> Attention:
        own, norm = block.self_attn, Norm.rms(block.input_layernorm)
        return grouped_attention(config, own, norm, window=_window(config, own), rotary=model.rotary_emb)

    def mlp(block: Any) -> Mlp:
        inner = block.mlp
        norm = Norm.rms(block.post_attention_layernorm)
        return Mlp.linear(norm, inner, inner.up_proj, inner.down_proj, inner.act_fn, inner.gate_proj)

    return Parts(
        layers=tuple(Layer(attention(block), mlp(block)) for block in model.layers),
        embed=lambda ids, positions: (model.embed_tokens(ids),),
        final_norm=Norm.rms(model.norm),
        unembed=frozen_linear(module.lm_head),
        hidden=Parts.hidden_of(model),
        modules=(module,),
    )


def grouped_attention(config: Any, own: Any, norm: Norm, **more: Any) -> Attention:
    """The parts of an attention module as Llama and its kin have it, with what a family has besides."""
    n_heads, n_keys = config.num_attention_heads, config.num_key_value_heads
    return Attention(
        norm,
        Heads.linear(own.q_proj, n_heads),
        Heads.linear(own.k_proj, n_keys),
        Heads.linear(own.v_proj, n_keys),
        output_heads(own.o_proj, n_heads),
        detach(own.o_proj.bias),
        scale=own.scaling,
        query_norm=getattr(own, "q_norm", None),
        key_norm=getattr(own, "k_norm", None),
        # Each family's own rotary function, so that one that transformers changes is changed here.
        rotate=importlib.import_module(type(own).__module__).apply_rotary_pos_emb,
        **more,
    )


def _window(config: Any, attend: Any) -> int | None:
    # Qwen2 and Qwen3 decide per layer and note it on the attention module; Mistral has one window for all layers in its
    # config.
    if hasattr(attend, "sliding_window"):
        return attend.sliding_window
    return getattr(config, "sliding_window", None)
