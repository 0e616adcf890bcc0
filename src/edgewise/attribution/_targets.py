"""Roots: what a graph explains. The most probable tokens, chosen tokens, a contrast of two, a direction, or a node."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.attribution._frozen import FrozenRun
from edgewise.attribution._nodes import Nodes
from edgewise.attribution._rows import Targets
from edgewise.models import ProgramTokenizer

MOST, MASS = 10, 0.95  # circuit-tracer's: the most probable tokens until they have this much together
_NODE = re.compile(r"(m\d+\.[nf]\d+)@(-?\d+)")

Target = str | int | Sequence[str | int] | tuple[str, Tensor] | None
"""What is to be explained: None, the most probable next tokens; a token's text or id, or several; a node's name such
as `m12.f410@7`; or a name and a direction `[D]` of what the unembedding reads."""


class Root(NamedTuple):
    """One thing to be explained."""

    name: str
    weight: float
    """The token's probability; 1 for anything else."""
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
    if isinstance(target, tuple) and len(target) == 2 and isinstance(target[1], Tensor):
        return str(target[0]), target[1]
    if target is None:
        return _likely(run)
    given = [target] if isinstance(target, (str, int)) else list(target)
    return [_token(run, each) for each in given]  # pyright: ignore[reportArgumentType] (no direction is left)


def roots(nodes: Nodes, target: Target, contrast: bool = False) -> list[Root]:
    """The roots of a run.

    Args:
        nodes: the run's.
        target: what is to be explained.
        contrast: of two tokens, the first's logit minus the second's.

    Raises:
        InputError: a token or node that is not there, a direction of another width, or a contrast of other than two.
    """
    run, ids = nodes.run, settled(nodes.run, target)
    if isinstance(ids, str):
        return [_node_root(nodes, ids, *map(int, re.findall(r"-?\d+", ids)))]
    if isinstance(ids, tuple):
        return [_direction(run, *ids)]
    if contrast:
        if len(ids) != 2 or ids[0] == ids[1]:
            raise InputError(f"contrast: of {len(ids)} tokens; give two different ones")
        name = f"{token_text(run, ids[0])} − {token_text(run, ids[1])}"
        return [_logit_root(run, name, 1.0, torch.tensor([1.0, -1.0]), ids)]
    probabilities = run.logits().softmax(-1)
    return [_demeaned(run, each, float(probabilities[each])) for each in ids]


def _likely(run: FrozenRun) -> list[int]:
    """The most probable tokens."""
    probabilities = run.logits().softmax(-1)
    mass, ids = probabilities.topk(min(MOST, len(probabilities)))
    return ids[: int((mass.cumsum(0) < MASS).sum()) + 1].tolist()


def _token(run: FrozenRun, given: str | int) -> int:
    n_tokens = len(run.logits())
    if isinstance(given, int):
        if not 0 <= given < n_tokens:
            raise InputError(f"target {given}: the model has tokens 0 to {n_tokens - 1}")
        return given
    if run.model.tokenizer is None:
        raise InputError(f"target {given!r}: the model has no tokenizer; give a token's number")
    ids = run.model.tokenizer.encode(given, add_special_tokens=False)
    if len(ids) != 1:
        raise InputError(f"target {given!r}: {len(ids)} tokens; give one token, mostly with its leading blank")
    return int(ids[0])


def token_text(run: FrozenRun, token: int) -> str:
    """A token's text, or its number where there is no tokenizer."""
    tokenizer = run.model.tokenizer
    if isinstance(tokenizer, ProgramTokenizer):  # its outputs are no tokens
        outputs = tokenizer.program.outputs
        return tokenizer.program.name if outputs is None else str(outputs[token])
    return str(token) if tokenizer is None else tokenizer.decode([token])


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

    with torch.enable_grad():
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
