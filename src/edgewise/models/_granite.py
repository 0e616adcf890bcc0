"""Granite: a Llama with constants that multiply embeddings, attention's and MLPs' outputs, and divide logits.

The engine's residual stream is the module's, divided by the multiplier of outputs: so writers write what their modules
give. Norms do not see such a factor, but for their eps.
"""

from dataclasses import replace
from typing import Any

from edgewise.models import _llama
from edgewise.models._parts import Layer, Norm, Parts, frozen

MODEL_TYPES = ("granite",)


def parts(module: Any) -> Parts:
    """The parts of a `transformers` Granite with a language-modelling head."""
    config, usual, embed = module.config, _llama.parts(module), module.model.embed_tokens
    by = config.residual_multiplier

    def scaled(norm: Norm) -> Norm:
        own: Any = norm.module
        return replace(norm, module=lambda x: frozen(own)(x * by), eps=norm.eps / by**2)

    def layer(own: Layer) -> Layer:
        mlp = replace(own.mlp, norm=scaled(own.mlp.norm))
        return Layer(replace(own.attention, norm=scaled(own.attention.norm)), mlp)

    return replace(
        usual,
        layers=tuple(layer(own) for own in usual.layers),
        embed=lambda ids, positions: (embed(ids) * (config.embedding_multiplier / by),),
        final_norm=scaled(usual.final_norm),
        unembed=lambda x: usual.unembed(x) / config.logits_scaling,
    )
