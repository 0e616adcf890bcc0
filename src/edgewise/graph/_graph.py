"""The graph of a model: its numbered writers, readers and edges, what they are called, and what carries signal."""

import re
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.graph._blocks import Block
from edgewise.graph._names import reader_names, writer_names
from edgewise.graph._numbering import Numbering
from edgewise.graph._spec import EMBED, ERROR


@dataclass(frozen=True)
class Graph(Numbering):
    """All writers, readers and edges of one model under one stated convention (see `Numbering`): their names, and which
    edges can carry signal.
    """

    # ----------------------------------------------------------------------------------------------------------- names

    @cached_property
    def writer_names(self) -> list[str]:
        """Names of the writers: `embed` (or `tok_embed`, `pos_embed`), `a5.h1`, `m0`; with features `m0.f17`,
        `m0.f17>2` (what it writes to layer 2), `m0.error`; with neurons `m0.n17`, `m0.n17+3` (neuron 17 and three more,
        a group), `m0.rest`.
        """
        return writer_names(self.spec)

    @cached_property
    def reader_names(self) -> list[str]:
        """Names of the readers: `a9.h3.q`, `a9.h3.k` (`a9.kv1.k` where query heads share it), `m0`, `m0.f17` or
        `m0.n17`, `m0.rest`, `logits`.
        """
        return reader_names(self.spec, self.n_kv_readers)

    def edge_name(self, edge: int) -> str:
        """The name of an edge, e.g. `a5.h1 -> a9.h3.q`, with its position group as ` @ subject`.

        Raises:
            InputError: the number is no edge.
        """
        if not 0 <= edge < self.n_edges:
            raise InputError(f"edge {edge}: the graph has edges 0 to {self.n_edges - 1}")
        return self.edge_names(torch.tensor([edge], device="cpu"))[0]

    def edge_names(self, edges: Int[Tensor, " n"]) -> list[str]:
        """The names of several edges."""
        writers, readers = self.edge_writer[edges].tolist(), self.edge_reader[edges].tolist()
        groups = [f" @ {name}" for name in self.spec.spans] or [""]
        return [
            f"{self.writer_names[writer]} -> {self.reader_names[reader]}{groups[edge // self.n_plain]}"
            for edge, writer, reader in zip(edges.tolist(), writers, readers, strict=True)
        ]

    def edge_id(self, name: str) -> int:
        """The number of the edge with this name.

        Raises:
            InputError: the name is not of the form `writer -> reader`, or one of them is not in this graph, or the
                writer is not before the reader.
        """
        match = re.fullmatch(r"\s*(\S+)\s*->\s*(\S+)\s*(?:@\s*(.*\S)\s*)?", name)
        if not match or (match[3] is None) != (not self.spec.spans):
            raise InputError(f"edge {name!r}: expected 'writer -> reader', such as {self.edge_name(0)!r}")
        if match[3] is not None and match[3] not in self.spec.spans:
            raise InputError(f"edge {name!r}: no position group {match[3]!r}; use {', '.join(self.spec.spans)}")
        writer, reader = self._writer_ids.get(match[1]), self._reader_ids.get(match[2])
        if writer is None:
            raise InputError(
                f"edge {name!r}: no writer {match[1]!r} in this graph, which has {_some(self.writer_names)}"
            )
        if reader is None:
            raise InputError(
                f"edge {name!r}: no reader {match[2]!r} in this graph, which has {_some(self.reader_names)}"
            )
        if writer >= int(self.visible[reader]):
            raise InputError(f"edge {name!r}: {match[1]} does not come before {match[2]}")
        group = self.spec.spans.index(match[3]) if match[3] is not None else 0
        return group * self.n_plain + int(self.offset[reader]) + writer

    @cached_property
    def _writer_ids(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.writer_names)}

    @cached_property
    def _reader_ids(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.reader_names)}

    # ---------------------------------------------------------------------------------------------- what carries signal

    def prune(self, kept: Bool[Tensor, " E"], ablation: str) -> Bool[Tensor, " E"]:
        """Drop the edges that cannot carry signal, given which edges are kept and what an ablated edge carries.

        An edge whose reader cannot reach `logits` through kept edges changes nothing, whatever the ablation. Under
        `interchange` with embedding writers, an edge whose writer cannot be reached from an embedding carries exactly
        its ablated value, so it changes nothing either. (An error term follows no circuit and counts as an embedding;
        where errors are kept, they reach every later reader.) Under the other ablations, a component without inputs
        still writes something else than its ablated value, and so it does where embeddings are not writers (they then
        reach every reader).

        With `GraphSpec.coupled_heads` a layer's heads are one unit. Each head's write is its share of their normed sum,
        so a head that nobody reads still changes the others': where any head of a layer is read on the way to
        `logits`, the inputs of all of them count, and where anything reaches one of them from an embedding, all of them
        carry signal. (Edges *from* a head that nobody needs are dropped as ever.)

        Under interchange this is said of prompts that correspond token by token. Between prompts of unequal length the
        engine drops by reachability of the logits alone.

        Args:
            kept: which edges the circuit keeps, `[E]`.
            ablation: the ablation's kind.

        Returns:
            The kept edges that can carry signal, `[E]`; their number is the circuit's *actual* size.
        """
        by_group = kept.view(self.n_groups, self.n_plain)
        reader, writer = (each[: self.n_plain].long() for each in (self.edge_reader, self.edge_writer))
        alive = by_group & self._reaches_logits(by_group)[:, reader]
        if ablation == "interchange" and self.n_embeddings:
            alive &= self._reached_from_embeddings(by_group)[:, writer]
        return alive.view(-1)

    def _reaches_logits(self, kept: Bool[Tensor, "P n"]) -> Bool[Tensor, "P R"]:
        useful_writer = torch.zeros(self.n_groups, self.n_writers, dtype=torch.bool, device="cpu")
        useful = torch.ones(self.n_groups, self.n_readers, dtype=torch.bool, device="cpu")
        for block in reversed(self.blocks):
            if block.kind != "logits":
                useful[:, block.readers] = self._readers_feeding(block, useful_writer[:, self.writers_of(block)])
            if block.number in self.places:
                rows, writers = self.places[block.number]
                found = useful_writer[:, writers].int()
                useful[:, block.readers] |= (
                    found.new_zeros(self.n_groups, block.n_readers).index_add(1, rows, found) > 0
                )
            useful_writer[:, : block.n_writers] |= (block.table(kept) & useful[:, block.readers, None]).any(1)
        return useful

    def _reached_from_embeddings(self, kept: Bool[Tensor, "P n"]) -> Bool[Tensor, "P W"]:
        reached = torch.zeros(self.n_groups, self.n_writers, dtype=torch.bool, device="cpu")
        reached[:, (self.writer_kind == EMBED) | (self.writer_kind == ERROR)] = True
        errors = [layer for layer, _ in self.spec.features] if self.spec.error == "kept" else []
        for block in self.blocks[:-1]:
            reader = (block.table(kept) & reached[:, None, : block.n_writers]).any(2)
            reader |= bool(errors) and errors[0] < block.layer  # what is kept reaches all readers after its layer
            if block.kind != "attention":
                reached[:, self.writers_of(block)] = reader
                if block.number in self.places:
                    rows, writers = self.places[block.number]
                    reached[:, writers] = reader[:, rows]
            else:
                query, key, value = reader.split(self.roles.sizes, 1)
                seen = (key | value).any(0, keepdim=True)  # by tokens of any group
                reached[:, self.writers_of(block)] = self._coupled(
                    query | seen.repeat_interleave(self.heads_per_key, 1)
                )
        return reached

    def _readers_feeding(self, block: Block, writers: Bool[Tensor, "P n"]) -> Bool[Tensor, "P m"]:
        """Which readers of the block feed any of the marked ones among its writers."""
        if block.kind != "attention":
            return writers
        writers = self._coupled(writers)
        # A key or value head serves a group of query heads, and tokens of any position group.
        shared = writers.view(self.n_groups, self.n_kv_readers, -1).any(2).any(0, keepdim=True)
        return torch.cat([writers, shared.expand(self.n_groups, -1), shared.expand(self.n_groups, -1)], 1)

    def running(self, alive: Bool[Tensor, " E"]) -> Bool[Tensor, " W"]:
        """The writers that must run for the edges that `prune` left: those that write one of them and, where heads are
        coupled, all heads of their layers.
        """
        found = torch.zeros(self.n_writers, dtype=torch.bool, device="cpu")
        found[self.edge_writer[alive].long()] = True
        for block in self.blocks:
            if block.kind == "attention":
                heads = self.writers_of(block)
                found[heads] = self._coupled(found[None, heads])[0]
        return found

    def _coupled(self, heads: Bool[Tensor, "P H"]) -> Bool[Tensor, "P H"]:
        """A layer's marked heads: all of them if one is, where heads are coupled (at a token, so in its group)."""
        return heads.any(1, keepdim=True).expand_as(heads) if self.spec.coupled_heads else heads


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + f", … {names[-1]}"
