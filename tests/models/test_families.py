"""Adapters: the parts are views of the right weights, and compute what the user's own modules do."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgewise._errors import InputError
from edgewise.graph import GraphSpec
from edgewise.models import Attention, Layer, Mlp, Model, Norm, block
from tests.engines import assert_close
from tests.tiny import CONFIGURATIONS, draw_prompts, own_logits, random_model, random_numbers, tiny

EXPECTED = {
    "gpt2": ("gpt2", GraphSpec(3, 4, 4)),
    "gpt2-untied": ("gpt2", GraphSpec(2, 4, 4)),
    "gpt2-scaled": ("gpt2", GraphSpec(3, 4, 4)),
    "llama-mha": ("llama", GraphSpec(2, 4, 4)),
    "llama-gqa": ("llama", GraphSpec(3, 4, 2)),
    "llama-mqa": ("llama", GraphSpec(2, 4, 1)),
    "llama-biases": ("llama", GraphSpec(3, 4, 2)),
    "llama-head-dim": ("llama", GraphSpec(2, 4, 2)),
    "llama-yarn": ("llama", GraphSpec(2, 4, 2)),
    "mistral-window": ("llama", GraphSpec(2, 4, 2)),
    "qwen2": ("llama", GraphSpec(2, 4, 2)),
    "qwen2-window": ("llama", GraphSpec(3, 4, 2)),
    "qwen3": ("llama", GraphSpec(2, 4, 2)),
    "neox-parallel": ("neox", GraphSpec(3, 4, 4, parallel=True)),
    "neox-sequential": ("neox", GraphSpec(2, 4, 4)),
    "neox-no-bias": ("neox", GraphSpec(2, 4, 4, parallel=True)),
    "gemma2": ("gemma", GraphSpec(3, 4, 2, coupled_heads=True)),
    "gemma3": ("gemma", GraphSpec(3, 4, 2, coupled_heads=True)),
    "olmo2": ("olmo", GraphSpec(2, 4, 2, coupled_heads=True)),
    "olmo3": ("olmo", GraphSpec(3, 4, 2, coupled_heads=True)),
    "phi3": ("phi3", GraphSpec(2, 4, 2)),
    "smollm3": ("llama", GraphSpec(2, 4, 2)),
    "mixtral": ("llama", GraphSpec(2, 4, 2)),
    "qwen3-moe": ("llama", GraphSpec(2, 4, 2)),
    "gpt-oss": ("llama", GraphSpec(3, 4, 2)),
    "granite": ("granite", GraphSpec(2, 4, 2)),
    "twisted": ("twisted", GraphSpec(3, 4, 2, coupled_heads=True)),
    "plain": ("plain", GraphSpec(2, 2, 2)),
    "plain-bidirectional": ("plain", GraphSpec(2, 2, 2)),
    "plain-norm": ("plain", GraphSpec(2, 2, 2)),
}


def _tensors(part: object) -> Iterator[Tensor]:
    """All tensors of a tree of dataclasses and tuples."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, tuple):
        for each in part:
            yield from _tensors(each)
    elif is_dataclass(part):
        for field in fields(part):
            yield from _tensors(getattr(part, field.name))


def test_every_configuration_is_here():
    assert set(EXPECTED) == set(CONFIGURATIONS)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_family_and_graph(name: str):
    model = tiny(name)
    family, spec = EXPECTED[name]
    assert model.family == family
    assert model.graph().spec == spec
    assert (model.dtype, model.device) == (torch.float64, torch.device("cpu"))
    if model.parts.n_embeddings == 1:
        with pytest.raises(InputError, match=rf"embeddings='split': {family} models have no position embedding"):
            model.graph("split")
    else:
        assert model.graph("split").n_embeddings == 2


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_parts_are_views_of_the_parameters(name: str):
    model = random_model(name)
    owned = {parameter.untyped_storage().data_ptr() for parameter in model.module.parameters()}
    found = list(_tensors(model.parts))
    assert found
    assert all(tensor.untyped_storage().data_ptr() in owned for tensor in found)
    assert not any(tensor.requires_grad for tensor in found)
    assert all(parameter.requires_grad for parameter in model.module.parameters())
    # Between them, and with what the unembedding and the embeddings read, they are all of the model's parameters.
    seen = {tensor.untyped_storage().data_ptr() for tensor in found}
    names = {name for name, x in model.module.named_parameters() if x.untyped_storage().data_ptr() not in seen}
    assert all(
        any(word in name for word in ("embed", "wte", "wpe", "lm_head", "tokens", "positions", "_norm.", *_MIXTURE))
        for name in names
    )
    assert all("layernorm" not in name and "attn.c" not in name for name in names)


