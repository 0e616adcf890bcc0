"""Circuits as a page carries them: the graph once, and of each circuit its scores, which give every size."""

from collections.abc import Mapping
from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np
import torch

from edgewise.circuit import Circuit, ranked
from edgewise.discovery import methods
from edgewise.evaluation import Evaluation, SizeCurve
from edgewise.graph import FEATURE, FEATURE_IN, NEURON, NEURON_IN, Graph, GraphSpec
from edgewise.runs import record_of
from edgewise.viewer._evidence import Evidence
from edgewise.viewer._pack import Packer
from edgewise.viewer._read import Viewed

BLOCK_KINDS = ("attention", "mlp", "features", "logits")
_AS_FEATURES = {NEURON: FEATURE}, {NEURON_IN: FEATURE_IN}
"""To the page neurons are features: each is a reader and a writer, and the rest of their MLP is one more."""


def pack_circuits(runs: list[Viewed], packer: Packer) -> dict[str, Any]:
    """Circuits and their graphs.

    Args:
        runs: the circuits, with what was measured of them.
        packer: takes the arrays.

    Returns:
        What the header says of them: `circuits`, and `graphs`, which these name by number.
    """
    specs = list(dict.fromkeys(run.circuit.graph.spec for run in runs))
    graphs = [_pack_graph(Graph(spec), f"graph{number}", packer) for number, spec in enumerate(specs)]
    circuits = [
        {"graph": specs.index(run.circuit.graph.spec)} | _pack_circuit(run, f"circuit{number}", packer)
        for number, run in enumerate(runs)
    ]
    return {"graphs": graphs, "circuits": circuits}


def _pack_graph(graph: Graph, prefix: str, packer: Packer) -> dict[str, Any]:
    spec = graph.spec
    feeds = [graph.readers_of(writer) for writer in range(graph.n_writers)]
    writer_kind, reader_kind = (
        np.vectorize(lambda kind, shown=shown: shown.get(kind, kind))(kinds.numpy())
        for kinds, shown in zip((graph.writer_kind, graph.reader_kind), _AS_FEATURES, strict=True)
    )
    blocks = [
        (
            BLOCK_KINDS.index("features" if block.kind == "neurons" else block.kind),
            block.reader,
            block.n_readers,
            0 if block.kind == "logits" else graph.writers_of(block).start,
        )
        for block in graph.blocks
    ]
    columns = {
        "writer_kind": (writer_kind, "u1"),
        "writer_layer": (graph.writer_layer.numpy(), "i2"),
        "writer_head": (graph.writer_head.numpy(), "i2"),
        "reader_kind": (reader_kind, "u1"),
        "reader_layer": (graph.reader_layer.numpy(), "i2"),
        "reader_head": (graph.reader_head.numpy(), "i2"),
        "visible": (graph.visible.numpy(), "u4"),
        "offset": (graph.offset.numpy(), "u4"),
        "blocks": (np.array(blocks), "u4"),
        "feeds": (np.array([*chain.from_iterable(feeds)]), "u4"),
        "feeds_start": (np.cumsum([0, *map(len, feeds)]), "u4"),
    }
    for name, (values, kind) in columns.items():
        packer.add(f"{prefix}/{name}", values, kind)
    return {
        "arrays": prefix,
        "writers": graph.writer_names,
        "readers": graph.reader_names,
        "layers": spec.n_layers,
        "heads": spec.n_heads,
        "keys": graph.n_kv_readers,
        "spans": list(spec.spans),
        "coupled": spec.coupled_heads,
        "embeddings": graph.n_embeddings,
        "firstKeptError": spec.features[0][0] if spec.error == "kept" else None,
        "apart": spec.apart,
        "convention": f"embeddings {spec.embeddings}, keys and values {spec.kv}" + _errors(spec),
    }


def _errors(spec: GraphSpec) -> str:
    """What becomes of error terms, for the convention."""
    return f", error terms {spec.error}" if spec.features else ""


