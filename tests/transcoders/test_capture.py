"""Sites are what they say, on every family, and reading them leaves no trace."""

from typing import Any

import pytest
import torch
from torch import nn

from edgewise.transcoders import Site, capture, modules_of
from edgewise.transcoders._capture import real_tokens
from tests.tiny import CONFIGURATIONS, ONE_OF_EACH, refused, tiny
from tests.transcoders.toys import text

IDS = text(5).ids


@pytest.mark.parametrize("name", [*ONE_OF_EACH, "plain-norm", "neox-sequential"])
def test_sites_are_what_the_modules_own_run_shows(name: str):
    model = tiny(name)
    seen: dict[str, torch.Tensor] = {}
    modules = modules_of(model.parts.layers[1])

    def note(name: str) -> Any:
        return lambda _module, given, out: seen.update({f"{name}_in": given[0], f"{name}_out": out})

    named = {"norm": modules.norm, "mlp": modules.mlp, "added": modules.last}
    handles = [module.register_forward_hook(note(name)) for name, module in named.items()]
    with torch.no_grad():
        model.module(input_ids=IDS)
    for handle in handles:
        handle.remove()
    kinds = ("resid_mid", "mlp_normalized", "mlp_in", "mlp_out")
    sites = [Site(kind, 1, centred) for kind in kinds for centred in (False, True)]
    found = capture(model, sites, IDS)
    expected = {
        "mlp_in": seen["mlp_in"],
        "mlp_out": seen["added_out"],
        "resid_mid": seen.get("norm_in", seen["mlp_in"]),
    }
    gain, bias = model.parts.layers[1].mlp.norm.gain, model.parts.layers[1].mlp.norm.bias
    normalized = found[Site("mlp_normalized", 1)]
    again = normalized if gain is None else normalized * gain
    torch.testing.assert_close(again if bias is None else again + bias, expected["mlp_in"])
    for kind, value in expected.items():
        torch.testing.assert_close(found[Site(kind, 1)], value, rtol=1e-12, atol=1e-12)
    for kind in kinds:
        plain = found[Site(kind, 1)]
        torch.testing.assert_close(found[Site(kind, 1, True)], plain - plain.mean(-1, keepdim=True))


def hooks(module: nn.Module) -> list[Any]:
    return [part for part in module.modules() if part._forward_hooks or part._forward_pre_hooks]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_no_trace_is_left(name: str):
    model = tiny(name)
    capture(model, [Site("mlp_in", 0), Site("mlp_out", 1)], IDS)
    assert not hooks(model.module)


def test_the_forward_stops_after_the_last_layer_asked_for():
    model = tiny("llama-gqa")
    ran = []
    handle = modules_of(model.parts.layers[2])[1].register_forward_hook(lambda *_: ran.append(2))
    capture(model, [Site("mlp_out", 1)], IDS)
    capture(model, [Site("mlp_in", 2)], IDS)
    handle.remove()
    assert len(ran) == 1


def test_a_site_that_is_not_there_is_refused():
    model = tiny("gpt2")
    assert "3 layers" in refused(lambda: capture(model, [Site("mlp_in", 3)], IDS))
    assert "mlp_inn" in refused(lambda: Site("mlp_inn", 0))
    assert "layer" in refused(lambda: Site("mlp_in", -1))


def test_a_sites_key_reads_back():
    for site in (Site("mlp_in", 11), Site("mlp_out", 0, True)):
        assert Site.parse(site.key) == site
    for key in ("mlp_in", "x.mlp_in", "3.mlp_out.middle"):
        refused(lambda key=key: Site.parse(key))


@pytest.mark.unchecked
def test_first_and_special_tokens_are_left_out():
    class Tokenizer:
        all_special_ids = (3, 7)

    model = type("M", (), {"tokenizer": Tokenizer()})()
    ids = torch.tensor([[1, 3, 4], [7, 7, 9]])
    assert real_tokens(model, ids, exclude_special=True).tolist() == [[False, False, True], [False, False, True]]  # pyright: ignore[reportArgumentType] (all that is read)
    assert real_tokens(model, ids, exclude_special=False).all()  # pyright: ignore[reportArgumentType]


def test_every_configuration_has_its_sites():
    for name in CONFIGURATIONS.keys() - {"granite"}:
        found = capture(tiny(name), [Site("mlp_in", 0), Site("mlp_out", 1)], IDS)
        assert all(x.shape == (*IDS.shape, tiny(name).parts.d_model) for x in found.values())
