"""The graph of a model: writers, readers and the edges between them, as tensors.

A *writer* adds to the residual stream (an embedding, an attention head after W_O, an MLP; in a layer whose MLP is taken
apart by a transcoder, each chosen feature and one error term). A *reader* reads from it (a head's query, key or value
input, an MLP's or a feature's input, the final norm). Writers are numbered in the order in which they
write, so every reader sees a *prefix* of them; the edges into one reader are therefore a contiguous run, and the edges
into one block of readers a dense matrix. All of the library rests on this numbering: edge `offset[r] + w` joins writer
`w` to reader `r`.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate, chain
from operator import index
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from edgewise._errors import InputError

Embeddings = Literal["joint", "split", "off"]
KeyValue = Literal["physical", "expanded"]

EMBED, HEAD, MLP, FEATURE, ERROR = 0, 1, 2, 3, 4
"""Kinds of writer, as in `Graph.writer_kind`."""
QUERY, KEY, VALUE, MLP_IN, LOGITS, FEATURE_IN = 0, 1, 2, 3, 4, 5
"""Kinds of reader, as in `Graph.reader_kind`."""

Features = tuple[tuple[int, tuple[int, ...]], ...]
"""Layers with chosen features of a transcoder in the MLP's place, in order, and which features."""

EMBEDDING_NAMES: dict[str, tuple[str, ...]] = {"joint": ("embed",), "split": ("tok_embed", "pos_embed"), "off": ()}


@dataclass(frozen=True)
class GraphSpec:
    """Everything that decides which edges a model has; two models with equal specs have the same graph."""

    n_layers: int
    n_heads: int
    """Query heads per layer."""
    n_kv_heads: int
    """Key and value heads per layer; fewer than `n_heads` under grouped-query attention."""
    embeddings: Embeddings = "joint"
    """`joint`: one embedding writer; `split`: token and position embeddings apart; `off`: not writers, they reach every
    reader unmasked."""
    kv: KeyValue = "physical"
    """`physical`: one key and one value reader per KV head; `expanded`: one per query head (as EAP-IG and MIB
    count)."""
    parallel: bool = False
    """Attention and MLP of a layer read the same residual stream (GPT-NeoX), so the MLP does not read its own layer's
    heads."""
    spans: tuple[str, ...] = ()
    """Names of the position groups, where edges carry positions: each group then has all edges for itself."""
    features: Features = ()
    """Layers whose MLP is taken apart, and into which features of its transcoder. What these features do not explain
    of the MLP's output is the layer's error term, a writer without a reader."""

    def __post_init__(self) -> None:
        """Check the sizes. Raises `InputError` for a spec that describes no model."""
        if self.n_layers < 1 or self.n_heads < 1 or self.n_kv_heads < 1:
            raise InputError(f"graph: layers and heads must be positive, got {self}")
        if self.n_heads % self.n_kv_heads:
            raise InputError(f"graph: {self.n_heads} query heads cannot share {self.n_kv_heads} KV heads evenly")
        if self.embeddings not in EMBEDDING_NAMES:
            raise InputError(f"graph: embeddings={self.embeddings!r}; choose one of joint, split, off")
        if self.kv not in ("physical", "expanded"):
            raise InputError(f"graph: kv={self.kv!r}; choose physical or expanded")
        object.__setattr__(self, "spans", tuple(self.spans))  # a file's header gives a list
        if len(set(self.spans)) != len(self.spans) or not all(isinstance(name, str) for name in self.spans):
            raise InputError(f"graph: spans={self.spans}; give names that differ")
        object.__setattr__(self, "features", _checked_features(self.features, self.n_layers))

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain values, for a file's header."""
        return {name: value for name, value in asdict(self).items() if name not in ("spans", "features") or value}

    def features_of(self, layer: int) -> tuple[int, ...] | None:
        """A layer's features; None for a layer with an MLP."""
        return dict(self.features).get(layer)


