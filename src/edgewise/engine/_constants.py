"""What depends on the examples alone: the full model's logits, and what ablated edges carry. Computed once, kept while
it fits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.engine._ablation import Ablation
from edgewise.engine._packing import Packing, pack
from edgewise.engine._writes import Writes, base_sums, trace
from edgewise.graph import Graph
from edgewise.models import Parts, Tokens


class Prompts(Protocol):
    """What the engine needs of a batch: paired prompts, and the tokens whose predictions are judged."""

    @property
    def clean(self) -> Tokens: ...
    @property
    def corrupted(self) -> Tokens: ...
    @property
    def row(self) -> Int[Tensor, " A"]: ...
    @property
    def position(self) -> Int[Tensor, " A"]: ...
    @property
    def span_id(self) -> Int[Tensor, "B S"] | None: ...


@dataclass(frozen=True)
class Constants:
    """What ablated edges carry at some tokens, and its sums (see `base_sums`)."""

    ablated: Writes
    base: tuple[Float[Tensor, "M D"], ...]

    def at(self, index: Int[Tensor, " N"]) -> "Constants":
        """The same at these tokens (unchanged where every token has the same)."""
        if len(self.base[0]) == 1:
            return self
        return Constants(self.ablated.at(index), tuple(x[index] for x in self.base))


class PerExample:
    """A store of tensors by example, up to a number of bytes; what does not fit is computed again when it is needed.

    Every example is computed alone: in a batch its last bits would depend on what it was batched with, and a resumed
    run batches differently.
    """

    def __init__(self, n_bytes: int) -> None:
        """Make an empty store that holds up to `n_bytes`."""
        self.free = n_bytes
        self.items: dict[bytes, tuple[Tensor, ...]] = {}

    def lookup(self, tokens: Tokens, compute: Callable[[Packing], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The batch's tensors `[N, …]`, computed for the examples that are not in the store.

        Args:
            tokens: the batch.
            compute: from one packed example to its tensors, each `[N, …]`.
        """
        found = []
        for b, key in enumerate(_keys(tokens)):
            if key not in self.items:
                self._put(key, compute(pack(Tokens(tokens.ids[b : b + 1], tokens.mask[b : b + 1]))))
            found.append(self.items[key])
        joined = tuple(torch.cat(column) for column in zip(*found, strict=True))
        self._drop_excess()
        return joined

    def _put(self, key: bytes, tensors: tuple[Tensor, ...]) -> None:
        self.free -= _n_bytes(tensors)
        self.items[key] = tensors

    def _drop_excess(self) -> None:
        """Forget the latest examples until the rest fits."""
        while self.free < 0:
            self.free += _n_bytes(self.items.popitem()[1])


def _n_bytes(tensors: tuple[Tensor, ...]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def _keys(tokens: Tokens) -> list[bytes]:
    """One key per example, the same wherever and however it is padded."""
    ids, mask = tokens.ids.cpu().numpy(), tokens.mask.cpu().numpy()
    return [ids[b][mask[b]].tobytes() for b in range(len(ids))]


def check_targets(tokens: Tokens, row: Int[Tensor, " A"], position: Int[Tensor, " A"]) -> None:
    """Raise `InputError` unless every target stands on a real token."""
    n_rows, n_columns = tokens.mask.shape
    outside = (row < 0) | (row >= n_rows) | (position < 0) | (position >= n_columns)
    real = ~outside & tokens.mask[row.clamp(0, n_rows - 1), position.clamp(0, n_columns - 1)]
    if not bool(real.all()):
        bad = int((~real).nonzero()[0, 0])
        raise InputError(
            f"batch: target {bad} is position {int(position[bad])} of example {int(row[bad])}, where there is no token"
        )


def check_pairs(clean: Tokens, corrupted: Tokens) -> None:
    """Raise `InputError` unless clean and corrupted prompts are equally long."""
    lengths, others = clean.mask.sum(1), corrupted.mask.sum(1)
    if len(lengths) != len(others) or not torch.equal(lengths, others):
        bad = (
            int((lengths != others).nonzero()[0, 0]) if len(lengths) == len(others) else min(len(lengths), len(others))
        )
        raise InputError(
            f"batch: example {bad} has clean and corrupted prompts of different token length; interchange pairs them "
            f"token by token"
        )


@torch.no_grad()
def interchange_constants(
    parts: Parts, graph: Graph, ablation: Ablation, corrupted: Tokens, store: PerExample
) -> Constants:
    """Run the full model on the corrupted prompts; per token of the batch, packed in plain order."""

    def compute(packing: Packing) -> tuple[Tensor, ...]:
        ablated = trace(parts, graph, packing)
        return (*ablated.tensors(), *base_sums(parts, graph, ablation, ablated))

    tensors = store.lookup(corrupted, compute)
    n_base = len(graph.blocks)
    return Constants(Writes.from_tensors(tensors[:-n_base], len(parts.layers)), tensors[-n_base:])
