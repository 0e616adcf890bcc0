"""Readers side by side: a block of them, and an attention block's readers by role."""

from typing import Literal, NamedTuple

from jaxtyping import Shaped
from torch import Tensor

AttentionRole = Literal["query", "key", "value"]


class Block(NamedTuple):
    """Consecutive readers that see the same writers: their edges are the dense matrix `[n_readers, n_writers]` at
    `offset`.
    """

    number: int
    """Its place in `Graph.blocks`."""
    kind: Literal["attention", "mlp", "features", "neurons", "logits"]
    layer: int
    """`n_layers` for `logits`."""
    reader: int
    """First reader."""
    n_readers: int
    n_writers: int
    offset: int
    """First edge."""

    @property
    def edges(self) -> slice:
        """The block's run of edges."""
        return slice(self.offset, self.offset + self.n_readers * self.n_writers)

    @property
    def readers(self) -> slice:
        """The block's run of readers."""
        return slice(self.reader, self.reader + self.n_readers)

    def table(self, values: Shaped[Tensor, "*rows n"]) -> Shaped[Tensor, "*rows r w"]:
        """The block's part of one value per edge (of one position group), a view by reader and writer."""
        return values[..., self.edges].unflatten(-1, (self.n_readers, self.n_writers))


class Roles(NamedTuple):
    """A layer's attention readers by role, counted within their block."""

    query: range
    key: range
    value: range

    @property
    def sizes(self) -> list[int]:
        """How many readers each role has."""
        return [len(places) for places in self]

    def of(self, place: int) -> tuple[AttentionRole, int]:
        """A reader's role, and which one of that role it is."""
        roles: tuple[AttentionRole, ...] = ("query", "key", "value")
        return next((role, places.index(place)) for role, places in zip(roles, self, strict=True) if place in places)
