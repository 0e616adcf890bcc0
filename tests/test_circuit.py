"""Circuits: two sizes, set algebra, and a file that is bitwise the circuit or one clear line."""

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgewise.circuit import SCHEMA, Circuit
from edgewise.engine import Ablation, Engine
from edgewise.graph import Graph, GraphSpec
from tests.disk import little_disk
from tests.tiny import collate, draw_prompts, refused, tiny

# Edges: 0, 1, 2 embed → a0.h0.q, k, v; 3 embed → m0; 4 a0.h0 → m0; 5, 6, 7 embed, a0.h0, m0 → logits.
GRAPH = Graph(GraphSpec(1, 1, 1))
LARGER = Graph(GraphSpec(12, 12, 12))
SAID: dict[str, Any] = {
    "model": {"id": "tiny", "dtype": "float32"},
    "ablation": {"kind": "interchange", "source": "corrupted"},
    "task": {"name": "κλ “ioi”", "seed": 3},
    "method": {"name": "eap", "points": 5, "nested": [1, 2.5, None, {"a": True}]},
}


def _circuit(*edges: int, graph: Graph = GRAPH, scores: Tensor | None = None, **said: Any) -> Circuit:
    kept = torch.zeros(graph.n_edges, dtype=torch.bool)
    kept[list(edges)] = True
    return Circuit(graph, kept, scores, said)


def _ids(circuit: Circuit) -> list[int]:
    return circuit.kept.nonzero()[:, 0].tolist()


# --------------------------------------------------------------------------------------------------------------- sizes


def test_both_sizes_and_both_sparsities():
    circuit = _circuit(0, 3, 4, 5)  # m0 leads nowhere, and a0.h0 only to m0
    assert (circuit.n_edges, circuit.n_actual) == (4, 1)
    assert (circuit.sparsity, circuit.actual_sparsity) == (0.5, 0.875)
    assert repr(circuit) == "Circuit(4 edges, 1 actual, of 8: sparsity 50.00%, actual 87.50%)"
    assert circuit.edge_names() == ["embed -> a0.h0.q", "embed -> m0", "a0.h0 -> m0", "embed -> logits"]


def test_actual_edges_depend_on_the_ablation():
    # a0.h0 reads nothing: under interchange it writes its ablated value, under zero it still writes its bias.
    assert _ids(_circuit(4, 6, 7).pruned()) == []
    for kind in ("zero", "mean", "mean-positional", "learned"):
        assert _ids(_circuit(4, 6, 7, ablation={"kind": kind}).pruned()) == [4, 6, 7]


def test_pruned_keeps_scores_and_provenance():
    scores = torch.rand(8)
    circuit = _circuit(0, 3, 5, scores=scores, **SAID)
    pruned = circuit.pruned()
    assert _ids(pruned) == [5] and pruned.scores is scores and pruned.provenance == SAID
    assert _ids(circuit) == [0, 3, 5]
    assert torch.equal(pruned.pruned().kept, pruned.kept)


@pytest.mark.parametrize("embeddings", ["joint", "off"])
def test_pruning_changes_no_logit(embeddings):
    model = tiny("gpt2")
    graph = model.graph(embeddings)
    engine, batch = Engine(model, graph), collate(draw_prompts((6, 3)))
    for seed in range(4):
        kept = torch.rand(graph.n_edges, generator=torch.Generator().manual_seed(seed)) < 0.2
        circuit = Circuit(graph, kept)
        assert circuit.n_actual < circuit.n_edges
        whole, pruned = (engine.run(batch, c.kept.double()) for c in (circuit, circuit.pruned()))
        torch.testing.assert_close(whole, pruned, rtol=0, atol=1e-9)


def test_any_numbers_can_say_what_is_kept():
    for kept in (torch.ones(8), torch.ones(8, dtype=torch.int64), torch.ones(8, requires_grad=True)):
        circuit = Circuit(GRAPH, kept)
        assert circuit.kept.dtype == torch.bool and not circuit.kept.requires_grad and circuit.n_edges == 8


