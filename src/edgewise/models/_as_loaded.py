"""A module as it was when its parts were found, so that what has changed since is seen and not run."""

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from edgewise._errors import InputError

Weights: TypeAlias = tuple[tuple[str, int, int, str], ...] | None
"""Where each weight lies, how often it was written to, the sum of a few of its numbers; None where nobody can say."""

_SAMPLED = 64
"""Numbers of each weight that are looked at."""


@dataclass(frozen=True, eq=False)
class AsLoaded:
    """What a module had."""

    hooks: frozenset[int]
    """Its forward hooks, by PyTorch's numbers of them, which are given once: such as those that bring offloaded layers.
    They were there when the engine was compared with it."""
    places: dict[str, int]
    """Where its parameters lay: parts are views of them."""
    weights: Weights

    @staticmethod
    def of(module: nn.Module) -> "AsLoaded":
        """As it is now."""
        hooks = frozenset(number for part in module.modules() for number in _hooks(part))
        return AsLoaded(hooks, _places(module), weights_of(module))

    def check(self, module: nn.Module, *, offloaded: bool, hooks: bool) -> None:
        """Refuse a module that would not compute what its parts do, or has other weights than they are views of; those
        of offloaded layers come and go. Raises `InputError`.
        """
        check_training(module)
        for part in module.modules() if hooks else ():
            if not (part._forward_hooks or part._forward_pre_hooks):
                continue
            new = [hook for number, hook in _hooks(part).items() if number not in self.hooks]
            # transformers sets its own, which only look, when it is first asked for hidden states, and leaves them.
            if any(not str(getattr(hook, "__module__", "")).startswith("transformers.") for hook in new):
                name = next(name for name, each in module.named_modules() if each is part)
                raise InputError(
                    f"model: a forward hook stands on {name or 'the module'}, which the engine would not run; remove "
                    "it first, or load the model with it (edgewise.load_model)"
                )
        if not offloaded and (now := _places(module)) != self.places:
            name = next(name for name in self.places | now if self.places.get(name) != now.get(name))
            raise InputError(
                f"model: its {name} is another tensor than when it was loaded, and the engine would run the old one; "
                "load it again (edgewise.load_model)"
            )


def weights_of(module: nn.Module) -> Weights:
    """What tells that weights have changed, without reading all of them. Fused optimisers and writes through `.data`
    count no versions: of those only what changes one of the numbers that are read is seen.
    """
    tensors = [(name, x) for name, x in module.state_dict(keep_vars=True).items() if isinstance(x, Tensor)]
    if any(x.is_inference() for _, x in tensors):  # they count no versions
        return None
    return tuple((name, place_of(x), x._version, _sample(x)) for name, x in tensors)


def _sample(x: Tensor) -> str:
    """The sum of numbers from all over a tensor, as text, in which NaN is equal to NaN; nothing where it has none."""
    if type(x) not in (Tensor, nn.Parameter) or x.is_meta or not x.is_contiguous() or not x.numel():
        return ""
    numbers = x.detach().view(-1)
    few = numbers[:: max(1, len(numbers) // _SAMPLED)].cpu()  # Apple's GPUs have no float64
    return str(float(few.double().sum()))


def weights_hash(module: nn.Module, dtype: torch.dtype | None = None) -> str:
    """SHA-256 over the names, shapes and bytes of all weights, in another type if one is given."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, Tensor):  # a module's extra state
            continue
        tensor = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_training(module: nn.Module) -> None:
    """Refuse a module in training mode. Raises `InputError`."""
    if any(part.training for part in module.modules()):
        raise InputError(
            "model: it is in training mode, where dropout would blur every number; call model.eval() first"
        )


def place_of(x: Tensor) -> int:
    """Where a tensor's numbers begin."""
    return x.data_ptr() if type(x) in (Tensor, nn.Parameter) else id(x)  # others may have no place of their own


def _places(module: nn.Module) -> dict[str, int]:
    return {name: place_of(x) for name, x in module.named_parameters()}


def _hooks(part: nn.Module) -> dict[int, object]:
    return {**part._forward_hooks, **part._forward_pre_hooks}
