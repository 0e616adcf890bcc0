"""The engine reads the user's weights as they are: changed ones, and those of MLPs that are modules in another type."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import edgewise as ew
from edgewise.circuit import Circuit
from edgewise.engine import Ablation, Engine, check
from edgewise.graph import GraphSpec
from edgewise.models import Mlp, Parts, load
from tests.engines import assert_close
from tests.tiny import collate, draw_prompts, own_logits, random_model

PROMPTS = draw_prompts()
BATCH = collate(PROMPTS)


@pytest.mark.parametrize("name", ["twisted", "gemma2", "llama-gqa"])
def test_a_new_engine_follows_changed_weights(name: str):
    model = random_model(name)
    Engine(model).run(BATCH, torch.ones(model.graph().n_edges, dtype=torch.float64))
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    again = Engine(model).run(BATCH, torch.ones(model.graph().n_edges, dtype=torch.float64))
    assert_close(again, own_logits(model, PROMPTS))


def test_an_mlp_that_is_a_module_runs_in_its_weights_type():
    model = load(random_model("llama-gqa", torch.float32).module.to(torch.bfloat16))
    layers = tuple(replace(x, mlp=Mlp(x.mlp.norm, x.mlp.module)) for x in model.parts.layers)
    opaque = replace(model, parts=replace(model.parts, layers=layers))
    assert check(opaque).passed
    mask = torch.full((model.graph().n_edges,), 0.5, requires_grad=True)
    Engine(opaque).run(BATCH, mask).sum().backward()
    assert mask.grad is not None and torch.isfinite(mask.grad).all() and mask.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.module.parameters())


@pytest.mark.unchecked
def test_parts_of_another_kind_are_refused_in_one_line():
    parts = random_model("llama-gqa").parts
    layer = parts.layers[0]
    for wrong in (
        lambda: replace(parts, layers=(replace(layer, mlp=replace(layer.mlp, post_norm=nn.LayerNorm(4))),)),
        lambda: replace(parts, final_norm=nn.LayerNorm(4)),
        lambda: replace(parts, hidden=None),
        lambda: replace(layer.mlp, down=None),
    ):
        with pytest.raises(ew.InputError, match="^parts: ") as caught:
            wrong()
        assert "\n" not in str(caught.value)
    assert isinstance(replace(parts), Parts)


@pytest.mark.unchecked
def test_what_a_provenance_says_to_people_is_no_error():
    graph = random_model("gpt2").graph()
    kept = torch.zeros(graph.n_edges, dtype=torch.bool)
    noted = Circuit(graph, kept, provenance={"ablation": {"kind": "interchange", "note": "from a friend"}})
    assert noted.ablation == Ablation("interchange")
    assert Circuit(graph, kept, provenance={"ablation": {"kind": "resample"}}).ablation is None
    spec = GraphSpec(2, 2, 2, spans=["a", "b"])  # pyright: ignore[reportArgumentType] (as lists come)
    assert spec == GraphSpec(2, 2, 2, spans=("a", "b")) and hash(spec)
