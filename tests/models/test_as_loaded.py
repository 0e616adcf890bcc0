"""A module that is changed after it was loaded: followed where that can be seen, and else refused."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from edgewise import InputError
from edgewise.attribution import attribute
from edgewise.engine import Engine
from edgewise.models import Model, load, weights_hash
from edgewise.runs import RunOptions
from edgewise.transcoders import Site, capture
from tests.attribution.test_intervene import prompt
from tests.engines import engine
from tests.models.test_load import _tokenizer
from tests.tiny import collate, draw_prompts, random_model

BATCH = collate(draw_prompts())


def _fresh(name: str = "gpt2") -> tuple[Any, Model]:
    model = random_model(name, torch.float32)
    return model.module, model


def _refused(model: Model | Engine) -> str:
    with pytest.raises(InputError) as caught:
        Engine.of(model)
    return str(caught.value)


def test_the_identity_is_of_the_weights_as_they_are_now():
    module, model = _fresh()
    before = model.identity["weights_hash"]
    assert before == weights_hash(module)
    used, other = Engine(model), random_model("gpt2", torch.float32, seed=1).module
    module.load_state_dict(other.state_dict())
    assert model.identity["weights_hash"] == weights_hash(other) != before
    assert "weights have been changed" in _refused(used) and Engine.of(Engine(model))
    with torch.no_grad():
        next(module.parameters())[0] += 1
    assert model.identity["weights_hash"] == weights_hash(module) != weights_hash(other)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_of_training_is_seen(fused: bool):
    """Fused optimisers count no versions."""
    module, model = _fresh()
    before, used = model.identity["weights_hash"], Engine(model)
    parameters = list(module.parameters())
    for each in parameters:
        each.grad = torch.ones_like(each)
    torch.optim.AdamW(parameters, fused=fused).step()
    assert model.identity["weights_hash"] == weights_hash(module) != before
    assert "weights have been changed" in _refused(used)


def test_a_file_s_own_hash_is_given_until_weights_change():
    module, _ = _fresh()
    loaded = load(module)
    model = Model(module, None, loaded.family, loaded.parts, {"weights_hash": "of the file"})
    assert model.identity["weights_hash"] == "of the file"
    with torch.no_grad():
        next(module.parameters()).mul_(2)
    assert model.identity["weights_hash"] == weights_hash(module)


def test_weights_are_hashed_once(monkeypatch: pytest.MonkeyPatch):
    _, model = _fresh()
    expected = model.identity
    monkeypatch.setattr("edgewise.models._load.weights_hash", lambda *_: pytest.fail("they were hashed again"))
    assert model.identity == expected


@pytest.mark.parametrize("how", ["assign", "type", "one weight", "training", "a part in training", "hook", "pre-hook"])
def test_what_the_engine_would_not_follow_is_refused_and_may_be_put_right(how: str):
    module, model = _fresh("llama-gqa")
    used, twin = engine(model), copy.deepcopy(module)
    layer = module.model.layers[1]
    said = {"training": "training mode", "a part in training": "training mode", "hook": "model.layers.1.mlp"}
    handle, plain = None, layer.mlp.up_proj.weight
    if how == "assign":
        module.load_state_dict(twin.state_dict(), assign=True)
    elif how == "type":
        module.to(torch.bfloat16)
    elif how == "one weight":
        layer.mlp.up_proj.weight = nn.Parameter(plain.detach().clone())
    elif how == "training":
        module.train()
    elif how == "a part in training":
        layer.mlp.train()
    elif how == "hook":
        handle = layer.mlp.register_forward_hook(lambda _module, _given, output: 2 * output)
    else:
        handle = layer.mlp.register_forward_pre_hook(lambda *_: None)
    for given in (model, used):
        assert said.get(how.removeprefix("pre-"), "load it again") in _refused(given)
    with pytest.raises(InputError):
        attribute(model, prompt(), options=RunOptions(progress=False))
    if how in ("assign", "type"):
        assert Engine.of(load(module))
        return
    layer.mlp.up_proj.weight = plain
    module.eval()
    if handle is not None:
        handle.remove()
    assert Engine.of(model) and Engine.of(used) is used


def test_hooks_that_were_there_or_only_look_are_taken():
    module, model = _fresh("llama-gqa")
    module.model.layers[0].register_forward_hook(lambda *_: None)
    assert "model.layers.0" in _refused(model)
    assert Engine.of(load(module))
    module, model = _fresh("llama-gqa")
    ids = prompt()[None]
    module(input_ids=ids, output_hidden_states=True)  # for which transformers leaves hooks
    assert Engine.of(model)
    watched = module.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    assert capture(model, [Site("mlp_out", 1)], ids)  # runs the module itself
    watched.remove()


def test_offloaded_layers_come_and_go(tmp_path: Any):
    module, model = _fresh("llama-gqa")
    module.save_pretrained(tmp_path)
    away = load(tmp_path, _tokenizer(), offload="disk", dtype=torch.float64)  # whose layers are copied as they are run
    used = Engine(away)
    used.full(BATCH)
    assert Engine.of(used) is used and Engine.of(away)
    first = away.identity["weights_hash"]
    used.run(BATCH, torch.ones(used.graph.n_edges))
    assert away.identity["weights_hash"] == first
    away.module.train()
    assert "training mode" in _refused(away)
    assert model.identity["weights_hash"] == load(tmp_path, _tokenizer()).identity["weights_hash"]


def test_a_weight_without_axes_is_hashed_too():
    module = nn.Module()
    module.scale, module.row = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.ones(1))
    before = weights_hash(module)
    with torch.no_grad():
        module.scale.add_(1)
    assert weights_hash(module) != before
