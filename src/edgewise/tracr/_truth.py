"""The true circuit of a compiled program, computed: which edges its output needs, and which are enough.

"True" depends on what a removed edge carries, on the embedding convention and on what must be equal, so a `Truth` says
all three. Nothing is taken from the compiler's plan or from a discovery method.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from edgewise._errors import InputError
from edgewise.engine import Engine
from edgewise.graph import Graph, GraphSpec
from edgewise.runs import check_record, read_record, write_atomically
from edgewise.tracr._agreement import Agreement, Output
from edgewise.tracr._live import live_edges

MOST_CIRCUITS = 1 << 16
"""Up to how many circuits all are tried."""
ORDERS = 8
"""In how many random orders edges are taken away where there are too many circuits to try all."""
_AT_A_TIME = 512


@dataclass(frozen=True, eq=False)
class Truth:
    """The true circuits of one program under one ablation."""

    program: str
    graph: Graph
    ablation: str
    output: str
    """What must be equal: `decoded` or `raw`, see `Agreement`."""
    necessary: Bool[Tensor, " E"]
    """The edges whose removal alone changes the output on some input."""
    minimal: tuple[Bool[Tensor, " E"], ...]
    """The sets of edges that give the output on every input and of which no part does, the smallest first."""
    live: Bool[Tensor, " E"]
    """The edges that can carry anything (see `live_edges`); the others are in no minimal set."""
    inputs: int
    """Inputs, or pairs of inputs, on which circuits were tried."""
    circuits: int
    """How many circuits were tried."""
    exhaustive: bool
    """True: all circuits were tried, so there are no other minimal sets. False: no part of these sets with one or two
    edges less is enough, and taking edges away in many random orders led to no others."""
    complete: bool = True
    """Whether the inputs are all that the program has. False: a sample; on others an edge more may be needed."""

    @property
    def edges(self) -> Bool[Tensor, " E"]:
        """The smallest of the minimal sets, `[E]`."""
        return self.minimal[0]

    @property
    def unique(self) -> bool:
        """Whether only one minimal set was found."""
        return len(self.minimal) == 1

    def to_dict(self) -> dict[str, Any]:
        """As plain values, with edges by name."""
        necessary, *minimal, live = (
            self.graph.edge_names(edges.nonzero()[:, 0]) for edges in (self.necessary, *self.minimal, self.live)
        )
        edges = {"necessary": necessary, "minimal": minimal, "live": live}
        return vars(self) | {"graph": self.graph.spec.to_dict()} | edges

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_atomically(path, json.dumps(self.to_dict(), indent=2) + "\n")

    @staticmethod
    def load(path: str | Path) -> "Truth":
        """Read a truth.

        Raises:
            InputError: there is no such file, it is no truth, or an edge in it is none of its graph.
        """
        try:
            plain = read_record(path)
            graph = Graph(GraphSpec.from_dict(plain.pop("graph")))
            sets = {name: _edges(graph, plain.pop(name)) for name in ("necessary", "live")}
            minimal = tuple(_edges(graph, names) for names in plain.pop("minimal"))
            if not minimal:
                raise InputError("no minimal set of edges; give at least one")
            found = Truth(graph=graph, minimal=minimal, **sets, **plain)
            check_record(found)
            return found
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); give the file of a truth") from None
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: not the truth of a program ({type(error).__name__}: {error})") from None


def find_truth(engine: Engine, output: Output = "decoded", most: int = MOST_CIRCUITS) -> Truth:
    """Compute the true circuits of a compiled program.

    Args:
        engine: the model, its graph and the ablation.
        output: what must be equal, see `Agreement`.
        most: try all circuits if they are at most so many.

    Raises:
        InputError: the model is not a compiled program, or its graph leaves embeddings out.
    """
    if not engine.graph.n_embeddings:
        raise InputError("truth: the graph leaves out embeddings, where a program's circuits begin; use joint or split")
    agreement = Agreement(engine, output)
    graph, live = engine.graph, live_edges(engine)
    numbers = live.nonzero()[:, 0]
    without = torch.ones(len(numbers), graph.n_edges, dtype=torch.bool)
    without[torch.arange(len(numbers)), numbers] = False
    necessary = torch.zeros_like(live)
    necessary[numbers[~agreement.holds(without)]] = True
    tried = len(numbers)

    circuits = _all_circuits(graph, live, most)
    if circuits is not None:
        minimal = _smallest(torch.cat([kept[agreement.holds(kept)] for kept in circuits.split(_AT_A_TIME)]))
        tried += len(circuits)
    else:
        minimal, more = _by_deletion(agreement, live)
        tried += more
    return Truth(
        agreement.program.name,
        graph,
        engine.ablation.kind,
        output,
        necessary,
        minimal,
        live,
        len(agreement.pairs),
        tried,
        exhaustive=circuits is not None,
        complete=agreement.program.complete,
    )


def _all_circuits(graph: Graph, live: Bool[Tensor, " E"], most: int) -> Bool[Tensor, "n E"] | None:
    """Every set of live edges all of which have a way to the output; None if there are more than `most`."""
    found = []
    for kept in _grown(graph, live.tolist(), graph.n_readers - 1, [], frozenset()):
        if len(found) == most:
            return None
        found.append(kept)
    masks = torch.zeros(len(found), graph.n_edges, dtype=torch.bool)
    rows = torch.tensor([row for row, kept in enumerate(found) for _ in kept], dtype=torch.long)
    masks[rows, torch.tensor([edge for kept in found for edge in kept], dtype=torch.long)] = True
    return masks


def _grown(graph: Graph, live: list[bool], reader: int, kept: list[int], heard: frozenset[int]) -> Iterator[list[int]]:
    """All ways to go on from the edges kept so far, which enter the readers after this one; `heard` are the writers
    that they come from. Readers come after all that they read, so going backwards each is met once.
    """
    while reader >= 0 and not _is_heard(graph, reader, heard):
        reader -= 1
    if reader < 0:
        yield kept
        return
    offset = int(graph.offset[reader])
    choices = [writer for writer in range(int(graph.visible[reader])) if live[offset + writer]]
    for size in range(len(choices) + 1):
        for writers in combinations(choices, size):
            entering = [offset + writer for writer in writers]
            yield from _grown(graph, live, reader - 1, [*kept, *entering], heard | frozenset(writers))


def _is_heard(graph: Graph, reader: int, heard: frozenset[int]) -> bool:
    """Whether anything listens to what this reader's component writes."""
    return graph.role(reader) == "logits" or any(writer in heard for writer in graph.writers_fed_by(reader))


