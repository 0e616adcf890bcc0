"""Edits made in the user's own module: for a forward, and for generation with or without a cache of keys and values."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from edgewise._errors import InputError
from edgewise.attribution._access import Access, FeatureAccess, NeuronAccess
from edgewise.attribution._edits import Edit, Table
from edgewise.attribution._features import by_layer
from edgewise.models import Model
from edgewise.transcoders import Transcoder, input_at, modules_of, special_tokens


@contextmanager
def editing(
    model: Model,
    edits: Sequence[Edit] | Sequence[Sequence[Edit]],
    nodes: Literal["neurons"] | Transcoder | Sequence[Transcoder] = "neurons",
) -> Iterator[nn.Module]:
    """Within it, the user's module runs with edits; afterwards it is as before.

        with editing(model, [Edit("m12.f410@7:", "scale", 3)], transcoders) as module:
            module.generate(**prompts)

    Everything is computed again, as `intervene` does with `open`. Positions count from a prompt's first token, padding
    left out, and go on through what is generated, so that a cache changes nothing.

    Args:
        model: the model.
        edits: of every prompt, or for each prompt of a batch its own.
        nodes: what they name: neurons, or features of these transcoders.

    Raises:
        InputError: an edit names a node that is not there, or an error, which only a prompt of its own has; or (in a
            forward) the batch does not fit the edits.
    """
    nested = [[each] if isinstance(each, Edit) else list(each) for each in edits]
    each_its_own = not any(isinstance(each, Edit) for each in edits)
    access = _access(model, nodes)
    for each in (each for some in nested for each in some):
        access.check(each)
        if each.kind == "error":
            raise InputError(f"edit {each.node}: errors are of one prompt; edit neurons or features, or use intervene")
    own = nested if each_its_own else [[each for some in nested for each in some]]
    forward = _Forward(model, access, own)
    with ExitStack() as stack:
        stack.callback(model.module.register_forward_pre_hook(forward.begin, with_kwargs=True).remove)
        for layer in forward.layers:
            _hook(stack, forward, layer)
        yield model.module


def _access(model: Model, nodes: Any) -> Access:
    if isinstance(nodes, str):
        if nodes != "neurons":
            raise InputError(f"nodes {nodes!r}: give 'neurons', or transcoders")
        return NeuronAccess(model.parts.layers)
    return FeatureAccess(model.parts.layers, by_layer(model, nodes))


def _hook(stack: ExitStack, forward: "_Forward", layer: int) -> None:
    """Read what a layer's MLP is given, and add to what it gives."""
    modules = modules_of(forward.model.parts.layers[layer])
    last = modules.mlp if isinstance(forward.access, NeuronAccess) else modules.last

    def keep_stream(_module: nn.Module, given: tuple[Any, ...]) -> None:
        forward.stream[layer] = given[0]

    def edit(_module: nn.Module, given: tuple[Any, ...]) -> None:
        forward.edit(layer, given[0])

    def add(_module: nn.Module, _given: tuple[Any, ...], output: Any) -> Any:
        change = forward.pending.pop(layer, None)
        if change is None:
            return output
        if isinstance(output, tuple):  # a mixture of experts gives its router's choices too
            return output[0] + change.to(output[0]), *output[1:]
        return output + change.to(output)

    stack.callback(modules.norm.register_forward_pre_hook(keep_stream).remove)
    stack.callback(modules.mlp.register_forward_pre_hook(edit).remove)
    stack.callback(last.register_forward_hook(add).remove)


class _Forward:
    """The forward under way."""

    def __init__(self, model: Model, access: Access, edits: list[list[Edit]]) -> None:
        self.model, self.access, self.edits = model, access, edits
        self.edited = {each.layer for some in edits for each in some}
        self.layers = sorted({at for layer in self.edited for at in access.written_layers(layer)} | self.edited)
        self.stream = dict[int, Tensor]()
        self.pending = dict[int, Tensor]()

    def begin(self, _module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Which tokens stand where."""
        ids = named.get("input_ids", arguments[0] if arguments else None)
        if ids is None:
            raise InputError("editing: the module is given no input_ids; give tokens, not embeddings")
        n, count = len(ids), len(self.edits)
        if n % max(count, 1):
            raise InputError(f"editing: edits of {count} prompts, and a batch of {n}; give edits for each, or for all")
        position = _positions(ids, named)
        self.pending.clear()
        self.position, self.owner = position.flatten(), torch.arange(n).div(n // max(count, 1), rounding_mode="floor")
        self.owner = self.owner.to(ids.device).repeat_interleave(ids.shape[1])
        self.off: Bool[Tensor, " N"] = (special_tokens(self.model, ids) | (position == 0)).flatten()

    def edit(self, layer: int, given: Tensor) -> None:
        """What the edits of a layer's nodes write."""
        table = Table.of(self.edits, layer, self.position, self.owner) if layer in self.edited else None
        if table is None:
            return
        stream, parts = self.stream.get(layer), self.model.parts.layers[layer]
        wide = torch.promote_types(given.dtype, torch.float32)

        def read(kind: str) -> Tensor:
            return input_at(parts, kind, stream, given).flatten(0, 1)[table.rows].to(wide)

        change = table.change(self.access.value(layer, table.nodes, read, self.off[table.rows]))
        for at, rows in self.access.written(layer, table.nodes, change).items():
            flat = self.pending.get(at, torch.zeros_like(given, dtype=wide)).flatten(0, 1)
            self.pending[at] = flat.index_add(0, table.rows, rows).view_as(given)


def _positions(ids: Int[Tensor, "B T"], named: dict[str, Any]) -> Int[Tensor, "B T"]:
    """Of each token within its prompt; −1: padding."""
    mask, positions, cache = (named.get(name) for name in ("attention_mask", "position_ids", "past_key_values"))
    if mask is not None and mask.ndim == 2:
        counted = (mask.long().cumsum(1) - 1).masked_fill(mask == 0, -1)
        return counted[:, -ids.shape[1] :]
    if positions is not None:
        return positions.expand_as(ids)
    before = 0 if cache is None else cache.get_seq_length()
    return (torch.arange(ids.shape[1], device=ids.device) + before).expand_as(ids)
