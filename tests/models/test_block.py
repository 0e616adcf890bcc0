"""One layer's formulas: every function against autograd of the plain formula in float64, fused forms included."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from edgewise._errors import InputError
from edgewise.models import Attention, Heads, Mlp, Norm, Parts, Rules, block
from edgewise.models._parts import Layer
from edgewise.models.folded import FoldedHeads, FoldedMlp
from tests.engines import assert_close

D, F, H, K, WIDTH, S = 12, 20, 4, 2, 6, 7
KINDS = ("layer", "rms", "rms-plus-one", "none")


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _norm(kind: str, seed: int = 1) -> Norm:
    weight, bias = _random(D, seed=seed), _random(D, seed=seed + 100)
    if kind == "layer":
        return Norm("layer", nn.Identity(), weight, bias, 0.3)
    return Norm.none() if kind == "none" else Norm("rms", nn.Identity(), weight, None, 0.3, kind == "rms-plus-one")


def _plain_norm(kind: str, x: Tensor, seed: int = 1) -> Tensor:
    """The formula, spelled out."""
    weight, bias = _random(D, seed=seed), _random(D, seed=seed + 100)
    if kind == "none":
        return x
    if kind == "layer":
        deviation = x - x.sum(-1, keepdim=True) / D
        return deviation / ((deviation**2).sum(-1, keepdim=True) / D + 0.3).sqrt() * weight + bias
    return x / ((x**2).sum(-1, keepdim=True) / D + 0.3).sqrt() * (weight + (1 if kind == "rms-plus-one" else 0))


def _gradient(function: Callable[[Tensor], Tensor], x: Tensor, gradient: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf, gradient)[0]


# ---------------------------------------------------------------------------------------------------------------- norms


@pytest.mark.parametrize("kind", KINDS)
def test_norm_and_its_backward(kind: str):
    norm, x, gradients = _norm(kind), _random(5, D), _random(3, 5, D, seed=2)
    assert_close(block.normed(norm, x), _plain_norm(kind, x))
    expected = torch.stack([_gradient(lambda leaf: _plain_norm(kind, leaf), x, g) for g in gradients])
    assert_close(block.normed_back(norm, x, gradients), expected)
    assert_close(block.normed_back(norm, x, gradients[0]), expected[0])
    assert_close(_gradient(lambda leaf: block.normed(norm, leaf), x, gradients[0]), expected[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_norm_is_linear(kind: str):
    norm, x, gradient = _norm(kind), _random(5, D), _random(5, D, seed=2)
    assert_close(block.normed(norm, x, frozen=True), _plain_norm(kind, x))
    found = _gradient(lambda leaf: block.normed(norm, leaf, frozen=True), x, gradient)
    assert_close(block.normed_back(norm, x, gradient, frozen=True), found)
    if norm.gain is not None:
        scale = block.inverse_rms(norm, block.centre(x) if kind == "layer" else x)[:, None]
        back = gradient * norm.gain * scale
        assert_close(found, block.centre(back) if kind == "layer" else back)


def test_transformers_norms_by_either_name_of_eps():
    class Own(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.weight = nn.Parameter(_random(D))
            setattr(self, name, 0.25)

    for name in ("eps", "variance_epsilon"):
        module: Any = Own(name)
        norm = Norm.rms(module)
        assert norm.eps == 0.25
        assert norm.gain is not None
        assert norm.gain.data_ptr() == module.weight.data_ptr()
        gained = Norm.rms(module, plus_one=True).gain
        assert gained is not None
        assert_close(gained, 1 + module.weight.detach())


@pytest.mark.parametrize("kind", KINDS)
def test_a_zero_input_has_a_gradient(kind: str):
    norm, zero = _norm(kind), torch.zeros(2, D, dtype=torch.float64)
    assert torch.isfinite(_gradient(lambda leaf: block.normed(norm, leaf), zero, _random(2, D))).all()


# ------------------------------------------------------------------------------------------------------------ attention


def _rotate(query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    def turn(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * cosine[:, None] + torch.cat([-b, a], -1) * sine[:, None]

    return turn(query), turn(key)


def _rotary(base: float) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def of(like: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        angle = positions[..., None] / base ** (torch.arange(WIDTH // 2) / (WIDTH // 2)).repeat(2)
        return angle.cos().to(like), angle.sin().to(like)

    return of


def _attention(**changes: Any) -> Attention:
    attention = Attention(
        _norm("rms"),
        Heads(_random(H, D, WIDTH, seed=3), _random(H, WIDTH, seed=4)),
        Heads(_random(K, D, WIDTH, seed=5), _random(K, WIDTH, seed=6)),
        Heads(_random(K, D, WIDTH, seed=7), _random(K, WIDTH, seed=8)),
        _random(H, WIDTH, D, seed=9),
        None,
        scale=0.4,
    )
    return replace(attention, **changes)


def _layer(attention: Attention) -> Layer:
    return Layer(attention, Mlp(_norm("rms"), nn.Identity()))


def _context(attention: Attention, real: Tensor | None = None) -> block.AttentionContext:
    parts: Any = Parts.__new__(Parts)
    object.__setattr__(parts, "layers", (_layer(attention),))
    return block.attention_contexts(parts, torch.arange(S).expand(2, -1), real)[0]


def _plain_mix(attention: Attention, query: Tensor, key: Tensor, value: Tensor, real: Tensor) -> Tensor:
    """Query by query, key by key."""
    if attention.query_norm is not None and attention.key_norm is not None:
        assert not isinstance(attention.query_norm, Norm) and not isinstance(attention.key_norm, Norm)
        query, key = attention.query_norm(query), attention.key_norm(key)
    if attention.rotary is not None:
        query, key = _rotate(query, key, *attention.rotary(query, torch.arange(S).expand(2, -1)))
    mixed = torch.zeros(2, H, S, WIDTH, dtype=torch.float64)
    rows = []
    for b, h, q in product(range(2), range(H), range(S)):
        seen = [
            s for s in range(S)
            if (q - (attention.window or S) < s <= q if attention.causal else bool(real[b, s]))
        ]  # fmt: skip
        logits = (key[b, h // 2, seen] @ query[b, h, q]) * attention.scale
        if attention.softcap is not None:
            logits = attention.softcap * torch.tanh(logits / attention.softcap)
        sink = 0.0 if attention.sinks is None else attention.sinks[h].exp()
        rows.append((logits.exp() / (logits.exp().sum() + sink)) @ value[b, h // 2, seen])
    mixed = torch.stack(rows).view(2, H, S, WIDTH)
    if attention.post_norm is None:
        return mixed
    written = torch.einsum("bhsv,hvd->bsd", mixed, attention.output_weight)
    return mixed / ((written**2).mean(-1) + attention.post_norm.eps).sqrt()[:, None, :, None]


def _square_norm(x: Tensor) -> Tensor:
    return x / (1 + x.square().sum(-1, keepdim=True)).sqrt()


ATTENTIONS: dict[str, dict[str, Any]] = {
    "causal": {},
    "window": {"window": 3},
    "bidirectional": {"causal": False},
    "rotary": {"rotary": _rotary(50.0), "rotate": _rotate},
    "norms": {"query_norm": _square_norm, "key_norm": _square_norm},
    "softcap": {"softcap": 1.5},
    "sinks": {"sinks": _random(H, seed=11), "window": 4},
    "post-norm": {"post_norm": _norm("rms-plus-one", seed=12)},
    "everything": {
        "softcap": 2.0, "sinks": _random(H, seed=11), "window": 2, "post_norm": _norm("rms", seed=12),
        "rotary": _rotary(9.0), "rotate": _rotate, "query_norm": _square_norm, "key_norm": _square_norm,
    },
}  # fmt: skip


def _projected() -> tuple[Tensor, Tensor, Tensor]:
    return _random(2, H, S, WIDTH, seed=20), _random(2, K, S, WIDTH, seed=21), _random(2, K, S, WIDTH, seed=22)


@pytest.mark.parametrize("name", ATTENTIONS)
@pytest.mark.parametrize("padded", [False, True])
def test_attention_and_its_backward(name: str, padded: bool):
    attention, projected = _attention(**ATTENTIONS[name]), _projected()
    real = torch.ones(2, S, dtype=torch.bool)
    if padded:
        real[1, 4:] = False
    context = _context(attention, real if padded else None)
    counts = real[:, None, :, None]  # what padded queries give is nobody's business
    found, expected = block.mix(attention, *projected, context), _plain_mix(attention, *projected, real)
    assert_close(found * counts, expected * counts)
    gradient = _random(2, H, S, WIDTH, seed=30) * counts
    for i in range(3):

        def given(leaf: Tensor, i: int = i) -> tuple[Tensor, Tensor, Tensor]:
            query, key, value = (leaf if j == i else x for j, x in enumerate(projected))
            return query, key, value

        expected = _gradient(lambda leaf: _plain_mix(attention, *given(leaf), real), projected[i], gradient)
        assert_close(
            _gradient(lambda leaf: block.mix(attention, *given(leaf), context), projected[i], gradient), expected
        )


@pytest.mark.parametrize("name", ATTENTIONS)
def test_where_only_some_ask(name: str):
    attention, (query, key, value) = _attention(**ATTENTIONS[name]), _projected()
    context = _context(attention)
    query, key = block.placed(attention, query, key, context.rotary)
    key, value = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
    everything = block.attend(attention, query, key, value, context.allowed)
    asking, heads = torch.tensor([[5, 1], [0, 6]]), torch.tensor([2, 0])
    seen = block.seen_keys(attention, asking, S, torch.ones(2, S, dtype=torch.bool))[:, None]
    some = torch.stack([query[b][:, asking[b]] for b in range(2)])
    found = block.attend(attention, some[:, heads], key[:, heads], value[:, heads], seen, heads)
    expected = torch.stack([everything[b][:, asking[b]] for b in range(2)])[:, heads]
    assert_close(found, expected)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_pattern_logits_are_of_the_pattern(name: str):
    attention, (query, key, value) = _attention(**ATTENTIONS[name]), _projected()
    context = _context(attention)
    key, value = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
    pattern = block.pattern_logits(attention, query, key, context).softmax(-1)
    found = block.post_scaled(attention, pattern @ block.sink_padded(attention, value))
    assert_close(found, block.mix(attention, query, key, value, context))


def test_rules_hold_the_pattern_and_a_post_norms_scale():
    attention, (query, key, value) = _attention(**ATTENTIONS["everything"]), _projected()
    context, gradient = _context(attention), _random(2, H, S, WIDTH, seed=30)
    query, value = query.requires_grad_(), value.requires_grad_()
    mixed = block.mix(attention, query, key, value, context, rules=Rules(norm=True, attention=True))
    assert_close(mixed, block.mix(attention, query, key, value, context))
    found = torch.autograd.grad(mixed, (query, value), gradient, allow_unused=True)
    assert found[0] is None
    # Then the heads' values are linear in `value`: the gradient times the value is the gradient times the result.
    assert_close((found[1] * value).sum(), (gradient * mixed).sum())


def test_layers_share_what_they_share():
    first, second = _rotary(50.0), _rotary(9.0)
    layers = [_attention(rotary=each, rotate=_rotate, window=w) for each, w in ((first, 3), (second, None), (first, 3))]
    parts: Any = Parts.__new__(Parts)
    object.__setattr__(parts, "layers", tuple(_layer(each) for each in layers))
    one, two, three = block.attention_contexts(parts, torch.arange(S).expand(2, -1), None)
    assert one.rotary is three.rotary
    assert one.allowed is three.allowed
    assert two.allowed is None
    assert one.rotary is not None
    assert two.rotary is not None
    assert not torch.equal(one.rotary[0], two.rotary[0])


@pytest.mark.parametrize("name", ["causal", "post-norm"])
def test_heads_write_what_attention_writes(name: str):
    attention, mixed = _attention(**ATTENTIONS[name]), _random(5, H, WIDTH)
    raw = torch.einsum("nhv,hvd->nd", mixed, attention.output_weight)
    post = attention.post_norm
    expected = raw if post is None else block.normed(post, raw)
    scaled = block.post_scaled(attention, mixed.transpose(0, 1)).transpose(0, 1)  # (N, H, v)
    assert_close(block.write_heads(attention, scaled), expected)
    biased = _attention(output_bias=_random(D))
    assert_close(block.write_heads(biased, mixed), torch.einsum("nhv,hvd->nd", mixed, biased.output) + _random(D))
    assert_close(block.write_heads(biased, mixed, bias=False) + _random(D), block.write_heads(biased, mixed))


def test_a_post_norm_that_has_no_such_form_is_refused():
    for changes in ({"post_norm": _norm("layer")}, {"post_norm": _norm("rms"), "output_bias": _random(D)}):
        with pytest.raises(InputError, match="expected an RMS norm and no output bias"):
            _attention(**changes)


# ------------------------------------------------------------------------------------------------------- fused forms


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("summed", [False, True])
def test_folded_heads(kind: str, shared: bool, summed: bool):
    attention = _attention(norm=_norm(kind))
    folded, n = FoldedHeads.of(attention, 2, torch.float64), 3 * H
    x = block.centre(_random(1 if shared else n, 5, D)) if kind == "layer" else _random(1 if shared else n, 5, D)
    gradient = _random(n, 5, WIDTH, seed=2)

    def plain(inputs: Tensor) -> Tensor:
        y = _plain_norm(kind, inputs)
        heads = (attention.query, attention.key.repeated(2), attention.value.repeated(2))
        weight, bias = (torch.cat([getattr(each, name) for each in heads]) for name in ("weight", "bias"))
        return y @ weight + bias[:, None]

    y, inverse = folded.project(x)
    assert_close(y, plain(x))
    expected = _gradient(plain, x.expand(n, -1, -1).contiguous(), gradient)
    out = x.new_empty(1 if summed else n, 5, D)
    if not shared and summed:
        return  # inputs of their own have gradients of their own
    folded.back(gradient, y, inverse.expand(n, -1), x, out)
    out = block.centre(out) if kind == "layer" else out  # as what is written is
    assert_close(out, expected.sum(0, keepdim=True) if summed else expected)


def test_folded_heads_write_over_their_inputs():
    folded, x, gradient = (
        FoldedHeads.of(_attention(), 2, torch.float64),
        _random(3 * H, 5, D),
        _random(3 * H, 5, WIDTH),
    )
    y, inverse = folded.project(x)
    out = torch.empty_like(x)
    folded.back(gradient, y, inverse, x, out)
    folded.back(gradient, y, inverse, x, x)
    assert_close(x, out)


def _mlp(kind: str, gated: bool, biased: bool, post: str | None, black_box: bool) -> Mlp:
    norm, post_norm = _norm(kind), None if post is None else _norm(post, seed=13)

    def bias(n: int, seed: int) -> Tensor | None:
        return _random(n, seed=seed) if biased else None

    gate = (_random(D, F, seed=14), bias(F, 15)) if gated else (None, None)
    mlp = Mlp(
        norm, nn.Identity(), _random(D, F, seed=16), bias(F, 17), _random(F, D, seed=18), bias(D, 19), torch.tanh, *gate
    )  # fmt: skip
    if black_box:
        inner = replace(mlp, norm=Norm.none())
        return Mlp(norm, lambda y: _plain_mlp(inner, y), post_norm=post_norm)
    return replace(mlp, post_norm=post_norm)


def _plain_mlp(mlp: Mlp, y: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    assert mlp.up is not None
    assert mlp.down is not None
    up = y @ mlp.up + (0 if mlp.up_bias is None else mlp.up_bias)
    inner = up if mlp.gate is None else y @ mlp.gate + (0 if mlp.gate_bias is None else mlp.gate_bias)
    active = torch.tanh(inner) if mlp.gate is None else torch.tanh(inner) * up
    return active @ mlp.down + (0 if mlp.down_bias is None else mlp.down_bias)


MLPS = [
    (kind, gated, biased, post, black_box)
    for kind in KINDS
    for gated, biased, post, black_box in [
        (False, True, None, False),
        (True, False, None, False),
        (True, True, "rms-plus-one", False),
        (False, False, "layer", False),
        (True, True, None, True),
        (False, True, "rms", True),
    ]
]


@pytest.mark.parametrize(("kind", "gated", "biased", "post", "black_box"), MLPS)
def test_mlp_and_its_backward(kind: str, gated: bool, biased: bool, post: str | None, black_box: bool):
    mlp, x, gradient = _mlp(kind, gated, biased, post, black_box), _random(5, D), _random(5, D, seed=2)
    x = block.centre(x) if kind == "layer" else x
    spelled = _mlp(kind, gated, biased, None, False)

    def plain(leaf: Tensor) -> Tensor:
        written = _plain_mlp(spelled, _plain_norm(kind, leaf))
        return written if post is None else _plain_norm(post, written, seed=13)

    expected = _gradient(plain, x, gradient)
    assert_close(block.write_mlp(mlp, x), plain(x))
    assert_close(_gradient(lambda leaf: block.write_mlp(mlp, leaf), x, gradient), expected)
    for keep in (True, False):
        folded = FoldedMlp.of(mlp, torch.float64)
        written, run = folded.write(x, keep=keep)
        assert_close(written, plain(x))
        found = folded.back(gradient, run)
        assert_close(block.centre(found) if kind == "layer" else found, expected)
    none = x[:0]  # of a process that has no token of a batch
    assert folded.back(none, folded.write(none)[1]).shape == none.shape


def test_relevance_shares_a_gated_product_out():
    """With every rule the MLP is linear in its input, bias apart: the gradient times the input is the output."""
    mlp, x = _mlp("rms", gated=True, biased=False, post="rms", black_box=False), _random(5, D)
    x.requires_grad_()
    written = block.write_mlp(mlp, x, Rules(*[True] * len(Rules._fields)))
    assert_close(written, block.write_mlp(mlp, x))
    gradient = _random(5, D, seed=2)
    (found,) = torch.autograd.grad(written, x, gradient)
    assert_close((found * x).sum(), (gradient * written).sum())
