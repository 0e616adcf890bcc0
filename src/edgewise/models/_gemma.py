"""Gemma 2 and 3: norms whose gain is `1 + w`, before and after attention and MLP; sliding and full layers by turns;
soft-capped attention and logits (Gemma 2), or query and key norms and a rotary base for each kind of layer (Gemma 3).
"""

import importlib
from functools import partial
from typing import Any

from torch import Tensor

from edgewise._errors import InputError
from edgewise.models._parts import Attention, Heads, Layer, Mlp, Norm, Parts, detach, frozen_linear, output_heads

MODEL_TYPES = ("gemma2", "gemma3_text")


def parts(module: Any) -> Parts:
    """The parts of a `transformers` Gemma 2, or of the text model of a Gemma 3, with a language-modelling head.

    Raises:
        InputError: its attention looks ahead, or has an output bias.
    """
    model, config = module.model, module.config
    if getattr(config, "use_bidirectional_attention", None):
        raise InputError("model: its attention looks ahead (use_bidirectional_attention); give a causal Gemma")
    rotate = importlib.import_module(type(model).__module__).apply_rotary_pos_emb
    rotary = _rotary(model)

    def attention(block: Any) -> Attention:
        attend, keys = block.self_attn, config.num_key_value_heads
        return Attention(
            Norm.rms(block.input_layernorm, plus_one=True),
            Heads.linear(attend.q_proj, config.num_attention_heads),
            Heads.linear(attend.k_proj, keys),
            Heads.linear(attend.v_proj, keys),
            output_heads(attend.o_proj, config.num_attention_heads),
            detach(attend.o_proj.bias),
            scale=attend.scaling,
            window=attend.sliding_window,
            query_norm=getattr(attend, "q_norm", None),
            key_norm=getattr(attend, "k_norm", None),
            rotate=rotate,
            rotary=rotary[attend.layer_type],
            softcap=_softcap(config),
            post_norm=Norm.rms(block.post_attention_layernorm, plus_one=True),
        )

    def mlp(block: Any) -> Mlp:
        norm, inner = Norm.rms(block.pre_feedforward_layernorm, plus_one=True), block.mlp
        post_norm = Norm.rms(block.post_feedforward_layernorm, plus_one=True)
        return Mlp.linear(norm, inner, inner.up_proj, inner.down_proj, inner.act_fn, inner.gate_proj, post_norm)

    unembed = frozen_linear(module.lm_head)

    def capped(x: Tensor) -> Tensor:
        cap = config.final_logit_softcapping
        return unembed(x) if cap is None else (unembed(x) / cap).tanh() * cap

    return Parts(
        layers=tuple(Layer(attention(block), mlp(block)) for block in model.layers),
        embed=lambda ids, positions: (model.embed_tokens(ids),),  # scaled by the module itself
        final_norm=Norm.rms(model.norm, plus_one=True),
        unembed=capped,
        hidden=lambda ids, mask, positions: (
            model(input_ids=ids, attention_mask=mask.long(), position_ids=positions, use_cache=False).last_hidden_state
        ),
        modules=(module,),
    )


def _rotary(model: Any) -> dict[str, Any]:
    """One function for each kind of layer, so that layers of a kind share its cosines and sines."""
    kinds = set(model.config.layer_types)
    if model.config.model_type == "gemma2":  # one base for all
        return dict.fromkeys(kinds, model.rotary_emb)
    return {kind: partial(model.rotary_emb, layer_type=kind) for kind in kinds}


def _softcap(config: Any) -> float | None:
    # Gemma 3's configuration has the field, but its attention never reads it.
    return config.attn_logit_softcapping if config.model_type == "gemma2" else None
