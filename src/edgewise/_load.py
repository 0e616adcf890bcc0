"""Loading a model, checked."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgewise import engine
from edgewise.models import Model, Offload, Routing, load


def load_model(
    model: str | Path | nn.Module,
    tokenizer: Any = None,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    revision: str | None = None,
    routing: Routing = "frozen",
    offload: Offload | None = None,
) -> Model:
    """Load a model, find its parts, and check that the engine reproduces it.

    Args:
        model: `smollm2-135m`, a hub id, a directory written by `save_pretrained`, a GGUF file (converted to float32
            once, into the cache), or a module of a supported family that is already in memory (it is used as it is and
            never changed).
        tokenizer: its tokenizer; needed for a module in memory to make tasks, otherwise loaded with the model.
        dtype: type of the weights; as stored if None (float32 for the default model).
        device: where to put them.
        revision: of a hub model.
        routing: of experts: whether gradients take how much a token takes of each of its experts as a constant
            (`frozen`) or go through it (`differentiated`). Results say which.
        offload: for a model larger than memory: `disk` leaves layers' weights in their safetensors files and `cpu` in
            main memory (for a GPU); each layer comes to the device when it is run. The numbers are the same; see
            docs/scale.md.

    Returns:
        The model, accepted: on short random prompts, with all masks 1 the engine gives its logits, with all masks 0 the
        ablated run's, in float32 to 1e-5 of the largest logit or a few times the module's own round-off. Attention
        windows of up to 254 tokens are tried too (see `engine.check`).

    Raises:
        edgewise.InputError: it cannot be loaded, its family is not supported, or the engine does not reproduce it.
    """
    loaded = load(model, tokenizer, dtype=dtype, device=device, revision=revision, routing=routing, offload=offload)
    engine.require(loaded)
    return loaded
