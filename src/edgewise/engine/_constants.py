"""What depends on the examples alone: the full model's logits, and what ablated edges carry. Computed once, kept while
it fits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Generic, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.engine._packing import Packing, pack
from edgewise.engine._trees import Tree, leaves, mapped, with_leaves
from edgewise.engine._writes import AblatedRun, Writes, base_sums
from edgewise.graph import Ablation, Graph
from edgewise.models import Model, Parts, Tokens


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


@dataclass(frozen=True, eq=False)
class Constants:
    """What ablated edges carry at the packed tokens, and its sums (see `base_sums`).

    Joined from the examples' own tensors component by component, when asked, so that a batch's constants never stand
    side by side with the examples' they are copied from.
    """

    runs: Sequence[AblatedRun]
    """Each example's, with `[n, …]` tensors; or one for all."""
    index: Int[Tensor, " N"] | None = None
    """Which of the joined tokens each packed token takes; None for all in order."""

    def embedding(self, writer: int) -> Float[Tensor, "M D"]:
        """An embedding writer's; M is N, or 1 where every token has the same."""
        return self._joined([run.writes.embeds[writer] for run in self.runs])

    def heads(self, layer: int) -> Float[Tensor, "M H v"]:
        """A layer's heads', before W_O."""
        return self._joined([run.writes.heads[layer] for run in self.runs])

    def mlp(self, layer: int) -> Float[Tensor, "M D"]:
        """A layer's MLP's."""
        return self._joined([run.writes.mlps[layer] for run in self.runs])

    def base(self, block: int) -> Float[Tensor, "M D"]:
        """What a block's readers get with all edges ablated (clean embeddings that are no writers left out)."""
        return self._joined([run.base[block] for run in self.runs])

    def nodes(self, layer: int) -> Float[Tensor, "M n ..."]:
        """A layer's chosen features' pre-activations, `[M, n]`, or chosen neurons' activations, `[M, n, g]`."""
        return self._joined([run.nodes[layer] for run in self.runs])

    def writes(self) -> Writes:
        """All writers' at once."""
        return mapped(lambda *column: self._joined(column), *(run.writes for run in self.runs))

    def at(self, index: Int[Tensor, " N"]) -> "Constants":
        """The same at these tokens (unchanged where every token has the same)."""
        if len(self.runs) == 1 and len(self.runs[0].base[-1]) == 1:
            return self
        return Constants(self.runs, index)

    def _joined(self, column: Sequence[Tensor]) -> Tensor:
        joined = column[0] if len(column) == 1 else torch.cat(list(column))
        return joined if self.index is None else joined[self.index]


class ConstantRun:
    """Constants with their base sums, which take a walk through all layers: made anew only after constants changed."""

    def __init__(self, parts: Parts, graph: Graph, ablation: Ablation) -> None:
        """Nothing is summed yet."""
        self.given = parts, graph, ablation
        self.versions: list[tuple[int, int]] = []
        self.run: AblatedRun | None = None

    @torch.no_grad()
    def of(self, constants: Writes, longest: int) -> AblatedRun:
        """Those of these constants; never kept where one requires gradients, since it is about to be moved.

        Raises `InputError` if a prompt, of at most `longest` tokens, is longer than there are means by position.
        """
        tensors, n_means = constants.tensors(), len(constants.mlps[0])
        if self.given[2].kind == "mean-positional" and n_means < longest:
            raise InputError(
                f"mean-positional: a prompt has {longest} tokens and there are means for {n_means}; average over "
                "prompts that are as long"
            )
        fixed = not any(x.requires_grad or x.is_inference() for x in tensors)  # inference tensors count no versions
        versions = [(id(x), x._version) for x in tensors] if fixed else []
        if self.run is None or not fixed or versions != self.versions:
            self.run, self.versions = AblatedRun(constants, base_sums(*self.given, constants), {}), versions
        return self.run


