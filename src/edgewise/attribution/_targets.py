"""Roots: what a graph explains. The most probable tokens, chosen tokens, a contrast of two, a direction, or a node."""

import operator
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._frozen import FrozenRun
from edgewise.attribution._kinds import token_ids
from edgewise.attribution._nodes import Nodes
from edgewise.attribution._rows import Targets
from edgewise.models import Model, ProgramTokenizer
from edgewise.runs import gradients
from edgewise.transcoders import TokenTexts

MOST, MASS = 10, 0.95  # circuit-tracer's: the most probable tokens until they have this much together
LEAST = 1e-30
"""The least weight of a root. A token's probability may underflow to 0, and a graph of roots that weigh nothing is
empty."""
_NODE = re.compile(r"(m\d+\.[nf]\d+)@(-?\d+)")

Target = str | int | Sequence[str | int] | tuple[str, Tensor] | None
"""What is to be explained: None, the most probable next tokens; a token's text or id, or several; a node's name such
as `m12.f410@7`; or a name and a direction `[D]` of what the unembedding reads."""


class Root(NamedTuple):
    """One thing to be explained."""

    name: str
    weight: float
    """The token's probability, `LEAST` at least; 1 for anything else."""
    value: float
    targets: Targets
    token: int = -1
    """Of a single token's logit; −1 for anything else."""
    measure: Callable[[Float[Tensor, "K D"]], Float[Tensor, " K"]] | None = None
    """Its value in other runs, from what the unembedding reads at the last position; None of a node."""


class Explained(NamedTuple):
    """What a graph was made from."""

    nodes: Nodes
    roots: list[Root]


def settled(run: FrozenRun, target: Target) -> str | list[int] | tuple[str, Tensor]:
    """A target without choices left: a node's name, token ids, or a direction. Raises `InputError`, as `roots`."""
    if isinstance(target, str) and (node := _NODE.fullmatch(target)) is not None:
        position = int(node[2])
        return f"{node[1]}@{position + len(run) if -len(run) <= position < 0 else position}"
    if _is_direction(target):
        return str(target[0]), target[1]
    return _likely(run) if target is None else _tokens(target, run.model.tokenizer, len(run.logits()))


def check_asked(
    model: Model,
    prompt: str | Sequence[int] | Int[Tensor, " S"],
    target: Target = None,
    contrast: bool = False,
    bos: bool | None = None,
) -> None:
    """Refuse a prompt, or what of it is to be explained, before there is any work. Nodes and directions are looked up
    by `attribute` alone, in the prompt's run.

    Args:
        model: the model.
        prompt: a text, or its tokens `[S]`.
        target: what is to be explained, as for `attribute`.
        contrast: of two tokens, the first's logit minus the second's.
        bos: see `AttributionConfig.bos`.

    Raises:
        InputError: as `attribute` does.
    """
    token_ids(model, prompt, bos)
    is_node = isinstance(target, str) and _NODE.fullmatch(target) is not None
    of_tokens = target is not None and not is_node and not _is_direction(target)
    ids = None
    if of_tokens:
        with torch.no_grad():
            read = torch.zeros(1, model.parts.d_model, dtype=model.dtype, device=model.device)
            ids = _tokens(target, model.tokenizer, model.parts.unembed(read).shape[1])
    if contrast:
        _check_two(ids)


def _is_direction(target: Any) -> TypeGuard[tuple[str, Tensor]]:
    return isinstance(target, tuple) and len(target) == 2 and isinstance(target[1], Tensor)


def roots(nodes: Nodes, target: Target, contrast: bool = False) -> list[Root]:
    """The roots of a run.

    Args:
        nodes: the run's.
        target: what is to be explained.
        contrast: of two tokens, the first's logit minus the second's.

    Raises:
        InputError: a token or node that is not there, no token or one twice, a direction of another width, that is
            zero or not finite, or a contrast of other than two tokens.
    """
    run, ids = nodes.run, settled(nodes.run, target)
    if contrast:
        _check_two(None if target is None else ids)
    if isinstance(ids, str):
        return [_node_root(nodes, ids, *map(int, re.findall(r"-?\d+", ids)))]
    if isinstance(ids, tuple):
        return [_direction(run, *ids)]
    if contrast:
        name = f"{token_text(run, ids[0])} − {token_text(run, ids[1])}"
        return [_logit_root(run, name, 1.0, torch.tensor([1.0, -1.0]), ids)]
    probabilities = run.logits().softmax(-1)
    return [_demeaned(run, each, max(float(probabilities[each]), LEAST)) for each in ids]


def _likely(run: FrozenRun) -> list[int]:
    """The most probable tokens."""
    probabilities = run.logits().softmax(-1)
    mass, ids = probabilities.topk(min(MOST, len(probabilities)))
    return ids[: int((mass.cumsum(0) < MASS).sum()) + 1].tolist()


def _tokens(target: Any, tokenizer: Any, n_tokens: int) -> list[int]:
    """One token's number, or those of several. Raises `InputError`."""
    given: list[Any] = list(target) if isinstance(target, Sequence) and not isinstance(target, str) else [target]
    ids = [token_id(each, tokenizer, n_tokens, "target") for each in given]
    if not ids:
        raise InputError("target: an empty list; give tokens, or None for the most probable ones")
    if twice := [each for place, each in enumerate(ids) if each in ids[:place]]:
        raise InputError(f"target: token {twice[0]} is given twice; give different ones")
    return ids