@pytest.mark.unchecked
def test_shapes_that_are_not_the_graphs_are_refused():
    assert "kept has shape (7,); expected [8]" in refused(lambda: Circuit(GRAPH, torch.ones(7)))
    assert "kept has shape (1, 8)" in refused(lambda: Circuit(GRAPH, torch.ones(1, 8)))
    assert "scores has shape (9,)" in refused(lambda: Circuit(GRAPH, torch.ones(8), torch.ones(9)))


def test_a_circuit_is_frozen():
    with pytest.raises(FrozenInstanceError):
        _circuit(1).kept = torch.ones(8)  # pyright: ignore[reportAttributeAccessIssue]


# --------------------------------------------------------------------------------------------------------- set algebra


def test_set_algebra():
    one, other = _circuit(0, 1, 5), _circuit(1, 2, 5, 7)
    assert _ids(one & other) == [1, 5]
    assert _ids(one | other) == [0, 1, 2, 5, 7]
    assert _ids(one - other) == [0]
    assert one.iou(other) == 2 / 5
    assert _ids(one) == [0, 1, 5]


@given(st.sets(st.integers(0, 7)), st.sets(st.integers(0, 7)))
def test_set_algebra_is_that_of_sets(one: set[int], other: set[int]):
    a, b = _circuit(*one), _circuit(*other)
    assert set(_ids(a & b)) == one & other
    assert set(_ids(a | b)) == one | other
    assert set(_ids(a - b)) == one - other
    assert a.iou(b) == b.iou(a) == (len(one & other) / len(one | other) if one | other else 1)


def test_a_combination_says_what_it_is_made_of():
    one = _circuit(0, **SAID)
    other = Circuit(GRAPH, _circuit(1).kept, None, SAID | {"task": {"name": "other"}})
    said = (one & other).provenance
    assert said["method"] == {"name": "intersection", "of": [one.provenance, other.provenance]}
    assert said["model"] == SAID["model"] and said["ablation"] == SAID["ablation"]  # where both agree
    assert "task" not in said
    names = [combined.provenance["method"]["name"] for combined in (one | other, one - other)]
    assert names == ["union", "difference"]
    assert (one & other).scores is None


def test_circuits_of_different_graphs_do_not_combine():
    other = _circuit(0, graph=Graph(GraphSpec(1, 1, 1, embeddings="off")))
    for combine in (lambda: _circuit(0) & other, lambda: _circuit(0) | other, lambda: _circuit(0) - other):
        assert "different graphs" in refused(combine)
    assert "different graphs" in refused(lambda: _circuit(0).iou(other))
    assert _circuit(0).iou(_circuit(0, graph=Graph(GraphSpec(1, 1, 1)))) == 1  # equal graphs, made twice


def test_a_combination_across_ablations_drops_no_edge_that_one_of_them_needs():
    zero, mean = (_circuit(4, 6, 7, ablation={"kind": kind}) for kind in ("zero", "mean"))
    assert zero.n_actual == mean.n_actual == 3
    assert (zero & mean).n_actual == 3


def test_a_combination_of_one_kind_of_ablation_is_of_that_kind():
    train, test = (_circuit(4, 6, 7, ablation={"kind": "mean", "source": source}) for source in ("train", "test"))
    assert (train & test).ablation == Ablation("mean")
    assert (train & test).n_actual == 3


def test_a_combination_keeps_who_owns_the_biases():
    def found(kind: str, bias: str, source: str) -> Circuit:
        return _circuit(4, 6, 7, ablation={"kind": kind, "bias": bias, "source": source})

    one, other = found("learned", "shared", "train"), found("learned", "shared", "test")
    assert (one & other).ablation == Ablation("learned", bias="shared")
    assert (one & other).provenance["ablation"]["bias"] == "shared"
    assert (one & found("learned", "layer", "train")).ablation == "mixed"  # other circuits, where heads are taken away
    means = found("mean", "shared", "train"), found("mean", "layer", "train")  # there it makes no difference
    assert (means[0] | means[1]).ablation == (means[1] | means[0]).ablation == Ablation("mean")


# --------------------------------------------------------------------------------------------------------------- files


