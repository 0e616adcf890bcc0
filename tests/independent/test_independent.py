"""Everything that is published, held against slow code on plain hooks that shares nothing with the library."""

from pathlib import Path

import pytest
import torch

from edgewise.circuit import Circuit
from edgewise.discovery import eap, eap_ig
from edgewise.engine import Ablation, Engine
from edgewise.evaluation import judge, mib_scores
from edgewise.tasks import Task
from tests.attribution.test_rows import EVERYTHING, graph_of
from tests.discovery.hooks import LAYOUTS
from tests.discovery.toys import logit_diff, near, random_pairs
from tests.independent.circuits import (
    Edge,
    File,
    all_edges,
    circuit_logits,
    idle_dropped,
    own_logits,
    written,
)
from tests.independent.ledger import FrozenByHooks, replacement_and_completeness
from tests.independent.metrics import cpr_and_cmd, highest, means, of_pair
from tests.independent.scores import eap_scores
from tests.tiny import tiny

FAMILIES = {"gpt2": "gpt2", "llama-gqa": "llama", "neox-parallel": "neox", "plain": "plain"}
"""A tiny model of each, and its layout."""
LEFT = [(0.0, 0.5), (0.5, 0.5)]
"""EAP-IG's own grid of two points."""


def setting(name: str, ablation: str = "interchange") -> tuple[Engine, list[Edge], bool]:
    parallel = "parallel" in name
    engine = Engine(tiny(name), ablation=Ablation(ablation))  # pyright: ignore[reportArgumentType]
    return engine, all_edges(engine.model.module, LAYOUTS[FAMILIES[name]], parallel), parallel


def judged(name: str, engine: Engine, edges: list[Edge], kept: set[Edge], task: Task) -> dict[str, float]:
    """The means of a circuit over a task's test split."""
    module, layout, rows = engine.model.module, LAYOUTS[FAMILIES[name]], []
    for pair in task.test:
        ids, other = (torch.tensor([each]) for each in (pair.clean, pair.corrupted))
        ablated = written(module, layout, other) if engine.ablation.kind == "interchange" else None
        logits = circuit_logits(module, layout, ids, edges, kept, ablated, "parallel" in name)
        rows.append(of_pair(pair, logits[0], own_logits(module, ids)[0]))
    return means(rows)


@pytest.mark.parametrize("name", FAMILIES)
def test_edges_are_numbered_alike(name: str):
    engine, edges, _ = setting(name)
    assert [f"{w} -> {r}" for w, r in edges] == engine.graph.edge_names(torch.arange(engine.graph.n_edges))


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_circuit_says_the_same(name: str, ablation: str):
    engine, edges, _ = setting(name, ablation)
    task = Task("toy", [], [], random_pairs(5, seed=4))
    for share in (0.15, 0.8):
        kept = torch.rand(len(edges), generator=torch.Generator().manual_seed(int(10 * share))) < share
        chosen = {edge for edge, k in zip(edges, kept.tolist(), strict=True) if k}
        found = judge(engine, {"c": Circuit(engine.graph, kept)}, task, "test", names=None)["c"]
        expected = judged(name, engine, edges, chosen, task)
        assert {"kl", "logit_diff", "accuracy", "exact_match", "log_prob"} <= set(found)
        for metric in set(found) & set(expected):
            assert float(found[metric].mean()) == pytest.approx(expected[metric], abs=1e-8), metric


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "neox-parallel"])
def test_the_same_edges_can_carry_signal(name: str, ablation: str):
    engine, edges, _ = setting(name, ablation)
    spec, generator = engine.graph.spec, torch.Generator().manual_seed(3)
    sizes = set()
    for share in (0.02, 0.05, 0.1, 0.2) * 3:
        kept = torch.rand(len(edges), generator=generator) < share
        chosen = {edge for edge, k in zip(edges, kept.tolist(), strict=True) if k}
        alive = idle_dropped(chosen, spec.n_heads, spec.n_kv_heads, ablation == "interchange")
        found = engine.graph.prune(kept, ablation)
        assert {edge for edge, k in zip(edges, found.tolist(), strict=True) if k} == alive
        sizes.add((len(chosen), len(alive)))
    assert any(actual < nominal for nominal, actual in sizes)
    assert any(actual for _, actual in sizes)


