"""The graph of a model: writers, readers and the edges between them, as tensors.

A *writer* adds to the residual stream (an embedding, an attention head after W_O, an MLP; in a layer whose MLP is taken
apart by a transcoder, each chosen feature and one error term; where it is taken apart into neurons, each of those and
the rest of them together). A *reader* reads from it (a head's query, key or value
input, an MLP's or a feature's input, the final norm). Writers are numbered in the order in which they
write, so every reader sees a *prefix* of them; the edges into one reader are therefore a contiguous run, and the edges
into one block of readers a dense matrix. All of the library rests on this numbering: edge `offset[r] + w` joins writer
`w` to reader `r`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.graph._blocks import Block, Roles
from edgewise.graph._names import reader_names, writer_names
from edgewise.graph._spec import (
    EMBED,
    EMBEDDING_NAMES,
    ERROR,
    FEATURE,
    FEATURE_IN,
    HEAD,
    KEY,
    LOGITS,
    MLP,
    MLP_IN,
    NEURON,
    NEURON_IN,
    QUERY,
    ROLES,
    VALUE,
    GraphSpec,
    Role,
)


@dataclass(frozen=True)
class Graph:
    """All writers, readers and edges of one model under one stated convention.

    Edges are numbered reader-major: edge `offset[r] + w` for each writer `w < visible[r]`. Where they carry positions,
    all of the first group come first, then all of the next: edge `group * n_plain + offset[r] + w`.
    """

    spec: GraphSpec
    blocks: tuple[Block, ...] = field(init=False, repr=False, compare=False)
    writer_kind: Int[Tensor, " W"] = field(init=False, repr=False, compare=False)
    writer_layer: Int[Tensor, " W"] = field(init=False, repr=False, compare=False)
    """Layer of each writer; -1 for embeddings."""
    writer_head: Int[Tensor, " W"] = field(init=False, repr=False, compare=False)
    """Head of each writer; -1 for all others."""
    reader_kind: Int[Tensor, " R"] = field(init=False, repr=False, compare=False)
    reader_layer: Int[Tensor, " R"] = field(init=False, repr=False, compare=False)
    """Layer of each reader; `n_layers` for `logits`."""
    reader_head: Int[Tensor, " R"] = field(init=False, repr=False, compare=False)
    """Head of each reader (the KV head for physical keys and values under grouped-query attention); -1 for MLPs,
    features, neurons and `logits`."""
    visible: Int[Tensor, " R"] = field(init=False, repr=False, compare=False)
    """How many writers each reader sees."""
    offset: Int[Tensor, " R"] = field(init=False, repr=False, compare=False)
    """First edge of each reader."""
    starts: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """First writer of each layer, and at last how many writers there are."""
    n_plain: int = field(init=False, compare=False)
    """Edges of one position group."""
    n_edges: int = field(init=False, compare=False)
    """E, all edges."""

    def __post_init__(self) -> None:
        """Number everything; all of it follows from the spec."""
        spec, set_ = self.spec, object.__setattr__
        heads, keys, layers = spec.n_heads, self.n_kv_readers, range(spec.n_layers)
        inputs = [QUERY] * heads + [KEY] * keys + [VALUE] * keys
        input_heads = [*range(heads), *range(keys), *range(keys)]
        writers = [[HEAD] * heads + self._writers_in_mlp(layer) for layer in layers]
        readers = [inputs + self._readers_in_mlp(layer) for layer in layers]

        first, n_written = [EMBED] * self.n_embeddings, [len(each) for each in writers]
        set_(self, "writer_kind", torch.tensor([*first, *_flat(writers)]))
        set_(self, "writer_layer", _by_layer(n_written, before=self.n_embeddings))
        own = [[*range(heads)] + [-1] * (n - heads) for n in n_written]
        set_(self, "writer_head", torch.tensor([-1] * self.n_embeddings + _flat(own)))

        set_(self, "reader_kind", torch.tensor([*_flat(readers), LOGITS]))
        set_(self, "reader_layer", _by_layer([*map(len, readers), 1]))
        own = [input_heads + [-1] * (len(each) - len(inputs)) for each in readers]
        set_(self, "reader_head", torch.tensor([*_flat(own), -1]))

        set_(self, "starts", tuple(accumulate(n_written, initial=self.n_embeddings)))
        also = 0 if spec.parallel else heads  # the MLP, or its features, read their own layer's heads
        seen = [(self.starts[i], len(inputs), self.starts[i] + also, len(readers[i]) - len(inputs)) for i in layers]
        counts = torch.tensor([n for before, n_inputs, after, n in seen for n in (n_inputs, n)] + [1])
        values = torch.tensor([n for before, _, after, _ in seen for n in (before, after)] + [self.n_writers])
        visible = values.repeat_interleave(counts)
        ends = visible.cumsum(0)
        set_(self, "visible", visible)
        set_(self, "offset", ends - visible)
        set_(self, "n_plain", int(ends[-1]))
        set_(self, "n_edges", self.n_plain * self.n_groups)
        set_(self, "blocks", tuple(self._make_blocks(counts.tolist(), values.tolist())))

    def _make_blocks(self, n_readers: list[int], n_writers: list[int]) -> Iterator[Block]:
        reader = offset = 0
        for number, (n, seen) in enumerate(zip(n_readers, n_writers, strict=True)):
            layer = number // 2
            kind = (
                "logits" if layer == self.spec.n_layers else "attention" if number % 2 == 0 else self._mlp_kind(layer)
            )
            yield Block(number, kind, layer, reader, n, seen, offset)
            reader, offset = reader + n, offset + n * seen

    def _mlp_kind(self, layer: int) -> Literal["mlp", "features", "neurons"]:
        if self.spec.neurons_of(layer) is not None:
            return "neurons"
        return "mlp" if self.spec.features_of(layer) is None else "features"

    def _writers_in_mlp(self, layer: int) -> list[int]:
        """Kinds of the writers in the place of a layer's MLP."""
        features, neurons = self.spec.features_of(layer), self.spec.neurons_of(layer)
        if neurons is not None:
            return [NEURON] * len(neurons) + [MLP]
        if features is None:
            return [MLP]
        return [FEATURE] * (len(features) + len(self.spec.places_at(layer))) + [ERROR] * self.n_errors

    def _readers_in_mlp(self, layer: int) -> list[int]:
        features, neurons = self.spec.features_of(layer), self.spec.neurons_of(layer)
        if neurons is not None:
            return [NEURON_IN] * len(neurons) + [MLP_IN]
        return [MLP_IN] if features is None else [FEATURE_IN] * len(features)

    @property
    def n_errors(self) -> int:
        """How many error terms a layer with features has as writers: 1, or 0 where their policy leaves them out."""
        return int(self.spec.error == "scored")

    @property
    def n_groups(self) -> int:
        """P, how many position groups have edges of their own; 1 where edges carry no positions."""
        return len(self.spec.spans) or 1

    @property
    def n_embeddings(self) -> int:
        """Number of embedding writers: 0, 1 or 2."""
        return len(EMBEDDING_NAMES[self.spec.embeddings])

    @property
    def n_kv_readers(self) -> int:
        """Key readers (and as many value readers) per layer."""
        return self.spec.n_kv_heads if self.spec.kv == "physical" else self.spec.n_heads

    @property
    def n_writers(self) -> int:
        """W, the number of writers."""
        return self.starts[-1]

    @property
    def n_readers(self) -> int:
        """R, the number of readers."""
        return len(self.visible)

    @cached_property
    def edge_reader(self) -> Int[Tensor, " E"]:
        """Reader of each edge (int32)."""
        readers = torch.repeat_interleave(torch.arange(self.n_readers, dtype=torch.int32), self.visible)
        return readers.repeat(self.n_groups)

    @cached_property
    def edge_writer(self) -> Int[Tensor, " E"]:
        """Writer of each edge (int32)."""
        runs = [torch.arange(block.n_writers, dtype=torch.int32).repeat(block.n_readers) for block in self.blocks]
        return torch.cat(runs).repeat(self.n_groups)

    # ------------------------------------------------------------------------------------------------------- addresses

    def attention(self, layer: int) -> Block:
        """The readers of a layer's heads: its queries, then its keys, then its values."""
        return self.blocks[2 * layer]

    def mlp(self, layer: int) -> Block:
        """The reader of a layer's MLP, or those of the features or neurons in its place; the rest's comes last."""
        return self.blocks[2 * layer + 1]

    @property
    def final(self) -> Block:
        """The block of the one reader `logits`, the final norm."""
        return self.blocks[-1]

    def block_of(self, reader: int) -> Block:
        """The block that a reader belongs to."""
        return self.blocks[self._block_numbers[reader]]

    @cached_property
    def _block_numbers(self) -> list[int]:
        return [block.number for block in self.blocks for _ in range(block.n_readers)]

    def first_block_reading(self, writer: int) -> Block:
        """The first block whose readers see a writer."""
        return next(block for block in self.blocks if block.n_writers > writer)

    def writer(self, layer: int, head: int | None = None) -> int:
        """The number of a head as a writer; of the layer's MLP where no head is given.

        Raises:
            InputError: there is no such layer or head, or features stand in that MLP's place.
        """
        mlp = head is None
        if not 0 <= layer < self.spec.n_layers or not (mlp or 0 <= head < self.spec.n_heads):
            raise InputError(
                f"writer: layer {layer}, head {head}; the graph has {self.spec.n_layers} layers of "
                f"{self.spec.n_heads} heads"
            )
        if mlp and (kind := self.mlp(layer).kind) != "mlp":
            raise InputError(f"writer: layer {layer} has {kind} in its MLP's place; use writers_of")
        return self.starts[layer] + (self.spec.n_heads if mlp else head)

    def writers(self, layer: int) -> slice:
        """All writers of a layer: its heads, then its MLP, or its neurons and the rest of them, or its features, the
        places of earlier layers' features, and the error term.
        """
        return slice(self.starts[layer], self.starts[layer + 1])

    def writers_of(self, block: Block) -> slice:
        """The writers that the readers of a block (not `logits`) feed in its own layer: heads, the MLP, neurons and the
        rest of them, or features, one for each reader. A layer's places of earlier features (see `places`) and its
        error term, which nothing feeds, come right after.
        """
        first = self.starts[block.layer]
        heads = first + self.spec.n_heads
        return slice(first, heads) if block.kind == "attention" else slice(heads, heads + block.n_readers)

    def whole(self, layer: int) -> tuple[int, slice, int] | None:
        """What is left of a layer's MLP as a whole, the MLP itself or the rest of its neurons: its reader, that
        reader's edges, and its writer; None for a layer with features.
        """
        block = self.mlp(layer)
        if block.kind == "features":
            return None
        last = block.edges.stop
        return block.readers.stop - 1, slice(last - block.n_writers, last), self.writers_of(block).stop - 1

    def error_writer(self, layer: int) -> int | None:
        """A layer's error term; None where it has none, or has it as no writer."""
        return self.starts[layer + 1] - 1 if self.mlp(layer).kind == "features" and self.n_errors else None

    @cached_property
    def places(self) -> dict[int, tuple[Int[Tensor, " p"], Int[Tensor, " p"]]]:
        """By block of features that write to later layers too: for each place, its feature's number within the block,
        and the place's writer.
        """
        found: dict[int, tuple[list[int], list[int]]] = {}
        for layer, own in self.spec.features:
            for i, (source, feature) in enumerate(self.spec.places_at(layer)):
                rows, writers = found.setdefault(self.mlp(source).number, ([], []))
                rows.append((self.spec.features_of(source) or ()).index(feature))
                writers.append(self.starts[layer] + self.spec.n_heads + len(own) + i)
        return {number: (torch.tensor(rows), torch.tensor(writers)) for number, (rows, writers) in found.items()}

    def readers_of(self, writer: int) -> tuple[int, ...]:
        """The readers that feed a writer, which is what `writers_of` says of a block the other way round: a head's
        query, key and value; an MLP's, a neuron's or a feature's input; none for an embedding or an error term.
        """
        layer, head = int(self.writer_layer[writer]), int(self.writer_head[writer])
        if layer < 0:
            return ()
        if head >= 0:
            first, key = self.attention(layer).reader, self.key_of(head)
            return tuple(first + places[key if kind else head] for kind, places in enumerate(self.roles))
        block = self.mlp(layer)
        place = writer - self.writers_of(block).start
        if place < block.n_readers:
            return (block.reader + place,)
        for number, (rows, writers) in self.places.items():
            if writer in writers:
                return (self.blocks[number].reader + int(rows[writers == writer]),)
        return ()

    def writers_fed_by(self, reader: int) -> tuple[int, ...]:
        """The writers that a reader feeds: those whose `readers_of` it is one of; none for `logits`."""
        block = self.block_of(reader)
        if block.kind == "logits":
            return ()
        first, place = self.writers_of(block).start, reader - block.reader
        if block.kind != "attention":
            rows, writers = self.places.get(block.number, (torch.empty(0), torch.empty(0)))
            return (first + place, *map(int, writers[rows == place]))
        role, number = self.roles.of(place)
        return tuple(first + head for head in ([number] if role == "query" else self.heads_of(number)))

    def role(self, reader: int) -> Role:
        """What a reader is to its component."""
        return ROLES[int(self.reader_kind[reader])]

    @cached_property
    def roles(self) -> Roles:
        """Every layer's attention readers by role, counted within their block."""
        heads, keys = self.spec.n_heads, self.n_kv_readers
        return Roles(range(heads), range(heads, heads + keys), range(heads + keys, heads + 2 * keys))

    @property
    def heads_per_key(self) -> int:
        """How many query heads share a key reader, and a value reader."""
        return self.spec.n_heads // self.n_kv_readers

    @property
    def copies_per_key(self) -> int:
        """How many key readers a model's key head has: 1, or more where keys and values are `expanded`."""
        return self.n_kv_readers // self.spec.n_kv_heads

    def key_of(self, head: int) -> int:
        """Which of its layer's key readers, and of its value readers, a query head uses."""
        return head // self.heads_per_key

    def heads_of(self, key: int) -> range:
        """The query heads that use one of their layer's key readers."""
        return range(key * self.heads_per_key, (key + 1) * self.heads_per_key)

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
        return self.edge_names(torch.tensor([edge]))[0]

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
        useful_writer = torch.zeros(self.n_groups, self.n_writers, dtype=torch.bool)
        useful = torch.ones(self.n_groups, self.n_readers, dtype=torch.bool)
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
        reached = torch.zeros(self.n_groups, self.n_writers, dtype=torch.bool)
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
        found = torch.zeros(self.n_writers, dtype=torch.bool)
        found[self.edge_writer[alive].long()] = True
        for block in self.blocks:
            if block.kind == "attention":
                heads = self.writers_of(block)
                found[heads] = self._coupled(found[None, heads])[0]
        return found

    def _coupled(self, heads: Bool[Tensor, "P H"]) -> Bool[Tensor, "P H"]:
        """A layer's marked heads: all of them if one is, where heads are coupled (at a token, so in its group)."""
        return heads.any(1, keepdim=True).expand_as(heads) if self.spec.coupled_heads else heads


def _flat(lists: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(lists))


def _by_layer(counts: list[int], before: int = 0) -> Int[Tensor, " n"]:
    """The layer of each of so many per layer, after some that are of none (-1)."""
    layers = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return torch.cat([torch.full((before,), -1), layers])


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + f", … {names[-1]}"