def _random_circuit(graph: Graph = LARGER, dtype: torch.dtype = torch.float32, **said: Any) -> Circuit:
    generator = torch.Generator().manual_seed(4)
    scores = torch.randn(graph.n_edges, generator=generator, dtype=torch.float64).to(dtype)
    scores[:5] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan])
    return Circuit(graph, torch.rand(graph.n_edges, generator=generator) < 0.1, scores, said or SAID)


def _same(one: Circuit, other: Circuit) -> bool:
    if (one.scores is None) != (other.scores is None) or one.graph.spec != other.graph.spec:
        return False
    scores = [c.scores.view(torch.uint8) for c in (one, other) if c.scores is not None]  # bits, so that NaN equals NaN
    same_scores = not scores or (len(scores[0]) == len(scores[1]) and torch.equal(*scores))
    return torch.equal(one.kept, other.kept) and same_scores and one.provenance == other.provenance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_file_is_the_circuit_to_the_last_bit(tmp_path, dtype: torch.dtype):
    circuit = _random_circuit(dtype=dtype)
    circuit.save(tmp_path / "c.safetensors")
    assert _same(Circuit.load(tmp_path / "c.safetensors"), circuit)
    Circuit.load(tmp_path / "c.safetensors").save(str(tmp_path / "again.safetensors"))
    assert (tmp_path / "c.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


@pytest.mark.parametrize(
    "spec",
    [
        GraphSpec(2, 4, 2, embeddings="split"),
        GraphSpec(2, 4, 2, kv="expanded"),
        GraphSpec(3, 2, 1, embeddings="off", parallel=True),
    ],
    ids=str,
)
def test_a_file_says_which_graph(tmp_path, spec: GraphSpec):
    circuit = _random_circuit(Graph(spec))
    circuit.save(tmp_path / "c.safetensors")
    assert _same(Circuit.load(str(tmp_path / "c.safetensors")), circuit)


def test_without_scores_or_edges_there_is_still_a_file(tmp_path):
    for circuit in (_circuit(), _circuit(1, 2), _circuit(1, scores=torch.rand(8, requires_grad=True))):
        circuit.save(tmp_path / "c.safetensors")
        loaded = Circuit.load(tmp_path / "c.safetensors")
        assert torch.equal(loaded.kept, circuit.kept) and (loaded.scores is None) == (circuit.scores is None)


def test_a_view_can_be_saved(tmp_path):
    rows = torch.rand(8, 3)
    circuit = Circuit(GRAPH, (rows > 0.5)[:, 1], rows[:, 1])
    circuit.save(tmp_path / "c.safetensors")
    assert _same(Circuit.load(tmp_path / "c.safetensors"), circuit)


def test_a_loaded_circuit_runs_to_the_same_bits(tmp_path):
    model = tiny("llama-gqa", torch.float32)
    engine, batch = Engine(model), collate(draw_prompts((6, 3)))
    circuit = _random_circuit(engine.graph)
    circuit.save(tmp_path / "c.safetensors")
    logits = [engine.run(batch, c.kept.float()) for c in (circuit, Circuit.load(tmp_path / "c.safetensors"))]
    assert torch.equal(*logits)


def test_a_file_can_be_read_without_this_library(tmp_path):
    path = tmp_path / "c.safetensors"
    _random_circuit().save(path)
    assert set(load_file(path)) == {"kept", "scores"}
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["edgewise"])
    said = {"ablation": Ablation(**SAID["ablation"]).to_dict(), "selection": None, "provenance": SAID}
    assert header == {"schema": SCHEMA, "graph": LARGER.spec.to_dict()} | said


def test_saving_makes_the_folder_and_replaces_the_file(tmp_path):
    path = tmp_path / "a" / "b" / "c.safetensors"
    _circuit(1).save(path)
    _circuit(2, 3).save(path)
    assert _ids(Circuit.load(path)) == [2, 3]
    assert [p.name for p in path.parent.iterdir()] == ["c.safetensors"]


def test_another_suffix_is_refused(tmp_path):
    for name in ("c.json", "c", "c.safetensors.gz"):
        assert "saved as .safetensors" in refused(lambda name=name: _circuit(1).save(tmp_path / name))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "c.safetensors"
    _circuit(1).save(path)
    before = path.read_bytes()
    with little_disk(4096):
        assert str(path) in refused(lambda: _random_circuit().save(path))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_provenance_that_is_not_plain_leaves_nothing_behind(tmp_path):
    with pytest.raises(TypeError):
        _circuit(1, made_by=object()).save(tmp_path / "c.safetensors")
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------------- wrong files


