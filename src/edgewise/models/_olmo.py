"""OLMo 2 and 3: no norms before attention and MLP, one after each, and one over all queries and one over all keys of a
layer; OLMo 3 has sliding and full layers by turns.
"""

from functools import partial
from typing import Any

from edgewise.models._llama import grouped_attention
from edgewise.models._parts import Layer, Mlp, Norm, Parts, decoder_parts

MODEL_TYPES = ("olmo2", "olmo3")


def parts(module: Any) -> Parts:
    """The parts of a `transformers` OLMo 2 or 3 with a language-modelling head."""
    model, config = module.model, module.config
    rotary: dict[str | None, Any] = {None: model.rotary_emb}
    for kind in set(getattr(config, "layer_types", None) or ()):  # one function each, which its layers share
        rotary[kind] = partial(model.rotary_emb, layer_type=kind)

    def layer(block: Any) -> Layer:
        own, inner = block.self_attn, block.mlp
        attention = grouped_attention(
            config,
            own,
            Norm.none(),
            window=getattr(own, "sliding_window", None),
            query_norm=Norm.rms(own.q_norm),
            key_norm=Norm.rms(own.k_norm),
            rotary=rotary[getattr(own, "attention_type", None)],
            post_norm=Norm.rms(block.post_attention_layernorm),
        )
        post_norm = Norm.rms(block.post_feedforward_layernorm)
        mlp = Mlp.linear(Norm.none(), inner, inner.up_proj, inner.down_proj, inner.act_fn, inner.gate_proj, post_norm)
        return Layer(attention, mlp)

    return decoder_parts(module, layer)