@pytest.mark.parametrize("name", FAMILIES)
def test_eap_and_eap_ig(name: str):
    engine, edges, _ = setting(name)
    module, layout = engine.model.module, LAYOUTS[FAMILIES[name]]
    task = Task("toy", random_pairs(3), [], [])
    for points in (None, LEFT):
        each = [eap_scores(module, layout, pair, logit_diff(pair), edges, points) for pair in task.train]
        found = eap(engine, task) if points is None else eap_ig(engine, task, points=2, quadrature="left")
        near(found.values, torch.stack(each).mean(0), 3e-7)  # eap rounds to float32


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa"])
def test_cpr_and_cmd(name: str):
    engine, edges, _ = setting(name)
    task = Task("toy", random_pairs(3), [], random_pairs(3, seed=7))
    scores, shares = eap(engine, task), (0.05, 0.2, 0.5, 1.0)
    values = scores.values.tolist()

    def value(k: int, absolute: bool) -> float:
        chosen = {edges[i] for i in highest(values, k, absolute)}
        return judged(name, engine, edges, chosen, task)["logit_diff"]

    cpr, cmd = cpr_and_cmd(value, value(len(edges), False), value(0, False), shares, len(edges))
    found = mib_scores(engine, scores, task, shares=shares)
    assert (found.signed.cpr, found.absolute.cmd) == pytest.approx((cpr, cmd), rel=1e-6)


@pytest.mark.parametrize("name", ["llama-gqa", "llama-biases"])
def test_the_ledger_and_the_replacement_score(name: str):
    model = tiny(name)
    ids = torch.tensor([3, 17, 4, 25])
    graph = graph_of(model, "neurons", EVERYTHING, ids, target=[5, 9], contrast=True)
    frozen = FrozenByHooks(model.module, LAYOUTS["llama"], ids)
    numbers = {node: i for i, node in enumerate(graph.names)}
    dense, rebuilt = torch.from_numpy(graph.matrix.toarray()), torch.zeros(graph.n_nodes, graph.n_nodes).double()
    biases = graph.nodes.is_kind("attention bias", "MLP bias", "reading bias")
    for target in dense.any(1).nonzero()[:, 0].tolist():
        if graph.names[target] in graph.roots:
            value = frozen.logits[-1, 5] - frozen.logits[-1, 9]
        else:
            layer, neuron, position = (int(part) for part in graph.names[target][1:].replace("@", ".n").split(".n"))
            value = frozen.targets[layer][position, neuron]
        tokens, neurons = frozen.edges(value)
        for position, weight in enumerate(tokens.tolist()):
            rebuilt[target, numbers[f"token@{position}"]] = weight
        for layer, each in enumerate(neurons):
            for position, neuron in each.nonzero().tolist():
                rebuilt[target, numbers[f"m{layer}.n{neuron}@{position}"]] = each[position, neuron]
        constant = float(dense[target, biases].sum())
        assert float(rebuilt[target].sum()) + constant == pytest.approx(value.item(), rel=1e-9, abs=1e-12)
        assert abs(constant) < 1e-12 or name == "llama-biases"
    torch.testing.assert_close(rebuilt[:, ~biases], dense[:, ~biases], rtol=1e-8, atol=1e-12)
    roots = torch.zeros(graph.n_nodes).double()
    roots[graph.nodes.is_kind("root")] = graph.root_weights.double()
    kinds = graph.nodes.is_kind("token"), graph.nodes.is_kind("error")
    assert graph.scores() == pytest.approx(replacement_and_completeness(rebuilt, roots, *kinds), rel=1e-9)


def test_files_are_read_alike(tmp_path: Path):
    engine, edges, _ = setting("llama-gqa")
    scores = torch.randn(len(edges))
    Circuit(engine.graph, scores > 0.5, scores).save(tmp_path / "c.safetensors")
    file = File.read(tmp_path / "c.safetensors")
    assert file.edges(edges) == {edge for edge, s in zip(edges, scores.tolist(), strict=True) if s > 0.5}
    assert file.scores == scores.tolist()
    assert file.header["graph"]["n_kv_heads"] == engine.graph.spec.n_kv_heads
