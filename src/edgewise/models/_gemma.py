"""Gemma 2 and 3: norms whose gain is `1 + w`, before and after attention and MLP; sliding and full layers by turns;
soft-capped attention and logits (Gemma 2), or query and key norms and a rotary base for each kind of layer (Gemma 3).
"""

from functools import partial
from typing import Any

from torch import Tensor

from edgewise._errors import InputError
from edgewise.models._llama import grouped_attention
from edgewise.models._parts import Layer, Mlp, Norm, Parts, decoder_parts, frozen_linear

MODEL_TYPES = ("gemma2", "gemma3_text")


def parts(module: Any) -> Parts:
    """The parts of a `transformers` Gemma 2, or of the text model of a Gemma 3, with a language-modelling head.

    Raises:
        InputError: its attention looks ahead, or has an output bias.
    """
    model, config = module.model, module.config
    if getattr(config, "use_bidirectional_attention", None):
        raise InputError("model: its attention looks ahead (use_bidirectional_attention); give a causal Gemma")
    rotary = _rotary(model)

    def layer(block: Any) -> Layer:
        own = block.self_attn
        attention = grouped_attention(
            config,
            own,
            Norm.rms(block.input_layernorm, plus_one=True),
            window=own.sliding_window,
            rotary=rotary[own.layer_type],
            softcap=_softcap(config),
            post_norm=Norm.rms(block.post_attention_layernorm, plus_one=True),
        )
        norm, inner = Norm.rms(block.pre_feedforward_layernorm, plus_one=True), block.mlp
        post_norm = Norm.rms(block.post_feedforward_layernorm, plus_one=True)
        mlp = Mlp.linear(norm, inner, inner.up_proj, inner.down_proj, inner.act_fn, inner.gate_proj, post_norm)
        return Layer(attention, mlp)

    unembed = frozen_linear(module.lm_head)

    def capped(x: Tensor) -> Tensor:
        cap = config.final_logit_softcapping
        return unembed(x) if cap is None else (unembed(x) / cap).tanh() * cap

    return decoder_parts(module, layer, final_norm=Norm.rms(model.norm, plus_one=True), unembed=capped)


def _rotary(model: Any) -> dict[str, Any]:
    """One function for each kind of layer, so that layers of a kind share its cosines and sines."""
    kinds = set(model.config.layer_types)
    if model.config.model_type == "gemma2":  # one base for all
        return dict.fromkeys(kinds, model.rotary_emb)
    return {kind: partial(model.rotary_emb, layer_type=kind) for kind in kinds}


def _softcap(config: Any) -> float | None:
    # Gemma 3's configuration has the field, but its attention never reads it.
    return config.attn_logit_softcapping if config.model_type == "gemma2" else None
