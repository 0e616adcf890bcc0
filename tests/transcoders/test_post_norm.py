"""Where a family norms what its MLP writes, `mlp_out` comes after that norm: to capture, replacement and judge."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from edgewise.models import Model, Norm
from edgewise.transcoders import Replacement, Site, capture, modules_of
from edgewise.transcoders.judging import evaluate_transcoders
from tests.tiny import norms_in_double, random_model
from tests.transcoders.reference import random_transcoder
from tests.transcoders.toys import text

IDS = text(4).ids


class _Normed(nn.Module):
    """An MLP and the norm of what it writes: the whole of what a layer adds."""

    def __init__(self, mlp: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.mlp, self.norm = mlp, norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.mlp(x))


def _with_post_norms() -> tuple[Model, list[_Normed]]:
    model, whole, layers = random_model("llama-gqa"), [], []
    for block, layer in zip(model.module.model.layers, model.parts.layers, strict=True):  # pyright: ignore
        norm = type(block.input_layernorm)(model.parts.d_model).double()
        torch.nn.init.uniform_(norm.weight, 0.5, 2.0)
        norms_in_double(norm)
        whole.append(_Normed(block.mlp, norm))
        block.mlp = whole[-1]
        layers.append(replace(layer, mlp=replace(layer.mlp, post_norm=Norm.rms(norm))))
    return replace(model, parts=replace(model.parts, layers=tuple(layers))), whole


def _own(model: Model) -> Tensor:
    with torch.no_grad():
        return model.module(input_ids=IDS).logits


@pytest.fixture(scope="module")
def normed() -> tuple[Model, list[_Normed]]:
    return _with_post_norms()


def test_what_is_captured_is_what_the_layer_adds(normed):
    model, whole = normed
    seen: list[Tensor] = []
    handles = [each.register_forward_hook(lambda _m, given, out: seen.extend((given[0], out))) for each in whole]
    _own(model)
    for handle in handles:
        handle.remove()
    sites = [Site(kind, layer) for layer in range(3) for kind in ("mlp_in", "mlp_out")]
    for found, expected in zip(capture(model, sites, IDS).values(), seen, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("autoencoder", [False, True])
def test_a_transcoder_stands_for_the_mlp_and_its_norm(normed, autoencoder: bool):
    model, whole = normed
    d = model.parts.d_model
    found = random_transcoder(d_in=d, d_out=d, n_features=48, layer=1, autoencoder=autoencoder, input_bias=True)
    handle = whole[1].register_forward_hook(lambda _m, given, out: found(out if autoencoder else given[0]))
    expected = _own(model)
    handle.remove()
    torch.testing.assert_close(Replacement(model, found).logits(IDS), expected)
    assert not torch.allclose(expected, _own(model), atol=1e-3)


def test_with_errors_the_output_is_the_models_to_the_bit(normed):
    model, whole = normed
    d = model.parts.d_model
    found = [random_transcoder(d_in=d, d_out=d, n_features=48, layer=layer, seed=layer) for layer in (0, 2)]
    before = _own(model)
    for exclude in (False, True):
        assert torch.equal(Replacement(model, found, errors=True, exclude_special=exclude).logits(IDS), before)
    first = Replacement(model, found, exclude_special=True)
    with first as module, torch.no_grad():
        seen: list[Tensor] = []
        handle = whole[0].register_forward_hook(lambda _m, _given, out: seen.append(out))
        module(input_ids=IDS)
        handle.remove()
    own = capture(model, [Site("mlp_out", 0)], IDS)[Site("mlp_out", 0)]
    torch.testing.assert_close(seen[0][:, 0], own[:, 0])  # each row's first token keeps the MLP's and norm's own output
    assert torch.equal(_own(model), before)
    for layer in model.parts.layers:
        assert all("forward" not in module.__dict__ for module in modules_of(layer)[1:2])


def test_the_judge_ablates_and_averages_what_the_layer_adds(normed):
    model, whole = normed
    d, rows = model.parts.d_model, text(20)
    judged = evaluate_transcoders(model, [random_transcoder(d_in=d, d_out=d, layer=1)], rows, exclude_special=False)
    mean = capture(model, [Site("mlp_out", 1)], rows.ids)[Site("mlp_out", 1)].flatten(0, 1).mean(0)
    for given, found in ((torch.zeros(d).double(), judged.zero[1]), (mean, judged.mean[1])):
        handle = whole[1].register_forward_hook(lambda _m, _given, out, y=given: y.expand_as(out))
        with torch.no_grad():
            log_p = model.module(input_ids=rows.ids).logits[:, :-1].float().log_softmax(-1)
        handle.remove()
        loss = -log_p.gather(2, rows.ids[:, 1:, None]).mean()
        assert found.loss == pytest.approx(float(loss), rel=1e-6)