class ExampleStore(Generic[Tree]):
    """Tensors that depend on the example alone, kept for the examples that were pinned and for the last batch.

    A product's last bits depend on what an example is batched with. So that a resumed run gets the bits that the whole
    run gets, only what `pin` computes, in an order that the run's settings decide, outlives its batch.
    """

    def __init__(self, compute: Callable[[Packing], Tree], n_bytes: int) -> None:
        """For what `compute` gives of packed examples, a row `[N, …]` for each token; `n_bytes` may be pinned."""
        self.compute, self.n_bytes, self.free = compute, n_bytes, n_bytes
        self.pinned: dict[bytes, Tree] = {}
        self.recent: dict[bytes, Tree] = {}

    def lookup(self, tokens: Tokens) -> list[Tree]:
        """Each example's tensors, `[n, …]`; those of examples that are not pinned are computed together."""
        keys = _keys(tokens)
        missing = [b for b, key in enumerate(keys) if key not in self.pinned]
        if list(dict.fromkeys(keys[b] for b in missing)) != list(self.recent):  # in that order: it decides the bits
            self.recent = {}  # freed before the next are made
            self.recent = self._computed(tokens, keys, missing)
        return [self.pinned[key] if key in self.pinned else self.recent[key] for key in keys]

    def clear(self) -> None:
        """Forget everything."""
        self.free, self.pinned, self.recent = self.n_bytes, {}, {}

    def pin(self, tokens: Tokens) -> bool:
        """Compute a batch's tensors together and keep them; False if they do not fit, and then none is kept."""
        keys = _keys(tokens)
        new = self._computed(tokens, keys, [b for b, key in enumerate(keys) if key not in self.pinned])
        n_bytes = sum(x.numel() * x.element_size() for kept in new.values() for x in leaves(kept))
        if n_bytes > self.free:
            return False
        self.free -= n_bytes
        self.pinned |= new
        return True

    def _computed(self, tokens: Tokens, keys: list[bytes], which: list[int]) -> dict[bytes, Tree]:
        """The tensors of some of a batch's examples, computed together."""
        which = list({keys[b]: b for b in which}.values())  # each once
        if not which:
            return {}
        chosen = Tokens(tokens.ids[which], tokens.mask[which])
        lengths, found = chosen.mask.sum(1).tolist(), self.compute(pack(chosen))
        by_example = zip(*(tensor.split(lengths) for tensor in leaves(found)), strict=True)
        return {keys[b]: with_leaves(found, iter(tensors)) for b, tensors in zip(which, by_example, strict=True)}


def _keys(tokens: Tokens) -> list[bytes]:
    """One key per example, the same wherever and however it is padded."""
    ids, mask = tokens.ids.cpu().numpy(), tokens.mask.cpu().numpy()
    return [ids[b][mask[b]].tobytes() for b in range(len(ids))]


def check_batch(batch: Prompts, ablation: str, model: Model) -> None:
    """Raise `InputError` unless a batch can be run: targets on tokens, prompts of the model's tokens, no longer than it
    has positions and, under interchange, pairs that fit together.
    """
    check_targets(batch.clean, batch.row, batch.position)
    check_tokens(batch.clean, model)
    if ablation == "interchange":
        check_tokens(batch.corrupted, model)
        check_pairs(batch.clean, batch.corrupted, batch.align)


def what_prunes(ablation: str, batch: Prompts) -> str:
    """As what ablation edges that cannot carry signal are dropped in a batch (see `Graph.prune`). Between prompts of
    unequal length a head looks at keys that stand elsewhere, so it may write something else than its ablated value
    although nothing clean reaches it.
    """
    return ablation if batch.align is None else "aligned"


def corrupted_positions(batch: Prompts) -> Int[Tensor, " A"]:
    """The columns of the corrupted tokens that stand for the targets; a prompt's two sides may be padded otherwise."""
    if batch.align is not None:
        return batch.align[batch.row, batch.position]
    first, other = (tokens.mask.int().argmax(1)[batch.row] for tokens in (batch.clean, batch.corrupted))
    return batch.position - first + other


def check_tokens(tokens: Tokens, model: Model) -> None:
    """Raise `InputError` for a token that the model does not have, as a tokenizer's added ones, and for a prompt that
    is longer than it has positions.
    """
    n_positions, n_tokens = model.parts.n_positions, getattr(getattr(model.module, "config", None), "vocab_size", None)
    longest = int(tokens.mask.sum(1).max()) if len(tokens.mask) else 0
    if n_positions is not None and longest > n_positions:
        raise InputError(f"batch: a prompt has {longest} tokens, and the model has {n_positions} positions; shorten it")
    ids = tokens.ids[tokens.mask]
    if n_tokens is not None and bool((unknown := (ids < 0) | (ids >= n_tokens)).any()):
        raise InputError(f"batch: token {int(ids[unknown][0])}; the model has tokens 0 to {n_tokens - 1}")


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
    lengths = zip_longest(clean.mask.sum(1).tolist(), corrupted.mask.sum(1).tolist())
    bad = next((example for example, (own, other) in enumerate(lengths) if own != other), None)
    if bad is not None:
        raise InputError(
            f"batch: example {bad} has clean and corrupted prompts of different token length; interchange pairs them "
            "token by token"
        )


def partners(clean: Tokens, corrupted: Tokens, align: Int[Tensor, "B S"]) -> Int[Tensor, " n"]:
    """For each clean token in plain order, the number of its corrupted token in plain order."""
    numbers = (corrupted.mask.flatten().cumsum(0) - 1).view(corrupted.mask.shape)
    return numbers.gather(1, align)[clean.mask]
