"""What depends on the examples alone: the full model's logits, and what ablated edges carry. Computed once, kept while
it fits.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.engine._packing import Packing, pack
from edgewise.engine._writes import Writes
from edgewise.models import Tokens


@runtime_checkable
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
    @property
    def align(self) -> Int[Tensor, "B S"] | None: ...


class Constants:
    """What ablated edges carry at the packed tokens, and its sums (see `base_sums`).

    Joined from the examples' own tensors component by component, when asked, so that a batch's constants never stand
    side by side with the examples' they are copied from.
    """

    def __init__(
        self,
        found: list[tuple[Tensor, ...]],
        n_layers: int,
        index: Int[Tensor, " N"] | None = None,
        n_features: int = 0,
    ) -> None:
        """Set up.

        Args:
            found: for each example, its writes, base sums and features' pre-activations in one tuple, each `[n, …]`; or
                one tuple for all.
            n_layers: L.
            index: which of the joined tokens each packed token takes; None for all in order.
            n_features: for how many layers there are features' pre-activations.
        """
        self.found, self.n_layers, self.index, self.n_features = found, n_layers, index, n_features
        self.n_writes = len(found[0]) - (2 * n_layers + 1) - n_features
        self.n_embeddings = self.n_writes - 2 * n_layers

    def embedding(self, writer: int) -> Float[Tensor, "M D"]:
        """An embedding writer's; M is N, or 1 where every token has the same."""
        return self._joined(writer)

    def heads(self, layer: int) -> Float[Tensor, "M H v"]:
        """A layer's heads', before W_O."""
        return self._joined(self.n_embeddings + layer)

    def mlp(self, layer: int) -> Float[Tensor, "M D"]:
        """A layer's MLP's."""
        return self._joined(self.n_embeddings + self.n_layers + layer)

    def base(self, block: int) -> Float[Tensor, "M D"]:
        """What a block's readers get with all edges ablated (clean embeddings that are no writers left out)."""
        return self._joined(self.n_writes + block)

    def features(self, number: int) -> Float[Tensor, "M n"]:
        """The chosen features' pre-activations in the layer that is number so many among those with features."""
        return self._joined(len(self.found[0]) - self.n_features + number)

    def writes(self) -> Writes:
        """All of them at once."""
        tensors = tuple(self._joined(i) for i in range(self.n_writes))
        return Writes.from_tensors(tensors, self.n_layers)

    def at(self, index: Int[Tensor, " N"]) -> "Constants":
        """The same at these tokens (unchanged where every token has the same)."""
        if len(self.found) == 1 and len(self.found[0][-1]) == 1:
            return self
        return Constants(self.found, self.n_layers, index, self.n_features)

    def _joined(self, i: int) -> Tensor:
        column = [tensors[i] for tensors in self.found]
        joined = column[0] if len(column) == 1 else torch.cat(column)
        return joined if self.index is None else joined[self.index]


class ExampleStore:
    """Tensors that depend on the example alone, kept for the examples that were pinned and for the last batch.

    A product's last bits depend on what an example is batched with. So that a resumed run gets the bits that the whole
    run gets, only what `pin` computes, in an order that the run's settings decide, outlives its batch.
    """

    def __init__(self, n_bytes: int) -> None:
        """Make an empty store that pins up to `n_bytes`."""
        self.n_bytes = self.free = n_bytes
        self.pinned: dict[bytes, tuple[Tensor, ...]] = {}
        self.recent: dict[bytes, tuple[Tensor, ...]] = {}

    def lookup(self, tokens: Tokens, compute: Callable[[Packing], tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
        """Each example's tensors `[n, …]`; those of examples that are not pinned are computed together.

        Args:
            tokens: the batch.
            compute: from packed examples to their tensors, each `[N, …]`.
        """
        keys = _keys(tokens)
        missing = [b for b, key in enumerate(keys) if key not in self.pinned]
        if list(dict.fromkeys(keys[b] for b in missing)) != list(self.recent):  # in that order: it decides the bits
            self.recent = {}  # freed before the next are made
            self.recent = _computed(tokens, keys, missing, compute)
        return [self.pinned[key] if key in self.pinned else self.recent[key] for key in keys]

    def clear(self) -> None:
        """Forget everything."""
        self.free, self.pinned, self.recent = self.n_bytes, {}, {}

    def pin(self, tokens: Tokens, compute: Callable[[Packing], tuple[Tensor, ...]]) -> bool:
        """Compute a batch's tensors together and keep them; False if they do not fit, and then none is kept."""
        keys = _keys(tokens)
        new = _computed(tokens, keys, [b for b, key in enumerate(keys) if key not in self.pinned], compute)
        n_bytes = sum(_n_bytes(tensors) for tensors in new.values())
        if n_bytes > self.free:
            return False
        self.free -= n_bytes
        self.pinned |= new
        return True


def _computed(
    tokens: Tokens, keys: list[bytes], which: list[int], compute: Callable[[Packing], tuple[Tensor, ...]]
) -> dict[bytes, tuple[Tensor, ...]]:
    """The tensors of some of a batch's examples, computed together."""
    which = list({keys[b]: b for b in which}.values())  # each once
    if not which:
        return {}
    chosen = Tokens(tokens.ids[which], tokens.mask[which])
    lengths = chosen.mask.sum(1).tolist()
    by_example = zip(*(tensor.split(lengths) for tensor in compute(pack(chosen))), strict=True)
    return {keys[b]: tensors for b, tensors in zip(which, by_example, strict=True)}


def _n_bytes(tensors: tuple[Tensor, ...]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def _keys(tokens: Tokens) -> list[bytes]:
    """One key per example, the same wherever and however it is padded."""
    ids, mask = tokens.ids.cpu().numpy(), tokens.mask.cpu().numpy()
    return [ids[b][mask[b]].tobytes() for b in range(len(ids))]


def check_length(tokens: Tokens, n_positions: int | None) -> None:
    """Raise `InputError` if a prompt is longer than the model has positions."""
    longest = int(tokens.mask.sum(1).max()) if len(tokens.mask) else 0
    if n_positions is not None and longest > n_positions:
        raise InputError(f"batch: a prompt has {longest} tokens, and the model has {n_positions} positions; shorten it")


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


def check_pairs(clean: Tokens, corrupted: Tokens, align: Int[Tensor, "B S"] | None = None) -> None:
    """Raise `InputError` unless clean and corrupted prompts are equally long, or aligned token by token otherwise."""
    if align is not None:
        inside = (align >= 0) & (align < corrupted.mask.shape[1])
        real = corrupted.mask.gather(1, align.where(inside, 0)) & inside
        if not bool(real[clean.mask].all()):
            bad = int((~real & clean.mask).any(1).nonzero()[0, 0])
            raise InputError(f"batch: example {bad} is aligned with a corrupted token that is not there")
        return
    lengths, others = clean.mask.sum(1), corrupted.mask.sum(1)
    if len(lengths) != len(others) or not torch.equal(lengths, others):
        bad = (
            int((lengths != others).nonzero()[0, 0]) if len(lengths) == len(others) else min(len(lengths), len(others))
        )
        raise InputError(
            f"batch: example {bad} has clean and corrupted prompts of different token length; interchange pairs them "
            f"token by token"
        )


def partners(clean: Tokens, corrupted: Tokens, align: Int[Tensor, "B S"]) -> Int[Tensor, " n"]:
    """For each clean token in plain order, the number of its corrupted token in plain order."""
    numbers = (corrupted.mask.flatten().cumsum(0) - 1).view(corrupted.mask.shape)
    return numbers.gather(1, align)[clean.mask]