class Block(NamedTuple):
    """Consecutive readers that see the same writers: their edges are the dense matrix `[n_readers, n_writers]` at
    `offset`.
    """

    kind: Literal["attention", "mlp", "features", "logits"]
    layer: int
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
    features and `logits`."""
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
            kind = "attention" if number % 2 == 0 else "mlp" if self.spec.features_of(layer) is None else "features"
            yield Block("logits" if layer == self.spec.n_layers else kind, layer, reader, n, seen, offset)
            reader, offset = reader + n, offset + n * seen

    def _writers_in_mlp(self, layer: int) -> list[int]:
        """Kinds of the writers in the place of a layer's MLP."""
        features = self.spec.features_of(layer)
        return [MLP] if features is None else [FEATURE] * len(features) + [ERROR]

    def _readers_in_mlp(self, layer: int) -> list[int]:
        features = self.spec.features_of(layer)
        return [MLP_IN] if features is None else [FEATURE_IN] * len(features)

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

    @cached_property
    def writer_names(self) -> list[str]:
        """Names of the writers: `embed` (or `tok_embed`, `pos_embed`), `a5.h1`, `m0`, or `m0.f17`, `m0.error`."""
        names = list(EMBEDDING_NAMES[self.spec.embeddings])
        for layer in range(self.spec.n_layers):
            names += [f"a{layer}.h{head}" for head in range(self.spec.n_heads)] + self._mlp_names(layer)
            names += [f"m{layer}.error"] if self.spec.features_of(layer) is not None else []
        return names

    def _mlp_names(self, layer: int) -> list[str]:
        """Of a layer's MLP, or of its features."""
        features = self.spec.features_of(layer)
        return [f"m{layer}"] if features is None else [f"m{layer}.f{feature}" for feature in features]

    @cached_property
    def reader_names(self) -> list[str]:
        """Names of the readers: `a9.h3.q`, `a9.h3.k` (`a9.kv1.k` where query heads share it), `m0` or `m0.f17`,
        `logits`.
        """
        heads, keys = range(self.spec.n_heads), range(self.n_kv_readers)
        shared = "h" if self.n_kv_readers == self.spec.n_heads else "kv"
        names = []
        for layer in range(self.spec.n_layers):
            names += [f"a{layer}.h{head}.q" for head in heads]
            names += [f"a{layer}.{shared}{head}.{kind}" for kind in "kv" for head in keys]
            names += self._mlp_names(layer)
        return [*names, "logits"]

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

    def prune(self, kept: Bool[Tensor, " E"], ablation: str) -> Bool[Tensor, " E"]:
        """Drop the edges that cannot carry signal, given which edges are kept and what an ablated edge carries.

        An edge whose reader cannot reach `logits` through kept edges changes nothing, whatever the ablation. Under
        `interchange` with embedding writers, an edge whose writer cannot be reached from an embedding (or from an error
        term, which follows no circuit) carries exactly its ablated value, so it changes nothing either; under the
        other ablations, a component without inputs still writes something else than its ablated value, and so it does
        where embeddings are not writers (they then reach every reader).

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
            readers = slice(block.reader, block.reader + block.n_readers)
            if block.kind != "logits":
                useful[:, readers] = self._readers_of(block, useful_writer[:, self.writers_of(block)])
            edges = kept[:, block.edges].view(self.n_groups, block.n_readers, block.n_writers)
            useful_writer[:, : block.n_writers] |= (edges & useful[:, readers, None]).any(1)
        return useful

    def _reached_from_embeddings(self, kept: Bool[Tensor, "P n"]) -> Bool[Tensor, "P W"]:
        reached = torch.zeros(self.n_groups, self.n_writers, dtype=torch.bool)
        reached[:, (self.writer_kind == EMBED) | (self.writer_kind == ERROR)] = True
        for block in self.blocks[:-1]:
            edges = kept[:, block.edges].view(self.n_groups, block.n_readers, block.n_writers)
            reader = (edges & reached[:, None, : block.n_writers]).any(2)
            if block.kind != "attention":
                reached[:, self.writers_of(block)] = reader
            else:
                query, key, value = reader.split([self.spec.n_heads, self.n_kv_readers, self.n_kv_readers], 1)
                group = self.spec.n_heads // self.n_kv_readers
                seen = (key | value).any(0, keepdim=True)  # by tokens of any group
                reached[:, self.writers_of(block)] = query | seen.repeat_interleave(group, 1)
        return reached

    def _readers_of(self, block: Block, writers: Bool[Tensor, "P n"]) -> Bool[Tensor, "P m"]:
        """Which readers of the block feed any of the marked ones among its writers."""
        if block.kind != "attention":
            return writers
        # A key or value head serves a group of query heads, and tokens of any position group.
        shared = writers.view(self.n_groups, self.n_kv_readers, -1).any(2).any(0, keepdim=True)
        return torch.cat([writers, shared.expand(self.n_groups, -1), shared.expand(self.n_groups, -1)], 1)

    def writers_of(self, block: Block) -> slice:
        """The writers that the readers of a block (not `logits`) feed: a layer's heads, its MLP, or its features, one
        for each reader. An error term, which nothing feeds, comes right after its layer's features.
        """
        first = self.starts[block.layer]
        heads = first + self.spec.n_heads
        return slice(first, heads) if block.kind == "attention" else slice(heads, heads + block.n_readers)


def _flat(lists: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(lists))


def _by_layer(counts: list[int], before: int = 0) -> Int[Tensor, " n"]:
    """The layer of each of so many per layer, after some that are of none (-1)."""
    layers = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return torch.cat([torch.full((before,), -1), layers])


def _checked_features(features: Features, n_layers: int) -> Features:
    """In order of the layers, each layer's features ascending. Raises `InputError`."""
    try:
        found = sorted((index(layer), tuple(sorted(map(index, chosen)))) for layer, chosen in features)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"graph: features={features!r:.60}; give pairs of a layer and its features' numbers"
        ) from error
    for number, (layer, chosen) in enumerate(found):
        if not 0 <= layer < n_layers or (number and found[number - 1][0] == layer):
            raise InputError(f"graph: features of layer {layer}; name each of the layers 0 to {n_layers - 1} once")
        if (chosen and chosen[0] < 0) or len(set(chosen)) < len(chosen):
            raise InputError(f"graph: features of layer {layer}: give numbers from 0 on, each once")
    return tuple(found)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + f", … {names[-1]}"