_MIXTURE = (".experts.", ".router.", ".mlp.gate.")
"""What only a mixture of experts has, which runs as it is."""


def _modules(model: Model, layer: int) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
    """A layer's own attention norm, attention, MLP norm and MLP."""
    module: Any = model.module
    if model.family == "gpt2":
        block = module.transformer.h[layer]
        return block.ln_1, block.attn, block.ln_2, block.mlp
    if model.family in ("llama", "phi3", "granite"):
        block = module.model.layers[layer]
        return block.input_layernorm, block.self_attn, block.post_attention_layernorm, block.mlp
    if model.family == "neox":
        block = module.gpt_neox.layers[layer]
        return block.input_layernorm, block.attention, block.post_attention_layernorm, block.mlp
    if model.family == "gemma":
        block = module.model.layers[layer]
        return block.input_layernorm, block.self_attn, block.pre_feedforward_layernorm, block.mlp
    if model.family == "olmo":
        block = module.model.layers[layer]
        return nn.Identity(), block.self_attn, nn.Identity(), block.mlp
    if model.family == "twisted":
        block = module.layers[layer]
        return block.before, block, block.mlp_before, block.mlp
    block = module.blocks[layer]
    return block.attention_norm, block, block.mlp_norm, block.mlp


def _own_post_norms(model: Model, layer: int) -> tuple[nn.Module | None, nn.Module | None]:
    """A layer's own norms of what attention and MLP write."""
    module: Any = model.module
    if model.family in ("gemma", "olmo"):
        block = module.model.layers[layer]
        return block.post_attention_layernorm, block.post_feedforward_layernorm
    return (module.layers[layer].after, module.layers[layer].mlp_after) if model.family == "twisted" else (None, None)


def _own_projections(family: str, attention: Any, x: Tensor, n_heads: int) -> list[Tensor]:
    """Queries, keys and values, all heads side by side, by the user's own modules."""
    if family == "gpt2":
        return list(attention.c_attn(x).chunk(3, -1))
    if family == "neox":
        return [piece.flatten(1) for piece in attention.query_key_value(x).unflatten(-1, (n_heads, -1)).chunk(3, -1)]
    if family == "phi3":
        wide, narrow = (attention.head_dim * n for n in (n_heads, attention.num_key_value_heads))
        return list(attention.qkv_proj(x).split([wide, narrow, narrow], -1))
    if family in ("llama", "gemma", "olmo", "granite"):
        return [attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)]
    return [attention.query(x), attention.key(x), attention.value(x)]


def _own_output(family: str, attention: Any, mixed: Tensor) -> Tensor:
    name = {"gpt2": "c_proj", "neox": "dense", "plain": "output", "twisted": "output"}.get(family, "o_proj")
    return getattr(attention, name)(mixed)


@pytest.mark.parametrize("name", CONFIGURATIONS)
@torch.no_grad()
def test_every_layer_computes_what_its_modules_do(name: str):
    model = tiny(name)
    parts = model.parts
    assert len({id(layer) for layer in parts.layers}) == EXPECTED[name][1].n_layers
    for index, layer in enumerate(parts.layers):
        attention_norm, attention, mlp_norm, mlp = _modules(model, index)
        _check_norm(layer.attention.norm, attention_norm, parts.d_model)
        _check_norm(layer.mlp.norm, mlp_norm, parts.d_model)
        _check_attention(model.family, layer.attention, attention, parts.n_heads, parts.d_model)
        _check_mlp(layer.mlp, mlp, parts.d_model)
        post_norm, mlp_post_norm = _own_post_norms(model, index)
        assert (layer.attention.post_norm is None) == (post_norm is None)
        assert (layer.mlp.post_norm is None) == (mlp_post_norm is None)
        if post_norm is not None and mlp_post_norm is not None:
            _check_post_norms(model.family, layer, (attention, post_norm, mlp, mlp_post_norm))
    x = random_numbers(3, parts.d_model)
    module: Any = model.module
    expected = module.lm_head(x) if hasattr(module, "lm_head") else module.unembed(x)
    expected = (expected / 3).tanh() * 3 if name == "gemma2" else expected / 2 if name == "granite" else expected
    assert_close(parts.unembed(x), expected)


