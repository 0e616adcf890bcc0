"""What comes after a visited block, and which of it a change reaches.

A candidate changes what a few writers write. What it changes further down follows from the kept edges alone: readers
that see a changed writer, and what they feed. All else stays as it is in the circuit of which the candidates lack
edges, whose inputs and outputs are known; so a changed reader's input is its known input plus the changes it sees.

Most of a circuit's late components matter at the answers alone: only what a key or a value reads, directly or through
a query or an MLP that matters elsewhere, is needed at other positions.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from edgewise.graph import Block, Graph


class SharedInput(NamedTuple):
    """Readers of one block with equal masks, needed at the same tokens; so their inputs are one."""

    readers: tuple[int, ...]
    """Counted within their block: queries, keys, values."""
    everywhere: bool
    """Needed wherever candidates can differ, not only at the answers."""
    row: Bool[Tensor, " w"]
    """Which writers are read, of those from the visited block's own on (on the host)."""
    fixed: Float[Tensor, "T D"]
    """What comes from the writers before those."""


class LiveComponent(NamedTuple):
    """A head or an MLP."""

    everywhere: bool
    """Needed wherever candidates can differ, not only at the answers."""
    readers: tuple[int, ...]
    """Which readers of its block it is made from."""


@dataclass(frozen=True)
class LiveBlock:
    """A block of readers as far as it is alive."""

    block: Block
    shared_inputs: tuple[SharedInput, ...]
    writers: dict[int, LiveComponent]
    """What it feeds: heads by their number, an MLP as 0; nothing for `logits`."""
    column: int
    """Where its layer's first head, or its MLP, stands among the writers from the visited block's own on."""
    coupled: bool
    """Whether its heads change together (see `GraphSpec.coupled_heads`)."""

    def moved_by(self, readers: Set[int]) -> tuple[int, ...]:
        """Which writers change with some of the block's readers."""
        made = tuple(w for w, component in self.writers.items() if readers & set(component.readers))
        return tuple(self.writers) if made and self.coupled else made


class InputChange(NamedTuple):
    """How a shared input changes: by all changes so far, or none, plus some with their signs."""

    number: int
    """Among its block's shared inputs."""
    total: bool
    columns: tuple[tuple[int, int], ...]


class BlockStep(NamedTuple):
    """What a change reaches in one block."""

    number: int
    """Among the later blocks."""
    input_changes: tuple[InputChange, ...]
    writers: tuple[int, ...]


class Reach(NamedTuple):
    """What a change reaches. The pairs are of what is wanted at the answers and of what is wanted everywhere."""

    steps: tuple[BlockStep, ...]
    columns: tuple[frozenset[int], frozenset[int]]
    """Writers whose change is read by itself."""
    totals: tuple[bool, bool]
    """Whether the sum of all changes so far is."""


def made_of(graph: Graph, block: Block, writer: int) -> tuple[int, ...]:
    """The readers of a block, counted within it, that one of the heads (or the MLP) which it feeds is made from."""
    return tuple(reader - block.reader for reader in graph.readers_of(graph.writers_of(block).start + writer))


def needed_everywhere(graph: Graph, alive: Bool[Tensor, " E"], number: int) -> Bool[Tensor, " W"]:
    """Which writers are needed at other positions than the answers, of those from block `number`'s own on."""
    everywhere = torch.zeros(graph.n_writers, dtype=torch.bool)
    for block in reversed(graph.blocks[number:-1]):
        needed = everywhere[graph.writers_of(block)]
        if block.kind == "attention" and graph.spec.coupled_heads:
            needed |= needed.any()  # a view: all heads of the layer, if one is
        if block is graph.blocks[number]:
            break
        rows = block.table(alive)
        if block.kind == "attention":  # its keys and values are, as far as they are alive
            needed = torch.cat([needed, torch.ones(block.n_readers - len(needed), dtype=torch.bool)])
        everywhere[: block.n_writers] |= rows[needed].any(0)
    return everywhere


def reached(
    later_blocks: Sequence[LiveBlock],
    changed: Bool[Tensor, " w"],
    everywhere: Bool[Tensor, " w"],
    *,
    everything: bool = False,
) -> Reach:
    """What a change of some writers reaches; with `everything` all blocks run, reached or not.

    Both masks are of the writers from the visited block's own on: which change at first, which are needed everywhere.
    """
    seen = changed.clone()
    steps: list[BlockStep] = []
    columns: tuple[set[int], set[int]] = set(), set()
    totals = [False, False]
    for number, later in enumerate(later_blocks):
        input_changes: list[InputChange] = []
        for i, shared_input in enumerate(later.shared_inputs):
            so_far = seen & everywhere if shared_input.everywhere else seen
            n, n_seen = len(shared_input.row), int(so_far.sum())
            read = so_far[:n] & shared_input.row
            n_read = int(read.sum())
            if not n_read and not everything:
                continue
            total = 2 * n_read > n_seen
            if total:  # and then without those that it does not see
                read = torch.cat([so_far[:n] & ~shared_input.row, so_far[n:]])
            some = read.nonzero()[:, 0].tolist()
            input_changes.append(InputChange(i, total, tuple((column, -1 if total else 1) for column in some)))
            columns[shared_input.everywhere].update(some)
            totals[shared_input.everywhere] |= total
        changing = {reader for change in input_changes for reader in later.shared_inputs[change.number].readers}
        writers = later.moved_by(changing)
        if input_changes:
            steps.append(BlockStep(number, tuple(input_changes), writers))
        seen[[later.column + w for w in writers]] = True
    return Reach(tuple(steps), (frozenset(columns[0]), frozenset(columns[1])), (totals[0], totals[1]))
