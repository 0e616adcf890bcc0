"""GPT-NeoX and Pythia: layer norms, fused query-key-value interleaved by head, partial rotary, parallel attention and
MLP.
"""

import importlib
from typing import Any

from edgewise.models._parts import (
    Attention,
    Heads,
    Layer,
    Mlp,
    Norm,
    Parts,
    before_scaling,
    detach,
    frozen_linear,
    output_heads,
)

MODEL_TYPES = ("gpt_neox",)


def parts(module: Any) -> Parts:
    """The parts of a `transformers` GPT-NeoX with a language-modelling head."""
    model, config = module.gpt_neox, module.config
    n_heads, d_model = config.num_attention_heads, config.hidden_size
    rotate = importlib.import_module(type(model.layers[0].attention).__module__).apply_rotary_pos_emb

    def attention(block: Any) -> Attention:
        fused, dense = block.attention.query_key_value, block.attention.dense
        weight = fused.weight.detach().view(n_heads, 3, -1, d_model)  # (H, qkv, k, D)
        bias = None if fused.bias is None else fused.bias.detach().view(n_heads, 3, -1)
        query, key, value = (
            Heads(weight[:, i].transpose(1, 2), None if bias is None else bias[:, i]) for i in range(3)
        )
        return Attention(
            Norm.layer(block.input_layernorm),
            query,
            key,
            value,
            output_heads(dense, n_heads),
            detach(dense.bias),
            scale=block.attention.scaling,
            rotate=rotate,
            rotary=model.rotary_emb,
        )

    def mlp(block: Any) -> Mlp:
        inner = block.mlp
        norm = Norm.layer(block.post_attention_layernorm)
        return Mlp.linear(norm, inner, inner.dense_h_to_4h, inner.dense_4h_to_h, inner.act)

    return Parts(
        layers=tuple(Layer(attention(block), mlp(block)) for block in model.layers),
        embed=lambda ids, positions: (model.embed_in(ids),),
        final_norm=Norm.layer(model.final_layer_norm),
        unembed=frozen_linear(module.lm_head),
        hidden=Parts.hidden_of(model),
        parallel=config.use_parallel_residual,
        modules=(module,),
        n_positions=before_scaling(config),
    )