def _check_norm(norm: Norm, own: nn.Module, d_model: int) -> None:
    by = 0.3 if type(own).__name__ == "GraniteRMSNorm" else 1  # the engine's stream is Granite's own divided by this
    x = random_numbers(4, d_model) * 3 + 1
    assert_close(block.normed(norm, x), own(x * by))
    assert_close(norm.module(x), own(x * by))
    assert_close(block.normed(norm, x * 1e-3), own(x * by * 1e-3))  # where eps matters


def _check_attention(family: str, attention: Attention, own: nn.Module, n_heads: int, d_model: int) -> None:
    x = random_numbers(5, d_model)
    for heads, expected in zip(
        (attention.query, attention.key, attention.value), _own_projections(family, own, x, n_heads), strict=True
    ):
        found = torch.matmul(x, heads.weight)  # (n, N, k)
        found = found if heads.bias is None else found + heads.bias[:, None]
        assert_close(found.transpose(0, 1).flatten(1), expected)
    mixed = random_numbers(5, n_heads, attention.output.shape[1])
    found = torch.einsum("nhv,hvd->nd", mixed, attention.output_weight)
    found = found if attention.output_bias is None else found + attention.output_bias
    assert_close(found, _own_output(family, own, mixed.flatten(1)))


def _check_mlp(mlp: Mlp, own: nn.Module, d_model: int) -> None:
    x = random_numbers(5, d_model)

    found = block.write_mlp(replace(mlp, norm=Norm.none(), post_norm=None), x)
    expected = own(x[None])
    expected = expected[0] if isinstance(expected, tuple) else expected  # gpt-oss gives the routing too
    assert_close(found, expected[0])
    assert mlp.module is own
    assert_close(mlp.run_module(x), expected[0])


def _check_post_norms(family: str, layer: Layer, own: tuple[nn.Module, nn.Module, nn.Module, nn.Module]) -> None:
    """What attention and MLP write is normed as the user's modules do it: the heads' coefficients carry the scale."""
    attention, post_norm, mlp, mlp_post_norm = own
    n_heads, width, d_model = layer.attention.output.shape
    mixed = random_numbers(5, n_heads, width)  # of five tokens
    scaled = block.post_scaled(layer.attention, mixed.transpose(0, 1)).transpose(0, 1)
    assert_close(
        block.write_heads(layer.attention, scaled), post_norm(_own_output(family, attention, mixed.flatten(1)))
    )
    x = random_numbers(5, d_model)
    assert_close(block.write_mlp(replace(layer.mlp, norm=Norm.none()), x), mlp_post_norm(mlp(x)))


@pytest.mark.parametrize("name", CONFIGURATIONS)
@torch.no_grad()
def test_hidden_and_unembed_are_the_module_for_any_padding(name: str):
    model = tiny(name)
    prompts = draw_prompts((5, 3))
    ids = torch.zeros(2, 5, dtype=torch.long)
    real = torch.zeros(2, 5, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt.clean)] = prompt.clean
        real[row, : len(prompt.clean)] = True
    hidden = model.parts.hidden(ids, real, torch.arange(5).expand(2, -1))
    assert_close(model.parts.unembed(hidden[[0, 0, 1], [4, 2, 2]]), own_logits(model, prompts))


def test_the_norms_eps_counts():
    """The test above would hold nothing if the norms of the tiny models were tiny models' defaults of 0."""
    for name in CONFIGURATIONS:
        norm = tiny(name).parts.final_norm
        assert (norm.eps > 0) == (norm.kind != "none")


@pytest.mark.parametrize("name", ["gpt2", "llama-biases", "neox-parallel", "plain"])
def test_repeated_heads(name: str):
    heads = tiny(name).parts.layers[0].attention.key
    assert heads.repeated(1) is heads
    twice = heads.repeated(2)
    assert twice.bias is not None and heads.bias is not None
    for i in range(2 * len(heads.weight)):
        assert torch.equal(twice.weight[i], heads.weight[i // 2]) and torch.equal(twice.bias[i], heads.bias[i // 2])
