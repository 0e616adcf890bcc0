"""Models larger than memory: layers' weights lie in files or in main memory and come to the device as they are walked.

Every walk of the engine, and the user's own module, asks for one layer after the other. A thread fetches the next one
in the direction of the walk while one runs; the one before is let go. On a CPU, in the type of the files, nothing is
copied: weights are mapped from their files, the thread has their pages read ahead, and the system takes pages back when
it needs the memory. The arithmetic is the same, so the numbers are too.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, is_dataclass, replace
from itertools import takewhile
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from edgewise._errors import InputError
from edgewise.models._parts import Layer, Parts

Offload = Literal["cpu", "disk"]
"""Where layers' weights lie: in main memory, for a model that runs on a GPU, or in their files."""

_PAGE = 4096  # bytes; of larger pages some are touched twice


class _Fetched(NamedTuple):
    layer: Layer
    tensors: Mapping[str, Tensor] | None
    """The block's parameters and buffers on the device, by name; None where they lie there already."""


class OffloadedLayers(Sequence[Layer]):
    """A model's layers, each brought to the device when it is asked for, and the next one with it.

    A layer is to be used before another is asked for: only then are its block's own modules on the device too.
    """

    def __init__(
        self, stored: Sequence[Layer], blocks: Sequence[nn.Module], device: torch.device, dtype: torch.dtype
    ) -> None:
        """Set up.

        Args:
            stored: the layers with their weights where they lie.
            blocks: each layer's own module in the user's model, which holds all of its weights.
            device: where layers run.
            dtype: in what type.
        """
        self.stored, self.blocks, self.device, self.dtype = tuple(stored), tuple(blocks), device, dtype
        self.fetched_bytes = 0
        """How many bytes of weights have been brought so far, as they are stored."""
        self._homes = [_tensors(block) for block in self.blocks]
        self._pool = ThreadPoolExecutor(1, "next layer")
        self._stream: torch.cuda.Stream | None = None
        self._coming: dict[int, Future[_Fetched]] = {}
        self._at = -1

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: Any) -> Any:
        """The layer of that number, on the device."""
        number = range(len(self))[index]
        if number == self._at:
            return self._coming[number].result().layer
        return self.visit(number, 1 if number > self._at else -1)

    def __iter__(self) -> Iterator[Layer]:
        return (self.visit(number, 1) for number in range(len(self)))

    def __reversed__(self) -> Iterator[Layer]:
        return (self.visit(number, -1) for number in reversed(range(len(self))))

    def visit(self, number: int, step: Literal[1, -1]) -> Layer:
        """The layer of that number on the device; the one `step` further is fetched meanwhile."""
        wanted = [k for k in (number, number + step) if 0 <= k < len(self)]
        self._coming = {k: self._coming.get(k) or self._pool.submit(self._fetch, k) for k in wanted}
        found = self._coming[number].result()
        if number != self._at:
            if found.tensors is not None:
                if self._at >= 0:
                    _give(self.blocks[self._at], self._homes[self._at])
                _give(self.blocks[number], found.tensors)
                _keep(found.tensors)
            self._at = number
        return found.layer

    def _fetch(self, number: int) -> _Fetched:
        homes = self._homes[number]
        self.fetched_bytes += sum(x.numel() * x.element_size() for x in homes.values())
        if all(self._target(x) == (x.device, x.dtype) for x in homes.values()):
            for tensor in homes.values():
                _touch(tensor)
            return _Fetched(self.stored[number], None)
        if self.device.type != "cuda":
            return self._copied(number)
        self._stream = self._stream or torch.cuda.Stream(self.device)
        with torch.cuda.stream(self._stream):  # beside what the device is computing
            found = self._copied(number)
        self._stream.synchronize()
        return found

    def _copied(self, number: int) -> _Fetched:
        homes, tensors = self._homes[number], {}
        for name, tensor in homes.items():
            device, dtype = self._target(tensor)
            tensors[name] = tensor.detach().to(device, dtype, non_blocking=tensor.is_pinned())
        return _Fetched(_mapped(self.stored[number], _views(homes, tensors)), tensors)

    def _target(self, tensor: Tensor) -> tuple[torch.device, torch.dtype]:
        return self.device, self.dtype if tensor.is_floating_point() else tensor.dtype


