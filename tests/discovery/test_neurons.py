"""Methods on graphs with neurons and with places: the effects that choose candidates, and what runs on them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import edgewise as ew
from edgewise.circuit import Circuit
from edgewise.engine import Engine
from edgewise.tasks import metric_function, reduce
from tests.discovery.test_features import METHODS, TASK
from tests.discovery.toys import near, quiet
from tests.engine.apart import crossing, with_neurons, with_places
from tests.engines import ABLATIONS
from tests.tiny import refused, tiny
from tests.transcoders.test_replacement import modules_of


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
@pytest.mark.parametrize("name", ["gpt2", "llama-biases", "neox-parallel"])
def test_an_effect_is_the_sum_of_eaps_scores_of_the_neurons_edges(name: str, ablation: str):
    """Where one layer alone is taken apart, so that all else is the model's own."""
    model = tiny(name)
    effects = ew.discovery.neuron_effects(model, TASK, [1], ablation=ABLATIONS[ablation], batch_size=5)[1]
    engine = with_neurons(model, ablation, {1: range(len(effects))})
    scores, graph = ew.eap(engine, TASK).values.double(), engine.graph
    sums = scores.new_zeros(graph.n_writers).index_add_(0, graph.edge_writer.long(), scores)
    near(sums[graph.writers_of(graph.mlp(1))][:-1], effects, 1e-5)


@pytest.mark.parametrize("ablation", ["interchange", "zero"])
def test_an_effect_counts_all_places_of_a_feature(ablation: str):
    """By the user's module, hooks and autograd, prompt by prompt."""
    model, total = tiny("gpt2"), torch.zeros(32, dtype=torch.float64)
    transcoder = crossing(model)[0]
    mlps, kept = [modules_of(layer)[1] for layer in model.parts.layers], {}

    def hook(number: int) -> Callable[..., torch.Tensor]:
        def keep(_module: Any, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            if number == 0:
                kept["z"] = transcoder.encode(given[0]).detach()
            kept[number] = output if output.requires_grad else output.detach().requires_grad_()
            return kept[number]

        return keep

    handles = [mlp.register_forward_hook(hook(number)) for number, mlp in enumerate(mlps)]
    for batch in TASK.batches("train", 1):
        change = torch.zeros(())
        if ablation == "interchange":
            model.module(input_ids=batch.corrupted.ids)
            change = -kept["z"]
        logits = model.module(input_ids=batch.clean.ids).logits[batch.row, batch.position]
        value = reduce(metric_function("logit_diff")(logits, batch), batch).sum()
        gradients = torch.autograd.grad(value, [kept[number] for number in range(len(mlps))])
        for gradient, decoder in zip(gradients, transcoder.W_dec.detach().split(32, 1), strict=True):
            total += ((kept["z"] + change) * (gradient @ decoder.T)).sum((0, 1))
    for handle in handles:
        handle.remove()
    found = ew.feature_effects(model, TASK, transcoder, ablation=ABLATIONS[ablation], batch_size=5)[0]
    near(found, total / len(TASK.train), 1e-8)


def test_absolute_effects_are_the_mean_size_of_the_examples():
    model = tiny("gpt2")
    single = [replace(TASK, train=TASK.train[i : i + 1]) for i in range(len(TASK.train))]

    def checked(effects: Callable[..., dict[int, torch.Tensor]]) -> None:
        wanted = torch.stack([torch.cat(list(effects(task).values())) for task in single]).abs().mean(0)
        found = torch.cat(list(effects(TASK, average="absolute", batch_size=3).values()))
        near(found, wanted, 1e-8)
        assert (found > torch.cat(list(effects(TASK).values())).abs() + 1e-6).any()

    checked(partial(ew.discovery.neuron_effects, model))
    checked(lambda task, **how: ew.feature_effects(model, task, crossing(model)[:2], **how))
    wrong: Any = "both"
    assert "average" in refused(lambda: ew.discovery.neuron_effects(model, TASK, average=wrong))


def test_choosing_takes_the_largest_and_says_what_it_cost():
    model = tiny("gpt2")
    effects = ew.discovery.neuron_effects(model, TASK, average="absolute")
    each = ew.choose_neurons(model, TASK, 5)
    assert each == {layer: tuple(sorted(x.topk(5).indices.tolist())) for layer, x in effects.items()}
    record = each.record
    assert record["by"] == "absolute first-order effect"
    assert record["what"] == "neurons" and record["n"] == 5 and record["split"] == "train"
    assert record["cost"]["backwards_per_example"] == 1 and record["cost"]["examples"] == len(TASK.train)
    together = ew.choose_neurons(model, TASK, 9, per="all")
    least = torch.cat(list(effects.values())).topk(9).values.min()
    assert together == {layer: tuple((x >= least).nonzero()[:, 0].tolist()) for layer, x in effects.items()}
    assert ew.choose_features(model, TASK, crossing(model)[:1], 2).keys() == {0, 1, 2}  # all that it writes to
    assert "n=129" in refused(lambda: ew.choose_neurons(model, TASK, 129))
    assert "layers [3]" in refused(lambda: ew.choose_neurons(model, TASK, 1, [3]))
    assert "normed as one sum" in refused(lambda: ew.choose_neurons(tiny("twisted"), TASK, 1))


def _neurons() -> Engine:
    return with_neurons(tiny("llama-gqa", torch.float32))


def _places() -> Engine:
    model = tiny("llama-gqa", torch.float32)
    return with_places(model, [each.float() for each in crossing(model)], error="kept")


@pytest.mark.parametrize("make", [_neurons, _places])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_finds_a_circuit_that_is_saved_and_judged_the_same(
    method: str, make: Callable[[], Engine], tmp_path: Path
):
    engine = make()
    circuit = METHODS[method](engine)
    assert 0 < circuit.n_actual <= circuit.n_edges < engine.graph.n_edges
    circuit.save(tmp_path / "circuit.safetensors")
    loaded = Circuit.load(tmp_path / "circuit.safetensors")
    assert loaded.graph == engine.graph and loaded.edge_names() == circuit.edge_names()
    found = [ew.evaluate(make(), each, TASK, baselines=("random",)) for each in (circuit, loaded)]
    assert found[0].metrics == found[1].metrics
    assert found[0].conditions["graph"] == engine.graph.spec.to_dict()


def test_a_refined_ranking_and_what_does_not_run_neurons():
    engine = _neurons()
    scores = ew.eap(engine, TASK)
    refined = ew.refine_at_size(engine, TASK, start=scores, sparsity=0.8, steps=2, batch_size=4, options=quiet())
    assert refined.n_actual == ew.discovery.edges_at(engine.graph, 0.8)
    for call in (
        lambda: ew.eap_ig(engine, TASK),
        lambda: ew.node_eap(engine, TASK),
        lambda: ew.relevance(engine, TASK),
    ):
        assert "neurons in MLPs' places" in refused(call)


def test_effects_that_are_not_finite_choose_nothing():
    task = replace(TASK, metric=lambda logits, batch: logits[:, 0] * torch.nan)
    said = refused(lambda: ew.choose_neurons(tiny("gpt2"), task, 2))
    assert said == "neurons: an effect is not finite; look at the metric and the model's weights"
