"""Graphs in circuit-tracer's files: read as they were written, opened by its own classes; none of their code is run."""

import math
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch

from edgewise import InputError
from edgewise.attribution import AttributionGraph, export, import_graph, influence
from tests.attribution.foreign import by_name, numbers
from tests.attribution.made_up import L, S, made_up


def without(graph: AttributionGraph, *kinds) -> AttributionGraph:
    return graph.subgraph(~graph.nodes.is_kind(*kinds))


@pytest.mark.parametrize("seed", [0, 1])
def test_circuit_tracers_file_is_read_as_it_was_written(tmp_path: Path, seed: int):
    graph = made_up(seed)
    left = export(graph, tmp_path / "g.pt", scan="some/set")
    assert [line.split(" ")[0] for line in left] == ["10", "4"]
    again = import_graph(tmp_path / "g.pt")
    expected = without(graph, "attention bias", "MLP bias", "reading bias", "position")
    assert numbers(again) == numbers(expected)
    assert set(again.names) == set(expected.names)
    inner = by_name(graph, graph.nodes.value)
    for name, value in by_name(again, again.nodes.value).items():
        if name.startswith("m") and "error" not in name:
            assert value == pytest.approx(inner[name], rel=1e-6)
    assert (again.ids.tolist(), again.roots) == (graph.ids.tolist(), graph.roots)
    assert again.settings["root_tokens"] == graph.settings["root_tokens"]
    assert again.provenance["scan"] == "some/set"
    assert by_name(again, influence(again)) == pytest.approx(by_name(expected, influence(expected)), rel=1e-6)
    assert not any(name.startswith("circuit_tracer") for name in sys.modules)


class Theirs(NamedTuple):
    token_str: str
    vocab_idx: int


Theirs.__module__, Theirs.__qualname__, Theirs.__name__ = (
    "circuit_tracer.attribution.targets",
    "LogitTarget",
    "LogitTarget",
)


