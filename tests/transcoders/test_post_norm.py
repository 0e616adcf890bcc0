"""Where a family norms what its MLP writes, `mlp_out` comes after that norm: to capture, replacement and judge."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgewise.engine import Engine
from edgewise.models import Model
from edgewise.transcoders import Replacement, Site, capture, modules_of
from edgewise.transcoders.formats import read, write
from edgewise.transcoders.judging import evaluate_transcoders
from tests.discovery.hooks import removed
from tests.discovery.toys import random_task
from tests.tiny import tiny
from tests.transcoders.reference import random_transcoder
from tests.transcoders.toys import text, writing_between

IDS = text(4).ids


class _Layer:
    """A layer's own modules, by their names in `transformers`: hooked here without asking which one makes a site."""

    def __init__(self, layer: nn.Module) -> None:
        self.mlp, self.norm = layer.get_submodule("mlp"), layer.get_submodule("post_feedforward_layernorm")

    def instead(self, change: Callable[[Tensor, Tensor], Tensor]) -> list[Any]:
        """Let the layer add what `change` makes of the MLP's input and of what it would add; the hooks."""
        return writing_between(self.mlp, self.norm, change)


def _own(model: Model) -> Tensor:
    with torch.no_grad():
        return model.module(input_ids=IDS).logits


@pytest.fixture(params=["gemma2", "gemma3"])
def normed(request: pytest.FixtureRequest) -> tuple[Model, list[_Layer]]:
    model = tiny(request.param)
    return model, [_Layer(layer) for layer in model.module.get_submodule("model.layers").children()]


def test_what_is_captured_is_what_the_layer_adds(normed):
    model, whole = normed
    seen: list[Tensor] = []

    def note(given: Tensor, out: Tensor) -> Tensor:
        seen.extend((given, out))
        return out

    with removed([hook for each in whole for hook in each.instead(note)]):
        _own(model)
    sites = [Site(kind, layer) for layer in range(len(whole)) for kind in ("mlp_in", "mlp_out")]
    for found, expected in zip(capture(model, sites, IDS).values(), seen, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("autoencoder", [False, True])
def test_a_transcoder_stands_for_the_mlp_and_its_norm(normed, autoencoder: bool):
    model, whole = normed
    d = model.parts.d_model
    found = random_transcoder(d_in=d, d_out=d, n_features=48, layer=1, autoencoder=autoencoder, input_bias=True)
    with removed(whole[1].instead(lambda given, out: found(out if autoencoder else given))):
        expected = _own(model)
    torch.testing.assert_close(Replacement(model, found).logits(IDS), expected)
    assert not torch.allclose(expected, _own(model), atol=1e-3)


def test_with_errors_the_output_is_the_models_to_the_bit(normed):
    model, whole = normed
    d = model.parts.d_model
    found = [random_transcoder(d_in=d, d_out=d, n_features=48, layer=layer, seed=layer) for layer in (0, 1)]
    before = _own(model)
    for exclude in (False, True):
        assert torch.equal(Replacement(model, found, errors=True, exclude_special=exclude).logits(IDS), before)
    first = Replacement(model, found, exclude_special=True)
    with first as module, torch.no_grad():
        seen: list[Tensor] = []
        handle = whole[0].norm.register_forward_hook(lambda _m, _given, out: seen.append(out))
        module(input_ids=IDS)
        handle.remove()
    own = capture(model, [Site("mlp_out", 0)], IDS)[Site("mlp_out", 0)]
    torch.testing.assert_close(seen[0][:, 0], own[:, 0])  # each row's first token keeps the MLP's and norm's own output
    assert torch.equal(_own(model), before)
    for layer in model.parts.layers:
        assert layer.mlp.post_norm is not None and modules_of(layer).last is layer.mlp.post_norm.module


def test_the_judge_ablates_and_averages_what_the_layer_adds(normed):
    model, whole = normed
    d, rows = model.parts.d_model, text(20)
    judged = evaluate_transcoders(model, [random_transcoder(d_in=d, d_out=d, layer=1)], rows, exclude_special=False)
    mean = capture(model, [Site("mlp_out", 1)], rows.ids)[Site("mlp_out", 1)].flatten(0, 1).mean(0)
    for given, found in ((torch.zeros(d).double(), judged.zero[1]), (mean, judged.mean[1])):
        with removed(whole[1].instead(lambda _given, out, y=given: y.expand_as(out))), torch.no_grad():
            log_p = model.module(input_ids=rows.ids).logits[:, :-1].float().log_softmax(-1)
        loss = -log_p.gather(2, rows.ids[:, 1:, None]).mean()
        assert found.loss == pytest.approx(float(loss), rel=1e-6)


def test_features_in_the_engine_write_there_too(normed):
    model, _ = normed
    d = model.parts.d_model
    found = random_transcoder(d_in=d, d_out=d, n_features=48, layer=1, activation="relu")
    graph = model.graph(features={1: (3, 5, 11)})
    fast, reference = (Engine(model, graph, transcoders=[found], path=path) for path in ("fast", "reference"))
    batch = random_task().batch("train", [0, 1, 2])
    torch.testing.assert_close(fast.run(batch, torch.ones(graph.n_edges)), fast.full(batch))
    mask = torch.rand(graph.n_edges, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(fast.run(batch, mask), reference.run(batch, mask), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("family", "format"), [("gemma2", "gemma-scope"), ("gemma3", "gemma-scope-2")])
def test_gemma_scopes_files_read_and_write_what_they_mean(tmp_path: Path, family: str, format: str):
    """1 reads what the norm gives before its gain, 2 after it; both write what the layer adds."""
    model = tiny(family, torch.float32)
    layer = _Layer(model.module.get_submodule("model.layers.1"))
    gain = 1 + model.module.get_submodule("model.layers.1.pre_feedforward_layernorm").get_parameter("weight")
    d, before_gain = model.parts.d_model, format == "gemma-scope"
    own = random_transcoder(
        "jumprelu",
        layer=1,
        reads="mlp_normalized" if before_gain else "mlp_in",
        n_features=48,
        d_in=d,
        d_out=d,
        dtype=torch.float32,
    )
    write(own, tmp_path / "layer_1" / "width_48", format)
    (found,) = read(tmp_path / "layer_1" / "width_48")
    with removed(layer.instead(lambda given, _out: own(given / gain if before_gain else given))):
        expected = _own(model)
    torch.testing.assert_close(Replacement(model, found).logits(IDS), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, _own(model), atol=1e-2)
