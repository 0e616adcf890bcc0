"""Transcoders in the MLPs' place: exactly the model with error terms, the transcoders' own output without, and the
module whole again afterwards.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from edgewise.models import Model
from edgewise.transcoders import Activation, Codes, Replacement, Site, Transcoder, TranscoderSpec, capture, modules_of
from edgewise.transcoders.judging import evaluate_transcoders
from tests.tiny import ONE_OF_EACH, random_model, refused, tiny
from tests.transcoders.reference import random_transcoder
from tests.transcoders.toys import text, writing

IDS = text(4).ids
NAMES = [*ONE_OF_EACH, "plain-norm", "qwen3"]


def for_model(model: Model, layer: int, reads: str = "mlp_in", **changes: Any) -> Transcoder:
    d = model.parts.d_model
    return random_transcoder(d_in=d, d_out=d, n_features=48, layer=layer, reads=reads, seed=layer, **changes)


def own_logits(model: Model) -> Tensor:
    with torch.no_grad():
        return model.module(input_ids=IDS).logits


def exact(model: Model, layer: int) -> Transcoder:
    """The transcoder that *is* a ReLU MLP."""
    mlp = model.parts.layers[layer].mlp
    assert mlp.up is not None
    spec = TranscoderSpec(
        mlp.up.shape[0], mlp.up.shape[0], mlp.up.shape[1], Activation("relu"), Site("mlp_in", layer),
        (Site("mlp_out", layer),),
    )  # fmt: skip
    transcoder = Transcoder(spec, dtype=model.dtype)
    state = {"W_enc": mlp.up.T, "b_enc": mlp.up_bias, "W_dec": mlp.down, "b_dec": mlp.down_bias}
    transcoder.load_state_dict(state | {"threshold": transcoder.threshold})
    return transcoder


@pytest.mark.parametrize("reads", ["resid_mid", "mlp_normalized", "mlp_in"])
@pytest.mark.parametrize("name", NAMES)
def test_with_errors_the_output_is_the_models_to_the_bit(name: str, reads: str):
    model = tiny(name)
    transcoders = [for_model(model, layer, reads, skip=layer == 1) for layer in (0, 1)]
    before = own_logits(model)
    assert torch.equal(Replacement(model, transcoders, errors=True).logits(IDS), before)
    changed = Replacement(model, transcoders).logits(IDS)
    assert not torch.allclose(changed, before, atol=1e-3)
    assert torch.equal(own_logits(model), before)


def test_with_errors_the_models_own_mlp_runs_once():
    # Fewer rows of a product may round otherwise, so that tokens left alone must come from the same run as the others.
    model = tiny("gpt2")
    handles, sizes = [], []
    for layer in model.parts.layers:
        up = modules_of(layer)[1].get_submodule("c_fc")
        handles.append(up.register_forward_hook(lambda _m, given, _out: sizes.append(given[0].shape[:-1].numel())))
    transcoders = [for_model(model, layer) for layer in (0, 1)]
    Replacement(model, transcoders, errors=True, exclude_special=True).logits(IDS)
    for handle in handles:
        handle.remove()
    assert sizes == [IDS.numel()] * len(model.parts.layers)


@pytest.mark.parametrize("errors", [True, False])
def test_an_edit_may_be_made_in_place(errors: bool):
    model = tiny("gpt2")

    def in_place(_: Transcoder, codes: Codes) -> Codes:
        codes.value.zero_()
        return codes

    def anew(_: Transcoder, codes: Codes) -> Codes:
        return codes.with_values(torch.zeros_like(codes.value))

    one, other = (
        Replacement(model, for_model(model, 1), errors=errors, edit=edit).logits(IDS) for edit in (in_place, anew)
    )
    assert torch.equal(one, other)
    assert not torch.allclose(one, Replacement(model, for_model(model, 1), errors=errors).logits(IDS), atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_output_is_the_transcoders_own(name: str):
    model = tiny(name)
    transcoders = [for_model(model, layer) for layer in (0, 1)]
    with writing(model, *(lambda given, _out, t=t: t(given) for t in transcoders)):
        expected = own_logits(model)
    torch.testing.assert_close(Replacement(model, transcoders).logits(IDS), expected)


@pytest.mark.parametrize("name", ["gpt2-scaled", "plain"])
def test_a_transcoder_that_is_the_mlp_changes_nothing_and_explains_everything(name: str):
    model = random_model(name)
    transcoders = [exact(model, layer) for layer in range(len(model.parts.layers))]
    torch.testing.assert_close(Replacement(model, transcoders).logits(IDS), own_logits(model))
    judged = evaluate_transcoders(model, transcoders, text(20))
    for each in judged.transcoders:
        assert each.explained == pytest.approx(1)
        assert each.replaced is not None and each.replaced.loss == pytest.approx(judged.original.loss)
        assert each.replaced.kl == pytest.approx(0, abs=1e-6)
    assert judged.all["replaced"].loss == pytest.approx(judged.original.loss)
    assert judged.all["zero"].loss != pytest.approx(judged.original.loss, abs=1e-3)


def test_an_autoencoder_reads_the_mlps_own_output():
    model = tiny("gpt2")
    transcoder = for_model(model, 1, autoencoder=True, input_bias=True)
    with writing(model, lambda _given, out: out, lambda _given, out: transcoder(out)):
        expected = own_logits(model)
    torch.testing.assert_close(Replacement(model, transcoder).logits(IDS), expected)
    assert torch.equal(Replacement(model, transcoder, errors=True).logits(IDS), own_logits(model))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_cross_layer_set_adds_up(name: str):
    model = tiny(name)
    first, second = for_model(model, 0, n_sites=2), for_model(model, 1)
    kept: list[Tensor] = []

    def in_first(given: Tensor, _out: Tensor) -> Tensor:
        y = first(given)
        kept.append(y[..., 1, :])
        return y[..., 0, :]

    with writing(model, in_first, lambda given, _out: second(given) + kept.pop()):
        expected = own_logits(model)
    torch.testing.assert_close(Replacement(model, [second, first]).logits(IDS), expected)
    assert torch.equal(Replacement(model, [first, second], errors=True).logits(IDS), own_logits(model))
    judged = evaluate_transcoders(model, [second, first], text(6))
    assert all(each.replaced is None for each in judged.transcoders) and "replaced" in judged.all


def test_an_edit_changes_the_output_by_what_the_feature_writes():
    model = tiny("plain")  # without norms the last layer's MLP writes straight into the readout
    layer = len(model.parts.layers) - 1
    transcoder = for_model(model, layer, activation="relu")
    feature = 7

    def silence(_transcoder: Transcoder, codes: Codes) -> Codes:
        return codes.with_values(codes.value.masked_fill(codes.feature == feature, 0))

    (x,) = capture(model, [Site("mlp_in", layer)], IDS).values()
    z = transcoder.encode(x)[..., feature]
    assert z.max() > 0
    written = -z[..., None] * transcoder.W_dec[feature]
    change = written @ model.module.unembed.weight.T  # pyright: ignore[reportAttributeAccessIssue, reportOperatorIssue] (a PlainTransformer)
    found = Replacement(model, transcoder, errors=True, edit=silence).logits(IDS) - own_logits(model)
    torch.testing.assert_close(found, change, atol=1e-9, rtol=1e-7)


def test_the_model_generates_and_is_whole_again_even_after_an_error():
    model = tiny("llama-gqa", torch.float32)
    transcoders = [for_model(model, layer, dtype=torch.float32) for layer in (0, 1)]
    plain = model.module.generate(IDS, max_new_tokens=5, do_sample=False)  # pyright: ignore[reportCallIssue]
    with Replacement(model, transcoders, errors=True, exclude_special=True) as module:
        assert torch.equal(module.generate(IDS, max_new_tokens=5, do_sample=False), plain)  # pyright: ignore[reportCallIssue]
    with Replacement(model, transcoders, exclude_special=True) as module:
        cached = module.generate(IDS, max_new_tokens=5, do_sample=False)  # pyright: ignore[reportCallIssue]
        slow = module.generate(IDS, max_new_tokens=5, do_sample=False, use_cache=False)  # pyright: ignore[reportCallIssue]
    assert torch.equal(cached, slow)
    before = own_logits(model)
    with pytest.raises(ZeroDivisionError), Replacement(model, transcoders):
        raise ZeroDivisionError
    assert torch.equal(own_logits(model), before)
    for layer in model.parts.layers:
        norm, mlp, post_norm = modules_of(layer)
        assert all("forward" not in each.__dict__ for each in (mlp, post_norm) if each is not None)
        assert not norm._forward_pre_hooks and not model.module._forward_pre_hooks


def test_a_function_in_an_mlps_place_is_refused():
    layer = tiny("gpt2").parts.layers[0]
    bare = replace(layer, mlp=replace(layer.mlp, norm=replace(layer.mlp.norm, module=lambda x: x)))
    complaint = refused(lambda: modules_of(bare))
    assert complaint.startswith("model: its MLP or a norm of it is a function; transcoders need a torch.nn.Module")


def test_gradients_go_through_the_features():
    model = tiny("gpt2")
    transcoder = for_model(model, 1)
    Replacement(model, transcoder).logits(IDS).sum().backward()
    assert transcoder.W_enc.grad is not None and transcoder.W_enc.grad.abs().max() > 0


def test_special_and_first_tokens_keep_the_mlps_own_output():
    model = replace(tiny("gpt2"), tokenizer=type("T", (), {"all_special_ids": [3]})())
    transcoder = for_model(model, 0)
    ids = torch.tensor([[5, 6, 3, 7, 8]])
    seen: list[Tensor] = []
    mlp = modules_of(model.parts.layers[0])[1]
    with torch.no_grad():
        model.module(input_ids=ids)

        def note(_module: Any, _given: Any, out: Any) -> None:
            seen.append(out)

        handle = mlp.register_forward_hook(note)
        model.module(input_ids=ids)
        Replacement(model, transcoder, exclude_special=True).logits(ids)
        Replacement(model, transcoder).logits(ids)
        padded = torch.cat([torch.zeros(1, 2, dtype=torch.long), ids], 1)
        mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1]])
        Replacement(model, transcoder, exclude_special=True).logits(padded, mask)
        model.module(input_ids=padded, attention_mask=mask)
    handle.remove()
    own, kept, all_replaced, left_padded, own_padded = seen
    same = [bool(torch.allclose(own[0, i], kept[0, i])) for i in range(5)]
    assert same == [True, False, True, False, False]
    assert not any(torch.allclose(own[0, i], all_replaced[0, i]) for i in range(5))
    same = [bool(torch.allclose(own_padded[0, i], left_padded[0, i])) for i in range(7)]
    assert same == [False, False, True, False, True, False, False]


def test_a_context_entered_again_within_itself_ends_where_it_began():
    model = tiny("gpt2")

    def double(_: Transcoder, codes: Codes) -> Codes:
        return codes.with_values(2 * codes.value)

    replaced = Replacement(model, for_model(model, 1), errors=True, edit=double)
    once, before = replaced.logits(IDS), own_logits(model)
    with replaced:
        assert torch.equal(replaced.logits(IDS), once)
        torch.testing.assert_close(own_logits(model), once.detach())
    assert torch.equal(own_logits(model), before) and not torch.allclose(before, once)


def test_how_it_was_trained_decides_about_special_tokens():
    model = tiny("gpt2")
    transcoder = for_model(model, 0)
    assert not Replacement(model, transcoder).exclude_special
    transcoder.spec = replace(transcoder.spec, exclude_special=True)
    assert Replacement(model, transcoder).exclude_special


def test_in_a_mixed_set_each_layer_is_as_it_was_trained():
    model = tiny("gpt2")
    low, high = for_model(model, 0), for_model(model, 1)
    low.spec = replace(low.spec, exclude_special=True)
    seen: dict[int, list[Tensor]] = {0: [], 1: []}
    mlps = [modules_of(layer).mlp for layer in model.parts.layers[:2]]
    handles = [mlp.register_forward_hook(lambda *given, i=i: seen[i].append(given[2])) for i, mlp in enumerate(mlps)]
    own_logits(model)
    for excluded in (None, False):
        with torch.no_grad(), Replacement(model, [low, high], exclude_special=excluded) as module:
            module(input_ids=IDS)
    for handle in handles:
        handle.remove()
    own, trained, none = zip(seen[0], seen[1], strict=True)
    assert torch.allclose(trained[0][:, 0], own[0][:, 0]) and not torch.allclose(none[0][:, 0], own[0][:, 0])
    assert not torch.allclose(trained[1][:, 0], own[1][:, 0])
    crossing = for_model(model, 0, n_sites=2)
    crossing.spec = replace(crossing.spec, exclude_special=True)
    said = "cross-layer set: some of it was trained without special tokens and some with them"
    assert said in refused(lambda: Replacement(model, [crossing, high]))
    assert not Replacement(model, [crossing, high], exclude_special=False).exclude_special


def test_what_does_not_fit_is_refused():
    model = tiny("gpt2")
    wide = random_transcoder(d_in=24, d_out=24)
    assert "width 24 there, the model 32" in refused(lambda: Replacement(model, wide))
    assert "3 layers" in refused(lambda: Replacement(model, for_model(model, 5)))
    assert "one transcoder" in refused(lambda: Replacement(model, [for_model(model, 1), for_model(model, 1)]))
    assert "none in the set" in refused(lambda: Replacement(model, for_model(model, 0, n_sites=2)))
    swapped = {"reads": Site("mlp_out", 1), "writes": (Site("mlp_in", 1),)}
    spec = for_model(model, 1).spec
    assert "must read an MLP's input" in refused(lambda: TranscoderSpec(**{**spec.__dict__, **swapped}))
    assert "comes after" in refused(lambda: TranscoderSpec(**{**spec.__dict__, "reads": Site("mlp_in", 2)}))
    inner = TranscoderSpec(32, 32, 8, Activation("relu"), Site("mlp_in", 0), (Site("mlp_in", 0),))
    assert "only MLP outputs" in refused(lambda: Replacement(model, Transcoder(inner, dtype=torch.float64)))


@pytest.mark.unchecked
def test_one_vector_and_what_codes_are_not_of():
    model = tiny("gpt2")
    transcoder = for_model(model, 1)
    x = torch.randn(3, transcoder.spec.d_in, dtype=torch.float64)
    with torch.no_grad():
        whole = transcoder(x)
        torch.testing.assert_close(transcoder(x[0]), whole[0])
        torch.testing.assert_close(transcoder(x[None])[0], whole)
    for wrong in (x[0], x[None]):
        assert "codes are of rows of vectors [N, D], got" in refused(lambda given=wrong: transcoder.codes(given))


def test_a_circuit_tracer_set_cut_short_is_of_its_own_sites(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Without its configuration it would be read as another one's."""
    from edgewise.transcoders.formats import _circuit_tracer

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    model = tiny("gpt2")
    layers = [for_model(model, layer, activation="relu") for layer in range(len(model.parts.layers))]
    monkeypatch.setattr(_circuit_tracer, "_write_layer", killed)
    with pytest.raises(KeyboardInterrupt):
        _circuit_tracer.write(layers, tmp_path / "set")
    assert (tmp_path / "set" / "config.yaml").is_file()
