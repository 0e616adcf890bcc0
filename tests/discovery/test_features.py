"""Methods on graphs with features: the effects that choose them, what runs on them, and what refuses in one line."""

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import edgewise as ew
from edgewise.circuit import Circuit
from edgewise.engine import Ablation, Engine
from edgewise.evaluation._hypothesis_runs import _random_path
from edgewise.exchange import convert, edge_table, from_edge_table, write_edges, write_mib
from edgewise.models import Model
from edgewise.tasks import Task, metric_function, reduce
from edgewise.transcoders import Transcoder
from tests.discovery.toys import near, quiet, random_task
from tests.engine.featured import KINDS, featured, features_of, transcoder_of
from tests.tiny import refused, tiny
from tests.transcoders.test_replacement import modules_of

TASK = random_task(metric="logit_diff")


def _by_hooks(model: Model, transcoder: Transcoder, task: Task, corrupted: bool) -> Tensor:
    """Effects from the user's module, a hook and autograd, prompt by prompt; of kinds that need no bounds per token."""
    layer = transcoder.spec.reads.layer
    mlp, kept = modules_of(model.parts.layers[layer])[1], {}

    def hook(_module: Any, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        kept["z"] = transcoder.encode(given[0]).detach()
        kept["y"] = output.detach().requires_grad_()
        return kept["y"]

    total = torch.zeros(transcoder.n_features, dtype=torch.float64)
    handle = mlp.register_forward_hook(hook)
    for batch in task.batches("train", 1):
        change = torch.zeros(())
        if corrupted:
            model.module(input_ids=batch.corrupted.ids)
            change = -kept["z"]
        logits = model.module(input_ids=batch.clean.ids).logits[batch.row, batch.position]
        value = reduce(metric_function("logit_diff")(logits, batch), batch).sum()
        (gradient,) = torch.autograd.grad(value, kept["y"])
        total += ((kept["z"] + change) * (gradient @ transcoder.W_dec.detach().T)).sum((0, 1))
    handle.remove()
    return total / len(task.train)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["gpt2", "llama-gqa", "neox-parallel"])
def test_effects_are_those_of_plain_hooks(name: str, kind: str):
    model = tiny(name)
    transcoder = transcoder_of(model, 1, kind)
    for ablation in ("zero",) if kind == "topk:5" else ("zero", "interchange"):
        found = ew.feature_effects(model, TASK, transcoder, ablation=Ablation(ablation), batch_size=5)[1]
        near(found, _by_hooks(model, transcoder, TASK, ablation == "interchange"), 1e-8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["gpt2", "neox-parallel"])
def test_an_effect_is_the_sum_of_eaps_scores_of_the_features_edges(name: str, kind: str):
    """Where one layer alone is taken apart, so that all else is the model's own."""
    model = tiny(name)
    for exclude in (False, True):
        transcoder = transcoder_of(model, 1, kind, exclude=exclude)
        effects = ew.feature_effects(model, TASK, transcoder)[1]
        engine = featured(model, [transcoder], features={1: range(32)})
        scores, graph = ew.eap(engine, TASK).values.double(), engine.graph
        sums = scores.new_zeros(graph.n_writers).index_add_(0, graph.edge_writer.long(), scores)
        near(sums[graph.writers_of(graph.blocks[3])], effects, 1e-5)


def test_choosing_takes_the_largest_of_each_or_of_all():
    model = tiny("gpt2")
    transcoders = [transcoder_of(model, layer) for layer in (0, 2)]
    effects = ew.feature_effects(model, TASK, transcoders, average="absolute")
    each = ew.choose_features(model, TASK, transcoders, 5)
    assert each == {layer: tuple(sorted(x.topk(5).indices.tolist())) for layer, x in effects.items()}
    together = ew.choose_features(model, TASK, transcoders, 9, per="all")
    least = torch.cat(list(effects.values())).topk(9).values.min()
    assert together == {layer: tuple((x >= least).nonzero()[:, 0].tolist()) for layer, x in effects.items()}
    assert ew.choose_features(model, TASK, transcoders[0], 0) == {0: ()}
    kl = dataclasses.replace(TASK, metric="kl")  # whose gradient at the model is 0: the field's metric is explained
    assert ew.choose_features(model, kl, transcoders, 5) == each
    assert "n=33" in refused(lambda: ew.choose_features(model, TASK, transcoders, 33))
    assert "per='head'" in refused(lambda: ew.choose_features(model, TASK, transcoders, 3, per="head"))  # pyright: ignore[reportArgumentType]
    half = tiny("gpt2", torch.bfloat16)
    assert "load it in float32" in refused(lambda: ew.feature_effects(half, TASK, transcoders))
    assert "layers [0, 0]" in refused(lambda: ew.feature_effects(model, TASK, [transcoders[0]] * 2))
    assert "interchange or zero" in refused(
        lambda: ew.feature_effects(model, TASK, transcoders, ablation=Ablation("mean"))
    )


