"""What one training step needs in memory and operations, from sizes alone.

Counted for the worst case: every mask fractional, so that nothing is skipped or shared.
"""

from dataclasses import astuple, dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from edgewise.engine._execution import Execution, Share, check_choice
from edgewise.engine._group import layers_together
from edgewise.engine._stack import CHUNK_BYTES, LeanStack, Stack
from edgewise.graph import FEATURE, Graph
from edgewise.models import Layer, Model, Offload

MASK = torch.float32.itemsize
"""Masks, sums and gradients are in float32."""
WITH_MASKS = ("readers' inputs, forwards and again backwards", "masks' gradients", "writers' gradients")
"""What of a footprint's operations are products with the stack of differences or of gradients."""


@dataclass(frozen=True)
class Placement:
    """Where a step runs."""

    device: Literal["cpu", "cuda"] = "cpu"
    """How long chunks of tokens are depends on it."""
    offload: Offload | None = None
    """Where layers' weights lie (see `edgewise.load_model`); None: where they are run."""
    ranks: int = 1
    """Among how many processes the batch is shared."""
    share: Share = "examples"
    """What of it: its examples, or all examples' tokens (see `Execution`)."""

    def __post_init__(self) -> None:
        """Check the names. Raises `InputError`."""
        check_choice("device", self.device, tuple(CHUNK_BYTES))
        check_choice("offload", self.offload, (None, *get_args(Offload)))
        check_choice("share", self.share, get_args(Share))