def _check_two(ids: Any) -> None:
    """Refuse a contrast of anything but two tokens. Raises `InputError`."""
    if not isinstance(ids, list) or len(ids) != 2:
        raise InputError(f"contrast: of {len(ids) if isinstance(ids, list) else 'no'} tokens; give two as the target")


def token_id(given: str | int, tokenizer: Any, n_tokens: int, what: str) -> int:
    """A token's number, given as that or as its text. Raises `InputError`, which says as `what` it was given."""
    if not isinstance(given, str):
        try:
            number = operator.index(given)
        except TypeError as error:
            raise InputError(f"{what} {given!r:.40}: give a token's text, or its number") from error
        if not 0 <= number < n_tokens:
            raise InputError(f"{what} {number}: the model has tokens 0 to {n_tokens - 1}")
        return number
    if tokenizer is None:
        raise InputError(f"{what} {given!r}: the model has no tokenizer; give a token's number")
    ids = tokenizer.encode(given, add_special_tokens=False)
    if len(ids) != 1:
        raise InputError(f"{what} {given!r}: {len(ids)} tokens; give one, mostly with its leading blank")
    return int(ids[0])


def token_text(run: FrozenRun, token: int) -> str:
    """A token's text, or its number where there is no tokenizer."""
    tokenizer = run.model.tokenizer
    if isinstance(tokenizer, ProgramTokenizer):  # its outputs are no tokens
        outputs = tokenizer.program.outputs
        return tokenizer.program.name if outputs is None else str(outputs[token])
    return TokenTexts(tokenizer).shown(token)


def _demeaned(run: FrozenRun, token: int, weight: float) -> Root:
    """A logit minus the mean of all logits; a model's only output, a number, as it is."""
    n_tokens = len(run.logits())
    vector = torch.full((n_tokens,), -1 / n_tokens if n_tokens > 1 else 0.0, dtype=torch.float64)
    vector[token] += 1
    return _logit_root(run, token_text(run, token), weight, vector, None)._replace(token=token)


def _logit_root(run: FrozenRun, name: str, weight: float, vector: Tensor, ids: list[int] | None) -> Root:
    """A sum of the logits of some tokens, or of all; where the unembedding is not linear (a soft-cap), what its slope
    leaves is the root's bias.
    """

    def measure(read: Float[Tensor, "K D"]) -> Float[Tensor, " K"]:
        logits = run.model.parts.unembed(read).to(read)
        chosen = logits if ids is None else logits[:, ids]
        return chosen @ vector.to(chosen)

    with gradients():
        read = run.normed(len(run) - 1).detach().requires_grad_()
        value = measure(read[None])[0]
    covector = torch.autograd.grad(value, read)[0]
    value = value.detach()
    targets = _final(run, covector, value - covector @ read.detach())
    return Root(name, weight, float(value), targets, measure=measure)


def _direction(run: FrozenRun, name: str, covector: Float[Tensor, " D"]) -> Root:
    width = run.final.shape[1]
    if covector.shape != (width,):
        raise InputError(f"target {name!r}: a direction of shape {tuple(covector.shape)}; expected [{width}]")
    covector = covector.to(run.final)
    if not bool(covector.isfinite().all() and covector.any()):
        raise InputError(f"target {name!r}: a direction that is zero, or not finite; give one that leads somewhere")
    value = float(covector @ run.normed(len(run) - 1))
    targets = _final(run, covector, covector.new_zeros(()))
    return Root(name, 1.0, value, targets, measure=lambda read: read @ covector.to(read))


def _final(run: FrozenRun, covector: Float[Tensor, " D"], bias: Float[Tensor, ""]) -> Targets:
    """What reads the final norm's output at the last position."""
    position = torch.tensor([len(run) - 1], device=covector.device)
    norm = run.final_norm.norm
    if norm.bias is not None:
        bias = bias + covector @ norm.bias.to(covector)
    pulled = run.final_norm.at(position).back(covector[None, None])[:, 0]
    return Targets(len(run.layers), False, position, pulled, bias[None], torch.zeros_like(position))


def _node_root(nodes: Nodes, name: str, layer: int, index: int, position: int) -> Root:
    if layer >= len(nodes.active) or not 0 <= position < len(nodes.run):
        raise InputError(
            f"target {name!r}: the model has {len(nodes.active)} layers, the prompt {len(nodes.run)} tokens"
        )
    letter = name.split(".")[1][0]
    if letter != nodes.letter:
        raise InputError(f"target {name!r}: the nodes here are named m{layer}.{nodes.letter}…, not m{layer}.{letter}…")
    active = nodes.active[layer]
    found = ((active.index == index) & (active.position == position)).nonzero()[:, 0]
    if not len(found):
        start, end = active.offsets[position : position + 2].tolist()
        first = active.value[start:end].abs().topk(min(5, end - start)).indices + start
        others = ", ".join(f"m{layer}.{nodes.letter}{i}" for i in active.index[first].tolist()) or "none"
        raise InputError(
            f"target {name!r}: not active on this prompt; give a token, or a node that is active there: {others}"
        )
    return Root(name, 1.0, float(active.value[found[0]]), node_targets(nodes, layer, found))


def node_targets(nodes: Nodes, layer: int, chosen: Tensor) -> Targets:
    """Some of a layer's active nodes as targets, a row each."""
    covector, bias = nodes.reading(layer, chosen)
    position = nodes.active[layer].position[chosen]
    return Targets(layer, True, position, covector, bias, torch.arange(len(chosen), device=chosen.device))