def _write(header: Any, **tensors: Tensor) -> Callable[[Path], None]:
    tensors = tensors or {"kept": torch.ones(8, dtype=torch.bool)}
    metadata = None if header is None else {"edgewise": header if isinstance(header, str) else json.dumps(header)}
    return lambda path: save_file(tensors, path, metadata=metadata)


def _header(**changes: Any) -> dict[str, Any]:
    header = {"schema": SCHEMA, "graph": GRAPH.spec.to_dict(), "provenance": {}} | changes
    return {name: value for name, value in header.items() if value is not None}


def _truncated(path: Path) -> None:
    _random_circuit().save(path)
    path.write_bytes(path.read_bytes()[:-50])


WRONG: dict[str, Callable[[Path], Any]] = {
    "text": lambda path: path.write_text("edges: many"),
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(b"\xff" * 1000),
    "pickle": lambda path: torch.save({"kept": torch.ones(8)}, path),
    "truncated": _truncated,
    "weights": _write(None, weight=torch.zeros(3)),
    "other metadata": lambda path: save_file({"weight": torch.zeros(3)}, path, metadata={"format": "pt"}),
    "no json": _write("{"),
    "a list": _write([1, 2]),
    "no schema": _write(_header(schema=None)),
    "no graph": _write(_header(graph=None)),
    "a schema in words": _write(_header(schema="one")),
    "a graph of other fields": _write(_header(graph={"n_layers": 1, "width": 3})),
    "no edges kept": _write(_header(), scores=torch.zeros(8)),
    "a checkpoint": _write({"step": 3, "seconds": 1.0, "config": {}}, edges=torch.zeros(8)),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_circuit_is_refused(tmp_path, kind: str):
    path = tmp_path / "c.safetensors"
    WRONG[kind](path)
    message = refused(lambda: Circuit.load(path))
    assert message.startswith(f"{path}: not a circuit file of edgewise")


KEPT = torch.ones(8, dtype=torch.bool)


@pytest.mark.parametrize(
    ("header", "tensors"),
    [
        (_header(selection=["nonsense"]), {}),
        (_header(ablation={"kind": "mean", "source": 5}), {}),
        (_header(), {"kept": KEPT, "scores": torch.ones(8, dtype=torch.complex64)}),
        (_header(), {"kept": KEPT, "scores": torch.ones(8, dtype=torch.int64)}),
        (_header(), {"kept": torch.full((8,), torch.nan)}),
        (_header(graph=GRAPH.spec.to_dict() | {"kv": "shared"}), {}),
        (_header(graph=GRAPH.spec.to_dict() | {"n_layers": 0}), {}),
        (_header(), {"kept": torch.ones(7)}),
        (_header(), {"kept": torch.ones(8), "scores": torch.ones(1, 8)}),
    ],
    ids=["selection", "source", "complex", "whole", "nan", "kv", "layers", "kept", "scores"],
)
@pytest.mark.unchecked
def test_a_file_that_contradicts_itself_is_named(tmp_path, header: dict[str, Any], tensors: dict[str, Tensor]):
    path = tmp_path / "c.safetensors"
    _write(header, **tensors)(path)
    assert str(path) in refused(lambda: Circuit.load(path))


def test_provenance_that_is_no_dictionary_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    _write(_header(provenance=[1]))(path)
    refused(lambda: Circuit.load(path))


def test_a_file_of_a_newer_version_asks_for_an_upgrade(tmp_path):
    path = tmp_path / "c.safetensors"
    _write(_header(schema=SCHEMA + 1, graph={"shape": "other"}))(path)
    message = refused(lambda: Circuit.load(path))
    assert str(path) in message and f"schema {SCHEMA + 1}" in message and "upgrade" in message


def test_a_file_that_is_not_there_is_named(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        message = refused(lambda path=path: Circuit.load(path))
        assert message.startswith(f"{path}: no such file") and "edgewise find" in message
