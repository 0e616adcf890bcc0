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
    # Each family's own rotary function, so that one that transformers changes is changed here.
    rotate = importlib.import_module(type(model.layers[0].self_attn).__module__).apply_rotary_pos_emb

    def attention(block: Any) -> Attention:
        attend, keys = block.self_attn, config.num_key_value_heads
        return Attention(
            Norm.rms(block.input_layernorm),
            Heads.linear(attend.q_proj, config.num_attention_heads),
            Heads.linear(attend.k_proj, keys),
            Heads.linear(attend.v_proj, keys),
            output_heads(attend.o_proj, config.num_attention_heads),
            detach(attend.o_proj.bias),
            scale=attend.scaling,
            window=_window(config, attend),
            query_norm=getattr(attend, "q_norm", None),
            key_norm=getattr(attend, "k_norm", None),
            rotate=rotate,
            rotary=model.rotary_emb,
        )

    def mlp(block: Any) -> Mlp:
        inner = block.mlp
        norm = Norm.rms(block.post_attention_layernorm)
        return Mlp.linear(norm, inner, inner.up_proj, inner.down_proj, inner.act_fn, inner.gate_proj)

    return Parts(
        layers=tuple(Layer(attention(block), mlp(block)) for block in model.layers),
        embed=lambda ids, positions: (model.embed_tokens(ids),),
        final_norm=Norm.rms(model.norm),
        unembed=frozen_linear(module.lm_head),
        hidden=lambda ids, mask, positions: (
            model(input_ids=ids, attention_mask=mask.long(), position_ids=positions, use_cache=False).last_hidden_state
        ),
        modules=(module,),
    )


def _window(config: Any, attend: Any) -> int | None:
    # Qwen2 and Qwen3 decide per layer and note it on the attention module; Mistral has one window for all layers in its
    # config.
    if hasattr(attend, "sliding_window"):
        return attend.sliding_window
    return getattr(config, "sliding_window", None)
