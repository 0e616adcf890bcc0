"""GPT-2: layer norms, learned positions, fused query-key-value, `Conv1D` weights stored input-first."""

from typing import Any

from edgewise.models._parts import Attention, Heads, Layer, Mlp, Norm, Parts, detach, fast_activation, frozen_linear

MODEL_TYPES = ("gpt2",)


def parts(module: Any) -> Parts:
    """The parts of a `transformers` GPT-2 with a language-modelling head."""
    model, config = module.transformer, module.config

    def attention(block: Any) -> Attention:
        attend = block.attn
        weight, bias = attend.c_attn.weight.detach(), attend.c_attn.bias.detach()
        query, key, value = (
            Heads(w.view(config.n_embd, config.n_head, -1).transpose(0, 1), b.view(config.n_head, -1))
            for w, b in zip(weight.split(config.n_embd, 1), bias.split(config.n_embd), strict=True)
        )
        output = attend.c_proj.weight.detach().view(config.n_head, -1, config.n_embd)  # (H, v, D)
        return Attention(
            Norm.layer(block.ln_1), query, key, value, output, detach(attend.c_proj.bias), scale=attend.scaling
        )

    def mlp(block: Any) -> Mlp:
        up, down = block.mlp.c_fc, block.mlp.c_proj
        return Mlp(
            Norm.layer(block.ln_2),
            block.mlp,
            up.weight.detach(),
            detach(up.bias),
            down.weight.detach(),
            detach(down.bias),
            fast_activation(block.mlp.act),
        )

    return Parts(
        layers=tuple(Layer(attention(block), mlp(block)) for block in model.h),
        embed=lambda ids, positions: (model.wte(ids), model.wpe(positions)),
        final_norm=Norm.layer(model.ln_f),
        unembed=frozen_linear(module.lm_head),
        hidden=Parts.hidden_of(model),
        n_embeddings=2,
        n_positions=model.wpe.num_embeddings,
        modules=(module,),
    )
