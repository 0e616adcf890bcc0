"""Circuits of GPT-2 small that people found by hand, as data, and how their components become edges.

The papers name heads, their classes and what each class reads from which; they do not list edges. The reading here is
that of Conmy et al. 2023 (ACDC, appendices on IOI and greater-than), said out in full in each function; another reading
gives other edges.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.graph import EMBED, Graph

_QKV, _Q = "qkv", "q"


class Published(NamedTuple):
    """A circuit in its paper's words."""

    source: str
    heads: dict[str, list[list[int]]]
    """For each class its heads, as [layer, head]."""
    mlps: dict[str, list[int]]
    """For each class of MLPs their layers."""
    connections: list[list[str]]
    """[from, to, inputs]: classes, `embeddings` or `logits`; the inputs that heads read them at, `in` for others."""

    def writers(self, name: str) -> list[str]:
        """The writers of a class."""
        return [f"a{layer}.h{head}" for layer, head in self.heads.get(name, ())] + self._mlps(name)

    def readers(self, name: str, inputs: str) -> list[str]:
        """The readers of a class."""
        if name == "logits":
            return ["logits"]
        heads = [f"a{layer}.h{head}.{each}" for layer, head in self.heads.get(name, ()) for each in inputs]
        return heads + self._mlps(name)

    def _mlps(self, name: str) -> list[str]:
        return [f"m{layer}" for layer in self.mlps.get(name, ())]


IOI, GREATER_THAN = (
    Published(**row) for row in json.loads(Path(__file__).with_name("published.json").read_text("utf-8")).values()
)
"""The 26 heads of indirect object identification in seven classes (the paper leaves all MLPs alone); the nine heads and
eight MLPs of greater-than."""


def ioi_wang(graph: Graph) -> Circuit:
    """The circuit of indirect object identification in GPT-2 small (Wang et al. 2022): 26 heads.

    Edges: those between classes that the paper describes, into the inputs (q, k or v) that it names (`IOI`). The paper
    ablates heads alone, so all MLPs are part of the circuit: each reads the embeddings, the earlier MLPs and the
    circuit's heads before it, and writes to the logits and to all three inputs of the circuit's later heads; the
    embeddings also write to the logits. 963 edges where embeddings are joint.

    Args:
        graph: of GPT-2 small, under any convention of its embeddings.

    Raises:
        edgewise.InputError: it is another model's graph, or its edges carry positions.
    """
    pairs = list(_pairs(IOI, graph))
    heads = [head for name in IOI.heads for head in IOI.writers(name)]
    mlps, inputs = IOI.writers("MLPs"), [reader for name in IOI.heads for reader in IOI.readers(name, _QKV)]
    embeddings = _embeddings(graph)
    pairs += [(writer, mlp) for writer in (*embeddings, *heads, *mlps) for mlp in mlps]
    pairs += [(mlp, reader) for mlp in mlps for reader in (*inputs, "logits")]
    pairs += [(writer, "logits") for writer in embeddings]
    return _circuit(graph, pairs, IOI, "ioi-wang")


def greater_than_hanna(graph: Graph, *, clean_queries: bool = True) -> Circuit:
    """The circuit of greater-than in GPT-2 small (Hanna, Liu & Variengien 2023): nine heads and eight MLPs.

    Edges: those between classes that the paper draws, into all three inputs of a head, and from each MLP to the later
    ones of its class (`GREATER_THAN`). The paper leaves the queries of the middle heads clean: with
    `clean_queries`, all MLPs before a middle head write to its query, and MLPs 0 to 8 to one another. 235 edges where
    embeddings are joint, 188 without.

    Args:
        graph: of GPT-2 small, under any convention of its embeddings.
        clean_queries: whether to add these edges.

    Raises:
        edgewise.InputError: it is another model's graph, or its edges carry positions.
    """
    pairs = list(_pairs(GREATER_THAN, graph))
    if clean_queries:
        queries = GREATER_THAN.readers("middle heads", _Q)
        before = [f"m{layer}" for layer in range(9)]
        pairs += [(mlp, reader) for mlp in before for reader in (*queries, *before)]
    return _circuit(graph, pairs, GREATER_THAN, "greater-than-hanna")


PUBLISHED = MappingProxyType({"ioi-wang": ioi_wang, "greater-than-hanna": greater_than_hanna})
"""By the names that `edgewise import` takes."""


def _embeddings(graph: Graph) -> list[str]:
    return [name for name, kind in zip(graph.writer_names, graph.writer_kind.tolist(), strict=True) if kind == EMBED]


def _pairs(circuit: Published, graph: Graph) -> Iterator[tuple[str, str]]:
    """Writers and readers of the connections between classes."""
    for source, target, inputs in circuit.connections:
        writers = _embeddings(graph) if source == "embeddings" else circuit.writers(source)
        yield from ((writer, reader) for writer in writers for reader in circuit.readers(target, inputs))


def _circuit(graph: Graph, pairs: list[tuple[str, str]], published: Published, name: str) -> Circuit:
    """The circuit of the pairs whose writer comes before their reader."""
    spec = graph.spec
    if (spec.n_layers, spec.n_heads, spec.n_kv_heads, spec.parallel) != (12, 12, 12, False) or spec.spans:
        raise InputError(
            f"{name}: the graph is of {spec.n_layers} layers of {spec.n_heads} heads; this is a circuit of GPT-2 small "
            "(12 layers of 12 heads), whose edges carry no positions"
        )
    writers = {each: number for number, each in enumerate(graph.writer_names)}
    readers = {each: number for number, each in enumerate(graph.reader_names)}
    kept = torch.zeros(graph.n_edges, dtype=torch.bool)
    for writer, reader in pairs:
        w, r = writers[writer], readers[reader]
        if w < int(graph.visible[r]):
            kept[int(graph.offset[r]) + w] = True
    method = {"name": name, "source": published.source}
    return Circuit(graph, kept, None, {"graph": spec.to_dict(), "model": {"id": "gpt2"}, "method": method})
