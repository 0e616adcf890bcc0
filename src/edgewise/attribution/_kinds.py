"""What a graph is asked for: its settings, the prompt's tokens, and the kind of its nodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

import torch
from jaxtyping import Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._features import Features, by_layer
from edgewise.attribution._frozen import FrozenRun
from edgewise.attribution._nodes import Gate, Neurons, Nodes
from edgewise.models import Model, weights_hash
from edgewise.runs import Bound, Count, NotNegative, check_settings
from edgewise.tasks import Encoder

PATTERN_BYTES = 16 << 30
"""How much one layer's attention pattern may take, in float32."""


@dataclass(frozen=True)
class AttributionConfig:
    """How a graph is made."""

    max_nodes: Count = 5000
    """How many neurons or features get rows, the most influential first."""
    batch: Count = 512
    """How many of them between two rankings of the rest."""
    keep: Annotated[float, Bound(lambda x: 0 < x <= 1, "a share, above 0 and at most 1")] = 0.98
    """The share of each target's edges, by size, that is kept; the rest is only added up."""
    most_edges: Count = 10_000
    """How many edges a target keeps at most."""
    neurons_per_token: NotNegative = 0
    """How many neurons of a layer are nodes at each position, those that write most; what the rest writes is the
    layer's error. 0: all. Like `gate` of neurons alone."""
    gate: Gate = "half"
    """To which factor of a gated MLP a neuron's edges go: half of its value to each, or all to `up` or `gate`."""
    bos: bool | None = None
    """Whether the BOS token stands before a prompt that is a text, as circuit-tracer puts it; none: as the tokenizer
    does by itself. One that the text begins with is not doubled."""

    def __post_init__(self) -> None:
        """Check the values. Raises `InputError`."""
        check_settings("attribution", self)

    @staticmethod
    def of(settings: Mapping[str, Any]) -> "AttributionConfig":
        """From a graph's settings, which say more; what an earlier version did not know has its default."""
        known = {each.name for each in fields(AttributionConfig)} & set(settings)
        return AttributionConfig(**{name: settings[name] for name in known})


def token_ids(
    model: Model, prompt: str | Sequence[int] | Int[Tensor, " S"], bos: bool | None = None
) -> Int[Tensor, " S"]:
    """A prompt's tokens, as the tokenizer gives them; see `AttributionConfig.bos`.

    Raises:
        InputError: there is no tokenizer for a text, tokens are no row of whole numbers or not the model's, or there
            are fewer than two or more than the model or memory has room for.
    """
    if isinstance(prompt, str):
        if model.tokenizer is None:
            raise InputError("prompt: the model has no tokenizer; give token ids")
        prompt = Encoder.of(model.tokenizer, bos, stand_ins=("pad", "eos"))(prompt)  # circuit-tracer's order
    ids = _whole_numbers(prompt).to(model.device)
    config: Any = model.module.config
    n_tokens = int(config.vocab_size)
    if len(ids) < 2:
        raise InputError(f"prompt: {len(ids)} token; it needs two at least")
    if wrong := [each for each in (int(ids.min()), int(ids.max())) if not 0 <= each < n_tokens]:
        raise InputError(f"prompt: token {wrong[0]}; the model has tokens 0 to {n_tokens - 1}")
    most = model.parts.n_positions or getattr(config, "max_position_embeddings", None) or len(ids)
    if len(ids) > most:
        raise InputError(f"prompt: {len(ids):,} tokens; the model has {most:,} positions, so give at most that")
    if (size := 4 * model.parts.n_heads * len(ids) ** 2) > PATTERN_BYTES:
        raise InputError(
            f"prompt: {len(ids):,} tokens, for which one layer's attention pattern takes {size / 2**30:,.0f} GiB; give "
            f"at most {int((PATTERN_BYTES / 4 / model.parts.n_heads) ** 0.5):,}"
        )
    return ids


def _whole_numbers(prompt: Sequence[int] | Tensor) -> Int[Tensor, " S"]:
    """A row of them. Raises `InputError`."""
    try:
        ids = torch.as_tensor(prompt)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError("prompt: not a row of token ids; give whole numbers, or a text") from error
    if ids.ndim != 1:
        raise InputError(f"prompt: token ids of shape {list(ids.shape)}; give those of one prompt, as one row")
    if len(ids) and (ids.dtype == torch.bool or ids.is_floating_point() or ids.is_complex()):
        raise InputError(f"prompt: token ids of type {ids.dtype}; give whole numbers")
    return ids.long()


def nodes_of(run: FrozenRun, nodes: Any, config: AttributionConfig) -> Nodes:
    """The kind of nodes asked for. Raises `InputError` for another, or for settings that it does not have."""
    if isinstance(nodes, str):
        if nodes != "neurons":
            raise InputError(f"nodes {nodes!r}: give 'neurons', or transcoders")
        return Neurons(run, config.neurons_per_token or None, config.gate)
    default = AttributionConfig()
    for name in ("neurons_per_token", "gate"):
        if (given := getattr(config, name)) != getattr(default, name):
            raise InputError(f"{name} {given}: of neurons, and the nodes are transcoders' features; leave it out")
    return Features(run, by_layer(run.model, nodes))


def transcoder_records(nodes: Nodes) -> list[dict[str, Any]]:
    """What tells the transcoders of some nodes from others, in order of their layers."""
    found = nodes.transcoders.values() if isinstance(nodes, Features) else []
    return [
        {
            "reads": str(each.spec.reads),
            "activation": f"{each.activation}{'' if each.activation.rectified else ', signed'}",
            "exclude_special": each.spec.exclude_special,
            "weights_hash": weights_hash(each),
        }
        for each in found
    ]