def offloaded(
    module: nn.Module,
    find_parts: Callable[[Any], Parts],
    where: Offload,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Parts:
    """Take layers out of the way of a module that was loaded for it, and give its parts.

    Args:
        module: on the CPU; what is no layer's (embeddings, unembedding, last norm) is moved to the device.
        find_parts: its family's adapter.
        where: the layers' weights lie.
        device: where layers run.
        dtype: in what type; as stored if None.

    Raises:
        InputError: it makes no sense for the device, or layers have no module of their own.
    """
    if where == "cpu" and device.type == "cpu":
        raise InputError("offload='cpu': the model runs on the CPU, where its weights lie then; use offload='disk'")
    stored = find_parts(module)
    dtype = dtype or stored.layers[0].attention.output_weight.dtype
    blocks = _blocks(module, stored.layers)
    inside = {id(x) for block in blocks for x in _tensors(block).values()}
    for part in module.modules():
        for own, cast in ((part._parameters, True), (part._buffers, False)):
            for x in own.values():
                if x is not None and id(x) not in inside:  # buffers keep their type, as rotary frequencies must
                    x.data = x.data.to(device, dtype if cast and x.is_floating_point() else x.dtype)
                elif x is not None and where == "cpu":
                    x.data = x.data.pin_memory()
    parts = find_parts(module)
    layers = OffloadedLayers(parts.layers, blocks, device, dtype)
    for number, block in enumerate(blocks):
        block.register_forward_pre_hook(_visiting(layers, number))
    return replace(parts, layers=layers)


def _visiting(layers: OffloadedLayers, number: int) -> Callable[..., None]:
    """A hook that has a block's weights there when the module itself runs (a plain function: it is not copied)."""

    def visit(_block: nn.Module, _given: Any) -> None:
        layers.visit(number, 1)

    return visit


def _blocks(module: nn.Module, layers: Sequence[Layer]) -> list[nn.Module]:
    """For each layer, the smallest module that holds all of its weights."""
    found = []
    names = _Owners(dict(module.named_parameters(remove_duplicate=False)))
    for layer in layers:
        owners = list[str]()
        _mapped(layer, lambda x, owners=owners: owners.append(names.of(x)) or x)
        paths = zip(*(name.split(".")[:-1] for name in owners), strict=False)
        shared = takewhile(lambda names: len(set(names)) == 1, paths)
        found.append(module.get_submodule(".".join(each[0] for each in shared)))
    if module in found or len(set(found)) < len(found):
        raise InputError(f"offload: {type(module).__name__} has no module for each layer; load it whole")
    return found


class _Owners:
    """Whose storage a view shares."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.starts = sorted((x.data_ptr(), name) for name, x in tensors.items())

    def of(self, view: Tensor) -> str:
        place = bisect_right(self.starts, (view.data_ptr(), chr(0x10FFFF))) - 1
        if place >= 0:
            start, name = self.starts[place]
            own = self.tensors[name]
            if view.data_ptr() < start + own.numel() * own.element_size():
                return name
        raise InputError("offload: a layer's weights are no parameters of the model; load it whole")


def _views(homes: Mapping[str, Tensor], moved: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """From a view of weights where they lie to the same view of their copies."""
    owners = _Owners(homes)

    def view(x: Tensor) -> Tensor:
        name = owners.of(x)
        offset = (x.data_ptr() - homes[name].data_ptr()) // x.element_size()
        return moved[name].as_strided(x.shape, x.stride(), moved[name].storage_offset() + offset)

    return view


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A layer with a function applied to every tensor in it."""
    if isinstance(value, Tensor):
        return function(value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _mapped(getattr(value, each.name), function) for each in fields(value)})
    return value


def _tensors(block: nn.Module) -> dict[str, Tensor]:
    """A block's parameters and buffers, by name."""
    return dict((*block.named_parameters(remove_duplicate=False), *block.named_buffers(remove_duplicate=False)))


def _give(block: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Make these the block's parameters and buffers."""
    for prefix, part in block.named_modules():
        for own in (part._parameters, part._buffers):
            for name, x in own.items():
                if x is not None:
                    own[name] = tensors[f"{prefix}.{name}" if prefix else name]  # pyright: ignore[reportArgumentType] (a frozen one)


def _touch(tensor: Tensor) -> None:
    """Have a mapped tensor's pages read."""
    if tensor.is_contiguous() and tensor.numel():
        tensor.detach().flatten().view(torch.uint8)[::_PAGE].sum()


def _keep(tensors: Mapping[str, Tensor]) -> None:
    """On a GPU: keep copies that another stream made until the current one is done with them."""
    for tensor in tensors.values():
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))
