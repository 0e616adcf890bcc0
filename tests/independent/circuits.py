"""A circuit run once more, slowly, by hooks on the user's own module: no engine, no adapter, no graph of the library.

Each reader is given its own stream: what its circuit keeps of this run's writes, and for all else what the ablation
puts in their place. A head's query, key or value is projected again from the norm of that stream. Prompts of one
length, `[B, S]`; nothing is padded.
"""

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.discovery.hooks import Layout, columns, heads_of, removed

Edge = tuple[str, str]
"""A writer and a reader, by name."""


def all_edges(module: Any, layout: Layout, parallel: bool = False) -> list[Edge]:
    """All edges with joint embeddings, as files number them: reader after reader, its writers as they write."""
    n_layers, n_heads = len(module.get_submodule(layout.layers)), heads_of(module.config)
    inputs = {name[-1]: [] for name in ("q", "k", "v")}
    for kinds in layout.projections.values():
        for name in columns(module.config, kinds, layout.by_head):
            inputs[name[-1]].append(name)
    written, edges = ["embed"], list[Edge]()
    for layer in range(n_layers):
        heads = [f"a{layer}.h{head}" for head in range(n_heads)]
        edges += [(writer, f"a{layer}.{name}") for kind in "qkv" for name in inputs[kind] for writer in written]
        edges += [(writer, f"m{layer}") for writer in (written if parallel else written + heads)]
        written = [*written, *heads, f"m{layer}"]
    return edges + [(writer, "logits") for writer in written]


def idle_dropped(edges: Iterable[Edge], n_heads: int, n_keys: int, interchange: bool) -> set[Edge]:
    """The edges that can carry signal: on a way to the logits and, under interchange, on one from the embeddings."""
    edges = set(edges)

    def fed(reader: str) -> list[str]:
        """The writers that a reader is part of."""
        if reader[0] != "a":
            return [reader]
        layer, number, kind = reader.split(".")
        if kind == "q" or number[0] == "h":
            return [f"{layer}.{number}"]
        share = n_heads // n_keys
        return [f"{layer}.h{head}" for head in range(int(number[2:]) * share, (int(number[2:]) + 1) * share)]

    useful, reached = {"logits"}, {"embed"}
    while True:
        new = {w for w, r in edges if useful.intersection(fed(r))} - useful
        useful |= new
        if not new:
            break
    alive = {edge for edge in edges if useful.intersection(fed(edge[1]))}
    while interchange:
        new = {head for w, r in edges if w in reached for head in fed(r)} - reached
        reached |= new
        if not new:
            alive = {edge for edge in alive if edge[0] in reached}
            break
    return alive


@dataclass(frozen=True)
class File:
    """A circuit's file, read without the library."""

    kept: list[bool]
    scores: list[float] | None
    header: dict[str, Any]

    @staticmethod
    def read(path: Path) -> "File":
        raw = path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        entries = json.loads(raw[8 : 8 + length])
        body, header = raw[8 + length :], json.loads(entries["__metadata__"]["edgewise"])
        begin, end = entries["kept"]["data_offsets"]
        scores = None
        if "scores" in entries:
            first, last = entries["scores"]["data_offsets"]
            scores = list(struct.unpack(f"<{(last - first) // 4}f", body[first:last]))
        return File([byte != 0 for byte in body[begin:end]], scores, header)

    def edges(self, names: list[Edge]) -> set[Edge]:
        """The kept ones."""
        return {edge for edge, kept in zip(names, self.kept, strict=True) if kept}


@torch.no_grad()
def written(module: Any, layout: Layout, ids: Tensor) -> dict[str, Tensor]:
    """What each writer adds to the residual stream in the model's own run, `[B, S, D]`."""
    found = dict[str, Tensor]()
    with removed(_watching(module, layout, found)):
        module(input_ids=ids)
    return found


@torch.no_grad()
def own_logits(module: Any, ids: Tensor) -> Tensor:
    """What the module itself says, `[B, S, V]`."""
    return module(input_ids=ids).logits


@torch.no_grad()
def circuit_logits(
    module: Any,
    layout: Layout,
    ids: Tensor,
    edges: list[Edge],
    kept: set[Edge],
    ablated: dict[str, Tensor] | None,
    parallel: bool = False,
) -> Tensor:
    """The circuit's logits, `[B, S, V]`.

    Args:
        module: the user's model.
        layout: where its pieces are.
        ids: prompts `[B, S]`.
        edges: all of the graph's.
        kept: the circuit's.
        ablated: what each writer's removed edges carry; None: zero.
        parallel: whether attention and MLP read the same stream.
    """
    sources = dict[str, list[str]]()
    for writer, reader in edges:
        sources.setdefault(reader, []).append(writer)
    found = dict[str, Tensor]()  # what writers write in this run
    biases = [_output(layer, layout).bias for layer in module.get_submodule(layout.layers)]

    def stream(reader: str) -> Tensor:
        layer = len(biases) if reader == "logits" else int(reader[1:].split(".")[0])
        before = layer if reader[0] == "a" or parallel or reader == "logits" else layer + 1
        total = torch.zeros_like(found["embed"])
        for bias in biases[:before]:
            total = total if bias is None else total + bias
        for writer in sources[reader]:
            if (writer, reader) in kept:
                total += found[writer]
            elif ablated is not None:
                total += ablated[writer]
        return total

    handles = _watching(module, layout, found)
    handles += [module.get_submodule(layout.final_norm).register_forward_pre_hook(lambda _m, _i: (stream("logits"),))]
    for index, layer in enumerate(module.get_submodule(layout.layers)):
        attention_norm, mlp_norm = (layer.get_submodule(name) for name in layout.norms)
        handles += [mlp_norm.register_forward_pre_hook(lambda _m, _i, r=f"m{index}": (stream(r),))]
        for name, kinds in layout.projections.items():
            readers = [f"a{index}.{head}" for head in columns(module.config, kinds, layout.by_head)]

            def apart(projection, _inputs, _output, readers=readers, norm=attention_norm):
                pieces = [projection.forward(norm.forward(stream(reader))) for reader in readers]
                return torch.cat([each.chunk(len(readers), -1)[i] for i, each in enumerate(pieces)], -1)

            handles += [layer.get_submodule(name).register_forward_hook(apart)]
    with removed(handles):
        return module(input_ids=ids).logits


def _output(layer: Any, layout: Layout) -> Any:
    return layer.get_submodule(layout.output)


def _watching(module: Any, layout: Layout, found: dict[str, Tensor]) -> list[Any]:
    """Hooks that note what is written: the embeddings' sum, heads without the output's bias, MLPs with theirs."""
    n_heads = heads_of(module.config)

    def embedding(_module, _inputs, output):
        found["embed"] = found["embed"] + output if "embed" in found else output.clone()

    def heads(index: int):
        def see(projection, inputs):
            weight = projection.weight.T if isinstance(projection, nn.Linear) else projection.weight  # (H v, D)
            mixed = inputs[0].unflatten(-1, (n_heads, -1))
            for head, rows in enumerate(weight.chunk(n_heads)):
                found[f"a{index}.h{head}"] = mixed[:, :, head] @ rows

        return see

    handles = [module.get_submodule(name).register_forward_hook(embedding) for name in layout.embeddings]
    for index, layer in enumerate(module.get_submodule(layout.layers)):
        handles += [_output(layer, layout).register_forward_pre_hook(heads(index))]
        mlp = layer.get_submodule("mlp")
        handles += [mlp.register_forward_hook(lambda _m, _i, out, i=index: found.__setitem__(f"m{i}", out))]
    return handles
