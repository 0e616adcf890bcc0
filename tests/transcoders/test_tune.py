"""Tuning: exact gradients, to the transcoders alone; KL on unseen rows falls; a cut run ends in the same bits."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from edgewise.models import Model
from edgewise.runs import CHECKPOINT, RunOptions
from edgewise.transcoders import (
    Replacement,
    Site,
    TokenRows,
    Transcoder,
    capture,
    evaluate_transcoders,
    load,
    texts_seen,
    written,
)
from edgewise.transcoders.training import TuningConfig, tune
from edgewise.transcoders.training._refit import _fitting, refit
from edgewise.transcoders.training._tune import TuningLearner
from tests.tiny import random_model, refused, tiny
from tests.transcoders.reference import D_IN, N, draw, random_transcoder
from tests.transcoders.toys import differing, learn, text

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


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "llama-gqa"])
def test_the_loss_is_the_replaced_models_kl_and_the_model_gets_no_gradient(name: str, centred: bool):
    model = random_model(name)  # whose parameters no other test has left gradients at
    transcoders = [random_transcoder(d_in=d, d_out=d, n_features=48, layer=i, skip=True, seed=i)
                   for i, d in enumerate([model.parts.d_model] * 2)]  # fmt: skip
    for layer, each in enumerate(transcoders):
        each.spec = replace(each.spec, reads=Site("resid_mid", layer, centred))
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
    refit(model, transcoders, fitted.ids, bf16=False)
    assert wrong() < 0.8 * before


def test_a_fit_in_closed_form_sees_centred_inputs_where_those_are_read():
    """An encoder whose rows have no mean makes the same of both; without a skip connection the fits are then equal."""
    model, ids, fitted = tiny("gpt2"), text(64).ids, list[Transcoder]()
    width, reads, writes = model.parts.d_model, Site("resid_mid", 0, centred=True), Site("mlp_out", 0)
    found = capture(model, [reads, writes], ids)
    for centred in (True, False):
        transcoder = random_transcoder("relu", d_in=width, d_out=width, n_features=48)
        transcoder.spec = replace(transcoder.spec, reads=Site("resid_mid", 0, centred), exclude_special=True)
        with torch.no_grad():
            z = transcoder.encode(found[reads]).flatten(0, 1)
            transcoder.W_dec.copy_(torch.linalg.lstsq(z, found[writes].flatten(0, 1)).solution)
            if not centred:
                transcoder.W_enc.sub_(transcoder.W_enc.mean(1, keepdim=True))
        refit(model, [transcoder], ids, bf16=False)
        fitted.append(transcoder)
    assert fitted[0].W_dec.any()
    torch.testing.assert_close(fitted[0].W_dec, fitted[1].W_dec)
    torch.testing.assert_close(fitted[0].b_dec, fitted[1].b_dec)


def test_another_text_and_the_same_weights_at_another_site_are_other_runs(tmp_path: Path):
    model, options = tiny("gpt2", torch.float32), RunOptions(tmp_path, progress=False)
    few = replace(SETTINGS, tokens=64 * 2)
    tune(model, a_set(model), text(), few, options=options)
    turned = TokenRows(text().ids.flip(0), text().source)
    assert "(text)" in refused(lambda: tune(model, a_set(model), turned, few, options=options))
    moved = a_set(model)
    moved[0].spec = replace(moved[0].spec, reads=Site("resid_mid", 0))
    assert "(transcoders)" in refused(lambda: tune(model, moved, text(), few, options=options))


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
    assert "bfloat16 or float32" in refused(lambda: TuningConfig(precision="half"))  # pyright: ignore[reportArgumentType]
    assert "tuning: clip -1.0; give a number above 0" in refused(lambda: TuningConfig(clip=-1.0))
    assert "tuning: refit_tokens -1; give at least 0" in refused(lambda: TuningConfig(refit_tokens=-1))
    few = TuningConfig(tokens=640, batch_tokens=16)
    said = refused(lambda: tune(model, [t], text(context=24), few))
    assert said.startswith("text: rows of 24 tokens, and a batch has 16; give shorter rows")


def test_half_precision_is_tuned_in_float32_and_the_record_says_what_was_seen():
    model = tiny("gpt2", torch.float32)
    transcoders = [each.bfloat16() for each in a_set(model)]
    few = replace(SETTINGS, tokens=64 * 2, batch_tokens=60)  # of which rows of 8 fill 56
    tuned = tune(model, transcoders, text(), few, options=RunOptions(progress=False))
    assert tuned.steps == 2 and all(each.W_enc.dtype == torch.float32 for each in tuned.transcoders)
    assert transcoders[0].provenance["method"]["tuned"]["tokens_seen"] == 2 * 56


def test_special_tokens_keep_the_mlps_own_output_in_bfloat16_too():
    model = tiny("llama-gqa", torch.float32)
    low = replace(SETTINGS, precision="bfloat16", tokens=64, refit_tokens=64)
    tuned = tune(model, a_set(model), text(), low, options=RunOptions(progress=False))
    assert tuned.kl is not None and 0 < tuned.kl < 10


def test_the_text_of_an_earlier_tuning_is_kept():
    model, few = tiny("gpt2", torch.float32), replace(SETTINGS, tokens=64 * 2)
    transcoders, unseen = a_set(model), text(8, seed=7)
    sources = [{"text": [name]} for name in ("first", "second", "third")]
    for source in sources[:2]:
        tune(model, transcoders, TokenRows(text().ids, source), few, options=RunOptions(progress=False))
    assert [each.get("text") for each in texts_seen(transcoders[0])] == [["random"], ["second"], ["first"]]
    for source in sources:
        rows = TokenRows(unseen.ids, source)
        found = evaluate_transcoders(model, transcoders, rows, alone=False, together=False, ablations=False)
        assert found.conditions["held_out"] is (source == sources[2])


def test_a_record_of_somebodys_own_is_no_hindrance():
    model, few = tiny("gpt2", torch.float32), replace(SETTINGS, tokens=64)
    transcoders = a_set(model)
    transcoders[0].provenance = {"method": "by hand"}
    tune(model, transcoders, text(), few, options=RunOptions(progress=False))
    assert transcoders[0].provenance["method"]["tuned"]["steps"] == 1


@pytest.mark.parametrize("skip", [False, True])
def test_what_fits_already_is_left_as_it_is(skip: bool):
    model = tiny("gpt2")
    d = model.parts.d_model
    t = random_transcoder("relu", layer=1, d_in=d, d_out=d, n_features=48, skip=skip)
    residual, given, before = draw(3, 7, d), draw(3, 7, d, seed=2), copy.deepcopy(t)
    keep = torch.ones(3, 7, dtype=torch.bool)
    with torch.no_grad():
        written_there = t(given)
        fitted = _fitting(model, t, residual + written_there, keep, last=False)(residual, given, lambda x: x)
    torch.testing.assert_close(fitted, written_there)
    for name, value in before.named_parameters():
        torch.testing.assert_close(t.get_parameter(name), value, msg=name)