# ---------------------------------------------------------------------------------------- methods on features


def _engine(**choices: Any) -> Engine:
    return featured(tiny("gpt2", torch.float32), **choices)


METHODS: dict[str, Callable[[Engine], Circuit]] = {
    "ranking": lambda e: ew.learn_ranking(e, TASK, steps=4, batch_size=4, options=quiet()).at(0.8, actual=True),
    "edge-pruning": lambda e: ew.edge_pruning(e, TASK, steps=6, batch_size=4, sparsity=0.8, options=quiet()),
    "node-pruning": lambda e: ew.node_pruning(e, TASK, steps=4, batch_size=4, options=quiet()).at(0.8),
    "eap": lambda e: ew.eap(e, TASK).at(0.8, actual=True, absolute=True),
    "mask-ig": lambda e: ew.mask_ig(e, TASK, points=2).at(0.8, actual=True, absolute=True),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_finds_a_circuit_that_is_saved_and_judged_the_same(method: str, tmp_path: Path):
    engine = _engine()
    circuit = METHODS[method](engine)
    assert 0 < circuit.n_edges < engine.graph.n_edges
    assert circuit.provenance["transcoders"] == engine.transcoder_identity
    circuit.save(tmp_path / "circuit.safetensors")
    loaded = Circuit.load(tmp_path / "circuit.safetensors")
    assert loaded.graph == engine.graph and loaded.edge_names() == circuit.edge_names()
    found = [ew.evaluate(_engine(), each, TASK, baselines=("random",)) for each in (circuit, loaded)]
    assert found[0].metrics == found[1].metrics
    assert found[0].conditions["transcoders"] == engine.transcoder_identity


def test_a_circuit_is_judged_with_its_own_transcoders_alone():
    model, engine = tiny("gpt2", torch.float32), _engine()
    circuit = METHODS["eap"](engine)
    others = [transcoder_of(model, layer, "jumprelu") for layer in features_of(model)]
    other = featured(model, others)
    assert "features of layer 0 are of another transcoder" in refused(lambda: ew.evaluate(other, circuit, TASK))
    assert "give its transcoder" in refused(lambda: ew.evaluate(model, circuit, TASK))
    assert "different transcoders" in refused(lambda: circuit & METHODS["eap"](other))
    unsaid = Circuit(circuit.graph, circuit.kept)  # as from a table
    for both in (circuit & circuit, circuit & unsaid, unsaid & circuit):
        assert both.provenance["transcoders"] == engine.transcoder_identity


def test_what_does_not_run_features_refuses_in_one_line(tmp_path: Path):
    engine = _engine()
    circuit = METHODS["eap"](engine)
    calls: list[Callable[[], Any]] = [
        lambda: ew.eap_ig(engine, TASK),
        lambda: ew.eap_ig(engine, TASK, path="activations"),
        lambda: ew.relevance(engine, TASK),
        lambda: ew.node_eap(engine, TASK),
        lambda: ew.node_ig(engine, TASK),
        lambda: ew.atp_star(engine, TASK),
        lambda: ew.information_flow(engine, TASK),
        lambda: ew.exact_patching(engine, TASK, pairs=2, options=quiet()),
        lambda: ew.acdc(engine, TASK, threshold=0.1, pairs=2, options=quiet()),
        lambda: ew.learned_engine(engine.model, TASK, engine.graph),
        lambda: write_mib(circuit, tmp_path / "circuit.json", 32),
        lambda: write_edges(circuit, tmp_path / "edges.json"),
        lambda: convert(circuit, engine.model.graph()),
    ]
    for call in calls:
        assert "features" in refused(call)


def test_a_circuit_of_features_as_a_table_and_under_another_convention():
    engine = _engine()
    circuit = METHODS["eap"](engine)
    table = edge_table(circuit)
    assert {"head", "feature", "error"} <= set(table["writer_kind"]) and "feature" in table["reader_kind"]
    assert torch.equal(from_edge_table(table, engine.graph).kept, circuit.kept)
    split = engine.model.graph("split", features=features_of(engine.model))
    there = convert(circuit, split)
    assert there.graph == split
    assert torch.equal(convert(there, engine.graph).kept, circuit.kept)


def test_random_paths_go_through_features_and_end_in_what_nothing_feeds():
    circuit = METHODS["eap"](_engine())
    generator, ends = np.random.default_rng(0), set()
    for _ in range(200):
        names = [circuit.graph.edge_name(edge).split(" -> ") for edge in _random_path(circuit, generator)]
        assert names[0][1] == "logits"
        for (writer, _), (_, reader) in pairwise(names):
            own = reader.rsplit(".", 1)[0] if reader.startswith("a") else reader  # a key's head is its query's here
            assert writer == own
        ends.add(names[-1][0])
    assert ends == {"embed", "m0.error", "m2.error"}
