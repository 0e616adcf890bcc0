"""Circuits as Edge Pruning's own code writes them: `edges.json`, a list of [writer, reader].

Names are those of github.com/princeton-nlp/Edge-Pruning: `tok_embeds` and `pos_embeds` (GPT-2), `embeds` (Llama) or
`token_embeds` (compiled programs), `a0.h1`, `m0`; readers `a0.h1.q`, `m0`, `resid_post`. A key or value head is
numbered among the key and value heads.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgewise._errors import InputError
from edgewise.circuit import Circuit
from edgewise.exchange._convert import as_format_has_it
from edgewise.graph import Graph
from edgewise.runs import read_json, write_atomically

_EMBEDDINGS = {"tok_embeds": "tok_embed", "token_embeds": "tok_embed", "pos_embeds": "pos_embed", "embeds": "embed"}


def write_edges(circuit: Circuit, path: str | Path) -> list[str]:
    """Write a circuit's kept edges as `edges.json`.

    One embedding writer is written as `embeds`, which their code for Llama knows; theirs for GPT-2 has token and
    position embeddings apart (`embeddings="split"`).

    Args:
        circuit: the circuit; keys and values for every query head become those of the model's own heads.
        path: the file.

    Returns:
        What had to be changed for it, a line each.

    Raises:
        edgewise.InputError: the circuit's graph has features or neurons.
    """
    circuit, changed = as_format_has_it(circuit, "edges.json", kv="physical")
    graph = circuit.graph
    ours = {value: key for key, value in _EMBEDDINGS.items() if key != "token_embeds"}
    writers = [ours.get(name, name) for name in graph.writer_names]
    readers = [name.replace(".kv", ".h") if name != "logits" else "resid_post" for name in graph.reader_names]
    edges = circuit.kept.nonzero()[:, 0]
    ends = zip(graph.edge_writer[edges].tolist(), graph.edge_reader[edges].tolist(), strict=True)
    write_atomically(path, json.dumps([[writers[w], readers[r]] for w, r in ends], indent=0) + "\n")
    return changed


def read_edges(path: str | Path, graph: Graph) -> Circuit:
    """Read an `edges.json`.

    Args:
        path: the file.
        graph: the model's graph, with keys and values as they are (`physical`). Which embeddings are writers, the file
            decides: one that names none was found without them, so that they reach every reader.

    Raises:
        edgewise.InputError: it is no such file, or one of its edges is not in the graph; the message names it.
    """
    path = Path(path)
    content = read_json(path)
    if not isinstance(content, list) or not all(_is_edge(row) for row in content):
        wrong = next((row for row in content if not _is_edge(row)), content) if isinstance(content, list) else content
        raise InputError(f"{path}: {str(wrong)[:100]!r} is no edge; expected a list of [writer, reader]")
    if graph.spec.kv != "physical":
        raise InputError(f"{path}: has keys and values as the model has them; give a graph with kv='physical'")
    named = {writer for writer, _ in content} & _EMBEDDINGS.keys()
    if content:
        embeddings = "off" if not named else "joint" if named == {"embeds"} else "split"
        graph = Graph(replace(graph.spec, embeddings=embeddings))
    kept = torch.zeros(graph.n_edges, dtype=torch.bool)
    shared = graph.heads_per_key > 1
    for writer, reader in content:
        ours = "logits" if reader == "resid_post" else reader
        if shared and ours.endswith((".k", ".v")):
            ours = ours.replace(".h", ".kv")
        try:
            kept[graph.edge_id(f"{_EMBEDDINGS.get(writer, writer)} -> {ours}")] = True
        except InputError as error:
            raise InputError(f"{path}: {[writer, reader]}: {error}") from error
    method = {"name": "imported", "format": "edges.json", "file": path.name}
    return Circuit(graph, kept, None, {"graph": graph.spec.to_dict(), "method": method})


def _is_edge(row: Any) -> bool:
    return isinstance(row, list) and len(row) == 2 and all(isinstance(name, str) and name for name in row)