@dataclass(frozen=True)
class Footprint:
    """Bytes and floating-point operations of one step (forward and backward of one batch)."""

    memory: Literal["default", "lean"]
    bytes: dict[str, int]
    """By what they are for; `weights` are the model's own."""
    operations: dict[str, int]
    """By what they are for; a multiply and an add count two."""
    traffic: dict[str, int] = field(default_factory=dict)
    """Bytes that come from elsewhere: layers' weights of an offloaded model, and what ranks sum up."""

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
    placement: Placement | None = None,
    execution: Execution | None = None,
    **changes: Any,
) -> Footprint:
    """Plan a step of a learned method under interchange ablation, judged at one position per prompt.

    Args:
        model: the model; its weights are not looked at, so it may be on the meta device.
        graph: its graph.
        batch: B, pairs per step, of all ranks together.
        length: S, tokens per prompt.
        examples: how many training examples' constants are kept; the batch's if None.
        placement: where it runs; on one CPU, weights in memory, if None. The numbers are one process's.
        execution: as for `Engine`; the defaults if None.
        **changes: other values of single fields of `Execution`, such as `memory="lean"`.

    Raises:
        InputError: an option is none of `Execution`'s.
    """
    execution = (execution or Execution()).changed(changes)
    device, offload, ranks, share = astuple(placement or Placement())
    memory, dtype, cache_bytes = execution.memory, execution.dtype, execution.cache_bytes
    by_token = share == "tokens" and ranks > 1
    if not by_token:
        batch, examples = -(-batch // ranks), None if examples is None else -(-examples // ranks)
    tokens = -(-batch * length // ranks) if by_token else batch * length
    parts, d_model, lean = model.parts, model.parts.d_model, memory == "lean"
    n_layers, n_writers, nodes = len(parts.stored), graph.n_writers, Nodes.of(model, graph)
    first, stored = parts.stored[0], (dtype or torch.float32).itemsize
    n_heads, head_width, _ = first.attention.output_weight.shape
    n_readers = graph.blocks[0].n_readers
    read_width = first.attention.query.weight.shape[-1]
    pre_activations = sum(x.shape[1] for x in _mlp_inputs(first))
    narrow = n_layers * n_heads * head_width + nodes.written
    n_wide = n_writers - n_layers * n_heads - nodes.writers
    stack_numbers = tokens * (n_wide * d_model + narrow if lean else n_writers * d_model)
    grouped = layers_together(n_layers, n_readers)
    chunk = max(
        CHUNK_BYTES[device] * (LeanStack if lean else Stack).longer_chunks, n_readers * d_model * read_width * MASK
    )
    tallest = max(block.n_readers for block in graph.blocks)
    whole = (
        (n_writers + max(2 * n_readers, tallest)) * tokens * d_model * MASK
    )  # a chunk is never longer than the batch
    reads = n_readers * d_model * read_width * stored
    centred = parts.final_norm.kind == "layer"
    gathered = n_layers * batch * length * (2 * n_readers * read_width + n_heads * head_width) * stored
    copied = model.dtype != (dtype or torch.float32)  # weights in another type than they are used in
    passing = (  # what stands beside the rest, but not beside each other
        min(chunk, whole) * (2 if lean else 1),
        tokens * (4 * pre_activations * stored + 4 * d_model * MASK),  # one MLP's backward
        4 * batch * _vocabulary(model) * MASK,  # logits, probabilities and their gradients
        4 * batch * length * n_readers * read_width * stored if by_token else 0,  # one layer's attention of all tokens
    )

    return Footprint(
        memory,
        {
            "weights": _resident(model, offload, device),
            "stack of differences": stack_numbers * stored,
            "stack of gradients": stack_numbers * MASK,
            "layers read together": grouped * (n_readers + 1) * tokens * d_model * MASK if grouped > 1 else 0,
            "attention kept": n_layers * n_readers * tokens * (read_width * stored + MASK),
            "mlp kept": nodes.wholes * tokens * (d_model * MASK + (0 if lean else pre_activations * stored)),
            "features and neurons kept": tokens * nodes.kept * MASK,
            "examples' constants": _constants(model, graph, nodes, batch, length, examples or batch, cache_bytes),
            "weights rearranged": (1 if lean or copied or offload else n_layers) * reads
            + (n_layers * n_heads * head_width * d_model * stored if lean and (centred or copied) else 0)
            + nodes.weights * d_model * stored,
            "a layer's weights converted": _converted(first) * stored if copied else 0,
            "masks and optimiser": 8 * graph.n_edges * MASK,
            "passing": max(passing),
        },
        _operations(model, graph, nodes, batch, tokens, lean),
        _traffic(model, graph, offload, ranks)
        | ({"attention's inputs of other ranks' tokens": gathered * (ranks - 1) // ranks} if by_token else {}),
    )


class Nodes(NamedTuple):
    """How many features and neurons (or groups of them) a graph has in MLPs' places, and how many numbers go with
    them.
    """

    writers: int
    """Writers, the places of cross-layer features among them."""
    written: int
    """Numbers per token that these write their directions times."""
    read: int
    """Numbers per token that they read."""
    rows: int
    """Readers."""
    activations: int
    """Numbers per token that they are turned into, each once, however many layers it is written to."""
    wholes: int
    """Layers with an MLP, or with a rest of neurons."""
    errors: int
    """Layers with an error term, as a writer or not."""

    @staticmethod
    def of(model: Model, graph: Graph) -> "Nodes":
        """Those of a graph."""
        spec, kinds = graph.spec, graph.writer_kind
        features = sum(len(chosen) for _, chosen in spec.features)
        places = int((kinds == FEATURE).sum()) - features
        groups = [(len(each), max(map(len, each), default=0)) for _, each in spec.neurons]
        single = sum(n * width for n, width in groups)  # each group at the width of its layer's largest
        n_groups, n_inputs = sum(n for n, _ in groups), len(model.parts.stored[0].mlp.inputs) or 1
        return Nodes(
            features + places + n_groups,
            features + places + single,
            features + n_inputs * single,
            features + n_groups,
            features + single,
            spec.n_layers - len(spec.features),
            len(spec.features),
        )

    @property
    def kept(self) -> int:
        """Numbers per token that a step keeps for its backward: projections, scales of norms, activations and their
        gradients.
        """
        return self.read + self.rows + 2 * self.activations

    @property
    def weights(self) -> int:
        """Rows of D numbers of their weights, arranged as readers and writers."""
        return self.read + self.written


def _resident(model: Model, offload: Offload | None, device: str) -> int:
    """The model's own weights in the process's memory: all, or with offloading those of no layer and three layers'
    (before, now and next); pages of files that a CPU reads as they lie there are not counted.
    """
    all_bytes = sum(p.numel() * p.element_size() for p in model.module.parameters())
    if offload is None:
        return all_bytes
    if device == "cpu":
        return 0
    layers = _layer_bytes(model)
    return all_bytes - sum(layers) + 3 * max(layers)


def _layer_bytes(model: Model) -> list[int]:
    matrices = [[*_matrices(layer), *_as_module(layer)] for layer in model.parts.stored]
    return [sum(x.numel() * x.element_size() for x in each) for each in matrices]


def _converted(layer: Layer) -> int:
    """Numbers of a layer's MLP and of its heads' outputs, which stand in another type while they are used."""
    down = 0 if layer.mlp.down is None else layer.mlp.down.numel()
    return layer.attention.output_weight.numel() + sum(x.numel() for x in _mlp_inputs(layer)) + down


def _traffic(model: Model, graph: Graph, offload: Offload | None, ranks: int) -> dict[str, int]:
    found: dict[str, int] = {}
    if offload is not None:
        layers = _layer_bytes(model)
        again = sum(layers[layer] for layer, _ in graph.spec.neurons)  # for what is fixed of them
        found["layers of a step, there and back"] = 2 * sum(layers) - layers[-1] + again
        found["layers for a batch's constants"] = 2 * sum(layers) + again  # the full model, and the corrupted run
    if ranks > 1:
        found["gradients summed over ranks"] = 2 * graph.n_edges * MASK
    return found


def _constants(
    model: Model, graph: Graph, nodes: Nodes, batch: int, length: int, examples: int, cache_bytes: int
) -> int:
    """Ablated values, base sums and the full model's last hidden states."""
    parts, n_layers = model.parts, len(model.parts.stored)
    n_heads, width, _ = parts.stored[0].attention.output_weight.shape
    writes = (1 + n_layers) * parts.d_model + n_layers * n_heads * width
    sums = len(graph.blocks) * parts.d_model
    numbers = writes + parts.d_model + nodes.activations + nodes.errors * parts.d_model
    per_example = length * (numbers * model.dtype.itemsize + sums * MASK)
    if examples * per_example <= cache_bytes:
        return examples * per_example
    return cache_bytes + batch * per_example


def _operations(model: Model, graph: Graph, nodes: Nodes, batch: int, tokens: int, lean: bool) -> dict[str, int]:
    parts, n_layers = model.parts, len(model.parts.stored)
    used = sum(x.numel() for layer in parts.stored for x in _matrices(layer))
    used += sum(_used_of_module(layer, model.module.config) for layer in parts.stored)
    plain = 2 * tokens * used
    output = 2 * tokens * parts.stored[0].attention.output_weight.numel()
    mixing = 2 * graph.n_edges * tokens * parts.d_model
    unembedding = 2 * batch * _vocabulary(model) * parts.d_model
    again = 2 * tokens * nodes.wholes * sum(x.numel() for x in _mlp_inputs(parts.stored[0]))
    return {
        "model forward": plain + unembedding,
        "model backward": plain + unembedding,
        **dict(zip(WITH_MASKS, (2 * mixing, mixing, mixing), strict=True)),
        "heads through W_O again": output * _layers_again(n_layers, graph.blocks[0].n_readers) if lean else 0,
        "MLP pre-activations again": again if lean else 0,
        "features and neurons": 4 * tokens * nodes.weights * parts.d_model,  # forwards and backwards
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


def _as_module(layer: Layer) -> list[Tensor]:
    """The weights of an MLP that runs as it is, such as a mixture of experts."""
    module = layer.mlp.module
    return list(module.parameters()) if layer.mlp.down is None and isinstance(module, nn.Module) else []


def _used_of_module(layer: Layer, config: Any) -> int:
    """How many of them a token meets: of experts, those that are chosen for it."""
    experts: Any = getattr(layer.mlp.module, "experts", None)
    of_experts = sum(x.numel() for x in experts.parameters()) if layer.mlp.routing is not None else 0
    number = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 1
    unused = 1 - min(1.0, (getattr(config, "num_experts_per_tok", None) or number) / number)
    return sum(x.numel() for x in _as_module(layer)) - round(of_experts * unused)


def _vocabulary(model: Model) -> int:
    config: Any = model.module.config
    return int(config.vocab_size)
