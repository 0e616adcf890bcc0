"""Tuning: exact gradients, to the transcoders alone; KL on unseen rows falls; a cut run ends in the same bits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from edgewise.models import Model
from edgewise.runs import CHECKPOINT, RunOptions
from edgewise.transcoders import Replacement, Transcoder, evaluate_transcoders, load, written
from edgewise.transcoders.training import TuningConfig, tune
from edgewise.transcoders.training._refit import refit
from edgewise.transcoders.training._tune import TuningLearner
from tests.tiny import random_model, tiny
from tests.transcoders.reference import D_IN, N, draw, random_transcoder
from tests.transcoders.toys import differing, learn, refused, text

SETTINGS = TuningConfig(tokens=64 * 40, batch_tokens=64, learning_rate=3e-3, precision="float32")


def a_set(model: Model) -> list[Transcoder]:
    """Two layers' transcoders, half trained."""
    return [t for (t,) in learn(model=model, tokens=32 * 12, skip=True).transcoders.values()]


@pytest.mark.parametrize("activation", ["relu", "topk:4", "batch_topk:4", "jumprelu"])
def test_what_is_written_has_the_gradients_of_the_dense_form(activation: str):
    t = random_transcoder(activation, skip=True, input_bias=True)
    x = draw(N, D_IN).requires_grad_()
    weight = draw(N, 1, t.spec.d_out, seed=3)
    wanted_of = {name: p for name, p in t.named_parameters() if name != "threshold"}  # whose derivative is a stand-in
    dense = t.encode(x) @ t.W_dec + t.b_dec + x @ t.W_skip.T  # pyright: ignore[reportOptionalMemberAccess]
    sparse = written(t, x)
    torch.testing.assert_close(sparse[:, 0], dense)
    wanted = torch.autograd.grad((dense * weight[:, 0]).sum(), [x, *wanted_of.values()])
    found = torch.autograd.grad((sparse * weight).sum(), [x, *wanted_of.values()])
    for name, a, b in zip(["x", *wanted_of], found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=name)
    assert all(p.grad is None for p in t.parameters())


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa"])
def test_the_loss_is_the_replaced_models_kl_and_the_model_gets_no_gradient(name: str):
    model = random_model(name)  # whose parameters no other test has left gradients at
    transcoders = [random_transcoder(d_in=d, d_out=d, n_features=48, layer=i, skip=True, seed=i)
                   for i, d in enumerate([model.parts.d_model] * 2)]  # fmt: skip
    ids = text(6).ids
    learner = TuningLearner(model, transcoders, text(6), SETTINGS)
    loss, found = learner.gradients(ids)
    with torch.no_grad():
        own = functional.log_softmax(model.module(input_ids=ids).logits, -1)
    changed = functional.log_softmax(Replacement(model, transcoders).logits(ids), -1)
    kl = (own.exp() * (own - changed)).sum(-1).mean()
    torch.testing.assert_close(loss, kl.detach())
    wanted = torch.autograd.grad(kl, learner.parameters)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)
    assert all(p.grad is None for p in model.module.parameters())


def test_unseen_rows_lose_less():
    model = tiny("gpt2", torch.float32)
    transcoders, unseen = a_set(model), text(16, seed=9)
    before = evaluate_transcoders(model, transcoders, unseen).all["replaced"].kl
    tuned = tune(model, transcoders, text(), SETTINGS, options=RunOptions(progress=False))
    after = evaluate_transcoders(model, list(tuned.transcoders), unseen).all["replaced"].kl
    assert after < 0.8 * before


@pytest.mark.parametrize("name", ["gpt2", "llama-gqa"])
def test_a_fit_in_closed_form_brings_the_replaced_model_nearer(name: str):
    model = tiny(name)
    last = len(model.parts.layers) - 1
    transcoders = [t for (t,) in learn(model=model, layers=tuple(range(last + 1)), skip=True).transcoders.values()]
    fitted, unseen = text(256), text(64, seed=9)

    def wrong() -> float:
        def logits() -> Tensor:
            return model.module(input_ids=unseen.ids).logits[:, 1:]

        with torch.no_grad():
            own = logits()
            with Replacement(model, transcoders):
                return float((own - logits()).square().sum())

    before = wrong()
    refit(model, transcoders, fitted.ids, exclude_special=True, bf16=False)
    assert wrong() < 0.8 * before


def test_a_cut_run_goes_on_to_the_same_bits_and_says_what_it_was(tmp_path: Path, monkeypatch):
    model = tiny("gpt2", torch.float32)
    options = {name: RunOptions(tmp_path / name, checkpoint_seconds=0.0, progress=False) for name in ("whole", "cut")}
    tune(model, a_set(model), text(), SETTINGS, options=options["whole"])
    own = TuningLearner.step

    def step(self: TuningLearner, number: int):
        if number == 7:
            raise RuntimeError
        return own(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(TuningLearner, "step", step)
        with pytest.raises(RuntimeError):
            tune(model, a_set(model), text(), SETTINGS, options=options["cut"])
    tune(model, a_set(model), text(), SETTINGS, options=options["cut"])
    whole, cut = (load_file(tmp_path / name / CHECKPOINT) for name in options)
    assert differing(whole, cut) == []
    found = load(tmp_path / "cut" / "layer1.safetensors")
    assert found.provenance["method"]["tuned"]["steps"] == SETTINGS.steps
    assert found.provenance["method"]["text"]["text"] == ["random"]


@pytest.mark.unchecked
def test_what_cannot_be_tuned_is_refused():
    model = tiny("gpt2", torch.float32)
    (t, _) = a_set(model)
    (auto,) = learn(model=model, kinds=("autoencoder",), layers=(0,)).transcoders.values()
    assert "at least one transcoder" in refused(lambda: tune(model, [], text()))
    assert "one transcoder can be tuned there" in refused(lambda: tune(model, [t, t], text()))
    assert "only transcoders of one layer" in refused(lambda: tune(model, auto, text()))
    assert "at least one batch" in refused(lambda: TuningConfig(tokens=10))
    assert "above 0" in refused(lambda: TuningConfig(learning_rate=0.0))
    assert "bfloat16 or float32" in refused(lambda: TuningConfig(precision="half"))


def test_special_tokens_keep_the_mlps_own_output_in_bfloat16_too():
    model = tiny("llama-gqa", torch.float32)
    low = replace(SETTINGS, precision="bfloat16", tokens=64, refit_tokens=64)
    tuned = tune(model, a_set(model), text(), low, options=RunOptions(progress=False))
    assert tuned.kl is not None and 0 < tuned.kl < 10
