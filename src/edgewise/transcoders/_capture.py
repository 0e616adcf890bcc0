"""Reading sites off a model: one forward of the user's own module, stopped after the last layer that is asked for."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from edgewise._errors import InputError
from edgewise.models import Model
from edgewise.transcoders import Site, centre, check_site, input_at, modules_of, special_tokens


class _Stop(Exception):  # noqa: N818 (no error: the rest of the forward is not needed)
    """The last layer that is asked for has been seen."""


@torch.no_grad()
def capture(
    model: Model, sites: Sequence[Site], ids: Int[Tensor, "B S"], *, bf16: bool = False
) -> dict[Site, Float[Tensor, "B S D"]]:
    """The vectors at sites, from one forward that stops after the last of them.

    Args:
        model: the model; left as it was.
        sites: which vectors.
        ids: tokens without padding.
        bf16: let products with weights run in bfloat16 (the residual stream stays as it is).

    Raises:
        InputError: the model has no such site, or is not as it was loaded.
    """
    model.check(hooks=False)  # the module itself is run, with whatever stands on it
    for site in sites:
        check_site(model, site)
    found: dict[Site, Tensor] = {}
    last = max(site.layer for site in sites)

    def note(index: int, residual: Tensor | None, given: Tensor, output: Tensor) -> None:
        layer = model.parts.layers[index]
        for site in sites:
            if site.layer == index:
                value = output if site.kind == "mlp_out" else input_at(layer, site.kind, residual, given)
                found[site] = centre(value.detach().to(model.dtype), site)
        if index == last:
            raise _Stop

    check_length(model, ids)
    ids = ids.to(model.device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    in_bf16 = torch.autocast(model.device.type, torch.bfloat16, enabled=bf16)
    with _observed(model, sorted({site.layer for site in sites}), note), in_bf16, suppress(_Stop):
        model.parts.hidden(ids, mask, positions)
    return {site: found[site] for site in sites}


def check_length(model: Model, ids: Int[Tensor, "B S"]) -> None:
    """Refuse rows that are longer than the model's positions. Raises `InputError`."""
    n = model.parts.n_positions
    if n is not None and ids.shape[1] > n:
        raise InputError(f"text: rows of {ids.shape[1]} tokens, and the model has {n} positions; use --context {n}")


@contextmanager
def _observed(
    model: Model, layers: Sequence[int], note: Callable[[int, Tensor | None, Tensor, Tensor], None]
) -> Iterator[None]:
    """Call `note` with what each of the layers' MLPs read and wrote; the hooks are gone when the context is left."""
    residuals: dict[int, Tensor] = {}
    inputs: dict[int, Tensor] = {}

    def keep(index: int, kept: dict[int, Tensor], _module: nn.Module, arguments: tuple[Any, ...]) -> None:
        kept[index] = arguments[0]

    def seen(index: int, _module: nn.Module, _arguments: tuple[Any, ...], output: Any) -> None:
        # gpt-oss's MLP gives its routing too.
        note(index, residuals.get(index), inputs[index], output[0] if isinstance(output, tuple) else output)

    with ExitStack() as hooks:
        for index in layers:
            modules = modules_of(model.parts.layers[index])
            hooks.callback(modules.norm.register_forward_pre_hook(partial(keep, index, residuals)).remove)
            hooks.callback(modules.mlp.register_forward_pre_hook(partial(keep, index, inputs)).remove)
            hooks.callback(modules.last.register_forward_hook(partial(seen, index)).remove)
        yield


def real_tokens(model: Model, ids: Int[Tensor, "B S"], *, exclude_special: bool) -> Bool[Tensor, "B S"]:
    """Which tokens count: all, or all but each row's first and the special ones.

    The first position is left out whatever stands there: attention sinks make its vectors tens of times longer than
    all others, with or without a BOS.
    """
    if not exclude_special:
        return torch.ones_like(ids, dtype=torch.bool)
    keep = ~special_tokens(model, ids)
    keep[:, 0] = False
    return keep