def _pack_circuit(run: Viewed, prefix: str, packer: Packer) -> dict[str, Any]:
    circuit = run.circuit
    packer.add(f"{prefix}/kept", np.packbits(circuit.kept.numpy(), bitorder="little"), "u1")
    signed = False
    if circuit.scores is not None:
        single = circuit.scores.float()
        packer.add(f"{prefix}/scores", single.numpy(), "f4")
        # In float64 rounding would make ties; −∞ is no large score, whatever the viewer ranks by.
        if not torch.equal(single.to(circuit.scores.dtype), circuit.scores) or bool((single == -torch.inf).any()):
            values = ranked(circuit.scores, absolute=circuit.selection == "absolute")
            order = values.argsort(descending=True, stable=True)
            packer.add(f"{prefix}/order", order.numpy(), "u4")
        signed = circuit.selection == "absolute" and bool((circuit.scores[circuit.kept] < 0).any())
    return {
        "arrays": prefix,
        "label": run.label,
        "edges": circuit.n_edges,
        "actual": circuit.n_actual,
        "total": circuit.graph.n_edges,
        "interchange": circuit.ablation_kind == "interchange",
        "absolute": circuit.selection == "absolute",
        "signed": signed,
        "score": "" if circuit.scores is None else _score(circuit),
        "about": _about(circuit.provenance, circuit.ablation_kind),
        "evaluations": [
            {"name": _evaluation_name(name, each, run.evidence), "own": not name} | _evaluation(each)
            for name, each in run.evaluations.items()
        ],
        "curve": None if run.curve is None else _curve(run.curve),
        "evidence": None if run.evidence is None else _evidence(run.evidence),
        "notes": list(run.notes),
    }


def _score(circuit: Circuit) -> str:
    """What a circuit's scores are, their unit and sign, in a sentence that goes on from "The score is"."""
    method = record_of(circuit.provenance, "method")
    name = method.get("name")
    found = methods().get(name) if isinstance(name, str) else None
    by_size = circuit.selection == "absolute"
    order = "Edges are taken by size, whatever the sign." if by_size else "The highest come first."
    if found is None:
        return f"the method's own number. {order}"
    if found.learns:
        return f"learned by {name}: it has no unit, its sign says nothing, and only the order counts. {order}"
    exact = name == "exact-patching"
    if not exact and found.gradient_at is None:
        return f"{name}'s own number. {order}"
    own = record_of(method, "config").get("explains")
    metric = own or record_of(circuit.provenance, "task").get("metric", "the task's metric")
    how = "what" if exact else f"an estimate, by {name}, of what"
    return f"{how} keeping the edge adds to {metric}, in its unit: above 0 the edge raises it. {order}"


def _evaluation_name(name: str, result: Evaluation, evidence: Evidence | None) -> str:
    """What an evaluation is called. The page takes the worst examples of one without a name for those that evidence has
    predictions of, by number; of another split than the evidence's, it is named after its split.
    """
    split = result.conditions.get("split", "test")
    return name or ("" if split == (evidence.split if evidence else "test") else f"the {split} split")


def _evaluation(result: Evaluation) -> dict[str, Any]:
    conditions = result.conditions
    return {
        "actual": result.actual_edges,
        "n": result.n,
        "split": conditions.get("split"),
        "metrics": {metric: asdict(row) for metric, row in result.metrics.items()},
        "worst": [asdict(each) for each in result.worst],
    }


def _curve(curve: SizeCurve) -> dict[str, Any]:
    return {
        "metric": curve.metric,
        "points": [list(point) for point in curve.points],
        "full": curve.full,
        "empty": curve.empty,
        "n": curve.n,
        "split": curve.conditions.get("split"),
    }


def _evidence(found: Evidence) -> dict[str, Any]:
    plain = ("metric", "split", "pairs", "edges", "effects", "prompts")
    return {name: getattr(found, name) for name in plain} | {
        "predictions": [each._asdict() for each in found.predictions],
        "by_pair": [[float(f"{x:.4g}") for x in row] for row in found.by_pair],
        "looks": [None if each is None else each._asdict() for each in found.looks],
    }


def _about(provenance: Mapping[str, Any], ablation: str) -> list[tuple[str, str]]:
    """Where a circuit comes from, in rows for people."""
    rows = [("ablation", ablation)] if "ablation" not in provenance else []
    for name, value in provenance.items():
        if isinstance(value, Mapping):
            rows += [(f"{name}: {key}", _shown(each)) for key, each in value.items()]
        else:
            rows.append((str(name), _shown(value)))
    return rows


def _shown(value: Any, longest: int = 400) -> str:
    text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
    return text if len(text) <= longest else f"{text[:longest]} …"
