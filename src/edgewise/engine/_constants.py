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
    """A store of tensors by example, up to a number of bytes; what does not fit is computed again whenever it is
    needed.
    """

    def __init__(self, n_bytes: int) -> None:
        """Make an empty store that holds up to `n_bytes`."""
        self.free = n_bytes
        self.items: dict[bytes, tuple[Tensor, ...]] = {}

    def lookup(self, tokens: Tokens, compute: Callable[[Packing], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The batch's tensors `[N, …]`, computed for the examples that are not in the store.

        Args:
            tokens: the batch.
            compute: from a packed batch to its tensors, each `[N, …]`.
        """
        keys = _keys(tokens)
        missing = {key: b for b, key in enumerate(keys) if key not in self.items}
        if len(missing) == len(keys) and self.free <= 0:
            return compute(pack(tokens))
        found = {key: self.items[key] for key in keys if key not in missing}
        if missing:
            chosen = torch.tensor(list(missing.values()), device=tokens.ids.device)
            packing = pack(Tokens(tokens.ids[chosen], tokens.mask[chosen]))
            pieces = [x.split(packing.real.sum(1).tolist()) for x in compute(packing)]
            for i, key in enumerate(missing):
                found[key] = tuple(
                    piece[i].clone() for piece in pieces
                )  # a clone: a view would keep the whole batch's memory
                self._put(key, found[key])
        return tuple(torch.cat(column) for column in zip(*(found[key] for key in keys), strict=True))

    def lookup_rows(
        self,
        tokens: Tokens,
        row: Int[Tensor, " A"],
        column: Int[Tensor, " A"],
        compute: Callable[[], Float[Tensor, "A V"]],
    ) -> Float[Tensor, "A V"]:
        """One row of numbers for each (example, token) named, all computed again if one of them is not in the store."""
        examples = _keys(tokens)
        from_end = (
            tokens.mask.shape[1] - tokens.mask.flip(1).int().argmax(1)[row] - column
        )  # the same on either side of padding
        keys = [
            examples[r] + place.to_bytes(8, "little") for r, place in zip(row.tolist(), from_end.tolist(), strict=True)
        ]
        if any(key not in self.items for key in keys):
            result = compute()
            for key, values in zip(keys, result, strict=True):
                if self.free > 0 and key not in self.items:
                    self._put(key, (values.clone(),))
            return result
        return torch.stack([self.items[key][0] for key in keys])

    def _put(self, key: bytes, tensors: tuple[Tensor, ...]) -> None:
        size = sum(x.numel() * x.element_size() for x in tensors)
        if size <= self.free:
            self.free -= size
            self.items[key] = tensors
        else:
            self.free = 0  # full: from now on whole batches that are not in it are computed without being taken apart


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
