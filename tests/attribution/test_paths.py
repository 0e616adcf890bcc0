"""Paths add up: every step's ways on to what it gives, heads' paths to an attribution graph's edges, and Algorithm 2's
nodes to what the graph says that they give through all paths.
"""

from typing import Any

import numpy as np
import pytest
import torch

from edgewise.attribution import PathConfig, PathSearch, factors, greedy_paths
from edgewise.models import Model
from edgewise.transcoders import Transcoder, reader, through_head
from tests.attribution.test_rows import graph_of
from tests.tiny import VOCABULARY, refused, tiny
from tests.transcoders import test_analysis

EVERYTHING = PathConfig(100, 10**6, first=True, biases=True)
IDS = torch.tensor([5, VOCABULARY - 1])


def made(model: Model, layer: int, last: int | None = None, n: int = 6, **changes: Any) -> Transcoder:
    return test_analysis.made(model, layer, last, n=n, **changes)


def searched(model: Model, sets: list[Transcoder], root: str, config: PathConfig = EVERYTHING) -> PathSearch:
    return greedy_paths(model, IDS, sets, root, config)


def active(model: Model, sets: list[Transcoder], layer: int) -> str:
    """A feature that is active at the last of the tokens."""
    nodes = graph_of(model, sets, ids=IDS).names
    return next(name for name in nodes if name.startswith(f"m{layer}.f") and name.endswith("@1"))


CASES: dict[str, Any] = {
    "gpt2": {"read": "resid_mid", "input_bias": True, "n": 4},
    "llama-gqa": {"skip": True},
    "neox-parallel": {"skip": True, "across": True},
    "gemma3": {"read": "mlp_normalized"},
}
"""Each with other kinds of transcoders."""


@pytest.mark.parametrize("case", CASES)
def test_all_paths_are_the_attribution_graph(case: str) -> None:
    model, changes = tiny(case), dict(CASES[case])
    low, across = int(model.parts.parallel), changes.pop("across", False)  # where a parallel block has heads below
    sets = [made(model, low, low + across, **changes), made(model, low + 1, **changes)]
    root = active(model, sets, low + 1)
    found, graph = searched(model, sets, root), graph_of(model, sets, ids=IDS, target=root)
    assert found.value == pytest.approx(float(graph.nodes.value[graph.node(root)]), rel=1e-12)
    assert found.residual < 1e-12
    # What leads to a path's end is what its ways on give.
    below: dict[tuple[str, ...], float] = {}
    for path in found.paths:
        below[path.names[:-1]] = below.get(path.names[:-1], 0.0) + path.contribution
        node = path.nodes[-1]
        assert node.contribution == pytest.approx(node.activation * node.scale * node.connection, rel=1e-12)
    given = {path.names: path.contribution for path in found.paths} | {(root,): found.value}
    assert len(below) > 15
    for names, total in below.items():
        assert total == pytest.approx(given[names], rel=1e-9, abs=1e-9)
    # Paths through heads and skips alone add up to the graph's edges.
    edges: dict[str, float] = {}
    for path in found.paths:
        if all(".f" not in name for name in path.names[1:-1]) and ".h" not in path.names[-1]:
            edges[path.names[-1]] = edges.get(path.names[-1], 0.0) + path.contribution
    expected = dict(graph.incoming(graph.n_nodes - 1))
    for name, weight in expected.items():
        if name.split(".")[-1] != "bias":
            assert edges[name] == pytest.approx(weight, rel=1e-9, abs=1e-9), name
    # Through all paths, a node gives what the graph's edges say.
    dense = graph.matrix.toarray()
    share = dense / np.where(graph.nodes.value.numpy() == 0, 1.0, graph.nodes.value.numpy())[:, None]
    row = np.zeros(graph.n_nodes)
    row[-1] = found.value
    reached = row @ np.linalg.inv(np.eye(graph.n_nodes) - share)
    nodes = found.graph().nodes
    for name, weight in zip(graph.names[:-1], reached, strict=False):
        if name.split(".")[-1] != "bias" and name != root and weight:
            assert nodes[name] == pytest.approx(weight, rel=1e-9, abs=1e-9), name