@pytest.fixture
def their_module(monkeypatch):
    """Modules with circuit-tracer's classes, as far as its files name them."""
    for name in ("circuit_tracer", "circuit_tracer.attribution", "circuit_tracer.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    targets, mapping = (ModuleType(n) for n in (Theirs.__module__, "circuit_tracer.utils.tl_nnsight_mapping"))
    config = type("UnifiedConfig", (), {"__module__": mapping.__name__})
    targets.LogitTarget, mapping.UnifiedConfig = Theirs, config  # pyright: ignore
    monkeypatch.setitem(sys.modules, targets.__name__, targets)
    monkeypatch.setitem(sys.modules, mapping.__name__, mapping)
    return config


def test_circuit_tracer_opens_what_is_written(tmp_path: Path, their_module, monkeypatch):
    with monkeypatch.context() as without_them:  # written where it is not installed
        for name in [name for name in sys.modules if name.startswith("circuit_tracer")]:
            without_them.delitem(sys.modules, name)
        graph = made_up()
        export(graph, tmp_path / "g.pt")
    content = torch.load(tmp_path / "g.pt", weights_only=False)
    n_features = int(graph.nodes.is_kind("feature").sum())
    assert set(content) == {
        "input_string", "adjacency_matrix", "cfg", "active_features", "logit_targets", "logit_probabilities",
        "vocab_size", "input_tokens", "selected_features", "activation_values", "scan",
    }  # fmt: skip
    assert type(content["cfg"]) is their_module
    assert content["cfg"].n_layers == L
    assert type(content["logit_targets"][0]) is Theirs
    assert content["logit_targets"][0] == (graph.roots[0], 20)
    size = n_features + (L + 1) * S + 2
    assert content["adjacency_matrix"].shape == (size, size)
    rows = graph.nodes.is_kind("feature").nonzero()[:, 0]
    layer, position, index = content["active_features"][0].tolist()
    assert graph.names[int(rows[0])] == f"m{layer}.f{index}@{position}"
    # an error's column, and a token's
    row, error = graph.node(graph.roots[0]), graph.node("m1.error@2")
    assert content["adjacency_matrix"][size - 2, n_features + S + 2] == pytest.approx(
        graph.matrix.toarray()[row, error]
    )
    token = graph.node("token@3")
    assert content["adjacency_matrix"][size - 2, size - 3] == pytest.approx(graph.matrix.toarray()[row, token])


def circuit_tracer_file(their_module, **changes) -> dict[str, Any]:
    """One layer, two tokens; of four active features two are selected."""
    config = their_module()
    vars(config).update({"n_layers": 1, "model_name": "some/model", "dtype": torch.bfloat16})
    matrix = torch.zeros(2 + 2 + 2 + 1, 7)
    matrix[0, 4], matrix[6, 0], matrix[6, 1], matrix[6, 3] = 1.0, 2.0, 3.0, 4.0
    return {
        "input_string": "ab",
        "adjacency_matrix": matrix,
        "cfg": config,
        "active_features": torch.tensor([[0, 0, 5], [0, 0, 9], [0, 1, 2], [0, 1, 9]]),
        "logit_targets": [Theirs("x", 3)],
        "logit_probabilities": torch.tensor([0.5]),
        "vocab_size": 50,
        "input_tokens": torch.tensor([1, 2]),
        "selected_features": torch.tensor([1, 3]),
        "activation_values": torch.tensor([10.0, 11.0, 12.0, 13.0]),
        "scan": ["one", "two"],
        **changes,
    }


def test_activations_go_with_the_active_features(tmp_path: Path, their_module):
    torch.save(circuit_tracer_file(their_module), tmp_path / "g.pt")
    graph = import_graph(tmp_path / "g.pt")
    values = by_name(graph, graph.nodes.value)
    assert (values["m0.f9@0"], values["m0.f9@1"]) == (11, 13)
    assert numbers(graph) == {
        ("token@0", "m0.f9@0"): 1,
        ("m0.f9@0", "x"): 2,
        ("m0.f9@1", "x"): 3,
        ("m0.error@1", "x"): 4,
    }
    assert graph.provenance["transcoder_list"] == ["one", "two"]
    assert graph.provenance["model"] == {"id": "some/model"}


@pytest.mark.parametrize("name", ["logit_targets", "logit_tokens"])
def test_older_logit_targets(tmp_path: Path, their_module, name: str):
    content = circuit_tracer_file(their_module)
    del content["logit_targets"], content["vocab_size"]
    torch.save({**content, name: torch.tensor([3])}, tmp_path / "g.pt")
    graph = import_graph(tmp_path / "g.pt")
    assert (graph.roots, graph.settings["root_tokens"]) == (("3",), [3])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"adjacency_matrix": torch.zeros(8, 8)}, "fits no number of layers"),
        ({"adjacency_matrix": torch.zeros(7, 9)}, "fits no number of layers"),
        ({"adjacency_matrix": torch.zeros(1, 1).expand(1 << 20, 1 << 20)}, "more numbers than are stored"),
        ({"adjacency_matrix": torch.full((7, 7), math.nan)}, "not finite"),
        ({"adjacency_matrix": torch.ones(7, 7)}, "read nothing"),
        ({"adjacency_matrix": None}, "no adjacency_matrix"),
        ({"selected_features": torch.tensor([1, 4])}, "do not fit"),
        ({"selected_features": torch.tensor([1, 1])}, "two nodes are"),
        ({"activation_values": torch.zeros(2)}, "do not fit"),
        ({"active_features": torch.tensor([[3, 0, 0]] * 4)}, "of no layer"),
        ({"logit_targets": "x"}, "no logit_targets"),
        ({"logit_targets": [("a", "b")]}, "no logit_targets"),
        ({"logit_targets": torch.tensor([0.5])}, "no logit_targets"),
        ({"logit_probabilities": torch.tensor([math.inf])}, "not finite"),
        ({"input_tokens": torch.tensor([1, -2])}, "a token has no number"),
        ({"input_tokens": torch.tensor([1.0, 2.0])}, "no input_tokens of 1 axes and whole numbers"),
        ({"logit_targets": []}, "0 logit targets with 1"),
    ],
)
def test_wrong_files_of_circuit_tracer(tmp_path: Path, their_module, changes, says: str):
    torch.save(circuit_tracer_file(their_module, **changes), tmp_path / "g.pt")
    with pytest.raises(InputError, match=says) as caught:
        import_graph(tmp_path / "g.pt")
    assert "\n" not in str(caught.value)


class Hostile:
    def __reduce__(self):
        return print, ("run",)


def test_no_code_of_a_file_is_run(tmp_path: Path, their_module, capsys):
    torch.save(circuit_tracer_file(their_module, scan=Hostile()), tmp_path / "g.pt")
    with pytest.raises(InputError, match="cannot be read"):
        import_graph(tmp_path / "g.pt")
    assert "run" not in capsys.readouterr().out
    (tmp_path / "h.pt").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(InputError, match="no attribution graph"):
        import_graph(tmp_path / "h.pt")


def test_it_is_written_where_circuit_tracer_is_loaded(tmp_path: Path, their_module, monkeypatch):
    def asks_for_all(self, n_layers: int) -> None: ...

    monkeypatch.setattr(their_module, "__init__", asks_for_all)
    graph = made_up()
    export(graph, tmp_path / "g.pt")
    found = torch.load(tmp_path / "g.pt", weights_only=False)["cfg"]
    assert type(found) is their_module and found.n_layers == graph.n_layers
