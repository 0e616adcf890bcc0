"""How the writers, readers and edges of a model are numbered, as tensors.

A *writer* adds to the residual stream (an embedding, an attention head after W_O, an MLP; in a layer whose MLP is taken
apart by a transcoder, each chosen feature and one error term; where it is taken apart into neurons, each of those and
the rest of them together). A *reader* reads from it (a head's query, key or value
input, an MLP's or a feature's input, the final norm). Writers are numbered in the order in which they
write, so every reader sees a *prefix* of them; the edges into one reader are therefore a contiguous run, and the edges
into one block of readers a dense matrix. All of the library rests on this numbering: edge `offset[r] + w` joins writer
`w` to reader `r`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from edgewise._errors import InputError
from edgewise.graph._blocks import Block, Roles
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
class Numbering:
    """The numbers of all writers, readers and edges of one model under one stated convention, and which are whose.

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
        set_(self, "writer_kind", _on_cpu([*first, *_flat(writers)]))
        set_(self, "writer_layer", _by_layer(n_written, before=self.n_embeddings))
        own = [[*range(heads)] + [-1] * (n - heads) for n in n_written]
        set_(self, "writer_head", _on_cpu([-1] * self.n_embeddings + _flat(own)))

        set_(self, "reader_kind", _on_cpu([*_flat(readers), LOGITS]))
        set_(self, "reader_layer", _by_layer([*map(len, readers), 1]))
        own = [input_heads + [-1] * (len(each) - len(inputs)) for each in readers]
        set_(self, "reader_head", _on_cpu([*_flat(own), -1]))

        set_(self, "starts", tuple(accumulate(n_written, initial=self.n_embeddings)))
        also = 0 if spec.parallel else heads  # the MLP, or its features, read their own layer's heads
        seen = [(self.starts[i], len(inputs), self.starts[i] + also, len(readers[i]) - len(inputs)) for i in layers]
        counts = _on_cpu([n for before, n_inputs, after, n in seen for n in (n_inputs, n)] + [1])
        values = _on_cpu([n for before, _, after, _ in seen for n in (before, after)] + [self.n_writers])
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
        readers = torch.repeat_interleave(torch.arange(self.n_readers, dtype=torch.int32, device="cpu"), self.visible)
        return readers.repeat(self.n_groups)

    @cached_property
    def edge_writer(self) -> Int[Tensor, " E"]:
        """Writer of each edge (int32)."""
        runs = [
            torch.arange(block.n_writers, dtype=torch.int32, device="cpu").repeat(block.n_readers)
            for block in self.blocks
        ]
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
        return {number: (_on_cpu(rows), _on_cpu(writers)) for number, (rows, writers) in found.items()}

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
            rows, writers = self.places.get(block.number, (_on_cpu([]), _on_cpu([])))
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


def _flat(lists: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(lists))


def _on_cpu(numbers: list[int]) -> Int[Tensor, " n"]:
    """Whole numbers as a graph has them, whatever PyTorch's default device is."""
    return torch.tensor(numbers, dtype=torch.long, device="cpu")


def _by_layer(counts: list[int], before: int = 0) -> Int[Tensor, " n"]:
    """The layer of each of so many per layer, after some that are of none (-1)."""
    layers = torch.arange(len(counts), device="cpu").repeat_interleave(_on_cpu(counts))
    return torch.cat([layers.new_full((before,), -1), layers])
