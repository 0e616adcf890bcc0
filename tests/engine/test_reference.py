"""The fast path gives what the reference gives, in float64: logits, every mask gradient, the constants' gradients."""

import math
from itertools import product

import pytest
import torch

from edgewise.engine import _executor, _group, _stack
from edgewise.engine._group import layer_groups
from edgewise.engine._plan import LayerPlan, make_plan
from edgewise.engine._stack import Workspace
from edgewise.graph import Graph
from edgewise.models import Model
from tests.engines import (
    ABLATIONS,
    Choices,
    Outcome,
    assert_close,
    assert_same,
    assert_same_where_given,
    conventions,
    engine,
    half_of_choices,
    outcome,
    random_masks,
    two_choices,
)
from tests.tiny import CONFIGURATIONS, ONE_OF_EACH, collate, draw_prompts, tiny

BATCH = collate(draw_prompts((6, 3, 5)))


def _check(model: Model, graph: Graph, ablation: str, mask: torch.Tensor, choices: list[Choices]) -> None:
    """Some ways to run against the reference."""
    expected = outcome(engine(model, graph, ablation, path="reference"), BATCH, mask)
    for memory, skip, gradients in choices:
        found = outcome(engine(model, graph, ablation, memory=memory), BATCH, mask, gradients=gradients, skip=skip)
        assert_same_where_given(found, expected, mask, gradients)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_under_every_ablation(name: str, ablation: str):
    model = tiny(name)
    graph = model.graph()
    # One kind of mask and two choices each time: every kind and every choice with every configuration, with every
    # ablation and with each other in the end.
    masks = list(random_masks(graph).values())
    turn = list(CONFIGURATIONS).index(name) + list(ABLATIONS).index(ablation)
    _check(model, graph, ablation, masks[turn % len(masks)], two_choices(turn))


@pytest.mark.parametrize("kind", random_masks(tiny("plain").graph()))
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_convention_with_every_mask(name: str, kind: str):
    model = tiny(name)
    for index, graph in enumerate(conventions(model)):
        # One ablation and two choices each time: each with every convention, with every kind and with each other.
        ablations = ("interchange", "learned") if index else ("interchange", "zero-shared", "learned-shared")
        masks = random_masks(graph, seed=2)
        number, turn = list(masks).index(kind), ONE_OF_EACH.index(name)
        ablation = ablations[(number + index + turn) % len(ablations)]
        _check(model, graph, ablation, masks[kind], two_choices(number + 2 * index + 5 * turn))


@pytest.mark.parametrize("memory", ["default", "lean"])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_readers_inputs_made_in_small_pieces(name: str, memory: str, monkeypatch: pytest.MonkeyPatch):
    model = tiny(name)
    graph = model.graph()
    masks = random_masks(graph)
    fast = {ablation: engine(model, graph, ablation, memory=memory) for ablation in ("interchange", "learned")}
    # Any two of the three choices are met in all four ways.
    choices = [
        (ablation, kind, gradients)
        for ablation, kind, gradients in product(fast, ("by-reader", "circuits-and-groups"), ("fractional", "all"))
        if (ablation == "learned") ^ (kind == "by-reader") ^ (gradients == "all")
    ]

    def results() -> list[Outcome]:
        return [outcome(fast[ablation], BATCH, masks[kind], gradients=each) for ablation, kind, each in choices]

    expected = results()
    for n_bytes in (1, 2000):
        monkeypatch.setattr(_stack, "CHUNK_BYTES", {"cpu": n_bytes})
        for found, whole in zip(results(), expected, strict=True):
            assert_same(found, whole)


STARTS = ((0, 1), (0, 1, 2), (1, 2), (3,))


@pytest.mark.parametrize("starts", STARTS, ids=str)
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_layers_that_are_read_together(name: str, starts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch):
    # Every model and every grouping with both sizes of a piece, and with both kinds of ablated values.
    row, column = ONE_OF_EACH.index(name), STARTS.index(starts)
    n_bytes = (700, 8 << 20)[(row + column) % 2]
    half = (row + column // 2) % 2

    # Where groups start; layers before the first stand alone. (All layers are one group in the other tests.)
    def groups(plans: tuple[LayerPlan, ...], all_edges: bool) -> dict[int, tuple[LayerPlan, ...]]:
        stops = (*starts[1:], len(plans))
        return {plan.layer: plans[a:b] for a, b in zip(starts, stops, strict=True) for plan in plans[a:b]}

    take = Workspace.take  # what is read before it is written would show
    monkeypatch.setattr(Workspace, "take", lambda *args: take(*args).fill_(math.nan))
    monkeypatch.setattr(_executor, "layer_groups", groups)
    monkeypatch.setattr(_stack, "CHUNK_BYTES", {"cpu": n_bytes})
    model = tiny(name)
    graph = model.graph()
    ablation, kind = (("interchange", "mixed"), ("learned-shared", "circuits-and-groups"))[half]
    _check(model, graph, ablation, random_masks(graph)[kind], half_of_choices(row // 2 + column))


def test_which_layers_are_read_together(monkeypatch: pytest.MonkeyPatch):
    graph = tiny("gpt2").graph()  # three layers of 12 attention readers and an MLP

    def found(mask: torch.Tensor, all_edges: bool = False) -> list[list[int]]:
        plan = make_plan(graph, mask[None], "interchange", all_edges=all_edges, skip=False)
        groups = layer_groups(plan.layers, all_edges)
        return [[each.layer for each in groups[layer]] if layer in groups else [] for layer in range(3)]

    monkeypatch.setattr(_group, "ROWS", 26)
    half, ones = torch.full((graph.n_edges,), 0.5), torch.ones(graph.n_edges)
    assert found(half) == [[0, 1], [0, 1], []]  # full after two layers; the last one stands alone
    assert found(ones, all_edges=True) == [[0, 1], [0, 1], []]
    assert found(ones) == [[0, 1, 2]] * 3  # readers that share an input take no rows
    monkeypatch.setattr(_group, "LAYERS", 2)
    assert found(ones) == [[0, 1], [0, 1], []]
    monkeypatch.setattr(_group, "ENOUGH", 13)
    assert found(half) == [[], [], []]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_prompts_of_one_token(name: str):
    model = tiny(name)
    graph = model.graph()
    batch = collate(draw_prompts((1,)))
    for number, ablation in enumerate(ABLATIONS, ONE_OF_EACH.index(name)):
        mask = random_masks(graph)[("mixed", "circuits-and-groups")[number % 2]]
        expected = outcome(engine(model, graph, ablation, path="reference"), batch, mask)
        assert_same(outcome(engine(model, graph, ablation), batch, mask, gradients="all"), expected)


@pytest.mark.parametrize("path", ["fast", "reference"])
def test_clamped_masks_get_no_gradient_unless_asked(path):
    graph = tiny("gpt2").graph()
    mask = random_masks(graph)["mixed"]
    hard = (mask == 0) | (mask == 1)
    found = outcome(engine(tiny("gpt2"), graph, path=path), BATCH, mask, gradients="fractional")
    assert_close(found.mask[hard], torch.zeros(int(hard.sum()), dtype=torch.float64))
