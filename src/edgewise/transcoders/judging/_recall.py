"""Running a model again from a layer on: what lies below is given back as it was and not computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

from torch import nn

from edgewise.models import Model
from edgewise.transcoders import changed_forwards, modules_of


def blocks_of(model: Model) -> list[nn.Module]:
    """Each layer's whole block, the smallest module that holds its norm and its MLP; none of them where in one layer
    that is the whole model, or there is no norm.
    """
    names = {module: name.split(".") for name, module in model.module.named_modules()}
    found = []
    for layer in model.parts.stored:
        paths = [names.get(module, []) for module in modules_of(layer) if module is not None]
        shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
        found.append(model.module.get_submodule(".".join(parts[0] for parts in shared)))
    return found if model.module not in found and len(set(found)) == len(found) else []


@contextmanager
def remembered(blocks: list[nn.Module]) -> Iterator[list[Any]]:
    """Yield a list that the forward within fills with the blocks' outputs."""
    outputs: list[Any] = []

    def keep(_module: nn.Module, _arguments: tuple[Any, ...], output: Any) -> None:
        outputs.append(output)

    handles = [block.register_forward_hook(keep) for block in blocks]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
        if len(outputs) != len(blocks):  # a model that calls a block's parts and not the block
            outputs.clear()


@contextmanager
def recalled(blocks: list[nn.Module], outputs: list[Any]) -> Iterator[None]:
    """Within it, blocks give the outputs they gave before: the first blocks, as many as there are outputs."""
    given_back = (lambda *_, output=output, **__: output for output in outputs)
    with changed_forwards(zip(blocks, given_back, strict=False)):
        yield
