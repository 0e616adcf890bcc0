"""Phi-3 and Phi-4-mini: as a Llama, with queries, keys and values in one matrix, gate and up in another, and rotary
positions on a part of each head.
"""

from typing import Any

from edgewise.models._llama import grouped_attention
from edgewise.models._parts import Heads, Layer, Mlp, Norm, Parts, decoder_parts, fast_activation

MODEL_TYPES = ("phi3",)


def parts(module: Any) -> Parts:
    """The parts of a `transformers` Phi-3 with a language-modelling head."""
    config, rotary = module.config, module.model.rotary_emb
    sizes = [config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads]

    def layer(block: Any) -> Layer:
        own, inner, norm = block.self_attn, block.mlp, Norm.rms(block.input_layernorm)
        heads = [Heads(weight) for weight in Heads.linear(own.qkv_proj, sum(sizes)).weight.split(sizes)]
        attention = grouped_attention(config, own, norm, heads, window=config.sliding_window, rotary=rotary)
        gate, up = inner.gate_up_proj.weight.detach().T.chunk(2, 1)
        down, activation = inner.down_proj.weight.detach().T, fast_activation(inner.activation_fn)
        norm = Norm.rms(block.post_attention_layernorm)
        return Layer(attention, Mlp(norm, inner, up, None, down, None, activation, gate))

    return decoder_parts(module, layer)
