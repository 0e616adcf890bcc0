"""Which edges of a compiled program are necessary, by taking each away alone, on hooks."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tests.discovery.hooks import LAYOUTS
from tests.independent.circuits import Edge, circuit_logits, own_logits, written

MARGIN, CLOSE = 1e-3, 0.05
"""By how much an answer must win, and how near a number must be (docs/tracr.md)."""
AT_ONCE = 4096


def necessary(module: Any, edges: list[Edge], interchange: bool) -> set[Edge]:
    """The edges whose removal alone changes what is decoded, on some input and position after the first.

    Args:
        module: the compiled program.
        edges: all of its graph's.
        interchange: whether a removed edge carries another equally long input's value, of every one; else zero.
    """
    found = set[Edge]()
    for ids, others in _inputs(module, interchange):
        full = own_logits(module, ids)
        ablated = None if others is None else written(module, LAYOUTS["plain"], others)
        for edge in edges:
            if edge not in found:
                logits = circuit_logits(module, LAYOUTS["plain"], ids, edges, set(edges) - {edge}, ablated)
                if not bool(_agree(module, logits, full)[:, 1:].all()):
                    found.add(edge)
    return found


def _agree(module: Any, logits: Tensor, full: Tensor) -> Tensor:
    """Whether each position's output is the full model's, `[B, S]`."""
    if module.program.outputs is None:
        return ((logits - full).abs() <= CLOSE).all(-1)
    answer = full.argmax(-1, keepdim=True)
    rest = logits.scatter(-1, answer, float("-inf")).amax(-1)
    return logits.gather(-1, answer)[..., 0] > rest + MARGIN


def _inputs(module: Any, interchange: bool) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches of inputs of one length, the long ones first, and what each is corrupted with."""
    program = module.program
    for length in sorted(set(program.lengths.tolist()), reverse=True):
        rows = program.inputs[program.lengths == length][:, :length]
        if not interchange:
            yield rows, None
            continue
        first, second = torch.cartesian_prod(torch.arange(len(rows)), torch.arange(len(rows))).T
        differ = first != second
        for one, other in zip(first[differ].split(AT_ONCE), second[differ].split(AT_ONCE), strict=True):
            yield rows[one], rows[other]
