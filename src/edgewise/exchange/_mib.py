"""Circuits as EAP-IG writes them and MIB's circuit track takes them: a JSON of named edges, or a `.pt` of matrices.

Both are of one graph: one embedding writer called `input`, keys and values for every query head. (Formats: the `Graph`
of github.com/hannamw/EAP-IG, `to_json` and `to_pt`.)
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from edgewise._errors import InputError
from edgewise.circuit import Circuit, ranked
from edgewise.exchange._convert import as_format_has_it
from edgewise.exchange._reading import truth
from edgewise.graph import KEY, LOGITS, MLP_IN, QUERY, VALUE, Graph, GraphSpec
from edgewise.models import Model
from edgewise.runs import Keys, atomic_path, read_json, read_pickle, whole_number, write_atomically, yes_or_no

KEYS = Keys(
    "EAP-IG and MIB: a circuit's `.json` or `.pt`",
    honoured={
        "cfg": "see the next table",
        "edges": "`.json`: every edge's `score` and `in_graph`; an unknown name is refused",
        "edges_scores": "`.pt`: the matrix of scores; −∞ and NaN rank last",
        "edges_in_graph": "`.pt`: which edges are in",
        "src_nodes": "`.pt`: must be the graph's writers in its order",
        "dst_nodes": "`.pt`: likewise its readers",
        "nodes": "see the table of a node",
        "nodes_scores": "where all edges have the same score, refused: only edges are read",
        "neurons_scores": "likewise",
        "neurons_in_graph": "refused where some are not in: neurons are no part of the graph here",
        "neurons": "likewise",
    },
    irrelevant={
        "what the edges say already": ("nodes_in_graph",),
    },
)
CFG = Keys(
    "EAP-IG and MIB: `cfg`",
    honoured={
        "n_layers": "the graph",
        "n_heads": "the graph",
        "parallel_attn_mlp": "the graph: whether attention and MLP of a layer read the same stream",
    },
    irrelevant={"not needed to read edges": ("d_model", "n_key_value_heads", "model_name", "device")},
)
EDGE = Keys(
    "EAP-IG and MIB: an edge",
    honoured={"score": "its score", "in_graph": "whether it is in: true or false"},
    irrelevant={"of a later pruning of theirs": ("weight",)},
)
NODE = Keys(
    "EAP-IG and MIB: a node of a `.json`",
    honoured={
        "score": "a node with one, where all edges have the same, is refused: only edges are read",
        "neurons_scores": "likewise",
        "neurons": "refused where some are not in: neurons are no part of the graph here",
    },
    irrelevant={"what the edges say already": ("in_graph",)},
)
_LETTER = {QUERY: "q", KEY: "k", VALUE: "v"}
_PT_KEYS = ("cfg", "src_nodes", "dst_nodes", "edges_scores", "edges_in_graph", "nodes_in_graph")


def write_mib(circuit: Circuit, path: str | Path, d_model: int) -> list[str]:
    """Write a circuit for EAP-IG or MIB.

    Args:
        circuit: the circuit; edges without a score get 1 if they are kept, else 0.
        path: a `.json` or `.pt` file.
        d_model: D of the model, which these files name.

    Returns:
        What had to be changed for it, a line each; nothing if its graph is that of the format.

    Raises:
        edgewise.InputError: the suffix is another, the circuit's graph has features or neurons, or the file cannot be
            written.
    """
    path = Path(path)
    circuit, changed = as_format_has_it(circuit, "EAP-IG's and MIB's files", embeddings="joint", kv="expanded")
    graph, spec = circuit.graph, circuit.graph.spec
    scores = circuit.kept.float() if circuit.scores is None else circuit.scores.float()
    scores, replaced = _finite(scores)
    changed = [*changed, *replaced]
    cfg = {"n_layers": spec.n_layers, "n_heads": spec.n_heads, "parallel_attn_mlp": spec.parallel, "d_model": d_model}
    used = torch.zeros(graph.n_writers, dtype=torch.bool)
    used[graph.edge_writer[circuit.actual].long()] = True
    if path.suffix == ".json":
        nodes = dict(zip(_writers(graph), ({"in_graph": x} for x in used.tolist()), strict=True))
        names = _edge_names(graph)
        rows = zip(names, scores.tolist(), circuit.kept.tolist(), strict=True)
        edges = {name: {"score": score, "in_graph": kept} for name, score, kept in rows}
        content = {"cfg": cfg, "nodes": nodes | {"logits": {"in_graph": True}}, "edges": edges}
        write_atomically(path, json.dumps(content, allow_nan=False))
    elif path.suffix == ".pt":
        matrix, kept = torch.zeros(2, graph.n_writers, graph.n_readers, dtype=torch.float32)
        rows, columns = graph.edge_writer.long(), graph.edge_reader.long()
        matrix[rows, columns], kept[rows, columns] = scores, circuit.kept.float()
        content = dict(zip(_PT_KEYS, (cfg, _writers(graph), _readers(graph), matrix, kept.bool(), used), strict=True))
        with atomic_path(path) as temporary:
            torch.save(content, temporary)
    else:
        raise InputError(f"{path}: EAP-IG's and MIB's circuits are .json or .pt files")
    return changed


def read_mib(path: str | Path, n_kv_heads: int | None = None) -> Circuit:
    """Read a circuit of EAP-IG or MIB, with its scores.

    Args:
        path: a `.json` or `.pt` file.
        n_kv_heads: key and value heads per layer of the model, which these files do not name; as many as query heads
            if None.

    Returns:
        The circuit, on the graph with keys and values for every query head; `convert` gives it on another. Its scores
        choose circuits of other sizes. Nodes and neurons that the file has beside are not read.

    Raises:
        edgewise.InputError: it is no such file, or something in it is wrong; the message names it.
    """
    path = Path(path)
    if path.suffix in (".pkl", ".pickle", ".pth"):
        raise InputError(
            f"{path}: a Python pickle, as ACDC and auto-circuit write them, which could run anything when it is read; "
            "write its edges by name, as edges.json or a table for from_edge_table"
        )
    content = read_json(path) if path.suffix == ".json" else read_pickle(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; a circuit of EAP-IG is a dictionary")
    KEYS.check(path, content)
    graph = _graph(path, content.get("cfg"), n_kv_heads)
    given = content.get("nodes")
    nodes = [row for row in given.values() if isinstance(row, dict)] if isinstance(given, dict) else []
    NODE.check(path, dict.fromkeys(key for row in nodes for key in row))
    if "edges_scores" in content:
        kept, scores = _matrices(path, content, graph)
    else:
        kept, scores = _named(path, content.get("edges"), graph)
    if bool((scores == scores[0]).all()) and _scores_nodes(content, nodes):
        raise InputError(f"{path}: its nodes have scores, and its edges all the same one; only edges are read")
    neurons = [content.get(key) for key in ("neurons_in_graph", "neurons")] + [row.get("neurons") for row in nodes]
    if not _all_true(neurons):
        raise InputError(f"{path}: some of its neurons are not in the circuit, and only edges are read")
    method = {"name": "imported", "format": "EAP-IG", "file": path.name}
    return Circuit(graph, kept, scores, {"graph": graph.spec.to_dict(), "method": method})


def differs_under_zero(model: Model | None = None) -> list[str]:
    """How EAP-IG's and MIB's own code judges a circuit otherwise under zero ablation, a line each.

    Under interchange none of this changes a number. Of a model, only what it has is said.
    """
    positions, biases = True, True
    if model is not None:
        positions = model.parts.n_embeddings > 1
        biases = any(layer.attention.value.bias is not None for layer in model.parts.stored)
    notes = ["zero ablation: EAP-IG always prunes what its `input` does not reach; here such edges count"]
    if positions:
        notes.append(
            "zero ablation: EAP-IG's `input` is the tokens alone, and learned positions reach every reader; to have "
            'that exactly, take embeddings="split" and keep every edge from pos_embed'
        )
    if biases:
        notes.append(
            "zero ablation: EAP-IG's usual loading folds value biases into b_O, where no ablation removes them; here "
            "they are part of the heads"
        )
    return notes


def _finite(scores: Float[Tensor, " E"]) -> tuple[Float[Tensor, " E"], list[str]]:
    """Scores without NaN and infinity, which are no JSON and sort differently in every reader, and what they became."""
    missing, first = ranked(scores, absolute=False) == -torch.inf, scores == torch.inf
    lowest, notes = min(scores[scores.isfinite()].tolist(), default=0.0), list[str]()
    if bool(missing.any()):
        # Where no score is negative, 0 is last by size too; where some are, no number is last both ways.
        value, order = (0.0, "the least by sign and by size") if lowest >= 0 else (lowest - 1, "the least by sign")
        scores = scores.masked_fill(missing, value)
        notes.append(f"scores: NaN and −∞ became {value:g}, {order}")
    if bool(first.any()):
        value = float(scores.masked_fill(first, 0).abs().max()) + 1
        scores = scores.masked_fill(first, value)
        notes.append(f"scores: ∞ became {value:g}, the first by sign and by size")
    return scores, notes


def _scores_nodes(content: dict[str, Any], nodes: list[dict[str, Any]]) -> bool:
    if any(content.get(key) is not None for key in ("nodes_scores", "neurons_scores")):
        return True
    return any(row.get("score") or row.get("neurons_scores") is not None for row in nodes)


def _all_true(given: Any) -> bool:
    """Whether neurons, if there are any, are all in: a tensor, or for each node a list or a dictionary of them."""
    if given is None:
        return True
    if isinstance(given, Tensor):
        return bool(given.bool().all())
    if isinstance(given, dict):
        return all(map(_all_true, given.values()))
    return all(map(_all_true, given)) if isinstance(given, list) else bool(given)


def _graph(path: Path, cfg: Any, n_kv_heads: int | None) -> Graph:
    if not isinstance(cfg, dict) or not {"n_layers", "n_heads", "parallel_attn_mlp"} <= cfg.keys():
        raise InputError(f"{path}: its cfg must name n_layers, n_heads and parallel_attn_mlp, got {cfg!r:.100}")
    n_layers, n_heads = (whole_number(path, key, cfg[key]) for key in ("n_layers", "n_heads"))
    parallel = yes_or_no(path, "parallel_attn_mlp", cfg["parallel_attn_mlp"])
    CFG.check(path, cfg)
    if n_kv_heads and n_heads % n_kv_heads:
        raise InputError(
            f"{path}: its cfg has {n_heads} heads, which cannot share the {n_kv_heads} keys and values of the model's "
            "layers; give the model that the file is of"
        )
    if n_layers * n_heads > 1 << 20:
        raise InputError(f"{path}: its cfg has {n_layers} layers of {n_heads} heads; there is no such model")
    try:
        return Graph(GraphSpec(n_layers, n_heads, n_kv_heads or n_heads, "joint", "expanded", parallel))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _named(path: Path, edges: Any, graph: Graph) -> tuple[Tensor, Tensor]:
    if not isinstance(edges, dict):
        raise InputError(f"{path}: has no dictionary of edges")
    writers, readers = ({name: i for i, name in enumerate(each)} for each in (_writers(graph), _readers(graph)))
    visible, offset = graph.visible.tolist(), graph.offset.tolist()
    kept, scores = torch.zeros(graph.n_edges, dtype=torch.bool), torch.full((graph.n_edges,), torch.nan)
    odd = [row for row in edges.values() if isinstance(row, dict) and row.keys() - EDGE.honoured.keys()]
    EDGE.check(path, dict.fromkeys(key for row in odd for key in row))
    for name, row in edges.items():
        writer, _, reader = str(name).partition("->")
        w, r = writers.get(writer), readers.get(reader)
        if w is None or r is None or w >= visible[r]:
            raise InputError(
                f"{path}: {name!r:.100} is no edge of {graph.spec.n_layers} layers of {graph.spec.n_heads} heads"
            )
        try:
            kept[offset[r] + w], scores[offset[r] + w] = truth(row["in_graph"]), float(row["score"])
        except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:  # numbers that fit no float
            raise InputError(
                f"{path}: edge {name!r:.100} has {str(row)[:100]!r}; expected a score and in_graph"
            ) from error
    if missing := graph.n_edges - len(edges):
        warnings.warn(
            f"{path}: {missing:,} of {graph.n_edges:,} edges are not in it; they rank last here, and as 0 in EAP-IG's "
            "own code",
            stacklevel=3,
        )
    return kept, scores


def _matrices(path: Path, content: dict[str, Any], graph: Graph) -> tuple[Tensor, Tensor]:
    for key, names in (("src_nodes", _writers(graph)), ("dst_nodes", _readers(graph))):
        if content.get(key) != names:
            raise InputError(f"{path}: its {key} are not those of its cfg, from {names[0]} to {names[-1]}")
    shape = (graph.n_writers, graph.n_readers)
    found = []
    for key in ("edges_in_graph", "edges_scores"):
        matrix = content.get(key)
        if not isinstance(matrix, Tensor) or tuple(matrix.shape) != shape:
            raise InputError(f"{path}: its {key} is no matrix of {shape[0]} writers and {shape[1]} readers")
        found.append(matrix[graph.edge_writer.long(), graph.edge_reader.long()])
    return found[0].bool(), found[1].float()


def _writers(graph: Graph) -> list[str]:
    return ["input", *graph.writer_names[1:]]


def _readers(graph: Graph) -> list[str]:
    names = []
    rows = zip(graph.reader_kind.tolist(), graph.reader_layer.tolist(), graph.reader_head.tolist(), strict=True)
    for kind, layer, head in rows:
        if kind in (MLP_IN, LOGITS):
            names.append(f"m{layer}" if kind == MLP_IN else "logits")
        else:
            names.append(f"a{layer}.h{head}<{_LETTER[kind]}>")
    return names


def _edge_names(graph: Graph) -> list[str]:
    writers, readers = _writers(graph), _readers(graph)
    ends = zip(graph.edge_writer.tolist(), graph.edge_reader.tolist(), strict=True)
    return [f"{writers[w]}->{readers[r]}" for w, r in ends]
