"""What one training step needs in memory and operations, from sizes alone.

Counted for the worst case: every mask fractional, so that nothing is skipped or shared.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from edgewise._errors import InputError
from edgewise.engine._execution import Execution
from edgewise.engine._group import layers_together
from edgewise.engine._stack import CHUNK_BYTES, LeanStack, Stack
from edgewise.graph import Graph
from edgewise.models import Layer, Model

MASK = torch.float32.itemsize
"""Masks, sums and gradients are in float32."""


@dataclass(frozen=True)
class Footprint:
    """Bytes and floating-point operations of one step (forward and backward of one batch)."""

    memory: Literal["default", "lean"]
    bytes: dict[str, int]
    """By what they are for; `weights` are the model's own."""
    operations: dict[str, int]
    """By what they are for; a multiply and an add count two."""

    @property
    def total_bytes(self) -> int:
        """Everything at the step's fullest moment."""
        return sum(self.bytes.values())

    @property
    def bytes_above_weights(self) -> int:
        """The same without the model's own weights."""
        return self.total_bytes - self.bytes["weights"]

    @property
    def total_operations(self) -> int:
        """All operations of a step; what is computed once per example is not in it."""
        return sum(self.operations.values())


def footprint(
    model: Model,
    graph: Graph,
    batch: int,
    length: int,
    *,
    examples: int | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    execution: Execution | None = None,
    **changes: Any,
) -> Footprint:
    """Plan a step of a learned method under interchange ablation, judged at one position per prompt.

    Args:
        model: the model; its weights are not looked at, so it may be on the meta device.
        graph: its graph.
        batch: B, pairs per step.
        length: S, tokens per prompt.
        examples: how many training examples' constants are kept; the batch's if None.
        device: how long chunks of tokens are depends on it.
        execution: as for `Engine`; the defaults if None.
        **changes: other values of single fields of `Execution`, such as `memory="lean"`.

    Raises:
        InputError: the graph has features, or an option is none of `Execution`'s.
    """
    execution = (execution or Execution()).changed(changes)
    memory, dtype, cache_bytes = execution.memory, execution.dtype, execution.cache_bytes
    if graph.spec.features:
        raise InputError("footprint: the graph has features in MLPs' places, which are not counted; plan without them")
    parts, tokens, d_model, lean = model.parts, batch * length, model.parts.d_model, memory == "lean"
    n_layers, n_writers = len(parts.layers), graph.n_writers
    first, stored = parts.layers[0], (dtype or torch.float32).itemsize
    n_heads, head_width, _ = first.attention.output_weight.shape
    n_readers = graph.blocks[0].n_readers
    read_width = first.attention.query.weight.shape[-1]
    pre_activations = sum(x.shape[1] for x in _mlp_inputs(first))
    n_wide = graph.n_embeddings + n_layers
    stack_numbers = tokens * (n_wide * d_model + n_layers * n_heads * head_width if lean else n_writers * d_model)
    grouped = layers_together(n_layers, n_readers)
    chunk = CHUNK_BYTES[device] * (LeanStack if lean else Stack).longer_chunks
    whole = (n_writers + 2 * n_readers) * tokens * d_model * MASK  # a chunk is never longer than the batch
    reads = n_readers * d_model * read_width * stored
    centred = parts.final_norm.kind == "layer"
    copied = model.dtype != (dtype or torch.float32)  # weights in another type than they are used in
    passing = (  # what stands beside the rest, but not beside each other
        min(chunk, whole) * (2 if lean else 1),
        tokens * (4 * pre_activations * stored + 4 * d_model * MASK),  # one MLP's backward
        4 * batch * _vocabulary(model) * MASK,  # logits, probabilities and their gradients
    )

    return Footprint(
        memory,
        {
            "weights": sum(p.numel() * p.element_size() for p in model.module.parameters()),
            "stack of differences": stack_numbers * stored,
            "stack of gradients": stack_numbers * MASK,
            "layers read together": grouped * (n_readers + 1) * tokens * d_model * MASK if grouped > 1 else 0,
            "attention kept": n_layers * n_readers * tokens * (read_width * stored + MASK),
            "mlp kept": n_layers * tokens * (d_model * MASK + (0 if lean else pre_activations * stored)),
            "examples' constants": _constants(model, graph, batch, length, examples or batch, cache_bytes),
            "weights rearranged": (1 if lean or copied else n_layers) * reads
            + (n_layers * n_heads * head_width * d_model * stored if lean and (centred or copied) else 0),
            "masks and optimiser": 8 * graph.n_edges * MASK,
            "passing": max(passing),
        },
        _operations(model, graph, batch, length, lean),
    )


def _constants(model: Model, graph: Graph, batch: int, length: int, examples: int, cache_bytes: int) -> int:
    """Ablated values, base sums and the full model's last hidden states."""
    parts, n_layers = model.parts, len(model.parts.layers)
    n_heads, width, _ = parts.layers[0].attention.output_weight.shape
    writes = (1 + n_layers) * parts.d_model + n_layers * n_heads * width
    sums = len(graph.blocks) * parts.d_model
    per_example = length * (writes * model.dtype.itemsize + sums * MASK + parts.d_model * model.dtype.itemsize)
    if examples * per_example <= cache_bytes:
        return examples * per_example
    return cache_bytes + batch * per_example


def _operations(model: Model, graph: Graph, batch: int, length: int, lean: bool) -> dict[str, int]:
    parts, tokens, n_layers = model.parts, batch * length, len(model.parts.layers)
    plain = 2 * tokens * sum(x.numel() for layer in parts.layers for x in _matrices(layer))
    output = 2 * tokens * parts.layers[0].attention.output_weight.numel()
    mixing = 2 * graph.n_edges * tokens * parts.d_model
    unembedding = 2 * batch * _vocabulary(model) * parts.d_model
    again = 2 * tokens * n_layers * sum(x.numel() for x in _mlp_inputs(parts.layers[0]))
    return {
        "model forward": plain + unembedding,
        "model backward": plain + unembedding,
        "readers' inputs, forwards and again backwards": 2 * mixing,
        "masks' gradients": mixing,
        "writers' gradients": mixing,
        "heads through W_O again": output * _layers_again(n_layers, graph.blocks[0].n_readers) if lean else 0,
        "MLP pre-activations again": again if lean else 0,
    }


def _layers_again(n_layers: int, n_readers: int) -> int:
    """How many layers of heads a lean step takes through W_O again.

    A layer takes those before it within its group three times (forwards, and values and gradients backwards), a group
    those before it four times, since it mixes its readers' inputs and gives back their gradients in two walks.
    """
    size, again = layers_together(n_layers, n_readers), 0
    for first in range(0, n_layers, size):
        k = min(size, n_layers - first)
        again += (4 if k > 1 else 3) * first + 3 * k * (k - 1) // 2
    return again


def _mlp_inputs(layer: Layer) -> list[Tensor]:
    return [weight for weight, _ in layer.mlp.inputs]


def _matrices(layer: Layer) -> list[Tensor]:
    attention = layer.attention
    projections = [attention.query.weight, attention.key.weight, attention.value.weight, attention.output_weight]
    return [*projections, *_mlp_inputs(layer), *([] if layer.mlp.down is None else [layer.mlp.down])]


def _vocabulary(model: Model) -> int:
    config: Any = model.module.config
    return int(config.vocab_size)
