"""What a GGUF file says of its model's arithmetic, held against the configuration that was made of it.

A reader of such files takes the keys that it knows and passes over the rest, without a word: a window, a scale or a
soft-cap would be lost.
"""

from collections.abc import Mapping
from math import isclose
from pathlib import Path
from typing import Any

from edgewise._errors import InputError

_CONFIGURED: dict[str, tuple[str, ...]] = {
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.sliding_window": ("sliding_window",),
    "attention.scale": ("attention_multiplier",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "logit_scale": ("logits_scaling", "logit_scale"),
    "residual_scale": ("residual_multiplier",),
    "embedding_scale": ("embedding_multiplier",),
    "expert_count": ("num_experts", "num_local_experts"),
    "expert_used_count": ("num_experts_per_tok",),
}
"""By key under the architecture's name, where a configuration of transformers has it."""
_ABSENT: dict[str, tuple[Any, ...]] = {
    "attention.sliding_window": (0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "logit_scale": (1.0,),
    "residual_scale": (1.0,),
    "embedding_scale": (1.0,),
}
"""Values with which a key says no more than its absence."""
_NONE: dict[str, tuple[Any, ...]] = {
    "rope.scaling.type": ("none",),
    "rope.scale_linear": (1.0,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.causal": (True,),
}
"""Keys that no configuration here has, and the values with which they change nothing."""


def check(path: Path, architecture: str, fields: Mapping[str, Any], config: Any) -> None:
    """Refuse a file of which a configuration has lost something that changes numbers.

    Args:
        path: the file, for messages.
        architecture: its `general.architecture`.
        fields: its keys and values.
        config: the configuration of `transformers`.

    Raises:
        InputError: a key's value is not the configuration's.
    """
    for key in (*_NONE, *_CONFIGURED):
        value = fields.get(f"{architecture}.{key}")
        if value is None or any(_same(value, each) for each in (*_NONE.get(key, ()), *_ABSENT.get(key, ()))):
            continue
        if key == "rope.scaling.type" and getattr(config, "rope_parameters", {}).get("rope_type") == value:
            continue
        if not any(_same(value, getattr(config, name, None)) for name in _CONFIGURED.get(key, ())):
            raise InputError(
                f"{path}: its {architecture}.{key} ({str(value)[:40]}) would be lost; give the model's own folder or "
                "hub id"
            )


def _same(value: Any, other: Any) -> bool:
    """Equal, numbers as float32 has them."""
    if isinstance(value, int | float) and isinstance(other, int | float):
        return isclose(value, other, rel_tol=1e-6)
    return value == other
