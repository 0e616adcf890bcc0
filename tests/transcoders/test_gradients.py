"""The hand-written gradient is the dense autograd reference's, for every kind of transcoder and loss."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from edgewise import InputError
from edgewise.transcoders import NORMALIZATIONS, Transcoder, TranscoderLoss, loss_and_gradients
from edgewise.transcoders import _sparse as sparse
from edgewise.transcoders._select import top
from tests.transcoders.reference import D_IN, D_OUT, F, N, dense_loss, draw, random_transcoder

ACTIVATIONS = ("relu", "topk:4", "batch_topk:4", "jumprelu")


def compare(
    transcoders: Sequence[Transcoder],
    inputs: Sequence[Tensor],
    targets: Tensor,
    objective: TranscoderLoss,
    dead: Sequence[Tensor] | None = None,
) -> None:
    outcome = loss_and_gradients(transcoders, inputs, targets, objective, dead=dead)
    found = [[p.grad for p in t.parameters()] for t in transcoders]
    for t in transcoders:
        t.zero_grad()
    loss = dense_loss(transcoders, inputs, targets, objective, dead)
    loss.backward()
    torch.testing.assert_close(outcome.loss, loss.detach(), rtol=1e-12, atol=1e-12)
    for t, gradients in zip(transcoders, found, strict=True):
        for (name, parameter), gradient in zip(t.named_parameters(), gradients, strict=True):
            assert gradient is not None and parameter.grad is not None and parameter.grad.abs().max() > 0, name
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-10, atol=1e-12, msg=name)


def objective_for(kind: str, **changes) -> TranscoderLoss:
    penalty = 0.0 if "topk" in kind else 0.3
    return TranscoderLoss(sparsity=penalty, bandwidth=0.4, auxiliary_k=5, **changes)


@pytest.mark.parametrize("n_dead", [0, 3, 60])
@pytest.mark.parametrize("way", ["sparse", "dense"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_and_the_dead_features_term(monkeypatch, activation: str, way: str, n_dead: int):
    monkeypatch.setattr(sparse, "DENSE_SHARE", {"sparse": 2.0, "dense": -1.0}[way])
    t = random_transcoder(activation, skip=True, input_bias=True)
    dead = torch.zeros(F, dtype=torch.bool)
    dead[torch.randperm(F)[:n_dead]] = True
    compare([t], [draw(N, D_IN)], draw(N, 1, D_OUT, seed=2) + 1, objective_for(activation), [dead])


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_normalization(activation: str, normalization: str):
    t = random_transcoder(activation)
    objective = objective_for(activation, normalization=normalization, decoder_weighted=True)
    compare([t], [draw(N, D_IN)], draw(N, 1, D_OUT, seed=2) + 1, objective)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_cross_layer_set(activation: str):
    n_layers = 3
    ts = [random_transcoder(activation, layer=i, n_sites=n_layers - i, skip=i == 1, seed=i) for i in range(n_layers)]
    dead = [torch.rand(F) < 0.3 for _ in ts]
    inputs = [draw(N, D_IN, seed=10 + i) for i in range(n_layers)]
    compare(ts, inputs, draw(N, n_layers, D_OUT, seed=2) + 1, objective_for(activation), dead)


def test_an_autoencoder():
    t = random_transcoder("topk:4", autoencoder=True, input_bias=True)
    x = draw(N, D_IN)
    compare([t], [x], x[:, None], TranscoderLoss())


def test_signed_topk_keeps_negative_activations():
    from edgewise.transcoders import Activation, TranscoderSpec

    base = random_transcoder("topk:100")
    spec = TranscoderSpec(**{**base.spec.__dict__, "activation": Activation("topk", 100, rectified=False)})
    t = Transcoder(spec, dtype=torch.float64)
    t.load_state_dict(base.state_dict())
    x = draw(N, D_IN)
    assert (t.encode(x) < 0).any() and not (base.encode(x) < 0).any()
    compare([t], [x], draw(N, 1, D_OUT, seed=2), TranscoderLoss())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_choosing_in_bfloat16_changes_only_what_is_nearly_equal(activation: str):
    t = random_transcoder(activation, dtype=torch.float32)
    x, y = draw(400, D_IN, dtype=torch.float32), draw(400, 1, D_OUT, seed=2, dtype=torch.float32)
    objective = objective_for(activation)
    exact = loss_and_gradients([t], [x], y, objective)
    wanted = torch.cat([p.grad.flatten() for p in t.parameters() if p.grad is not None])
    low = loss_and_gradients([t], [x], y, objective, bf16=True)
    found = torch.cat([p.grad.flatten() for p in t.parameters() if p.grad is not None])
    assert torch.isclose(low.loss, exact.loss, rtol=1e-3)
    assert torch.cosine_similarity(found, wanted, dim=0) > 0.999


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_is_differentiable_and_agrees_with_sparse_codes(activation: str):
    t = random_transcoder(activation, skip=True, input_bias=True)
    x = draw(N, D_IN).requires_grad_()
    y = t(x)
    dense = t.encode(x) @ t.W_dec + t.b_dec + x @ t.W_skip.T  # pyright: ignore[reportOptionalMemberAccess] (it has one)
    torch.testing.assert_close(y, dense)
    (wanted,) = torch.autograd.grad(dense.square().sum(), x)
    (found,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(found, wanted)
    codes = t.codes(x.detach())
    torch.testing.assert_close(codes.dense(F), t.encode(x).detach())
    torch.testing.assert_close(t.decode(codes, x.detach())[:, 0], y.detach())
    with torch.no_grad():
        torch.testing.assert_close(t(x.view(4, -1, D_IN)), y.detach().view(4, -1, D_OUT))


@pytest.mark.parametrize(("n_features", "k"), [(192, 1), (192, 3), (192, 100), (190, 4), (2048, 32)])
def test_the_largest_are_found_however_many(n_features: int, k: int):
    pre = draw(30, n_features)
    values, index = top(pre, k)
    torch.testing.assert_close(values.sort(1).values, pre.topk(k).values.sort(1).values)
    torch.testing.assert_close(pre.gather(1, index), values)


def test_batch_topk_finds_a_batch_whose_features_crowd_on_few_tokens():
    t = random_transcoder("batch_topk:4")
    x = draw(N, D_IN)
    x[3] *= 100  # nearly all of the batch's largest are this token's
    outcome = loss_and_gradients([t], [x], draw(N, 1, D_OUT, seed=2), TranscoderLoss())
    pre = t.pre_activations(x).detach().flatten()
    assert outcome.cuts[0] == pre.topk(4 * N).values.min()
    assert outcome.active == 4


def test_no_active_feature_at_all():
    t = random_transcoder("relu", skip=True)
    with torch.no_grad():
        t.b_enc.fill_(-1e6)
    outcome = loss_and_gradients([t], [draw(N, D_IN)], draw(N, 1, D_OUT, seed=2), TranscoderLoss())
    assert outcome.active == 0 and torch.isfinite(outcome.loss)
    assert t.W_dec.grad is not None and t.W_dec.grad.abs().max() == 0


def test_a_target_of_zeros_does_not_make_the_authors_loss_infinite():
    y = draw(N, 1, D_OUT, seed=2)
    y[5] = 0
    outcome = loss_and_gradients([random_transcoder()], [draw(N, D_IN)], y, TranscoderLoss("target_norm"))
    assert torch.isfinite(outcome.loss)


@pytest.mark.parametrize("input_bias", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_authors_form_and_the_folded_form_agree(activation: str, input_bias: bool):
    t = random_transcoder(activation, input_bias=True, skip=True)
    x = draw(N, D_IN)
    other = t.folded(draw(D_IN, seed=5) if input_bias else None)
    assert (other.b_in is not None) == input_bias
    assert (other(x) - t(x)).abs().max() < 1e-6
    torch.testing.assert_close(other.encode(x), t.encode(x), rtol=1e-6, atol=1e-6)


def test_a_wrong_width_is_refused():
    with pytest.raises(InputError, match="reads width 12, got 10"):
        random_transcoder()(draw(3, D_OUT))
