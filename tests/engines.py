"""Engines under every ablation, masks of every kind, and how two runs are compared."""

import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise.engine import Ablation, Engine, Writes, constant_writes
from edgewise.graph import Graph
from edgewise.models import Model
from tests.tiny import Batch

TOLERANCE = 1e-9
"""How far float64 results may lie apart, relative to the largest of them (or to 1 if that is smaller)."""

ABLATIONS = {
    "interchange": Ablation("interchange"),
    "zero": Ablation("zero"),
    "zero-shared": Ablation("zero", bias="shared"),
    "mean": Ablation("mean", source="train"),
    "mean-positional": Ablation("mean-positional", source="train"),
    "learned": Ablation("learned", source="train"),
    "learned-shared": Ablation("learned", source="train", bias="shared"),
}


def engine(model: Model, graph: Graph | None = None, ablation: str = "interchange", **choices) -> Engine:
    """An engine under one of `ABLATIONS`; constants are random."""
    graph = graph or model.graph()
    chosen = ABLATIONS[ablation]
    constants = random_constants(model, graph, chosen.kind) if chosen.takes_constants else None
    return Engine(model, graph, chosen, constants=constants, **choices)


def random_constants(model: Model, graph: Graph, kind: str, n_positions: int = 9) -> Writes:
    """Random values for the ablations that take constants, always the same; those to be learned require gradients."""
    generator = torch.Generator().manual_seed(5)
    shape = (n_positions if kind == "mean-positional" else 1,)
    drawn = tuple(
        torch.randn(shape + x.shape[1:], generator=generator, dtype=x.dtype).requires_grad_(kind == "learned")
        for x in constant_writes(model.parts, graph).tensors()
    )
    return Writes.from_tensors(drawn, graph)


def conventions(model: Model) -> list[Graph]:
    """The model's graphs under every convention of embeddings, and with keys and values expanded if that differs."""
    kinds = ("joint", "split", "off") if model.parts.n_embeddings > 1 else ("joint", "off")
    graphs = [model.graph(kind) for kind in kinds]
    if model.parts.n_heads != model.parts.n_kv_heads:
        graphs += [model.graph("joint", "expanded")]
    return graphs


def random_masks(graph: Graph, seed: int = 1) -> dict[str, Float[Tensor, " E"] | Float[Tensor, "C P E"]]:
    """Masks of every kind: hard, soft, all alike, both, sparse, whole readers at 0 or 1, two circuits of two groups."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(6, graph.n_edges, generator=generator, dtype=torch.float64)
    kind = torch.randint(4, (graph.n_readers,), generator=generator)[graph.edge_reader.long()]  # of each edge's reader
    mixed = (uniform * 3 - 1).clamp(0, 1)
    by_reader = mixed[0].where(kind != 0, 0.0).where(kind != 1, 1.0)
    return {
        "binary": (uniform[1] > 0.5).double(),
        "fractional": uniform[2],
        "one-fraction": torch.full_like(uniform[2], 0.3),
        "mixed": mixed[3],
        "sparse": (uniform[4] * 12 - 11).clamp(0, 1),
        "by-reader": by_reader,
        "circuits-and-groups": torch.stack([mixed[5], by_reader, mixed[1], uniform[0]]).view(2, 2, -1),
    }


class Outcome(NamedTuple):
    """What a run gives: logits, and the gradients of a random linear function of them."""

    logits: Tensor
    mask: Float[Tensor, "..."]
    constants: tuple[Tensor, ...]


def outcome(engine: Engine, batch: Batch, mask: Tensor, weights: Tensor | None = None, **choices) -> Outcome:
    """Run and differentiate `Σ weights * logits`; the weights are random (always the same) if not given."""
    if engine.execution.path == "reference":
        choices.setdefault("gradients", "all")  # the truth that either kind of the fast path's is held against
    mask = mask.detach().clone().requires_grad_()
    logits = engine.run(batch, mask, **choices)
    if weights is None:
        weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(6), dtype=logits.dtype)
    learned = [x for x in (engine.constants.tensors() if engine.constants else ()) if x.requires_grad]
    found = torch.autograd.grad((logits * weights).sum(), [mask, *learned], allow_unused=True)
    # A constant may truly be unused: that of the last writer into a reader that has no other, say.
    filled = [torch.zeros_like(x) if g is None else g for x, g in zip((mask, *learned), found, strict=True)]
    return Outcome(logits.detach(), filled[0], tuple(filled[1:]))


Choices = tuple[Literal["default", "lean"], bool, Literal["fractional", "all"]]
"""Memory, whether to skip what cannot matter, and which gradients are given."""


_EVERY: Any = [*itertools.product(("default", "lean"), (True, False), ("fractional", "all"))]


def half_of_choices(half: int) -> list[Choices]:
    """Half of all choices, so drawn that any two of the three are met in all four ways; 1 gives the other half."""
    return [each for each in _EVERY if (each[0] == "lean") ^ each[1] ^ (each[2] == "all") == half % 2]


def two_choices(turn: int) -> list[Choices]:
    """Two of all eight choices: any six turns in a row meet each of them, and even turns alone do too."""
    return [_EVERY[turn % 8], _EVERY[(turn + 3) % 8]]


def assert_close(found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """The largest difference is at most `tolerance` times the largest expected number (or times 1 if that is less)."""
    assert found.shape == expected.shape
    assert torch.isfinite(found).all()
    found, expected = found.detach(), expected.detach()
    if found.numel():
        error, scale = float((found - expected).abs().max()), max(1.0, float(expected.abs().max()))
        assert error <= tolerance * scale, f"{error:.1e} apart, of {scale:.1e}"


def assert_same(found: Outcome, expected: Outcome, tolerance: float = TOLERANCE) -> None:
    """Logits and all gradients are close."""
    assert_close(found.logits, expected.logits, tolerance)
    assert_close(found.mask, expected.mask, tolerance)
    for one, other in zip(found.constants, expected.constants, strict=True):
        assert_close(one, other, tolerance)


def assert_same_where_given(
    found: Outcome, expected: Outcome, mask: Tensor, gradients: Literal["fractional", "all"]
) -> None:
    """Logits and those gradients are close that a run with this choice gives: of all masks, or of fractional ones."""
    if gradients == "fractional":
        some = (mask > 0) & (mask < 1)
        found, expected = (each._replace(mask=each.mask[some]) for each in (found, expected))
    assert_same(found, expected)


def per_prompt(batch: Batch, logits: Float[Tensor, "A V"]) -> Sequence[Float[Tensor, "a V"]]:
    """The targets' logits, prompt by prompt."""
    return logits.split(torch.bincount(batch.row, minlength=len(batch.clean.ids)).tolist())