def _smallest(sufficient: Bool[Tensor, "n E"]) -> tuple[Bool[Tensor, " E"], ...]:
    """The sets of which no other is a part, the smallest first."""
    minimal: list[Tensor] = []
    for edges in sufficient[sufficient.sum(1).argsort(stable=True)]:
        if not any(bool((part <= edges).all()) for part in minimal):
            minimal.append(edges)
    return tuple(minimal)


def _by_deletion(agreement: Agreement, live: Bool[Tensor, " E"]) -> tuple[tuple[Bool[Tensor, " E"], ...], int]:
    """Minimal sets by taking edges away in random orders until no single one and no two can go; and circuits tried."""
    found: dict[bytes, Tensor] = {}
    tried = 0
    for seed in range(ORDERS):
        generator = torch.Generator().manual_seed(seed)
        kept, smaller = live, live
        while smaller is not None:
            kept = smaller
            numbers = kept.nonzero()[:, 0]
            numbers = numbers[torch.randperm(len(numbers), generator=generator)].tolist()
            for edge in numbers:
                without = kept.index_fill(0, torch.tensor([edge]), False)
                kept = without if bool(agreement.holds(without[None])) else kept
            tried += len(numbers)
            if kept.numpy().tobytes() in found:
                break
            numbers = kept.nonzero()[:, 0].tolist()
            fewer = [[edge] for edge in numbers] + [list(two) for two in combinations(numbers, 2)]
            if not fewer:  # everything can go
                break
            masks = torch.stack([kept.index_fill(0, torch.tensor(edges), False) for edges in fewer])
            tried += len(masks)
            good = torch.cat([agreement.holds(some) for some in masks.split(_AT_A_TIME)])
            smaller = masks[good][0] if bool(good.any()) else None
        found.setdefault(kept.numpy().tobytes(), kept)
    return _smallest(torch.stack(list(found.values()))), tried


def _edges(graph: Graph, names: list[str]) -> Bool[Tensor, " E"]:
    edges = torch.zeros(graph.n_edges, dtype=torch.bool)
    edges[[graph.edge_id(name) for name in names]] = True
    return edges