@pytest.mark.parametrize("name", ["gpt2", "neox-parallel", "plain-bidirectional"])
def test_an_edge_is_the_sum_of_its_products(name: str) -> None:
    """Between neighbouring layers one head at most lies on the way, two over one layer more."""
    model = tiny(name)
    low = int(model.parts.parallel)
    sets = [made(model, low, low + 1), made(model, low + 1, skip=True)]
    root = active(model, sets, low + 1)
    graph = graph_of(model, sets, ids=IDS, target=root)
    two = 0
    for source, weight in graph.incoming(graph.n_nodes - 1):
        if source.split("@")[0] in ("token", "position") or ".f" in source:
            found = factors(graph, source, root)
            assert found.weight == pytest.approx(weight, rel=1e-9)
            near = f"m{low}.f" in source
            assert abs(found.further) < 1e-9 if near else found.further
            two += near
            for each in found.factors:
                assert each.weight == pytest.approx(found.activation * each.scale * each.connection, rel=1e-12)
    assert two > 1 and "further" in str(factors(graph, "token@0", root))
    every = {path.names: path.nodes[-1] for path in searched(model, sets, root, PathConfig(2, 10**6, first=True)).paths}
    token, (layer, index) = factors(graph, "token@0", root), (int(x) for x in root[1:-2].split(".f"))
    head = token.factors[0].way[1:].split(".h")
    through = through_head(model, reader(model, sets[1], index), int(head[0]), int(head[1]))
    read = model.parts.embed(IDS, torch.arange(2))[0][0] @ through.covector[0]
    assert layer == low + 1 and token.factors[0].connection == pytest.approx(read.item(), rel=1e-9)
    for each in token.factors:
        end = every[root, f"{each.way}@0", "token@0"]
        expected = (each.weight, 1.0, each.scale, each.connection)
        assert (end.contribution, end.activation, end.scale, end.connection) == pytest.approx(expected, rel=1e-9)
    assert "no weights alone" in refused(lambda: factors(graph, f"m{low}.error@1", root))
    assert "nothing flows" in refused(lambda: factors(graph, "token@0", f"m{low}.error@1"))


def test_greedy_keeps_the_strongest_of_each_length() -> None:
    model = tiny("gpt2")
    sets = [made(model, 0), made(model, 1)]
    root = active(model, sets, 1)
    for changes in ({"negative": False}, {"first": False, "errors": False, "biases": False}):
        whole = PathConfig(**{"steps": 3, "branches": 10**6, "first": True, "biases": True, **changes})
        every = searched(model, sets, root, whole).paths
        few = searched(model, sets, root, PathConfig(**{**vars(whole), "branches": 4}))
        kept = {(root,)}
        for length in (2, 3, 4):
            grown = [each for each in every if len(each.nodes) == length and each.names[:-1] in kept]
            grown = sorted(grown, key=lambda each: -abs(each.contribution))[:4]
            assert [each.names for each in few.paths if len(each.nodes) == length] == [each.names for each in grown]
            kept = {each.names for each in grown}
        assert any(each.contribution < 0 for each in few.paths) == whole.negative
        nodes = {name for each in few.paths for name in each.names[1:]}
        assert whole.first or not any(".h" in name and name.endswith("@0") for name in nodes)
        assert whole.biases or not any(name.endswith(("bias", "error@0", "error@1")) for name in nodes)
    graph = few.graph()
    first = [each for each in few.paths if len(each.nodes) == 2]
    assert graph.rest(root) == pytest.approx(few.value - sum(each.contribution for each in first))
    assert {each.names for each in few.longest} <= {each.names for each in few.paths} and '"root"' in graph.to_json()


def test_roots() -> None:
    model = tiny("llama-gqa")
    sets = [made(model, 0), made(model, 1)]
    root = active(model, sets, 1)
    short = PathConfig(1, 10**6, first=True, biases=True)
    by_end = searched(model, sets, root.replace("@1", "@-1"), short)
    assert by_end == searched(model, sets, root, short) and by_end.root == root
    logit = greedy_paths(model, IDS, sets, 7, short)
    assert sum(each.contribution for each in logit.paths) == pytest.approx(logit.value, rel=1e-9)
    assert "give one" in refused(lambda: greedy_paths(model, IDS, sets, [7, 8]))
    assert root.split("@")[0] in refused(lambda: searched(model, sets, _silent(model, sets))).split("there: ")[1]
    assert "named m1.f" in refused(lambda: searched(model, sets, "m1.n0@1"))
    assert "2 tokens" in refused(lambda: searched(model, sets, "m1.f0@-3"))
    assert "at least 1" in refused(lambda: PathConfig(0))


def _silent(model: Model, sets: list[Transcoder]) -> str:
    names = {each for each in graph_of(model, sets, ids=IDS).names if each.startswith("m1.f")}
    return next(f"m1.f{i}@1" for i in range(6) if f"m1.f{i}@1" not in names)
